"""
The advice log: what was asked and what came back, on disk before it is used, so that nothing is paid for twice.

One folder per run holds ``advice.jsonl`` and the frames that were shown. Each line is a JSON object with ``version``,
``time`` (seconds since 1970), ``type`` and ``query`` (the query's number):

- ``query``: ``run`` (a name that the run has given itself), ``step``, ``advisor``, ``task``, ``altered`` (what was
  changed about the states to check the advisor, so that its answers are no advice; empty otherwise), ``followed`` (of a
  query that asks to correct standing advice, the ``episodes`` that it was shown and those that ``succeeded``; null of
  others), ``action_names``,
  ``action_low`` and ``action_high`` (the bounds of actions), ``dtype`` (of observations, an object for those that are
  dictionaries) and ``states``, each with ``step``, ``observation``, ``executed_action``, ``seen`` (the policy's
  observation, where the advisor reads another, whose data types are ``seen_dtype``) and ``frame`` (a file name, or
  null). An array of more than 1024 numbers is an object with ``dtype``, ``shape`` and ``zlib``, its bytes, compressed
  and in base64. Numbers that JSON does not have are the strings ``"nan"``, ``"inf"`` and ``"-inf"``;
- ``request``: ``request`` (its number within the query; retries have the same) and ``states`` (indices), written before
  anything is sent;
- ``failure``: ``request``, ``text``, ``usage`` and ``permanent`` (whether it would fail again) of a request that
  brought no answer;
- ``answer``: ``request``, ``states``, ``text``, ``usage``, ``form`` (what was asked for, ``"actions"`` or ``"rules"``)
  and ``is_cut`` (whether the provider says that it breaks off) of one that did. Rules of which none can be used are
  sent back, so that a later answer may be about the same states, and counts in place of the first;
- ``advice``: ``actions`` (one or null for each state, in the environment's units), ``rejected`` (each with ``reason``,
  ``state`` and ``example``), ``usage``, ``latency`` (seconds) and ``error`` (of an advisor that failed altogether, or
  null) of the whole query, which is then closed. If states of it were not answered, the next ``learn()`` on the log
  asks about them again, and another ``advice`` takes this one's place;
- ``put_back``: ``rules`` (their text) that stand again, because those that the query brought do worse.

``usage`` has ``requests``, ``prompt_tokens``, ``completion_tokens``, ``cost`` (US dollars) and ``seconds``.
What a crash left of a last line is moved to ``advice.torn``; ``advice.lock`` is held by the run that writes.

An advisor that does not break off may answer when its run has ended and released the log. Its lines are written as soon
as nobody else has the log, which is tried each second and when the process ends. Where another run has gone on with the
query by then, the log and the model have that one's answers: the late ``advice`` is left out, and a late ``answer``
about states that were answered becomes a ``failure``, which keeps what it cost. A late answer about states that are
still open counts like any other.
"""

import atexit
import base64
import contextlib
import dataclasses
import io
import json
import logging
import math
import os
import pathlib
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import filelock
import numpy as np
from PIL import Image

from sb3_varl.advice.sheets import action_names
from sb3_varl.advice.types import UNANSWERED, Advice, AdviceQuery, Event, Followed, Observation
from sb3_varl.saving import sync

logger = logging.getLogger(__name__)

VERSION = 1
FILE_NAME = "advice.jsonl"
TORN_FILE_NAME = "advice.torn"
LOCK_FILE_NAME = "advice.lock"

# Seconds that a run waits for another one's late lines.
_PATIENCE = 1.0
# Of an answer that is as good as none, because another run on the log has asked about these states again.
TOO_LATE = "the answer came after another run had gone on with this log"

# Longer arrays, images that is, are packed: as numbers they would be several times their size.
_MAX_PLAIN_SIZE = 1024


