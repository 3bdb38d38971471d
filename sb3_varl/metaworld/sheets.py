"""
What there is to know about Meta-World's 50 tasks, in words: goals, objects and cameras.

Thresholds, reference points and directions are those of Meta-World 3.1.1's success conditions and observations, sizes
those of its MuJoCo models, and how the gripper moves was measured in the simulator.
Nothing here needs Meta-World to be installed.
"""

import dataclasses
import math
from dataclasses import dataclass, field

from sb3_varl.advice.types import ActionComponent, ObservationSlice, TaskSheet

# Which way the axes run in the picture, for every camera, as `SparseMetaWorldEnv` renders it.
CAMERAS = {
    "corner": (
        "The picture is taken from the robot's left, with the robot at its right edge: "
        "+x points right and away from the camera in it, +y left and away from the camera, +z up."
    ),
    "corner2": (
        "The picture is taken from far to the robot's right, with the robot at its left edge: "
        "+x points right, down and towards the camera in it, +y right, slightly up and away from the camera, +z up."
    ),
    "corner3": (
        "The picture is taken from high up on the robot's right, with the robot at its left edge: "
        "+x points right and down in it, +y right and up, +z up and towards the camera."
    ),
    "corner4": (
        "The picture is taken from the robot's right, with the robot at its left edge: "
        "+x points right, down and towards the camera in it, +y right, slightly up and away from the camera, +z up."
    ),
    "topview": "The picture is taken from straight above: +x points right in it, +y up, +z towards the camera.",
    "behindGripper": (
        "The camera moves with the gripper and looks at it from the robot's side: "
        "+x points right in the picture, +y away from the camera, +z up."
    ),
    "gripperPOV": (
        "The camera sits in the gripper and looks straight down between the fingers: "
        "+x points right in the picture, +y up, +z towards the camera."
    ),
}

_NOTES = (
    "Positions are in metres; the origin is at the robot's foot and the table's surface at z = {table:g}. "
    "+x points to the robot's right, +y away from the robot, +z up. "
    "One step takes {milliseconds:g} ms. The gripper cannot turn: the fingers point down and close along y."
)
_SUCCESS = (
    "Once is enough, at any speed: from then on the episode counts as a success. This is checked every 12.5 ms; "
    "a step that ends in success has reward 1, any other 0."
)
_FINGERS = (
    "Each finger is a plate 3 cm wide (x), 0.9 cm thick (y) and 9 cm long, from 4.5 cm above the gripper position to "
    "its tip 4.5 cm below. The space between them is, in cm, 10 times the gripper opening less 1.2: 8.8 when open, 1.8 "
    "when closed on nothing, its middle then 0.5 cm behind (+y) the gripper position. They sink into what they "
    "hold, by up to 1.1 cm each."
)
# Opening and closing alike.
_FINGERS_MILLISECONDS = 175
# How far the gripper comes in each 12.5 ms from rest, in cm, if the command is 1; later on, close to 1.
_START = (0.1, 0.25, 0.45, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.95)
_LAG = (
    "The commands add up to a commanded position, and the gripper follows that with a delay of about 45 ms, "
    "so that it trails by 3 to 5 cm at full speed. From rest, a full command moves it by {start} cm in the first "
    "{steps}. Once the commands are 0 it coasts to the commanded position: by 3 to 5 cm from full speed, from a lower "
    "one by less in proportion, most of it within 75 ms. The commanded position stays within x from -0.5 to 0.5, "
    "y from {nearest:g} to 1 and z from {lowest:g} to 0.5. Where the gripper is blocked, the commanded "
    "position runs on, and has to be brought back before the gripper turns round. To open or close, the fingers take "
    "{fingers} ms."
)

_MOTIONS = (
    ("dx", "along x: positive is to the robot's right"),
    ("dy", "along y: positive is away from the robot"),
    ("dz", "along z: positive is up"),
)
_GRIPPER = ActionComponent(
    "gripper", "force on the fingers: 1 closes, -1 opens, 0 lets them be; hold 1 to keep a grasp"
)

# Simulated milliseconds between two actions without frame skip.
_MILLISECONDS = 12.5

_QUATERNIONS = {
    "wxyz": "quaternion, scalar first",
    "xyzw": "quaternion, scalar last",
    "fixed": "quaternion, scalar first, that does not change within an episode",
    "zeros": "always zero",
}


