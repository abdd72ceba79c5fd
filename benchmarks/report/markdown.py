"""The report, docs/benchmarks.md, from the records of docs/benchmarks.json."""

from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks.report.summary import NAMES, NETWORKS, OPS, cell, rate, ratio, spread

Records = dict[str, Any]

PROMISES = (
    # what, record, method, other contender, minimum speed-up over it
    ("training, SimpleUNet, batch 8", "steps/simple/8", "train", "eager", 1.4),
    ("training, SimpleUNet, batch 8", "steps/simple/8", "train", "channels_last", 1.3),
    ("training, SimpleUNet, batch 8", "steps/simple/8", "train", "flax", 2.5),
    ("training, UNet, batch 8", "steps/unet/8", "train", "eager", 1.15),
    ("training, UNet, batch 8", "steps/unet/8", "train", "compile", 1.05),
    ("training, UNet, batch 32", "steps/unet/32", "train", "eager", 1.0),
    ("forward, SimpleUNet, batch 8", "steps/simple/8", "forward", "eager", 1.25),
    ("forward, UNet, batch 8", "steps/unet/8", "forward", "eager", 1.2),
    ("50-step DDIM, UNet, batch 8", "ddim/unet/8", "ddim", "diffusers", 1.3),
)
AT_MOST = 1.01
"""Upper limit of the time of S DDIM steps over that of S forward passes."""


def markdown(records: Records, picture: str | None) -> str:
    """The whole report."""
    lines = ["# Benchmarks", "", *_introduction(records)]
    if picture:
        lines += [f"![images a second of every contender]({picture})", ""]
    lines += _promises(records)
    sections = (_steps, _compile, _ddim, _peak, _growth, _memory, _startup, _overheads, _data)
    for section in sections:
        lines += section(records)
    return "\n".join(lines).rstrip() + "\n"


def _introduction(records: Records) -> Iterator[str]:
    yield "Written by `python -m benchmarks.run`; `benchmarks.json` has every single measurement."
    yield "Every contender has the same network with the same weights, the same batch and all"
    yield "cores. Contenders are processes that take turns: in each round every one runs for a"
    yield "second or a few, in random order. A figure is the median over the rounds, with the"
    yield 'quartiles behind it; "times as fast" is the median of the rounds\' ratios. A training'
    yield "step is noise, loss, gradient, Adam and the running average of the weights. This"
    yield "project calls `jaxddim.keep_memory()`, as its commands do; plain Flax does not."
    yield ""
    for made_with, parts in _environments(records).items():
        machine, versions, date = made_with
        yield f"* **{date}**: {machine}; {versions} ({', '.join(parts)})"
    yield ""


def _environments(records: Records) -> dict[tuple[str, str, str], list[str]]:
    found: dict[tuple[str, str, str], list[str]] = {}
    for name, record in records.items():
        machine, versions = record["machine"], record["versions"]
        text = f"{machine['CPU']}, {machine['cores']} cores, {machine['memory']} memory"
        text = ", ".join([text, machine["system"], *filter(None, [machine.get("device")])])
        packages = ", ".join(f"{package} {version}" for package, version in versions.items())
        parts = found.setdefault((text, packages, record["date"]), [])
        if (part := name.partition("/")[0]) not in parts:
            parts.append(part)
    return found


def _table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> list[str]:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    texts = (["-" if value is None else str(value) for value in line] for line in lines)
    return ["| " + " | ".join(line) + " |" for line in texts] + [""]


def _of(records: Records, part: str) -> list[dict[str, Any]]:
    found = [record for name, record in records.items() if name.partition("/")[0] == part]
    return sorted(found, key=lambda record: (record.get("network", ""), record.get("batch", 0)))


def _notes(found: list[dict[str, Any]]) -> list[str]:
    notes = dict.fromkeys(note for record in found for note in record["notes"])
    return [f"* {note}" for note in notes] + [""] * bool(notes)


