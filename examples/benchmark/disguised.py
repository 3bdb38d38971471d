"""
Six of Meta-World's tasks in other words, numbers and directions: do a model's rules hang on the benchmark's own?

Changed are the names of things and of numbers, their order, the units (centimetres), the origin, the axes, which are
turned and mirrored, the sign of the gripper's command, and the time between two actions. Orientations, numbers that are
always zero, and pictures are left out. The simulator is the same, and the sheet tells the same of sizes, motion and
success; by these the model recognised every one of the tasks (docs/results_rules.md, "Tasks in disguise").
"""

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_varl import ActionComponent, ObservationSlice, TaskSheet
from sb3_varl.metaworld import SparseMetaWorldEnv

FRAME_SKIP = 4
MAX_EPISODE_STEPS = 38


class Disguise(NamedTuple):
    """
    What the sheet of a disguised task says that the others' do not.

    :param goal: What success is
    :param thing: What the object is called
    :param point: Which point of it is reported
    :param target: What the goal position is
    :param success: When success counts
    :param sizes: Sizes of objects
    :param place: What the position of the target is called
    """

    goal: str
    thing: str
    point: str
    target: str
    success: str
    sizes: str
    place: str = "goal position"


_DISC = "Disc: a cylinder 4 cm across and 4 cm high. Held between the jaws, it leaves the jaw gap at about 3.2."
DISGUISES = {
    "push-v3": Disguise(
        goal="Shove the disc along the plate to within 5 cm of the goal position.",
        thing="disc",
        point="centre",
        target="where the disc should be",
        success="The disc position is within 5 cm of the goal position.",
        sizes=_DISC,
    ),
    "pick-place-v3": Disguise(
        goal="Lift the disc and bring it to within 7 cm of the goal position.",
        thing="disc",
        point="centre",
        target="where the disc should be",
        success="The disc position is within 7 cm of the goal position.",
        sizes=_DISC,
    ),
    "drawer-open-v3": Disguise(
        goal=(
            "Drag the sledge out of its housing by its grip, towards -r, until the grip is within 3 cm of the goal "
            "position."
        ),
        thing="grip",
        point="middle of the grip",
        target="where the grip should be",
        success="The grip position is within 3 cm of the goal position.",
        sizes=(
            "Grip: a bar along q, 11.8 cm long and 1.8 cm thick, at p = 29, with its axis 1 cm on the +r side of the "
            "grip position. It stands on two posts 10 cm apart; 5.1 cm are free between it and the sledge's front, "
            "which is 20 cm wide and reaches up to p = 35."
        ),
    ),
    "button-press-topdown-v3": Disguise(
        goal="Drive the plunger down from above until its p is within 2.4 cm of the goal's.",
        thing="plunger",
        point="middle of its top",
        target="where the plunger goes in",
        success="The plunger position's p is within 2.4 cm of the goal position's; nothing else counts.",
        sizes=(
            "Plunger: a cap 8.6 cm across and 2.2 cm thick on a stem 4.2 cm thick. Its housing is 24 cm wide and "
            "deep, its top 10.4 cm below the cap's at first."
        ),
    ),
    "peg-insert-side-v3": Disguise(
        goal=(
            "Pick up the rod and push its +q end into the socket, to within 7 cm of the goal position, errors in r "
            "and p counting double."
        ),
        thing="rod",
        point="where to hold the rod; the end that goes into the socket is 15 cm towards +q",
        target="a point in the socket, 7 cm behind its opening",
        success=(
            "With dq, dr and dp from a point in the rod, 13 cm on the +q side of the rod position and 1 cm below it, "
            "to the goal position, the square root of dq^2 + (2 dr)^2 + (2 dp)^2 is at most 7 cm."
        ),
        sizes=(
            "Rod: 24 cm long (q), 3 cm wide and 3 cm high, from 15 cm on the +q side of the rod position to 9 cm on "
            "its -q side; its axis is 1 cm below that position. Socket: 6 cm wide and 6 cm high, its axis through the "
            "goal position along q, its opening on the -q side. Held between the jaws, the rod leaves the jaw gap at "
            "about 1.8, as if there were nothing."
        ),
    ),
    "basketball-v3": Disguise(
        goal=(
            "Bring the globe above the ring: within 8 cm of the point at p = 50 over the goal's q and r, errors in p "
            "counting double."
        ),
        thing="globe",
        point="centre",
        target="the ring; the globe has to be 5 cm higher than this",
        success=(
            "With dq and dr from the globe position to the goal position, and dp from the globe position to p = 50, "
            "the square root of dq^2 + dr^2 + (2 dp)^2 is at most 8 cm."
        ),
        sizes=(
            "Globe: 6 cm across. Ring: its opening is 6.8 cm across, its rim at the goal position's height; a board, "
            "20 cm wide and from p = 42 to 56, begins 7.3 cm on the +r side of the ring's centre. Held between the "
            "jaws, the globe leaves the jaw gap at about 4.8."
        ),
    ),
}

