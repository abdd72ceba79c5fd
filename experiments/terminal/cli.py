"""The command line of every command: parsing flags and reporting user errors.

A user error ends a command with one line on stderr and exit code 2, Ctrl-C with one line and 130.
Other errors keep their traceback.
"""

import contextlib
import dataclasses
import difflib
import errno
import io
import itertools
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.terminal import interrupts, processes, startup
from experiments.terminal.errors import UserError
from experiments.terminal.files import located
from experiments.terminal.texts import printable
from jaxddim.runs.config import ImageSize
from jaxddim.runs.errors import RunError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""Of writing to a disk that is full, or to one that must not be written to."""


def run(
    main: Callable[[Any], int | None],
    config_type: type,
    *,
    presets: Mapping[str, Callable[[], Any]] | None = None,
    recorded: Callable[[str], Any] | None = None,
    exclusive: Sequence[tuple[str, str]] = (),
    computes: bool = True,
) -> None:
    """Parses sys.argv into a config_type, sets up the process, calls main, and exits.

    Args:
      main: runs the command; its return value, if any, is the exit code.
      config_type: a dataclass; its fields are the flags.
      presets: named instances that ``--config NAME`` starts from.
      recorded: ``recorded(workdir)``, the instance to start from without --config, or None.
      exclusive: pairs of flags that cannot be given together.
      computes: whether it computes with JAX in this process.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names may hold what the terminal has not
            stream.reconfigure(errors="backslashreplace")
    with interrupts.handled() as interrupted:
        try:
            config = parse(
                config_type,
                sys.argv[1:],
                presets=presets,
                recorded=recorded,
                exclusive=exclusive,
            )
            if computes:
                startup.start(distributed=getattr(config, "distributed", False))
            code = main(config) or 0
            processes.end()
        except (UserError, RunError) as error:
            if interrupted:
                raise
            code = _fail(str(error))
            processes.last_words("")
            processes.leave(code)
        except Exception as error:
            if interrupted:
                raise
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                place = error.filename or "a file"
                code = _fail(f"{place} cannot be written ({error.strerror}): free some space there")
                processes.leave(code)
            elif processes.joined():
                if processes.lost(error):
                    _fail(f"another process of this run was lost ({error})")
                else:
                    traceback.print_exc()
                code = 1
                processes.leave(code)
            else:
                raise
    sys.exit(code)


def _fail(message: str) -> int:
    print("error: " + printable(" ".join(message.split())), file=sys.stderr)
    return 2


