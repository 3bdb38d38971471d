"""Importing the package is quiet, light and offline."""

import ast
import importlib
import os
import pathlib
import re
import subprocess
import sys
import textwrap

import pytest

import sb3_varl


def python(code, *options):
    result = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def test_import_is_quiet():
    assert python("from sb3_varl import *", "-W", "error") == ""


@pytest.mark.parametrize(
    ("statement", "modules"),
    [
        ("import sb3_varl.testing", {"gymnasium", "numpy", "stable_baselines3", "torch"}),
        ("from sb3_varl import *", {"litellm", "metaworld", "mujoco", "openai", "rl_zoo3"}),
    ],
)
def test_heavy_modules_wait_until_they_are_needed(statement, modules):
    assert python(f"{statement}; import sys; print({modules!r} & sys.modules.keys())").strip() == "set()"


def test_import_makes_no_network_call():
    code = """
import socket
def refuse(*args, **kwargs):
    raise AssertionError("network call at import")
socket.socket.connect = socket.getaddrinfo = refuse
from sb3_varl import *
"""
    python(code)


def test_public_names():
    of_data = {"SPARSE"}
    assert [name for name in sb3_varl.__all__ if getattr(sb3_varl, name, None) is None] == []
    assert {name for name in sb3_varl.__all__ if getattr(getattr(sb3_varl, name), "__name__", None) != name} == of_data
    assert set(sb3_varl.__all__) <= set(dir(sb3_varl))
    with pytest.raises(AttributeError, match="module 'sb3_varl' has no attribute 'VARLX'"):
        _ = sb3_varl.VARLX
    (block, _) = re.findall(r"^if TYPE_CHECKING:\n(.*?)\n\n", pathlib.Path(sb3_varl.__file__).read_text(), re.M | re.S)
    for statement in ast.parse(textwrap.dedent(block)).body:
        for name in statement.names:
            value = getattr(sb3_varl, name.name)
            assert value is getattr(importlib.import_module(statement.module), name.name)
            assert name.name in of_data or value.__module__ == statement.module


_RUN = """
import sys
from conftest import make_query
from sb3_varl.testing import VLMServer
from sb3_varl import VLMAdvisor

with VLMServer() as server:
    advisor = VLMAdvisor(sys.argv[1], "Go.", api_base=server.api_base, max_retries=0)
    advice = advisor.advise(make_query(2, frames=True))
assert advice.rejected == [], advice.rejected
assert all(action is not None for action in advice.actions), advice
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "options"),
    [("openai/test", []), ("openai/test", ["-W", "error"]), ("mistral/pixtral-12b", ["-W", "error::UserWarning"])],
)
def test_a_first_request_is_quiet_and_warnings_about_others_cost_nothing(model, options):
    """Some releases of litellm and pydantic warn of each other's classes in the middle of it."""
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"},
        "PYTHONPATH": str(pathlib.Path(__file__).parent),
        "OPENAI_API_KEY": "not-a-key",
        "MISTRAL_API_KEY": "not-a-key",
    }
    code = _RUN.replace("sys.argv[1]", repr(model))
    result = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout + result.stderr == ""


@pytest.mark.slow
def test_threads_that_make_the_first_advisors_at_once_stay_offline():
    code = """
import os, socket, threading
os.environ["OPENAI_API_KEY"] = "not-a-key"
calls, errors, before = [], [], dict(os.environ)
def refuse(*args, **kwargs):
    calls.append(args)
    raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = refuse
import sb3_varl

def make():
    try:
        sb3_varl.VLMAdvisor("openai/gpt-4o", max_cost=1.0)
    except BaseException as error:
        errors.append(error)

threads = [threading.Thread(target=make) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not calls, calls
assert not errors, errors
assert dict(os.environ) == before
"""
    assert python(code) == ""
