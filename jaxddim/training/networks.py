"""Networks of any library, in the form that training takes.

Sampling takes any function ``network(x, index) -> output``. Training also draws weights, updates
running statistics and drops units at random, and asks for them as Flax's Linen does:

    variables = init(key, x, index)
    output, updates = apply(variables, x, index, train=True, mutable=[..], rngs={"dropout": key})

`own_network` gives this form to two pure functions, which every library can state.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxddim import checks

STATS = "batch_stats"


class OwnNetwork(NamedTuple):
    """A network for `create_state`, and its apply for `train_step` and for sampling.

    Attributes:
      init: ``init(key, x, index) -> variables``.
      apply: ``apply(variables, x, index) -> output``, and in training ``apply(variables, x, index,
        train=True, mutable=["batch_stats"], rngs={"dropout": key}) -> (output, updates)``.
    """

    init: Callable[..., dict[str, Any]]
    apply: Callable[..., Any]


def own_network(
    init: Callable[[jax.Array], tuple[Any, Any]], call: Callable[..., tuple[jax.Array, Any]]
) -> OwnNetwork:
    """Turns two pure functions into a network that can be trained.

    Args:
      init: ``init(key) -> (params, stats)``: weights, and what is updated without a gradient, such
        as BatchNorm's running statistics; any pytrees of arrays, and {} for none.
      call: ``call(params, stats, x, index, key) -> (output, stats)`` on a batch; key is None at
        inference, and else the random key for dropout. With labels it also gets ``label=``.
    Returns:
      An OwnNetwork.
    Raises:
      ValueError: when init or call takes other arguments; at the first call, when one returns no
        such pair, params that are no float arrays, stats of another form than it was given, or an
        output that has neither the shape of x nor twice its channels.
    Example:
      >>> import jax.numpy as jnp, optax, jaxddim
      >>> def init(key):
      ...     return {"scale": jax.random.normal(key, (2,))}, {}
      >>> def call(params, stats, x, index, key):
      ...     return params["scale"] * x, stats
      >>> network = own_network(init, call)
      >>> state = jaxddim.create_state(jax.random.key(0), network, optax.adam(1e-3), (2,))
      >>> network.apply(jaxddim.variables(state), jnp.ones((4, 2)), jnp.zeros(4, int)).shape
      (4, 2)
    """

    for function, number, form in (
        (init, 1, "init(key) -> (params, stats)"),
        (call, 5, "call(params, stats, x, index, key) -> (output, stats)"),
    ):
        if not checks.takes(function, number):
            raise ValueError(
                f"own_network takes {form}, got {checks.shown(function)}"
                + (": init comes first, then call" if checks.takes(init, 5) else "")
            )

    def variables(key: jax.Array, x: jax.Array, index: jax.Array) -> dict[str, Any]:
        del x, index
        params, stats = _pair(init(key), "init(key) must return (params, stats)")
        _check_params(params)
        return {"params": params, STATS: stats}

    def apply(
        variables: Any,
        x: jax.Array,
        index: jax.Array,
        *,
        train: bool = False,
        mutable: Any = False,
        rngs: Any = None,
        **label: Any,
    ) -> Any:
        if label and not checks.takes(call, 5, **label):
            raise ValueError(
                f"there are labels, so call must take label=, got {checks.shown(call)}"
            )
        key = rngs["dropout"] if train and rngs else None
        found = call(variables["params"], variables[STATS], x, index, key, **label)
        output, stats = _pair(found, "call(params, stats, x, ..) must return (output, stats)")
        twice = (*x.shape[:-1], 2 * x.shape[-1])  # the second half for a variance
        checks.output(output, twice if getattr(output, "shape", ()) == twice else x.shape)
        before, after = checks.form(variables[STATS]), checks.form(stats)
        if before != after:
            raise ValueError(
                "call must return stats of the structure, shapes and types that it is given: "
                f"{before}, got {after}"
            )
        return (output, {STATS: stats}) if mutable else output

    return OwnNetwork(variables, apply)


def _check_params(params: Any) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, jnp.inexact):
            name = jax.tree_util.keystr(path)
            raise ValueError(
                f"params must hold float arrays alone, as they get gradients, but params{name} is "
                f"{checks.described(leaf)}: keep the rest outside of them (of an Equinox module "
                "eqx.filter(module, eqx.is_inexact_array) takes the arrays)"
            )


def _pair(found: Any, expected: str) -> tuple[Any, Any]:
    if not isinstance(found, tuple) or len(found) != 2:
        raise ValueError(f"{expected}, with {{}} for no stats, got {checks.described(found)}")
    return found
