"""Drafts of task sheets: actions that set places, that act beside others only, and what turns."""

import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from sb3_varl import draft_sheet
from sb3_varl.draft import measure
from sb3_varl.draft.places import SetPlace, stay
from sb3_varl.draft.relations import find_of_length_one
from sb3_varl.draft.words import amount


class Motion(gym.Env):
    """
    Numbers that go as a function says.

    :param start: From random numbers, four from -1 to 1, to those at the start of an episode
    :param move: From numbers and an action to the next ones
    """

    def __init__(self, start, move, n_actions=1, low=-1.0, high=1.0, keys=None):
        self.start, self.move, self.keys = start, move, keys
        self.action_space = spaces.Box(low, high, (n_actions,), np.float32)
        n = len(start(np.zeros(4)))
        part = spaces.Box(-np.inf, np.inf, (n,), np.float64)
        self.observation_space = part if keys is None else spaces.Dict(dict.fromkeys(keys, part))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.numbers = np.array(self.start(self.np_random.uniform(-1, 1, 4)), float)
        return self._observation(), {}

    def step(self, action):
        self.numbers = np.array(self.move(self.numbers, action), float)
        return self._observation(), 0.0, False, False, {}

    def _observation(self):
        return self.numbers if self.keys is None else {key: tell(self.numbers) for key, tell in self.keys.items()}


def servo(low=-1.0, high=1.0):
    """A joint that is told its place, ``2 a + 1``, and goes half of the way; and one that is told its speed."""

    def move(numbers, action):
        told, driven, *_ = numbers
        return told + 0.5 * (2 * action[0] + 1 - told), np.clip(driven + 0.1 * action[1], -1, 1)

    return Motion(lambda drawn: drawn[:2] * [1, 0.1], move, n_actions=2, low=low, high=high)


def test_an_action_that_says_where_something_is_to_be():
    sheet = draft_sheet(servo(), "Go.")
    told, driven = sheet.action
    assert told.meaning == (
        "measured: sets where observation[0] goes, wherever it was: -1 -> -1, 0 -> 1, 0.5 -> 2, 1 -> 3; 50% of the "
        "way in a step, 97% in 5"
    )
    # It comes to rest as well, but where it is stopped.
    assert driven.meaning.startswith("measured: 1 moves observation[1] by 0.1 after a step, ")
    # An action of 0 would take it elsewhere.
    assert "when nothing acts" not in sheet.observation[0].meaning
    assert sheet.notes.endswith("where something moves, or nothing acts, action 0 held in place what they set")


def test_an_action_whose_rest_is_a_bound_says_both_places():
    told, _ = draft_sheet(servo(low=0.0), "Go.").action
    assert told.meaning.startswith(
        "measured: sets where observation[0] goes, wherever it was: 0 -> 1, 0.5 -> 2, 1 -> 3"
    )


def test_what_two_actions_set_together_is_said_with_the_others_at_rest():
    def move(numbers, action):
        return numbers + 0.5 * (2 * action[0] + action[1] - numbers)

    for action in draft_sheet(Motion(lambda drawn: drawn[:1], move, n_actions=2), "Go.").action:
        assert "sets where observation goes, wherever it was, if the others rest: -1 -> " in action.meaning


def test_what_goes_farther_than_the_place_that_is_set_is_told_of():
    """A valve that follows its action, and a tank that it fills."""

    def move(numbers, action):
        valve, tank = numbers
        return valve + 0.9 * (action[0] - valve), tank + 2 * valve

    (action,) = draft_sheet(Motion(lambda drawn: (0.1 * drawn[0], 0), move), "Go.").action
    assert action.meaning.startswith("measured: 1 moves observation_1 by 0 after a step, 7.78 after 5")
    assert action.meaning.endswith("; in 5 steps of 1, it also moves observation_0 by 1")


def test_what_it_moves_only_later_is_named_only():
    """A ball that is pushed, and what it hits as it rolls on."""

    def move(numbers, action):
        speed, place, hit = numbers
        return 0.8 * speed + action[0], place + speed, hit - 0.01 * (place > 15)

    (action,) = draft_sheet(Motion(lambda drawn: (0, 0, 0), move), "Go.").action
    assert action.meaning.endswith("-1 does the opposite; later it also moves observation_1_to_2[1]")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((0.1, 0.102, 0.099), "0.1"),
        ((0.1, 0.15, 0.12), "0.1 to 0.15"),
        ((-0.1, -0.15, np.nan), "-0.15 to -0.1"),
        ((0.1, -0.15, 0.12), "0.1 | -0.15 | 0.12"),
        ((0.1, 0.3, 0.1), "0.1 | 0.3 | 0.1"),
        ((0, 0, 0.1), "0 | 0 | 0.1"),
        ((0, 0, 0), "0"),
        ((np.nan, np.nan, np.nan), "an unknown amount (the episode had ended)"),
    ],
)
def test_amounts_that_are_near_one_another_are_told_by_their_bounds(values, said):
    assert amount(np.array(values)) == said


