"""robosuite's tasks: what a large multimodal model answered to a draft and a sentence, and the example."""

import importlib
import pathlib
import sys

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_checker import check_env

from sb3_varl import Rules, load_task_sheet
from sb3_varl.preview.episodes import follow_whole

ASKED = pathlib.Path(__file__).parent / "data" / "asked" / "drafted"
EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
ROBOT = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2}
# Sizes of what else is observed, the number of rules, and in how many of 20 episodes they succeed.
TASKS: dict[str, tuple[dict[str, int], int, int]] = {
    "RobosuiteLift-v0": ({"cube_pos": 3, "cube_quat": 4, "gripper_to_cube_pos": 3}, 2, 20),
    "RobosuiteDoor-v0": ({"door_pos": 3, "handle_pos": 3, "hinge_qpos": 1, "handle_qpos": 1}, 4, 20),
    "RobosuiteStack-v0": (
        {"cubeA_pos": 3, "cubeA_quat": 4, "cubeB_pos": 3, "cubeB_quat": 4, "gripper_to_cubeA": 3},
        4,
        17,
    ),
    "RobosuitePickPlaceCan-v0": ({"Can_pos": 3, "Can_quat": 4}, 5, 20),
    "RobosuiteNutAssemblySquare-v0": ({"SquareNut_pos": 3, "SquareNut_quat": 4}, 5, 20),
}


def _rules(name, observation_space, action_space):
    folder = ASKED / name / "1"
    sheet = load_task_sheet(folder / "sheet.yml")
    return Rules.parse((folder / "answer.txt").read_text(), sheet, observation_space, action_space)


@pytest.fixture
def robosuite_tasks(monkeypatch):
    """The example, as a module; robosuite is not among the packages of the tests."""
    pytest.importorskip("robosuite")
    monkeypatch.setattr(sys, "path", [*sys.path, str(EXAMPLES)])
    return importlib.import_module("robosuite_tasks")


@pytest.mark.parametrize("name", TASKS)
def test_all_rules_of_the_answer_can_be_used(name):
    sizes, n_rules, _ = TASKS[name]
    space = gym.spaces.Dict({key: gym.spaces.Box(-np.inf, np.inf, (size,)) for key, size in {**ROBOT, **sizes}.items()})
    rules = _rules(name, space, gym.spaces.Box(-1, 1, (7,)))
    assert len(rules) == n_rules
    assert not rules.rejected
    observation = space.sample()
    assert np.shape(rules(observation, observation)) == (7,)


@pytest.mark.parametrize("name", TASKS)
def test_the_rules_of_the_example_are_the_answer(name):
    for suffix, kept in ((".txt", "answer.txt"), (".yml", "sheet.yml")):
        recorded = EXAMPLES / "benchmark" / "recorded_rules" / f"{name}{suffix}"
        assert recorded.read_text() == (ASKED / name / "1" / kept).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_the_rules_succeed(name, robosuite_tasks):
    env = gym.make(name, max_episode_steps=200)
    rules = _rules(name, env.observation_space, env.action_space)
    followed = follow_whole(lambda: env, rules, 20, seed=0)
    assert sum(bool(whole.episode.succeeded) for whole in followed) == pytest.approx(TASKS[name][2], abs=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_an_environment_of_the_example_is_one_for_sb3_and_is_drawn_by_its_seed(name, robosuite_tasks):
    env = gym.make(name)
    check_env(env)
    first, second = env.reset(seed=3)[0], env.reset(seed=3)[0]
    other = env.reset()[0]
    for key, part in first.items():
        np.testing.assert_array_equal(part, second[key])
    assert any((part != other[key]).any() for key, part in first.items())
