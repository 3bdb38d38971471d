"""
What a large multimodal model answered: what one answer with rules takes, and how far it agrees with Meta-World's
scripted experts where the same states were put to it in six ways. The numbers of docs/results_rules.md, "Recorded
rules" and "How a state is put to a model".
"""

import functools
import importlib.util
import itertools
import pathlib
import re

import gymnasium as gym
import numpy as np
import pytest
from harbour import Harbour

from sb3_varl import Rules, load_task_sheet
from sb3_varl.advice.answer import parse_answer
from sb3_varl.advice.types import Briefing
from sb3_varl.advisors.providers import count_tokens
from sb3_varl.draft import measure, write_sheet
from sb3_varl.draft.parts import MEASURED
from sb3_varl.metaworld import TASKS, ScriptedAdvisor, SparseMetaWorldEnv
from sb3_varl.preview import preview
from sb3_varl.preview.episodes import follow_whole

ASKED = pathlib.Path(__file__).parent / "data" / "asked"
DATA = ASKED / "actions"
# US dollars, of gpt-6.1-sol in litellm's list of November 2026; and what litellm 1.110 counts for a picture.
PER_TOKEN_SENT, PER_TOKEN_RECEIVED = 2e-6, 1e-5
TOKENS_OF_A_PICTURE = 255
WAYS = ("as_it_is", "names", "differences", "large_marked_pictures", "what_changed", "no_pictures")
# Mean cosine between the motion that was advised and the expert's, over the states of each task.
AGREEMENT = {
    "push-v3": (0.82, 0.81, 0.78, 0.81, 0.75, 0.80),
    "drawer-open-v3": (0.74, 0.77, 0.75, 0.77, 0.74, 0.79),
    "pick-place-v3": (0.81, 0.80, 0.76, 0.77, 0.77, 0.79),
}


def cosine(advised, right):
    """0 where either does not move."""
    return advised @ right / max(np.linalg.norm(advised) * np.linalg.norm(right), 1e-9)


@pytest.mark.parametrize("task", AGREEMENT)
def test_agreement_with_the_expert_hardly_depends_on_how_states_are_put(task):
    env = SparseMetaWorldEnv(task, frame_skip=3)
    observations = np.loadtxt(DATA / task / "observations.csv", delimiter=",")
    expert = ScriptedAdvisor(task, noise=0.0, resolution=0.0, error_rate=0.0).standing(
        Briefing(env.action_space, env.observation_space, sheet=env.task_sheet)
    )
    agreement = []
    for way in WAYS:
        answer = parse_answer(
            (DATA / task / way / "answer.txt").read_text(), range(len(observations)), env.action_space
        )
        assert len(answer.actions) == len(observations)
        cosines = [cosine(action[:3], np.asarray(expert(observations[i]))[:3]) for i, action in answer.actions.items()]
        agreement.append(np.mean(cosines))
    np.testing.assert_allclose(agreement, AGREEMENT[task], atol=0.0051)


def test_what_each_way_takes():
    page = (ASKED.parents[2] / "docs" / "results_rules.md").read_text()
    rows = [row.split(" | ") for row in page.splitlines()]
    for i, way in enumerate(WAYS):
        length = round(np.mean([len((DATA / task / way / "prompt.txt").read_text()) for task in AGREEMENT]), -2)
        cells = [
            *(f"{of_task[i]:.2f}" for of_task in AGREEMENT.values()),
            f"{length:,.0f} |".replace(",", " "),
        ]
        assert cells in [row[1:] for row in rows], cells


@pytest.mark.parametrize(
    ("folder", "which"), [(ASKED / "easily_learnt", "The {} first ones"), (ASKED, "{} of the earlier ones")]
)
def test_what_one_answer_with_rules_takes(folder, which):
    def count(file):
        return count_tokens([{"role": "user", "content": file.read_text()}])

    folders = [file.parent for file in folder.glob("*-v3/answer.txt") if file.parent.name in TASKS]
    sent = [
        count(each / "prompt.txt") + TOKENS_OF_A_PICTURE * len(list(each.glob("picture_*.png"))) for each in folders
    ]
    received = [count(each / "answer.txt") for each in folders]
    dollars = [PER_TOKEN_SENT * n + PER_TOKEN_RECEIVED * m for n, m in zip(sent, received, strict=True)]
    page = " ".join((ASKED.parents[2] / "docs" / "results_rules.md").read_text().split())
    said = (
        f"{which.format(len(folders))} took {round(min(sent), -2)} to {round(max(sent), -2)} tokens with their "
        f"pictures, and {round(min(received), -2)} to {round(max(received), -2)} for the answer: {min(dollars):.3f} to "
        f"{max(dollars):.3f} US dollars"
    )
    assert said in page, said