@pytest.mark.parametrize(
    ("move", "said"),
    [
        # Speeds that limits stop, one of them with a drift, and a place that is clipped.
        (lambda x, a: np.clip(x + 0.2 * a - 0.05, 0, 1), "1 moves observation by "),
        (lambda x, a: np.clip(x + 0.5 * (10 * a - x), -1, 1), "1 moves observation by "),
        (lambda x, a: x + 0.1 * a, "1 moves observation by 0.1 after a step"),
        # First the other way.
        (lambda x, a: 2 * a if abs(x) > 3 else 0.2 * a + 0.9 * x, "sets where observation goes"),
    ],
)
def test_what_is_a_place_and_what_is_none(move, said):
    env = Motion(lambda drawn: drawn[:1], lambda numbers, action: move(numbers, action[:1]))
    assert said in draft_sheet(env, "Go.").action[0].meaning


def test_a_place_that_is_far_from_0_is_told_as_exactly_as_it_is_set():
    env = Motion(lambda drawn: 5000 + drawn[:1], lambda numbers, action: numbers + 0.5 * (5000 + 3 * action - numbers))
    said = draft_sheet(env, "Go.").action[0].meaning
    assert "wherever it was: -1 -> 4997, 0 -> 5000, 0.5 -> 5001.5, 1 -> 5003; " in said


def test_what_is_driven_is_told_of_beside_the_place_of_something_small():
    """A joint that is driven with a lag, beside an echo of the last action."""

    def move(numbers, action):
        joint, speed, _ = numbers
        speed = speed + 0.2 * (0.05 * action[0] - speed)
        return joint + speed, speed, action[0]

    env = Motion(lambda drawn: (drawn[0], 0, 0), move, keys={"arm": lambda numbers: numbers[[0, 2]]})
    (action,) = draft_sheet(env, "Go.").action
    assert action.meaning.startswith("measured: sets where arm[1] goes, wherever it was: -1 -> -1, 0 -> 0, ")
    assert "; 1 moves arm[0] by 0.01 after a step, " in action.meaning


def test_a_place_that_another_component_moves_is_said_with_that_at_rest():
    """An arm on a base that drives."""

    def move(numbers, action):
        hand, base = numbers
        driven = base + 0.02 * action[0]
        return driven + (hand - base) + 0.5 * (0.3 * action[1] - (hand - base)), driven

    _, arm = draft_sheet(Motion(lambda drawn: (drawn[0], drawn[0]), move, n_actions=2), "Go.").action
    assert "wherever it was" not in arm.meaning or "if the others rest" in arm.meaning


@given(
    place=st.tuples(*[st.floats(-10, 10)] * 3).filter(lambda values: len({*values}) == 3).map(sorted),
    is_turned=st.booleans(),
)
def test_to_stay_is_the_action_that_goes_there(place, is_turned):
    low, rest, high = reversed(place) if is_turned else place
    sets = [[SetPlace(0, low, rest, (rest + high) / 2, high, 0.5, 0.9)], []]
    bounds = np.zeros(2), -np.ones(2), np.ones(2)
    for number, command in ((low, -1), (rest, 0), (high, 1)):
        assert stay(*bounds, sets, np.array([number])).tolist() == [command, 0]
    beyond = max(place) + 1
    assert stay(*bounds, sets, np.array([beyond])).tolist() == [-1 if is_turned else 1, 0]


def car(numbers, action):
    """East, north, speed, heading: it turns as far as it rolls."""
    east, north, speed, heading = numbers
    speed = speed + 0.1 * action[0]
    heading = heading + 0.5 * action[1] * speed
    return east + speed * np.cos(heading), north + speed * np.sin(heading), speed, heading


class Car(gym.ObservationWrapper):
    """With cosine and sine for its heading."""

    def __init__(self):
        super().__init__(Motion(lambda drawn: (0, 0, 0, 3 * drawn[0]), car, n_actions=2))
        self.observation_space = spaces.Box(-np.inf, np.inf, (5,), np.float64)

    def observation(self, observation):
        east, north, speed, heading = observation
        return np.array([east, north, speed, np.cos(heading), np.sin(heading)])


