"""Figure 5: one x_T and several S.

With eta = 0 an image is a function of x_T, nearly the same one whatever S. Nearly is measured in
feature space, as the distance to the image of the largest S, beside the distance between images of
different x_T; and by whether the image of the largest S that is nearest is the one of the same x_T.
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
    """How far each S is from the last one.

    Args:
      features: [S's, n, dims]; the same x_T at the same place.
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
    """Figure 5 with what it shows."""
    steps, between = record["steps"], record["between"]
    told = texts.picture(
        "figure5.png",
        f"Consistency. Each column is one x_T, decoded with eta = 0 and S = {texts.listed(steps)}.",
    )
    if len(steps) == 1:
        return [*told, "With one S there is nothing to compare.", ""]
    rows = [
        [s, f"{texts.number(mean)} ± {texts.number(std)}", f"{mean / between:.2f}", f"{found:.0%}"]
        for s, mean, std, found in zip(
            steps, record["distance"], record["std"], record["found"], strict=True
        )
    ][:-1]
    head = ["S", f"distance to S = {steps[-1]}", "over that of different x_T", "recognised"]
    told += texts.table(head, rows)
    falls = (
        "falls with every step up in" if texts.falling(record["distance"]) else "does not fall with"
    )
    told += [
        f"Distances of {record['network']} features over {record['num']} x_T, mean ± standard "
        f"deviation; images of different x_T at S = {steps[-1]} are {texts.number(between)} apart. "
        f"*Recognised*: the nearest of the {record['num']} images of S = {steps[-1]} is the one of "
        "the same x_T.",
        "",
        f"The distance {falls} S. At S = {steps[0]} it is {record['distance'][0] / between:.0%} of "
        f"that between different x_T, and {record['found'][0]:.0%} of the images are recognised.",
        "",
    ]
    return told