@pytest.mark.parametrize(("answer", "n_successes"), [("rules_before.json", 0), ("correction/answer.txt", 20)])
def test_a_correction_finds_that_the_task_sheet_is_wrong(answer, n_successes):
    """The sheet has port and starboard the wrong way round; the tables of a correction show what the rudder does."""
    folder = ASKED / "Harbour"
    env = Harbour()
    sheet = load_task_sheet(folder / "sheet.yml")
    assert "1 turns her to port" in sheet.action[1].meaning
    rules = Rules.parse((folder / answer).read_text(), sheet, env.observation_space, env.action_space)
    followed = follow_whole(Harbour, rules, 20, seed=0)
    assert sum(bool(whole.episode.succeeded) for whole in followed) == n_successes


@pytest.mark.parametrize(
    ("environment", "n"),
    [*itertools.product(("Ferry-v0", "Harbour"), ("1", "2", "3", "4", "5", "6")), ("Ferry-v0", "7")],
)
def test_rules_from_drafted_sheets_succeed(environment, n):
    """Those of FetchPickAndPlace are followed in test_beyond_metaworld."""
    folder = ASKED / "drafted" / environment / n
    make = Harbour if environment == "Harbour" else lambda: gym.wrappers.TimeLimit(_ferry().Ferry(), 100)
    env, sheet = make(), load_task_sheet(folder / "sheet.yml")
    rules = Rules.parse((folder / "answer.txt").read_text(), sheet, env.observation_space, env.action_space)
    assert not rules.rejected
    assert sum(bool(whole.episode.succeeded) for whole in follow_whole(make, rules, 40, seed=0)) == 40


@pytest.mark.slow
@pytest.mark.parametrize(("task", "n_successes"), [("soccer-v3", 19), ("coffee-pull-v3", 20), ("push-v3", 20)])
def test_rules_from_the_present_draft_of_three_metaworld_tasks_succeed(task, n_successes):
    folder = ASKED / "drafted" / task / "5"
    env = gym.make(f"sb3_varl.metaworld:SparseMetaWorld/{task}")
    sheet = load_task_sheet(folder / "sheet.yml")
    rules = Rules.parse((folder / "answer.txt").read_text(), sheet, env.observation_space, env.action_space)
    followed = follow_whole(lambda: env, rules, 20, seed=0)
    assert sum(bool(whole.episode.succeeded) for whole in followed) == pytest.approx(n_successes, abs=1)


def test_the_last_answer_about_the_ferry_is_to_the_draft_that_the_command_writes(tmp_path):
    draft = write_sheet(measure(_ferry().Ferry()), "Ferry-v0", "Bring the ferry to the pier and stop there.")
    (tmp_path / "sheet.yml").write_text(draft)
    assert load_task_sheet(tmp_path / "sheet.yml") == load_task_sheet(
        ASKED / "drafted" / "Ferry-v0" / "7" / "sheet.yml"
    )


def test_nobody_named_the_numbers_of_drafts_or_said_how_the_launch_moves():
    """But for the harbour, whose success is said, too; robosuite and DeepMind Control call them by their keys."""
    of_metaworld = [*(ASKED.parents[2] / "examples" / "benchmark" / "drafted_rules").glob("*/*.yml")]
    assert len(of_metaworld) == 60
    paths = [path for path in (ASKED / "drafted").glob("*/*/sheet.yml") if path.parts[-3] != "Harbour"]
    for path in [*of_metaworld, *paths]:
        sheet = load_task_sheet(path)
        assert (sheet.success, sheet.sizes, sheet.lag) == ("", "", "")
        assert not sheet.notes.partition(MEASURED)[0]
        parts = [part for part in (*sheet.action, *sheet.observation) if not part.name.startswith("desired goal")]
        keys = {part.key for part in sheet.observation if path not in of_metaworld and part.key is not None}
        names = "|".join(["action", "observation", *(re.escape(key.replace("_", " ")) for key in keys)])
        assert all(re.fullmatch(rf"({names})( \d+( to \d+)?)?", part.name) for part in parts)
        assert path not in of_metaworld or all(part.meaning.startswith(MEASURED) for part in parts)
    for path in (ASKED / "drafted" / "Harbour").glob("*/sheet.yml"):
        assert not load_task_sheet(path).lag
        assert not re.search(r"north is|clockwise|starboard|port\b|coast|compass", path.read_text())


@functools.cache
def _ferry():
    spec = importlib.util.spec_from_file_location("ferry", ASKED.parents[2] / "examples" / "ferry.py")
    ferry = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ferry)
    return ferry


def test_the_rules_of_the_ferry_are_the_answer_to_what_the_preview_shows():
    ferry = _ferry()
    folder = ASKED / "Ferry-v0"
    assert ferry.RULES.read_text() == (folder / "answer.txt").read_text()
    shown = preview(lambda: gym.make("Ferry-v0"), "openai/gpt-4o", frames=False)
    (system, user) = (message["content"] for message in shown.chats[0])
    parts = [system, *(part["text"] for part in user)] if isinstance(user, list) else [system, user]
    assert "\n".join(parts) + "\n" == (folder / "prompt.txt").read_text()
