"""
What a large multimodal model answered when the same states were put to it in six ways: how far it agrees with
Meta-World's scripted experts. The table of docs/results.md, "How a state is put to a model".
"""

import pathlib

import numpy as np
import pytest

from sb3_varl.advice.answer import parse_answer
from sb3_varl.advice.types import Briefing
from sb3_varl.metaworld import ScriptedAdvisor, SparseMetaWorldEnv

DATA = pathlib.Path(__file__).parent / "data" / "asked" / "actions"
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
