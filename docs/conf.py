"""Configuration of the documentation: python -m sphinx -W docs docs/_build/html."""

from __future__ import annotations

from typing import TYPE_CHECKING

import skvae

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "skvae"
author = "The skvae developers"
copyright = f"2026, {author}"
version = release = skvae.__version__

extensions = [
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
default_role = "py:obj"

# Docstrings taken over from scikit-learn point to its glossary.
suppress_warnings = ["ref.term"]

autodoc_typehints = "none"  # the docstrings say more: shapes and units
numpydoc_show_class_members = False  # the class template lists them
# Every member is documented, with every parameter and nothing that is not one.
numpydoc_validation_checks = {"GL08", "PR01", "PR02"}
# These methods are called by scikit-learn, which says with what.
numpydoc_validation_exclude = {r"EpochMonitor\."}

html_theme = "pydata_sphinx_theme"
html_title = f"skvae {release}"
html_theme_options = {"show_prev_next": False}


def skip_foreign_members(
    app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object
) -> bool | None:
    """Leave out what comes from scikit-learn, which documents it itself."""
    home = getattr(obj, "__module__", None) or ""
    return True if what == "class" and not home.startswith("skvae") else None


def setup(app: Sphinx) -> None:
    """Connect the hook."""
    app.connect("autodoc-skip-member", skip_foreign_members)
