"""What an advisor is shown before it is paid, and what its answers are worth."""

import calendar
import dataclasses
import json
import pathlib
import re
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import A2C, PPO, SAC, TD3
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_varl import (
    Advice,
    AdvisorCallback,
    FunctionAdvisor,
    GuidanceBuffer,
    ObservationSlice,
    ReplayAdvisor,
    RulesAdvisor,
    TaskSheet,
)
from sb3_varl.advice.history import read_queries
from sb3_varl.advice.log import read_records
from sb3_varl.preview import preview
from sb3_varl.preview.checks import changes_with_the_picture, leads_to_success
from sb3_varl.preview.command import main
from sb3_varl.preview.policy import make_act, statistics_of
from sb3_varl.preview.rollouts import Followed, visit
from sb3_varl.report.page import write_report
from sb3_varl.report.relabel import main as relabel
from sb3_varl.testing import VLMServer, http_error

KEY = "planted-key-0123456789"


class PointEnv(gym.Env):
    """A point in the plane that should come to the origin. Its picture has its place in the colour."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    task_sheet = TaskSheet("Move the point to the origin.")

    def __init__(self, render_mode=None, repeatable=True):
        self.observation_space = spaces.Box(-2, 2, (2,), np.float32)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.render_mode, self.repeatable = render_mode, repeatable

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        rng = self.np_random if self.repeatable else np.random.default_rng()
        self.place = rng.uniform(0.5, 1.0, 2) * rng.choice([-1, 1], 2)
        return self.place.astype(np.float32), {}

    def step(self, action):
        self.place = np.clip(self.place + 0.1 * action, -2, 2)
        success = bool(np.abs(self.place).max() < 0.1)
        return self.place.astype(np.float32), float(success), success, False, {"is_success": success}

    def close(self):
        self.is_closed = True

    def render(self):
        return np.full((16, 16, 3), [*(64 * (self.place + 2) - 0.5), 0], np.uint8)


class SilentEnv(PointEnv):
    """It does not say whether it succeeded."""

    def step(self, action):
        *rest, _ = super().step(action)
        return *rest, {}


class CameraEnv(PointEnv):
    """It shows its picture only."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.observation_space = spaces.Box(0, 255, (36, 36, 3), np.uint8)

    def picture(self):
        return np.full((36, 36, 3), [*(64 * (self.place + 2) - 0.5), 0], np.uint8)

    def reset(self, **kwargs):
        super().reset(**kwargs)
        return self.picture(), {}

    def step(self, action):
        _, *rest = super().step(action)
        return self.picture(), *rest


class HiddenEnv(CameraEnv):
    """And its place as an attribute."""

    task_sheet = TaskSheet("Come to the middle.", (), (ObservationSlice("place", 0, 2),))


gym.register("Preview/Point-v0", PointEnv, max_episode_steps=40)
gym.register("Preview/Hidden-v0", HiddenEnv, max_episode_steps=40)


def make_env(**kwargs):
    return gym.make("Preview/Point-v0", **{"render_mode": "rgb_array", **kwargs})


def answer_with(action_of):
    """Make an answer function for ``VLMServer`` from one of an observation and a picture."""

    def answer(states, images):
        items = [
            {"state": state["state"], "action": [float(x) for x in action_of(np.array(state["observation"]), image)]}
            for state, image in zip(states, images, strict=True)
        ]
        return json.dumps({"advice": items})

    return answer


by_numbers = answer_with(lambda place, image: np.clip(-5 * place, -1, 1))
by_picture = answer_with(lambda place, image: np.clip(-5 * (np.array(image.getpixel((3, 3))[:2]) / 64 - 2), -1, 1))
always_the_same = answer_with(lambda place, image: (1.0, 0.0))
rng = np.random.default_rng(0)
at_random = answer_with(lambda place, image: rng.uniform(-1, 1, 2))


def ask(server, env=make_env, **kwargs):
    arguments = {"api_base": server.api_base, "max_retries": 0}
    return preview(env, "openai/gpt-4o", advisor_kwargs=arguments, ask=True, n_steps=60, **kwargs)


