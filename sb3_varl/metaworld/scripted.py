"""A simulated vision-language model for Meta-World's tasks: the scripted experts, made worse."""

import time
import warnings
import zlib
from typing import Any

import numpy as np
from gymnasium import spaces
from metaworld.policies import ENV_POLICY_MAP

from sb3_varl.advice.types import Advice, AdviceQuery, Briefing, StandingAdvice
from sb3_varl.arguments import check_integer, check_number
from sb3_varl.metaworld.env import ACTION_SHAPE, OBSERVATION_SHAPE, check_task, task_sheet
from sb3_varl.metaworld.sheets import TASKS


class ScriptedAdvisor:
    """
    A SIMULATED vision-language model: no model is asked, and nothing that it says is a VLM's performance.

    It answers with the action of Meta-World's scripted expert, made worse in the ways a VLM's answers are: noisy,
    given in coarse numbers, now and then entirely wrong or missing. It is meant for trying out a training run before
    paying for one, and for experiments on how good advice has to be.

    The experts are not perfect: that of push-back-v3 fails in about half of the episodes, a few others now and then.

    An answer depends on the seed, the query's number, the state's number within it and the observation only.

    :param task: One of ``TASKS``
    :param noise: Standard deviation of the Gaussian noise on each component, in units of the action
    :param resolution: Components are rounded to multiples of this, and then clipped to [-1, 1]; 0 is no rounding
    :param error_rate: Probability that an answer is a uniformly random action
    :param abstain_rate: Probability that there is no answer for a state
    :param latency: Seconds that each query takes
    :param seed: Seed of all randomness; ``None`` picks one
    :raises ValueError: if there is no such task
    :raises ArgumentError: if something else is no number, or out of range
    """

    def __init__(
        self,
        task: str,
        *,
        noise: float = 0.2,
        resolution: float = 0.25,
        error_rate: float = 0.05,
        abstain_rate: float = 0.0,
        latency: float = 0.0,
        seed: int | None = None,
    ) -> None:
        # Not ``task``, which would be taken for the task in words.
        self._task = check_task(task)
        check_number("noise", noise)
        check_number("resolution", resolution, high=2.0)
        check_number("error_rate", error_rate, high=1.0)
        check_number("abstain_rate", abstain_rate, high=1.0)
        check_number("latency", latency)
        check_integer("seed", seed, low=0, optional=True)
        self.noise = float(noise)
        self.resolution = float(resolution)
        self.error_rate = float(error_rate)
        self.abstain_rate = float(abstain_rate)
        self.latency = float(latency)
        self.seed = int(np.random.default_rng().integers(2**32)) if seed is None else int(seed)
        self._expert = ENV_POLICY_MAP[task]()
        # The experts warn whenever they ask for more than the box allows, which they do most of the time. A filter
        # for good, because advisors are called from worker threads and `warnings.catch_warnings` is not safe there.
        warnings.filterwarnings("ignore", message=r"Constant\(s\) may be too high", category=UserWarning)

    def prepare(self, briefing: Briefing) -> None:
        """
        Refuse an environment that the scripted expert cannot act in.

        :param briefing: What stays the same over all queries
        :raises ValueError: if its spaces are not Meta-World's, or its task sheet is that of another task
        """
        for name, space, shape in (
            ("observation", briefing.observation_space, OBSERVATION_SHAPE),
            ("action", briefing.action_space, ACTION_SHAPE),
        ):
            if not isinstance(space, spaces.Box) or space.shape != shape:
                raise ValueError(
                    f"ScriptedAdvisor needs Meta-World's {name}s, a Box of shape {shape}, but the environment's "
                    f"{name} space is {space}. Make it with gym.make('SparseMetaWorld/{self._task}') and without "
                    f"wrappers that change its {name}s."
                )
        if briefing.sheet is not None:
            for task in TASKS:
                if task != self._task and briefing.sheet.goal == task_sheet(task).goal:
                    raise ValueError(f"ScriptedAdvisor was made for {self._task}, but the environment is {task}.")

    def advise(self, query: AdviceQuery) -> Advice:
        """
        Answer a query.

        :param query: The states in question; their observations must be Meta-World's, not normalised
        :return: An action, or ``None`` for an abstention, for each state that advice is wanted of; nothing was spent
        :raises ValueError: if an observation does not have Meta-World's shape
        """
        if self.latency > 0:
            time.sleep(self.latency)
        wanted = frozenset(query.wanted)
        return Advice(
            [
                self._answer(query.index, i, state.observation) if i in wanted else None
                for i, state in enumerate(query.states)
            ]
        )

    def standing(self, briefing: Briefing) -> StandingAdvice:
        """
        Say what it advises in any state, which depends on the seed and on the observation only.

        :param briefing: What stays the same over all queries
        :return: From an observation to an action, or ``None``
        """

        def advise(observation: Any, previous: Any = None, /) -> np.ndarray | None:
            return self._answer(zlib.crc32(np.asarray(observation, np.float32).tobytes()), 0, observation)

        return advise

    def _answer(self, query: int, state: int, observation: Any) -> np.ndarray | None:
        array = np.asarray(observation, dtype=np.float64)
        if array.shape != OBSERVATION_SHAPE:
            raise ValueError(
                f"ScriptedAdvisor needs Meta-World's observations, of shape {OBSERVATION_SHAPE}, got {array.shape}."
            )
        # All draws are made whatever the settings, so that changing one of them leaves the others' draws alone.
        rng = np.random.default_rng([self.seed, query, state])
        noise = rng.standard_normal(ACTION_SHAPE)
        random_action = rng.uniform(-1.0, 1.0, ACTION_SHAPE)
        errs, abstains = rng.random(2) < (self.error_rate, self.abstain_rate)
        if abstains:
            return None
        expert_action = np.clip(self._expert.get_action(array), -1.0, 1.0)
        action = random_action if errs else expert_action + self.noise * noise
        if self.resolution > 0:
            action = self.resolution * np.round(action / self.resolution)
        return np.clip(action, -1.0, 1.0).astype(np.float32)
