"""What there is about the package beside its code agrees with it."""

import configparser
import pathlib
import re

import pytest
import yaml

import sb3_varl

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "sb3_varl"


@pytest.fixture
def metadata():
    configuration = configparser.ConfigParser()
    configuration.read(ROOT / "setup.cfg")
    return configuration["metadata"]


def test_the_citation_is_of_this_version(metadata):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == sb3_varl.__version__
    assert citation["license"] == metadata["license"]
    paper, coso = citation["references"]
    assert f"Paper = {paper['url']}" in metadata["project_urls"]
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert paper["title"] in readme
    assert paper["url"] in readme
    assert coso["url"] in readme
    assert coso["title"] in " ".join((ROOT / "docs" / "coso.md").read_text().split())


def test_contributing_names_what_there_is():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    code = "\n".join(file.read_text() for file in PACKAGE.rglob("*.py"))
    routes = text.partition("## Two routes")[2]
    names = set(re.findall(r"`([\w.]+)`", routes))
    assert len(names) > 40
    assert [name for name in names if not re.search(rf"\b{name.rpartition('.')[2]}\b", code)] == []
    files = set(re.findall(r"`([\w/]+(?:\.py|/))`", text))
    assert len(files) > 20
    folders = (ROOT, PACKAGE, ROOT / "tests")
    assert [file for file in files if not any((folder / file).exists() for folder in folders)] == []
