"""
Roll-ins: episodes that begin with standing advice being executed, so that success reaches the replay buffer.

As in jump-start RL (arXiv 2204.02372) the policy takes over after a while; here after a number of steps that is drawn
anew for each episode, so that it starts from everywhere along the way.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from sb3_varl.training.model import GuidedModel
from sb3_varl.training.standing import Standing

# Standard deviation of what is added to executed advice, in [-1, 1]^d, so that the critic sees what is beside it.
NOISE = 0.1

# Which part of an episode was advice.
OWN, ROLLED_IN, ALL_THE_WAY = "own", "rolled_in", "all_the_way"


class RollIns:
    """
    Draws which episodes begin with advice, and for how long, for each environment by itself.

    :param model: The model
    :param standing: The standing advice
    :param share: Share of the episodes that begin with advice
    :param max_steps: Steps of advice in the whole run, ``None`` for any number
    :param horizon: Steps that an episode has at most, ``None`` if nobody knows
    :param rng: Draws episodes, lengths and noise
    """

    def __init__(
        self,
        model: GuidedModel,
        standing: Standing,
        share: float,
        max_steps: int | None,
        horizon: int | None,
        rng: np.random.Generator,
    ) -> None:
        self.share = share
        self.max_steps = max_steps
        self.n_executed = self.n_steps = 0
        # Episodes, and those that succeeded, by which part of them was advice.
        self.episodes: Counter[str] = Counter()
        self.successes: Counter[str] = Counter()
        self._model = model
        self._standing = standing
        self._horizon = horizon
        self._longest = 1
        self._rng = rng
        self._left: list[int] = []
        self._lengths: list[int] = []
        self._executed: list[int] = []

    def begin(self, n_envs: int) -> None:
        """
        Begin a learn() with environments that may be anywhere in their episodes.

        :param n_envs: Number of environments
        """
        if len(self._left) != n_envs:
            self._left = [self._draw() for _ in range(n_envs)]
            self._lengths, self._executed = [0] * n_envs, [0] * n_envs

    def actions(self) -> list[np.ndarray | None]:
        """
        Say what is to be executed in the present states.

        :return: For each environment an action in ``[-1, 1]^d``, or ``None`` for the policy's own
        """
        chosen: list[np.ndarray | None] = [None] * len(self._left)
        if self._model.num_timesteps >= self._model.cutoff or self._standing.advice is None:
            return chosen
        for env, left in enumerate(self._left):
            if left <= 0 or (self.max_steps is not None and self.n_executed >= self.max_steps):
                continue
            action = self._standing.action(env)
            if action is None:
                continue
            scaled = self._model.policy.scale_action(action)
            noisy = scaled + NOISE * self._rng.standard_normal(scaled.shape)
            chosen[env] = np.clip(noisy, -1, 1).astype(np.float32)
            self._left[env] -= 1
            self._executed[env] += 1
            self.n_executed += 1
        return chosen

    def note(self, dones: np.ndarray, infos: Sequence[dict]) -> None:
        """
        Take note of a step, and draw anew for episodes that begin.

        :param dones: Whether an episode ended, for each environment
        :param infos: What the environments said of it
        """
        self.n_steps += len(dones)
        for env, done in enumerate(dones):
            self._lengths[env] += 1
            if not done:
                continue
            length, executed = self._lengths[env], self._executed[env]
            kind = OWN if not executed else ALL_THE_WAY if executed == length else ROLLED_IN
            self.episodes[kind] += 1
            self.successes[kind] += bool(infos[env].get("is_success", False))
            self._longest = max(self._longest, length)
            self._lengths[env] = self._executed[env] = 0
            self._left[env] = self._draw()

    def _draw(self) -> int:
        # Both are drawn in any case, so that one setting does not change what another draws.
        begins, part = self._rng.random(2)
        if begins >= self.share:
            return 0
        if self._horizon is None and self._longest == 1:
            return 1_000_000_000
        return 1 + int(part * (self._horizon or self._longest))

    def figures(self) -> dict[str, float]:
        """
        Put together what is logged.

        :return: Numbers by their keys: share of the steps that were advice, and success by kind of episode
        """
        if not self.n_executed:
            return {}
        figures = {"advice/executed": self.n_executed / self.n_steps}
        for kind, n in self.episodes.items():
            figures[f"advice/success_{kind}"] = self.successes[kind] / n
        return figures
