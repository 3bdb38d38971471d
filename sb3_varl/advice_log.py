"""
The advice log: what was asked and what came back, on disk before it is used, so that nothing is paid for twice.

One folder per run holds ``advice.jsonl`` and the frames that were shown. Each line is a JSON object with ``version``,
``type`` and ``query`` (the query's number):

- ``query``: ``step``, ``task`` and ``states``, each with ``step``, ``observation``, ``executed_action`` and ``frame``
  (a file name, or null);
- ``answer``: ``request``, ``states`` (indices), ``text``, ``usage`` and ``latency`` in seconds of one paid answer;
- ``advice``: ``actions`` (one or null for each state, in the environment's units), ``rejected``, ``usage``,
  ``failures`` and ``latency`` in seconds of the whole query.
"""

import base64
import dataclasses
import json
import os
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from sb3_varl.advice import Advice, AdviceQuery, Answer, Observation, Rejection
from sb3_varl.prompt import parse_answer

VERSION = 1
FILE_NAME = "advice.jsonl"

# Longer arrays, images that is, are packed: as numbers they would be several times their size.
_MAX_PLAIN_SIZE = 1024


class AdviceLog:
    """
    Appends to a run's advice log. Every line is on the disk when the method that writes it returns.

    :param path: The run's log folder; made if it is missing, readable by its owner only
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(path)
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = self.path / FILE_NAME

    def write_query(self, query: AdviceQuery) -> None:
        """
        Record what is about to be asked, the frames included.

        :param query: The query
        """
        states = []
        for i, state in enumerate(query.states):
            frame = None
            if state.frame is not None:
                frame = f"query{query.index}-step{query.step}-state{i}.png"
                Image.fromarray(state.frame).save(self.path / frame)
            states.append(
                {
                    "step": state.step,
                    "observation": encode_observation(state.observation),
                    "executed_action": np.asarray(state.executed_action).tolist(),
                    "frame": frame,
                }
            )
        self._append("query", query.index, step=query.step, task=query.briefing.task, states=states)

    def write_answer(self, query: AdviceQuery, answer: Answer) -> None:
        """
        Record a paid answer as it came.

        :param query: The query that it belongs to
        :param answer: The answer
        """
        self._append("answer", query.index, **dataclasses.asdict(answer))

    def write_advice(self, query: AdviceQuery, advice: Advice, latency: float) -> None:
        """
        Record what a query brought in the end.

        :param query: The query
        :param advice: Checked advice: arrays or ``None``
        :param latency: Seconds that the query took
        """
        actions = [None if action is None else np.asarray(action).tolist() for action in advice.actions]
        rejected = [dataclasses.asdict(rejection) for rejection in advice.rejected]
        self._append(
            "advice",
            query.index,
            actions=actions,
            rejected=rejected,
            usage=dataclasses.asdict(advice.usage),
            failures=list(advice.failures),
            latency=latency,
        )

    def _append(self, kind: str, query: int, **fields: Any) -> None:
        line = json.dumps({"version": VERSION, "type": kind, "query": query, **fields}, default=_plain) + "\n"
        descriptor = os.open(self._file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            # A crash may have left half a line: ours starts on a new one.
            if file.seek(0, os.SEEK_END) > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = "\n" + line
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())


def read_records(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """
    Read a run's advice log, line by line. A line that a crash cut short is passed over.

    :param path: The run's log folder, or its ``advice.jsonl``
    :return: The records in the order in which they were written
    :raises FileNotFoundError: if there is no log
    :raises ValueError: if the log was written by a newer version
    """
    file = pathlib.Path(path)
    file = file / FILE_NAME if file.is_dir() else file
    if not file.exists():
        raise FileNotFoundError(f"{path} holds no advice log, expected the log folder of a run with {FILE_NAME} in it.")
    for line in file.read_text(errors="replace").split("\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record["version"] > VERSION:
            raise ValueError(f"{file} has version {record['version']}, expected at most {VERSION}: update sb3_varl.")
        yield record


class ReplayAdvisor:
    """
    Answers from a recorded run, without a model and without a key. A run with the same seed, environment and
    settings as the recorded one, both with ``AdvisorCallback(..., blocking=True)``, ends with the same weights.
    A state that was not recorded is rejected as ``not_recorded``. Of a query that a crash cut short, those answers
    are repeated that had come.

    :param path: The log folder of the recorded run
    :raises FileNotFoundError: if there is no log
    :raises ValueError: if the log holds no advice
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(path)
        asked: dict[int, list[str]] = {}
        # The same observation may have been asked about twice, with different answers.
        self._by_place: dict[tuple[int, int, str], Any] = {}
        self._by_observation: dict[str, Any] = {}
        # Answers without the advice that was to be made of them, as a crash leaves them behind.
        self._unread: list[dict[str, Any]] = []
        for record in read_records(path):
            if record["type"] == "query":
                asked[record["query"]] = [json.dumps(state["observation"]) for state in record["states"]]
            elif record["type"] == "answer":
                self._unread.append({**record, "observations": asked[record["query"]]})
            elif record["type"] == "advice":
                observations = asked[record["query"]]
                self._unread = [answer for answer in self._unread if answer["observations"] is not observations]
                for i, action in enumerate(record["actions"]):
                    self._remember(record["query"], i, asked[record["query"]][i], action)
        if not self._by_observation and not self._unread:
            raise ValueError(f"The advice log {self.path} holds no advice: its run ended before the first answer.")

    def _remember(self, query: int, state: int, observation: str, action: Any) -> None:
        self._by_place[query, state, observation] = action
        self._by_observation[observation] = action

    def advise(self, query: AdviceQuery) -> Advice:
        """
        Look the states up.

        :param query: The states in question
        :return: What was answered about them in the recorded run
        """
        for answer in self._unread:
            parsed = parse_answer(answer["text"], answer["states"], query.briefing.action_space)
            for i, action in parsed.actions.items():
                self._remember(answer["query"], i, answer["observations"][i], action)
        self._unread.clear()
        actions, rejected = [], []
        for i, state in enumerate(query.states):
            observation = json.dumps(encode_observation(state.observation))
            if observation not in self._by_observation:
                rejected.append(Rejection("not_recorded", i))
            actions.append(self._by_place.get((query.index, i, observation), self._by_observation.get(observation)))
        return Advice(actions, rejected)


def _plain(value: Any) -> Any:
    """What JSON does not know: numbers and arrays of NumPy, and whatever an advisor has put into its answer."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)


def encode_observation(observation: Observation) -> Any:
    """
    Bring an observation into JSON without losing a bit of it.

    :param observation: An array, or a dictionary of arrays
    :return: Nested lists; an object for a dictionary; and for a large array an object with ``dtype``, ``shape``
        and ``zlib`` (the bytes, compressed and in base64)
    """
    if isinstance(observation, dict):
        return {key: encode_observation(value) for key, value in sorted(observation.items())}
    array = np.asarray(observation)
    if array.size <= _MAX_PLAIN_SIZE:
        return array.tolist()
    packed = base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes())).decode()
    return {"dtype": array.dtype.str, "shape": array.shape, "zlib": packed}