@dataclass(frozen=True)
class _Task:
    """
    What sets a task apart from the others.

    :param goal: One sentence that says what success is
    :param thing: Name of the object that the observation reports
    :param point: Which point of it is reported
    :param quaternion: How its orientation is reported, a key of ``_QUATERNIONS``
    :param target: What the goal position is
    :param second: Name, point and quaternion of a second object, if the observation reports one
    :param remark: Anything else that the numbers or the picture do not tell
    :param success: When success counts, with ``{thing}`` for the object's name
    :param sizes: What is worth knowing of the sizes of objects, in cm
    :param held: What the gripper opening reads while the fingers hold the object, if they can
    :param nearest: Smallest y that the gripper can be commanded to, in metres
    :param lowest: Smallest z that the gripper can be commanded to, in metres
    :param table: Height of the table's surface, in metres
    """

    goal: str
    thing: str
    point: str
    quaternion: str
    target: str
    second: tuple[str, str, str] | None = None
    remark: str = ""
    success: str = field(kw_only=True)
    sizes: str = field(kw_only=True)
    held: float | None = None
    nearest: float = 0.4
    lowest: float = 0.05
    table: float = 0.0


def _near(centimetres: float) -> str:
    return f"The {{thing}} position is within {centimetres:g} cm of the goal position."


def _level(centimetres: float, axis: str) -> str:
    return f"The {{thing}} position's {axis} is within {centimetres:g} cm of the goal position's; nothing else counts."


# The gripper opening, closed on nothing.
_CLOSED = 0.3
# What several tasks have in common.
_WRENCH = (
    "Wrench: handle 7.6 cm long (x), 3.8 cm wide (y) and 3.2 cm high; the ring's hole is 5.8 cm across, "
    "the ring 13.4 cm. Peg: 4 cm across, its top at z = 0.1."
)
_DOOR = (
    "Handle: a bar 15 cm long, 3.8 cm thick and 4.6 cm in its middle part, at z = 0.15. It stands on a "
    "post 5.6 cm from its middle, nearer to the hinge; 8.7 cm are free between it and the door. Its axis "
    "is 1.3 cm further from the door than the door handle position. Door: 36 cm wide, 24.6 cm high, 2 cm "
    "thick."
)
_DRAWER = (
    "Handle: a bar along x, 11.8 cm long and 1.8 cm thick, at z = 0.09, with its axis 1 cm behind (+y) "
    "the drawer handle position. It stands on two posts 10 cm apart; 5.1 cm are free between it and the "
    "drawer's front, which is 20 cm wide and reaches up to z = 0.15."
)
_BUTTON_FROM_ABOVE = (
    "Button: a cap 8.6 cm across and 2.2 cm thick on a stem 4.2 cm thick. Its box is 24 cm wide and "
    "deep, its top 10.4 cm below the cap's at first."
)
_BUTTON_FROM_FRONT = (
    "Button: a cap 8.6 cm across and 2.2 cm thick on a stem 4.2 cm thick. Its box is 24 cm wide and "
    "high, its front 10.3 cm behind (+y) the cap's at first."
)
_CYLINDER = "Puck: a cylinder 4 cm across and 4 cm high."
_STICK = "Stick: 10 cm long (x), 4 cm wide and 4 cm high. Thermos: 12 cm across, 33 cm high with its lid."
_MUG = (
    "Mug: 5.6 cm across and 6.6 cm high, with a handle that sticks out 2.6 cm to the right (+x) at "
    "first. The machine is 20 cm wide. Its spout ends at z = 0.11, 7.9 cm behind (+y) {place}, its "
    "housing above z = 0.23 begins 3.7 cm behind, and its foot 12.2 cm."
)
_LOCK = (
    "Lever: a bar 10 cm long, 2 cm thick and 3.8 cm deep (y). The lock lever position is on {side} of "
    "its end, at the front; it turns about a point 9 cm from there. The door's own handle sticks out 8.5 "
    "cm further towards the robot, on the right (z from 0.08 to 0.12)."
)
_FAUCET = (
    "Handle: a round bar 3.4 cm thick at z = 0.125 that ends 1.7 cm beyond the faucet handle position "
    "and turns about a point 17.5 cm from it. At first that position is on the bar's {side} side, 1.5 cm "
    "from its axis."
)
_WINDOW = (
    "Handle: an upright bar 10.6 cm high and 1.6 cm thick, with its axis {side} of the window handle "
    "position and 6.2 cm free between it and the window. Window: 20 cm wide and 30 cm high."
)
_NET = "Puck: 10 cm across and 3 cm high. Net: its opening is 18.4 cm wide and 16.6 cm high, {place}."
_HANDLE = (
    "Handle: a crossbar along {axis}, 14 cm long and 4.4 cm thick, at the end of an arm 6.4 cm wide and "
    "2.2 cm thick. The handle position is {place}. The stand reaches up to z = 0.22."
)
_HOLE = (
    "Hole: 16 cm wide and deep, x from -0.08 to 0.08 and y from 0.76 to 0.92; its floor is at z = 0, and "
    "a block there has its centre at z = 0.02."
)
_BLOCK = "Block: a cube of 4 cm."
_TIPS_AT_GOAL = (
    "The point midway between the fingertips, 4.5 cm below the gripper position, is within 5 cm of the goal position."
)
_WALL_SIZE = "Wall: x from -0.02 to 0.22, y from 0.74 to 0.76, up to z = 0.12."
_WALL = "A low wall stands between the start and the goal."
_REACH_REMARK = "The dark red puck plays no part."
_BUTTON = "middle of the button's front"