def test_an_action_that_does_something_beside_another_only():
    throttle, wheel = draft_sheet(Car(), "Go.").action
    assert "observation_0_to_2[2] by 0.1 after a step, 0.5 after 5" in throttle.meaning
    # 0.5 times a speed of 0.6 in the first step, and of 0.6 to 1 in all five.
    assert wheel.meaning.startswith(
        "measured: moves nothing by itself; but when action 0 is 1, and has been for 5 steps, 1 moves "
        "atan2(observation_3_to_4[1], observation_3_to_4[0]) by 0.3 after a step and 2 after 5, and "
    )
    assert "; -1 moves atan2(observation_3_to_4[1], observation_3_to_4[0]) by -0.3 after a step and" in wheel.meaning


def test_company_may_be_at_a_lower_bound():
    """A throttle that is pulled, and a wheel."""

    def move(numbers, action):
        speed = numbers[0] - 0.1 * action[0]
        return speed, numbers[1] + 0.5 * action[1] * speed

    env = Motion(lambda drawn: (0, drawn[0]), move, 2, np.array([-1, -1], np.float32), np.array([0, 1], np.float32))
    _, wheel = draft_sheet(env, "Go.").action
    assert wheel.meaning.startswith(
        "measured: moves nothing by itself; but when action 0 is -1, and has been for 5 steps"
    )


def test_a_bound_that_is_near_rest_moves_little():
    env = Motion(lambda drawn: drawn[:1], lambda numbers, action: numbers + 0.1 * action, low=-0.02, high=5.0)
    assert "; -0.02 moves observation by -0.002 after a step" in draft_sheet(env, "Go.").action[0].meaning


def test_a_bound_that_does_nothing_is_told_after_the_one_that_does_something():
    env = Motion(lambda drawn: (0,), lambda numbers, action: np.minimum(numbers + 0.1 * action, 0))
    assert draft_sheet(env, "Go.").action[0].meaning.startswith("measured: -1 moves observation by -0.1 after a step, ")


def test_bounds_that_are_equal_move_nothing():
    env = Motion(lambda drawn: drawn[:1], lambda numbers, action: numbers + 0.1 * action, low=0.0, high=0.0)
    assert "moves nothing by itself" in draft_sheet(env, "Go.").action[0].meaning
    env = Motion(lambda drawn: drawn[:1], lambda numbers, action: numbers + 0.1 * action, low=0.5, high=0.5)
    assert "at actions of 0.5, changes by 0.5 in 10 steps" in draft_sheet(env, "Go.").observation[0].meaning


def test_where_no_action_does_anything_there_is_no_company_either():
    env = Motion(lambda drawn: drawn[:1], lambda numbers, action: numbers, n_actions=2)
    assert {action.meaning for action in draft_sheet(env, "Go.").action} == {
        "measured: from -1 to 1; moves nothing by itself in the first 5 steps of an episode"
    }


def test_an_angle_that_two_numbers_are_cosine_and_sine_of():
    sheet = draft_sheet("Pendulum-v1", "Go.")
    angle = "atan2(observation_0_to_1[1], observation_0_to_1[0])"
    assert sheet.action[0].meaning.startswith(f"measured: 2 moves {angle} by ")
    pair, rate = sheet.observation
    assert pair.meaning.startswith("measured: of length 1, as the cosine and sine of an angle are; ")
    assert rate.meaning.startswith(f"measured: by how much {angle} changes in a step, times 20; ")


def test_cosines_and_sines_that_do_not_stand_side_by_side():
    def two(numbers):
        return np.concatenate([np.cos(numbers), np.sin(numbers)])

    env = Motion(lambda drawn: 3 * drawn[:2], lambda numbers, action: numbers + 0.1 * action, 2, keys={"arm": two})
    assert measure(env).of_length_one == ((0, 2), (1, 3))
    sheet = draft_sheet(env, "Go.")
    assert sheet.action[1].meaning == (
        "measured: 1 moves atan2(arm_3, arm_1) by 0.1 after a step, 0.5 after 5, and 0.5 after 5 more of 0; -1 does "
        "the opposite"
    )
    assert sheet.observation[0].meaning.startswith("measured: arm_0, arm_2 are of length 1, as the cosine and sine of")


