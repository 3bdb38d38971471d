"""The preview as a command."""

import calendar
import pathlib
import re
import sys

import pytest
from previewed import GO, NAMED, by_picture, make_env

from sb3_varl import AdvisorCallback, FunctionAdvisor
from sb3_varl.preview import preview
from sb3_varl.preview.command import main
from sb3_varl.preview.environments import env_maker
from sb3_varl.testing import VLMServer


def test_where_a_task_sheet_would_bring_rules_it_is_said(capsys):
    env = ["--env", "Preview/Point-v0", "--model", "openai/gpt-4o", "--no-frames", "--out", "shown"]
    main(env)
    said = capsys.readouterr().out
    assert "it would be asked for rules" in said
    prompt = pathlib.Path("shown/prompt.txt").read_text()
    assert prompt in preview(make_env, "openai/gpt-4o", frames=False).prompt
    assert "python -m sb3_varl.draft --env Preview/Point-v0 --task '...' --out sheet.yml" in said
    assert "it would be asked for rules" in re.sub(r"\s+", " ", pathlib.Path("shown/preview.html").read_text())
    main([*env, "--advisor-kwargs", "form:actions"])
    assert "it would be asked for rules" not in capsys.readouterr().out
    assert not preview(make_env, "openai/gpt-4o", sheet=NAMED).could_be_rules


def test_a_class_in_a_file_and_rules_to_go_on_with(capsys, tmp_path):
    pathlib.Path("point.py").write_text(
        "from previewed import NAMED, PointEnv\n\nclass Named(PointEnv):\n    task_sheet = NAMED\n"
    )
    pathlib.Path("mine.json").write_text(GO)
    arguments = ["--model", "rules/mine.json", "--steps", "60", "--ask", "--follow", "3", "--episodes", "2"]
    main(["--env", "point.py:Named", *arguments, "--out", "shown"])
    output = capsys.readouterr().out
    assert "Does it succeed in whole episodes? yes: 2 of 2" in output
    assert "sets no limit to the steps of an episode" in output
    assert "rules.json" not in output
    assert "Asking took" not in output
    assert "requests sent" not in pathlib.Path("shown/preview.html").read_text()
    pathlib.Path("sheet.yml").write_text("goal: Go.\nobservation:\n  - {name: place, start: 0, stop: 2}\n")
    pathlib.Path("registers.py").write_text(
        "import gymnasium as gym\nfrom previewed import PointEnv\n"
        "gym.register('Mine-v0', PointEnv, max_episode_steps=9)\n"
    )
    capsys.readouterr()
    main(["--env", "registers.py:Mine-v0", *arguments[:4], "--sheet", "sheet.yml", "--out", "registered"])
    output = capsys.readouterr().out
    assert "The task sheet does not say what success is" in output
    assert "sets no limit" not in output
    assert "An episode ends after at most 9 steps" in pathlib.Path("registered/preview.html").read_text()
    with pytest.raises(SystemExit, match=r"point.py has no 'Nowhere', expected an environment"):
        main(["--env", "point.py:Nowhere", *arguments])


@pytest.mark.parametrize(("takes", "renders"), [("**kwargs", True), ("", False)])
def test_what_a_function_makes_has_pictures_if_it_takes_them(takes, renders, capsys):
    pathlib.Path("made.py").write_text(
        "import gymnasium as gym\nfrom previewed import PointEnv\n\n"
        f"def make({takes}):\n    return PointEnv({takes})\n\n"
        "gym.register('Made-v0', make, max_episode_steps=9)\n"
    )
    make = env_maker("made.py:Made-v0", {}, frames=True)
    assert (make().render_mode == "rgb_array") is renders
    assert env_maker("made.py:Made-v0", {}, frames=False)().render_mode is None


def test_a_file_is_run_once_beside_its_neighbours(capsys, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "neighbour.py").write_text("from previewed import PointEnv\n")
    (elsewhere / "calendar.py").write_text(
        "from neighbour import PointEnv\n\nprint('run')\n\ndef act(place):\n    return -place / 2\n"
    )
    name = f"{elsewhere / 'calendar.py'}"
    main(["--env", f"{name}:PointEnv", "--policy", f"{name}:act", "--model", "openai/gpt-4o", "--steps", "60"])
    assert capsys.readouterr().out.count("run\n") == 1
    assert sys.modules["calendar"] is calendar


