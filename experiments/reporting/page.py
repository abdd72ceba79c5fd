"""A run as one HTML file. All text of the run is escaped, and the page may load nothing."""

import base64
import json
import math
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from experiments.reporting.contents import Contents
from experiments.reporting.curves import curves
from experiments.terminal.texts import count
from jaxddim.runs.flat import flatten
from jaxddim.runs.presets import PRESETS


def render(contents: Contents) -> str:
    """The page."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"png": _data_uri, "number": number}
    return environment.get_template("page.html").render(
        contents=contents,
        facts=facts(contents),
        figures=[(title, as_picture(svg)) for title, svg in curves(contents)],
        settings=settings(contents),
    )


def as_picture(svg: str) -> str:
    """An SVG as the address of a picture."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def number(value: float) -> str:
    """A number as a table shows it.

    Example:
      >>> number(44.9322), number(0.000218), number(1234567.0), number(float("nan"))
      ('44.93', '0.000218', '1,234,567', 'nan')
    """
    if math.isfinite(value) and abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def facts(contents: Contents) -> list[tuple[str, str]]:
    """What a reader wants to know first."""
    config, step, total = contents.config, contents.step, contents.total
    data = contents.record.get("data") or {}
    height, width, channels = config.data.shape
    size = f"{height}x{width}{', grey' if channels == 1 else ''}"
    images = f"{count(data['num_images'], 'image')}" if data.get("num_images") else "unknown images"
    found = [
        ("Network", f"{config.model.name}, {config.model.channels} channels; --config "
                    f"{config.config}"),
        ("Images", f"{images} of {data.get('source', 'an unknown source')}, {size}"),
        ("Training", f"step {step:,}" + (f" of {total:,}" if total else "")
                     + f", {config.train.batch_size} images each"),
    ]  # fmt: skip
    steps, losses = contents.series("validation_loss")
    if losses:
        best = int(np.argmin(losses))
        found.append(
            ("Validation loss", f"{losses[-1]:.5f} at the end; best {losses[best]:.5f} at step "
                                f"{steps[best]:,}")
        )  # fmt: skip
    _, rates = contents.series("images_per_second")
    if rates:
        rate = float(np.median(rates))
        found.append(("Speed", f"{rate:.1f} images a second (median)"))
        found.append(("Time of the steps", spent(step * config.train.batch_size / rate)))
    _, memory = contents.series("peak_memory_gib")
    if memory:
        found.append(("Peak memory", f"{max(memory):.2f} GiB"))
    versions = contents.record.get("versions") or {}
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    found.append(("Made with", f"{contents.record.get('backend', 'unknown backend')}; {named}"))
    return found


def spent(seconds: float) -> str:
    """A duration.

    Example:
      >>> spent(59.0), spent(3600.0 * 2 + 120)
      ('59 s', '2 h 02 min')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def settings(contents: Contents) -> list[tuple[str, str, bool]]:
    """(name, value, whether it is not the named configuration's) of each field."""
    flat = flatten(contents.config)
    preset = PRESETS.get(contents.config.config)
    usual: dict[str, Any] = flatten(preset()) if preset else flat
    return [
        (name, json.dumps(value), value != usual[name])
        for name, value in flat.items()
        if name not in ("workdir", "config")
    ]
