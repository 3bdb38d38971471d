"""
A server with OpenAI's protocol that answers as a scripted Meta-World expert would, with a simulated VLM's flaws.

    python tests/scripted_vlm.py --task button-press-topdown-v3

prints the URL for ``--api-base``. It sees of each state what a VLM would see, the line of JSON in the request.
"""

import argparse
import json
import threading

import numpy as np

from sb3_varl.advice.types import AdviceQuery, Briefing, VisitedState
from sb3_varl.metaworld import ScriptedAdvisor, SparseMetaWorldEnv
from sb3_varl.testing import VLMServer


def scripted_answer(task, seed=0):
    """Make an answer function for ``VLMServer``."""
    advisor = ScriptedAdvisor(task, seed=seed)
    env = SparseMetaWorldEnv(task)
    briefing = Briefing(env.action_space, env.observation_space)
    n_requests = 0

    def answer(states, images):
        nonlocal n_requests
        visited = tuple(
            VisitedState(np.array(state["observation"]), np.array(state["executed_action"]), None, 0)
            for state in states
        )
        advice = advisor.advise(AdviceQuery(n_requests, 0, visited, briefing))
        n_requests += 1
        items = [
            {"state": state["state"], "action": action.tolist()}
            for state, action in zip(states, advice.actions, strict=True)
        ]
        return "Here is my advice.\n```json\n" + json.dumps({"advice": items}) + "\n```"

    return answer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with VLMServer(scripted_answer(arguments.task, arguments.seed)) as server:
        print(server.api_base, flush=True)
        threading.Event().wait()
