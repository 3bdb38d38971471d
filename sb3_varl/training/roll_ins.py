"""
Roll-ins: episodes that begin with standing advice being executed, so that success reaches the replay buffer.

As in jump-start RL (arXiv 2204.02372) the policy takes over after a while; here after a number of steps that is drawn
anew for each episode, so that it starts from everywhere along the way.
"""

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sb3_varl.advice.types import Episode, Observation
from sb3_varl.success import success_of
from sb3_varl.training.model import GuidedModel
from sb3_varl.training.standing import Standing
from sb3_varl.training.track_record import ENOUGH
from sb3_varl.training.until_success import N_OWN

logger = logging.getLogger(__name__)

# Standard deviation of what is added to executed advice, in [-1, 1]^d, so that the critic sees what is beside it.
NOISE = 0.1
# Of the episodes that begin with advice, the share in which it is followed to the end, without noise: these tell how
# good it is; and the share as long as somebody waits to be told.
WHOLE, WHOLE_WHILE_UNKNOWN = 0.2, 0.5

# Steps between pictures of an episode in which advice is followed, the last of which is shown if nobody knew that the
# end was near.
PICTURE_FREQ = 10

# Steps of an episode of which nobody knows how long it may be.
_UNKNOWN_HORIZON = 1000


@dataclass
class _Present:
    """
    The present episode of an environment.

    :param left: How many more steps begin with advice
    :param is_whole: Whether it is followed to the end
    :param frames: Pictures of moments that matter, by their step, and the latest of others
    :param passing: Which of them is of no such moment
    :param began_otherwise: Whether it began with other advice than what stands
    :param is_part: Whether it had begun before anybody looked
    """

    left: int
    is_whole: bool
    length: int = 0
    n_executed: int = 0
    observations: list[Observation] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    rules: list[int | None] = field(default_factory=list)
    frames: dict[int, np.ndarray] = field(default_factory=dict)
    passing: int | None = None
    began_otherwise: bool = False
    is_part: bool = False

    def see(self, n: int, frame: np.ndarray, is_moment: bool) -> None:
        """Keep a picture of a step, in place of the one before that was of no moment that matters."""
        if self.passing is not None:
            del self.frames[self.passing]
        self.frames[n] = frame
        self.passing = None if is_moment else n

    def forget_step(self) -> None:
        """Of a step that was broken off before it was done, what was written down is written down again."""
        for written in (self.observations, self.actions, self.rules):
            del written[self.length :]


