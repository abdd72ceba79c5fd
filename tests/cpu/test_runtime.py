"""Options for jax.jit that this jaxlib still needs, and memory that the process keeps."""

import ctypes
import json
import statistics
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import jaxddim
from jaxddim.cpu import runtime
from tests import tiny


def test_compiler_options_are_accepted_here():
    options = jaxddim.compiler_options()
    assert float(jax.jit(lambda x: 2 * x, compiler_options=options)(1.0)) == 2


def test_an_option_that_this_jaxlib_does_not_know_is_left_out_and_the_others_stay(monkeypatch):
    known = jaxddim.compiler_options()
    monkeypatch.setattr(runtime, "_OPTIONS", runtime._OPTIONS | {"xla_cpu_no_such_option": 1})
    assert runtime.compiler_options.__wrapped__() == known


def test_this_jaxlib_still_needs_the_option():
    """If this fails, `compiler_options` may no longer be needed: time it without."""

    def compiled_text(options):
        x, k = jnp.ones([8, 32, 32, 64]), jnp.ones([3, 3, 64, 64])
        conv = jax.jit(
            lambda x, k: jax.lax.conv_general_dilated(
                x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            ),
            compiler_options=options,
        )
        return conv.lower(x, k).compile().as_text()

    assert "ynn_fusion" in compiled_text({}), "XLA no longer hands convolutions to YNNPACK"
    assert "ynn_fusion" not in compiled_text(jaxddim.compiler_options())


PAGES = """
import functools, json, resource, sys
import jax, jax.numpy as jnp
import jaxddim
if sys.argv[1] == "keep":
    jaxddim.keep_memory()
a, k = jnp.ones([16384, 256]), jnp.zeros([256, 256])  # each layer stores 16 MiB
network = lambda k: functools.reduce(lambda h, _: jnp.tanh(h @ k), range(8), a)
f = jax.jit(jax.grad(lambda k: jnp.sum(network(k))))
pages = []
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    f(k).block_until_ready()
    pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(json.dumps(pages))
"""


LEFT = """
import json, sys
import jax
import jaxddim
jaxddim.keep_memory()
pages = lambda: int(open("/proc/self/statm").read().split()[1])
events = []
jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: events.append(event))
jax.jit(lambda x: 2 * x).lower(1.0).compile()
blocks = [bytes(4096) for _ in range(50_000)]
last = bytes(4096)
full = pages()
del blocks
freed = pages()
jax.monitoring.record_event_duration_secs(sys.argv[1], float(sys.argv[2]))
print(json.dumps([sys.argv[1] in events, full, freed, pages()]))
"""

needs_glibc = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="keep_memory needs glibc",
)


@needs_glibc
@pytest.mark.parametrize(("seconds", "returned"), [(2, True), (0.5, False)])
def test_what_a_long_compilation_left_is_returned(seconds, returned):
    command = [sys.executable, "-c", LEFT, runtime._COMPILED, str(seconds)]
    process = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=tiny.REPOSITORY
    )
    known, full, freed, now = json.loads(process.stdout)
    assert known
    assert full - freed < 10_000
    assert (freed - now > 40_000) == returned


@needs_glibc
def test_kept_memory_is_not_asked_for_again():
    def last_calls(argument):
        process = subprocess.run(
            [sys.executable, "-c", PAGES, argument],
            capture_output=True,
            text=True,
            check=True,
            cwd=tiny.REPOSITORY,
        )
        return json.loads(process.stdout)[-5:]

    assert statistics.median(last_calls("")) > 20_000
    assert statistics.median(last_calls("keep")) < 1_000


def test_keeping_memory_is_refused_when_it_comes_too_late():
    jax.devices()
    with pytest.raises(RuntimeError, match=r"too late.*before anything that makes an array"):
        runtime.keep_memory.__wrapped__()


def test_keeping_memory_twice_is_once():
    code = "import jax, jaxddim\njaxddim.keep_memory()\njax.devices()\njaxddim.keep_memory()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tiny.REPOSITORY)
