"""The comparison on environments that are not of Meta-World."""

import csv
import pathlib
import sys

import beyond_metaworld
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from sb3_varl import Rules, load_task_sheet
from sb3_varl.advisors.rules_prompt import objection
from sb3_varl.preview import preview
from sb3_varl.preview.episodes import follow_whole
from sb3_varl.rules.rule import outline

ASKED = pathlib.Path(__file__).parent / "data" / "asked"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps"), [("FetchSlide-v4", 1100), ("PointMaze_Medium-v3", 2200), ("Pusher-v5", 1100)]
)
def test_a_short_run_is_written_down_and_not_repeated(name, steps, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(beyond_metaworld, "TASKS", {name: beyond_metaworld.TASKS[name]._replace(steps=steps)})
    for constant in ("N_EVALUATIONS", "N_EVAL_EPISODES", "N_EPISODES_OF_RULES"):
        monkeypatch.setattr(beyond_metaworld, constant, 1)
    path = tmp_path / "results.csv"
    monkeypatch.setattr(sys, "argv", ["beyond_metaworld.py", name, "--methods", "VARL", "--results", str(path)])
    beyond_metaworld.main()
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["environment"], row["method"]) for row in rows] == [(name, "rules"), (name, "VARL")]
    assert [row["success"] in ("0.0", "1.0") for row in rows] == [name != "Pusher-v5"] * 2
    assert all(np.isfinite(float(row["return"])) for row in rows)
    capsys.readouterr()
    beyond_metaworld.main()
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "n_successes", "centimetres"),
    [
        (".", 3, 24),
        ("correction_earlier_tables", 10, 12),
        ("correction_earlier_tables_again", 4, 17),
        ("correction", 18, 6),
        ("correction_again", 13, 7),
    ],
)
def test_what_comes_of_a_second_answer_about_sliding_and_of_its_corrections(folder, n_successes, centimetres):
    """To the present prompt, with a sheet of what was measured; three rules each, of 40 episodes."""
    text = (ASKED / "FetchSlide-v4" / folder / "answer.txt").read_text()
    env = beyond_metaworld.Named("FetchSlide-v4")
    rules = Rules.parse(text, env.task_sheet, env.observation_space, env.action_space)
    assert len(rules) == 3
    assert not rules.rejected
    if folder == "correction":
        assert text == (beyond_metaworld.RULES / "FetchSlide-v4.corrected.txt").read_text()
    successes, distances = [], []
    for seed in range(beyond_metaworld.EVAL_SEED, beyond_metaworld.EVAL_SEED + beyond_metaworld.N_EPISODES_OF_RULES):
        observation, _ = env.reset(seed=seed)
        previous, is_over = observation, False
        while not is_over:
            action = rules(observation, previous)
            previous = observation
            observation, _, terminated, truncated, info = env.step(action)
            is_over = terminated or truncated
        successes.append(info["is_success"])
        distances.append(np.linalg.norm(observation["achieved_goal"] - observation["desired_goal"]))
    assert sum(successes) == pytest.approx(n_successes, abs=2)
    assert 100 * np.median(distances) == pytest.approx(centimetres, abs=2)


@pytest.mark.slow
@pytest.mark.parametrize("n", ["1", "2", "3", "4"])
def test_rules_from_a_drafted_sheet_pick_and_place(n):
    folder = ASKED / "drafted" / "FetchPickAndPlace-v4" / n
    env, sheet = gym.make("gymnasium_robotics:FetchPickAndPlace-v4"), load_task_sheet(folder / "sheet.yml")
    rules = Rules.parse((folder / "answer.txt").read_text(), sheet, env.observation_space, env.action_space)
    assert not rules.rejected
    followed = follow_whole(lambda: env, rules, 40, seed=0)
    assert sum(bool(whole.episode.succeeded) for whole in followed) >= 39


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "n_episodes", "n_successes"),
    [("FetchReach-v4", 20, 20), ("FetchPush-v4", 20, 20), ("FetchSlide-v4", 20, 4), ("PointMaze_Medium-v3", 5, 5)],
)
def test_rules_from_drafted_sheets(name, n_episodes, n_successes):
    folder = ASKED / "drafted" / name / "1"
    env, sheet = gym.make(f"gymnasium_robotics:{name}"), load_task_sheet(folder / "sheet.yml")
    rules = Rules.parse((folder / "answer.txt").read_text(), sheet, env.observation_space, env.action_space)
    assert not rules.rejected
    followed = follow_whole(lambda: env, rules, n_episodes, seed=0)
    assert sum(bool(whole.episode.succeeded) for whole in followed) == pytest.approx(n_successes, abs=2)


# Of packages that are not among those of the tests: the sizes of observations, and of actions.
ELSEWHERE = {"parking-v0": ({"observation": 6, "achieved_goal": 6, "desired_goal": 6}, 2), "PushT-v0": (5, 2)}


def _drafted(name, n, observation_space, action_space, answer="answer.txt"):
    folder = ASKED / "drafted" / name / n
    sheet = load_task_sheet(folder / "sheet.yml")
    return Rules.parse((folder / answer).read_text(), sheet, observation_space, action_space)


@pytest.mark.parametrize("n", ["1", "2"])
@pytest.mark.parametrize("name", ELSEWHERE)
def test_rules_from_drafted_sheets_elsewhere_can_be_followed(name, n):
    sizes, n_actions = ELSEWHERE[name]
    space = gym.spaces.Box(-np.inf, np.inf, (sizes if isinstance(sizes, int) else 6,))
    if isinstance(sizes, dict):
        space = gym.spaces.Dict(dict.fromkeys(sizes, space))
    rules = _drafted(name, n, space, gym.spaces.Box(-1, 1, (n_actions,)))
    assert not rules.rejected
    assert np.shape(rules(space.sample())) == (n_actions,)


