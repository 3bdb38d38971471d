"""Which of the visited states an advisor is shown, with the actions that were executed there and their pictures."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from sb3_varl.advice.pictures import as_frame, picture_in, shows_pictures
from sb3_varl.advice.types import AdviceWarning, Observation, VisitedState

# Failures to render in a row, after which a query goes on without frames.
MAX_FAILURES = 3


class StateCollector:
    """
    Collects the states of one query after the other. They are drawn before they are reached, so that only their
    frames are rendered.

    :param n_states: Number of states in a query
    :param frames: Whether to take pictures of them
    :param rng: Draws the states
    :param warns: Whether somebody is to be warned if there are none
    """

    def __init__(self, n_states: int, frames: bool, rng: np.random.Generator, warns: bool = True) -> None:
        self.n_states = n_states
        self.frames = frames
        self._rng = rng
        # In a row; after a few of them the query goes on without frames.
        self._n_failures = 0
        self._has_warned = not warns
        self._plan: dict[int, list[int]] = {}
        self._states: list[VisitedState] = []
        self._awaiting_action: list[tuple[int, VisitedState]] = []

    def draw(self, steps: range) -> None:
        """
        Draw which states to collect, as pairs of a step and an environment.

        :param steps: The run's environment steps at which there will be states, as many apart as there are environments
        """
        self._n_failures = 0
        n_envs = steps.step
        drawn = self._rng.choice(len(steps) * n_envs, size=self.n_states, replace=False)
        for step, env in sorted(divmod(int(i), n_envs) for i in drawn):
            self._plan.setdefault(steps[step], []).append(env)

    def is_drawn(self, step: int) -> bool:
        """
        Tell whether there is anything to collect.

        :param step: The run's environment steps
        :return: Whether a state of this step was drawn
        """
        return step in self._plan

    def visit(
        self, env: VecEnv, step: int, observations: Observation, read: Sequence[Observation] | None = None
    ) -> None:
        """
        Keep the present states that were drawn, of which there must be some.

        :param env: The environments, all in their present states
        :param step: The run's environment steps
        :param observations: The original observations, one for each environment
        :param read: What the advisor reads of each, if that is something else
        """
        for index in self._plan.pop(step):
            observation: Observation = (
                {key: value[index].copy() for key, value in observations.items()}
                if isinstance(observations, dict)
                else observations[index].copy()
            )
            frame = self._frame(env, index, observation) if self.frames else None
            visited = VisitedState(observation, np.empty(0), frame, step)
            if read is not None:
                visited = dataclasses.replace(visited, observation=read[index], seen=observation)
            self._awaiting_action.append((index, visited))

    def complete(self, actions: np.ndarray) -> None:
        """
        Add to the states of the last visit what was executed there.

        :param actions: The actions, one for each environment, in its units
        """
        for index, state in self._awaiting_action:
            self._states.append(dataclasses.replace(state, executed_action=actions[index].copy()))
        self._awaiting_action.clear()

    def take(self) -> tuple[VisitedState, ...]:
        """
        Hand over what was collected, and begin anew.

        :return: The states, in the order in which they were visited
        """
        states, self._states = tuple(self._states), []
        self._plan.clear()
        self._awaiting_action.clear()
        return states

    def try_frames(self, env: VecEnv) -> None:
        """
        Find out before training whether there will be frames, and warn if there will not be.

        :param env: The environments
        :raises RuntimeError: if the environment does not survive it
        """
        if env.render_mode == "rgb_array" or not shows_pictures(env.observation_space):
            self._render(env, 0)

    def picture(self, env: VecEnv, index: int) -> np.ndarray | None:
        """
        Take a picture of an environment's present state.

        :param env: The environments
        :param index: Which of them
        :return: The frame, ``(height, width, 3)`` uint8, or ``None`` if it renders none
        """
        return self._frame(env, index, np.zeros(0)) if env.render_mode == "rgb_array" else None

    def _frame(self, env: VecEnv, index: int, observation: Observation) -> np.ndarray | None:
        frame = None
        if self._n_failures < MAX_FAILURES and (env.render_mode == "rgb_array" or picture_in(observation) is None):
            frame = self._render(env, index)
            self._n_failures = self._n_failures + 1 if frame is None else 0
        return picture_in(observation) if frame is None else frame

    def _render(self, env: VecEnv, index: int) -> np.ndarray | None:
        reason = f"its render_mode is {env.render_mode!r}"
        if env.render_mode == "rgb_array":
            try:
                rendered = _rendered(env, index)
            except Exception as error:  # Whatever a renderer raises for want of a display must not end the training.
                if isinstance(error, EOFError | ConnectionError) and isinstance(env.unwrapped, SubprocVecEnv):
                    raise RuntimeError(
                        "The process of an environment ended while it rendered; what it said is above. Mend its "
                        "render(), or pass frames=False, and the advisor is shown numbers only."
                    ) from error
                reason = f"rendering failed with {type(error).__name__}: {error}"
            else:
                frame = as_frame(rendered)
                if frame is not None:
                    return frame
                reason = f"render() returned {_described(rendered)}, expected an array (height, width, 3) of uint8"
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"The environment gives no frames: {reason}. The advisor is shown numbers only where there is no "
                'frame. Make the environment with render_mode="rgb_array", on a machine that can render, '
                "or pass frames=False if that is what you want.",
                AdviceWarning,
                stacklevel=2,
            )
        return None


def _rendered(env: VecEnv, index: int) -> Any:
    try:
        # Unlike get_images(), this does not render the other environments.
        return env.env_method("render", indices=[index])[0]
    except NotImplementedError:  # of somebody's own VecEnv
        return env.get_images()[index]


def _described(thing: Any) -> str:
    if isinstance(thing, np.ndarray):
        return f"an array {thing.shape} of {thing.dtype}"
    return f"something of type {type(thing).__name__}"
