"""The model that is named as an example is the same everywhere, and there is such a model."""

import pathlib
import re

from sb3_varl.advisors import EXAMPLE_MODEL
from sb3_varl.advisors.providers import import_litellm, price_of

ROOT = pathlib.Path(__file__).parent.parent
# Models of servers that are no provider's.
OWN_SERVERS = {"openai/mock", "openai/scripted", "openai/test", "openai/x"}


def files():
    yield from (ROOT / name for name in ("README.md", "CONTRIBUTING.md") if (ROOT / name).exists())
    for folder in ("docs", "examples", "sb3_varl"):
        yield from (file for file in (ROOT / folder).rglob("*") if file.suffix in (".html", ".md", ".py", ".yml"))


def test_one_model_is_named_everywhere():
    others = {
        str(file.relative_to(ROOT)): names
        for file in files()
        if (names := set(re.findall(r"openai/[\w.-]*\w", file.read_text("utf-8"))) - {EXAMPLE_MODEL, *OWN_SERVERS})
    }
    assert others == {}


def test_it_exists():
    litellm = import_litellm()
    known = litellm.model_cost[EXAMPLE_MODEL.removeprefix("openai/")]
    assert known.get("deprecation_date") is None
    assert known["litellm_provider"] == "openai"
    assert litellm.supports_vision(EXAMPLE_MODEL)
    assert litellm.supports_response_schema(EXAMPLE_MODEL)
    assert price_of(EXAMPLE_MODEL, 1, 1) > 0
