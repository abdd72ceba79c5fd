"""How the documentation is built: python -m sphinx -W -b html docs docs/_build"""

import importlib
import os
import re
import sys
from pathlib import Path

REPOSITORY = str(Path(__file__).parent.parent)
sys.path.insert(0, REPOSITORY)  # the commands are those of the clone
os.environ["PYTHONPATH"] = REPOSITORY  # for the pages' code, too

project = "jaxddim"
author = "the authors of jaxddim"
copyright = author
version = release = importlib.import_module("jaxddim.version").__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["_build", "jupyter_execute", "*/table.md"]

html_theme = "sphinx_book_theme"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = "jaxddim"
html_theme_options = {"show_toc_level": 2, "use_download_button": False, "home_page_in_toc": True}

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 900
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give shapes
autodoc_preserve_defaults = True
default_role = "code"
napoleon_use_ivar = True


def as_restructured_text(app, what, name, obj, options, lines):
    """Escapes what the docstrings, which are plain text, do not mean as markup.

    Indented lines of a module's docstring are formulas, and stay as they are.
    """
    code, source, before, found = False, False, "", []
    for line in lines:
        if source and not line.startswith(" "):
            found.append("")
        source = line.startswith("Source:") or (source and line.startswith(" "))
        line = line.strip() if source else line
        indented = line.startswith("    ")
        if what == "module" and indented and not before.strip() and not code:
            found += ["::", ""]
            code = True
        code = code and (indented or not line.strip())
        example = line.lstrip().startswith((">>>", "..."))
        found.append(line if code or example else re.sub(r"(?<!\\)([*|])", r"\\\1", line))
        before = line
    lines[:] = found


def is_field(app, what, name, obj, skip, options):
    """Leaves out the fields of a NamedTuple, which its docstring has."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app):
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)
    app.connect("autodoc-skip-member", is_field)
