"""Convolutions and sums over pixels, and their lowerings."""

import functools
import re
from unittest import mock

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxddim.cpu import forms
from jaxddim.cpu.conv import conv
from jaxddim.cpu.spread import spread, total
from jaxddim.models import SimpleUNet, UNet
from jaxddim.models.layers import Conv, ConvTranspose, Dense

ONE = ((1, 1), (1, 1))
LAYERS = [  # image, kernel, strides, padding, transposed, expected form
    ((2, 5, 3, 4), (1, 1, 4, 6), (1, 1), "SAME", False, "pointwise"),
    ((2, 5, 3, 4), (1, 1, 4, 6), (2, 2), "SAME", False, "direct"),
    ((4, 16, 16, 18), (3, 3, 18, 20), (1, 1), "SAME", False, "winograd"),
    ((4, 4, 64, 40), (3, 3, 40, 20), (1, 1), ONE, False, "winograd"),
    ((1, 32, 32, 32), (3, 3, 32, 2176), (1, 1), ONE, False, "winograd"),
    ((1, 32, 32, 2176), (3, 3, 2176, 32), (1, 1), ONE, False, "winograd"),
    ((1, 16, 32, 149), (3, 3, 149, 512), (1, 1), ONE, False, "space_to_depth"),
    ((2, 16, 16, 160), (3, 3, 160, 512), (1, 1), ONE, False, "columns"),
    ((2, 15, 64, 40), (3, 3, 40, 20), (1, 1), ONE, False, "direct"),
    ((2, 8, 8, 3), (3, 3, 3, 5), (1, 1), "SAME", False, "direct"),
    ((1, 4, 4, 3), (3, 3, 3, 64), (1, 1), "SAME", False, "columns"),
    ((1, 4, 6, 3), (4, 4, 3, 64), (2, 2), ONE, False, "columns"),
    ((1, 7, 5, 3), (3, 3, 3, 64), (2, 2), ((0, 1), (0, 1)), False, "columns"),
    ((1, 6, 6, 2), (3, 2, 2, 40), (3, 2), "VALID", False, "columns"),
    ((1, 1, 1, 4), (3, 3, 4, 6), (1, 1), "SAME", False, "columns"),
    ((2, 1, 1, 4), (3, 3, 4, 1), (1, 1), "SAME", False, "direct"),
    ((3, 8, 6, 3), (4, 4, 3, 4), (2, 2), ONE, False, "space_to_depth"),
    ((2, 6, 6, 2), (3, 2, 2, 3), (3, 2), "VALID", False, "space_to_depth"),
    ((2, 8, 8, 3), (3, 3, 3, 4), (2, 2), ((0, 1), (0, 1)), False, "direct"),
    ((2, 9, 6, 2), (3, 3, 2, 3), (1, 1), ((2, 0), (0, 3)), False, "direct"),
    ((2, 4, 3, 4), (4, 4, 4, 6), (2, 2), "SAME", True, "phases"),
    ((1, 1, 2, 2), (4, 4, 2, 3), (2, 2), "SAME", True, "phases"),
    ((1, 1, 1, 4), (4, 4, 4, 6), (2, 2), "SAME", True, "taps"),
    ((1, 3, 5, 16), (4, 4, 16, 12), (2, 2), "SAME", True, "taps"),
    ((2, 4, 3, 4), (3, 3, 4, 6), (2, 2), "SAME", True, "direct"),
]


def plain(x, kernel, strides, padding, transposed):
    function = lax.conv_transpose if transposed else lax.conv_general_dilated
    layout = ("NHWC", "HWIO", "NHWC")
    return function(x, kernel, strides, padding, dimension_numbers=layout)


def draw(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def form_name(layer):
    form = forms.choose(layer)
    if form.forward is not forms.direct:
        return form.forward.__name__.strip("_")
    if form.kernel_gradient is not None:
        return "columns"
    return "direct" if form.input_gradient is None else "space_to_depth"


@pytest.mark.parametrize(("image", "kernel", "strides", "padding", "transposed", "form"), LAYERS)
def test_every_form_is_the_convolution(image, kernel, strides, padding, transposed, form):
    layer = forms.Layer(image, kernel, strides, padding, transposed, precise=True)
    assert form_name(layer) == form
    x, k, y = draw(image, kernel, layer.y)
    k = k / np.sqrt(np.prod(kernel[:3]))  # the sine below amplifies errors in large sums

    def everything(function, x, k, y):
        def f(x, k):
            return function(x, k, strides, padding, transposed)

        def energy_slope(x, k):
            return jnp.sum(jax.grad(lambda x: jnp.sum(jnp.sin(f(x, k))))(x) ** 2)

        value, pull = jax.vjp(f, x, k)
        tangent = jax.jvp(f, (x, k), (0.5 * x, 2 * k))[1]
        return value, pull(y), tangent, jax.grad(energy_slope, (0, 1))(x, k)

    actual, expected = (jax.jit(functools.partial(everything, f))(x, k, y) for f in (conv, plain))
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, atol=1e-4 * float(jnp.abs(e).max()))


