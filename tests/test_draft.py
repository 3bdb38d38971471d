"""Drafts of task sheets: what is measured of an environment, and what is written of it."""

import dataclasses
import pathlib
import re

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_varl import ActionComponent, ArgumentError, ObservationSlice, TaskSheet
from sb3_varl.advice.sheets import load_task_sheet
from sb3_varl.draft import draft_sheet, measure, write_sheet
from sb3_varl.draft.command import main
from sb3_varl.draft.parts import MEASURED
from sb3_varl.preview.command import main as preview_command
from sb3_varl.rules.names import Names

KINDS = ("moved", "one_way", "drawn", "constant", "same", "last", "rate", "gap")


class MadeOf(gym.Env):
    """
    Numbers of all kinds: two that an action moves, by 0.1 and to one side, the others as they are called.

    :param kinds: What the observation is made of
    :param wind: What moves the first one besides
    """

    def __init__(self, kinds, noise=0.0, says_success=True, length=30, wind=0.0):
        self.kinds, self.noise, self.says_success, self.length, self.wind = kinds, noise, says_success, length, wind
        self.observation_space = spaces.Box(-np.inf, np.inf, (len(kinds),), np.float64)
        self.action_space = spaces.Box(np.array([-2, 0, -1], np.float32), np.array([2, 1, 1], np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.last = self.place = self.np_random.uniform(-1, 1, 2)
        self.drawn = self.np_random.uniform(-1, 1)
        self.n_steps = 0
        return self._observation(), {}

    def step(self, action):
        self.last = self.place
        noise = np.random.default_rng().normal() * self.noise
        self.place = self.place + np.array([0.1 * action[0] + noise + self.wind, 0.2 * action[1]])
        self.n_steps += 1
        done = self.n_steps >= self.length
        return self._observation(), 0.0, False, done, {"is_success": False} if done and self.says_success else {}

    def _observation(self):
        of = {
            "moved": self.place[0],
            "one_way": self.place[1],
            "drawn": self.drawn,
            "constant": 3.0,
            "same": self.place[0],
            "last": self.last[0],
            "last_one_way": self.last[1],
            "tiny": 1e-7 * self.place[0],
            "rate": 25 * (self.place[0] - self.last[0]),
            "gap": self.drawn - self.place[0],
        }
        return np.array([of[kind] for kind in self.kinds])


def _sheet(env, tmp_path, **kwargs):
    path = tmp_path / "sheet.yml"
    path.write_text(write_sheet(measure(env), "MadeOf-v0", "Go.", **kwargs))
    return load_task_sheet(path)


def test_what_each_number_is(tmp_path):
    sheet = _sheet(MadeOf(KINDS), tmp_path)
    moved, one_way, drawn, constant, rate, gap = sheet.observation
    assert (moved.name, moved.start, moved.stop, moved.before) == ("observation 0", 0, 1, 5)
    assert (one_way.name, one_way.before) == ("observation 1", None)
    assert drawn.meaning.startswith(
        "measured: drawn at the start of an episode, and the same to its end in what was tried; seen from -0."
    )
    assert (constant.start, constant.meaning) == (3, "measured: always 3 in what was tried")
    assert rate.meaning.startswith(
        "measured: by how much observation_0 changes in a step, times 25; at the start 0; seen from -4.83"
    )
    assert gap.meaning.startswith("measured: observation_2 - observation_0; at the start -")
    written = (tmp_path / "sheet.yml").read_text()
    assert "# the same as others: observation[4] as observation[0]\n" in written


def test_last_values_of_what_never_moved_are_known_by_their_place(tmp_path):
    kinds = ("moved", "one_way", "drawn", "constant", "last", "last_one_way", "drawn", "constant")
    relations = measure(MadeOf(kinds)).relations
    assert relations.before == {0: 4, 1: 5, 2: 6, 3: 7}
    assert [part.stop for part in _sheet(MadeOf(kinds), tmp_path).observation] == [2, 3, 4]
    # Not of what lies outside of these.
    assert measure(MadeOf((*kinds[:2], *kinds[4:6], "constant", "drawn", "constant"))).relations.before == {0: 2, 1: 3}
    # Two that are drawn alike may come apart where no others tell what they are.
    relations = measure(MadeOf(("moved", "drawn", "last", "drawn"))).relations
    assert relations.before == {0: 2}
    assert not relations.same_as
    assert relations.drawn_as == {3: 1}
    *_, again = _sheet(MadeOf(("moved", "drawn", "last", "drawn")), tmp_path).observation
    assert again.meaning.startswith(
        "measured: drawn at the start of an episode, and the same to its end in what was tried; the same as obs"
    )


def test_less_next_to_nothing_is_no_difference(tmp_path):
    assert not measure(MadeOf(("drawn", "tiny", "drawn"))).relations.difference_of


def test_what_is_drawn_is_looked_at_in_many_episodes(tmp_path):
    (drawn,) = _sheet(MadeOf(("drawn",)), tmp_path).observation
    low, high = map(float, re.search(r"seen from (\S+) to (\S+)$", drawn.meaning).groups())
    assert low < -0.9
    assert high > 0.9


def test_what_is_touched_by_chance_is_no_other_kind(tmp_path):
    """Three numbers of a thing that drifts, of which one is moved from one start of three."""

    class Touched(MadeOf):
        def _observation(self):
            drift = self.drawn + 0.05 * self.n_steps
            touches = 0.2 * (self.place[1] - self.first) * (self.drawn > 0.5)
            return np.array([self.place[0], drift, 2 * drift + touches, 3 * drift])

        def reset(self, *, seed=None, options=None):
            self.first = 0.0
            super().reset(seed=seed)
            self.first = self.place[1]
            return self._observation(), {}

    env = Touched(range(4))
    assert sum(env.reset(seed=seed)[0][1] > 0.5 for seed in range(3)) == 1
    assert [(part.start, part.stop) for part in _sheet(env, tmp_path).observation] == [(0, 1), (1, 4)]


def test_what_each_action_does(tmp_path):
    moves, pushes, rests = (action.meaning for action in _sheet(MadeOf(KINDS), tmp_path).action)
    assert moves.startswith(
        "measured: 2 moves observation_0 by 0.2 after a step, 1 after 5, and 1 after 5 more of 0, and "
    )
    # Its change is 0 again when nothing acts, of which there is no more to be said.
    assert moves.endswith("; -2 does the opposite; in 5 steps of 2, it also moves observation_6 by 5")
    assert pushes == (
        "measured: 1 moves observation_1 by 0.2 after a step, 1 after 5, and 1 after 5 more of 0; 0 moves none of it"
    )
    assert rests == "measured: from -1 to 1; moves nothing by itself in the first 5 steps of an episode"


def test_what_goes_on_by_itself_is_told_of(tmp_path):
    (place,) = _sheet(MadeOf(("moved",), wind=0.03), tmp_path).observation
    assert place.meaning.startswith("measured: when nothing acts, changes by 0.3 in 10 steps; at the start -")


class Gripper(gym.Env):
    """It begins open."""

    observation_space = spaces.Box(0, 1, (1,), np.float64)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.opening = np.ones(1)
        return self.opening, {}

    def step(self, action):
        self.opening = np.clip(self.opening - 0.1 * action, 0, 1)
        return self.opening, 0.0, False, False, {}


def test_a_bound_that_moves_nothing_at_first_is_tried_after_the_other(tmp_path):
    (action,) = _sheet(Gripper(), tmp_path).action
    assert action.meaning == (
        "measured: 1 moves observation by -0.1 after a step, -0.5 after 5, and -0.5 after 5 more of 0; "
        "-1 moves none of it at the start, but after 5 steps of 1 it moves observation by 0.5 in 5"
    )


class HeavyGripper(Gripper):
    """It goes on for a while."""

    def reset(self, *, seed=None, options=None):
        self.speed = 0.0
        return super().reset(seed=seed)

    def step(self, action):
        self.speed = 0.9 * self.speed - 0.01 * action
        self.opening = np.clip(self.opening + self.speed, 0, 1)
        return self.opening, 0.0, False, False, {}


def test_what_is_still_on_its_way_is_not_the_other_bound_s_doing(tmp_path):
    meaning = _sheet(HeavyGripper(), tmp_path).action[0].meaning
    assert "but after 5 steps of 1 it moves observation by 0.1" in meaning


class Heading(gym.Env):
    """It goes where it heads."""

    observation_space = spaces.Box(-9, 9, (2,), np.float64)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.heading = 0.0, seed * np.pi / 2
        return np.array([self.place, self.heading]), {}

    def step(self, action):
        self.place += float(action[0]) * np.cos(self.heading)
        return np.array([self.place, self.heading]), 0.0, False, False, {}


def test_what_depends_on_the_start_is_told_with_it(tmp_path):
    sheet = _sheet(Heading(), tmp_path)
    assert sheet.action[0].meaning.startswith(
        "measured: 1 moves observation_0 by 1 | 0 | -1 after a step, 5 | 0 | -5 after 5, and"
    )
    assert "drawn at the start of an episode" in sheet.observation[1].meaning
    assert sheet.notes == (
        "measured: what actions move is counted from where it would be when nothing acts; where nothing is said of "
        "that, it hardly moves then; where something moves or changes by a | b | c, these are from the starts with "
        "observation_1 0 | 1.57 | 3.14, in this order"
    )


@given(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=12).filter(lambda kinds: set(kinds) != {"constant"}))
@settings(deadline=None, max_examples=15)
def test_each_number_has_one_place(kinds, tmp_path_factory):
    env = MadeOf(kinds)
    facts = measure(env)
    path = tmp_path_factory.mktemp("draft") / "sheet.yml"
    path.write_text(write_sheet(facts, "MadeOf-v0", "Go."))
    sheet = load_task_sheet(path)
    names = Names(sheet, env.observation_space)
    named = [place for variable in names.variables.values() for place in variable.places]
    left_out = {*facts.relations.same_as, *facts.relations.before.values()}
    assert sorted([*named, *left_out]) == list(range(len(kinds)))


def test_an_environment_that_is_never_the_same_says_so(tmp_path):
    env = MadeOf(("moved", "drawn"), noise=0.5, says_success=False)
    written = write_sheet(measure(env), "MadeOf-v0")
    assert "# Two episodes with one seed and the same actions were not the same" in written
    assert '# The last step of an episode has no "is_success" in its info' in written
    assert "# Nobody says how long an episode may be" in written
    written = write_sheet(measure(MadeOf(("moved", "drawn"), length=1000)), "MadeOf-v0")
    assert '# No episode ended in what was tried: check that its last step has "is_success"' in written
    written = write_sheet(measure(gym.wrappers.TimeLimit(MadeOf(("moved", "drawn")), 40)), "MadeOf-v0")
    assert "were not the same" not in written
    assert "is_success" not in written
    assert "how long an episode may be" not in written


class Unseeded(gym.ObservationWrapper):
    """Beside the first number one that no seed draws, and one that action 0 moves from there."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,))
        self.drawn = 0.0

    def reset(self, **kwargs):
        self.drawn = np.random.default_rng().uniform(-1, 1)
        return super().reset(**kwargs)

    def observation(self, observation):
        return np.array([observation[0], self.drawn, self.drawn + 0.5 * observation[0]])


def test_what_no_seed_draws_is_not_taken_for_what_an_action_moves():
    facts = measure(Unseeded(MadeOf(("moved",))))
    assert facts.differs_at_start.tolist() == [False, True, True]
    written = write_sheet(facts, "Unseeded-v0")
    assert "# Episodes with one seed began with other observation[1:3]: draw them by reset's seed" in written
    assert "were not the same" not in written
    moved, *others = [component["meaning"] for component in yaml.safe_load(written)["action"]]
    assert "2 moves observation_0 by 0.2 after a step" in moved
    assert "observation_2 by 0.1 after a step" in moved
    assert "observation_1" not in moved
    assert all("moves nothing by itself" in other for other in others)


@pytest.mark.parametrize("length", [1, 4, 7])
def test_episodes_that_end_soon(length):
    facts = measure(MadeOf(("moved", "drawn"), length=length))
    after = facts.effects[0, 0]
    assert np.isnan(after).any()
    assert np.isfinite(after[:, 0]).all()
    written = " ".join(write_sheet(facts, "MadeOf-v0").split())
    assert "by 0.2 after a step" in written
    assert "an unknown amount (the episode had ended) after 5 more of 0" in written


class WithPictures(gym.ObservationWrapper):
    """A Dict, with numbers and a picture."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = spaces.Dict(
            {"camera": spaces.Box(0, 255, (8, 8, 3), np.uint8), "left_arm": env.observation_space}
        )

    def observation(self, observation):
        return {"camera": np.zeros((8, 8, 3), np.uint8), "left_arm": observation}