def test_the_rules_for_push_t_are_the_answer_to_the_last_draft():
    for file, kept in (("PushT-v0.txt", "answer.txt"), ("PushT-v0.yml", "sheet.yml")):
        text = (ASKED / "drafted" / "PushT-v0" / "2" / kept).read_text()
        assert (beyond_metaworld.RULES / file).read_text() == text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "name", "n", "n_successes"),
    [
        ("highway_env", "highway_env:parking-v0", "1", 20),
        ("highway_env", "highway_env:parking-v0", "2", 20),
        ("gym_pusht", "gym_pusht:gym_pusht/PushT-v0", "1", 10),
        ("gym_pusht", "gym_pusht:gym_pusht/PushT-v0", "2", 9),
    ],
)
def test_rules_from_drafted_sheets_elsewhere_succeed(package, name, n, n_successes):
    pytest.importorskip(package)
    env = gym.make(name)
    rules = _drafted(name.split(":")[1].split("/")[-1], n, env.observation_space, env.action_space)
    followed = follow_whole(lambda: env, rules, 20, seed=0)
    assert sum(bool(whole.episode.succeeded) for whole in followed) == pytest.approx(n_successes, abs=2)


@pytest.mark.slow
def test_a_door_for_a_hand_of_28_joints_is_not_opened():
    env = gym.make("gymnasium_robotics:AdroitHandDoorSparse-v1")
    rules = _drafted("AdroitHandDoorSparse-v1", "1", env.observation_space, env.action_space)
    assert not rules.rejected
    assert not any(whole.episode.succeeded for whole in follow_whole(lambda: env, rules, 5, seed=0))
    mended = _drafted("AdroitHandDoorSparse-v1", "2", env.observation_space, env.action_space, "sent_back/answer.txt")
    assert not any(whole.episode.succeeded for whole in follow_whole(lambda: env, mended, 5, seed=0))


def test_a_model_mends_actions_that_are_a_component_short():
    actions, sent_back = spaces.Box(-1, 1, (28,)), ASKED / "drafted" / "AdroitHandDoorSparse-v1" / "2" / "sent_back"
    miscounted, mended = (
        _drafted("AdroitHandDoorSparse-v1", "2", spaces.Box(-np.inf, np.inf, (39,)), actions, answer)
        for answer in ("answer.txt", "sent_back/answer.txt")
    )
    assert len(miscounted) == 0
    assert all("its action has 27 components, expected 28" in str(lost) for lost in miscounted.rejected)
    assert (sent_back / "objection.txt").read_text() == f"{objection(miscounted)}\n"
    assert len(mended) == 4
    assert not mended.rejected
    before = outline((sent_back.parent / "answer.txt").read_text())
    assert [(rule.name, rule.when) for rule in mended.rules] == [(rule.name, rule.when) for rule in before]


def test_rules_from_a_drafted_sheet_drive_up_the_hill():
    folder = ASKED / "drafted" / "MountainCarContinuous-v0" / "1"
    env, sheet = gym.make("MountainCarContinuous-v0"), load_task_sheet(folder / "sheet.yml")
    rules = Rules.parse((folder / "answer.txt").read_text(), sheet, env.observation_space, env.action_space)
    followed = follow_whole(lambda: env, rules, 20, seed=0)
    assert min(whole.reward for whole in followed) > 90
    assert f"{np.mean([whole.reward for whole in followed]):.0f}" == "93"


# Of observations, and of goals: panda-gym needs PyBullet, which has no wheels for later versions of Python than 3.11.
PANDA = {"PandaPickAndPlace-v3": (19, 3), "PandaStack-v3": (31, 6)}


@pytest.mark.parametrize(("name", "sizes"), PANDA.items(), ids=PANDA)
def test_the_rules_of_the_panda_are_the_recorded_answer_and_can_be_followed(name, sizes):
    text = (beyond_metaworld.RULES / f"{name}.txt").read_text()
    assert text == (ASKED / name / "answer.txt").read_text()
    n_observation, n_goal = sizes
    parts = {"observation": n_observation, "achieved_goal": n_goal, "desired_goal": n_goal}
    space = gym.spaces.Dict({key: gym.spaces.Box(-10, 10, (n,)) for key, n in parts.items()})
    rules = Rules.parse(
        text, load_task_sheet(beyond_metaworld.RULES / f"{name}.yml"), space, gym.spaces.Box(-1, 1, (4,))
    )
    assert not rules.rejected
    observation = {key: np.zeros(n, np.float32) for key, n in parts.items()}
    assert np.shape(rules(observation, observation)) == (4,)


@pytest.mark.slow
@pytest.mark.parametrize("name", PANDA)
def test_the_panda_s_rules_are_answers_to_what_the_preview_shows(name):
    pytest.importorskip("panda_gym")
    shown = preview(
        lambda: gym.make(f"panda_gym:{name}", render_mode="rgb_array"),
        "openai/gpt-6.1-sol",
        sheet=load_task_sheet(beyond_metaworld.RULES / f"{name}.yml"),
    )
    system, user = (message["content"] for message in shown.chats[0])
    texts = [system, *(part["text"] for part in user if part["type"] == "text")]

    def without_states(text):  # which PyBullet does not repeat
        return [line for line in text.splitlines() if not line.startswith(('{"state"', "(picture_"))]

    assert without_states("\n".join(texts)) == without_states((ASKED / name / "prompt.txt").read_text())
