"""Table 1 in Markdown, and what its numbers say."""

import itertools
from collections.abc import Sequence
from typing import Any

from experiments.reproduction import texts
from experiments.reproduction.study import DDIM, SHOWN, SIGMA_HAT

FEW = 100
"""Steps up to which the paper's claims speak of few."""
EXACT = "exact denoiser, 0"
UNSEEN = " The error of large steps, which the paper's table shows, is not seen here."
CLIPPED = {
    "rederive": "x_0 is clipped to [-1, 1]",
    "keep": "x_0 is clipped to [-1, 1] and eps kept",
    "dynamic": "x_0 is thresholded by each image's quantile",
    "none": "x_0 is not clipped",
}
LABELS = {"fd": "FD", "kid": "KID"}


def lines(record: dict[str, Any]) -> list[str]:
    """Table 1 and its findings, in Markdown."""
    names = list(dict.fromkeys(cell["eta"] for cell in record["cells"]))
    steps = sorted({cell["steps"] for cell in record["cells"]})
    n, dims = record["num"], record["dims"]
    at = {(cell["eta"], cell["steps"]): cell for cell in record["cells"]}
    fd, kid_ = record["labels"].values()
    compared = f"N = {n} samples per cell, against {record['reference']} training images"
    told = [f"**{fd}**, {compared}:", ""]
    exact = {cell["steps"]: cell for cell in record.get("exact") or ()}
    more = [[EXACT, *(texts.number(exact[s]["fd"]) if s in exact else "" for s in steps)]]
    told += _table(names, steps, lambda *where: texts.number(at[where]["fd"]), more[: len(exact)])
    told += [f"**{kid_}**, the same samples:", ""]
    more = [[EXACT, *(spread(exact[s]) if s in exact else "" for s in steps)]]
    told += _table(names, steps, lambda *where: spread(at[where]), more[: len(exact)])
    block = at[names[0], steps[0]]["kid_block"]
    told += [
        f"Times are spaced {record['spacing']}ly, {CLIPPED[record.get('clip', 'rederive')]}, and "
        "all cells start from the same x_T. KID is unbiased; ± is the standard deviation over "
        f"blocks of {block} samples"
        + (" (half of them), which is about the standard error." if block == n // 2 else "."),
        "",
    ]
    if n <= 10 * dims:
        told += [
            f"The Frechet distance over {dims} features is biased upwards for so few samples: "
            "compare these values only with each other, not with those of another N.",
            "",
        ]
    told += texts.picture(
        "table1.png", f"Table 1 as curves. {compared}; error bars as in the table."
    )
    told += texts.picture(
        "samples.png",
        f"The first {SHOWN} samples of every cell. All cells start from the same x_T.",
    )
    told += ["### Findings", ""]
    told += [f"* {sentence}" for sentence in shape(at, names, steps)]
    told += [f"* {against_real(record, at)}", *apart_from_network(at, exact), ""]
    return told + claims(at, names, steps, record["T"])


def known(*cells: dict[str, Any]) -> bool:
    """Whether all distances of these cells are finite."""
    return texts.known(*(cell[key] for cell in cells for key in ("fd", "kid", "kid_std")))


def spread(cell: dict[str, Any]) -> str:
    """A KID with its standard deviation."""
    return f"{texts.shown(cell['kid'], '.3f')} ± {texts.shown(cell['kid_std'], '.3f')}"


def _table(
    names: list[str], steps: list[int], show: Any, more: Sequence[list[str]] = ()
) -> list[str]:
    rows = [[texts.ETA.get(name, name), *(show(name, s) for s in steps)] for name in names]
    return texts.table(["eta", *(f"S = {s}" for s in steps)], [*rows, *more])


Cells = dict[tuple[str, int], dict[str, Any]]


def apart(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two KIDs differ by more than the sum of their standard deviations."""
    return abs(a["kid"] - b["kid"]) > a["kid_std"] + b["kid_std"]


def shape(at: Cells, names: list[str], steps: list[int]) -> list[str]:
    """Findings on eta = 0, on sigma-hat and on the number of steps."""
    told = []
    for key, label in LABELS.items():
        won: dict[str, list[int]] = {}
        for s in steps:
            values = [at[name, s][key] for name in names]
            lowest = min(filter(texts.known, values), default=None)
            for name, x in zip(names, values, strict=True):
                if x == lowest:  # a tie is a line for each
                    won.setdefault(name, []).append(s)
        where = [
            f"{texts.eta(name)} at S = {texts.listed(columns)}" for name, columns in won.items()
        ]
        if not where:
            continue
        sentence = f"Lowest {label} in each column: {'; '.join(where)}"
        if DDIM.name not in won:
            sentence += "; eta = 0 in none"
        told.append(sentence + ".")
    clear = []
    for s in steps:
        if not known(*(at[name, s] for name in names)):
            continue
        ddim = at[DDIM.name, s]
        others = [texts.eta(name) for name in names if apart(at[name, s], ddim)]
        which = texts.listed(others) if others else "none"
        clear.append(f"{which} at S = {s}")
    if clear:
        told.append(
            "By KID, these differ from eta = 0 by more than the sum of both standard deviations: "
            + "; ".join(clear)
            + "."
        )
    for s in dict.fromkeys((steps[0], steps[-1])):
        told += sigma_hat(at, names, s)
    first, last = (at[DDIM.name, s] for s in (steps[0], steps[-1]))
    if len(steps) > 1 and known(first, last):
        verb, sure = texts.verb(first["fd"], last["fd"]), apart(first, last)
        where = (
            f"is {texts.number(first['fd'])} at S = {steps[0]} and at S = {steps[-1]}"
            if verb == "stays"
            else f"{verb} from {texts.number(first['fd'])} at S = {steps[0]} to "
            f"{texts.number(last['fd'])} at S = {steps[-1]}"
        )
        seen = verb == "falls" or (sure and last["kid"] < first["kid"])
        told.append(
            f"With eta = 0 the FD {where}. The KID changes from {spread(first)} to {spread(last)}, "
            f"by {'more' if sure else 'no more'} than the sum of both standard deviations."
            + ("" if seen else UNSEEN)
        )
    return told


def sigma_hat(at: Cells, names: list[str], steps: int) -> list[str]:
    """How the larger variance compares at this S; nothing where a distance is missing."""
    ours, ddim = at[SIGMA_HAT.name, steps], at[DDIM.name, steps]
    if not known(*(at[name, steps] for name in names)) or not ddim["fd"] > 0:
        return []
    others = [at[name, steps]["fd"] for name in names if name != SIGMA_HAT.name]
    place = sum(fd < ours["fd"] for fd in others)
    tied = ours["fd"] in others
    rank = f"number {place + 1}"
    if not tied:
        rank = {0: "the best", len(others): "the worst"}.get(place, rank)
    return [
        f"At S = {steps} σ̂ is {rank} of {len(names)} rows by FD: {texts.number(ours['fd'])}, "
        f"{ours['fd'] / ddim['fd']:.2f} times that of eta = 0; its KID of {spread(ours)} is "
        f"{'' if apart(ours, ddim) else 'not '}clearly "
        f"{'above' if ours['kid'] > ddim['kid'] else 'below'} the {spread(ddim)} of eta = 0."
    ]


def against_real(record: dict[str, Any], at: Cells) -> str:
    """How far the best samples are from real images."""
    measured = [where for where, cell in at.items() if known(cell)]
    if not measured:
        return "No cell of the table has a distance."
    where = min(measured, key=lambda where: at[where]["fd"])
    name, steps = where
    value = at[where]["fd"]
    lowest = f"the lowest FD of the table, {texts.number(value)} ({texts.eta(name)}, S = {steps})"
    real = record["held_out"]
    if real is None:
        return (
            f"Fewer than {record['num']} images were held out, so there are no real images to "
            f"compare with {lowest}."
        )
    told = (
        f"{record['num']} held-out images have an FD of {texts.number(real['fd'])} and a KID of "
        f"{spread(real)}"
    )
    if not (known(real) and real["fd"] > 0):
        return f"{told}, to compare with {lowest}."
    told += f"; {lowest}, is {value / real['fd']:.2f} times that FD."
    cells = [at[where] for where in measured]
    if value > real["fd"] and all(c["kid"] > real["kid"] and apart(c, real) for c in cells):
        told += (
            " The part that no sampler of the table removes is the network's own error: every KID "
            "of the table is clearly above that of held-out images."
        )
    return told


def apart_from_network(at: Cells, exact: dict[int, dict[str, Any]]) -> list[str]:
    """The sampler's error and the network's, told apart by the exact denoiser; maybe nothing."""
    steps = [s for s in exact if known(exact[s], at[DDIM.name, s])]
    if not steps:
        return []
    first, last = exact[steps[0]], exact[steps[-1]]
    told = (
        "* The exact denoiser of the training images (the posterior mean, eta = 0) makes no error "
        f"but the sampler's: its FD is {texts.number(first['fd'])} at S = {steps[0]}"
    )
    if len(steps) > 1:
        told += f" and {texts.number(last['fd'])} at S = {steps[-1]}"
    shares = [f"{texts.number(at[DDIM.name, s]['fd'])} at S = {s}" for s in (steps[0], steps[-1])]
    return [
        f"{told}, where the network's is {' and '.join(dict.fromkeys(shares))}; what lies between "
        "is the network's error. Part of the rest is the bias of few samples."
    ]


def claims(at: Cells, names: list[str], steps: list[int], T: int) -> list[str]:
    """The paper's claims about its table, and whether they hold for this one."""
    few = [s for s in steps if s < T and s <= FEW]
    rows = []

    def judged(claim: str, pairs: list[tuple[tuple[str, int], tuple[str, int]]]) -> None:
        """Adds a row: whether in every pair the first cell is below the second."""
        n, words = len(pairs), []
        told = [(at[a], at[b]) for a, b in pairs]
        for key in LABELS:
            count = sum(x[key] < y[key] for x, y in told)
            fails = sum(x[key] >= y[key] for x, y in told)
            verdict = "no" if fails else "yes" if count == n else "unknown"
            words.append(f"{verdict} ({count} of {n})")
        sure = [x["kid"] < y["kid"] for x, y in told if apart(x, y)]
        rows.append([claim, *words, f"{sum(sure)} of {n}", f"{len(sure) - sum(sure)} of {n}"])

    others = [name for name in names if name != DDIM.name]
    if few:
        judged(
            f"eta = 0 is below every other row at S = {texts.listed(few)}",
            [((DDIM.name, s), (name, s)) for s in few for name in others],
        )
        judged(
            f"at S = {steps[0]} each row is worse than the one above, σ̂ last",
            [((a, steps[0]), (b, steps[0])) for a, b in itertools.pairwise(names)],
        )
    if len(steps) > 1:
        judged(
            "with eta = 0 each S is better than the one before",
            [((DDIM.name, b), (DDIM.name, a)) for a, b in itertools.pairwise(steps)],
        )
    if steps[-1] == T:
        judged(
            f"at S = T = {T} σ̂ is below every other row",
            [((SIGMA_HAT.name, T), (name, T)) for name in names if name != SIGMA_HAT.name],
        )
    told = [
        "The paper's findings in its table 1, checked for each pair of cells that they compare:",
        "",
    ]
    head = ["the paper's finding", "here, by FD", "by KID", "clearly so by KID", "clearly reversed"]
    return told + texts.table(head, rows) if rows else []
