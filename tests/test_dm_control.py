"""DeepMind Control's tasks: what a large multimodal model answered to a draft and a sentence."""

import pathlib

import gymnasium as gym
import numpy as np
import pytest

from sb3_varl import Rules, SuccessFromReward, load_task_sheet
from sb3_varl.preview.episodes import follow_whole

ASKED = pathlib.Path(__file__).parent / "data" / "asked" / "drafted"
# Sizes of what is observed, the number of actions and of rules, and in how many of 20 episodes these succeed.
TASKS: dict[str, tuple[dict[str, int], int, int, int]] = {
    "ball_in_cup-catch-v0": ({"position": 4, "velocity": 4}, 2, 3, 20),
    "reacher-easy-v0": ({"position": 2, "to_target": 2, "velocity": 2}, 2, 1, 20),
    "finger-turn_easy-v0": (
        {"position": 4, "velocity": 3, "touch": 2, "target_position": 2, "dist_to_target": 1},
        2,
        4,
        17,
    ),
    "cartpole-swingup_sparse-v0": ({"position": 3, "velocity": 2}, 1, 3, 0),
}


def _rules(name, observation_space, action_space):
    folder = ASKED / name / "1"
    sheet = load_task_sheet(folder / "sheet.yml")
    return Rules.parse((folder / "answer.txt").read_text(), sheet, observation_space, action_space)


@pytest.mark.parametrize("name", TASKS)
def test_all_rules_of_the_answer_can_be_used(name):
    sizes, n_actions, n_rules, _ = TASKS[name]
    space = gym.spaces.Dict({key: gym.spaces.Box(-np.inf, np.inf, (size,)) for key, size in sizes.items()})
    rules = _rules(name, space, gym.spaces.Box(-1, 1, (n_actions,)))
    assert len(rules) == n_rules
    assert not rules.rejected


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_the_rules_succeed(name):
    pytest.importorskip("dm_control")
    pytest.importorskip("shimmy")
    env = SuccessFromReward(gym.make(f"dm_control/{name}", max_episode_steps=200))
    followed = follow_whole(lambda: env, _rules(name, env.observation_space, env.action_space), 20, seed=0)
    assert sum(bool(whole.episode.succeeded) for whole in followed) == pytest.approx(TASKS[name][3], abs=2)
