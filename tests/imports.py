"""The import graph of the tree, read from its source: python -m tests.imports prints it.

A room is a folder below a package, with all that lies in it, or a module that lies in none.
"""

import ast
import functools
import os
import statistics
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
PACKAGES = ("jaxddim", "experiments", "benchmarks")

Graph = dict[str, set[str]]


@functools.cache
def modules() -> dict[str, Path]:
    """Every module by its dotted name; a package by that of its folder."""
    found = {}
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """What a file imports, wherever in it: `a.b` for `import a.b`, and `a.b.c` for its names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            yield from (f"{node.module}.{name.name}" for name in node.names)


@functools.cache
def graph() -> Graph:
    """The modules of this tree that each module imports."""

    def here(name: str) -> str | None:
        while name and name not in modules():
            name = name.rpartition(".")[0]
        return name or None

    return {
        name: {found for one in imported(path) if (found := here(one))} - {name}
        for name, path in modules().items()
    }


def outside(name: str) -> set[str]:
    """The packages of others that a module imports."""
    return {one.partition(".")[0] for one in imported(modules()[name])} - set(PACKAGES)


def room(name: str) -> str:
    """The room of a module: its first folder below the package, else itself."""
    return ".".join(name.split(".")[:2])


def rooms() -> Graph:
    """The rooms that each room imports from; a package's own list of names is none."""
    found: Graph = {}
    for name, others in graph().items():
        if "." in name:
            here = found.setdefault(room(name), set())
            here |= {room(other) for other in others if "." in other} - {room(name)}
    return found


def commands() -> set[str]:
    """The modules that are started with `python -m`."""
    start = '__name__ == "__main__"'
    return {name for name, path in modules().items() if start in path.read_text()}


def longest_chain(package: str) -> list[str]:
    """The longest chain of imports within a package.

    Raises:
      ValueError: when there is a circle.
    """
    edges = {n: {o for o in others if inside(o, package)} for n, others in graph().items()}

    @functools.cache
    def below(name: str, above: frozenset[str] = frozenset()) -> tuple[str, ...]:
        if name in above:
            raise ValueError(f"a circle of imports through {name}")
        chains = [below(other, above | {name}) for other in sorted(edges[name])]
        return (name, *max(chains, key=len, default=()))

    return list(max((below(name) for name in edges if inside(name, package)), key=len))


def inside(name: str, package: str) -> bool:
    return name.partition(".")[0] == package


def files_a_folder() -> Counter[str]:
    """How many files every folder of the tree holds; what is hidden or made by tools is no part."""
    found: Counter[str] = Counter()
    for folder, below, files in os.walk(REPOSITORY):
        here = Path(folder).relative_to(REPOSITORY)
        made = {"__pycache__", "_build", "jupyter_execute", "build", "dist", "venv"} | (
            {"runs"} if here == Path() else set()
        )
        below[:] = [name for name in below if name not in made and name[0] != "."]
        below[:] = [name for name in below if not name.endswith(".egg-info")]
        found[str(here)] = sum(name[0] != "." for name in files)
    return found


def mermaid() -> str:
    """The rooms of jaxddim and experiments as a picture, without arrows that others imply."""
    edges = {k: v for k, v in rooms().items() if not inside(k, "benchmarks")}
    lines = ["graph TD"]
    for here in sorted(edges):
        through = {far for other in edges[here] for far in reached(edges, other)}
        lines += [f"    {here} --> {other}" for other in sorted(edges[here] - through)]
    return "\n".join(lines) + "\n"


def reached(edges: Graph, name: str) -> set[str]:
    """All rooms that one imports from, directly or not."""
    found, waiting = set(), set(edges[name])
    while waiting:
        other = waiting.pop()
        found.add(other)
        waiting |= edges[other] - found
    return found


def figures(package: str) -> str:
    """A row of the table of sizes."""
    paths = [path for name, path in modules().items() if inside(name, package)]
    lines = [len(path.read_text().splitlines()) for path in paths]
    functions = {
        f"{path.stem}.{node.name}": node.end_lineno - node.lineno + 1 - documentation(node)
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    longest = max(functions, key=lambda name: functions[name])
    folders = {k: v for k, v in files_a_folder().items() if k.split("/")[0] == package}
    folder = max(folders, key=lambda name: folders[name])
    return (
        f"| {package} | {len(paths)} | {statistics.median(lines):.0f} | "
        f"{statistics.median(functions.values()):.0f} | {longest}, {functions[longest]} | "
        f"{len(longest_chain(package))} | {folder}, {folders[folder]} |"
    )


def documentation(node: ast.FunctionDef) -> int:
    """Lines of a function's docstring."""
    first = node.body[0]
    text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return first.end_lineno - first.lineno + 1 if text else 0


if __name__ == "__main__":
    print(mermaid())
    print("| package | files | lines, median | function, median | longest | chain | folder |")
    print("|---|---|---|---|---|---|---|")
    print(*map(figures, PACKAGES), sep="\n")
    print("", *(" -> ".join(longest_chain(package)) for package in PACKAGES), sep="\n")
