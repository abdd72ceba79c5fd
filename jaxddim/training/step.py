"""Training: one pure step, compiled by jax.jit on one device or a mesh of several, or by jax.pmap.

A step draws a time t and a noise eps for every image, evaluates the network at
``x_t = alpha_t x_0 + sigma_t eps``, and updates the parameters with the gradient of
`diffusion_loss`. All randomness comes from ``fold_in(key(seed), state.step)`` (and
from the device's index under jax.pmap). No key is stored: training from a
restored state continues as if it had not been interrupted.

The averaged parameters are updated by ``ema = d ema + (1 - d) params``, where
``d = min(decay, (1 + n) / (10 + n))`` after n steps, so that the average of a short run
is not its random initialisation. BatchNorm statistics are averaged in the same way.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from jaxddim import checks
from jaxddim.cpu.spread import sum_all
from jaxddim.forward import q_sample
from jaxddim.numerics import images, number
from jaxddim.predictions import check_kind
from jaxddim.schedules import Schedule
from jaxddim.training import averages, levels
from jaxddim.training.hybrid import hybrid_loss
from jaxddim.training.losses import Norm, Weighting, diffusion_loss
from jaxddim.training.state import EMA, TrainState, check_optimizer
from jaxddim.types import Kind

ApplyFn = Callable[..., Any]
"""``apply(variables, x, index, *, train, mutable, rngs) -> (output, updates)``, as Flax's."""


LABELS = 2**31 - 1
"""Folded into the key of a step for the labels that are dropped; far from its other keys."""