_TASKS: dict[str, _Task] = {
    "assembly-v3": _Task(
        "Put the ring of the wrench over the peg: its centre within 2 cm of the peg's axis and below the peg's top.",
        "wrench handle",
        "the green handle; the ring's centre is 13 cm to its left (-x) at first",
        "wxyz",
        "top of the peg",
        success="The ring's centre is within 2 cm of the goal position in the x-y plane, and lower than it.",
        sizes=_WRENCH,
        held=0.48,
    ),
    "basketball-v3": _Task(
        "Bring the ball above the hoop: within 8 cm of the point 0.3 m above the table over the goal's x and y, "
        "errors in height counting double.",
        "ball",
        "centre",
        "wxyz",
        "the hoop; the ball has to be 5 cm higher than this",
        success="With dx and dy from the ball position to the goal position, and dz from the ball position to z "
        "= 0.3, the square root of dx^2 + dy^2 + (2 dz)^2 is at most 8 cm.",
        sizes="Ball: 6 cm across. Hoop: its opening is 6.8 cm across, its rim at the goal position's height; "
        "the board, 20 cm wide and from z = 0.22 to 0.36, begins 7.3 cm behind (+y) the hoop's centre.",
        held=0.6,
    ),
    "bin-picking-v3": _Task(
        "Move the green cube from the red bin into the blue bin on its right, to within 5 cm of the blue bin's middle.",
        "cube",
        "centre",
        "wxyz",
        "middle of the blue bin's floor",
        success=_near(5),
        sizes="Cube: 4 cm. Each bin is 20 cm wide and deep, with walls 1 cm thick and 6 cm high and a floor of "
        "1 cm; on the floor, the cube's centre is 3 cm above the goal position.",
        lowest=0.07,
        held=0.45,
    ),
    "box-close-v3": _Task(
        "Pick up the lid by its handle and put it on the box: the lid within 8 cm of the goal position.",
        "lid",
        "middle of the lid, below its handle",
        "wxyz",
        "where the lid belongs, just above the box",
        success=_near(8),
        sizes="Lid: 23 cm wide and deep. Its handle is a bar along x, 11.6 cm long and 1.6 cm thick, whose "
        "axis is 8.2 cm above the lid position, on two posts 10 cm apart. Box: 20 cm wide and deep, 6 cm "
        "high.",
        held=0.3,
    ),
    "button-press-topdown-v3": _Task(
        "Press the red button down from above until its height is within 2.4 cm of the goal's.",
        "button",
        "middle of the button's top",
        "fixed",
        "where the button goes in",
        success=_level(2.4, "z"),
        sizes=_BUTTON_FROM_ABOVE,
    ),
    "button-press-topdown-wall-v3": _Task(
        "Reach over the wall and press the red button down from above until its height is within 2.4 cm of the goal's.",
        "button",
        "middle of the button's top",
        "fixed",
        "where the button goes in",
        remark="A low wall stands in front of the button's box.",
        success=_level(2.4, "z"),
        sizes=f"{_BUTTON_FROM_ABOVE} Wall: x from 0 to 0.2, y from 0.69 to 0.71, up to z = 0.15.",
    ),
    "button-press-v3": _Task(
        "Press the red button away from the robot (+y) until its y is within 2 cm of the goal's.",
        "button",
        _BUTTON,
        "fixed",
        "where the button goes in",
        success=_level(2, "y"),
        sizes=_BUTTON_FROM_FRONT,
    ),
    "button-press-wall-v3": _Task(
        "Reach over the wall and press the red button away from the robot (+y) until its y is within 3 cm of the "
        "goal's.",
        "button",
        _BUTTON,
        "fixed",
        "where the button goes in",
        remark="A low wall stands between the gripper and the button.",
        success=_level(3, "y"),
        sizes=f"{_BUTTON_FROM_FRONT} Wall: x from 0 to 0.2, y from 0.59 to 0.61, up to z = 0.15.",
    ),
    "coffee-button-v3": _Task(
        "Press the button on the front of the coffee machine away from the robot (+y) until its y is within 2 cm of "
        "the goal's.",
        "button",
        _BUTTON,
        "fixed",
        "where the button is when fully pressed",
        success=_level(2, "y"),
        sizes="Button: 6.4 cm across; at first it sticks out 3.7 cm from the machine, which is 20 cm wide and "
        "reaches up to z = 0.37.",
    ),
    "coffee-pull-v3": _Task(
        "Pull the mug out from under the coffee machine towards the robot, to within 7 cm of the goal position.",
        "mug",
        "middle of the mug's foot",
        "xyzw",
        "where the mug's foot should be",
        success=_near(7),
        sizes=_MUG.format(place="where the mug stands at first"),
        held=0.5,
    ),
    "coffee-push-v3": _Task(
        "Push the mug away from the robot under the coffee machine's spout, to within 7 cm of the goal position.",
        "mug",
        "middle of the mug's foot",
        "xyzw",
        "where the mug's foot should be",
        success=_near(7),
        sizes=_MUG.format(place="the goal position"),
        held=0.5,
    ),
    "dial-turn-v3": _Task(
        "Turn the dial until its pointer, which points at the robot at first, is within 7 cm of the goal position on "
        "the dial's far side.",
        "dial pointer",
        "tip of the pointer, 5 cm from the dial's centre",
        "fixed",
        "behind the dial, 3 cm beyond its centre and 3 cm up",
        remark="Pushing the pointer's tip to the left (-x) turns it; a quarter turn is enough.",
        success=_near(7),
        sizes="Dial: a disc 10 cm across and 3.6 cm high, and on it a bar as the pointer, 9.2 cm long and 3 cm "
        "wide, from z = 0.036 to 0.066. The dial pointer position is given at the disc's foot, z = 0.",
    ),
    "disassemble-v3": _Task(
        "Lift the wrench off the peg until its handle is higher than the goal's height, 15 cm above where it lay.",
        "wrench handle",
        "the green handle; the ring's centre, around the peg, is 13 cm to its left (-x) at first",
        "wxyz",
        "the height to pass; its x and y are the peg's",
        success="The wrench handle position's z is above the goal position's; x and y do not count.",
        sizes=_WRENCH,
        held=0.48,
    ),
    "door-close-v3": _Task(
        "Push the open door shut, to the right and away from the robot, until its handle is within 8 cm of the goal "
        "position.",
        "door handle",
        "centre",
        "xyzw",
        "where the handle should be",
        success=_near(8),
        sizes=_DOOR,
    ),
    "door-lock-v3": _Task(
        "Turn the lock on the door so that its lever, which points right at first, points down: the lever's end "
        "within 2 cm of the goal's height.",
        "lock lever",
        "end of the lever",
        "fixed",
        "where the lever's end should be; only the height counts",
        success=_level(2, "z"),
        sizes=_LOCK.format(side="the upper side"),
        lowest=-0.15,
    ),
    "door-open-v3": _Task(
        "Pull the door open by its handle, towards the robot and to the left, until the handle's x is within 8 cm of "
        "the goal's.",
        "door handle",
        "centre",
        "xyzw",
        "where the handle should be; only its x counts",
        remark="The hinge is on the door's left side.",
        success=_level(8, "x"),
        sizes=_DOOR,
    ),
    "door-unlock-v3": _Task(
        "Turn the lock on the door so that its lever, which hangs down at first, points right: the lever's end within "
        "2 cm of the goal's x.",
        "lock lever",
        "end of the lever",
        "fixed",
        "where the lever's end should be; only its x counts",
        success=_level(2, "x"),
        sizes=_LOCK.format(side="the left side"),
        lowest=-0.15,
    ),
    "drawer-close-v3": _Task(
        "Push the drawer shut, away from the robot (+y), until its handle is within 6.5 cm of the goal position.",
        "drawer handle",
        "5 cm above the middle of the handle",
        "zeros",
        "where the handle should be",
        success=_near(6.5) + " Its z is always 5 cm more than the goal position's, so in y 4.1 cm are left.",
        sizes=_DRAWER,
    ),
    "drawer-open-v3": _Task(
        "Pull the drawer open by its handle, towards the robot (-y), until the handle is within 3 cm of the goal "
        "position.",
        "drawer handle",
        "middle of the handle",
        "fixed",
        "where the handle should be",
        success=_near(3),
        sizes=_DRAWER,
    ),
    "faucet-open-v3": _Task(
        "Turn the faucet's handle to the right (+x), counterclockwise seen from above, until its end is within 4.6 "
        "cm of the goal position.",
        "faucet handle",
        "end of the handle, which points at the robot at first",
        "fixed",
        "where the handle's end should be",
        success="The point 4 cm to the left (-x) of the faucet handle position and 3 cm above it is within 7 cm of "
        "the goal position. On the handle's way, that is once the handle position is within 4.6 cm of the goal "
        "position.",
        sizes=_FAUCET.format(side="left (-x)"),
        lowest=-0.15,
    ),
    "faucet-close-v3": _Task(
        "Turn the faucet's handle to the left (-x), clockwise seen from above, until its end is within 7 cm of the "
        "goal position.",
        "faucet handle",
        "end of the handle, which points at the robot at first",
        "fixed",
        "where the handle's end should be",
        success=_near(7),
        sizes=_FAUCET.format(side="right (+x)"),
        lowest=-0.15,
    ),
    "hammer-v3": _Task(
        "Pick up the hammer and drive the nail more than 9 cm into the box, away from the robot (+y).",
        "hammer",
        "the red handle; the head is at its right (+x) end at first",
        "wxyz",
        "where the nail's head should be",
        second=("nail", "head of the nail", "fixed"),
        success="The nail has gone in by more than 9 cm: the nail position's y is above 0.73.",
        sizes="Hammer: a handle along x, 32 cm long and 4 cm thick, with its middle at the hammer position. "
        "Its head, with faces 7.6 cm across, is 14.4 cm long in y, 16 cm to the right and 1 cm up. Nail: "
        "a head 6 cm across and 1.8 cm thick, 11 cm in front of the box.",
        held=0.5,
    ),
    "hand-insert-v3": _Task(
        "Grasp the brown block and lower it into the hole in the table, to within 5 cm of the goal position.",
        "block",
        "centre",
        "wxyz",
        "a point 2 cm below the hole's floor",
        success=_near(5),
        sizes=f"{_BLOCK} {_HOLE}",
        held=0.3,
        lowest=-0.15,
        table=0.05,
    ),
    "handle-press-side-v3": _Task(
        "Press the red handle, which sticks out of its stand to the right, down until its end is within 2 cm of the "
        "goal's height.",
        "handle",
        "end of the handle",
        "zeros",
        "where the handle's end should be; only the height counts",
        success=_level(2, "z"),
        sizes=_HANDLE.format(axis="y", place="in the middle of the bar's upper side"),
    ),
    "handle-press-v3": _Task(
        "Press the red handle, which sticks out of its stand towards the robot, down until its end is within 2 cm of "
        "the goal's height.",
        "handle",
        "end of the handle",
        "zeros",
        "where the handle's end should be; only the height counts",
        success=_level(2, "z"),
        sizes=_HANDLE.format(axis="x", place="in the middle of the bar's upper side"),
    ),
    "handle-pull-side-v3": _Task(
        "Pull the red handle, which sticks out of its stand to the right, up until it is within 8 cm of the goal "
        "position.",
        "handle",
        "middle of the handle",
        "zeros",
        "where the handle's end is when it is all the way up",
        success=_near(8),
        sizes=_HANDLE.format(axis="y", place="in the arm, 4.6 cm to the left (-x) of the bar's axis")
        + " At first 2.8 cm are free below the bar.",
    ),
    "handle-pull-v3": _Task(
        "Pull the red handle, which sticks out of its stand towards the robot, up until it is within 5 cm of the "
        "goal's height.",
        "handle",
        "right end of the handle's crossbar",
        "zeros",
        "middle of the crossbar when the handle is all the way up; only the height counts",
        success=_level(5, "z"),
        sizes=_HANDLE.format(axis="x", place="5 cm to the right (+x) of the bar's middle and 1.4 cm above its axis")
        + " At first 2.7 cm are free below the bar.",
    ),
    "lever-pull-v3": _Task(
        "Lift the lever, which points at the robot at first, until it points straight up within 7.5 degrees.",
        "lever",
        "the lever's free end, a blue ball",
        "xyzw",
        "where the lever's end is when it points straight up",
        success="The lever is within 7.5 degrees of pointing straight up, which puts the lever position within "
        "2.6 cm of the goal position.",
        sizes="Lever: a bar 2.4 cm thick with a ball 6 cm across at its end, where the lever position is; it "
        "turns about an axis along x, 20 cm from the ball's centre. The post that it hangs on begins 7.9 "
        "cm to the left (-x) of the ball's centre.",
        lowest=-0.15,
    ),
    "pick-place-wall-v3": _Task(
        "Pick up the dark red puck and carry it over the wall to within 7 cm of the goal position.",
        "puck",
        "centre",
        "xyzw",
        "where the puck should be",
        remark=_WALL,
        success=_near(7),
        sizes=f"{_CYLINDER} {_WALL_SIZE}",
        held=0.44,
    ),
    "pick-out-of-hole-v3": _Task(
        "Pick the red puck out of the hole and lift it to within 7 cm of the goal position.",
        "puck",
        "centre",
        "wxyz",
        "where the puck should be",
        remark="From the first step on, the ball drawn in the picture marks the hole and not the goal.",
        success=_near(7),
        sizes=(
            f"{_CYLINDER} Hole: 30 cm wide and deep, x from -0.15 to 0.15 and y from 0.65 to 0.95; its "
            "floor is at z = 0."
        ),
        held=0.3,
        lowest=-0.05,
        table=0.054,
    ),
    "pick-place-v3": _Task(
        "Pick up the dark red puck and carry it to within 7 cm of the goal position.",
        "puck",
        "centre",
        "xyzw",
        "where the puck should be",
        success=_near(7),
        sizes=_CYLINDER,
        held=0.44,
    ),
    "plate-slide-v3": _Task(
        "Slide the black puck away from the robot (+y) into the net, to within 7 cm of the goal position.",
        "puck",
        "centre",
        "xyzw",
        "where the puck should be",
        success=_near(7),
        sizes=_NET.format(place="6.9 cm in front of (-y) the goal position, with the back 13.8 cm further"),
    ),
    "plate-slide-side-v3": _Task(
        "Slide the black puck to the left (-x) into the net, to within 7 cm of the goal position.",
        "puck",
        "centre",
        "xyzw",
        "where the puck should be",
        success=_near(7),
        sizes=_NET.format(place="at x = -0.23 and y from 0.51 to 0.69, with the back at x = -0.37"),
    ),
    "plate-slide-back-v3": _Task(
        "Slide the black puck out of the net towards the robot (-y), to within 7 cm of the goal position.",
        "puck",
        "centre",
        "xyzw",
        "where the puck should be",
        success=_near(7),
        sizes=_NET.format(place="3.1 cm behind (+y) the puck's centre at first, so that 2 cm of the puck lie in it"),
    ),
    "plate-slide-back-side-v3": _Task(
        "Slide the black puck out of the net to the right (+x), to within 7 cm of the goal position.",
        "puck",
        "centre",
        "xyzw",
        "where the puck should be",
        success=_near(7),
        sizes=_NET.format(
            place="3.2 cm to the left (-x) of the puck's centre at first, so that 2 cm of the puck lie in it"
        ),
    ),
    "peg-insert-side-v3": _Task(
        "Pick up the green peg and push its left end into the hole in the box's right side, to within 7 cm of the "
        "goal position, errors in y and z counting double.",
        "peg",
        "where to grasp the peg; the end that goes into the hole is 15 cm to its left (-x)",
        "xyzw",
        "a point in the hole, 7 cm behind its opening",
        success="With dx, dy and dz from a point in the peg, 13 cm to the left of the peg position and 1 cm "
        "below it, to the goal position, the square root of dx^2 + (2 dy)^2 + (2 dz)^2 is at most 7 cm.",
        sizes="Peg: 24 cm long (x), 3 cm wide and 3 cm high, from 15 cm to the left of the peg position to 9 "
        "cm to its right; its axis is 1 cm below that position. Hole: 6 cm wide and 6 cm high, its axis "
        "through the goal position along x.",
        held=0.3,
    ),
    "peg-unplug-side-v3": _Task(
        "Pull the plug out of its socket to the right (+x) until it is within 7 cm of the goal position.",
        "plug",
        "a point on its axis, 6 cm short of its free end",
        "wxyz",
        "where that point should be, 11 cm to the right of where it is at first",
        success=_near(7),
        sizes="Plug: round, 8 cm across in y and z where it can be grasped, from a flange 4.6 cm to the left "
        "(-x) of the plug position to its free end 6 cm to the right. The wall with the socket begins "
        "5.9 cm to the left of that position at first.",
        held=0.82,
    ),
    "soccer-v3": _Task(
        "Push the ball into the goal net, to within 7 cm of the goal position.",
        "ball",
        "centre",
        "xyzw",
        "a point in the net",
        success=_near(7),
        sizes="Ball: 5.2 cm across. Net: 18.1 cm wide and 15.4 cm high inside; its opening is 7.5 cm in front "
        "of (-y) the goal position.",
        held=0.45,
    ),
    "stick-push-v3": _Task(
        "Pick up the blue stick and, while holding it in the air, push the thermos with it to the right (+x), to "
        "within 12 cm of the goal position.",
        "stick",
        "middle of the stick; its tip is 5 cm to the right (+x)",
        "xyzw",
        "where the thermos should be",
        second=("thermos", "middle of the thermos at the height of its handle", "zeros"),
        success="The thermos position is within 12 cm of the goal position, while both fingers touch the stick "
        "and the stick position's z is more than 1 cm higher than at first.",
        sizes=_STICK,
        held=0.4,
    ),
    "stick-pull-v3": _Task(
        "Pick up the blue stick, put its tip through the thermos' handle and pull the thermos with it until the "
        "handle is within 12 cm of the goal position, the tip still through the handle.",
        "stick",
        "middle of the stick; its tip is 5 cm to the right (+x)",
        "xyzw",
        "a point on the table, 11 cm below where the handle should be",
        second=("thermos handle", "where the stick goes through", "zeros"),
        success="The thermos handle position is within 12 cm of the goal position, and the stick's tip is to the "
        "right of it (+x) or level with it, within 4 cm of it in y and within 6 cm in z.",
        sizes=(
            f"{_STICK} Its handle is a bar on the robot's side, 1 cm thick and 2 cm wide; the opening "
            "behind the bar is 7 cm deep (y), from 4 cm in front of the thermos handle position to 3 cm "
            "behind it, and goes from z = 0.074 to 0.19."
        ),
        held=0.4,
        nearest=0.35,
    ),
    "push-v3": _Task(
        "Push the dark red puck along the table to within 5 cm of the goal position.",
        "puck",
        "centre",
        "xyzw",
        "where the puck should be",
        success=_near(5),
        sizes=_CYLINDER,
        held=0.44,
    ),
    "push-wall-v3": _Task(
        "Push the dark red puck along the table, around the wall, to within 7 cm of the goal position.",
        "puck",
        "centre",
        "xyzw",
        "where the puck should be",
        remark=_WALL,
        success=_near(7),
        sizes=f"{_CYLINDER} {_WALL_SIZE}",
        held=0.44,
    ),
    "push-back-v3": _Task(
        "Pull the brown block along the table towards the robot, to within 7 cm of the goal position.",
        "block",
        "centre",
        "xyzw",
        "where the block should be",
        success=_near(7),
        sizes=_BLOCK,
        held=0.51,
    ),
    "reach-v3": _Task(
        "Move the gripper so that the point between its fingertips is within 5 cm of the goal position.",
        "puck",
        "centre",
        "xyzw",
        "where the fingertips should be, marked by a bright red ball",
        remark=_REACH_REMARK,
        success=_TIPS_AT_GOAL,
        sizes="Puck: 4 cm across and 4 cm high.",
    ),
    "reach-wall-v3": _Task(
        "Move the gripper over the wall so that the point between its fingertips is within 5 cm of the goal position.",
        "puck",
        "centre",
        "xyzw",
        "where the fingertips should be, marked by a bright red ball",
        remark=f"{_WALL} {_REACH_REMARK}",
        success=_TIPS_AT_GOAL,
        sizes=f"Puck: 6 cm across and 3 cm high. {_WALL_SIZE}",
    ),
    "shelf-place-v3": _Task(
        "Pick up the blue block and put it on the shelf, to within 7 cm of the goal position.",
        "block",
        "centre",
        "xyzw",
        "a point on the shelf",
        success=_near(7),
        sizes=(
            f"{_BLOCK} Shelf: 20 cm wide inside; its board begins 11 cm in front of (-y) the goal "
            "position, and a block on the board has its centre 3 cm below the goal position."
        ),
        held=0.3,
    ),
    "sweep-into-v3": _Task(
        "Sweep the brown block into the hole in the table, to within 5 cm of the goal position.",
        "block",
        "centre",
        "xyzw",
        "middle of the hole",
        success="The block position is within 5 cm of the goal position in the x-y plane; z does not count, so "
        "the block need not fall in.",
        sizes=f"{_BLOCK} {_HOLE}",
        held=0.3,
        table=0.05,
    ),
    "sweep-v3": _Task(
        "Sweep the brown block to the right (+x) along the table, to within 5 cm of the goal position.",
        "block",
        "middle of its underside",
        "wxyz",
        "at the table's right end",
        success=_near(5),
        sizes=_BLOCK,
        held=0.45,
    ),
    "window-open-v3": _Task(
        "Slide the window open to the right (+x) until its handle's x is within 5 cm of the goal's.",
        "window handle",
        "middle of the handle",
        "zeros",
        "where the handle should be; only its x counts",
        success=_level(5, "x"),
        sizes=_WINDOW.format(side="2.6 cm to the right (+x)"),
    ),
    "window-close-v3": _Task(
        "Slide the window shut to the left (-x) until its handle's x is within 5 cm of the goal's.",
        "window handle",
        "middle of the handle",
        "zeros",
        "where the handle should be; only its x counts",
        success=_level(5, "x"),
        sizes=_WINDOW.format(side="2.4 cm to the left (-x)"),
    ),
}

