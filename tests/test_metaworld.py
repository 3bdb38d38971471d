import os
import pickle
import subprocess
import sys
import time

os.environ.setdefault("MUJOCO_GL", "egl")

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env

from sb3_varl.advice.types import AdviceQuery, Advisor, Briefing, Usage, VisitedState
from sb3_varl.advisors.by_name import task_of
from sb3_varl.metaworld import CAMERAS, TASKS, ScriptedAdvisor, SparseMetaWorldEnv, task_sheet

# The fingers' colour, of which nothing else in a scene has much.
CYAN = (0, 200, 200)


def briefing(observation_space=None, action_space=None, sheet=None):
    return Briefing(
        action_space=action_space or spaces.Box(-1.0, 1.0, (4,)),
        observation_space=observation_space or spaces.Box(-np.inf, np.inf, (39,)),
        sheet=sheet,
    )


def query(observations, index=0):
    states = tuple(VisitedState(obs, np.zeros(4, np.float32), None, step) for step, obs in enumerate(observations))
    return AdviceQuery(index=index, step=0, states=states, briefing=briefing())


def expert(task):
    advisor = ScriptedAdvisor(task, noise=0, resolution=0, error_rate=0)
    return lambda observation: advisor.advise(query([observation])).actions[0]


@pytest.fixture(scope="module")
def observations():
    """Observations of drawer-open-v3 on the way of a clumsy expert."""
    env = SparseMetaWorldEnv("drawer-open-v3")
    obs, _ = env.reset(seed=0)
    policy, rng, result = expert("drawer-open-v3"), np.random.default_rng(0), []
    for _ in range(100):
        result.append(obs)
        obs = env.step(np.clip(policy(obs) + rng.normal(0, 0.3, 4), -1, 1).astype(np.float32))[0]
    return result


def test_tasks_are_metaworlds():
    assert set(TASKS) == set(ALL_V3_ENVIRONMENTS)
    assert len(TASKS) == 50


@pytest.mark.parametrize("task", TASKS)
def test_task(task):
    env = gym.make(f"SparseMetaWorld/{task}")
    model = env.unwrapped._env.model
    assert {model.cam(i).name for i in range(model.ncam)} == set(CAMERAS)

    obs, info = env.reset(seed=0)
    goal, slices = obs[36:], {}
    assert info == {}
    assert env.get_wrapper_attr("task_sheet") == task_sheet(task)
    for part in env.get_wrapper_attr("task_sheet").observation:
        slices[part.name] = (part, obs[part.start : part.stop])
    for _ in range(5):
        obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert env.observation_space.contains(obs)
        assert (reward, terminated, truncated) == (0.0, False, False)
        assert info["is_success"] is False
        np.testing.assert_array_equal(obs[36:], goal)

    # The sheet must not promise what the observation does not hold.
    np.testing.assert_array_equal(slices["goal position"][1], env.unwrapped._env._target_pos.astype(np.float32))
    for name, (part, values) in slices.items():
        if part.meaning.startswith("quaternion"):
            assert np.linalg.norm(values) == pytest.approx(1, abs=1e-3)
        if "fixed" in part.meaning or "does not change" in part.meaning:
            np.testing.assert_array_equal(values, obs[part.start : part.stop])
        if part.meaning == "always zero":
            assert not values.any()
        if name.endswith("position"):
            assert np.linalg.norm(values) > 0.1
    env.close()


@pytest.mark.parametrize("task", TASKS)
def test_task_sheet(task):
    sheet = task_sheet(task)
    assert [component.name for component in sheet.action] == ["dx", "dy", "dz", "gripper"]
    assert sheet.observation[0].start == 0
    assert sheet.observation[-1].stop == 39
    for left, right in zip(sheet.observation, sheet.observation[1:], strict=False):
        assert left.start < left.stop == right.start
    assert all(part.name and part.meaning for part in sheet.observation + sheet.action)
    assert sheet.goal.endswith(".")
    assert sheet.goal.count(". ") == 0
    assert pickle.loads(pickle.dumps(sheet)) == sheet


def test_goals_are_distinct():
    assert len({task_sheet(task).goal for task in TASKS}) == 50