def train_step(
    state: TrainState,
    batch: jax.Array | Mapping[str, jax.Array],
    *,
    apply_fn: ApplyFn,
    tx: optax.GradientTransformation,
    schedule: Schedule,
    seed: int = 0,
    ema: float = 0.9999,
    kind: Kind = "eps",
    norm: Norm = "l2",
    weighting: Weighting | None = None,
    times: ArrayLike | None = None,
    vlb: float | None = None,
    accumulate: int = 1,
    null_label: int | None = None,
    label_dropout: float = 0.1,
    axis_name: str | None = None,
    mesh: Mesh | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One pure training step, to be compiled by `jit_step` or `pmap_step`.

    Args:
      state: the current state.
      batch: images in [-1, 1], [b, *d]; or a dict with these as "image" and class labels, int32
        [b], as "label".
      apply_fn: the network's ``apply``, called as ``apply_fn(variables, x_t, t - 1, train=True,
        mutable=["batch_stats"], rngs={"dropout": key})`` and with ``label=`` when there are labels;
        it returns (output, updates). (This is not the function of (x, index) that `as_denoiser`
        takes; for networks that are no Flax modules see `own_network`.)
      tx: the optimizer; it gets the gradient of the *mean* loss, and the loss as ``value``.
      schedule: the noise schedule.
      seed: seed of t, eps and dropout.
      ema: decay of the running average after its warm-up, in [0, 1); may be traced.
      kind: what the network predicts.
      norm: "l1", "l2" or "huber".
      weighting: None, or a function of log_snr.
      times: probabilities of t = 1..T, [T], as `lognormal` returns; None for equal ones.
      vlb: for a network with twice the channels, which predicts its variance: lambda of
        `hybrid_loss`, such as 0.001. The bound's terms are weighted as the times are drawn.
      accumulate: number of parts that the batch is split into; their gradients are averaged.
      null_label: the class of no class, num_classes for the networks of `jaxddim.models`; with it
        the network learns to do without a label too, as guidance needs.
      label_dropout: how likely a label is replaced by that.
      axis_name: the axis of a surrounding pmap or vmap over which gradients are averaged.
      mesh: the devices that the batch is split over, as `jit_step` passes it: so are then the parts
        of accumulate.
    Returns:
      The next state, and metrics: float32 scalars "loss" and "grad_norm" (before clipping).
    Raises:
      ValueError: for an unknown kind or norm, an eps-network on a schedule with zero terminal
        SNR, an ema or a label_dropout outside [0, 1), images that hold integers, a batch that
        does not divide into accumulate parts, times that are no probabilities of 1..T, an apply_fn
        of another form, or an output that does not have the shape of the images.
    Source: arXiv 2006.11239, algorithm 1.
    Example:
      >>> import jaxddim, jaxddim.models
      >>> model, tx = jaxddim.models.MLP(features=(8,)), optax.adam(1e-3)
      >>> state = jaxddim.create_state(jax.random.key(0), model, tx, (2,))
      >>> step = jaxddim.jit_step(functools.partial(
      ...     train_step, apply_fn=model.apply, tx=tx, schedule=jaxddim.linear()))
      >>> state, metrics = step(state, jnp.ones((4, 2)))
      >>> int(state.step), sorted(metrics)
      (1, ['grad_norm', 'loss'])
    """
    checks.schedule(schedule)
    check_kind(kind, schedule)
    check_optimizer(tx)
    if not isinstance(state, TrainState):
        raise ValueError(
            "train_step takes (state, batch), with a TrainState as create_state makes it, got "
            f"{checks.described(state)}"
        )
    ema = number(ema, "ema", "lie in [0, 1)", lambda ema: (ema >= 0) & (ema < 1))
    if not 0 <= label_dropout < 1:
        raise ValueError(f"label_dropout must lie in [0, 1), got {label_dropout}")
    x0, labels = _parts(batch)
    if accumulate < 1 or x0.shape[0] % accumulate:
        raise ValueError(f"a batch of {x0.shape[0]} does not divide into {accumulate} equal parts")

    _check_apply(apply_fn, {} if labels is None else {"label": labels})
    key = jax.random.fold_in(checks.new_key(seed), state.step)
    if axis_name is not None:
        key = jax.random.fold_in(key, lax.axis_index(axis_name))
    t_key, eps_key, dropout_key = jax.random.split(key, 3)
    if times is None:
        t = jax.random.randint(t_key, x0.shape[:1], 1, schedule.num_steps + 1, jnp.int32)
    else:
        levels.check(times, schedule.num_steps)
        t = levels.draw(t_key, times, x0.shape[0])
    eps = jax.random.normal(eps_key, x0.shape, jnp.float32)
    if labels is not None and null_label is not None:
        dropped = jax.random.bernoulli(jax.random.fold_in(key, LABELS), label_dropout, labels.shape)
        labels = jnp.where(dropped, null_label, labels)

    def loss_fn(params, stats, x0, t, eps, labels, dropout_key):
        found = apply_fn(
            {"params": params, **stats},
            q_sample(schedule, x0, t, eps),
            t - 1,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
            **({} if labels is None else {"label": labels}),
        )
        output, stats = _answer(found, stats, x0.shape, learned=vlb is not None)
        options = {"kind": kind, "norm": norm, "weighting": weighting}
        if vlb is None:
            loss = diffusion_loss(schedule, output, x0, t, eps, **options)
        else:
            loss = hybrid_loss(schedule, output, x0, t, eps, vlb=vlb, **options)
        return jnp.mean(loss, dtype=jnp.float32), stats

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    stats = {k: v for k, v in state.model_state.items() if not k.startswith(EMA)}
    if accumulate == 1:
        (loss, stats), grads = grad_fn(state.params, stats, x0, t, eps, labels, dropout_key)
    else:
        parts = jax.tree.map(
            lambda a: a.reshape(accumulate, -1, *a.shape[1:]), (x0, t, eps, labels)
        )
        if mesh is not None:
            rows = NamedSharding(mesh, PartitionSpec(None, mesh.axis_names[0]))
            parts = lax.with_sharding_constraint(parts, rows)
        keys = jax.random.split(dropout_key, accumulate)

        def add(carry, part):
            total, stats = carry
            (loss, stats), grads = grad_fn(state.params, stats, *part[0], part[1])
            return (jax.tree.map(jnp.add, total, (loss, grads)), stats), None

        zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, state.params))
        (total, stats), _ = lax.scan(add, (zero, stats), (parts, keys))
        loss, grads = jax.tree.map(lambda a: a / accumulate, total)
    if axis_name is not None:
        loss, grads, stats = lax.pmean((loss, grads, stats), axis_name)

    # some optimizers want the loss, such as optax.contrib.reduce_on_plateau
    update = optax.with_extra_args_support(tx).update
    updates, opt_state = update(grads, state.opt_state, state.params, value=loss)
    params = optax.apply_updates(state.params, updates)
    n = state.step.astype(jnp.float32)
    decay = jnp.minimum(ema, (1 + n) / (10 + n))

    def mean(old: jax.Array, new: jax.Array) -> jax.Array:
        if not jnp.issubdtype(new.dtype, jnp.inexact):
            return new  # counters are not averaged
        return (decay * old + (1 - decay) * new).astype(old.dtype)

    average = functools.partial(jax.tree.map, mean)
    averaged = {EMA + k: average(state.model_state[EMA + k], v) for k, v in stats.items()}
    state = TrainState(
        step=state.step + 1,
        params=params,
        model_state=stats | averaged,
        ema_params=average(state.ema_params, params),
        opt_state=opt_state,
        averages=averages.updated(state.averages, params, state.step + 1),
    )
    return state, {"loss": loss, "grad_norm": _norm(grads)}


def _parts(batch: Any) -> tuple[jax.Array, jax.Array | None]:
    """The images of a batch as float32, and its labels; a ValueError for anything else."""
    expected = (
        "a batch must be images [b, *d], or a dict of these as 'image' and class labels, int32 [b],"
        " as 'label'"
    )
    if isinstance(batch, Mapping):
        if not {"image"} <= set(batch) <= {"image", "label"}:
            raise ValueError(f"{expected}, got a dict of {', '.join(map(repr, batch))}")
        batch, labels = batch["image"], batch.get("label")
    else:
        labels = None
    if not hasattr(batch, "shape"):
        raise ValueError(f"{expected}, got {checks.described(batch)}")
    (x0,) = images(jnp.float32, batch=batch)
    if labels is None:
        return x0, None
    checks.whole(labels, "the batch's label")
    if jnp.shape(labels) != x0.shape[:1]:
        raise ValueError(f"{expected}, got images {list(x0.shape)}, labels {list(labels.shape)}")
    return x0, jnp.asarray(labels)


def _check_apply(apply_fn: ApplyFn, label: dict[str, Any]) -> None:
    """Raises a ValueError unless apply_fn can be called as Flax's apply is."""
    try:
        signature = inspect.signature(apply_fn)
    except (TypeError, ValueError):  # no function, or one without a signature
        if callable(apply_fn):
            return
        signature = inspect.signature(lambda: None)
    try:
        signature.bind({}, None, None, train=True, mutable=[], rngs={}, **label)
    except TypeError as error:
        raise ValueError(
            "apply_fn must take (variables, x, index, *, train, mutable, rngs), and label where "
            f"there are labels, as a Flax module's apply does ({error}): for a function, an NNX or "
            "an Equinox module pass own_network(init, call).apply"
        ) from None


def _answer(
    found: Any, stats: dict[str, Any], shape: tuple[int, ...], *, learned: bool
) -> tuple[jax.Array, Any]:
    """What apply_fn returned, checked: the output and the updated collections."""
    if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[1], Mapping):
        raise ValueError(
            "apply_fn must return (output, updates) in training, where mutable=['batch_stats'] is "
            f"passed, with {{}} for no updates, got {checks.described(found)}"
        )
    output, updates = found
    checks.output(output, (*shape[:-1], shape[-1] * (1 + learned)))
    if set(updates) != set(stats):
        raise ValueError(
            f"apply_fn updates the collections {sorted(updates)}, but the TrainState's model_state "
            f"holds {sorted(stats)}: make the state with create_state, or give model_state each of "
            f"them, and its average under the same name with {EMA} in front"
        )
    return output, dict(updates)


def _norm(tree: Any) -> jax.Array:
    """The Euclidean norm."""
    squares = (sum_all(jnp.square(a.astype(jnp.float32))) for a in jax.tree.leaves(tree))
    return jnp.sqrt(sum(squares, jnp.float32(0))).astype(jnp.float32)
