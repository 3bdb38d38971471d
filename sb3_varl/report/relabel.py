"""
What advice logs hold, without a model, an environment or a key: counts, cost, agreement, and the advice as guidance.

    python -m sb3_varl.relabel logs/run_1/advice logs/run_2/advice --output guidance.npz

prints a line for each query and merges all advice into a file for ``model.load_guidance_buffer("guidance.npz")``.
Queries of the preview about exchanged pictures are listed, and not merged: their answers are no advice.
Answers are read anew from the text that was paid for, so that those count, too, that a crash kept from being used.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_varl.advice.history import LoggedQuery, read_queries
from sb3_varl.advice.types import Observation, Usage
from sb3_varl.algorithms.guidance_buffer import GuidanceBuffer
from sb3_varl.algorithms.shaping import DEFAULT_THRESHOLDS
from sb3_varl.wording import count

_COLUMNS = (
    ("query", 5),
    ("step", 8),
    ("states", 6),
    ("advised", 7),
    ("rejected", 8),
    ("abstained", 9),
    ("requests", 8),
    ("failed", 6),
    ("tokens in", 9),
    ("out", 6),
    ("dollars", 7),
    ("seconds", 7),
    ("agree", 5),
)


class Relabelled:
    """
    A query of an advice log and what its answers say.

    :param query: The query
    """

    def __init__(self, query: LoggedQuery) -> None:
        self.query = query
        advice = query.read()
        self.actions = advice.actions
        self.rejected = Counter(rejection.reason for rejection in advice.rejected)
        self.n_abstained = query.n_abstained

    @property
    def n_advised(self) -> int:
        """Number of states with an action that can be used."""
        return sum(action is not None for action in self.actions)

    def distances(self) -> np.ndarray:
        """
        Compare the advice with what was executed.

        :return: For each advised state the largest difference of a component, where the bounds are 2 apart
        """
        pairs = zip(self.actions, self.query.executed_actions, strict=True)
        return np.array(
            [np.abs(self._scaled(a) - self._scaled(executed)).max() for a, executed in pairs if a is not None]
        )

    def _scaled(self, action: np.ndarray) -> np.ndarray:
        low, high = self.query.action_low, self.query.action_high
        return np.clip(2 * (action - low) / (high - low) - 1, -1, 1)

    def rows(self) -> list[tuple[Observation, np.ndarray]]:
        """
        Bring the advice into the form of guidance.

        :return: For each advised state its observation and the action in ``[-1, 1]^d``
        """
        pairs = zip(self.query.guided, self.actions, strict=True)
        return [(observation, self._scaled(action)) for observation, action in pairs if action is not None]


def merge(queries: Iterable[Relabelled]) -> GuidanceBuffer:
    """
    Put the advice of several queries together.

    :param queries: The queries, of one environment
    :return: A guidance buffer with all of it
    :raises ValueError: if there is no advice, or not all queries have the same task, observations and action bounds
    """
    advised = [query for query in queries if query.n_advised and not query.query.altered]
    if not advised:
        raise ValueError("There is no advice in these logs that could be merged.")
    first = advised[0].query
    buffer = GuidanceBuffer(
        sum(query.n_advised for query in advised),
        _space(first.guided[0]),
        spaces.Box(first.action_low, first.action_high, dtype=np.float64),
        device="cpu",
    )
    for relabelled in advised:
        query = relabelled.query
        if query.task != first.task:
            raise ValueError(
                f"The logs are of different tasks: {first.task!r} in {first.folder} and {query.task!r} in "
                f"{query.folder}. What is right for one is wrong for the other: merge the logs of one task."
            )
        for name in ("action_low", "action_high"):
            if not np.array_equal(getattr(query, name), getattr(first, name)):
                raise ValueError(
                    f"The logs are of different environments: {name} is {getattr(query, name).tolist()} in "
                    f"{query.folder} and {getattr(first, name).tolist()} in {first.folder}."
                )
        for observation, action in relabelled.rows():
            try:
                buffer.add(observation, action, query.step)
            except ValueError as error:
                raise ValueError(
                    f"The logs {first.folder} and {query.folder} are of different environments. {error}"
                ) from None
    return buffer


def _space(observation: Any) -> spaces.Space:
    if isinstance(observation, dict):
        return spaces.Dict({key: _space(value) for key, value in observation.items()})
    if observation.dtype.kind == "f":
        return spaces.Box(-np.inf, np.inf, observation.shape, observation.dtype)
    if observation.dtype.kind == "b":
        return spaces.Box(0, 1, observation.shape, np.int8)
    limits = np.iinfo(observation.dtype)
    return spaces.Box(limits.min, limits.max, observation.shape, observation.dtype)


def _line(name: str, step: str, queries: Sequence[Relabelled]) -> str:
    usage = sum((query.query.usage for query in queries), Usage())
    distances = np.concatenate([query.distances() for query in queries])
    agree = f"{(distances <= DEFAULT_THRESHOLDS['distance']).mean():.0%}" if len(distances) else "-"
    cells = (
        name,
        step,
        sum(query.query.n_states for query in queries),
        sum(query.n_advised for query in queries),
        sum(query.rejected.total() for query in queries),
        sum(query.n_abstained for query in queries),
        usage.requests,
        sum(len(query.query.failed_requests) for query in queries),
        usage.prompt_tokens,
        usage.completion_tokens,
        f"{usage.cost:.2f}",
        f"{usage.seconds:.1f}",
        agree,
    )
    return " ".join(f"{cell!s:>{width}}" for cell, (_, width) in zip(cells, _COLUMNS, strict=True))


def main(arguments: Sequence[str] | None = None, prog: str = "python -m sb3_varl.relabel") -> None:
    """
    Run the command.

    :param arguments: Its arguments, ``None`` for those of the command line
    :param prog: How it was called, for its messages
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Show what advice logs hold, and merge their advice into a guidance file.",
        epilog="'failed' is how many requests brought no answer in the end, after all retries. 'agree' is the share "
        f"of the advice that is within {DEFAULT_THRESHOLDS['distance']} of what was executed, in each component, where "
        "the bounds of an action are 2 apart.",
    )
    parser.add_argument("logs", nargs="+", metavar="LOG", help="log folder of a run, or its advice.jsonl")
    parser.add_argument("--output", metavar="FILE", help="guidance file to write, for load_guidance_buffer()")
    args = parser.parse_args(arguments)
    everything: list[Relabelled] = []
    try:
        for log in args.logs:
            queries = [Relabelled(query) for query in read_queries(log)]
            print(log)
            print(" ".join(f"{name:>{width}}" for name, width in _COLUMNS))
            for query in queries:
                print(_line(str(query.query.index + 1), str(query.query.step), [query]))
            everything += queries
        if everything:
            print(_line("all", "", everything))
        rejected = sum((query.rejected for query in everything), Counter())
        if rejected:
            print("rejected: " + ", ".join(f"{n} {reason}" for reason, n in rejected.most_common()))
        if args.output:
            buffer = merge(everything)
            buffer.save(args.output)
            print(f"{count(buffer.size(), 'row')} of guidance in {args.output}")
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")
