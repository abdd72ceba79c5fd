"""The pages of docs/: their code runs, their links lead somewhere, and the site has all of them."""

import re

import pytest

from tests import imports

DOCS = imports.REPOSITORY / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), imports.REPOSITORY / "README.md"]
PAGES = [page for page in PAGES if not {"_build", "jupyter_execute"} & {*page.parts}]
RUN = ["howto/step.md"]
"""Pages whose blocks are run here; others are by tests of their own, or when the site is built."""


def name(page):
    return page.relative_to(imports.REPOSITORY).as_posix()


@pytest.mark.parametrize("page", RUN)
def test_its_code_runs(page):
    text = (DOCS / page).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert blocks
    exec("\n".join(blocks), {})


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_its_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#][^)]*)\)", page.read_text())
    links += re.findall(r"^```\{image\} (\S+)", page.read_text(), re.MULTILINE)
    for link in links:
        if not link.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / link.partition("#")[0]).exists(), link


def test_the_site_has_every_page():
    text = (DOCS / "index.md").read_text()
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    listed = {line for tree in trees for line in tree.splitlines() if line and line[0] != ":"}
    pages = {page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES[:-1]}
    parts = {page for page in pages if page.endswith("/table")}  # of other pages
    assert listed == pages - parts - {"index"}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_commands_that_it_names_exist(page):
    known = {path.stem for path in (imports.REPOSITORY / "experiments").glob("*.py")}
    for command in re.findall(r"python -m experiments\.(\w+)", page.read_text()):
        assert command in known