def test_sheet_describes_the_camera():
    assert task_sheet("reach-v3").notes != task_sheet("reach-v3", "topview").notes
    env = SparseMetaWorldEnv("reach-v3", camera_name="topview")
    assert env.task_sheet == task_sheet("reach-v3", "topview")


# drawer-open stays solved at the end; in pick-place the expert holds the puck in place.
@pytest.mark.parametrize("task", ["drawer-open-v3", "pick-place-v3", "reach-v3"])
def test_sparse_reward(task):
    env = gym.make(f"SparseMetaWorld/{task}")
    policy = expert(task)
    obs, _ = env.reset(seed=1)
    rewards, truncated = [], False
    while not truncated:
        obs, reward, terminated, truncated, info = env.step(policy(obs))
        rewards.append(reward)
        assert not terminated
        assert type(reward) is float
        assert reward == info["success"]
        assert info["is_success"] is bool(sum(rewards))
    assert len(rewards) == 150
    assert set(rewards) == {0.0, 1.0}
    env.close()


def test_is_success_remembers():
    env = SparseMetaWorldEnv("reach-v3")
    policy = expert("reach-v3")
    obs, _ = env.reset(seed=1)
    reward = 0.0
    while not reward:
        obs, reward, *_ = env.step(policy(obs))
    away = np.array([0, -1, 0, 0], dtype=np.float32)
    for _ in range(30):
        _, reward, _, _, info = env.step(away)
    assert reward == info["success"] == 0.0
    assert info["is_success"] is True

    env.reset()
    assert env.step(away)[4]["is_success"] is False


def test_terminate_on_success():
    env = gym.make("SparseMetaWorld/reach-v3", terminate_on_success=True)
    policy = expert("reach-v3")
    obs, _ = env.reset(seed=1)
    terminated = truncated = False
    rewards = []
    while not (terminated or truncated):
        obs, reward, terminated, truncated, _ = env.step(policy(obs))
        rewards.append(reward)
    assert terminated
    assert not truncated
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0]
    env.close()


@pytest.mark.parametrize("length", [3, 501])
def test_episode_length(length):
    env = gym.make("sb3_varl.metaworld:SparseMetaWorld/reach-v3", max_episode_steps=length)
    env.reset()
    for step in range(1, length + 1):
        truncated = env.step(np.zeros(4, dtype=np.float32))[3]
        assert truncated == (step == length)
    env.close()


def trajectory(env, seed):
    observations = [env.reset(seed=seed)[0]]
    actions = np.random.default_rng(0).uniform(-1, 1, (10, 4)).astype(np.float32)
    observations += [env.step(action)[0] for action in actions]
    observations.append(env.reset()[0])
    return np.array(observations)


@pytest.mark.parametrize("task", ["reach-v3", "push-back-v3", "window-close-v3"])
def test_seeding(task):
    env, other = SparseMetaWorldEnv(task), SparseMetaWorldEnv(task)
    first = trajectory(env, seed=7)
    np.testing.assert_array_equal(trajectory(other, seed=7), first)
    assert (first[0, 4:] != first[-1, 4:]).any()  # an unseeded reset goes on with a new arrangement
    different = trajectory(env, seed=8)
    assert (different[0, 4:] != first[0, 4:]).any()
    np.testing.assert_array_equal(trajectory(env, seed=7), first)  # whatever happened before


def test_unseeded_environments_differ():
    # Also where somebody seeded numpy's global generator, which Meta-World draws from if left alone.
    goals = []
    for _ in range(2):
        np.random.seed(0)
        goals.append(SparseMetaWorldEnv("reach-v3").reset()[0][36:])
    assert (goals[0] != goals[1]).any()


def test_first_observation_is_current():
    env = SparseMetaWorldEnv("window-close-v3")
    first, _ = env.reset(seed=0)
    second = env.step(np.zeros(4, dtype=np.float32))[0]
    np.testing.assert_allclose(first[4:7], second[4:7], atol=1e-3)
    np.testing.assert_array_equal(first[:18], first[18:36])
    np.testing.assert_array_equal(first[:18], second[18:36])


