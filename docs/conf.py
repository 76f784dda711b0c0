"""Configuration of the documentation site. `make docs` builds it."""

import re
from importlib.metadata import version as installed_version

from pygments.lexers.shell import BashLexer
from sphinx.application import Sphinx

project = "Churn platform"
author = "The churn platform's contributors"
version = release = installed_version("churn-platform")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]

# Pages
exclude_patterns = ["_build", "requirements.lock"]
templates_path = ["_templates"]
myst_heading_anchors = 4

# Python API: the page names the packages, and each module below them gets a page.
autosummary_generate = True
autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_typehints = "signature"

# Appearance. Furo follows the reader's choice of light or dark.
html_theme = "furo"
html_title = "Churn platform"
html_copy_source = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True


def _as_restructured_text(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text with Markdown's code spans; Sphinx reads reStructuredText."""
    del app, what, name, obj, options
    lines[:] = [re.sub(r"`([^`]+)`|([|*])|_(?!\w)", _escaped, line) for line in lines]


def _escaped(found: re.Match[str]) -> str:
    return f"``{found[1]}``" if found[1] else "\\" + found[0]


def setup(app: Sphinx) -> None:
    """Convert docstrings before Napoleon (priority 500) reads their sections, and color .env files."""
    app.add_lexer("dotenv", BashLexer)
    app.connect("autodoc-process-docstring", _as_restructured_text, priority=400)
