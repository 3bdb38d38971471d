"""What an advisor is told of an environment, from a file or from the environment itself."""

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_varl import VARL, ActionComponent, AdvisorCallback, ArgumentError, FunctionAdvisor, ObservationSlice, TaskSheet
from sb3_varl.advice.sheets import load_task_sheet
from sb3_varl.metaworld import TASKS, task_sheet
from sb3_varl.training.briefing import make_briefing

SHEET = TaskSheet(
    "Push the block onto the red dot.",
    (ActionComponent("dx", "metres, to the right"), ActionComponent("dy")),
    (ObservationSlice("gripper", 0, 3, "metres", key="observation"), ObservationSlice("dot", 0, 2, key="goal")),
    "The camera looks along y.",
    sizes="The block is 5 cm wide.",
    success="Touching the dot once is enough.",
    lag="The gripper trails by 1 cm.",
)
SPIN = TaskSheet("Spin.")
TEXT = """
goal: Push the block onto the red dot.
action:
  - {name: dx, meaning: "metres, to the right"}
  - {name: dy}
observation:
  - {name: gripper, start: 0, stop: 3, meaning: metres, key: observation}
  - {name: dot, start: 0, stop: 2, key: goal}
success: Touching the dot once is enough.
sizes: The block is 5 cm wide.
lag: The gripper trails by 1 cm.
notes: The camera looks along y.
"""


class Recorder:
    """An advisor that remembers what it was told."""

    def prepare(self, briefing):
        self.briefing = briefing

    def advise(self, query):
        raise AssertionError("not to be asked")


def test_a_file_holds_what_a_sheet_holds(tmp_path):
    (tmp_path / "sheet.yml").write_text(TEXT)
    assert load_task_sheet(tmp_path / "sheet.yml") == SHEET
    (tmp_path / "goal.yml").write_text("goal: Stand up.")
    assert load_task_sheet(str(tmp_path / "goal.yml")) == TaskSheet("Stand up.")
    (tmp_path / "names.yml").write_text("{goal: Go., action: [dx, {name: dy, meaning: up}]}")
    names = ActionComponent("dx"), ActionComponent("dy", "up")
    assert load_task_sheet(tmp_path / "names.yml") == TaskSheet("Go.", names)


OF_NUMPY = TaskSheet(np.str_("Go."), observation=(ObservationSlice("x", np.int64(0), np.int64(1)),))