@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_check_env(render_mode):
    env = SparseMetaWorldEnv("push-v3", render_mode=render_mode)
    check_env(env, skip_render_check=render_mode is None)
    env.close()


def test_vec_env():
    env = make_vec_env("SparseMetaWorld/reach-v3", n_envs=2, seed=0, env_kwargs={"max_episode_steps": 4})
    obs = env.reset()
    assert obs.dtype == np.float32
    assert (obs[0, 36:] != obs[1, 36:]).any()
    assert env.get_attr("task_sheet") == [task_sheet("reach-v3")] * 2
    for _ in range(4):
        *_, dones, infos = env.step(np.zeros((2, 4), dtype=np.float32))
    assert dones.all()
    assert all(info["TimeLimit.truncated"] and not info["is_success"] for info in infos)
    env.close()


def finger(env, **hand):
    """Row and column of the finger's middle in the picture after moving the hand."""
    env.reset(seed=0)
    action = np.array([hand.get("dx", 0), hand.get("dy", 0), hand.get("dz", 0), -1], dtype=np.float32)
    for _ in range(15):
        env.step(action)
    frame = env.render()
    assert frame.dtype == np.uint8
    assert frame.shape == (120, 160, 3)
    return np.argwhere(np.abs(frame.astype(int) - CYAN).max(-1) < 60).mean(0)


def test_picture_shows_the_axes_as_the_sheet_says():
    env = SparseMetaWorldEnv("reach-v3", render_mode="rgb_array", width=160, height=120)
    row, column = finger(env)
    for hand, down, right in (
        ({"dx": 1}, True, True),
        ({"dy": 1}, False, True),
        ({"dz": 1}, False, None),
    ):
        moved_row, moved_column = finger(env, **hand)
        assert (moved_row > row) is np.bool_(down)
        assert right is None or moved_column > column
    env.close()


@pytest.mark.parametrize("camera_name", CAMERAS)
def test_cameras_are_upright(camera_name):
    env = SparseMetaWorldEnv("reach-v3", render_mode="rgb_array", camera_name=camera_name, width=64, height=48)
    env.reset(seed=0)
    index = env._env.model.cam(camera_name).id
    right, up, _ = env._env.data.cam_xmat[index].reshape(3, 3).T
    assert up[2] > -0.01
    # Of the two axes of the floor, the sheet's first word on +x is where it points in the picture.
    assert "+x points right" in CAMERAS[camera_name]
    assert right[0] > 0.4
    assert env.render().shape == (48, 64, 3)
    env.close()


@pytest.mark.parametrize("camera_name", ["corner", "corner4", "topview"])
def test_project_finds_the_button_in_the_picture(camera_name):
    env = SparseMetaWorldEnv("button-press-topdown-v3", render_mode="rgb_array", camera_name=camera_name)
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        x, y = env.project(observation[4:7]).round().astype(int)
        pixel = env.render()[y, x].astype(int)
        assert pixel.max() - pixel.min() > 100, "the button is red and the goal's mark green; all else is paler"
    assert env.project(np.zeros((5, 3))).shape == (5, 2)
    env.close()


def test_frame_skip_holds_the_action():
    plain, skipping = SparseMetaWorldEnv("drawer-open-v3"), SparseMetaWorldEnv("drawer-open-v3", frame_skip=3)
    plain.reset(seed=0)
    skipping.reset(seed=0)
    for action in np.random.default_rng(0).uniform(-1, 1, (5, 4)):
        for _ in range(3):
            expected = plain.step(action)[0]
        np.testing.assert_array_equal(skipping.step(action)[0], expected)


def test_the_expert_succeeds_with_frame_skip():
    task = "button-press-topdown-v3"
    env, policy = SparseMetaWorldEnv(task, frame_skip=3), expert(task)
    observation, _ = env.reset(seed=0)
    rewards = []
    for _ in range(50):
        observation, reward, _, _, info = env.step(policy(observation))
        rewards.append(reward)
    assert set(rewards) == {0.0, 1.0}
    assert info["is_success"]


