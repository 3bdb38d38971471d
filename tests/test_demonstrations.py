"""What the grid compares with advice: demonstrations in the replay buffer, and imitation that proposes actions."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

import cells
import training
from demonstrations import (
    Demonstration,
    HalfDemonstrations,
    ImitationProposes,
    add,
    demonstrate,
    imitate,
)

STEPS = 400


class Guess(gym.Env):
    """An episode of 3 steps succeeds if its first action is what the observation says."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.wanted, self.step_number, self.succeeded = self.np_random.uniform(-1, 1), 0, False
        return self._observe(), {}

    def step(self, action):
        self.succeeded |= bool(self.step_number == 0 and abs(action[0] - self.wanted) < 1e-3)
        self.step_number += 1
        info = {"is_success": self.succeeded}
        return self._observe(), float(self.succeeded), False, self.step_number == 3, info

    def _observe(self):
        return np.array([self.wanted], np.float32)


def made_up(n=2, length=10, value=0.5):
    observations = np.linspace(-1, 1, (length + 1) * n).reshape(n, length + 1, 1).astype(np.float32)
    return [Demonstration(o, np.full((length, 1), value, np.float32), np.eye(length)[-1]) for o in observations]


def test_only_episodes_that_succeed_are_demonstrations():
    halves = demonstrate(Guess(), lambda now, before: now if now[0] > 0 else None, 5, seed=0)
    assert len(halves) == 5
    for observations, actions, rewards in halves:
        assert (len(observations), len(actions), len(rewards)) == (4, 3, 3)
        assert observations[0, 0] > 0
        assert rewards.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="0 of 40 episodes succeeded, expected 2"):
        demonstrate(Guess(), lambda now, before: None, 2, seed=0)


def test_half_of_each_batch_is_demonstrated():
    arguments = {"n_steps": 3, "gamma": 0.5, "demonstrations": made_up()}
    buffer = HalfDemonstrations(50, Guess.observation_space, Guess.action_space, "cpu", **arguments)
    for i in range(20):
        buffer.add(
            *(np.zeros((1, 1), np.float32),) * 2, np.full((1, 1), -0.5), np.zeros(1), np.array([i % 5 == 4]), [{}]
        )
    batch = buffer.sample(9)
    assert [round(float(action), 1) for action in batch.actions] == [-0.5] * 5 + [0.5] * 4
    assert batch.discounts.shape == batch.rewards.shape == (9, 1)
    # Rewards of up to 3 steps, and an episode that runs out of time is no end.
    assert set(buffer.demonstrated.sample(500).rewards.flatten().tolist()) == {0, 0.25, 0.5, 1}
    assert not buffer.demonstrated.sample(500).dones.any()


def test_imitation_fits_what_was_demonstrated():
    policy = imitate(made_up(value=0.3), n_updates=300)
    np.testing.assert_allclose(policy(th.linspace(-1, 1, 20)[:, None]), 0.3, atol=0.05)


@pytest.fixture
def make_model():
    def make(method):
        cell = cells.make_cell(method, "push-v3", 0, STEPS, eval_episodes=1)
        cell.settings["model"]["learning_starts"] = 50
        demonstrations = training.demonstrated(cell)
        model = training.make_model(training.vectorised(training.make_env(cell), cell.settings), cell, demonstrations)
        return model, demonstrations

    return make


@pytest.mark.slow
def test_demonstrations_in_the_replay_buffer(make_model):
    model, demonstrations = make_model("SAC, 3 demonstrations in half of each batch")
    assert len(demonstrations) == 3
    model.learn(100)
    assert model.replay_buffer.demonstrated.size() == 3 * 50
    assert model.replay_buffer.n_steps == 5
    assert not model.replay_buffer.rewards.any()
    assert model.replay_buffer.demonstrated.rewards.sum() > 0


class Rigged:
    """Values an action by its first component, or by the opposite of it."""

    def __init__(self, sign):
        self.sign = sign

    def __call__(self, observations, actions):
        return (self.sign * actions[:, :1],) * 2


@pytest.mark.parametrize("sign", [1, -1])
def test_of_two_actions_the_better_one_is_executed_and_bootstrapped_from(sign, make_model):
    model, demonstrations = make_model("SAC, 3 demonstrations imitated")
    add(model.replay_buffer, demonstrations)
    n_demonstrated = model.replay_buffer.size()
    imitated = th.tensor([[0.99, -0.9, 0.9, -0.9]])
    proposes = ImitationProposes(lambda observations: imitated.expand(len(observations), -1))
    vars(model.critic_target)["forward"] = Rigged(sign)
    model.learn(48, callback=proposes)
    executed = model.replay_buffer.actions[n_demonstrated : model.replay_buffer.size(), 0]
    assert proposes.n_proposals == len(executed) == 48
    assert proposes.n_taken == (48 if sign > 0 else 0)
    assert (np.abs(executed - imitated.numpy()).max(axis=1) < 1e-6).all() == (sign > 0)
    model.replay_buffer.original_next_observations = th.zeros(2, *model.observation_space.shape)
    values = model.critic_target(th.zeros(2, *model.observation_space.shape), th.tensor([[0.5] * 4, [0.995] * 4]))
    expected = [0.99, 0.995] if sign > 0 else [-0.5, -0.99]
    assert [value.flatten().tolist() for value in values] == [pytest.approx(expected)] * 2


def test_imitation_sees_what_was_seen_before_normalisation(make_model):
    """Normalised observations are clipped, so that they cannot be turned back."""
    model, demonstrations = make_model("SAC, 3 demonstrations imitated")
    add(model.replay_buffer, demonstrations)
    seen = []
    proposes = ImitationProposes(lambda observations: (seen.append(observations), th.zeros(len(observations), 4))[1])
    model.learn(48, callback=proposes)
    stored = model.replay_buffer.observations[: model.replay_buffer.size(), 0]
    np.testing.assert_allclose(th.cat(seen), stored[150:], atol=1e-6)
    seen.clear()
    model.train(1, 16)
    later = model.replay_buffer.next_observations[: model.replay_buffer.size(), 0]
    assert all((np.abs(later - row.numpy()).max(axis=1) < 1e-6).any() for row in seen[0])
