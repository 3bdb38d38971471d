"""Importing the package is quiet, light and offline."""

import subprocess
import sys

import pytest


def python(code, *options):
    result = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def test_import_is_quiet():
    assert python("import sb3_varl", "-W", "error") == ""


@pytest.mark.parametrize("module", ["litellm", "metaworld", "rl_zoo3", "mujoco", "openai"])
def test_heavy_modules_wait_until_they_are_needed(module):
    assert python(f"import sys, sb3_varl; print({module!r} in sys.modules)").strip() == "False"


def test_import_makes_no_network_call():
    code = """
import socket
def refuse(*args, **kwargs):
    raise AssertionError("network call at import")
socket.socket.connect = socket.getaddrinfo = refuse
import sb3_varl
"""
    python(code)


def test_every_public_name_exists():
    python("import sb3_varl; [getattr(sb3_varl, name) for name in sb3_varl.__all__]")
