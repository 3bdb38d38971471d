"""Drafts say nothing false of environments with noise, with unequal bounds, and of which a few episodes show little."""

import re
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from test_draft_motion import Motion

from sb3_varl import TaskSheet, draft_sheet
from sb3_varl.advice.types import ObservationSlice
from sb3_varl.draft import measure, write_sheet
from sb3_varl.draft.relations import relate


class Unseeded(Motion):
    """Draws its start, and noise, by no seed."""

    rng = np.random.default_rng(0)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.numbers = np.array(self.start(self.rng.uniform(-1, 1, 4)), float)
        return self._observation(), {}


def meanings(env):
    return [action.meaning for action in draft_sheet(env, "Go.").action]


def test_of_bounds_that_do_not_do_as_much_the_lesser_one_is_told_of():
    env = Motion(lambda drawn: 25 + 25 * drawn[:1], lambda x, a: x + (0.15 if a[0] > 0 else 0.06) * a)
    assert meanings(env) == [
        "measured: 1 moves observation by 0.15 after a step, 0.75 after 5, and 0.75 after 5 more of 0; -1 moves "
        "observation by -0.06 after a step, -0.3 after 5, and -0.3 after 5 more of 0"
    ]


@pytest.mark.parametrize("size", [0.04, 0.1])
def test_what_noise_hides_is_not_said_to_be_nothing(size):
    noise = np.random.default_rng(0)
    env = Motion(lambda drawn: drawn[:1], lambda x, a: x + 0.1 * a + size * noise.normal())
    (moved,) = meanings(env)
    for nothing in re.findall(r"moves (?:nothing|none of it)[^;,]*", moved):
        assert "that stands out from the noise" in nothing
    assert "two episodes of one seed and the same actions were not the same" in draft_sheet(env, "Go.").notes


def test_noise_that_only_actions_have_is_seen():
    noise = np.random.default_rng(0)
    env = Motion(lambda drawn: drawn[:1], lambda x, a: x + a * noise.uniform(0.5, 2.5))
    assert measure(env).noise[0] > 0.5


def test_rounding_is_no_noise():
    env = Unseeded(lambda drawn: drawn[:1], lambda x, a: (x + 0.01 + 0.1 * a).astype(np.float32))
    assert "were not the same" not in draft_sheet(env, "Go.").notes
    assert "were not the same" not in write_sheet(measure(env), "Unseeded-v0")


def test_effects_that_depend_on_starts_that_no_seed_repeats_have_none():
    sheet = draft_sheet(Unseeded(lambda drawn: drawn[:1], lambda x, a: x + 0.1 * a * x), "Go.")
    assert " | " in sheet.action[0].meaning
    assert "these are from 3 starts that no seed repeats" in sheet.notes
    assert "in this order" not in sheet.notes


def test_nothing_is_held_in_place_that_no_seed_repeats():
    env = Unseeded(lambda drawn: drawn[:1], lambda x, a: x + 0.5 * (2 * a - x))
    assert "sets where observation goes" in meanings(env)[0]
    assert "held in place" not in draft_sheet(env, "Go.").notes


def test_what_moves_for_a_step_only_is_not_moved_later():
    """A place, what it is told, and by how much that changed."""
    env = Motion(lambda drawn: (drawn[0], 0, 0), lambda x, a: (x[0] + 0.1 * a[0], a[0], (a[0] - x[1]) / 0.1))
    assert "in a step of 1, it also moves observation_1_to_2[1] by 10" in meanings(env)[0]
    assert "later" not in meanings(env)[0]


def test_what_moves_in_episodes_that_end_soon_is_not_moved_later():
    env = Motion(lambda drawn: drawn[:2], lambda x, a: x + np.array([1, 0.05]) * a)
    assert "in a step of 1, it also moves observation[1] by 0.05" in meanings(gym.wrappers.TimeLimit(env, 4))[0]


def test_what_moves_a_number_without_a_name_does_not_move_nothing():
    env = Motion(lambda drawn: drawn[:2], lambda x, a: x + 0.1 * a, n_actions=2)
    sheet = TaskSheet("Go.", observation=(ObservationSlice("hand", 0, 1),))
    assert "from -1 to 1; moves nothing that is named by itself" in write_sheet(measure(env), "Hand-v0", sheet=sheet)


def test_a_number_that_only_a_bound_moves_is_not_always_the_same():
    env = Motion(lambda drawn: (drawn[0], 0), lambda x, a: (x[0] + 0.1 * a[0], x[1] + (a[0] >= 1)))
    sheet = draft_sheet(env, "Go.")
    assert "observation_1 by 1 after a step" in sheet.action[0].meaning
    assert sheet.observation[1].meaning == (
        "measured: always 0 while actions were random, but moved by up to 25 where one was held"
    )


