"""python -m experiments.report --workdir DIR [--out FILE.html]

Writes one HTML file about a run: curves, pictures over time, evaluations and settings. A browser
shows it without a network, a server or anything installed; nothing in it refers to another file.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from experiments.reporting import page
from experiments.reporting.contents import read
from experiments.terminal import cli
from experiments.terminal.errors import UserError
from experiments.terminal.files import located, save_text
from experiments.terminal.progress import stage
from experiments.terminal.texts import count


@dataclass(frozen=True)
class ReportConfig:
    """Write a page about a run, for a reader who has nothing installed. Takes seconds."""

    workdir: str = ""
    """Folder of the run."""
    out: str = ""
    """FILE.html; by default DIR/report.html."""


def report(config: ReportConfig) -> None:
    """Reads the run and writes the page.

    Raises:
      RunError: for a folder without a run.
      UserError: for an output that cannot be written.
    """
    out = located(config.out) if config.out else Path(config.workdir) / "report.html"
    if config.out and out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {config.out}: expected a FILE.html")
    with stage("reading the run", wait=True):
        found = read(config.workdir)
        text = page.render(found)
    try:
        save_text(out, text)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror})") from None
    for note in found.notes:
        print(f"note: {note}")
    print(
        f"{out}: step {found.step} of {found.total or 'an unknown number'}, "
        f"{count(len(found.pictures), 'picture')}, {count(len(found.evaluations), 'evaluation')}, "
        f"{os.stat(out).st_size / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    cli.run(report, ReportConfig, computes=False)