def parse(
    config_type: type,
    argv: Sequence[str],
    *,
    presets: Mapping[str, Callable[[], Any]] | None = None,
    recorded: Callable[[str], Any] | None = None,
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
    default = None
    workdir = (_values(argv, "--workdir") or [""])[-1]
    if recorded is not None and workdir and not _values(argv, "--config"):
        default = recorded(str(located(workdir)))
    if default is None:
        default = _preset(argv, presets) if presets is not None else config_type()
    if {"-h", "--help"} & set(argv):  # shown as required, instead of by an empty default
        missing = [f.name for f in dataclasses.fields(default) if getattr(default, f.name) == ""]
        default = dataclasses.replace(default, **dict.fromkeys(missing, tyro.MISSING))
    caught = io.StringIO()
    try:
        with contextlib.redirect_stderr(caught):
            config, unknown = tyro.cli(
                config_type,
                prog=_program(),
                args=list(argv),
                return_unknown_args=True,
                default=default,
                registry=_types(),
            )
    except SystemExit as stop:
        if stop.code == 0:
            raise
        raise UserError(_one_line(caught.getvalue())) from None
    if unknown:
        raise UserError(_unknown(unknown[0], argv, config_type))
    for pair in exclusive:
        for one, other in (pair, pair[::-1]):
            if one in given:  # it overrides the other one in the named configuration
                config = _without(config, other.removeprefix("--").replace("-", "_").split("."))
    return _expanded(config)


def _types() -> Any:
    """tyro's types, and sizes of images: 64, or HEIGHTxWIDTH."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

    registry = ConstructorRegistry()

    def size(info: Any) -> Any:
        if info.type != ImageSize:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="PIXELS|HEIGHTxWIDTH",
            instance_from_str=lambda words: _size(words[0]),
            is_instance=lambda value: isinstance(value, (int, tuple)),
            str_from_instance=_text,
        )

    registry.primitive_rule(size)
    return registry


def _text(size: ImageSize) -> list[str]:
    return [str(size) if isinstance(size, int) else "x".join(map(str, size))]


def _size(word: str) -> ImageSize:
    """The side of a square, or (height, width)."""
    sides = word.lower().split("x")
    if len(sides) > 2 or not all(re.fullmatch("-?[0-9]+", side) for side in sides):
        raise ValueError(f"expected pixels, or HEIGHTxWIDTH as 48x64, got {word!r}")
    height, width = int(sides[0]), int(sides[-1])
    return height if height == width else (height, width)


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


def _values(argv: Sequence[str], flag: str) -> list[str]:
    """What stands behind a flag, each time it is given."""
    values = [value for word, value in itertools.pairwise(argv) if word == flag]
    return values + [word.partition("=")[2] for word in argv if word.startswith(f"{flag}=")]


def _preset(argv: Sequence[str], presets: Mapping[str, Callable[[], Any]]) -> Any:
    names = _values(argv, "--config")
    name = names[-1] if names else next(iter(presets))
    if name not in presets:
        raise UserError(f"unknown configuration {name!r}{nearest(name, presets)}")
    return presets[name]()


def nearest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """'; did you mean X?' if a known name is similar, else a list of the known names."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; expected one of {', '.join(known)}"


def flags(config_type: type, prefix: str = "--") -> dict[str, str]:
    """All flags of a dataclass and of the dataclasses in it.

    Returns:
      For each the flag that switches it off, or "" if it takes a value.
    """
    found = {}
    for field in dataclasses.fields(config_type):
        name = field.name.rstrip("_").replace("_", "-")
        nested = field.default_factory
        if isinstance(nested, type) and dataclasses.is_dataclass(nested):
            found |= flags(nested, f"{prefix}{name}.")
        else:
            found[prefix + name] = f"{prefix}no-{name}" if field.type is bool else ""
    return found


def _unknown(word: str, argv: Sequence[str], config_type: type) -> str:
    known = flags(config_type)
    flag, _, value = word.partition("=")
    if not word.startswith("-"):  # a value, of the flag before it or of FLAG=VALUE
        owners = (a for a, b in zip(["", *argv], argv, strict=False) if b == word)
        owners = (*owners, *(a.partition("=")[0] for a in argv if a.partition("=")[2] == word))
        flag, value = next(iter(owners), ""), word
    flag = flag.replace("_", "-")
    switches = {name: off for name, off in known.items() if off}
    for on, off in switches.items():
        if flag in (on, off) and value:
            return f"{on} takes no value, got {value!r}: give {on} to switch it on, {off} for off"
    if not word.startswith("-"):
        return f"unexpected argument {word!r}: flags look like --name value; see --help"
    hint = _similar(flag, [*known, *switches.values()])
    return f"unknown flag {word.partition('=')[0]}{hint} (--help lists all flags)"


def _similar(flag: str, known: Sequence[str]) -> str:
    """'; did you mean X?' for a flag without its group, its initials, or a similar one."""
    last = {name: re.split(r"[.]|^--", name)[-1] for name in known}
    wanted = flag.lstrip("-").rpartition(".")[2]
    found = [name for name in known if last[name] == wanted]
    if flag.startswith("--no-"):
        group, _, name = flag.removeprefix("--no-").rpartition(".")
        found = [off for off in known if off == f"--{group}.no-{name}"] or found
    if not found and len(wanted) > 1:
        initials = {name: "".join(part[0] for part in last[name].split("-")) for name in known}
        found = [name for name in known if initials[name] == wanted]
    if not found:
        full = {name: name for name in known} | {f"--{part}": name for name, part in last.items()}
        close = difflib.get_close_matches(flag, list(full), n=1, cutoff=0.5)
        found = [full[name] for name in close]
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _one_line(boxed: str) -> str:
    """The message in tyro's output: below a title, inside a frame or between rules."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", boxed)  # coloured on a terminal
    lines = [line.strip("│ ") for line in plain.splitlines()]
    blocks = itertools.groupby(lines[1:], lambda line: bool(re.fullmatch("[╰─╯-]*", line)))
    message = " ".join(next((list(block) for rule, block in blocks if not rule), lines))
    whole = "expected a whole number, got"
    message = message.replace("invalid literal for int() with base 10:", whole)
    message = message.removeprefix("Error parsing ")
    message = message.replace("could not convert string to float:", "expected a number, got")
    return message + " (--help lists all flags)"
