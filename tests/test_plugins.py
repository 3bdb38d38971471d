"""Advisors of other packages, by their entry points."""

import pytest

from conftest import CounterEnv, make_query
from sb3_varl import AdvisorCallback, VLMAdvisor
from sb3_varl.advisors import make_advisor
from sb3_varl.advisors.by_name import check_arguments, is_model
from sb3_varl.preview import preview

MODULE = """
from sb3_varl import Advice

class Pilot:
    def __init__(self, name, task=None, *, speed=1.0, **settings):
        self.name, self.task, self.speed, self.settings = name, task, speed, settings

    def advise(self, query):
        return Advice([[self.speed, 0.0] for _ in query.states])

def make(name, task, *, speed=1.0):
    return Pilot(name, task, speed=speed)

def make_nothing(name, task):
    return None

number = 3
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that puts a package where Python finds it: ``install(name, entry_points)``."""
    (tmp_path / "pilots.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, **entry_points):
        folder = tmp_path / f"{name}-1.5.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        lines = [f"{kind} = {value}" for kind, value in entry_points.items()]
        (folder / "entry_points.txt").write_text("\n".join(["[sb3_varl.advisors]", *lines]))
        monkeypatch.syspath_prepend(tmp_path)  # has Python look again

    return write


def test_a_class_and_a_function_make_advisors(install):
    install("pilots", pilot="pilots:Pilot", made="pilots:make")
    advisor = AdvisorCallback("pilot/left/right", "Go.", advisor_kwargs={"speed": 0.5, "colour": "red"}).advisor
    assert (advisor.name, advisor.task, advisor.speed) == ("left/right", "Go.", 0.5)
    assert advisor.settings == {"colour": "red"}
    assert make_advisor("pilot").name == ""
    advisor = make_advisor("made/up", speed=2.0)
    assert (advisor.name, advisor.task) == ("up", None)
    assert advisor.advise(make_query(2)).actions == [[2.0, 0.0]] * 2


def test_the_preview_takes_a_plugin_for_no_model(install):
    install("pilots", pilot="pilots:make")
    assert preview(CounterEnv(), "pilot/x", "Count.", n_states=2).advisor_name == "pilot/x"


def test_what_is_installed_goes_before_litellm_s_providers_but_not_before_our_own(install, monkeypatch):
    monkeypatch.setenv("GROQ_API_KEY", "not-a-key")
    assert isinstance(make_advisor("groq/llama-4"), VLMAdvisor)
    assert is_model("groq/llama-4")
    install("pilots", groq="pilots:Pilot", simulated="pilots:Pilot")
    assert make_advisor("groq/llama-4").name == "llama-4"
    assert not is_model("groq/llama-4")
    assert type(make_advisor("simulated/reach-v3")).__name__ == "ScriptedAdvisor"


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("no_such_module:Pilot", ImportError, r"\(ModuleNotFoundError: No module named 'no_such_module'\)"),
        ("pilots:Plane", ImportError, r"\(AttributeError: module 'pilots' has no attribute 'Plane'\)"),
        ("pilots:number", TypeError, "which is 3, expected a function or a class"),
        ("pilots:make_nothing", TypeError, "which made None, expected an object with a method advise"),
    ],
)
def test_a_broken_plugin_is_named_with_its_package(install, value, error, message):
    install("air-line", pilot=value)
    with pytest.raises(error, match=f"The advisor 'pilot' is {value} of the package air-line 1.5, .*{message}"):
        make_advisor("pilot/x")


def test_misspelt_arguments_are_found(install):
    install("pilots", made="pilots:make")
    with pytest.raises(TypeError, match=r"make takes no 'sped'\. Did you mean 'speed'\? It takes name, speed, task"):
        make_advisor("made/x", sped=2.0)


def test_two_packages_with_one_name(install):
    install("pilots", pilot="pilots:Pilot")
    install("others", pilot="pilots:make")
    with pytest.raises(ValueError, match=r"Several packages have an advisor 'pilot': others 1\.5, pilots 1\.5"):
        make_advisor("pilot/x")


class Base:
    def __init__(self, base):
        pass


class Passing(Base):
    def __init__(self, own, **others):
        super().__init__(**others)


class Open:
    def __init__(self, **others):
        pass


@pytest.mark.parametrize(
    ("function", "known", "unknown"),
    [
        (Passing, {"own", "base"}, {"others", "self"}),
        (Open, {"anything"}, set()),
        (object, set(), {"anything"}),
        (lambda own, *others: None, {"own"}, {"others"}),
        (lambda own, **others: None, {"own", "anything"}, set()),
    ],
)
def test_arguments(function, known, unknown):
    check_arguments(function, known)
    for name in unknown:
        with pytest.raises(TypeError, match=f"takes no '{name}'"):
            check_arguments(function, [name])
