"""
How long rules take to advise: in one state, and in a batch.

    python examples/benchmark/rules_speed.py

Takes the recorded rules of all tasks of Meta-World that have some, and states that the tasks begin with, moved about a
little; of each task the median of several runs, in microseconds a state.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from gymnasium import spaces

from sb3_varl import Briefing
from sb3_varl.advisors.rules_advisor import RulesAdvisor, recorded_tasks
from sb3_varl.metaworld import SparseMetaWorldEnv


def microseconds(function: Callable[[], object], n_states: int, repeats: int) -> float:
    """:return: Median over several calls, for each of the states that a call is about"""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(1e6 * (time.perf_counter() - start) / n_states)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, default=1000, help="states in a batch")
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"{'task':<26}{'rules':>6}{'one state':>11}{'in a batch':>12}{'ratio':>7}   microseconds a state")
    for task in recorded_tasks():
        env = SparseMetaWorldEnv(task)
        first, _ = env.reset(seed=0)
        assert isinstance(env.action_space, spaces.Box)
        rules = RulesAdvisor.recorded(task).standing(
            Briefing(env.action_space, env.observation_space, sheet=env.task_sheet)
        )
        states = (first + rng.normal(0, 0.05, (args.states, len(first)))).astype(np.float32)
        one = microseconds(lambda: [rules(state) for state in states], args.states, 3)  # noqa: B023
        many = microseconds(lambda: rules.batch(states), args.states, args.repeats)  # noqa: B023
        print(f"{task:<26}{len(rules):>6}{one:>11.1f}{many:>12.2f}{one / many:>7.1f}")
        env.close()


if __name__ == "__main__":
    main()