def test_what_changes_by_itself_is_told_of_speeds_too_and_start_by_start():
    """A weight at a spring."""

    def move(numbers, action):
        place, speed = numbers
        speed = 0.95 * speed - 0.04 * place + 0.02 * action[0]
        return place + speed, speed

    sheet = draft_sheet(Motion(lambda drawn: (drawn[0], 0), move), "Go.")
    falls = [re.search("when nothing acts, changes by (.*?) in 10 steps", part.meaning) for part in sheet.observation]
    places, speeds = ([float(number) for number in found[1].split(" | ")] for found in falls)
    assert sheet.observation[1].meaning.startswith("measured: by how much observation_0 changes in a step; when")
    starts = re.search(r"these are from the starts with observation_0 (.*), in this order", sheet.notes)
    for start, place, speed in zip(starts[1].split(" | "), places, speeds, strict=True):
        numbers = float(start), 0.0
        for _ in range(10):
            numbers = move(numbers, [0])
        assert (place, speed) == pytest.approx((numbers[0] - float(start), numbers[1]), rel=0.01, abs=0.005)


def test_an_angle_that_turns_far_and_one_whose_sine_comes_first():
    def turning(numbers):
        angle, rate = numbers
        return np.array([np.sin(angle), np.cos(angle), rate])

    def move(numbers, action):
        return numbers[0] + 0.8 * action[0], 0.8 * action[0]

    env = Motion(lambda drawn: (3 * drawn[0], 0), move, keys={"arm": turning})
    sheet = draft_sheet(env, "Go.")
    assert sheet.action[0].meaning.startswith(
        "measured: 1 moves atan2(arm_0_to_1[0], arm_0_to_1[1]) by 0.8 after a step, 4 "
    )
    assert "by how much atan2(arm_0_to_1[0], arm_0_to_1[1]) changes in a step; " in sheet.observation[1].meaning


def test_flags_are_no_angles_and_planar_quaternions_none_either():
    numbers = np.random.default_rng(0).uniform(-2, 2, (50, 1))
    is_open = (numbers > 0).astype(float)
    assert find_of_length_one(np.concatenate([is_open, 1 - is_open], axis=1), [None] * 2) == []
    zero, half = np.zeros_like(numbers), numbers / 2
    quaternions = np.concatenate([np.cos(half), zero, zero, np.sin(half)], axis=1)
    assert find_of_length_one(quaternions, [None] * 4) == [(0, 1, 2, 3)]
    keys = {"clock": lambda numbers: np.array([np.cos(numbers[0]), np.sin(numbers[0])])}
    clock = Motion(lambda drawn: drawn[:1], lambda numbers, action: numbers + 0.3, keys=keys)
    assert not measure(clock).relations.change_of
    env = Motion(lambda drawn: np.zeros(2), lambda numbers, action: [action[0] > 0, action[0] <= 0])
    assert draft_sheet(env, "Go.").observation[0].meaning.endswith("; each either 0 or 1")


@pytest.mark.parametrize("n", [3, 4])
def test_directions_and_quaternions_are_of_length_one(n):
    vectors = np.random.default_rng(0).normal(size=(50, n))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    numbers = np.concatenate([vectors[:, :1], units, vectors[:, 1:]], axis=1)
    assert find_of_length_one(numbers, [None] * (2 * n)) == [tuple(range(1, n + 1))]
    # Not of two arrays, and not if it hardly turns.
    assert find_of_length_one(numbers, [0] * n + [1] * n) == []
    near = np.array([1.0, *[0.0] * (n - 1)]) + 0.001 * vectors
    assert find_of_length_one(near / np.linalg.norm(near, axis=1, keepdims=True), [None] * n) == []


def test_goals_are_known_by_their_key():
    def move(numbers, action):
        return numbers + np.array([0.1 * action[0], 0, 0])

    keys = {
        "achieved_goal": lambda numbers: numbers[:2],
        "desired_goal": lambda numbers: numbers[[2, 1]],
        "observation": lambda numbers: numbers[:2],
    }
    env = Motion(lambda drawn: drawn[:3], move, keys=keys)
    achieved, *_, wanted = draft_sheet(env, "Go.").observation[:3]
    assert achieved.key == "achieved_goal"
    assert wanted.meaning.startswith("measured: what achieved_goal")
    assert " is to be, by its key; drawn at the start of an episode" in wanted.meaning


def test_many_numbers_are_counted_and_what_is_the_same_of_all_is_said_once():
    env = Motion(lambda drawn: np.zeros(6), lambda numbers, action: numbers + action[0] * np.arange(1, 7))
    (part,) = draft_sheet(env, "Go.").observation
    assert "; at the start 0 each; seen from [0] -" in f"; {part.meaning.removeprefix('measured: ')}"
    assert ", [5] -" in part.meaning