def test_what_comes_apart_from_another_when_an_action_is_held_is_not_the_same():
    env = Motion(
        lambda drawn: (drawn[0], drawn[1], drawn[0]), lambda x, a: (x[0] + 0.2 * a[0], x[1], np.clip(x[0], -4.5, 4.5))
    )
    env.step = lambda action, step=env.step: (_clipped(step(action)[0]), 0.0, False, False, {})
    assert "the same as others" not in write_sheet(measure(env), "Clipped-v0")


def _clipped(numbers):
    return np.array([numbers[0], numbers[1], np.clip(numbers[0], -4.5, 4.5)])


def test_what_happens_by_itself_is_told_for_as_many_steps_as_there_were():
    env = gym.wrappers.TimeLimit(Motion(lambda drawn: drawn[:1], lambda x, a: x + 0.3 + 0.1 * a), 4)
    assert "when nothing acts, changes by 1.2 in 4 steps" in draft_sheet(env, "Go.").observation[0].meaning


def test_what_comes_back_by_itself_is_told():
    """A clock with a hand that goes round in ten steps."""
    env = Motion(
        lambda drawn: (drawn[0], 0, 0),
        lambda x, a: (x[0] + 0.1 * a[0], x[1] + 1, np.sin(2 * np.pi * (x[1] + 1) / 10)),
    )
    _, clock = draft_sheet(env, "Go.").observation
    assert "when nothing acts, changes by 10, 0 in 10 steps; " in clock.meaning
    assert "when nothing acts, comes and goes by 0, 1.9 in 10 steps" in clock.meaning


def test_a_bound_that_ends_the_episode_has_no_opposite():
    env = Motion(lambda drawn: 0.1 * drawn[:1], lambda x, a: np.maximum(x + 0.1 * a, -0.5))
    step = env.step
    env.step = lambda action: (*(told := step(action))[:2], bool(told[0][0] > 0.2), False, {})
    assert "does the opposite" not in meanings(env)[0]


def test_the_command_that_is_told_is_the_one_that_was_sent():
    env = Motion(lambda drawn: drawn[:1], lambda x, a: x + 0.5 * (2 * a - x))
    env.action_space = spaces.Box(-3, 3, (1,), np.int64)
    assert "-3 -> -6, 0 -> 0, 1 -> 2, 3 -> 6" in meanings(env)[0]


def test_success_that_only_some_ends_tell_of_is_remarked():
    env = Motion(lambda drawn: drawn[:1], lambda x, a: x + 0.1 * a)
    step = env.step
    env.step = lambda action: (
        *(told := step(action))[:2],
        bool(told[0][0] > 1),
        False,
        {"is_success": True} if told[0][0] > 1 else {},
    )
    written = write_sheet(measure(gym.wrappers.TimeLimit(env, 20)), "Some-v0")
    assert 'has no "is_success" in its info, or not always' in written


def test_what_comes_nearer_in_one_episode_and_goes_away_in_others_is_no_rate():
    """A wheel that is hit now and then, and how far it is from where it should be."""
    rng, episodes = np.random.default_rng(0), []
    for n_steps, factor in ((300, -1), (8, 2), (8, 2), (8, -5), (8, 3)):
        speed = rng.normal(size=n_steps + 1)
        episodes.append(np.stack([np.cumsum(speed) * factor, speed], axis=1))
    nothing = np.full(2, np.nan)
    assert relate(episodes, [None, None], nothing, {}).change_of == {}
    assert relate(episodes[:1], [None, None], nothing, {}).change_of == {1: (0, pytest.approx(-1))}


def test_what_gravity_does_to_a_speed_does_not_make_a_sine_of_its_rate():
    """A pendulum that nothing moves but its weight."""

    def move(numbers, action):
        angle, speed = np.arctan2(numbers[1], numbers[0]), numbers[2]
        speed += 0.4 * np.sin(angle) + 0.01 * action[0]
        return np.cos(angle + 0.05 * speed), np.sin(angle + 0.05 * speed), speed

    env = Motion(lambda drawn: (np.cos(3 * drawn[0]), np.sin(3 * drawn[0]), 0), move)
    assert {*measure(env).relations.change_of} == {2}


def test_numbers_that_are_none_cost_no_warning():
    env = Motion(lambda drawn: (drawn[0], np.nan), lambda x, a: (x[0] + 0.1 * a[0], np.nan))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        written = write_sheet(measure(env), "None-v0")
    assert "infinite, or no numbers, at times: observation[1]" in written
