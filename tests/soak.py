"""
Thousands of queries against a server that fails at random: what grows, and do both sides agree?

    python tests/soak.py --queries 3000

prints memory, threads, open files and sockets of the training process as it goes, and compares the counts of requests,
tokens and answers with the server's, a process of its own. A difference, or growth, ends it with an error.
"""

import argparse
import logging
import multiprocessing
import os
import pathlib
import random
import sys
import tempfile
from collections import Counter

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from conftest import CounterEnv, make_query, make_vlm
from sb3_varl import VARL, AdvisorCallback, VLMAdvisor
from sb3_varl.advice.history import read_queries
from sb3_varl.advisors import vlm_query
from sb3_varl.testing import Misbehaviour, VLMServer, advise_zeros, http_error

N_STATES = 2
SILENCE = Misbehaviour(delay=60)
# The share of requests that meet with a fault, and which.
FAULT_RATE = 0.3
FAULTS = [
    http_error(400),
    http_error(429),
    http_error(500),
    http_error(529, "x" * 10_000),
    Misbehaviour(reset=True),
    Misbehaviour(cut=50),
    Misbehaviour(body="<html>Bad gateway</html>"),
    Misbehaviour(body=""),
    Misbehaviour(message={"content": None}),
    Misbehaviour(message={"content": "I see."}),
    Misbehaviour(choice={"finish_reason": "length"}, message={"content": '{"advice": [{"sta'}),
    SILENCE,
]


def serve(seed, connection):
    """Run the server until told to stop, and tell what it counted. A process of its own."""
    rng = random.Random(seed)
    drawn = []

    def draw():
        drawn.append(rng.choice(FAULTS) if rng.random() < FAULT_RATE else None)
        return drawn[-1]

    with VLMServer(advise_zeros, always=draw) as server:
        connection.send(server.api_base)
        connection.recv()
        connection.send((len(server.requests), drawn.count(SILENCE)))


class ForgetfulEnv(CounterEnv):
    """Does not keep its history."""

    def step(self, action):
        self.history.clear()
        return super().step(action)


class Meter(BaseCallback):
    """Notes down what the process has in use, and prints it."""

    def __init__(self, advice, n_rows=20):
        super().__init__()
        self.advice, self.n_rows = advice, n_rows
        self.rows = []
        print(f"{'queries':>8} {'requests':>9} {'MB':>7} {'threads':>8} {'files':>6} {'sockets':>8}")

    def _on_step(self):
        n_queries = self.advice.totals["queries"]
        if n_queries >= self.advice.n_queries * (len(self.rows) + 1) / self.n_rows:
            targets = [os.readlink(path) for path in _links("/proc/self/fd")]
            sockets = sum(target.startswith("socket:") for target in targets)
            memory = int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
            row = (n_queries, self.advice.usage.requests, memory, len(os.listdir("/proc/self/task")))
            self.rows.append((*row, len(targets) - sockets, sockets))
            print("{:8d} {:9d} {:7.1f} {:8d} {:6d} {:8d}".format(*self.rows[-1]), flush=True)
        return True


def _links(folder):
    return [path for path in pathlib.Path(folder).iterdir() if path.is_symlink()]


def soak(n_queries, seed, deadline=1.0):
    """
    Train with so many queries.

    :param n_queries: Their number
    :param seed: Of the faults
    :param deadline: Seconds for a request
    :return: The meter's rows
    """
    os.environ["OPENAI_API_KEY"] = "not-a-key"
    vlm_query.RETRY_WAIT = vlm_query.MAX_RETRY_WAIT = 0.001
    logging.disable()
    with VLMServer() as warm_up:  # the first request imports much of litellm, for longer than the deadline
        make_vlm(warm_up).advise(make_query(1))
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe()
    server = context.Process(target=serve, args=(seed, its), daemon=True)
    server.start()
    with tempfile.TemporaryDirectory() as folder:
        advisor = VLMAdvisor("openai/test", "Go.", api_base=mine.recv(), deadline=deadline, max_retries=1)
        callback = AdvisorCallback(
            advisor,
            n_queries=n_queries,
            first_query=10,
            query_freq=N_STATES,
            states_per_query=N_STATES,
            window=N_STATES,
            blocking=True,
            log_path=folder,
        )
        meter = Meter(callback)
        n_steps = 10 + N_STATES * n_queries
        model = VARL("MlpPolicy", ForgetfulEnv(), shaping_steps=n_steps + 1, train_freq=1000, learning_starts=0)
        model.learn(n_steps, callback=[callback, meter])
        queries = read_queries(folder)
    mine.send("stop")
    n_received, n_silences = mine.recv()
    server.join()

    n_answers = sum(len(query.answers) for query in queries)
    failures = [failure.text for query in queries for failure in query.failures]
    n_late = sum(text.startswith("no complete answer within") for text in failures) - n_silences
    reasons = Counter(rejection.reason for query in queries for rejection in query.advice.rejected)
    print(
        f"requests: {n_received} received by the server, {callback.usage.requests} sent, {n_answers} answered, "
        f"{len(failures)} failed, {n_late} of them because a busy machine was late; rejected: {dict(reasons)}"
    )
    n_sent = callback.usage.requests
    assert n_sent == n_answers + len(failures) == sum(query.n_sent for query in queries)
    # A deadline that passed before a request was on the wire.
    assert 0 <= n_sent - n_received <= n_late, f"{n_sent} sent, {n_received} received, {n_late} late"
    assert callback.usage.tokens == 110 * n_answers
    assert callback.totals["queries"] == len(queries) == n_queries
    assert callback.totals["accepted"] == model.guidance_buffer.size() or model.guidance_buffer.full
    assert callback.totals["accepted"] + sum(reasons.values()) == N_STATES * n_queries
    return meter.rows


def growth(rows):
    """What the second half of a soak has in use beyond the first, without its warming up: megabytes, and the rest."""
    columns = np.array(rows)[:, 2:]
    middle = len(columns) // 2
    return columns[middle:].max(axis=0) - columns[len(columns) // 5 : middle].max(axis=0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    grown = growth(soak(arguments.queries, arguments.seed))
    print("second half beyond the first: {:.1f} MB, {:.0f} threads, {:.0f} files, {:.0f} sockets".format(*grown))
    sys.exit(bool(grown[0] > 20 or grown[1:].max() > 2))
