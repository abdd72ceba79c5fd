"""python -m benchmarks.studies.guidance --workdir RUN [--out docs/guidance]: what guidance does.

For a run that has learned labels: as many images of each class at each strength of guidance, how
often a classifier agrees with the label, and how far the images are from the training images. The
classifier is a logistic regression on EfficientNet-Lite0's features of the run's training images
and their labels; how often it is right on held-out images is printed beside. Writes grid.png (a
row a class, a block of columns a strength), table.md and results.json.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.evaluation import kid
from experiments.evaluation.features import loading, networks
from experiments.evaluation.frechet import frechet, statistics
from experiments.evaluation.images import splits
from experiments.evaluation.references import reference
from experiments.terminal import checks, cli, pictures
from experiments.terminal.errors import UserError
from experiments.terminal.files import located, save_json, save_text
from experiments.terminal.progress import stage
from jaxddim.runs.opened import load_run

DECAY, ITERATIONS = 1e-2, 200
"""Of the logistic regression: weight decay, and iterations of L-BFGS."""
COLUMNS = 4
"""Images of a class at a strength in the grid."""


@dataclass(frozen=True)
class GuidanceConfig:
    """Measure what guidance does to a run that has learned labels."""

    workdir: str = ""
    """Folder of a trained run."""
    out: str = "docs/guidance"
    """Folder for the picture, the table and the numbers."""
    num: int = 64
    """Images of each class at each strength."""
    guidance: tuple[float, ...] = (1.0, 2.0, 4.0)
    """Strengths."""
    steps: int = 50
    """DDIM steps."""
    seed: int = 0
    """Seed of the noise, the same for each strength."""


def classifier(features: np.ndarray, labels: np.ndarray, classes: int) -> Any:
    """``predict(features) -> int [n]``: a logistic regression, fitted to these.

    Args:
      features: float32 [n, dims].
      labels: int [n], in 0..classes-1.
      classes: number of classes.
    """
    mean, std = features.mean(0), features.std(0) + 1e-6

    def logits(weights: Any, features: Any) -> jax.Array:
        return (features - mean) / std @ weights["kernel"] + weights["bias"]

    def loss(weights: Any) -> jax.Array:
        fit = optax.softmax_cross_entropy_with_integer_labels(logits(weights, features), labels)
        return jnp.mean(fit) + DECAY / 2 * jnp.sum(weights["kernel"] ** 2)

    tx = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    @jax.jit
    def fitted() -> Any:
        weights = {"kernel": jnp.zeros((features.shape[1], classes)), "bias": jnp.zeros(classes)}

        def step(_: int, carry: Any) -> Any:
            weights, state = carry
            value, grad = value_and_grad(weights, state=state)
            updates, state = tx.update(grad, state, weights, value=value, grad=grad, value_fn=loss)
            return optax.apply_updates(weights, updates), state

        return jax.lax.fori_loop(0, ITERATIONS, step, (weights, tx.init(weights)))[0]

    weights = fitted()
    return lambda features: np.asarray(jnp.argmax(logits(weights, features), -1))


def measure(config: GuidanceConfig) -> None:
    """Draws, measures, and writes the files."""
    checks.check_numbers(config, "num", "steps")
    if config.num < COLUMNS:
        raise UserError(f"--num must be at least {COLUMNS}, got {config.num}")
    if not config.guidance:
        raise UserError("--guidance is empty; expected strengths such as 1 2 4")
    out = located(config.out)
    checks.make_folder(out)
    run = load_run(config.workdir)
    if run.classes is None:
        raise UserError(f"{config.workdir} has not learned labels: train a run with --model.labels")
    names, network = run.classes.names, loading.load("efficientnet-lite0")
    data = splits(config.workdir)
    train, holdout = (reference(network, data, split) for split in ("train", "holdout"))
    labels = data.labels["train"]
    predict = classifier(train.features[labels >= 0], labels[labels >= 0], len(names))
    labels = data.labels["holdout"]
    held_out = float(np.mean((predict(holdout.features) == labels)[labels >= 0]))
    found, drawn = {}, []
    labels = np.arange(config.num * len(names)) % len(names)
    for strength in config.guidance:
        with stage(f"guidance {strength:g}", wait=True):
            images = run.sample(
                len(labels), config.steps, config.seed, label="all", guidance=strength
            )
            features = networks.features(network, images)
        agrees = predict(features) == labels
        found[f"{strength:g}"] = {
            "agreement": float(agrees.mean()),
            "by class": {name: float(agrees[labels == i].mean()) for i, name in enumerate(names)},
            "FD": frechet(statistics(features), train.statistics).distance,
            "KID": kid.kid(features, train.features, seed=config.seed).mean,
        }
        drawn.append(images)
    record = {
        "held out": held_out,
        "num": len(labels),
        "steps": config.steps,
        "step": run.step,
        "guidance": found,
    }
    save_json(out / "results.json", record)
    save_text(out / "table.md", table(record))
    pictures.save_png(out / "grid.png", grid(drawn, len(names)), pictures.zoom(drawn[0]))
    print(table(record))
    print(f"{out}: results.json, table.md, grid.png; the rows are {', '.join(names)}")


def grid(drawn: Sequence[np.ndarray], classes: int) -> np.ndarray:
    """A row a class, and of each strength its first images, which start from the same noise."""
    firsts = (pictures.by_class(images[: COLUMNS * classes], classes) for images in drawn)
    blocks = [pictures.grid(images, COLUMNS) for images in firsts]
    gap = np.full((len(blocks[0]), 8, blocks[0].shape[2]), 255, np.uint8)
    return np.concatenate([part for block in blocks for part in (block, gap)][:-1], 1)


def table(record: dict[str, Any]) -> str:
    """A row a strength."""
    found = record["guidance"]
    names = list(next(iter(found.values()))["by class"])
    lines = [f"| guidance | agreement | {' | '.join(names)} | FD | KID |"]
    lines.append("|---" * (len(names) + 4) + "|")
    for strength, row in found.items():
        shares = [row["agreement"], *row["by class"].values()]
        cells = " | ".join(f"{share:.2f}" for share in shares)
        lines.append(f"| {strength} | {cells} | {row['FD']:.1f} | {row['KID']:.3f} |")
    lines.append("")
    lines.append(
        f"{record['num']} images at each strength, {record['steps']} steps. On held-out images the "
        f"classifier agrees with {record['held out']:.2f} of the labels."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(measure, GuidanceConfig)