def _promises(records: Records) -> list[str]:
    rows = []
    for text, name, op, other, at_least in PROMISES:
        record = records.get(name)
        other_op = "diffusers" if other == "diffusers" else op
        measured = ratio(cell(record, other, other_op), cell(record, "jax", op))
        kept = None if measured is None else "yes" if measured.median >= at_least else "**no**"
        rows.append((f"{text}, over {NAMES[other]}", f"at least {at_least}", measured, kept))
    record = records.get("ddim/unet/8")
    measured = ratio(cell(record, "jax", "ddim"), cell(record, "jax", "forwards"))
    kept = None if measured is None else "yes" if measured.median <= AT_MOST else "**no**"
    rows.append(
        ("time of 50-step DDIM over 50 forward passes", f"at most {AT_MOST}", measured, kept)
    )
    head = ("times as fast", "promised", "measured", "kept")
    return ["## What was promised", "", *_table(head, rows)]


def _steps(records: Records) -> list[str]:
    lines = ["## Training and forward", ""]
    found = _of(records, "steps")
    for record in found:
        batch, rows = record["batch"], []
        for name in dict.fromkeys(c["contender"] for c in record["cells"]):
            row = [NAMES[name]]
            for op in ("train", "forward"):
                one = cell(record, name, op)
                times = "1" if name == "jax" else ratio(one, cell(record, "jax", op))
                row += [rate(one, batch), times]
            rows.append(row)
        lines += [f"### {NETWORKS[record['network']]}, batch {batch}", ""]
        faster = "this project: times as fast"
        lines += _table(("", "training, images/s", faster, "forward, images/s", faster), rows)
        lines += [f"Rounds: {record['rounds']}. {_agreement(record)}", ""]
    return lines + _notes(found) if found else []


def _agreement(record: dict[str, Any]) -> str:
    worst = {}
    for c in record["cells"]:
        if c["difference"] is not None and c["contender"] != "jax":
            kind = "in bfloat16" if c["contender"] == "bfloat16" else "in float32"
            worst[kind] = max(c["difference"], worst.get(kind, 0.0))
    if not worst:
        return "Nothing to compare the results with."
    figures = " and ".join(f"{value:.0e} {kind}" for kind, value in worst.items())
    return f"The results agree with this project's to a relative difference of {figures}."


def _compile(records: Records) -> list[str]:
    rows = []
    for record in _of(records, "steps"):
        for name in dict.fromkeys(c["contender"] for c in record["cells"]):
            forward, train = (cell(record, name, op) for op in ("forward", "train"))
            row = [NETWORKS[record["network"]], record["batch"], NAMES[name]]
            row += [f"{seconds:.1f}" for seconds in (forward["start"], forward["first"])]
            rows.append([*row, f"{train['first']:.1f}"])
    head = ("network", "batch", "", "start, s", "first forward, s", "first training step, s")
    text = "Seconds, once. *Start* is everything before the first call: imports, network, weights."
    return ["## Compile times", "", text, "", *_table(head, rows)] if rows else []


def _ddim(records: Records) -> list[str]:
    lines = ["## 50-step DDIM", ""]
    found = _of(records, "ddim")
    texts = {"ddim": ": 50 steps", "forwards": ": 50 bare forward passes", "diffusers": "' loop"}
    for record in found:
        ours, rows = cell(record, "jax", "ddim"), []
        for c in record["cells"]:
            name = NAMES[c["contender"]]
            if c["contender"] == "eager":
                name += ", the official algorithm"
            seconds = spread(c["seconds"])
            rows.append((name + texts[c["op"]], seconds, "1" if c is ours else ratio(c, ours)))
        lines += [f"{NETWORKS[record['network']]}, batch {record['batch']}.", ""]
        lines += _table(("", "seconds", "this project: times as fast"), rows)
        lines += [f"Rounds: {record['rounds']}. {_agreement(record)}", ""]
    return lines + _notes(found) if found else []


