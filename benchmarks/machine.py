"""The machine and the software versions of a measurement."""

import importlib.metadata
import importlib.util
import os
import platform
import re
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "diffusers")


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def describe() -> dict[str, Any]:
    """The machine and the versions; loads JAX, so call it in a separate process."""
    import jax

    import jaxddim

    device = jax.devices()[0]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = {
        "CPU": _cpu(),
        "cores": f"{len(os.sched_getaffinity(0))}",
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
    }
    if device.platform != "cpu":
        machine["device"] = device.device_kind
    versions = {"Python": platform.python_version(), "jaxddim": jaxddim.__version__}
    versions |= {name: importlib.metadata.version(name) for name in PACKAGES if installed(name)}
    return {"backend": device.platform, "machine": machine, "versions": versions}


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(re.findall(r"^(.*?)\s*: (.*)$", text, re.MULTILINE))
    name = fields.get("model name", platform.machine())
    vectors = [v for v in ("avx2", "avx512f") if v in fields.get("flags", "").split()]
    model = [f"{key} {fields[key]}" for key in ("cpu family", "model") if key in fields]
    return f"{name} ({', '.join([*model, *vectors])})"
