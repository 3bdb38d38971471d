"""What one would try instead of VARL."""

import collections
import copy
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_varl import VARL
from sb3_varl.algorithms.shaping import clip_advice

_FULL_SCORE = 10.0


class SimulatedScorer(gym.Wrapper):
    """
    Reward shaping by a SIMULATED vision-language model that is asked now and then how far the task is done.

    Its answer, between 0 and 1, is Meta-World's own dense reward, made noisy, rounded to tenths and sometimes entirely
    wrong. It is added to the reward of each step of the episode until the next answer comes. That is reward shaping at
    its simplest: no model of the reward is learnt from the answers.

    :param env: A task of ``sb3_varl.metaworld``
    :param every: Steps between two questions
    :param weight: What the scores are multiplied with
    :param noise: Standard deviation of the Gaussian noise
    :param error_rate: Probability that a score is uniformly random
    :param seed: Seed of all randomness
    """

    def __init__(self, env: gym.Env, *, every: int, weight: float, noise: float, error_rate: float, seed: int) -> None:
        super().__init__(env)
        self.every = every
        self.weight = weight
        self.noise = noise
        self.error_rate = error_rate
        self.n_queries = 0
        self._rng = np.random.default_rng(seed)
        self._n_steps = 0
        self._score = 0.0

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self._n_steps = 0
        return super().reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        if self._n_steps % self.every == 0:
            self.n_queries += 1
            self._score = self._ask(info["unscaled_reward"] / _FULL_SCORE)
        self._n_steps += 1
        return observation, float(reward) + self.weight * self._score, terminated, truncated, info

    def _ask(self, progress: float) -> float:
        wrong = self._rng.random() < self.error_rate
        score = self._rng.random() if wrong else progress + self.noise * self._rng.standard_normal()
        return float(np.clip(np.round(score, 1), 0, 1))


class Branching(gym.Wrapper):
    """
    Remembers the simulator's last states, and can tell what other actions would have led to.

    :param env: A task of ``sb3_varl.metaworld``
    :param n_remembered: Number of states
    """

    def __init__(self, env: gym.Env, n_remembered: int) -> None:
        super().__init__(env)
        self._remembered: collections.deque[tuple[bytes, dict[str, Any]]] = collections.deque(maxlen=n_remembered + 1)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = super().reset(**kwargs)
        self._remembered.append((observation.tobytes(), self._capture()))
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, *rest = super().step(action)
        self._remembered.append((observation.tobytes(), self._capture()))
        return observation, *rest

    def what_if(self, observation: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, float]:
        """
        Find out what an action would have led to. The environment stays in its present state.

        :param observation: One that was seen
        :param action: What to do there
        :return: The next observation and the reward
        :raises LookupError: if the observation is not remembered
        """
        key = observation.tobytes()
        state = next((state for remembered, state in reversed(self._remembered) if remembered == key), None)
        if state is None:
            raise LookupError("This observation was not seen lately: remember more states.")
        present = self._capture()
        self._restore(state)
        next_observation, reward, *_ = self.unwrapped.step(action)
        self._restore(present)
        return next_observation, float(reward)

    def _capture(self) -> dict[str, Any]:
        env: Any = self.unwrapped
        simulation = env._env
        state = np.empty(mujoco.mj_stateSize(simulation.model, mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_getState(simulation.model, simulation.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        plain = (np.ndarray, np.generic, bool, int, float, list, tuple)
        return {
            "state": state,
            # Meta-World arranges some objects by moving them in the model.
            "body_pos": simulation.model.body_pos.copy(),
            "site_pos": simulation.model.site_pos.copy(),
            "simulation": {name: copy.deepcopy(v) for name, v in vars(simulation).items() if isinstance(v, plain)},
            "succeeded": env._succeeded,
        }

    def _restore(self, captured: dict[str, Any]) -> None:
        env: Any = self.unwrapped
        simulation = env._env
        simulation.model.body_pos[:] = captured["body_pos"]
        simulation.model.site_pos[:] = captured["site_pos"]
        mujoco.mj_setState(simulation.model, simulation.data, captured["state"], mujoco.mjtState.mjSTATE_INTEGRATION)
        vars(simulation).update(copy.deepcopy(captured["simulation"]))
        env._succeeded = captured["succeeded"]
        mujoco.mj_forward(simulation.model, simulation.data)


class NewAdvice(BaseCallback):
    """Waits for advice. It goes behind the ``AdvisorCallback``."""

    model: VARL

    def __init__(self) -> None:
        super().__init__()
        self.n_seen = 0

    def _on_step(self) -> bool:
        if self.model.guidance_buffer.size() > self.n_seen and self.is_good_time():
            n_new = self.model.guidance_buffer.size() - self.n_seen
            self.n_seen += n_new
            self.use(n_new)
        return True

    def is_good_time(self) -> bool:
        """Whether advice can be used at this step."""
        return True

    def use(self, n_new: int) -> None:
        """
        Use the advice that has come.

        :param n_new: Rows of guidance that are new, the last ones
        """
        raise NotImplementedError


class AdviceInReplay(NewAdvice):
    """
    Puts advice into the replay buffer, as if it had been followed: with what the simulator says that it leads to.
    It is sampled like everything else.

    :param env: The training environment
    """

    def __init__(self, env: Branching) -> None:
        super().__init__()
        self.env = env

    def is_good_time(self) -> bool:
        """Between two episodes, so that no multi-step return runs from a policy's transition into an advised one."""
        buffer = self.model.replay_buffer
        assert buffer is not None
        return bool(buffer.dones[buffer.pos - 1].all())

    def use(self, n_new: int) -> None:
        """
        Add a transition for each row.

        :param n_new: Rows of guidance that are new
        """
        assert self.model.replay_buffer is not None
        rows = self.model.guidance_buffer.rows()
        for observation, action in zip(
            rows["observations/observation"][-n_new:], rows["actions"][-n_new:], strict=True
        ):
            next_observation, reward = self.env.what_if(observation, self.model.policy.unscale_action(action))
            # Cut off like an episode that runs out of time: its value goes on, the transition after it is another's.
            self.model.replay_buffer.add(
                observation[None],
                next_observation[None],
                action[None],
                np.array([reward]),
                np.array([True]),
                [{"TimeLimit.truncated": True}],
            )


class Cloning(NewAdvice):
    """
    Pretrains the actor on the advice by behaviour cloning, whenever there is more of it, and leaves the rest to SAC.

    The advice is clipped as VARL does, because a squashed policy that chases the box's faces learns nothing any more.

    :param n_updates: Gradient steps each time, on batches of 128
    """

    def __init__(self, n_updates: int) -> None:
        super().__init__()
        self.n_updates = n_updates

    def use(self, n_new: int) -> None:
        """
        Clone all advice so far.

        :param n_new: Rows of guidance that are new
        """
        model = self.model
        optimizer = th.optim.Adam(model.actor.parameters(), lr=model.learning_rate)  # type: ignore[arg-type]
        for _ in range(self.n_updates):
            batch = model.guidance_buffer.sample(128, env=model.get_vec_normalize_env())
            error = model.actor(batch.observations, deterministic=True) - clip_advice(batch.actions)
            optimizer.zero_grad()
            error.square().mean().backward()
            optimizer.step()