_NOTES = (
    "Positions are in centimetres: q and r are level, and the plate's surface is at p = 20. One step takes 50 ms. The "
    "tool cannot turn: its two jaws point down and close along r."
)
_JAWS = (
    "Each jaw is a slab 3 cm wide (q), 0.9 cm thick (r) and 9 cm long (p), from 4.5 cm above the tool position to its "
    "tip 4.5 cm below. The space between them is the jaw gap, its middle 0.5 cm on the +r side of the tool position "
    "when they are closed. They sink into what they hold, by up to 1.1 cm each."
)
_LAG = (
    "The commands add up to a commanded position, and the tool follows that with a delay of about 45 ms, so that it "
    "trails by 3 to 5 cm at full speed. From rest, a full command moves it by 1.4, 3.2 and 3.9 cm in the first 3 "
    "steps. Once the commands are 0 it coasts to the commanded position: by 3 to 5 cm from full speed, from a lower "
    "one by less in proportion, most of it within 75 ms. The commanded position stays within p from 25 to 70, q from "
    "-20 to 80 and r from -20 to 40. Where the tool is blocked, the commanded position runs on, and has to be brought "
    "back before the tool turns round. To open or close, the jaws take 175 ms."
)
_SUCCESS = (
    "Once is enough, at any speed: from then on the episode counts as a success. This is checked every 12.5 ms; a "
    "step that ends in success has reward 1, any other 0."
)


def write_sheet(words: Disguise) -> TaskSheet:
    """
    Put together what an advisor should know of a task.

    :param words: What its sheet says that the others' do not
    :return: Its sheet
    """
    return TaskSheet(
        goal=words.goal,
        action=(
            ActionComponent("jaws", "force on the jaws: -1 closes, 1 opens, 0 lets them be; hold -1 to keep a grasp"),
            ActionComponent("vq", "commanded motion, in units of 4 cm per step, along +q"),
            ActionComponent("vr", "commanded motion, in units of 4 cm per step, along +r"),
            ActionComponent("vp", "commanded motion, in units of 4 cm per step, along +p, which is up"),
        ),
        observation=(
            ObservationSlice(f"{words.thing} position", 0, 3, f"p, q, r: {words.point}", before=10),
            ObservationSlice(words.place, 3, 6, f"p, q, r: {words.target}"),
            ObservationSlice("jaw gap", 6, 7, "in cm: 8.8 when open, 1.8 when closed on nothing", before=13),
            # At half the jaws' height; this is how it was asked.
            ObservationSlice("tool position", 7, 10, "p, q, r: between the upper halves of the jaws", before=14),
            ObservationSlice("previously", 10, 17, f"the same without the {words.place} as it was 12.5 ms earlier"),
        ),
        notes=_NOTES,
        sizes=f"{words.sizes} {_JAWS}",
        success=f"{words.success} {_SUCCESS}",
        lag=_LAG,
    )


def _position(xyz: np.ndarray) -> np.ndarray:
    x, y, z = xyz
    return np.array([100 * z + 20, 30 - 100 * x, 100 * y - 60])


def _thing_gap_tool(part: np.ndarray) -> list[np.ndarray]:
    return [_position(part[4:7]), 10 * part[3:4] - 1.2, _position(part[:3])]


def disguise(observation: np.ndarray) -> np.ndarray:
    """
    Say what Meta-World observes in other numbers.

    :param observation: Meta-World's, ``(39,)``
    :return: What :func:`write_sheet` says, ``(17,)``
    """
    thing, *gap_tool = _thing_gap_tool(observation[:18])
    before = _thing_gap_tool(observation[18:36])
    return np.concatenate([thing, _position(observation[36:39]), *gap_tool, *before]).astype(np.float32)


class Disguised(gym.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """
    A task of Meta-World in other words, numbers and directions.

    :param task: A key of ``DISGUISES``
    :param terminate_on_success: Whether the first success ends the episode
    """

    def __init__(self, task: str, terminate_on_success: bool = False) -> None:
        super().__init__(SparseMetaWorldEnv(task, frame_skip=FRAME_SKIP, terminate_on_success=terminate_on_success))
        self.task_sheet = write_sheet(DISGUISES[task])
        self.observation_space = spaces.Box(-np.inf, np.inf, (17,), np.float32)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """:return: The first observation, and what the environment says beside it"""
        observation, info = self.env.reset(**kwargs)
        return disguise(observation), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """:return: Observation, reward, whether success ended the episode, ``False``, info"""
        jaws, q, r, p = action
        observation, reward, terminated, truncated, info = self.env.step(np.array([-q, r, p, -jaws], np.float32))
        return disguise(observation), float(reward), terminated, truncated, info
