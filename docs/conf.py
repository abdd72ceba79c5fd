"""How the documentation is built: python -m sphinx -W -b html docs docs/_build"""

import importlib
import os
import sys
from pathlib import Path

REPOSITORY = str(Path(__file__).parent.parent)
sys.path.insert(0, REPOSITORY)  # the commands are those of the clone
os.environ["PYTHONPATH"] = REPOSITORY  # for the pages' code, too

project = "jaxddim"
copyright = "the authors of jaxddim"
version = release = importlib.import_module("jaxddim.version").__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["_build", "paper/*.json"]

html_theme = "sphinx_book_theme"
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