def test_the_sheet_knows_the_frame_skip():
    sheet = gym.make("SparseMetaWorld/reach-v3", frame_skip=4).get_wrapper_attr("task_sheet")
    assert "in units of 4 cm per step" in sheet.action[0].meaning
    assert "One step takes 50 ms" in sheet.notes


@pytest.mark.parametrize("frame_skip", [0, -1, 1.5, True, "3"])
def test_bad_frame_skip(frame_skip):
    with pytest.raises(ValueError, match=r"frame_skip is .*expected an integer that is at least 1"):
        SparseMetaWorldEnv("reach-v3", frame_skip=frame_skip)


def test_no_rendering_without_a_render_mode():
    env = SparseMetaWorldEnv("reach-v3")
    env.reset(seed=0)
    assert env.render() is None


def test_unknown_camera():
    with pytest.raises(ValueError, match=r"no camera 'corner9'\. The choices are .*corner4, gripperPOV, topview"):
        gym.make("SparseMetaWorld/reach-v3", camera_name="corner9")


@pytest.mark.parametrize("make", [task_sheet, ScriptedAdvisor, SparseMetaWorldEnv])
def test_unknown_task(make):
    with pytest.raises(ValueError, match=r"no task 'raech-v3'\. Did you mean reach-v3.*sb3_varl\.metaworld\.TASKS"):
        make("raech-v3")