@pytest.mark.usefixtures("vlm_environment")
def test_rules_that_somebody_changed_are_not_written_over(capsys):
    answers = [GO, GO, GO.replace("-5", "-4")]
    pathlib.Path("sheet.yml").write_text("goal: Go.\nobservation:\n  - {name: place, start: 0, stop: 2}\n")
    written = []
    with VLMServer(lambda states, images: answers.pop(0)) as server:
        for _ in range(3):
            env = [
                "--env",
                "Preview/Point-v0",
                "--model",
                "openai/gpt-4o",
                "--sheet",
                "sheet.yml",
                "--ask",
                "--out",
                "shown",
            ]
            main([*env, "--steps", "60", "--no-frames", "--advisor-kwargs", f"api_base:{server.api_base}"])
            said = capsys.readouterr().out
            assert "Asking took 1 request" in said
            assert "requests sent" in pathlib.Path("shown/preview.html").read_text()
            written += re.findall(r'AdvisorCallback\("(.*)", sheet="sheet.yml"\)', said)
    assert written == ["rules/shown/rules.json"] * 2 + ["rules/shown/rules-2.json"]
    texts = [AdvisorCallback(name).advisor.text for name in written[1:]]
    assert "-5 * place" in texts[0]
    assert "-4 * place" in texts[1]


def test_control_c_keeps_what_was_answered(capsys, tmp_path, monkeypatch):
    n_asked = 0

    def advise(place):
        nonlocal n_asked
        n_asked += 1
        return -place / 2

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("sb3_varl.preview.page.make_advisor", lambda *args, **kwargs: FunctionAdvisor(advise))
    monkeypatch.setattr("sb3_varl.preview.page.Interview.check", interrupted)
    main(["--env", "Preview/Point-v0", "--model", "simulated/point", "--ask", "--check", "--follow", "5"])
    assert n_asked == 16
    output = capsys.readouterr().out
    assert "SIMULATED" in output
    assert "broken off by Ctrl-C" in output
    assert "advised</span>" in (tmp_path / "preview" / "preview.html").read_text()


@pytest.mark.usefixtures("vlm_environment")
def test_command(capsys, tmp_path):
    with VLMServer(by_picture) as server:
        main(
            [
                *("--env", "previewed:Preview/Point-v0", "--model", "openai/gpt-4o", "--states", "16"),
                *("--advisor-kwargs", f"api_base:{server.api_base}", "max_requests:30", "--env-kwargs"),
                *("repeatable:True", "--ask", "--check", "--follow", "12", "--hold", "2", "--out", "shown"),
            ]
        )
    output = capsys.readouterr().out
    assert "This query: 1 request, " in output
    assert re.search(r"A run of 6 queries of 32 states: 12 requests, \d+ tokens in, about ", output)
    assert "Does following it lead to success? yes: 4 of 4 copies of the environment succeeded" in output
    assert (tmp_path / "shown" / "preview.html").stat().st_size > 10_000


def test_recorded_rules_are_shown_with_the_prompt_for_rules(capsys):
    env = ["--env", "sb3_varl.metaworld:SparseMetaWorld/push-v3", "--no-frames", "--states", "4", "--steps", "20"]
    main([*env, "--model", "recorded/push-v3", "--ask"])
    output = capsys.readouterr().out
    assert "is no model: nothing is sent" in output
    assert "A run of up to 3 queries: 3 requests" in output
    page = pathlib.Path("preview/preview.html").read_text()
    assert "This advisor is recorded" in page
    assert "write down rules from which the right action for ANY state follows" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "Nowhere-v0"], r"Nowhere.*Expected a name that gym.register was given.*boat.py:Boat"),
        (["--env", "nomodule:Nowhere-v0"], "No module named 'nomodule'"),
        (["--env", "CartPole-v1", "--task", "x"], "continuous actions"),
        (["--env", "Preview/Point-v0", "--env-kwargs", "x"], "'x' is not of the form name:value"),
        (["--env", "Preview/Point-v0", "--sheet", "none.yml"], "none.yml"),
        (["--env", "Preview/Point-v0", "--follow", "3"], "give --ask, too"),
    ],
)
def test_command_says_what_is_wrong(capsys, arguments, message):
    with pytest.raises(SystemExit, match=message):
        main([*arguments, "--model", "openai/gpt-4o"])
