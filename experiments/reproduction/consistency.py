"""Figure 5: one x_T and several S.

With eta = 0 an image is a function of x_T, and nearly the same function for every S. How nearly is
measured in feature space: by the distance to the image of the largest S, relative to the distance
between images of different x_T; and by whether the nearest image of the largest S has the same x_T.
"""

from typing import Any

import numpy as np

from experiments.evaluation.features import networks
from experiments.evaluation.manifolds import nearest
from experiments.reproduction import plots, quality, texts
from experiments.reproduction.study import DDIM, Result, Study

SHOWN = 10


def measure(study: Study) -> dict[str, Any]:
    """Distances to the images of the largest S, and the picture."""
    steps = study.columns(quality.STEPS)
    images = np.stack([quality.cell(study, DDIM, s).arrays["images"] for s in steps])
    recipe = {"steps": steps, "spacing": study.spacing, "num": study.num, **study.features_recipe}

    def compute() -> Result:
        rows = [networks.features(study.network, row) for row in images]
        return Result(distances(np.stack(rows).astype(np.float64)), {})

    record = {
        "steps": steps,
        "num": images.shape[1],
        "network": study.network.name,
        **study.kept("figure5", recipe, compute).numbers,
    }
    plots.save_images(
        study.folder / "figure5.png", images[:, :SHOWN], [f"S = {s}" for s in steps], gap=1
    )
    return record


def distances(features: np.ndarray) -> dict[str, Any]:
    """Distances of the images of each S to those of the last S.

    Args:
      features: [number of S, n, dims]; the same index means the same x_T.
    """
    last, n = features[-1], features.shape[1]
    same = [np.linalg.norm(row - last, axis=1) for row in features]
    pairs = np.linalg.norm(last[:, None] - last, axis=2)[np.triu_indices(n, 1)]
    found = [
        float(np.mean(nearest(row, last, 1).indices[:, 0] == np.arange(n))) for row in features
    ]
    return {
        "distance": [float(row.mean()) for row in same],
        "std": [float(row.std(ddof=1)) for row in same],
        "found": found,
        "between": float(pairs.mean()),
    }


def lines(record: dict[str, Any]) -> list[str]:
    """Figure 5 and its findings, in Markdown."""
    steps, distance, between = record["steps"], record["distance"], record["between"]
    told = texts.picture(
        "figure5.png",
        f"Consistency. Each column is one x_T, decoded with eta = 0 and S = {texts.listed(steps)}.",
    )
    if len(steps) == 1:
        return [*told, "With one S there is nothing to compare.", ""]
    relative = [texts.ratio(mean, between) for mean in distance]
    rows = [
        [
            s,
            f"{texts.number(mean)} ± {texts.number(std)}",
            texts.shown(part, ".2f"),
            texts.shown(found, ".0%"),
        ]
        for s, mean, std, part, found in zip(
            steps, distance, record["std"], relative, record["found"], strict=True
        )
    ][:-1]
    head = ["S", f"distance to S = {steps[-1]}", "relative to different x_T", "recognised"]
    told += texts.table(head, rows)
    # the distance of the last S to itself is 0, and says nothing about a trend
    found = texts.trend(steps[:-1], distance[:-1])
    sentences = [f"The distance {falls(*found)}."] if found else []
    if texts.known(relative[0]):
        it = "it" if found else "the distance"
        sentences.append(
            f"At S = {steps[0]} {it} is {relative[0]:.0%} of the distance between different x_T, "
            f"and {texts.shown(record['found'][0], '.0%')} of the images are recognised."
        )
    told += [
        f"Distances in {record['network']} features over {record['num']} x_T, mean ± standard "
        f"deviation. At S = {steps[-1]}, images of different x_T are {texts.number(between)} apart "
        f"on average. *Recognised*: the nearest of the {record['num']} images of S = {steps[-1]} "
        "has the same x_T.",
        "",
        " ".join(sentences),
        "",
    ]
    return told


def falls(how: str, others: list[str]) -> str:
    """A trend in words."""
    if how == "mixed":
        return f"does not fall {texts.listed(others)}"
    return "falls with every increase of S" if how == "falls" else "does not fall with S"
