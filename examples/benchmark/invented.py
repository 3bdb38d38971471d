"""
Three tasks that are in no benchmark, to see what a model makes of what it cannot have seen.

They are played in scenes of Meta-World, in the words, numbers and directions of ``disguised.py``, and succeed by
conditions of their own. In place of the goal, the observation has the place where the object was at first.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from disguised import DISGUISES, Disguise, Disguised, write_sheet
from sb3_varl import TaskSheet

P, Q, R = 0, 1, 2
MAX_EPISODE_STEPS = 60
_GLOBE = (
    "Globe: 6 cm across. Held between the jaws, it leaves the jaw gap at about 4.8. A ring on a board stands on the "
    "+r side, out of the way."
)
_WHEN = (
    f"Once is enough, at any speed. This is checked at the end of each step. An episode has {MAX_EPISODE_STEPS} steps."
)


class Invention(NamedTuple):
    """
    A task.

    :param scene: The task of Meta-World whose scene it is played in
    :param words: What its sheet says that the others' do not
    :param succeeds: Whether a state is a success, by the positions of thing and home, the jaw gap, and the tool's place
    """

    scene: str
    words: Disguise
    succeeds: Callable[[np.ndarray, np.ndarray, float, np.ndarray], bool]

    @property
    def sheet(self) -> TaskSheet:
        """What an advisor should know of it."""
        return dataclasses.replace(write_sheet(self.words), success=f"{self.words.success} {_WHEN}")


def _invent(scene: str, goal: str, success: str, succeeds: Callable[..., Any], sizes: str | None = None) -> Invention:
    words = DISGUISES[scene]
    return Invention(
        scene,
        words._replace(
            goal=goal,
            target=f"where the {words.thing} was when the episode began",
            success=success,
            sizes=sizes or words.sizes,
            place="home position",
        ),
        succeeds,
    )


INVENTIONS = {
    "move-and-leave": _invent(
        "push-v3",
        "Move the disc at least 15 cm towards -q from its home, along the plate, and leave it there: jaws open, and "
        "the tool far above it.",
        "The disc position's q is at least 15 cm below the home position's, its p is below 24, the jaw gap is above "
        "7, and the tool position's p is at least 20 cm above the disc position's.",
        lambda thing, home, gap, tool: (
            thing[Q] <= home[Q] - 15 and thing[P] < 24 and gap > 7 and tool[P] >= thing[P] + 20
        ),
    ),
    "half-open": _invent(
        "drawer-open-v3",
        "Drag the sledge out of its housing by its grip, towards -r, but only by 7 to 11 cm, and get the tool far "
        "above the grip.",
        "The grip position's r is 7 to 11 cm below the home position's, and the tool position's p is at least 20 cm "
        "above the grip position's.",
        lambda thing, home, gap, tool: 7 <= home[R] - thing[R] <= 11 and tool[P] >= thing[P] + 20,
    ),
    "aside-and-high": _invent(
        "basketball-v3",
        "Bring the globe at least 20 cm towards +q from its home and at least 20 cm above it.",
        "The globe position's q is at least 20 cm above the home position's, and its p is at least 20 cm above the "
        "home position's.",
        lambda thing, home, gap, tool: thing[Q] >= home[Q] + 20 and thing[P] >= home[P] + 20,
        _GLOBE,
    ),
}


class Invented(Disguised):
    """
    A task that is in no benchmark.

    :param task: A key of ``INVENTIONS``
    :param terminate_on_success: Whether the first success ends the episode
    """

    def __init__(self, task: str, terminate_on_success: bool = False) -> None:
        self.invention = INVENTIONS[task]
        super().__init__(self.invention.scene)
        self.task_sheet = self.invention.sheet
        self.terminate_on_success = terminate_on_success
        self._home = np.zeros(3, np.float32)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """:return: The first observation, and what the environment says beside it"""
        observation, info = super().reset(**kwargs)
        self._home = observation[:3].copy()
        return self._with_home(observation), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """:return: Observation, reward, whether success ended the episode, ``False``, info"""
        observation, *_ = super().step(action)
        succeeded = bool(self.invention.succeeds(observation[:3], self._home, observation[6], observation[7:10]))
        ends = succeeded and self.terminate_on_success
        return self._with_home(observation), float(succeeded), ends, False, {"success": float(succeeded)}

    def _with_home(self, observation: np.ndarray) -> np.ndarray:
        observation[3:6] = self._home
        return observation
