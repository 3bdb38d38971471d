"""What one would do with demonstrations in place of advice: in the replay buffer (RLPD), or as imitation (IBRL)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import create_mlp
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_varl import VARL
from sb3_varl.advice.types import StandingAdvice

# Episodes that are tried for each that is wanted.
_MAX_TRIES = 20


class Demonstration(NamedTuple):
    """
    An episode that succeeded, of ``n`` steps.

    :param observations: Before the first step and after each, ``(n + 1, observation)``
    :param actions: In ``[-1, 1]``, ``(n, action)``
    :param rewards: ``(n,)``
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray


def demonstrate(env: gym.Env, advice: StandingAdvice, n_episodes: int, seed: int) -> list[Demonstration]:
    """
    Follow advice until some episodes have succeeded.

    :param env: An environment whose actions go from -1 to 1, and that says ``"is_success"``
    :param advice: What to do in any state; where it has no advice, nothing is done
    :param n_episodes: How many successful episodes
    :param seed: Of the first episode; the others have those after it
    :return: These episodes, to their ends
    :raises ValueError: if the advice succeeds too seldom
    """
    found: list[Demonstration] = []
    nothing = np.zeros(env.action_space.shape or (), np.float32)
    for attempt in range(_MAX_TRIES * n_episodes):
        observation, _ = env.reset(seed=seed + attempt)
        observations, actions, rewards = [observation], [], []
        previous, is_over, info = observation, False, dict[str, Any]()
        while not is_over:
            advised = advice(observation, previous)
            action = nothing if advised is None else advised
            previous = observation
            observation, reward, terminated, truncated, info = env.step(action)
            observations.append(observation)
            actions.append(action)
            rewards.append(float(reward))
            is_over = terminated or truncated
        if info["is_success"]:
            found.append(Demonstration(np.array(observations), np.array(actions), np.array(rewards)))
        if len(found) == n_episodes:
            return found
    raise ValueError(f"{len(found)} of {_MAX_TRIES * n_episodes} episodes succeeded, expected {n_episodes}.")


class HalfDemonstrations(NStepReplayBuffer):
    """
    A replay buffer half of whose batches are demonstrations, as in RLPD (https://arxiv.org/abs/2302.02948), of which
    this is the sampling alone: the critics are what they are in all methods of the grid.

    :param args: Arguments of :class:`~stable_baselines3.common.buffers.NStepReplayBuffer`
    :param demonstrations: The demonstrations
    :param kwargs: Its keyword arguments
    """

    def __init__(self, *args: Any, demonstrations: Sequence[Demonstration], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        n_steps = sum(len(demonstration.actions) for demonstration in demonstrations)
        self.demonstrated = NStepReplayBuffer(
            n_steps, self.observation_space, self.action_space, self.device, n_steps=self.n_steps, gamma=self.gamma
        )
        add(self.demonstrated, demonstrations)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """
        Sample transitions.

        :param batch_size: How many
        :param env: Normalises them
        :return: Half of them the agent's, half demonstrated
        """
        n_demonstrated = batch_size // 2
        own = super().sample(batch_size - n_demonstrated, env)
        demonstrated = self.demonstrated.sample(n_demonstrated, env)
        pairs = zip(own, demonstrated, strict=True)
        return ReplayBufferSamples(*(None if a is None or b is None else th.cat([a, b]) for a, b in pairs))  # type: ignore[arg-type]


class WithOriginals(NStepReplayBuffer):
    """A replay buffer that remembers the next observations of its latest batch as they were before normalisation."""

    original_next_observations: th.Tensor

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
        self.original_next_observations = super()._get_samples(batch_inds).next_observations
        return super()._get_samples(batch_inds, env)


def add(buffer: NStepReplayBuffer, demonstrations: Sequence[Demonstration]) -> None:
    """
    Put demonstrations into a replay buffer.

    :param buffer: The buffer, of one environment
    :param demonstrations: The demonstrations
    """
    for observations, actions, rewards in demonstrations:
        for i, action in enumerate(actions):
            is_last = i == len(actions) - 1
            buffer.add(
                observations[i][None],
                observations[i + 1][None],
                action[None],
                rewards[i : i + 1],
                np.array([is_last]),
                [{"TimeLimit.truncated": is_last}],
            )


def imitate(demonstrations: Sequence[Demonstration], n_updates: int = 5000) -> Callable[[th.Tensor], th.Tensor]:
    """
    Fit a policy to demonstrations by behaviour cloning.

    :param demonstrations: The demonstrations
    :param n_updates: Gradient steps, on batches of 128
    :return: From observations to actions in ``[-1, 1]``
    """
    observations = th.tensor(np.concatenate([d.observations[:-1] for d in demonstrations]), dtype=th.float32)
    actions = th.tensor(np.concatenate([d.actions for d in demonstrations]), dtype=th.float32)
    mean, deviation = observations.mean(0), observations.std(0) + 1e-3
    network = th.nn.Sequential(*create_mlp(observations.shape[1], actions.shape[1], [256, 256], squash_output=True))
    optimizer = th.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(n_updates):
        rows = th.randint(len(actions), (128,))
        loss = (network((observations[rows] - mean) / deviation) - actions[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def policy(states: th.Tensor) -> th.Tensor:
        with th.no_grad():
            return network((states - mean) / deviation)

    return policy


class ImitationProposes(BaseCallback):
    """
    Imitation proposes actions, as in IBRL (https://arxiv.org/abs/2311.02198): of its action and the agent's, the one
    that the critics' targets value more is executed, and is what the critics bootstrap from. The entropy of the latter
    stays that of the agent's. The model's replay buffer is a :class:`WithOriginals`.

    :param policy: From original observations to actions in ``[-1, 1]``
    """

    model: VARL

    def __init__(self, policy: Callable[[th.Tensor], th.Tensor]) -> None:
        super().__init__()
        self.policy = policy
        self.n_proposals = self.n_taken = 0

    def _on_training_start(self) -> None:
        target = self.model.critic_target
        value = target.forward

        def best_value(observations: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, ...]:
            buffer = self.model.replay_buffer
            assert isinstance(buffer, WithOriginals)
            own = value(observations, actions)
            imitated = value(observations, self.policy(buffer.original_next_observations))
            is_better = th.cat(imitated, 1).amin(1, keepdim=True) > th.cat(own, 1).amin(1, keepdim=True)
            return tuple(th.where(is_better, b, a) for a, b in zip(own, imitated, strict=True))

        vars(target)["forward"] = best_value
        self._value = value
        self.model.roll_ins.append(self.actions)

    def actions(self) -> list[np.ndarray | None]:
        """
        Propose actions for the present states.

        :return: Those that are better than the agent's, for each environment
        """
        model = self.model
        observations = th.as_tensor(model._last_obs, dtype=th.float32)
        normalize = model.get_vec_normalize_env()
        seen = model._last_obs if normalize is None else normalize.get_original_obs()
        originals = th.as_tensor(seen, dtype=th.float32)
        with th.no_grad():
            proposed, own = self.policy(originals), model.actor(observations, deterministic=True)
            gain = th.cat(self._value(observations, proposed), 1).amin(1) - th.cat(
                self._value(observations, own), 1
            ).amin(1)
        self.n_proposals += len(gain)
        self.n_taken += int((gain > 0).sum())
        return [action.numpy() if better else None for action, better in zip(proposed, gain > 0, strict=True)]

    def _on_step(self) -> bool:
        return True
