"""What an advisor is shown before it is paid, and what its answers are worth."""

import json
import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_varl import FunctionAdvisor, TaskSheet
from sb3_varl.advice_log import read_records
from sb3_varl.preview import main, preview
from sb3_varl.visiting import make_act, original, visit
from vlm_server import VLMServer, error

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

    def render(self):
        return np.full((16, 16, 3), [*(64 * (self.place + 2) - 0.5), 0], np.uint8)


gym.register("Preview/Point-v0", PointEnv, max_episode_steps=40)


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
at_random = answer_with(lambda place, image: np.random.default_rng().uniform(-1, 1, 2))


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
    assert 1_000 < shown.estimate.prompt_tokens < 4_000
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
    if answer is not at_random:  # by chance, its second answers may be closer than those with other pictures
        assert found["change"] is picture
    assert found["it"] is following
    assert len(shown.findings.followed) == 4
    # A frame before each advice, and one at the end, of the state itself first.
    for result in shown.findings.followed:
        assert np.array_equal(result.frames[0], result.start.frame)
        assert result.success == (following is True)


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
    with VLMServer(always=error(401, f"Wrong key: {KEY}")) as server:
        shown = ask(server, n_states=4, check=True, follow_rounds=2)
    assert shown.findings.advice.actions == [None] * 4
    assert results(shown)["answer"] is False
    page = shown.page()
    assert "401" in page or "Wrong key" in page
    assert KEY not in page
    assert "rejected: request failed" in page


@pytest.mark.parametrize("make", [lambda: make_env(repeatable=False), lambda: PointEnv("rgb_array")])
def test_what_cannot_be_repeated_is_not_followed(make):
    advisor = FunctionAdvisor(lambda place: np.clip(-place, -1, 1))
    env = make()
    shown = preview(env, advisor, ask=True, follow_rounds=3, n_steps=60)
    (check,) = [check for check in shown.findings.checks if "following" in check.name]
    assert check.passed is None
    assert "Not tried: " in check.text
    assert shown.findings.followed == []
    env.reset()  # it is the user's, and was not closed


def test_states_are_those_of_a_saved_policy(tmp_path):
    env = VecNormalize(DummyVecEnv([make_env]), norm_reward=False)
    model = SAC("MlpPolicy", env, learning_starts=5, use_sde=True, policy_kwargs={"net_arch": [8]}, seed=0).learn(50)
    model.save(tmp_path / "model.zip")
    env.save(str(tmp_path / "vecnormalize.pkl"))
    shown = preview(make_env, FunctionAdvisor(np.sign), policy=str(tmp_path / "model.zip"), n_states=8, n_steps=20)
    for state in shown.query.states:
        action = model.predict(env.normalize_obs(state.observation[None]), deterministic=True)[0][0]
        assert np.allclose(state.executed_action, action, atol=1e-5)


def test_any_algorithm_s_policy_will_do(tmp_path):
    model = PPO("MlpPolicy", make_env(), n_steps=8, batch_size=8, seed=0)
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
    with pytest.raises(ValueError, match="has no function 'run'"):
        make_act(f"{tmp_path / 'mine.py'}:run", env, 0)
    with pytest.raises(FileNotFoundError, match="There is no file"):
        make_act("nowhere.py:act", env, 0)
    with pytest.raises(ValueError, match=r"The policy is 'best', expected random, a model's .zip"):
        make_act("best", env, 0)


def test_the_same_seed_visits_the_same_states():
    def states(seed):
        env = DummyVecEnv([make_env])
        visited = visit(env, make_act("random", env, seed), 5, 50, seed=seed)
        assert original(env, env.reset()) is not None
        return np.array([state.observation for state in visited.states])

    assert np.array_equal(states(1), states(1))
    assert not np.array_equal(states(1), states(2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"check": True}, "give ask=True, too"),
        ({"n_states": 0}, "n_states is 0, expected at least 1"),
        ({"n_states": 99, "n_steps": 20}, "99 states cannot be drawn from 20 steps"),
    ],
)
def test_arguments_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        preview(make_env, FunctionAdvisor(np.sign), **arguments)


def test_a_task_is_needed():
    with pytest.raises(ValueError, match="There is no task"):
        preview(lambda: gym.make("Pendulum-v1"), "openai/gpt-4o", frames=False)
    with pytest.raises(TypeError, match=r"VLMAdvisor takes no 'retries'. Did you mean 'max_retries'\?"):
        preview(make_env, "openai/gpt-4o", advisor_kwargs={"retries": 3})


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
    assert "This query: 1 requests, " in output
    assert "A run of 192 states: 12 requests, about " in output
    assert "Does following it lead to success? yes: 4 of 4 succeeded" in output
    assert (tmp_path / "shown" / "preview.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "Nowhere-v0"], "Nowhere"),
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
