"""Recorded answers of a large multimodal model: they are read, and solve their tasks."""

import json
import pathlib

import numpy as np
import pytest
from gymnasium import spaces
from rules_language import parse, sheet_of

import sb3_varl
from sb3_varl import ObservationSlice
from sb3_varl.metaworld import SparseMetaWorldEnv, task_sheet

DATA = pathlib.Path(__file__).parents[1] / "examples" / "benchmark" / "recorded_rules"
RECORDED = pathlib.Path(sb3_varl.__file__).parent / "advisors" / "recorded_rules"
# To an earlier prompt.
EARLIER = DATA.with_name("earlier_rules")
FILES = sorted([*RECORDED.glob("*.txt"), *EARLIER.glob("*.txt")])


def which(file):
    return f"{file.parent.name}/{file.stem}"


@pytest.mark.parametrize("file", FILES, ids=which)
def test_recorded_answers_are_read_without_a_rejection(file):
    space = spaces.Box(-np.inf, np.inf, (39,), np.float32)
    rules = parse(file.read_text(), task_sheet(file.name.split(".")[0]), space, spaces.Box(-1, 1, (4,), np.float32))
    assert not rules.rejected
    assert [(rule.when, list(rule.action)) for rule in rules.rules] == [
        (rule["when"], rule["action"]) for rule in json.loads(file.read_text())["rules"]
    ]
    states = np.random.default_rng(0).normal(0, 0.3, (200, 39)).astype(np.float32)
    actions, which = rules.batch(states)
    assert [rules.which(state) for state in states] == which.tolist()
    np.testing.assert_allclose(np.stack([rules(state) for state in states]), actions, atol=1e-6)


@pytest.mark.parametrize("file", sorted(DATA.glob("*.txt")), ids=lambda file: file.stem)
def test_recorded_answers_about_other_environments(file):
    names = json.loads((DATA / "names.json").read_text())[file.stem]
    slices = [ObservationSlice(name, start, stop, meaning, key) for name, (key, start, stop, meaning) in names.items()]
    has_keys = any(part.key for part in slices)
    space = spaces.Box(-np.inf, np.inf, (25,), np.float32)
    n_components = len(json.loads(file.read_text())["rules"][0]["action"])
    rules = parse(
        file.read_text(),
        sheet_of(*slices),
        spaces.Dict({"observation": space, "desired_goal": space}) if has_keys else space,
        spaces.Box(-2, 2, (n_components,), np.float32),
    )
    assert not rules.rejected
    assert len(rules) == len(json.loads(file.read_text())["rules"])


# Of 20 episodes.
NOT_ALL = {
    "recorded_rules/soccer-v3": 15,
    "recorded_rules/disassemble-v3": 19,
    "recorded_rules/stick-pull-v3": 15,
    "earlier_rules/soccer-v3": 17,
    "earlier_rules/door-open-v3": 16,
    "earlier_rules/peg-insert-side-v3": 0,
}
SOLVED = [file for file in FILES if file.parent == RECORDED or file.with_suffix(".round2.txt").exists()]
SOLVED += sorted(EARLIER.glob("*.round2.txt"))


@pytest.mark.slow
@pytest.mark.parametrize("file", SOLVED, ids=which)
def test_recorded_rules_solve_their_tasks(file):
    env = SparseMetaWorldEnv(file.name.split(".")[0], frame_skip=3, terminate_on_success=True)
    rules = parse(file.read_text(), env.task_sheet, env.observation_space, env.action_space)
    n_successes = 0
    for seed in range(1000, 1020):
        observation, _ = env.reset(seed=seed)
        for _ in range(50):
            action = rules(observation)
            assert action is not None
            observation, _, succeeded, _, _ = env.step(action)
            if succeeded:
                n_successes += 1
                break
    assert abs(n_successes - NOT_ALL.get(which(file), 20)) <= 1