class RollIns:
    """
    Draws which episodes begin with advice, and for how long, for each environment by itself.

    :param model: The model
    :param standing: The standing advice
    :param share: Share of the episodes that begin with advice
    :param max_steps: Steps of advice in the whole run, ``None`` for any number
    :param horizon: Steps that an episode has at most, ``None`` if nobody knows
    :param rng: Draws episodes, lengths and noise
    :param picture: Takes a picture of an environment's present state, or has none
    :param is_unknown: Whether somebody waits to be told how good the advice is
    """

    def __init__(
        self,
        model: GuidedModel,
        standing: Standing,
        share: float,
        max_steps: int | None,
        horizon: int | None,
        rng: np.random.Generator,
        picture: Callable[[int], np.ndarray | None] = lambda env: None,
        is_unknown: Callable[[], bool] = lambda: False,
    ) -> None:
        self.share = share
        self.max_steps = max_steps
        self.n_executed = self.n_steps = 0
        # Whether the latest episodes succeeded: those that were the policy's own from their start to their end, and
        # those that began with the advice that stands.
        self.own: deque[bool] = deque(maxlen=N_OWN)
        self.rolled_in: deque[bool] = deque(maxlen=N_OWN)
        self._model = model
        self._standing = standing
        self._horizon = horizon
        self._longest = 1
        self._rng = rng
        self._picture = picture
        self._is_unknown = is_unknown
        self._nothing = np.full(standing.action_shape, np.nan)
        self._present: list[_Present] = []
        # Whether any episode said whether it succeeded, and whether it was said that one does not.
        self.is_told = self._told_of_silence = False
        self._n_silent = 0

    def begin(self, n_envs: int, goes_on: bool, is_midway: bool) -> None:
        """
        Begin a learn().

        :param n_envs: Number of environments
        :param goes_on: Whether they are where they were left
        :param is_midway: Whether they are in the middle of episodes
        """
        for present in self._present:
            present.forget_step()
        if goes_on and len(self._present) == n_envs:
            return
        self._present = [self._draw() for _ in range(n_envs)]
        if is_midway:
            for present in self._present:
                present.left, present.is_whole, present.is_part = 0, False, True

    @property
    def horizon(self) -> int | None:
        """Steps that an episode has at most, or had so far; ``None`` before anybody knows."""
        return self._horizon or (self._longest if self._longest > 1 else None)

    def n_whole(self, n_steps: int, whole: float = WHOLE) -> float:
        """
        Expect in how many episodes advice is followed to the end, if they all are as long as they may be.

        :param n_steps: Environment steps, of all environments
        :param whole: Share of those that begin with advice in which it is followed to the end; in the others it is
            followed in half of the steps
        :return: Their number, any number before it is known how long episodes are
        """
        if self.horizon is None:
            return math.inf
        n_begun = self.share * n_steps / self.horizon
        if self.max_steps is not None:
            n_begun = min(n_begun, self.max_steps / (self.horizon * (1 + whole) / 2))
        return whole * n_begun

    @property
    def can_execute(self) -> bool:
        """Whether any more advice may be executed."""
        return self.share > 0 and (self.max_steps is None or self.n_executed < self.max_steps)

    def wait(self) -> None:
        """Begin with the next episodes, because it is other advice that stands from now on."""
        self.rolled_in.clear()
        for present in self._present:
            present.left, present.is_whole = 0, False
            present.began_otherwise = present.n_executed > 0

    def actions(self) -> list[np.ndarray | None]:
        """
        Say what is to be executed in the present states.

        :return: For each environment an action in ``[-1, 1]^d``, or ``None`` for the policy's own
        """
        chosen: list[np.ndarray | None] = [None] * len(self._present)
        standing = self._standing
        if self._model.num_timesteps >= self._model.cutoff or standing.advice is None or not standing.present:
            return chosen
        for env, present in enumerate(self._present):
            if present.left > 0 and (self.max_steps is None or self.n_executed < self.max_steps):
                chosen[env] = self._action(env, present)
        return chosen

    def _action(self, env: int, present: _Present) -> np.ndarray | None:
        rule, action = self._standing.decide(env)
        if present.is_whole:
            n = len(present.rules)
            is_moment = n == 0 or present.rules[-1] != rule or n + 1 == self._horizon
            if is_moment or n % PICTURE_FREQ == 0:
                frame = self._picture(env)
                if frame is not None:
                    present.see(n, frame, is_moment)
            present.observations.append(self._standing.present[env])
            present.actions.append(self._nothing if action is None else action)
            present.rules.append(rule)
        if action is None:
            return None
        scaled = self._model.policy.scale_action(action)
        if not present.is_whole:
            scaled = scaled + NOISE * self._rng.standard_normal(scaled.shape)
        present.left -= 1
        present.n_executed += 1
        self.n_executed += 1
        return np.clip(scaled, -1, 1).astype(np.float32)

    def note(self, dones: np.ndarray, infos: Sequence[dict[str, Any]]) -> list[Episode]:
        """
        Take note of a step, and draw anew for episodes that begin.

        :param dones: Whether an episode ended, for each environment
        :param infos: What the environments said of it
        :return: The episodes that ended and in which advice was followed all the way
        """
        followed = []
        self.n_steps += len(dones)
        for env, done in enumerate(dones):
            present = self._present[env]
            present.length += 1
            if not done:
                continue
            told = success_of(infos[env])
            # Where some episodes tell of success, one that does not had none.
            succeeded = False if told is None and self.is_told else told
            self._n_silent += succeeded is None
            is_followed = present.is_whole and len(present.actions) == present.length
            if succeeded is None and (is_followed or self._n_silent >= ENOUGH):
                self._tell_of_silence()
            if is_followed:
                # What was mostly the policy's own doing is no success of the advice.
                succeeded = succeeded and 2 * present.n_executed >= present.length
                observations, actions = tuple(present.observations), tuple(present.actions)
                followed.append(Episode(observations, actions, tuple(present.rules), succeeded, present.frames))
            elif present.n_executed and not present.began_otherwise:
                self.rolled_in.append(bool(succeeded))
            elif not present.n_executed and not present.is_part:
                self.own.append(bool(succeeded))
            self.is_told = self.is_told or told is not None
            self._longest = max(self._longest, present.length)
            self._present[env] = self._draw()
        return followed

    def _tell_of_silence(self) -> None:
        if self._told_of_silence or self._standing.advice is None or not self.share:
            return
        self._told_of_silence = True
        logger.warning(
            "No episode has said yet whether it succeeded, so nobody can tell how good the advice is that is followed. "
            'The environment has to put "is_success" into the info of the last step of an episode; '
            "sb3_varl.SuccessFromReward does, where the reward tells."
        )

    def _draw(self) -> _Present:
        # All are drawn in any case, so that one setting does not change what another draws.
        begins, whole, part = self._rng.random(3)
        if begins >= self.share:
            return _Present(0, False)
        if whole < (max(WHOLE, WHOLE_WHILE_UNKNOWN) if self._is_unknown() else WHOLE):
            return _Present(self._horizon or max(self._longest, _UNKNOWN_HORIZON), True)
        return _Present(1 + int(part * (self.horizon or _UNKNOWN_HORIZON)), False)

    def figures(self) -> dict[str, float]:
        """
        Put together what is logged.

        :return: Numbers by their keys: share of the steps that were advice, and success by kind of episode
        """
        if not self.n_executed:
            return {}
        kinds = {"own": self.own, "rolled_in": self.rolled_in} if self.is_told else {}
        successes = {
            f"advice/success_{kind}": sum(of_kind) / len(of_kind) for kind, of_kind in kinds.items() if of_kind
        }
        return {"advice/executed": self.n_executed / self.n_steps, **successes}