class AdviceLog:
    """
    Appends to a run's advice log. Every line is on the disk when the method that writes it returns, unless the disk
    refuses it: then it is kept, and written with the next.

    Until it is released, nobody else can write there. What a thread still writes after that waits until nobody does.

    :param path: The run's log folder; made if it is missing, readable by its owner only
    :param run: The name that the run has given itself
    :raises OSError: if nothing can be written there
    :raises RuntimeError: if somebody else is writing there
    """

    def __init__(self, path: str | os.PathLike[str], run: str | None = None) -> None:
        self.path = pathlib.Path(path).absolute()
        self.run = run
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = self.path / FILE_NAME
        # Of all threads, because it may be released from another one than that of the training.
        self._lock_file = filelock.FileLock(self.path / LOCK_FILE_NAME, mode=0o600, thread_local=False)
        self._unwritten: list[tuple[dict[str, Any], bytes]] = []
        self._is_behind = self._torn = self._complained = False
        self._is_released = True
        # Of threads of this run; that of the file is for others.
        self._lock = threading.Lock()
        # In the file, of each query, as far as this run knows.
        self._n_lines: Counter[int] = Counter()
        # Queries that others have written about since this run released the log.
        self._of_others: set[int] = set()
        self.claim()
        with self._open() as descriptor:
            self._put_torn_line_aside(descriptor)
        _sync_folder(self.path)

    def claim(self) -> frozenset[int]:
        """
        Keep others from writing there.

        :return: The queries about which others have written since it was released
        :raises RuntimeError: if somebody else is writing there
        """
        _write_what_waits(self.path)
        with self._lock:
            self._acquire(_PATIENCE)
            self._is_released = False
            self._look_at_others()
            changed, self._of_others = frozenset(self._of_others), set()
            return changed

    def _acquire(self, timeout: float) -> None:
        try:
            self._lock_file.acquire(timeout, poll_interval=0.02)
        except filelock.Timeout:
            raise RuntimeError(
                f"Another run is writing to the advice log {self.path}. Wait for its end, or give this one a folder of "
                "its own with AdvisorCallback(log_path=...)."
            ) from None
        except NotImplementedError:
            logger.warning("The file system of %s has no locks: see to it that one run at a time has it.", self.path)

    def release(self) -> None:
        """Let others write there."""
        with self._lock:
            self._is_released = True
            if self._unwritten and self not in _waiting:
                _waiting.append(self)
            self._lock_file.release()
        _write_what_waits(self.path)

    def _look_at_others(self) -> None:
        """Take note of what others have written, and make what is unwritten fit to it."""
        lines = self._file.read_bytes().split(b"\n") if self._file.exists() else []
        records: dict[int, list[dict[str, Any]]] = {}
        for line in lines:
            record = _parsed(line)
            if record is not None and isinstance(record.get("query"), int):
                records.setdefault(record["query"], []).append(record)
        self._of_others |= {query for query, its in records.items() if len(its) != self._n_lines[query]}
        self._n_lines = Counter({query: len(its) for query, its in records.items()})
        late = [
            _after_others(record, records[record["query"]]) if record["query"] in self._of_others else record
            for record, _ in self._unwritten
        ]
        self._unwritten = [(record, _line(record)) for record in late if record is not None]

    def _open(self) -> "_Descriptor":
        return _Descriptor(self._file, os.O_RDWR | os.O_APPEND | os.O_CREAT)

    def _put_torn_line_aside(self, descriptor: int) -> None:
        content = self._file.read_bytes()
        complete = content.rfind(b"\n") + 1
        torn = content[complete:]
        if not torn:
            return
        if _parsed(torn) is not None:
            os.write(descriptor, b"\n")
            return
        with _Descriptor(self.path / TORN_FILE_NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as aside:
            os.write(aside, torn + b"\n")
            sync(aside)
        os.ftruncate(descriptor, complete)
        logger.warning("The last line of %s was cut short by a crash; it is now in %s.", self._file, TORN_FILE_NAME)

    def write_query(self, query: AdviceQuery, advisor: str | None = None) -> None:
        """
        Record what is about to be asked, the frames included.

        :param query: The query
        :param advisor: Who is asked
        """
        states = []
        for i, state in enumerate(query.states):
            frame = None
            if state.frame is not None:
                frame = self._write_frame(f"query{query.index}-step{query.step}-state{i}.png", state.frame)
            states.append(
                {
                    "step": state.step,
                    "observation": encode_observation(state.observation),
                    "executed_action": np.asarray(state.executed_action).tolist(),
                    "frame": frame,
                    **({} if state.seen is None else {"seen": encode_observation(state.seen)}),
                }
            )
        _sync_folder(self.path)
        space = query.briefing.action_space
        self._append(
            "query",
            query.index,
            run=self.run,
            step=query.step,
            advisor=advisor,
            task=query.briefing.task,
            altered=query.altered,
            followed=_fared(query.followed),
            action_names=action_names(query.briefing),
            action_low=space.low.tolist(),
            action_high=space.high.tolist(),
            dtype=_dtype(query.states[0].observation) if query.states else None,
            seen_dtype=_dtype(query.states[0].seen) if query.states and query.states[0].seen is not None else None,
            states=states,
        )

    def _write_frame(self, name: str, frame: np.ndarray) -> str | None:
        png = io.BytesIO()
        Image.fromarray(frame).save(png, format="PNG")
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _Descriptor(self.path / name, os.O_WRONLY | os.O_TRUNC | os.O_CREAT) as descriptor:
                _write_all(descriptor, png.getvalue())
                sync(descriptor)
        except OSError as error:
            self._complain(error)
            return None
        return name

    def write_event(self, query: AdviceQuery, event: Event) -> None:
        """
        Record a request or what became of it.

        :param query: The query that it belongs to
        :param event: The request, answer or failure
        """
        self._append(type(event).__name__.lower(), query.index, **dataclasses.asdict(event))

    def write_advice(self, query: AdviceQuery, advice: Advice, latency: float, error: str | None = None) -> None:
        """
        Record what a query brought in the end.

        :param query: The query
        :param advice: Checked advice: arrays or ``None``
        :param latency: Seconds that the query took
        :param error: Why the advisor failed altogether, if it did
        """
        actions = [None if action is None else np.asarray(action).tolist() for action in advice.actions]
        rejected = [dataclasses.asdict(rejection) for rejection in advice.rejected]
        self._append(
            "advice",
            query.index,
            actions=actions,
            rejected=rejected,
            usage=dataclasses.asdict(advice.usage),
            latency=latency,
            error=error,
        )

    def write_put_back(self, query: int, rules: str) -> None:
        """
        Record that older rules stand again.

        :param query: The query whose rules do worse
        :param rules: The text of the older ones
        """
        self._append("put_back", query, rules=rules)

    def _append(self, kind: str, query: int, **fields: Any) -> None:
        record = {"version": VERSION, "time": round(time.time(), 3), "type": kind, "query": query, **fields}
        line = _line(record)
        with self._lock:
            self._unwritten.append((record, line))
            self._write()

    def catch_up(self) -> None:
        """Try again to write what the disk has refused, if there is any."""
        # Not asked of what is unwritten, which something always is while another thread writes.
        if self._is_behind:
            with self._lock:
                self._write()

    def _write(self) -> None:
        if not self._is_released:
            self._write_lines()
            return
        try:
            self._acquire(timeout=0)
        except (RuntimeError, OSError):
            if self not in _waiting:
                _waiting.append(self)
            _keep_trying()
            return
        try:
            self._look_at_others()
            self._write_lines()
        finally:
            self._lock_file.release()
        if not self._unwritten and self in _waiting:
            _waiting.remove(self)

    def _write_lines(self) -> None:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._open() as descriptor:
                size = os.fstat(descriptor).st_size
                try:
                    _write_all(descriptor, b"\n" * self._torn + b"".join(line for _, line in self._unwritten))
                    sync(descriptor)
                except OSError:
                    self._torn = True
                    os.ftruncate(descriptor, size)
                    self._torn = False
                    raise
        except OSError as error:
            self._is_behind = True
            self._complain(error)
        else:
            self._n_lines.update(record["query"] for record, _ in self._unwritten)
            self._unwritten, self._is_behind, self._torn = [], False, False

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            logger.warning(
                "The advice log %s cannot be written: %s. Training goes on with the advice in memory, and what is "
                "missing in the log is written as soon as that is possible.",
                self.path,
                error,
            )
            self._complained = True


# Logs that were released and have lines that could not be written yet.
_waiting: list[AdviceLog] = []
# Held by the thread that tries again, of which there is one at a time.
_is_trying = threading.Lock()


def _keep_trying() -> None:
    """Write what waits as soon as nobody else has the log."""
    if _is_trying.acquire(blocking=False):
        threading.Thread(target=_try_again, name="advice-log", daemon=True).start()


def _try_again() -> None:
    while _waiting:
        time.sleep(_PATIENCE)
        _write_all_that_waits()
    _is_trying.release()
    if _waiting:  # since it was looked at
        _keep_trying()


def _write_all_that_waits() -> None:
    for path in {log.path for log in _waiting}:
        _write_what_waits(path)


atexit.register(_write_all_that_waits)


def _write_what_waits(path: pathlib.Path) -> None:
    for log in [log for log in _waiting if log.path.resolve() == path.resolve()]:
        with log._lock:
            log._write()


def _after_others(record: dict[str, Any], written: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """What becomes of a late line about a query that another run has written about."""
    if record["type"] in ("request", "failure"):
        return record
    if record["type"] != "answer":
        return None
    answered = {state for other in written if other["type"] == "answer" for state in other["states"]}
    advice = next((other for other in reversed(written) if other["type"] == "advice"), None)
    if advice is not None:
        reasons = {rejection["state"]: rejection["reason"] for rejection in advice["rejected"]}
        answered |= {
            state
            for state, action in enumerate(advice["actions"])
            if action is not None or (reasons[state] not in UNANSWERED if state in reasons else advice["error"] is None)
        }
    if answered.isdisjoint(record["states"]):
        return record
    kept = {key: record[key] for key in ("version", "time", "query", "request", "usage")}
    return {**kept, "type": "failure", "text": TOO_LATE, "permanent": False}


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(strict_json(record), allow_nan=False, default=str).encode() + b"\n"


class _Descriptor:
    """A file for its owner only, opened without Python's buffers."""

    def __init__(self, path: pathlib.Path, flags: int) -> None:
        self._arguments = path, flags | getattr(os, "O_BINARY", 0), 0o600

    def __enter__(self) -> int:
        self._descriptor = os.open(*self._arguments)
        return self._descriptor

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _sync_folder(path: pathlib.Path) -> None:
    """Without this, a new file may be on the disk and its name not."""
    with contextlib.suppress(OSError):  # not every system can, and Windows need not
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _parsed(line: str | bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("version"), int) else None


def read_records(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """
    Read a run's advice log, line by line. A line that cannot be read is passed over, with a warning unless it is the
    last one, which a crash may have cut short.

    :param path: The run's log folder, or its ``advice.jsonl``
    :return: The records in the order in which they were written
    :raises FileNotFoundError: if there is no log
    :raises ValueError: if the log was written by a newer version
    """
    file = log_file(path)
    lines = file.read_text(errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        record = _parsed(line)
        if record is None:
            if number < len(lines):
                logger.warning("Line %d of %s cannot be read and is passed over.", number, file)
        elif record["version"] > VERSION:
            raise ValueError(f"{file} has version {record['version']}, expected at most {VERSION}: update sb3_varl.")
        else:
            yield record


def log_file(path: str | os.PathLike[str]) -> pathlib.Path:
    """
    Find the file of an advice log.

    :param path: The run's log folder, or the file
    :return: The file
    :raises FileNotFoundError: if there is none
    """
    file = pathlib.Path(path)
    file = file / FILE_NAME if file.is_dir() else file
    if not file.exists():
        raise FileNotFoundError(f"{path} holds no advice log, expected the log folder of a run with {FILE_NAME} in it.")
    return file


def strict_json(value: Any) -> Any:
    """
    Write numbers and arrays of NumPy as JSON has them, and as text those that it does not have.

    :param value: Numbers, text, ``None`` and arrays, in any nesting of lists and dictionaries
    :return: The same with ``"nan"``, ``"inf"`` and ``"-inf"`` for numbers that are not finite
    """
    if isinstance(value, dict):
        return {key: strict_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict_json(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return strict_json(value.tolist())
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _fared(followed: Followed | None) -> dict[str, int] | None:
    if followed is None:
        return None
    return {
        "episodes": len(followed.episodes),
        "succeeded": sum(bool(episode.succeeded) for episode in followed.episodes),
    }


def _dtype(observation: Observation) -> str | dict[str, str]:
    if isinstance(observation, dict):
        return {key: np.asarray(value).dtype.str for key, value in observation.items()}
    return np.asarray(observation).dtype.str


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
        return strict_json(array)
    packed = base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes())).decode()
    return {"dtype": array.dtype.str, "shape": array.shape, "zlib": packed}


def decode_observation(encoded: Any, dtype: str | dict[str, str]) -> Observation:
    """
    Undo :func:`encode_observation`.

    :param encoded: What it returned
    :param dtype: Data type of the array, or of each entry of the dictionary
    :return: The observation
    """
    if isinstance(dtype, dict):
        return {key: np.asarray(decode_observation(value, dtype[key])) for key, value in encoded.items()}
    if isinstance(encoded, dict):
        array = np.frombuffer(zlib.decompress(base64.b64decode(encoded["zlib"])), encoded["dtype"])
        return array.reshape(encoded["shape"]).copy()
    return np.array(encoded, dtype)  # which reads "nan" and "inf" as well