def test_dictionaries_and_pictures(tmp_path):
    sheet = _sheet(WithPictures(MadeOf(("moved",))), tmp_path)
    (part,) = sheet.observation
    assert (part.name, part.key, part.start, part.stop) == ("left arm", "left_arm", 0, 1)
    assert sheet.action[0].meaning.startswith("measured: 2 moves left_arm by 0.2 ")
    pictures = gym.wrappers.TransformObservation(
        WithPictures(MadeOf(("moved",))), lambda both: both["camera"], spaces.Box(0, 255, (8, 8, 3), np.uint8)
    )
    with pytest.raises(ArgumentError, match=r"has 0 numbers that could have names, expected 1 to 1000.*--observe"):
        measure(pictures)


def test_actions_that_are_no_box_are_refused():
    with pytest.raises(ArgumentError, match=r"continuous actions, a Box, but the action space is Discrete\(2\)"):
        measure(gym.make("CartPole-v1"))


class Odd(gym.Env):
    """
    Numbers that are hard to tell apart: a clock and noise about 5, of which none is the other's change, an angle, one
    that is infinite at times, two that are each other's last values, and some that differ at the start only.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (9,), np.float64)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.angle = 0, self.np_random.uniform(-3, 3)
        return self._observation(), {}

    def step(self, action):
        self.t += 1
        self.angle = (self.angle + 0.5 * float(action[0]) + np.pi) % (2 * np.pi) - np.pi
        return self._observation(), 0.0, False, False, {}

    def _observation(self):
        noise = 5 + 0.1 * np.sin(self.t * np.array([1.3, 2.7]))
        late = 7.0 if self.t == 0 else self.angle
        infinite = np.inf if self.t > 50 else self.angle
        return np.array([1 - self.t / 100, *noise, self.angle, infinite, self.t % 2, (self.t + 1) % 2, late, 0])


def test_numbers_that_are_hard_to_tell_apart(tmp_path):
    facts = measure(Odd())
    assert not facts.relations.change_of
    assert not facts.relations.same_as
    assert len(facts.relations.before) == 1
    sheet = _sheet(Odd(), tmp_path)
    (action,) = sheet.action
    assert "observation_3 by 0.5 after a step, 2.5 after 5, and 2.5 after 5 more of 0" in action.meaning
    angle = next(part for part in sheet.observation if part.start == 3)
    assert "an angle, which jumps by 6.28 at its ends" in angle.meaning
    written = (tmp_path / "sheet.yml").read_text()
    assert "# infinite, or no numbers, at times: observation[4]\n" in written
    assert sheet.observation[-1].meaning == "measured: always 0 in what was tried"


class Halves(gym.ObservationWrapper):
    """A Dict of two numbers under a key each, as an environment may call them."""

    def __init__(self, env, keys):
        super().__init__(env)
        self.keys = keys
        self.observation_space = spaces.Dict({key: spaces.Box(-np.inf, np.inf, (2,)) for key in keys})

    def observation(self, observation):
        return {key: observation[2 * i : 2 * i + 2] for i, key in enumerate(self.keys)}


@pytest.mark.parametrize(
    "keys",
    [
        *[
            ("on", "null"),
            ("a: b", "a #b"),
            ("[x", "*y"),
            ("0", "~"),
            ("a", "A"),
            ("\u00e9", "\u65e5\u672c"),
            ("a\nb", '"q"'),
        ],
        ("\x7f", "\x85"),
        ("a", "a 0"),
    ],
)
def test_keys_of_all_kinds(keys, tmp_path):
    env = Halves(MadeOf(("moved", "constant", "drawn", "one_way")), keys)
    sheet = _sheet(env, tmp_path)
    names = Names(sheet, env.observation_space)
    assert {part.key for part in sheet.observation} == set(keys)
    assert len(names.variables) == len(sheet.observation)


def test_last_values_under_another_key_are_named_by_themselves(tmp_path):
    env = Halves(MadeOf(("moved", "drawn", "last", "one_way")), ("now", "then"))
    sheet = _sheet(env, tmp_path)
    Names(sheet, env.observation_space)
    assert all(part.before is None for part in sheet.observation)


def test_names_and_words_of_a_sheet_are_kept_and_measured_in(tmp_path):
    env = MadeOf(KINDS)
    first = _sheet(env, tmp_path, sheet=None)
    renamed = dataclasses.replace(
        first,
        success="There.",
        action=tuple(ActionComponent(name, f"{name}s; {MEASURED}old") for name in ("push", "pull", "rest")),
        observation=(
            ObservationSlice("cart", 0, 1, "metres", before=5),
            ObservationSlice("rate", 6, 7),
            ObservationSlice("flag", 3, 4),
        ),
    )
    again = _sheet(env, tmp_path, sheet=renamed)
    assert again.success == "There."
    assert [part.name for part in again.observation] == ["cart", "rate", "flag"]
    assert again.observation[2].meaning == "measured: always 3 in what was tried"
    assert again.observation[0].before == 5
    assert again.observation[0].meaning.startswith("metres; measured: at the start ")
    assert again.observation[1].meaning.startswith("measured: by how much cart changes in a step, times 25; ")
    assert again.action[0].meaning.startswith("pushs; measured: 2 moves cart by 0.2 after a step, 1 after 5")
    assert _sheet(env, tmp_path, sheet=again) == again
    with pytest.raises(ArgumentError, match=r"'far' is 7 to 9, which is no part of .* there are 8 of these"):
        write_sheet(measure(env), "x", sheet=TaskSheet("Go.", (), (ObservationSlice("far", 7, 9),)))
    twice = ObservationSlice("cart", 0, 2), ObservationSlice("Cart", 2, 4)
    with pytest.raises(ArgumentError, match="'cart' and 'Cart' are both cart in rules"):
        write_sheet(measure(env), "x", sheet=TaskSheet("Go.", (), twice))
    with pytest.raises(ArgumentError, match=r"The sheet names 1 action components, expected 3"):
        write_sheet(measure(env), "x", sheet=TaskSheet("Go.", (ActionComponent("a"),)))


def test_bounds_and_numbers_that_are_not_there_are_refused():
    unbounded = MadeOf(("moved",))
    unbounded.action_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    with pytest.raises(ArgumentError, match=r"has none\. Wrap the environment"):
        measure(unbounded)
    with pytest.raises(ArgumentError, match="An observation has 1200 numbers that could have names"):
        measure(MadeOf(("moved",) * 1200))


def test_what_never_changes_is_named_as_well(tmp_path):
    """A door that nobody has opened yet."""
    (part,) = _sheet(MadeOf(("constant",) * 3), tmp_path).observation
    assert (part.start, part.stop, part.meaning) == (0, 3, "measured: always 3 in what was tried")


class Told(gym.Env):
    """
    Numbers that a function says of the step, the last action and what was drawn.

    :param tell: The function
    """

    def __init__(self, tell, low=-1.0, high=1.0, length=60):
        self.tell, self.length = tell, length
        self.action_space = spaces.Box(low, high, (1,), np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (len(tell(0, 0.0, 0.0, 0.0)),), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.sum, self.drawn = 0, 0.0, self.np_random.uniform(0, 1)
        return np.array(self.tell(0, 0.0, 0.0, self.drawn)), {}

    def step(self, action):
        self.t, self.sum = self.t + 1, self.sum + float(action[0])
        observation = np.array(self.tell(self.t, float(action[0]), self.sum, self.drawn))
        return observation, 0.0, False, self.t >= self.length, {}


@pytest.mark.parametrize("tell", [lambda t, action, *_: [6 * abs(action)], lambda t, *_: [t % 7]])
def test_what_jumps_is_no_angle(tell, tmp_path):
    sheet = _sheet(Told(tell), tmp_path)
    assert "an angle" not in sheet.observation[0].meaning


def test_a_small_effect_is_told_of_where_there_is_no_larger_one(tmp_path):
    sheet = _sheet(Told(lambda t, action, total, drawn: [t + 0.03 * total]), tmp_path)
    assert sheet.action[0].meaning.startswith(
        "measured: 1 moves observation by 0.03 after a step, 0.15 after 5, and 0.15"
    )


def test_a_start_that_is_small_beside_the_range_is_not_0(tmp_path):
    sheet = _sheet(Told(lambda t, action, total, drawn: [3 + 2 * drawn + 40 * t + total]), tmp_path)
    low, high = map(float, re.search(r"at the start (\S+) to (\S+);", sheet.observation[0].meaning).groups())
    assert 3 <= low < high <= 5


def test_an_action_that_cannot_rest_is_compared_with_what_it_does_least(tmp_path):
    sheet = _sheet(Told(lambda t, action, total, drawn: [total], low=0.5), tmp_path)
    assert sheet.action[0].meaning.startswith("measured: compared with 0.5, 1 moves observation by 0.5 after a step")
    assert "at actions of 0.5, changes by 5 in 10 steps" in sheet.observation[0].meaning


def test_what_is_drawn_what_is_touched_and_flags_stand_apart(tmp_path):
    """A thing that goes along from step 30 on, with a flag beside it, and a place for it."""

    def tell(t, action, total, drawn):
        held = float(t > 30 and total > 0)
        return [total, drawn + 0.1 * held * t, -drawn - 0.1 * held * t, held, 3 * drawn, 5 * drawn]

    parts = _sheet(Told(tell), tmp_path).observation
    assert [(part.start, part.stop) for part in parts] == [(0, 1), (1, 3), (3, 4), (4, 6)]
    assert parts[2].meaning == "measured: at the start 0; either 0 or 1"


def test_one_of_another_kind_between_two_belongs_to_them(tmp_path):
    parts = _sheet(
        Told(lambda t, action, total, drawn: [drawn, 2 * drawn, 0.5, 3 * drawn, 4.0, 4.0]), tmp_path
    ).observation
    assert [(part.start, part.stop) for part in parts] == [(0, 4), (4, 6)]


def test_keys_that_come_in_another_order_are_not_mixed_up(tmp_path):
    class Turned(WithPictures):
        def observation(self, observation):
            parts = {"a": observation[:1], "b": observation[1:]}
            return parts if self.unwrapped.t == 0 else dict(reversed(parts.items()))

    env = Turned(Told(lambda t, action, total, drawn: [total, 7.0]))
    one, other = _sheet(env, tmp_path).observation
    assert (one.key, other.key, other.meaning) == ("a", "b", "measured: always 7 in what was tried")


def test_observations_that_are_not_alike_and_numbers_that_are_none_are_refused():
    env = Told(lambda t, *_: [0.0] * (2 if t > 3 else 1))
    with pytest.raises(ArgumentError, match=r"other numbers than the first one: 2, after 1\."):
        measure(env)
    with pytest.raises(ArgumentError, match="was infinite, or no number, at some time"):
        measure(Told(lambda t, *_: [np.nan if t == 5 else 0.0, np.inf]))


def test_what_is_taken_for_last_values_is_said(tmp_path):
    _sheet(MadeOf(KINDS), tmp_path)
    assert (
        "# taken for last values of others: observation[5] of observation[0]\n" in (tmp_path / "sheet.yml").read_text()
    )


# ---- From code


def test_a_draft_is_a_sheet_for_the_callback(tmp_path):
    env = MadeOf(KINDS)
    assert draft_sheet(env, "Go.") == _sheet(MadeOf(KINDS), tmp_path)
    by_name = draft_sheet("MountainCarContinuous-v0")
    assert by_name == draft_sheet(gym.make("MountainCarContinuous-v0"))
    assert by_name.goal == ""
    assert by_name.observation[1].meaning.startswith("measured: by how much observation_0 changes in a step;")
    ferry = pathlib.Path(__file__).parents[1] / "examples" / "ferry.py"
    assert [part.start for part in draft_sheet(f"{ferry}:Ferry-v0").observation] == [0, 2, 4]
    assert draft_sheet("previewed:Preview/Hidden-v0", observe="place").observation[0].stop == 2


def test_an_environment_of_the_draft_s_own_is_closed_and_others_are_not(monkeypatch):
    closed = []
    monkeypatch.setattr(MadeOf, "close", lambda env: closed.append(env))
    monkeypatch.setitem(
        gym.registry, "MadeOf-v0", EnvSpec("MadeOf-v0", lambda: MadeOf(("moved",)), disable_env_checker=True)
    )
    draft_sheet(MadeOf(("moved",)))
    assert closed == []
    draft_sheet("MadeOf-v0")
    assert len(closed) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"env": DummyVecEnv([lambda: MadeOf(("moved",))])}, "expected one gymnasium environment that was made"),
        ({"env": "Pendulum-v1", "task": ""}, "task is '', expected text"),
        ({"env": "Pendulum-v1", "seed": -1}, "seed is -1"),
        ({"env": MadeOf(("moved",)), "observe": "nothing"}, "observe is 'nothing', expected the name of an attribute"),
        ({"env": MadeOf(("moved",)), "observe": 3}, "observe is 3"),
    ],
)
def test_what_is_no_environment_to_be_measured(arguments, words):
    with pytest.raises(ArgumentError, match=re.escape(words)):
        draft_sheet(**arguments)


# ---- The command


def test_the_command_and_what_comes_after_it(capsys, tmp_path):
    ferry = pathlib.Path(__file__).parents[1] / "examples" / "ferry.py"
    main(["--env", f"{ferry}:Ferry-v0"])
    assert capsys.readouterr().out == "See sheet.yml\n"
    draft = pathlib.Path("sheet.yml").read_text()
    with pytest.raises(SystemExit, match=r"The model does not know the task"):
        preview_command(["--env", f"{ferry}:Ferry-v0", "--model", "openai/gpt-4o", "--sheet", "sheet.yml"])
    assert f"python -m sb3_varl.preview --env {ferry}:Ferry-v0 --sheet sheet.yml --model " in draft
    place, speed, pier = yaml.safe_load(draft)["observation"]
    assert (place["start"], place["stop"], speed["start"], speed["stop"]) == (0, 2, 2, 4)
    assert speed["meaning"].startswith("measured: by how much observation_0_to_1 changes in a step;")
    assert pier["meaning"].startswith("measured: drawn at the start of an episode, and")
    with pytest.raises(SystemExit, match=r"sheet.yml is there already. Name another file \(--out\)"):
        main(["--env", f"{ferry}:Ferry-v0"])
    assert pathlib.Path("sheet.yml").read_text() == draft
    with pytest.raises(SystemExit, match=r"There is no folder nowhere to write sheet.yml into"):
        main(["--env", f"{ferry}:Ferry-v0", "--out", "nowhere/sheet.yml"])
    main(["--env", f"{ferry}:Ferry-v0", "--sheet", "sheet.yml", "--task", "Stop.", "--out", "again.yml"])
    again = load_task_sheet("again.yml")
    assert again == dataclasses.replace(load_task_sheet("sheet.yml"), goal="Stop.")


def test_the_command_reads_what_the_advisor_reads():
    main(["--env", "previewed:Preview/Hidden-v0", "--observe", "place", "--task", "Come to the middle."])
    sheet = load_task_sheet("sheet.yml")
    assert sheet.goal == "Come to the middle."
    assert [(part.name, part.start, part.stop) for part in sheet.observation] == [("observation", 0, 2)]
    assert sheet.action[0].meaning.startswith("measured: 1 moves observation[0] by 0.1 after a step, 0.5 after 5")


@pytest.mark.parametrize(
    ("env", "words"), [("CartPole-v1", "continuous actions"), ("Nowhere-v0", "The environment is 'Nowhere-v0'")]
)
def test_what_cannot_be_measured_is_said_in_one_line(env, words):
    with pytest.raises(SystemExit, match=words) as exit:
        main(["--env", env])
    assert "\n" not in str(exit.value)
    assert not pathlib.Path("sheet.yml").exists()