@pytest.mark.parametrize(("image", "kernel", "strides", "padding", "transposed", "form"), LAYERS)
def test_the_error_of_every_form_is_at_most_ten_times_the_direct_ones(
    image, kernel, strides, padding, transposed, form
):
    x, k = draw(image, kernel)
    y = draw(plain(x, k, strides, padding, transposed).shape)[0]

    def results(function, x, k, y):
        value, pull = jax.vjp(lambda x, k: function(x, k, strides, padding, transposed), x, k)
        return value, *pull(y)

    with jax.enable_x64(True):
        exact = results(plain, *(jnp.asarray(np.asarray(a, np.float64)) for a in (x, k, y)))
        exact = [np.asarray(a) for a in exact]
    for ours, direct, true in zip(
        results(conv, x, k, y), results(plain, x, k, y), exact, strict=True
    ):
        rms = [np.sqrt(np.mean((np.asarray(a, np.float64) - true) ** 2)) for a in (ours, direct)]
        floor = 2e-8 * np.sqrt(np.mean(true**2))  # a product of two numbers may be exact
        assert rms[0] <= 10 * max(rms[1], floor), form


def test_gradients_against_finite_differences_in_float64():
    with jax.enable_x64(True):
        for image, kernel, *rest, _ in LAYERS[:: len(LAYERS) // 6]:
            rng = np.random.default_rng(1)
            x, k, dx, dk = (jnp.asarray(rng.standard_normal(s)) for s in (image, kernel) * 2)

            def f(x, k, rest=rest):
                return jnp.sum(jnp.sin(conv(x, k, *rest)))

            slope = jnp.vdot(jax.grad(f, 0)(x, k), dx) + jnp.vdot(jax.grad(f, 1)(x, k), dk)
            h = 1e-5
            difference = (f(x + h * dx, k + h * dk) - f(x - h * dx, k - h * dk)) / (2 * h)
            np.testing.assert_allclose(slope, difference, rtol=1e-6)


def test_vmap_over_images_kernels_and_both():
    x, k = draw((3, 2, 8, 8, 20), (3, 3, 3, 20, 20))
    for axes in ((0, None), (None, 0), (0, 0)):
        a, b = (v if axis == 0 else v[0] for v, axis in zip((x, k), axes, strict=True))

        def value_and_slopes(function, x, k):
            y, pull = jax.vjp(lambda x, k: function(x, k, (1, 1), "SAME", False), x, k)
            return y, pull(y)

        mapped = [jax.vmap(functools.partial(value_and_slopes, f), axes) for f in (conv, plain)]
        chex.assert_trees_all_close(mapped[0](a, b), mapped[1](a, b), rtol=1e-4, atol=1e-2)


def test_inside_scan_remat_and_without_jit():
    x, k = draw((4, 16, 16, 20), (3, 3, 20, 20))
    k = k / 20

    def twice(function, x, k):
        step = jax.checkpoint(lambda x, _: (function(x, k, (1, 1), "SAME", False), None))
        return jnp.sum(lax.scan(step, x, None, length=2)[0] ** 2)

    slopes = [jax.jit(jax.grad(functools.partial(twice, f), (0, 1)))(x, k) for f in (conv, plain)]
    chex.assert_trees_all_close(*slopes, rtol=1e-4, atol=1e-3)
    chex.assert_trees_all_close(conv(x, k), plain(x, k, (1, 1), "SAME", False), atol=1e-4)


@pytest.mark.parametrize("ours", [Conv, ConvTranspose])
def test_modules_are_flaxs(ours):
    flax = {Conv: nn.Conv, ConvTranspose: nn.ConvTranspose}[ours]
    (x,) = draw((2, 4, 6, 3))
    for kernel, strides, padding in (((3, 3), 1, "SAME"), ((4, 4), 2, "SAME"), (3, 1, "VALID")):
        window = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        theirs = flax(5, window, (strides, strides), padding)
        module = ours(5, kernel, strides, padding)
        variables = theirs.init(jax.random.key(0), x)
        chex.assert_trees_all_equal_shapes(variables, module.init(jax.random.key(0), x))
        variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)
        expected = theirs.apply(variables, x)
        np.testing.assert_allclose(module.apply(variables, x), expected, atol=1e-5)
    dense = nn.Dense(5)
    variables = dense.init(jax.random.key(0), x)
    np.testing.assert_allclose(
        Dense(5).apply(variables, x), dense.apply(variables, x), rtol=1e-5, atol=1e-6
    )


