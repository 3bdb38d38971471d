"""Which of the visited states an advisor is shown, with the actions that were executed there and their pictures."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from PIL import Image
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from sb3_varl.advice.types import AdviceWarning, Observation, VisitedState

# Failures to render in a row, after which a query goes on without frames.
MAX_FAILURES = 3
# Grey, RGB, and RGB with transparency.
_CHANNELS = (1, 3, 4)
# Of numbers from 0 to 1 that a renderer has computed.
_ROUNDING = 1e-3


class StateCollector:
    """
    Collects the states of one query after the other. They are drawn before they are reached, so that only their
    frames are rendered.

    :param n_states: Number of states in a query
    :param frames: Whether to take pictures of them
    :param rng: Draws the states
    """

    def __init__(self, n_states: int, frames: bool, rng: np.random.Generator) -> None:
        self.n_states = n_states
        self.frames = frames
        self._rng = rng
        # In a row; after a few of them the query goes on without frames.
        self._n_failures = 0
        self._has_warned = False
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
        if env.render_mode == "rgb_array" or not _shows_pictures(env.observation_space):
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
        if self._n_failures < MAX_FAILURES and (env.render_mode == "rgb_array" or _picture(observation) is None):
            frame = self._render(env, index)
            self._n_failures = self._n_failures + 1 if frame is None else 0
        return _picture(observation) if frame is None else frame

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


def as_frame(image: Any) -> np.ndarray | None:
    """
    Bring a picture into the form that all others have: grey ones, those with transparency, those of numbers from 0 to
    1, and those with their channels first.

    :param image: What an environment rendered
    :return: ``(height, width, 3)`` uint8, a copy, or ``None`` if it cannot be told what it is
    """
    try:
        if isinstance(image, Image.Image):
            image = image.convert("RGB")
        array = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
    except Exception:  # whatever somebody's type raises
        return None
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.size == 0:
        return None
    if array.shape[2] not in _CHANNELS and array.shape[0] in _CHANNELS:
        array = np.moveaxis(array, 0, -1)
    if array.shape[2] not in _CHANNELS:
        return None
    if array.dtype.kind == "f" and np.isfinite(array).all():
        array = np.round(array * 255 if array.max() <= 1 + _ROUNDING else array)
        if array.min() < -255 * _ROUNDING or array.max() > 255 * (1 + _ROUNDING):
            return None
        array = array.clip(0, 255).astype(np.uint8)
    if array.dtype != np.uint8:
        return None
    return np.broadcast_to(array[..., :3], (*array.shape[:2], 3)).copy()


def _described(thing: Any) -> str:
    if isinstance(thing, np.ndarray):
        return f"an array {thing.shape} of {thing.dtype}"
    return f"something of type {type(thing).__name__}"


def _shows_pictures(space: spaces.Space) -> bool:
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else (space,)
    return any(part.dtype == np.uint8 and len(part.shape or ()) == 3 for part in parts)


def _picture(observation: Observation) -> np.ndarray | None:
    """
    The observation as a picture, or its first entry that is one. Of stacked frames it is the latest: the last channel,
    or the last three if their number is a multiple of three.
    """
    for array in observation.values() if isinstance(observation, dict) else (observation,):
        if array.dtype == np.uint8 and array.ndim == 3:
            channels_last = np.moveaxis(array, 0, -1) if array.shape[0] < array.shape[2] else array
            latest = channels_last[..., -3:] if channels_last.shape[2] % 3 == 0 else channels_last[..., -1:]
            return np.broadcast_to(latest, (*latest.shape[:2], 3)).copy()
    return None