TASKS: tuple[str, ...] = tuple(sorted(_TASKS))


def write_sheet(task: str, camera_name: str, frame_skip: int) -> TaskSheet:
    """
    Put together what an advisor should know.

    :param task: One of ``TASKS``
    :param camera_name: One of ``CAMERAS``
    :param frame_skip: For how many of the simulation's control steps an action holds
    :return: The task's sheet
    """
    entry = _TASKS[task]
    present = [
        ObservationSlice("gripper position", 0, 3, "x, y, z of the gripper's palm"),
        ObservationSlice("gripper opening", 3, 4, "1 is open, about 0.3 closed with nothing between the fingers"),
        ObservationSlice(f"{entry.thing} position", 4, 7, f"x, y, z: {entry.point}"),
        ObservationSlice(f"{entry.thing} orientation", 7, 11, _QUATERNIONS[entry.quaternion]),
    ]
    if entry.second is None:
        present.append(ObservationSlice("unused", 11, 18, "always zero"))
    else:
        thing, point, quaternion = entry.second
        present.append(ObservationSlice(f"{thing} position", 11, 14, f"x, y, z: {point}"))
        present.append(ObservationSlice(f"{thing} orientation", 14, 18, _QUATERNIONS[quaternion]))
    observation = [dataclasses.replace(part, before=part.start + 18) for part in present]
    observation.append(ObservationSlice("previously", 18, 36, "components 0 to 17 as they were 12.5 ms earlier"))
    observation.append(ObservationSlice("goal position", 36, 39, f"x, y, z: {entry.target}"))
    milliseconds = frame_skip * _MILLISECONDS
    timing = _NOTES.format(milliseconds=milliseconds, table=entry.table)
    notes = " ".join(filter(None, (timing, entry.remark, CAMERAS[camera_name])))
    unit = "in cm per step" if frame_skip == 1 else f"in units of {frame_skip} cm per step"
    action = [ActionComponent(name, f"commanded motion, {unit}, {direction}") for name, direction in _MOTIONS]
    lag = _LAG.format(**_start(frame_skip), nearest=entry.nearest, lowest=entry.lowest, fingers=_FINGERS_MILLISECONDS)
    return TaskSheet(
        goal=entry.goal,
        action=(*action, _GRIPPER),
        observation=tuple(observation),
        notes=notes,
        sizes=" ".join(filter(None, (entry.sizes, _held(entry), _FINGERS))),
        success=f"{entry.success.format(thing=entry.thing)} {_SUCCESS}",
        lag=lag,
    )


def _held(entry: _Task) -> str:
    if entry.held is None:
        return ""
    nothing = ", as if there were nothing" if entry.held <= _CLOSED else ""
    return f"Held between the fingers, the {entry.thing} leaves the gripper opening at about {entry.held:g}{nothing}."


def _start(frame_skip: int) -> dict[str, str]:
    """How far the gripper comes in the first steps from rest, in words."""
    n_steps = min(6, math.ceil(9 / frame_skip))
    moved = (*_START, *[1.0] * (n_steps * frame_skip))
    distances = [f"{sum(moved[i * frame_skip : (i + 1) * frame_skip]):.2g}" for i in range(n_steps)]
    if n_steps == 1:
        return {"start": distances[0], "steps": "step"}
    return {"start": f"{', '.join(distances[:-1])} and {distances[-1]}", "steps": f"{n_steps} steps"}