def results(shown):
    """What the checks found, by the first words of each."""
    return {check.name.split(" ")[2].strip("?"): check.passed for check in shown.findings.checks}


def test_without_asking_nothing_is_sent_and_no_key_is_needed(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    shown = preview(make_env, "openai/gpt-4o")
    assert shown.findings is None
    assert list(tmp_path.iterdir()) == []
    assert len(shown.query.states) == 16
    # 16 states of two numbers with a small picture each, and prices from litellm's list.
    assert 1_000 < shown.estimate.prompt_tokens < 10_000  # releases of litellm count pictures differently
    assert 100 < shown.estimate.completion_tokens < 500
    assert shown.estimate.cost == pytest.approx(
        2.5e-6 * shown.estimate.prompt_tokens + 1e-5 * shown.estimate.completion_tokens
    )
    assert "Move the point to the origin." in shown.page()
    with pytest.raises(ValueError, match="There is no key for 'openai/gpt-4o'"):
        preview(make_env, "openai/gpt-4o", ask=True)


@pytest.mark.usefixtures("vlm_environment")
def test_what_is_shown_is_what_is_sent(tmp_path):
    with VLMServer(by_numbers) as server:
        arguments = {"api_base": server.api_base, "states_per_request": 6}
        before = preview(make_env, "openai/gpt-4o", "Go home.", advisor_kwargs=arguments)
        assert server.requests == []
        shown = preview(make_env, "openai/gpt-4o", "Go home.", advisor_kwargs=arguments, ask=True)
        sent = [request.body["messages"] for request in server.requests]
    assert len(sent) == before.estimate.requests == 3
    assert sent == before.chats == shown.chats
    page = shown.page()
    for message in sent[0][1]["content"]:
        assert message.get("text", "").replace('"', "&#34;") in page
        assert message.get("image_url", {}).get("url", "") in page
    assert "Task: Go home." in page


@pytest.mark.usefixtures("vlm_environment")
def test_answers_are_on_disk_and_beside_the_states(tmp_path):
    with VLMServer(by_numbers) as server:
        shown = ask(server, n_states=5)
    (log,) = (tmp_path / "preview").iterdir()
    assert [record["type"] for record in read_records(log)] == ["query", "request", "answer", "advice"]
    page = shown.page()
    assert page.count("advised</span>") == 5
    assert shown.findings.usage.requests == 1
    assert results(shown) == {"answer": True, "differ": True}
    for action, state in zip(shown.findings.advice.actions, shown.query.states, strict=True):
        assert np.allclose(action, np.clip(-5 * state.observation, -1, 1), atol=1e-3)


@pytest.mark.usefixtures("vlm_environment")
@pytest.mark.parametrize(
    ("answer", "differ", "same", "picture", "following"),
    [
        (by_numbers, True, True, None, True),
        (by_picture, True, True, True, True),
        (always_the_same, False, True, None, None),
        (at_random, True, False, None, None),
    ],
)
def test_the_checks_tell_who_understands(answer, differ, same, picture, following):
    with VLMServer(answer) as server:
        shown = ask(server, check=True, follow_rounds=8, hold=2)
    found = results(shown)
    assert found["differ"] is differ
    assert found["say"] is same
    assert found["change"] is picture
    assert found["it"] is following
    assert len(shown.findings.followed) == 4
    # A frame before each advice, and one at the end, of the state itself first.
    for result in shown.findings.followed:
        assert np.array_equal(result.frames[0], result.start.frame)
        assert result.success is (following is True)


RULES = """{"rules": [
{"name": "there <b>already</b>", "let": {"far": "norm(place) > 0.05"}, "when": "not far", "action": null},
{"name": "go", "when": "true", "action": ["clip(-5 * place, -1, 1)"]},
{"name": "bad", "when": "wrist", "action": ["0", "0"]}]}"""


def test_rules_are_shown_and_followed_without_asking_again(tmp_path):
    sheet = TaskSheet("Come to the middle.", (), (ObservationSlice("place", 0, 2),))
    with VLMServer(lambda states, images: RULES) as server:
        shown = ask(server, sheet=sheet, follow_rounds=30, log_path=tmp_path / "log")
        assert len(server.requests) == 1
    assert shown.findings.checks[-1].passed
    assert shown.findings.fired[1] > 3
    page = shown.page()
    assert "Its rules" in page
    assert "there &lt;b&gt;already&lt;/b&gt;" in page
    assert "let far = norm(place) &gt; 0.05" in page
    assert "there is no wrist, only place" in page
    report = write_report(tmp_path / "log").read_text()
    assert "<code>clip(-5 * place, -1, 1)</code>" in report
    assert "there &lt;b&gt;already&lt;/b&gt;" in report


def test_why_rules_cannot_be_used_is_shown(tmp_path):
    sheet = TaskSheet("Come to the middle.", (), (ObservationSlice("place", 0, 2),))
    rules = [
        {"name": "bad", "when": "wrist > 0", "action": ["0", "0"]},
        {"name": "never", "when": "1 > 2", "action": ["0", "0"]},
    ]
    with VLMServer(lambda states, images: json.dumps({"rules": rules[: 1 + len(server.requests) // 2]})) as server:
        shown = [ask(server, sheet=sheet, log_path=tmp_path / str(i)) for i in range(2)]
    assert "For instance, bad: there is no wrist, only place. Take one of them." in shown[0].findings.checks[0].text
    assert "never: 1 &gt; 2 holds in no state" in shown[1].page()


def test_rules_over_what_the_policy_does_not_see_are_followed(tmp_path):
    with VLMServer(lambda states, images: RULES) as server:
        advisor_kwargs = {"api_base": server.api_base, "form": "rules"}
        shown = preview(
            lambda: gym.make("Preview/Hidden-v0", render_mode="rgb_array"),
            *("openai/gpt-4o",),
            advisor_kwargs=advisor_kwargs,
            observe="place",
            ask=True,
            n_steps=60,
            follow_rounds=30,
            log_path=tmp_path / "log",
        )
        assert len(server.requests) == 1
        assert "place" in server.requests[0].text
    assert shown.findings.checks[-1].passed
    with pytest.raises(ValueError, match="observe is 'wrist', expected the name of an attribute"):
        preview(lambda: gym.make("Preview/Hidden-v0"), "simulated/push-v3", observe="wrist")


NAMED = TaskSheet("Come to the middle.", (), (ObservationSlice("place", 0, 2),))


def follow_whole(env, **kwargs):
    shown = preview(env, RulesAdvisor(GO), sheet=NAMED, ask=True, n_steps=60, follow_rounds=1, frames=False, **kwargs)
    (check,) = [check for check in shown.findings.checks if "whole episodes" in check.name]
    return shown, check


GO = '{"rules": [{"name": "go", "action": ["clip(-5 * place, -1, 1)"]}]}'


def test_rules_are_followed_in_whole_episodes_and_what_became_of_them_is_shown():
    shown, check = follow_whole(make_env, n_episodes=7)
    assert check.passed
    assert re.search(
        r"7 of 7 episodes succeeded .* from start to end, which took 1?\d steps on average\. The mean ", check.text
    )
    page = shown.page()
    assert "They were followed for 7 episodes of at most" in page
    assert "7 of 7 succeeded" in page
    _, again = follow_whole(make_env, n_episodes=7)
    assert again == check
    assert preview(make_env, RulesAdvisor(GO), sheet=NAMED, ask=True, frames=False).findings.correction == []


def test_a_function_is_followed_in_whole_episodes_and_a_model_s_single_actions_are_not():
    shown = preview(make_env, FunctionAdvisor(lambda place: [1.0, 1.0]), ask=True, follow_rounds=1, n_episodes=3)
    check = shown.findings.checks[-1]
    assert check.passed is False
    assert "0 of 3 episodes succeeded" in check.text
    assert "; the others had 40 steps" in check.text
    assert shown.findings.correction == []


def test_success_that_the_last_step_does_not_say_is_told_of():
    class Passing(PointEnv):
        """Its episodes go on after success, and only the step itself says so."""

        def step(self, action):
            observation, reward, _, truncated, info = super().step(action)
            self.n = getattr(self, "n", 0) + 1
            success = info["is_success"] and self.n % 40 != 0
            return observation, reward, False, truncated, {"is_success": success}

    _, check = follow_whole(lambda: gym.wrappers.TimeLimit(Passing(), 40), n_episodes=2)
    assert check.passed is False
    assert "In 2, an earlier step succeeded and the last did not." in check.text


def test_episodes_without_an_end_are_told_of(monkeypatch):
    monkeypatch.setattr("sb3_varl.preview.episodes.MAX_STEPS", 50)

    class Endless(PointEnv):
        def step(self, action):
            observation, reward, *_ = super().step(action)
            return observation, reward, False, False, {}

    _, check = follow_whole(Endless, n_episodes=2)
    assert check.passed is None
    assert "2 had not ended after 50 steps. An episode needs an end, such as max_episode_steps" in check.text
    assert 'does not say whether it succeeded (info["is_success"] of the last step)' in check.text


def test_where_a_task_sheet_would_bring_rules_it_is_said(capsys):
    env = ["--env", "Preview/Point-v0", "--model", "openai/gpt-4o", "--no-frames", "--out", "shown"]
    main(env)
    assert "it would be asked for rules" in capsys.readouterr().out
    assert "it would be asked for rules" in re.sub(r"\s+", " ", pathlib.Path("shown/preview.html").read_text())
    main([*env, "--advisor-kwargs", "form:actions"])
    assert "it would be asked for rules" not in capsys.readouterr().out
    assert not preview(make_env, "openai/gpt-4o", sheet=NAMED).could_be_rules


def test_a_prompt_for_rules_shows_a_few_of_the_states():
    page = preview(make_env, "openai/gpt-4o", sheet=NAMED, frames=False).page()
    (n,) = re.findall(r"The prompt shows (\d+) of them", page)
    assert 0 < int(n) < 16
    assert "The prompt shows" not in preview(make_env, "openai/gpt-4o", frames=False).page()


def test_a_class_in_a_file_and_rules_to_go_on_with(capsys, tmp_path):
    pathlib.Path("point.py").write_text(
        "from test_preview import NAMED, PointEnv\n\nclass Named(PointEnv):\n    task_sheet = NAMED\n"
    )
    pathlib.Path("mine.json").write_text(GO)
    arguments = ["--model", "rules/mine.json", "--steps", "60", "--ask", "--follow", "3", "--episodes", "2"]
    main(["--env", "point.py:Named", *arguments, "--out", "shown"])
    output = capsys.readouterr().out
    assert "Does it succeed in whole episodes? yes: 2 of 2" in output
    assert "rules.json" not in output
    pathlib.Path("sheet.yml").write_text("goal: Go.\nobservation:\n  - {name: place, start: 0, stop: 2}\n")
    pathlib.Path("registers.py").write_text(
        "import gymnasium as gym\nfrom test_preview import PointEnv\n"
        "gym.register('Mine-v0', PointEnv, max_episode_steps=9)\n"
    )
    main(["--env", "registers.py:Mine-v0", *arguments[:4], "--sheet", "sheet.yml", "--out", "registered"])
    assert "An episode ends after at most 9 steps" in pathlib.Path("registered/preview.html").read_text()
    with pytest.raises(SystemExit, match=r"point.py has no 'Nowhere', expected an environment"):
        main(["--env", "point.py:Nowhere", *arguments])


def test_a_file_is_run_once_beside_its_neighbours(capsys, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "neighbour.py").write_text("from test_preview import PointEnv\n")
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
            written += re.findall(r'AdvisorCallback\("(.*)"\)', capsys.readouterr().out)
    assert written == ["rules/shown/rules.json"] * 2 + ["rules/shown/rules-2.json"]
    texts = [AdvisorCallback(name).advisor.text for name in written[1:]]
    assert "-5 * place" in texts[0]
    assert "-4 * place" in texts[1]


def test_who_does_not_look_is_seldom_taken_for_one_who_does():
    rng = np.random.default_rng(0)
    space = spaces.Box(-1, 1, (4,))

    def answer(noise, places):
        return Advice(list(np.clip(places + noise * rng.normal(size=places.shape), -1, 1)))

    blind, seeing = [], []
    for _ in range(200):
        numbers, pictures = rng.uniform(-1, 1, (2, 16, 4))
        blind.append(changes_with_the_picture(*(answer(0.3, numbers) for _ in range(3)), space).passed)
        by_both = [answer(0.3, (numbers + picture) / 2) for picture in (pictures, pictures, np.roll(pictures, 8, 0))]
        seeing.append(changes_with_the_picture(*by_both, space).passed)
    assert np.mean([passed is True for passed in blind]) < 0.1
    assert np.mean([passed is True for passed in seeing]) > 0.8


@pytest.mark.usefixtures("vlm_environment")
def test_what_cannot_be_used_is_shown_with_its_reason():
    def answer(states, images):
        items = [
            {"state": 0, "action": [9, 9]},
            {"state": 1, "action": ["<script>", 0]},
            {"state": 2, "action": [0, 1]},
        ]
        return json.dumps({"advice": items})

    with VLMServer(answer) as server:
        page = ask(server, n_states=4).page()
    verdicts = re.findall(r'class="verdict">([^<]*)<', page)
    assert verdicts == ["rejected: out of bounds", "rejected: not numbers", "advised", "abstained"]
    assert "<script>" not in page


@pytest.mark.usefixtures("vlm_environment")
def test_a_server_that_is_down_is_told_of(tmp_path):
    with VLMServer(always=http_error(401, f"Wrong key: {KEY}")) as server:
        shown = ask(server, n_states=4, check=True, follow_rounds=2)
    assert shown.findings.advice.actions == [None] * 4
    # Having no answer, it is not asked again.
    assert results(shown) == {"answer": False, "differ": None, "it": None}  # nothing could be followed
    assert len(server.requests) == 1
    page = shown.page()
    assert "Wrong key" in page
    assert KEY not in page
    assert "rejected: request failed" in page


@pytest.mark.usefixtures("vlm_environment")
def test_a_server_that_is_not_there_is_told_of():
    with VLMServer() as server:
        pass
    shown = ask(server, n_states=4)
    assert results(shown)["answer"] is False
    assert len(shown.findings.failures) == 1


ONE_FOR_ALL = make_env()


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (make_env(repeatable=False), "did not come to the same state"),
        (PointEnv("rgb_array"), "give a function that makes it"),
        (Monitor(make_env()), "cannot be made again as it was .*; give a function that makes it"),
        (lambda: ONE_FOR_ALL, "returns the same one each time"),
    ],
)
def test_what_cannot_be_repeated_is_not_followed(env, message):
    advisor = FunctionAdvisor(lambda place: np.clip(-place, -1, 1))
    shown = preview(env, advisor, ask=True, follow_rounds=3, n_steps=60)
    (check,) = [check for check in shown.findings.checks if "following" in check.name]
    assert check.passed is None
    assert re.search(f"Not tried: .*{message}", check.text)
    assert shown.findings.followed == []
    if isinstance(env, gym.Env):  # the user's, to be closed by the user
        assert not hasattr(env.unwrapped, "is_closed")


def test_an_environment_that_breaks_while_advice_is_followed_costs_no_page():
    class BrokenEnv(PointEnv):
        def step(self, action):
            if action[0] == 0.5:
                raise RuntimeError("the gripper is stuck")
            return super().step(action)

    shown = preview(BrokenEnv, FunctionAdvisor(lambda place: [0.5, 0]), ask=True, follow_rounds=3, frames=False)
    assert "It broke off: RuntimeError: the gripper is stuck" in shown.page()


def test_nobody_advises():
    shown = preview(make_env, FunctionAdvisor(lambda place: None), ask=True, check=True, follow_rounds=3)
    assert results(shown) == {"answer": False, "differ": None, "it": None, "succeed": None}  # nothing could be followed


def test_advice_may_be_followed_in_part():
    answers = iter([[0.0, 0.0]] * 16 + [None] * 99)
    shown = preview(make_env, FunctionAdvisor(lambda place: next(answers)), ask=True, follow_rounds=3)
    assert results(shown)["it"] is None
    assert shown.findings.checks[-1].text == "There was no advice to follow."


def test_without_a_word_about_success_returns_are_compared():
    def make():
        return gym.wrappers.TimeLimit(SilentEnv("rgb_array"), 40)

    shown = preview(make, FunctionAdvisor(lambda place: np.clip(-5 * place, -1, 1)), ask=True, follow_rounds=5)
    check, whole = shown.findings.checks[-2:]
    assert check.passed is whole.passed is None
    assert "The mean return is 1, and was " in check.text
    assert "does not say whether it succeeded" in check.text
    assert "It was followed in 20 episodes from start to end" in whole.text
    assert "does not say whether it succeeded" in whole.text


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


def test_a_log_of_something_else_is_refused(tmp_path):
    advisor = FunctionAdvisor(np.sign)
    preview(make_env, advisor, ask=True, log_path=tmp_path / "log")
    with pytest.raises(ValueError, match="holds the advice log of something else"):
        preview(make_env, advisor, ask=True, log_path=tmp_path / "log")


def test_images_are_as_the_policy_sees_them(tmp_path):
    def make():
        return gym.wrappers.TimeLimit(CameraEnv(render_mode="rgb_array"), 40)

    model = PPO("CnnPolicy", make(), n_steps=8, batch_size=8, seed=0)
    model.save(tmp_path / "model.zip")
    advisor = FunctionAdvisor(lambda image: np.clip(-5 * (image[:2, 3, 3] / 64 - 2), -1, 1))
    shown = preview(make, advisor, policy=str(tmp_path / "model.zip"), ask=True, follow_rounds=6)
    assert shown.query.states[0].observation.shape == (3, 36, 36)
    assert results(shown)["it"] is True


def test_states_are_those_of_a_saved_policy(tmp_path):
    env = VecNormalize(DummyVecEnv([make_env]))
    model = SAC("MlpPolicy", env, learning_starts=5, use_sde=True, policy_kwargs={"net_arch": [8]}, seed=0).learn(50)
    model.save(tmp_path / "model.zip")
    env.save(str(tmp_path / "vecnormalize.pkl"))
    shown = preview(make_env, FunctionAdvisor(np.sign), policy=str(tmp_path / "model.zip"), n_states=8, n_steps=20)
    for state in shown.query.states:
        action = model.predict(env.normalize_obs(state.observation[None]), deterministic=True)[0][0]
        assert np.allclose(state.executed_action, action, atol=1e-5)


def test_rewards_are_not_normalised(tmp_path):
    env = VecNormalize(DummyVecEnv([make_env]))
    model = SAC("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, seed=0)
    env.ret_rms.var = np.full_like(env.ret_rms.var, 1e4)
    model.save(tmp_path / "model.zip")
    env.save(str(tmp_path / "vecnormalize.pkl"))
    advisor = FunctionAdvisor(lambda place: model.predict(env.normalize_obs(place[None]), deterministic=True)[0][0])
    shown = preview(make_env, advisor, policy=str(tmp_path / "model.zip"), ask=True, follow_rounds=9, hold=1)
    before, after = re.findall(r"is ([\d.]+), and was ([\d.]+) when", shown.findings.checks[-2].text)[0]
    assert before == after


@pytest.mark.parametrize(
    ("algorithm", "arguments"), [(PPO, {"n_steps": 8, "batch_size": 8}), (TD3, {}), (A2C, {"use_sde": True})]
)
def test_any_algorithm_s_policy_will_do(tmp_path, algorithm, arguments):
    model = algorithm("MlpPolicy", make_env(), seed=0, **arguments)
    model.save(tmp_path / "model.zip")
    env = DummyVecEnv([make_env])
    visited = visit(env, make_act(str(tmp_path / "model.zip"), env, 0), 4, 10)
    for state in visited.states:
        assert np.array_equal(visited.actions[state.step], state.executed_action)
    other = DummyVecEnv([lambda: gym.make("Pendulum-v1")])
    with pytest.raises(ValueError, match="is for the observation space"):
        make_act(str(tmp_path / "model.zip"), other, 0)


def test_states_are_those_of_a_function(tmp_path):
    (tmp_path / "mine.py").write_text("def act(place):\n    return -place / 2\n")
    env = DummyVecEnv([make_env])
    for state in visit(env, make_act(f"{tmp_path / 'mine.py'}:act", env, 0), 4, 10).states:
        assert np.allclose(state.executed_action, -state.observation / 2)
    with pytest.raises(ValueError, match="has no 'run', expected a function from an observation"):
        make_act(f"{tmp_path / 'mine.py'}:run", env, 0)
    with pytest.raises(FileNotFoundError, match="There is no file"):
        make_act("nowhere.py:act", env, 0)
    with pytest.raises(ValueError, match=r"The policy is 'best', expected random, a model's .zip"):
        make_act("best", env, 0)


def test_the_same_seed_visits_the_same_states():
    def states(seed):
        env = DummyVecEnv([make_env])
        visited = visit(env, make_act("random", env, seed), 5, 50, seed=seed)
        return np.array([state.observation for state in visited.states])

    assert np.array_equal(states(1), states(1))
    assert not np.array_equal(states(1), states(2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"check": True}, "give ask=True, too"),
        ({"n_states": 0}, "n_states is 0, expected an integer that is at least 1"),
        ({"n_states": 99, "n_steps": 20}, "99 states cannot be drawn from 20 steps"),
    ],
)
def test_arguments_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        preview(make_env, FunctionAdvisor(np.sign), **arguments)


def test_a_task_is_needed():
    with pytest.raises(ValueError, match="does not know the task"):
        preview(lambda: gym.make("Pendulum-v1"), "openai/gpt-4o", frames=False)
    with pytest.raises(ValueError, match="There is no task"):
        preview(lambda: gym.make("Pendulum-v1"), FunctionAdvisor(np.sign), frames=False)
    with pytest.raises(ValueError, match="must name its provider"):
        preview(make_env, "gpt-4o")
    with pytest.raises(TypeError, match="expected a Gymnasium environment or a function that makes one"):
        preview(DummyVecEnv([make_env]), "openai/gpt-4o")
    with pytest.raises(TypeError, match=r"VLMAdvisor takes no 'retries'. Did you mean 'max_retries'\?"):
        preview(make_env, "openai/gpt-4o", advisor_kwargs={"retries": 3})


def test_what_a_run_takes_does_not_depend_on_the_preview():
    runs = [preview(make_env, "openai/gpt-4o", n_states=n).in_a_run for n in (4, 16, 20)]
    assert {run.requests for run in runs} == {12}
    assert max(run.cost for run in runs) < 1.05 * min(run.cost for run in runs)


def test_in_a_notebook_it_shows_itself():
    shown = preview(make_env, "openai/gpt-4o", n_states=2)._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert shown.count("<") == 2


@pytest.mark.usefixtures("vlm_environment")
def test_command(capsys, tmp_path):
    with VLMServer(by_picture) as server:
        main(
            [
                *("--env", "test_preview:Preview/Point-v0", "--model", "openai/gpt-4o", "--states", "16"),
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
    ],
)
def test_command_says_what_is_wrong(capsys, arguments, message):
    with pytest.raises(SystemExit, match=message):
        main([*arguments, "--model", "openai/gpt-4o"])


@pytest.mark.usefixtures("vlm_environment")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(look, tmp_path, width):
    with VLMServer(by_numbers) as server:
        shown = ask(server, check=True, follow_rounds=3)
    shown.save(tmp_path / "page" / "preview.html")
    seen = look(tmp_path / "page" / "preview.html", width)
    seen.assert_sound()
    assert seen.title == "Preview/Point-v0: what the advisor sees"
    n_frames = sum(len(result.frames) for result in shown.findings.followed)
    assert seen.n_images == 16 + 16 + n_frames
    for text in (
        "Move the point to the origin.",
        "Does it say the same when asked twice?",
        "You advise a reinforcement",
    ):
        assert text in seen.text


class Looker:
    """Answers with what it sees in the picture."""

    def advise(self, query):
        return Advice([np.array(state.frame[0, 0, :2] / 128 - 1, np.float32) for state in query.states])


def test_what_was_said_about_exchanged_pictures_is_no_advice(tmp_path, capsys):
    shown = preview(make_env, Looker(), n_states=8, n_steps=40, ask=True, check=True, log_path=tmp_path / "log")
    queries = read_queries(tmp_path / "log")
    assert [query.altered for query in queries] == ["", "", "pictures exchanged"]
    assert not np.allclose(queries[2].advice.actions, queries[0].advice.actions)
    told = [np.asarray(action) for action in shown.findings.advice.actions]
    for index in range(4):  # as its first, second, third or some other query
        replayed = ReplayAdvisor(tmp_path / "log").advise(dataclasses.replace(shown.query, index=index))
        np.testing.assert_allclose(replayed.actions, told, atol=1e-6)
    page = write_report(tmp_path / "log", tmp_path / "report.html").read_text()
    assert page.count("with pictures exchanged: what was answered is no advice") == 1
    relabel([str(tmp_path / "log"), "--output", str(tmp_path / "guidance")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("16 rows of guidance")
    buffer = GuidanceBuffer(99, shown.query.briefing.observation_space, shown.query.briefing.action_space)
    buffer.load(tmp_path / "guidance.npz")
    np.testing.assert_allclose(buffer.rows()["actions"], told * 2, atol=1e-6)


@pytest.mark.parametrize("policy", ["models/mine.zip", "models/rl_model_40_steps.zip"])
def test_statistics_of_another_model_are_not_taken(policy, tmp_path):
    for folder in ("models/other", "models/mine_2", "models"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name in ("other/vecnormalize", "mine_2/vecnormalize", "rl_model_vecnormalize_80_steps"):
        (tmp_path / "models" / f"{name}.pkl").touch()
    assert statistics_of(tmp_path / policy) is None
    assert statistics_of(pathlib.Path(policy)) is None


@pytest.mark.parametrize(
    ("model", "statistics"),
    [
        ("quickstart/varl.zip", "quickstart/vecnormalize.pkl"),
        ("Some-Env-v1_3/Some-Env-v1.zip", "Some-Env-v1_3/Some-Env-v1/vecnormalize.pkl"),
        ("Some-Env-v1_3/best_model.zip", "Some-Env-v1_3/Some-Env-v1/vecnormalize.pkl"),
        ("Some-Env-v1_3_a1b2/best_model.zip", "Some-Env-v1_3_a1b2/Some-Env-v1/vecnormalize.pkl"),
        ("run/rl_model_40_steps.zip", "run/rl_model_vecnormalize_40_steps.pkl"),
    ],
)
def test_where_the_statistics_of_a_model_are_looked_for(model, statistics, tmp_path):
    (tmp_path / statistics).parent.mkdir(parents=True)
    (tmp_path / statistics).touch()
    assert statistics_of(tmp_path / model) == tmp_path / statistics
    assert statistics_of(pathlib.Path(model)).samefile(tmp_path / statistics)


@pytest.mark.parametrize(("wins", "before", "passed"), [(2, 0, True), (1, 0, None), (1, 1, None), (0, 1, False)])
def test_one_success_of_four_is_no_yes(wins, before, passed):
    followed, visited = (
        [Followed(None, success=i < n, n_advised=1, n_steps=5) for i in range(4)] for n in (wins, before)
    )
    assert leads_to_success(followed, visited).passed is passed
