"""python -m experiments.play --workdir DIR [--host 127.0.0.1] [--port 7860]

A page in the browser to play on with a trained run: pictures appear while they are drawn. It needs
`pip install -r requirements-play.txt`. Only this machine can open it, unless --host says otherwise.
"""

import socket
from dataclasses import dataclass

from experiments.terminal import cli
from experiments.terminal.errors import UserError
from experiments.terminal.progress import stage


@dataclass(frozen=True)
class PlayConfig:
    """Open a page to play on with a trained run. Ends with Ctrl-C."""

    workdir: str = ""
    """Folder of the run."""
    checkpoint: str = "latest"
    """Checkpoint: latest, best or a step. The latest is opened anew when there is a later one."""
    host: str = "127.0.0.1"
    """Address that the page is for; 0.0.0.0 lets every machine that reaches this one open it."""
    port: int = 7860
    """Port of the page."""


def play(config: PlayConfig) -> None:
    """Opens the run, and serves its page until it is stopped.

    Raises:
      RunError: for a folder without a run, or a missing checkpoint.
      UserError: without Gradio, or for an address that cannot be had.
    """
    try:
        from experiments.playing import page
    except ModuleNotFoundError as error:
        raise UserError(
            f"the page needs {error.name}, which is not installed: pip install -r "
            "requirements-play.txt"
        ) from None
    if not 0 < config.port < 2**16:
        raise UserError(f"--port must lie in 1..65535, got {config.port}")
    check_free(config.host, config.port)
    with stage("restoring the network", wait=True):
        made = page.make(config.workdir, config.checkpoint)
    print(f"http://{config.host}:{config.port} shows the page; Ctrl-C ends it", flush=True)
    page.serve(made, config.host, config.port)


def check_free(host: str, port: int) -> None:
    """Raises a UserError unless this address can be listened on."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as found:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
    except OSError as error:
        raise UserError(
            f"the page cannot be at --host {host} --port {port} ({error.strerror or error}): name "
            "another port"
        ) from None


if __name__ == "__main__":
    cli.run(play, PlayConfig)
