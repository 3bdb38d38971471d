"""
What there is to know about Meta-World's 50 tasks, in words: goals, objects and cameras.

Thresholds, reference points and directions are those of Meta-World 3.1.1's success conditions and observations.
Nothing here needs Meta-World to be installed.
"""

import dataclasses
from dataclasses import dataclass

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
    "Positions are in metres; the origin is at the robot's foot and the table's surface at z = 0. "
    "+x points to the robot's right, +y away from the robot, +z up. "
    "One step takes {milliseconds:g} ms, and the gripper trails the commanded motion by a few centimetres, so it also "
    "takes some steps to stop. It cannot turn: the fingers point down and close along y, and their tips meet 4.5 cm "
    "below the gripper position."
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
    """

    goal: str
    thing: str
    point: str
    quaternion: str
    target: str
    second: tuple[str, str, str] | None = None
    remark: str = ""


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
    ),
    "basketball-v3": _Task(
        "Bring the ball above the hoop: within 8 cm of the point 0.3 m above the table over the goal's x and y, "
        "errors in height counting double.",
        "ball",
        "centre",
        "wxyz",
        "the hoop; the ball has to be 5 cm higher than this",
    ),
    "bin-picking-v3": _Task(
        "Move the green cube from the red bin into the blue bin on its right, to within 5 cm of the blue bin's middle.",
        "cube",
        "centre",
        "wxyz",
        "middle of the blue bin's floor",
    ),
    "box-close-v3": _Task(
        "Pick up the lid by its handle and put it on the box: the lid within 8 cm of the goal position.",
        "lid",
        "middle of the lid, below its handle",
        "wxyz",
        "where the lid belongs, just above the box",
    ),
    "button-press-topdown-v3": _Task(
        "Press the red button down from above until its height is within 2.4 cm of the goal's.",
        "button",
        "middle of the button's top",
        "fixed",
        "where the button goes in",
    ),
    "button-press-topdown-wall-v3": _Task(
        "Reach over the wall and press the red button down from above until its height is within 2.4 cm of the goal's.",
        "button",
        "middle of the button's top",
        "fixed",
        "where the button goes in",
        remark="A low wall stands in front of the button's box.",
    ),
    "button-press-v3": _Task(
        "Press the red button away from the robot (+y) until its y is within 2 cm of the goal's.",
        "button",
        _BUTTON,
        "fixed",
        "where the button goes in",
    ),
    "button-press-wall-v3": _Task(
        "Reach over the wall and press the red button away from the robot (+y) until its y is within 3 cm of the "
        "goal's.",
        "button",
        _BUTTON,
        "fixed",
        "where the button goes in",
        remark="A low wall stands between the gripper and the button.",
    ),
    "coffee-button-v3": _Task(
        "Press the button on the front of the coffee machine away from the robot (+y) until its y is within 2 cm of "
        "the goal's.",
        "button",
        _BUTTON,
        "fixed",
        "where the button is when fully pressed",
    ),
    "coffee-pull-v3": _Task(
        "Pull the mug out from under the coffee machine towards the robot, to within 7 cm of the goal position.",
        "mug",
        "middle of the mug's foot",
        "xyzw",
        "where the mug's foot should be",
    ),
    "coffee-push-v3": _Task(
        "Push the mug away from the robot under the coffee machine's spout, to within 7 cm of the goal position.",
        "mug",
        "middle of the mug's foot",
        "xyzw",
        "where the mug's foot should be",
    ),
    "dial-turn-v3": _Task(
        "Turn the dial until its pointer, which points at the robot at first, is within 7 cm of the goal position on "
        "the dial's far side.",
        "dial pointer",
        "tip of the pointer, 5 cm from the dial's centre",
        "fixed",
        "behind the dial, 3 cm beyond its centre and 3 cm up",
        remark="Pushing the pointer's tip to the left (-x) turns it; a quarter turn is enough.",
    ),
    "disassemble-v3": _Task(
        "Lift the wrench off the peg until its handle is higher than the goal's height, 15 cm above where it lay.",
        "wrench handle",
        "the green handle; the ring's centre, around the peg, is 13 cm to its left (-x) at first",
        "wxyz",
        "the height to pass; its x and y are the peg's",
    ),
    "door-close-v3": _Task(
        "Push the open door shut, to the right and away from the robot, until its handle is within 8 cm of the goal "
        "position.",
        "door handle",
        "centre",
        "xyzw",
        "where the handle should be",
    ),
    "door-lock-v3": _Task(
        "Turn the lock on the door so that its lever, which points right at first, points down: the lever's end "
        "within 2 cm of the goal's height.",
        "lock lever",
        "end of the lever",
        "fixed",
        "where the lever's end should be; only the height counts",
    ),
    "door-open-v3": _Task(
        "Pull the door open by its handle, towards the robot and to the left, until the handle's x is within 8 cm of "
        "the goal's.",
        "door handle",
        "centre",
        "xyzw",
        "where the handle should be; only its x counts",
        remark="The hinge is on the door's left side.",
    ),
    "door-unlock-v3": _Task(
        "Turn the lock on the door so that its lever, which hangs down at first, points right: the lever's end within "
        "2 cm of the goal's x.",
        "lock lever",
        "end of the lever",
        "fixed",
        "where the lever's end should be; only its x counts",
    ),
    "drawer-close-v3": _Task(
        "Push the drawer shut, away from the robot (+y), until its handle is within 6.5 cm of the goal position.",
        "drawer handle",
        "5 cm above the middle of the handle",
        "zeros",
        "where the handle should be",
    ),
    "drawer-open-v3": _Task(
        "Pull the drawer open by its handle, towards the robot (-y), until the handle is within 3 cm of the goal "
        "position.",
        "drawer handle",
        "middle of the handle",
        "fixed",
        "where the handle should be",
    ),
    "faucet-open-v3": _Task(
        "Turn the faucet's handle to the right (+x), counterclockwise seen from above, until its end is within 7 cm "
        "of the goal position.",
        "faucet handle",
        "end of the handle, which points at the robot at first",
        "fixed",
        "where the handle's end should be",
    ),
    "faucet-close-v3": _Task(
        "Turn the faucet's handle to the left (-x), clockwise seen from above, until its end is within 7 cm of the "
        "goal position.",
        "faucet handle",
        "end of the handle, which points at the robot at first",
        "fixed",
        "where the handle's end should be",
    ),
    "hammer-v3": _Task(
        "Pick up the hammer and drive the nail more than 9 cm into the box, away from the robot (+y).",
        "hammer",
        "the red handle; the head is at its right (+x) end at first",
        "wxyz",
        "where the nail's head should be",
        second=("nail", "head of the nail", "fixed"),
    ),
    "hand-insert-v3": _Task(
        "Grasp the brown block and lower it into the hole in the table, to within 5 cm of the goal position.",
        "block",
        "centre",
        "wxyz",
        "a point in the hole, 2 cm below the table's surface",
    ),
    "handle-press-side-v3": _Task(
        "Press the red handle, which sticks out of its stand to the right, down until its end is within 2 cm of the "
        "goal's height.",
        "handle",
        "end of the handle",
        "zeros",
        "where the handle's end should be; only the height counts",
    ),
    "handle-press-v3": _Task(
        "Press the red handle, which sticks out of its stand towards the robot, down until its end is within 2 cm of "
        "the goal's height.",
        "handle",
        "end of the handle",
        "zeros",
        "where the handle's end should be; only the height counts",
    ),
    "handle-pull-side-v3": _Task(
        "Pull the red handle, which sticks out of its stand to the right, up until it is within 8 cm of the goal "
        "position.",
        "handle",
        "middle of the handle",
        "zeros",
        "where the handle's end is when it is all the way up",
    ),
    "handle-pull-v3": _Task(
        "Pull the red handle, which sticks out of its stand towards the robot, up until it is within 5 cm of the "
        "goal's height.",
        "handle",
        "right end of the handle's crossbar",
        "zeros",
        "middle of the crossbar when the handle is all the way up; only the height counts",
    ),
    "lever-pull-v3": _Task(
        "Lift the lever, which points at the robot at first, until it points straight up within 7.5 degrees.",
        "lever",
        "the lever's free end, a blue ball",
        "xyzw",
        "where the lever's end is when it points straight up",
    ),
    "pick-place-wall-v3": _Task(
        "Pick up the dark red puck and carry it over the wall to within 7 cm of the goal position.",
        "puck",
        "centre",
        "xyzw",
        "where the puck should be",
        remark=_WALL,
    ),
    "pick-out-of-hole-v3": _Task(
        "Pick the red puck out of the hole and lift it to within 7 cm of the goal position.",
        "puck",
        "centre",
        "wxyz",
        "where the puck should be",
        remark="From the first step on, the ball drawn in the picture marks the hole and not the goal.",
    ),
    "pick-place-v3": _Task(
        "Pick up the dark red puck and carry it to within 7 cm of the goal position.",
        "puck",
        "centre",
        "xyzw",
        "where the puck should be",
    ),
    "plate-slide-v3": _Task(
        "Slide the black puck away from the robot (+y) into the net, to within 7 cm of the goal position.",
        "puck",
        "centre",
        "xyzw",
        "where the puck should be",
    ),
    "plate-slide-side-v3": _Task(
        "Slide the black puck to the left (-x) into the net, to within 7 cm of the goal position.",
        "puck",
        "centre",
        "xyzw",
        "where the puck should be",
    ),
    "plate-slide-back-v3": _Task(
        "Slide the black puck out of the net towards the robot (-y), to within 7 cm of the goal position.",
        "puck",
        "centre",
        "xyzw",
        "where the puck should be",
    ),
    "plate-slide-back-side-v3": _Task(
        "Slide the black puck out of the net to the right (+x), to within 7 cm of the goal position.",
        "puck",
        "centre",
        "xyzw",
        "where the puck should be",
    ),
    "peg-insert-side-v3": _Task(
        "Pick up the green peg and push its left end into the hole in the box's right side, to within 7 cm of the "
        "goal position, errors in y and z counting double.",
        "peg",
        "where to grasp the peg; the end that goes into the hole is 13 cm to its left (-x)",
        "xyzw",
        "a point in the hole, 7 cm behind its opening",
    ),
    "peg-unplug-side-v3": _Task(
        "Pull the plug out of its socket to the right (+x) until its free end is within 7 cm of the goal position.",
        "plug",
        "its free end",
        "wxyz",
        "where the free end should be, 11 cm to the right of where it is at first",
    ),
    "soccer-v3": _Task(
        "Push the ball into the goal net, to within 7 cm of the goal position.",
        "ball",
        "centre",
        "xyzw",
        "a point in the net",
    ),
    "stick-push-v3": _Task(
        "Pick up the blue stick and, while holding it in the air, push the thermos with it to the right (+x), to "
        "within 12 cm of the goal position.",
        "stick",
        "middle of the stick; its tip is 5 cm to the right (+x)",
        "xyzw",
        "where the thermos should be",
        second=("thermos", "middle of the thermos at the height of its handle", "zeros"),
    ),
    "stick-pull-v3": _Task(
        "Pick up the blue stick, put its tip through the thermos' handle and pull the thermos with it until the "
        "handle is within 12 cm of the goal position, the tip still through the handle.",
        "stick",
        "middle of the stick; its tip is 5 cm to the right (+x)",
        "xyzw",
        "a point on the table, 11 cm below where the handle should be",
        second=("thermos handle", "where the stick goes through", "zeros"),
    ),
    "push-v3": _Task(
        "Push the dark red puck along the table to within 5 cm of the goal position.",
        "puck",
        "centre",
        "xyzw",
        "where the puck should be",
    ),
    "push-wall-v3": _Task(
        "Push the dark red puck along the table, around the wall, to within 7 cm of the goal position.",
        "puck",
        "centre",
        "xyzw",
        "where the puck should be",
        remark=_WALL,
    ),
    "push-back-v3": _Task(
        "Pull the brown block along the table towards the robot, to within 7 cm of the goal position.",
        "block",
        "centre",
        "xyzw",
        "where the block should be",
    ),
    "reach-v3": _Task(
        "Move the gripper so that the point between its fingertips is within 5 cm of the goal position.",
        "puck",
        "centre",
        "xyzw",
        "where the fingertips should be, marked by a bright red ball",
        remark=_REACH_REMARK,
    ),
    "reach-wall-v3": _Task(
        "Move the gripper over the wall so that the point between its fingertips is within 5 cm of the goal position.",
        "puck",
        "centre",
        "xyzw",
        "where the fingertips should be, marked by a bright red ball",
        remark=f"{_WALL} {_REACH_REMARK}",
    ),
    "shelf-place-v3": _Task(
        "Pick up the blue block and put it on the shelf, to within 7 cm of the goal position.",
        "block",
        "centre",
        "xyzw",
        "a point on the shelf",
    ),
    "sweep-into-v3": _Task(
        "Sweep the brown block into the hole in the table, to within 5 cm of the goal position.",
        "block",
        "centre",
        "xyzw",
        "middle of the hole",
    ),
    "sweep-v3": _Task(
        "Sweep the brown block to the right (+x) along the table, to within 5 cm of the goal position.",
        "block",
        "centre",
        "wxyz",
        "at the table's right end",
    ),
    "window-open-v3": _Task(
        "Slide the window open to the right (+x) until its handle's x is within 5 cm of the goal's.",
        "window handle",
        "middle of the handle",
        "zeros",
        "where the handle should be; only its x counts",
    ),
    "window-close-v3": _Task(
        "Slide the window shut to the left (-x) until its handle's x is within 5 cm of the goal's.",
        "window handle",
        "middle of the handle",
        "zeros",
        "where the handle should be; only its x counts",
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
    timing = _NOTES.format(milliseconds=frame_skip * _MILLISECONDS)
    notes = " ".join(filter(None, (timing, entry.remark, CAMERAS[camera_name])))
    unit = "in cm per step" if frame_skip == 1 else f"in units of {frame_skip} cm per step"
    action = [ActionComponent(name, f"commanded motion, {unit}, {direction}") for name, direction in _MOTIONS]
    return TaskSheet(goal=entry.goal, action=(*action, _GRIPPER), observation=tuple(observation), notes=notes)
