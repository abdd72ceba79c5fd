"""The command line of every command: parsing flags and reporting user errors.

A user error ends a command with one line on stderr and exit code 2. Other errors keep their
traceback.
"""

import contextlib
import dataclasses
import difflib
import io
import itertools
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.terminal import startup
from experiments.terminal.errors import UserError
from experiments.terminal.files import located
from jaxddim.runs.errors import RunError


def run(
    main: Callable[[Any], int | None],
    config_type: type,
    *,
    presets: Mapping[str, Callable[[], Any]] | None = None,
    exclusive: Sequence[tuple[str, str]] = (),
    computes: bool = True,
) -> None:
    """Parses sys.argv into a config_type, sets up the process, calls main, and exits.

    Args:
      main: runs the command; its return value, if any, is the exit code.
      config_type: a dataclass; its fields are the flags.
      presets: named instances that ``--config NAME`` starts from.
      exclusive: pairs of flags that cannot be given together.
      computes: whether it computes with JAX in this process.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names may hold what the terminal has not
            stream.reconfigure(errors="backslashreplace")
    try:
        config = parse(config_type, sys.argv[1:], presets=presets, exclusive=exclusive)
        if computes:
            startup.start()
        sys.exit(main(config) or 0)
    except (UserError, RunError) as error:
        sys.exit(_fail(str(error)))


def _fail(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2


def parse(
    config_type: type,
    argv: Sequence[str],
    *,
    presets: Mapping[str, Callable[[], Any]] | None = None,
    exclusive: Sequence[tuple[str, str]] = (),
) -> Any:
    """The configuration that the flags describe, with ~ for the home folder in paths expanded.

    Raises:
      UserError: for an unknown flag, configuration or value.
      SystemExit: with code 0 after --help.
    """
    import tyro

    given = [word.partition("=")[0].replace("_", "-") for word in argv if word.startswith("--")]
    for pair in exclusive:
        if set(pair) <= set(given):
            raise UserError(f"{pair[0]} and {pair[1]} exclude each other: give one of them")
    default = {}
    if presets is not None:
        default["default"] = _preset(argv, presets)
    caught = io.StringIO()
    try:
        with contextlib.redirect_stderr(caught):
            config, unknown = tyro.cli(
                config_type,
                prog=_program(),
                args=list(argv),
                return_unknown_args=True,
                **default,
            )
    except SystemExit as stop:
        if stop.code == 0:
            raise
        raise UserError(_one_line(caught.getvalue())) from None
    if unknown:
        raise UserError(_unknown(unknown[0], flags(config_type)))
    for pair in exclusive:
        for one, other in (pair, pair[::-1]):
            if one in given:  # it overrides the other one in the named configuration
                config = _without(config, other.removeprefix("--").replace("-", "_").split("."))
    return _expanded(config)


def _expanded(config: Any) -> Any:
    """The configuration with each text that begins with ~, which is a path, as a whole path."""
    changes = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = _expanded(value)
        elif isinstance(value, str) and value.startswith("~"):
            changes[field.name] = str(located(value))
    return dataclasses.replace(config, **changes)


def _program() -> str | None:
    """The command as it was called, for --help; None without `python -m`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name}" if spec else None


def _without(config: Any, path: list[str]) -> Any:
    """The configuration with the nested field at `path` set to None."""
    name, *rest = path
    value = _without(getattr(config, name), rest) if rest else None
    return dataclasses.replace(config, **{name: value})


def _preset(argv: Sequence[str], presets: Mapping[str, Callable[[], Any]]) -> Any:
    names = [value for flag, value in itertools.pairwise(argv) if flag == "--config"]
    names += [word.partition("=")[2] for word in argv if word.startswith("--config=")]
    name = names[-1] if names else next(iter(presets))
    if name not in presets:
        raise UserError(f"unknown configuration {name!r}{nearest(name, presets)}")
    return presets[name]()


def nearest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """'; did you mean X?' if a known name is similar, else a list of the known names."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; expected one of {', '.join(known)}"


def flags(config_type: type, prefix: str = "--") -> list[str]:
    """All flags of a dataclass and of the dataclasses in it."""
    found = []
    for field in dataclasses.fields(config_type):
        name = prefix + field.name.replace("_", "-")
        nested = field.default_factory
        if isinstance(nested, type) and dataclasses.is_dataclass(nested):
            found += flags(nested, name + ".")
        else:
            found.append(name)
    return found


def _unknown(word: str, known: list[str]) -> str:
    if not word.startswith("-"):
        return f"unexpected argument {word!r}: flags look like --name value; see --help"
    flag = word.partition("=")[0]
    close = difflib.get_close_matches(flag.replace("_", "-"), known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"unknown flag {flag}{hint} (--help lists all flags)"


def _one_line(boxed: str) -> str:
    """The message in tyro's output: below a title, inside a frame or between rules."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", boxed)  # coloured on a terminal
    lines = [line.strip("│ ") for line in plain.splitlines()]
    blocks = itertools.groupby(lines[1:], lambda line: bool(re.fullmatch("[╰─╯-]*", line)))
    message = next((list(block) for rule, block in blocks if not rule), lines)
    return " ".join(message) + " (--help lists all flags)"
