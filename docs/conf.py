"""
Sphinx's configuration.

The pages are read on GitHub as well, so their links are relative paths in the repository. Those that leave this folder
are adapted here: to the page that includes a file, or to a copy of the file, where there is either.
"""

import importlib.util
import os
import pathlib
import re
import sys

from sphinx.application import Sphinx

DOCS = pathlib.Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

import sb3_varl  # noqa: E402

project = "sb3_varl"
version = release = sb3_varl.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx_copybutton"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False

myst_enable_extensions = ["dollarmath"]
# As GitHub names them.
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_mock_imports = [] if importlib.util.find_spec("metaworld") else ["metaworld", "mujoco"]
autodoc_mock_imports += [] if importlib.util.find_spec("peft") else ["transformers", "tokenizers", "peft"]

# Which page shows a file of another folder.
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "examples/README.md": "examples.md"}
_LINK = re.compile(r"\[([^\[\]]*)\]\(([^()\s:#]+)(#[^()\s]*)?\)")


def _adapt_links(text: str, folder: pathlib.Path) -> str:
    def adapt(match: re.Match[str]) -> str:
        label, target, anchor = match.groups(default="")
        file = pathlib.Path(os.path.normpath(folder / target))
        name = file.relative_to(ROOT).as_posix()
        if name in PAGES:
            return f"[{label}]({PAGES[name]}{anchor})"
        if file.is_relative_to(DOCS):
            return f"[{label}]({file.relative_to(DOCS).as_posix()}{anchor})"
        if not file.is_file():
            return label
        target = os.path.relpath(file, DOCS)
        return f"[{label}](<path:{target}>)" if file.suffix == ".md" else f"[{label}]({target})"

    return _LINK.sub(adapt, text)


def _adapt_page(app: Sphinx, docname: str, source: list[str]) -> None:
    source[0] = _adapt_links(source[0], DOCS)


def _adapt_included(app: Sphinx, path: pathlib.Path, docname: str, content: list[str]) -> None:
    content[0] = _adapt_links(content[0], (DOCS / path).resolve().parent)


def setup(app: Sphinx) -> None:
    """
    Have links adapted.

    :param app: Sphinx
    """
    app.connect("source-read", _adapt_page)
    app.connect("include-read", _adapt_included)