def _peak(records: Records) -> list[str]:
    lines = ["## Share of the machine's peak", ""]
    found = _of(records, "peak")
    for record in found:
        speeds = {
            (c["contender"], c["op"]): rate(c, c["operations"] / 1e9) for c in record["cells"]
        }
        products = [speed.median for (_, op), speed in speeds.items() if op == "product"]
        rows = []
        for (name, op), speed in speeds.items():
            text = name if op == "product" else f"{NETWORKS[name]}, {OPS[op]}"
            share = f"{speed.median / max(products):.0%}" if products else None
            rows.append((text, speed, share))
        size = record["size"]
        lines += [
            f"The peak is the fastest product of two {size}x{size} matrices. Only a network's",
            "convolutions and dots count, two operations a multiply-add; training counts as three",
            f"forward passes. Batch {record['batch']}.",
            "",
            *_table(("", "GFLOP/s", "of the peak"), rows),
        ]
    return lines + _notes(found) if found else []


GROWTH = {
    "batch": ("batch", "training step, UNet 32x32", "image"),
    "size": ("image size", "training step, the same UNet layers, batch 8", "1000 pixels"),
    "steps": ("S", "DDIM, UNet 32x32, batch 8", "step"),
}


def _growth(records: Records) -> list[str]:
    lines = ["## How time grows", ""]
    found = _of(records, "growth")
    for record in found:
        head, text, unit = GROWTH[record["axis"]]
        rows = []
        for c in record["cells"]:
            value = int(c["contender"])
            units = value if record["axis"] != "size" else 8 * value**2 / 1000
            milliseconds = [1000 * seconds for seconds in c["seconds"]]
            each = spread([ms / units for ms in milliseconds])
            rows.append((value, spread(milliseconds), each))
        lines += _table((head, f"{text}, ms", f"ms for each {unit}"), rows)
    return lines + _notes(found) if found else []


def _memory(records: Records) -> list[str]:
    found = _of(records, "memory")
    rows = [
        (NETWORKS[of["network"]], of["batch"], NAMES[row["contender"]], f"{row['peak_gb']:.2f}")
        for of in found
        for row in of["rows"]
    ]
    lines = [
        "## Memory",
        "",
        "The most that a process holds (resident set) that starts, compiles and trains three",
        "steps.",
        "",
    ]
    lines += _table(("network", "batch", "", "GiB"), rows) if rows else []
    return lines + _notes(found) if found else []


def _startup(records: Records) -> list[str]:
    found = _of(records, "startup")
    rows: dict[str, dict[str, str]] = {}
    for name, seconds in (row for record in found for row in record["rows"].items()):
        what, cache = name.rsplit(", ", 1)
        rows.setdefault(what, {})[cache] = f"{seconds:.1f}"
    lines = [
        "## Start-up",
        "",
        "Seconds with an empty compilation cache (cold), and the same again (warm, the median of",
        "three). *First step* is from the start of `experiments.train` to the end of its first",
        "step. The others are stages of a training step of 8 images; (cpu) counts the seconds of",
        "all threads.",
        "",
    ]
    table = ((what, of.get("cold"), of.get("warm")) for what, of in rows.items())
    lines += _table(("", "cold", "warm"), table) if rows else []
    return lines + _notes(found) if found else []


def _overheads(records: Records) -> list[str]:
    found = _of(records, "overheads")
    rows = [row for record in found for row in record["rows"].items()]
    if not found:
        return []
    text = "A call is one of a function of a training state that computes nothing."
    lines = ["## Besides the network", "", text, ""]
    lines += _table(("", ""), rows) if rows else []
    return lines + _notes(found)


def _data(records: Records) -> list[str]:
    found = _of(records, "data")
    texts = {
        "batches": "batches from the cached images",
        "ingest": "a folder of 1600x1200 JPEGs, read for the first time",
        "pillow": "the same by Pillow alone, nothing kept",
    }
    rows = [
        (texts[name], f"{speed:,.0f}", f"{cores:.2f}")
        for record in found
        for name, (speed, cores) in record["rows"].items()
    ]
    lines = ["## Data pipeline", "", "Images of 64x64.", ""]
    lines += _table(("", "images/s", "cores busy"), rows) if rows else []
    return lines + _notes(found) if found else []