@pytest.mark.parametrize("sheet", [SHEET, TaskSheet(""), OF_NUMPY, *map(task_sheet, TASKS)])
def test_a_sheet_is_printed_as_a_file_of_it(tmp_path, sheet):
    (tmp_path / "sheet.yml").write_text(str(sheet))
    assert load_task_sheet(tmp_path / "sheet.yml") == sheet


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("goal: [", "is no YAML: while parsing"),
        ("goal: Push.\nnotes: a\nnotes: b", "sheet.yml has 'notes' twice, again in line 3. Keep one of them."),
        ("goal: Push.\naction:\n- {name: dx, name: dy}", "sheet.yml has 'name' twice, again in line 3"),
        ("goal: Push.\n[a]: b", "sheet.yml is no YAML: "),
        ("goal: Push.\naction: !!map [dx, dy]", "sheet.yml is no YAML: "),
        ("goal: !!bool Push.", "sheet.yml is no YAML: "),
        ("goal: !!int ''", "sheet.yml is no YAML: "),
        ("goal: 2020-13-45", "sheet.yml is no YAML: month must be in 1..12"),
        ("[" * 5000, "sheet.yml is no YAML: "),
        ("{goal: x, action: [on]}", "action.0 is True, expected a name, in quotes if need be"),
        ("", "is no task sheet: the file is None"),
        ("notes: x", "it has no goal"),
        ("goal: 3", r"goal is 3 \(Input should be a valid string\)"),
        ("{goal: x, actions: []}", "it has actions, which is none of goal, action, observation"),
        ("{goal: x, size: 5 cm}", "it has size, which is none of .*success, sizes, lag and notes"),
        ("{goal: x, sizes: 5}", r"sizes is 5 \(Input should be a valid string\)"),
        ("{goal: x, action: [{meaning: up}]}", "action.0 has no name"),
        ("{goal: x, observation: [{name: a, start: one, stop: 2}]}", "observation.0.start is 'one'"),
        (
            "{goal: x, observation: [{name: a, start: 0, end: 2}]}",
            "has no stop; observation.0 has end, which is none of",
        ),
        ("{goal: x, observation: hand}", "observation is 'hand'"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, text, message):
    (tmp_path / "sheet.yml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_task_sheet(tmp_path / "sheet.yml")


def test_the_callback_takes_a_file_before_what_the_environment_says(tmp_path):
    class Env(gym.Wrapper):
        task_sheet = TaskSheet("Swing up.")

    path = tmp_path / "sheet.yml"
    path.write_text(yaml.safe_dump({"goal": "Hang still.", "action": [{"name": "torque"}]}))
    for sheet, goal in ((None, "Swing up."), (path, "Hang still."), (str(path), "Hang still."), (SPIN, "Spin.")):
        recorder = Recorder()
        model = VARL("MlpPolicy", Env(gym.make("Pendulum-v1")), learning_starts=1000)
        callback = AdvisorCallback(recorder, sheet=sheet, frames=False, log_path=False)
        with pytest.warns(UserWarning, match="6 of 6 queries will not be asked"):
            model.learn(1, callback=callback)
        assert recorder.briefing.task == goal


def test_a_sheet_that_is_none_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"sheet is 3, expected a sb3_varl.TaskSheet, a YAML file of one, or None"):
        AdvisorCallback(FunctionAdvisor(np.zeros_like), sheet=3)
    with pytest.raises(FileNotFoundError):
        AdvisorCallback(FunctionAdvisor(np.zeros_like), sheet=tmp_path / "none.yml")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"action": ("dx",)}, r"action\[0\] of a task sheet is 'dx', expected an sb3_varl.ActionComponent"),
        ({"observation": [{"name": "hand"}]}, r"observation\[0\] of a task sheet is {'name': 'hand'}"),
        ({"action": ActionComponent("dx")}, r"expected a tuple of sb3_varl.ActionComponent, which has a comma"),
        ({"observation": None}, r"observation of a task sheet is None, expected a tuple"),
        ({"action": "dx"}, r"action of a task sheet is 'dx', expected a tuple"),
        ({"notes": 5}, r"notes of TaskSheet is 5, expected text"),
        ({"goal": 5}, r"goal of TaskSheet is 5, expected text"),
    ],
)
def test_a_sheet_of_something_else_is_refused(parts, message):
    with pytest.raises(ArgumentError, match=message):
        TaskSheet(**{"goal": "Go.", **parts})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, 0, 1), "name of ObservationSlice is 5, expected text"),
        (("x", 0, 2.5), "stop is 2.5, expected an integer"),
        (("x", True, 2), "start is True, expected an integer"),
        (("x", 0, 2, "", 3), "key of ObservationSlice is 3, expected text"),
        (("x", 0, 2, "", None, -1), "before is -1, expected an integer that is at least 0 or None"),
    ],
)
def test_a_slice_of_something_else_is_refused(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        ObservationSlice(*arguments)


def test_the_parts_of_a_sheet_come_in_whatever_can_be_gone_through_once():
    names = ("dx", "dy")
    sheet = TaskSheet("Go.", (ActionComponent(name) for name in names))
    assert sheet == TaskSheet("Go.", [ActionComponent(name) for name in names])
    assert [component.name for component in sheet.action] == list(names)


def test_discrete_actions_are_refused():
    env = DummyVecEnv([lambda: gym.make("CartPole-v1")])
    with pytest.raises(TypeError, match=r"for continuous actions, a Box, but the action space is Discrete\(2\)"):
        make_briefing(env)
    assert isinstance(env.action_space, spaces.Discrete)


def test_two_action_components_of_one_name_are_refused():
    sheet = TaskSheet("Move.", action=(ActionComponent("speed"), ActionComponent("speed ")))
    env = DummyVecEnv([lambda: gym.make("MountainCarContinuous-v0")])
    env.action_space = spaces.Box(-1, 1, (2,))
    with pytest.raises(ValueError, match=r"The task sheet calls two action components 'speed'. Rename one of them"):
        make_briefing(env, sheet=sheet)
