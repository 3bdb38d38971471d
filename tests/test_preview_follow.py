"""Following advice before anything is trained: from single states, and in whole episodes."""

import json
import re

import gymnasium as gym
import numpy as np
import pytest
from previewed import GO, NAMED, PointEnv, SilentEnv, ask, make_env, results
from stable_baselines3.common.monitor import Monitor

from sb3_varl import FunctionAdvisor, ObservationSlice, RulesAdvisor, TaskSheet
from sb3_varl.preview import preview
from sb3_varl.preview.checks import leads_to_success
from sb3_varl.preview.rollouts import FollowedState
from sb3_varl.report.page import write_report
from sb3_varl.testing import VLMServer

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


def follow_whole(env, **kwargs):
    shown = preview(env, RulesAdvisor(GO), sheet=NAMED, ask=True, n_steps=60, follow_rounds=1, frames=False, **kwargs)
    (check,) = [check for check in shown.findings.checks if "whole episodes" in check.name]
    return shown, check


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


def test_of_rules_that_look_back_whole_episodes_tell():
    rules = GO.replace("-5 * place", "-5 * (place + 0 * velocity(place))")
    shown = preview(make_env, RulesAdvisor(rules), sheet=NAMED, ask=True, follow_rounds=1, n_episodes=2, frames=False)
    checks = {check.name: check for check in shown.findings.checks}
    assert checks["Does it answer?"].passed is None
    assert "velocity() say nothing of single states" in checks["Does it answer?"].text
    assert shown.findings.checks[-1].passed
    assert "Does it answer? 0 of 16 states" in repr(shown)
    assert len(repr(shown)) < 2000


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
    assert "does not say" not in check.text, "there was no last step to say it"


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


@pytest.mark.parametrize(("wins", "before", "passed"), [(2, 0, True), (1, 0, None), (1, 1, None), (0, 1, False)])
def test_one_success_of_four_is_no_yes(wins, before, passed):
    followed, visited = (
        [FollowedState(None, success=i < n, n_advised=1, n_steps=5) for i in range(4)] for n in (wins, before)
    )
    assert leads_to_success(followed, visited).passed is passed
