"""Whole episodes in which standing advice is followed, as some are in training, where they tell how good it is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from tqdm import tqdm

from sb3_varl.advice.types import Episode, Observation, StandingAdvice
from sb3_varl.preview.rollouts import step_of, wrapped
from sb3_varl.training.observing import Privileged
from sb3_varl.training.standing import Standing, separate

# Longer ones are broken off.
MAX_STEPS = 1000


@dataclass(frozen=True)
class WholeEpisode:
    """
    What came of following advice from the start of an episode to its end.

    :param episode: What was seen and done; as in training, it succeeded if its last step did, and there was advice in
        half of its steps or more
    :param reward: Sum of the rewards
    :param n_advised: In how many steps there was advice; in the others nothing was done
    :param succeeded_before: Whether a step succeeded
    :param has_ended: Whether it came to an end
    """

    episode: Episode
    reward: float
    n_advised: int
    succeeded_before: bool
    has_ended: bool

    @property
    def n_steps(self) -> int:
        """How long it was."""
        return len(self.episode.actions)


def follow_whole(
    make: Callable[[], gym.Env], advice: StandingAdvice, n_episodes: int, seed: int, observe: str | None = None
) -> list[WholeEpisode]:
    """
    Follow standing advice in whole episodes.

    :param make: Makes the environment
    :param advice: The advice
    :param n_episodes: Number of episodes
    :param seed: Of the environment
    :param observe: Name of what the advisor reads, ``None`` for the observations
    :return: What came of each
    """
    env = wrapped(DummyVecEnv([make]))
    try:
        env.seed(seed)
        first: Any = env.reset()
        privileged = None if observe is None else Privileged(env, observe)
        assert isinstance(env.action_space, spaces.Box)
        standing = Standing(env.action_space)
        standing.replace(advice)
        episodes = []
        for _ in tqdm(range(n_episodes), desc="following whole episodes", unit="episode", leave=False):
            whole, first = _follow(env, standing, first, privileged)
            episodes.append(whole)
        return episodes
    finally:
        env.close()


def _follow(env: VecEnv, standing: Standing, first: Any, privileged: Privileged | None) -> tuple[WholeEpisode, Any]:
    """An episode, and the next one's first observation."""
    space = env.action_space
    assert isinstance(space, spaces.Box)
    nothing = np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
    seen, actions, rules = list[Observation](), list[np.ndarray](), list[int | None]()
    now, reward, succeeded_before = first, 0.0, False
    while True:
        present = separate(now, 1) if privileged is None else privileged.read()
        standing.visit(present, np.array([not actions]))
        rule, action = standing.decide(0)
        seen.append(present[0])
        rules.append(rule)
        actions.append(np.full(space.shape, np.nan) if action is None else action)
        now, rewards, dones, infos = env.step((nothing if action is None else action)[None])
        step = step_of(float(rewards[0]), bool(dones[0]), infos[0])
        reward += step.reward
        if step.done or len(actions) == MAX_STEPS:
            break
        succeeded_before = succeeded_before or bool(step.success)
    standing.end_episode()
    if not step.done:
        now = env.reset()
    n_advised = sum(not np.isnan(action).any() for action in actions)
    # As in training: what was mostly done without advice is no success of it. Of a broken one nobody knows.
    succeeded = step.success and 2 * n_advised >= len(actions) if step.done else None
    episode = Episode(tuple(seen), tuple(actions), tuple(rules), succeeded)
    return WholeEpisode(episode, reward, n_advised, succeeded_before, step.done), now
