"""The page: what is shown, and what each button does. Gradio serves it.

Uploads are bounded, and decoded as pictures of a folder are. One drawing runs at a time; others
wait in a queue. Nothing is loaded from elsewhere, and no file of this machine can be asked for.
"""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before it is imported

import dataclasses
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder
from PIL import Image

from experiments.playing.engine import Engine, Frame
from experiments.playing.settings import BOUNDS, Settings
from experiments.terminal import pictures
from experiments.terminal.errors import UserError
from jaxddim.runs.methods import ALL, Method, Spacing

MOST_UPLOAD, MOST_PIXELS, MOST_WAITING = 20 << 20, 1 << 24, 16
"""Bytes of an upload, pixels of one that Gradio decodes itself, and presses that wait."""
CANVAS = 384
"""Pixels of the picture that the brush paints on, at most."""
NAMES = [field.name for field in dataclasses.fields(Settings)]


def make(workdir: str, checkpoint: str = "latest") -> gr.Blocks:
    """The page of a run.

    Raises:
      RunError: for a folder without a run, or a missing checkpoint.
    """
    engine = Engine(workdir, checkpoint)
    config = engine.run.config
    name = Path(workdir).absolute().name
    height, width, _ = config.data.shape
    with gr.Blocks(title=f"{name}: jaxddim", analytics_enabled=False) as page:
        heading = gr.Markdown(_heading(engine, name))
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                given = _inputs(engine)
                command = gr.Code(
                    label="The same as a file",
                    language="shell",
                    interactive=False,
                    wrap_lines=True,
                    elem_id="command",
                )
                link = gr.Markdown(elem_id="link")
            with gr.Column(scale=2, min_width=320):
                with gr.Tab("Draw"):
                    go = gr.Button("Draw", variant="primary", elem_id="draw")
                    shown = _output("x_0", "shown")
                    frames = gr.State(list[Frame]())
                    moment = gr.Slider(
                        0, 1, 1, step=1, label="From noise to pictures", interactive=True,
                        elem_id="moment",
                    )  # fmt: skip
                with gr.Tab("Between two seeds"):
                    other = gr.Number(1, label="Other seed", precision=0, minimum=0)
                    across = gr.Button("Draw from one seed to the other", elem_id="across")
                    row = _output("Between", "row")
                with gr.Tab("Your picture"):
                    upload = gr.File(
                        label=f"A picture; it is squeezed to {height}x{width}",
                        file_count="single", type="filepath", elem_id="upload",
                    )  # fmt: skip
                    kept = gr.State(None)
                    back = gr.Button("Encode and decode", elem_id="back")
                    pair = _output("Picture, its code, decoded", "pair")
                    told = gr.Markdown(elem_id="told")
                    gr.Markdown("Paint over what is to be drawn anew:")
                    paint = gr.ImageEditor(
                        type="numpy", format="png", sources=(), transforms=(), layers=False,
                        brush=gr.Brush(colors=["#ff00ff"], color_mode="fixed", default_size=40),
                        label="Brush", elem_id="paint",
                    )  # fmt: skip
                    anew = gr.Button("Draw the painted part anew", elem_id="anew")
                    filled = _output("Four ways to fill it", "filled")

        def asked(*values: Any) -> Settings:
            return Settings.of(dict(zip(NAMES, values, strict=True)))

        def explained(*values: Any) -> tuple[str, str]:
            try:
                settings = asked(*values)
            except UserError as error:
                return "", str(error)
            return settings.command(workdir), f"[Link to these settings]({settings.link()})"

        def draw(*values: Any) -> Iterator[tuple[Any, ...]]:
            with told_to_the_user():
                for found in engine.draw(asked(*values)):
                    last = len(found) - 1
                    slider = gr.Slider(maximum=max(last, 1), value=last)
                    yield _grid(found[-1].images), found, slider, _heading(engine, name)

        def look(found: list[Frame], index: float) -> Any:
            return _grid(found[int(index)].images) if 0 <= index < len(found) else gr.skip()

        def interpolate(second: Any, *values: Any) -> str:
            with told_to_the_user():
                seed = Settings.of({"seed": second}).seed
                return _grid(engine.between(asked(*values), seed), columns=8)

        def receive(path: str | None) -> tuple[Any, Any]:
            if path is None:
                return None, None
            with told_to_the_user():
                picture = engine.read(Path(path))
                return picture, _file(picture, max(1, CANVAS // max(picture.shape[:2])))

        def encode(picture: np.ndarray | None, *values: Any) -> tuple[str, str]:
            with told_to_the_user():
                if picture is None:
                    raise UserError("upload a picture first")
                code, decoded = engine.there_and_back(picture, asked(*values).steps)
                error = (decoded.astype(float) - picture) / 127.5
                size = float(np.sqrt(np.mean(error**2)))
                row = _grid(np.stack([picture, code, decoded]), columns=3)
                return row, f"The decoded picture is off by {size:.4f} (rms, of values in [-1, 1])."

        def fill(picture: np.ndarray | None, painted: Any, *values: Any) -> str:
            with told_to_the_user():
                if picture is None:
                    raise UserError("upload a picture first")
                mask = _mask(painted, *picture.shape[:2])
                if not mask.any():
                    raise UserError("nothing is painted: paint over what is to be drawn anew")
                return _grid(engine.inpaint(asked(*values), picture, mask), columns=4)

        def opened(request: gr.Request) -> list[Any]:
            try:
                settings = Settings.of(dict(request.query_params))
            except UserError as error:
                gr.Warning(f"the link has other settings than there are: {error}")
                settings = Settings()
            return [getattr(settings, name) for name in NAMES]

        one: Any = {"concurrency_id": "engine", "concurrency_limit": 1, "api_visibility": "private"}
        quick: Any = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        page.load(opened, None, given, api_visibility="private").then(
            explained, given, [command, link], **quick
        )
        for part in given:
            part.change(explained, given, [command, link], **quick)
        go.click(draw, given, [shown, frames, moment, heading], **one)
        moment.input(look, [frames, moment], shown, **quick)
        across.click(interpolate, [other, *given], row, **one)
        upload.change(receive, upload, [kept, paint], **one)
        back.click(encode, [kept, *given], [pair, told], **one)
        anew.click(fill, [kept, paint, *given], filled, **one)
    return page.queue(max_size=MOST_WAITING)


def serve(page: gr.Blocks, host: str, port: int) -> None:
    """Serves the page until the process is stopped."""
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # twice that is an error
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    page.launch(
        server_name=host, server_port=port, share=False, quiet=True, show_error=True,
        max_file_size=MOST_UPLOAD, footer_links=[], theme=gr.themes.Base(**fonts),
        enable_monitoring=False, ssr_mode=False, inbrowser=False, run_history=False,
    )  # fmt: skip


@contextmanager
def told_to_the_user() -> Iterator[None]:
    """Shows an error about what was asked for as a message on the page."""
    try:
        yield
    except (UserError, ValueError) as error:
        raise gr.Error(str(error), print_exception=False) from None


def _inputs(engine: Engine) -> list[Any]:
    """A component for each of the settings, in the order of NAMES."""
    labels = engine.run.config.model.num_classes
    names = engine.run.class_names
    low, high = BOUNDS["guidance"]
    usual = Settings()
    return [
        gr.Slider(1, BOUNDS["num"][1], usual.num, step=1, label="Pictures", elem_id="num"),
        gr.Number(usual.seed, label="Seed", precision=0, minimum=0, elem_id="seed"),
        gr.Slider(1, min(BOUNDS["steps"][1], engine.run.schedule.num_steps), usual.steps, step=1,
                  label="Steps, S", elem_id="steps"),
        gr.Dropdown(list(get_args(Method)), value=usual.method, label="Method"),
        gr.Slider(0, 1, usual.eta, label="eta, the noise of ddim"),
        gr.Dropdown(list(get_args(Spacing)), value=usual.spacing, label="Spacing of the times"),
        gr.Dropdown([("as in the images", ""), ("all by turns", ALL), *((n, n) for n in names)],
                    value="", label="Label", visible=bool(labels)),
        gr.Slider(low, high, usual.guidance, label="Guidance", visible=bool(labels)),
    ]  # fmt: skip


def _output(label: str, name: str) -> gr.Image:
    """A picture that the page shows."""
    buttons: Any = ["download", "fullscreen"]
    return gr.Image(label=label, format="png", interactive=False, buttons=buttons, elem_id=name)


def _heading(engine: Engine, name: str) -> str:
    config, text = engine.run.config, name.replace("`", "'")
    height, width, _ = config.data.shape
    return f"## `{text}`\nstep {engine.run.step:,} of `{config.config}`, {height}x{width} pixels"


def _grid(images: np.ndarray, columns: int | None = None) -> str:
    """Pictures side by side, enlarged, as a file."""
    return _file(pictures.grid(images, columns), pictures.zoom(images))


def _file(picture: np.ndarray, zoom: int) -> str:
    """A picture, enlarged, as a file that is whole and stays as it is.

    Given an array, Gradio would write the file of the same picture anew while a page reads it.
    """
    digest = hashlib.sha256(picture.tobytes() + repr((picture.shape, zoom)).encode()).hexdigest()
    path = Path(get_upload_folder()) / digest / "image.png"
    if not path.exists():
        pictures.save_png(path, picture, zoom)
    return str(path)


def _mask(painted: Any, height: int, width: int) -> np.ndarray:
    """What the brush has painted, bool [h, w]: pixels of which it covers a half."""
    layers = [
        np.asarray(layer) for layer in (painted or {}).get("layers") or [] if layer is not None
    ]
    mask = np.zeros((height, width), bool)
    for layer in layers:
        alpha = Image.fromarray(layer[..., 3]).resize((width, height), Image.Resampling.BOX)
        mask |= np.asarray(alpha) >= 128
    return mask
