"""The commands, under each of the names that they have."""

import configparser
import json
import pathlib
import subprocess
import sys

import pytest

import sb3_varl
from sb3_varl.__main__ import COMMANDS, main

# In one process: the imports take seconds.
_HELPS = """
import contextlib, io, json, runpy, sys
from sb3_varl.__main__ import main

def first_line(run, *arguments):
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.suppress(SystemExit):
        run(*arguments)
    return output.getvalue().split("\\n")[0]

def run_module(name, *arguments):
    sys.argv = ["python", *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)

helps = {}
for name in ("draft", "preview", "report", "relabel", "zoo"):
    helps[f"sb3-varl {name}"] = first_line(main, [name, "--help"])
    helps[f"python -m sb3_varl.{name}"] = first_line(run_module, f"sb3_varl.{name}", "--help")
    helps[f"python -m sb3_varl {name}"] = first_line(run_module, "sb3_varl", name, "--help")
helps["sb3-varl zoo train"] = first_line(main, ["zoo", "train", "--help"])
helps["python -m sb3_varl.zoo enjoy"] = first_line(run_module, "sb3_varl.zoo", "enjoy", "--help")
json.dump(helps, open("helps.json", "w"))
"""


def run(code):
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.slow
def test_each_command_s_help_has_the_name_that_it_was_called_by(tmp_path):
    run(_HELPS)
    helps = json.loads((tmp_path / "helps.json").read_text())
    assert len(helps) == 3 * len(COMMANDS) + 2
    for name, line in helps.items():
        assert line.startswith(f"usage: {name} "), line


def test_version_and_help_are_there_at_once():
    output = run("""
import sys
from sb3_varl.__main__ import main
for option in ("--version", "--help"):
    try:
        main([option])
    except SystemExit as end:
        assert not end.code
assert not {"gymnasium", "litellm", "numpy", "torch"} & sys.modules.keys()
""")
    first, second, *others = output.splitlines()
    assert first == f"sb3_varl {sb3_varl.__version__}"
    assert second == "usage: sb3-varl [-h] [--version] COMMAND ..."
    for name, _, purpose in COMMANDS:
        assert [name, purpose] in [line.strip().split(maxsplit=1) for line in others]


def test_the_script_is_installed():
    configuration = configparser.ConfigParser()
    configuration.read(pathlib.Path(__file__).parent.parent / "setup.cfg")
    scripts = configuration["options.entry_points"]["console_scripts"]
    assert scripts.split() == ["sb3-varl", "=", f"{main.__module__}:{main.__name__}"]


def test_what_is_wrong_is_said(capsys, monkeypatch):
    with pytest.raises(SystemExit, match=r"^sb3-varl relabel: .*nowhere"):
        main(["relabel", "nowhere"])
    with pytest.raises(SystemExit):
        main(["lable"])
    assert "invalid choice: 'lable'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([])
    assert "required: COMMAND" in capsys.readouterr().err
    monkeypatch.delitem(sys.modules, "sb3_varl.zoo", raising=False)
    monkeypatch.setitem(sys.modules, "rl_zoo3", None)
    with pytest.raises(SystemExit, match=r"^sb3-varl zoo: sb3_varl\.zoo needs rl-zoo"):
        main(["zoo", "train"])