def test_without_metaworld():
    code = """
import sys
import sb3_varl
assert "metaworld" not in sys.modules and "sb3_varl.metaworld" not in sys.modules
sys.modules["metaworld"] = None
try:
    import sb3_varl.metaworld
except ImportError as error:
    assert 'pip install "sb3_varl[metaworld]"' in str(error), error
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_advisor_is_the_expert_without_its_flaws(observations):
    advisor = ScriptedAdvisor("drawer-open-v3", noise=0, resolution=0, error_rate=0)
    assert isinstance(advisor, Advisor)
    advice = advisor.advise(query(observations))
    policy = ENV_POLICY_MAP["drawer-open-v3"]()
    expected = [np.clip(policy.get_action(obs.astype(np.float64)), -1, 1) for obs in observations]
    np.testing.assert_array_equal(advice.actions, expected)
    assert advice.usage == Usage(requests=0)
    assert advice.rejected == ()


def test_advisor_noise(observations):
    def answers(noise):
        advisor = ScriptedAdvisor("drawer-open-v3", noise=noise, resolution=0, error_rate=0, seed=0)
        return np.array(advisor.advise(query(observations)).actions)

    inside = np.abs(answers(0.0)) < 0.2  # where the box cuts off no noise
    error = (answers(0.1) - answers(0.0))[inside]
    assert error.size > 20
    assert error.std() == pytest.approx(0.1, rel=0.3)


@pytest.mark.parametrize("resolution", [0.25, 0.1, 1.0])
def test_advisor_resolution(observations, resolution):
    actions = np.array(ScriptedAdvisor("drawer-open-v3", resolution=resolution).advise(query(observations)).actions)
    np.testing.assert_allclose(actions / resolution, np.round(actions / resolution), atol=1e-5)
    assert np.abs(actions).max() <= 1.0
    assert actions.dtype == np.float32


def test_advisor_error_rate(observations):
    def answers(error_rate):
        advisor = ScriptedAdvisor("drawer-open-v3", noise=0, resolution=0, error_rate=error_rate, seed=0)
        return np.array(advisor.advise(query(observations)).actions)

    wrong = (answers(0.3) != answers(0.0)).any(-1)
    assert 15 <= wrong.sum() <= 45
    random = answers(1.0)
    assert np.abs(random.mean()) < 0.15
    assert random.std() == pytest.approx(1 / np.sqrt(3), rel=0.15)
    np.testing.assert_array_equal(answers(0.3)[wrong], random[wrong])


def test_advisor_abstains(observations):
    actions = ScriptedAdvisor("drawer-open-v3", abstain_rate=0.4, seed=0).advise(query(observations)).actions
    assert 20 <= sum(action is None for action in actions) <= 60
    advice = ScriptedAdvisor("drawer-open-v3", abstain_rate=1).advise(query(observations))
    assert list(advice.actions) == [None] * len(observations)
    assert advice.rejected == ()


def test_advisor_is_reproducible(observations):
    def answers(advisor, index, count=10):
        return np.array(advisor.advise(query(observations[:count], index)).actions)

    advisor, twin = ScriptedAdvisor("drawer-open-v3", seed=3), ScriptedAdvisor("drawer-open-v3", seed=3)
    first = answers(advisor, 0)
    second = answers(advisor, 1)
    assert (first != second).any()
    np.testing.assert_array_equal(answers(twin, 1), second)  # in whatever order
    np.testing.assert_array_equal(answers(twin, 0), first)
    np.testing.assert_array_equal(answers(twin, 0, count=4), first[:4])
    assert (answers(ScriptedAdvisor("drawer-open-v3", seed=4), 0) != first).any()
    assert (answers(ScriptedAdvisor("drawer-open-v3"), 0) != answers(ScriptedAdvisor("drawer-open-v3"), 0)).any()


def test_its_advice_in_any_state_depends_on_the_state(observations):
    advise, other = (ScriptedAdvisor("drawer-open-v3", seed=seed).standing(None) for seed in (3, 4))
    first = [advise(observation) for observation in observations[:5]]
    np.testing.assert_array_equal(first, [advise(observation) for observation in observations[:5]])
    assert (np.array(first) != [other(observation) for observation in observations[:5]]).any()
    assert len({tuple(action) for action in first}) > 1


def test_the_task_in_words_is_the_sheets():
    """Not the name of the Meta-World task that it was made for."""
    assert task_of(ScriptedAdvisor("drawer-open-v3"), "Open it.") == "Open it."


def test_advisor_latency(observations):
    advisor = ScriptedAdvisor("drawer-open-v3", latency=0.1)
    start = time.monotonic()
    advisor.advise(query(observations[:3]))
    assert time.monotonic() - start >= 0.1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"noise": -0.1}, ValueError, "noise is -0.1, expected a number that is at least 0."),
        ({"noise": float("nan")}, ValueError, "noise is nan"),
        ({"noise": "much"}, TypeError, "noise is 'much', expected a number"),
        ({"resolution": -1}, ValueError, "resolution is -1, expected a number that is at least 0 and at most 2."),
        ({"resolution": None}, TypeError, "resolution is None"),
        ({"error_rate": 1.1}, ValueError, "error_rate is 1.1, expected a number that is at least 0 and at most 1."),
        ({"abstain_rate": True}, TypeError, "abstain_rate is True"),
        ({"latency": float("inf")}, ValueError, "latency is inf"),
        ({"seed": -1}, ValueError, "seed is -1, expected an integer that is at least 0 or None."),
        ({"seed": 0.5}, TypeError, "seed is 0.5, expected an integer"),
    ],
)
def test_advisor_refuses_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        ScriptedAdvisor("reach-v3", **arguments)


def test_advisor_prepares():
    advisor = ScriptedAdvisor("reach-v3")
    advisor.prepare(briefing())
    advisor.prepare(briefing(sheet=task_sheet("reach-v3", "topview")))
    with pytest.raises(
        ValueError, match=r"needs Meta-World's observations, a Box of shape \(39,\).*SparseMetaWorld/reach"
    ):
        advisor.prepare(briefing(observation_space=spaces.Box(-1, 1, (3,))))
    with pytest.raises(ValueError, match="needs Meta-World's observations"):
        advisor.prepare(briefing(observation_space=spaces.Dict(state=spaces.Box(-1, 1, (39,)))))
    with pytest.raises(ValueError, match=r"needs Meta-World's actions, a Box of shape \(4,\)"):
        advisor.prepare(briefing(action_space=spaces.Box(-1, 1, (2,))))
    with pytest.raises(ValueError, match="made for reach-v3, but the environment is push-v3"):
        advisor.prepare(briefing(sheet=task_sheet("push-v3")))


def test_advisor_refuses_other_observations():
    with pytest.raises(ValueError, match=r"of shape \(39,\), got \(3,\)"):
        ScriptedAdvisor("reach-v3").advise(query([np.zeros(3)]))