def test_total_and_spread_are_each_others_transpose():
    x, v = draw((3, 4, 5, 6), (3, 6))
    np.testing.assert_allclose(total(x), x.sum((1, 2)), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(spread(v, 4, 5)[:, 2, 3], v)
    np.testing.assert_allclose(jnp.vdot(total(x), v), jnp.vdot(x, spread(v, 4, 5)), rtol=1e-5)
    _, pull = jax.vjp(total, x)
    np.testing.assert_array_equal(pull(v)[0], spread(v, 4, 5))
    np.testing.assert_allclose(jax.vmap(total)(x[None])[0], total(x), rtol=1e-5, atol=1e-5)
    many = jnp.ones((1, 64, 64, 2), jnp.bfloat16)  # a sum in bfloat16 would stop at 256
    assert total(many).dtype == jnp.bfloat16 and float(total(many)[0, 0]) == 4096


NETWORKS = [
    (SimpleUNet(channels=(16, 32, 64)), (4, 16, 16, 3)),
    (UNet(channels=32, multipliers=(1, 2), num_blocks=1, attention=(8,)), (4, 16, 16, 3)),
]


def lowered(model, shape):
    """The StableHLO of a forward pass and its gradients, for CUDA and for TPU."""
    x, index = jnp.zeros(shape), jnp.zeros(shape[:1], jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x, index)

    def loss(variables, x, index):
        output = model.apply(variables, x, index, train=True, mutable=["batch_stats"], rngs=rngs)
        return jnp.mean(output[0] ** 2)

    rngs = {"dropout": jax.random.key(0)}
    traced = jax.jit(jax.grad(loss)).trace(variables, x, index)
    return [traced.lower(lowering_platforms=(name,)).as_text() for name in ("cuda", "tpu")]


@pytest.mark.parametrize(("model", "shape"), NETWORKS)
def test_the_fast_path_changes_nothing_for_gpu_and_tpu(model, shape):
    with_it = lowered(model, shape)
    with mock.patch.object(forms, "FORMS", (forms.PLAIN,)):
        jax.clear_caches()
        without = lowered(model, shape)
    assert with_it == without
    assert not any("stablehlo.case" in text for text in with_it)

    def xla(x, kernel, strides=(1, 1), padding="SAME", transposed=False):
        return plain(x, kernel, strides, padding, transposed)

    with mock.patch("jaxddim.models.layers.conv", xla):  # nothing of ours in between
        jax.clear_caches()
        plainest = lowered(model, shape)
    for pair in zip(with_it, plainest, strict=True):
        operations = [
            sorted(re.findall(r"stablehlo\.convolution.*", re.sub(r"%\w+", "%", text)))
            for text in pair
        ]
        assert operations[0] == operations[1] and len(operations[0]) > 10


@pytest.mark.slow  # compiles a network three times
def test_equal_layers_are_lowered_once():
    def two(x, k):
        return conv(conv(x, k), k + 1)

    x, k = jnp.ones([2, 8, 8, 4]), jnp.ones([3, 3, 4, 4])
    program = jax.jit(two).lower(x, k).as_text()
    assert program.count("func.func private @conv") == 1
    assert program.count("call @conv") == 2


def test_one_export_serves_cpu_and_gpu():
    model, shape = NETWORKS[0]
    x, index = jnp.zeros(shape), jnp.zeros(shape[:1], jnp.int32)
    variables, apply = jax.jit(model.init)(jax.random.key(0), x, index), jax.jit(model.apply)
    exported = jax.export.export(apply, platforms=["cpu", "cuda"])
    output = exported(variables, x, index).call(variables, x, index)
    np.testing.assert_allclose(output, apply(variables, x, index), atol=1e-5)
