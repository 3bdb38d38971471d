"""
Kill training at random moments, start it again from the last checkpoint and the advice log, and see what is lost.

    python tests/kill.py --kills 100
    python tests/kill.py --kills 100 --form rules

The model is a server on the loopback interface. A run is started, killed and started again until it comes to its end;
then its log, its guidance and what the server saw are compared. Any difference ends the command with an error.
"""

import argparse
import collections
import itertools
import json
import logging
import math
import multiprocessing
import os
import pathlib
import random
import signal
import tempfile
import time
import warnings

import numpy as np
from stable_baselines3.common.callbacks import CheckpointCallback
from standing import SHEET
from tqdm import tqdm

from conftest import CounterEnv
from sb3_varl import VARL, AdvisorCallback, VLMAdvisor
from sb3_varl.advice.history import read_queries
from sb3_varl.advisors.providers import import_litellm
from sb3_varl.testing import Misbehaviour, VLMServer
from sb3_varl.training import roll_ins, track_record

import_litellm()  # once, in the process that all others are forked from

N_QUERIES, N_STATES, STATES_PER_REQUEST = 6, 4, 2
STEPS, MAX_STEPS = 240, 2000
# Longest time, in seconds, that a process runs before it is killed, and that the server takes for an answer.
MAX_LIFE, MAX_THINKING = 1.5, 0.15
# An answer counts as delivered if the process lived this many seconds after the server had sent it.
MARGIN = 0.1


class SlowEnv(CounterEnv):
    """So slow that a run lasts for some seconds."""

    def step(self, action):
        time.sleep(0.003)
        return super().step(action)


def action_for(observation):
    """What the server advises: different for each state of each life."""
    episode, t, _ = observation
    return [round(episode % 1000 / 1000, 3), round(t / 10, 3)]


def answer(states, images):
    """The server's answer."""
    return json.dumps({"advice": [{"state": s["state"], "action": action_for(s["observation"])} for s in states]})


class NamedSlowEnv(SlowEnv):
    """One that rules can be about, and in which they never succeed, so that they are corrected each time."""

    task_sheet = SHEET

    def step(self, action):
        *rest, info = super().step(action)
        return *rest, {**info, "is_success": False}


number = itertools.count(1)


def answer_with_rules(states, images):
    """The server's answer: each time other rules, which can be told by the second component of their actions."""
    return json.dumps({"rules": [{"name": "a", "when": "true", "action": ["t / 10", f"{next(number) % 1000 / 1000}"]}]})


ANSWERS = {"actions": answer, "rules": answer_with_rules}


def is_answered(folder):
    """Whether all queries were put and answered."""
    queries = read_queries(folder / "advice")
    return len(queries) == N_QUERIES and all(query.advice is not None for query in queries)


def live(form, folder, api_base, life, started):
    """Train from the last checkpoint on, or from the beginning, to the end. Runs in the process that is killed."""
    logging.disable()
    warnings.simplefilter("ignore")
    os.environ["OPENAI_API_KEY"] = "not-a-key"
    # No observation is seen in two lives.
    env = (NamedSlowEnv if form == "rules" else SlowEnv)(offset=1000 * life)
    # So that there are corrections, though lives are short.
    track_record.ENOUGH, roll_ins.WHOLE = 1, 1.0
    advisor = VLMAdvisor(
        "openai/test", f"Run {folder.name}.", api_base=api_base, states_per_request=STATES_PER_REQUEST, form=form
    )
    callback = AdvisorCallback(
        advisor,
        n_queries=N_QUERIES,
        first_query=30,
        query_freq=30,
        states_per_query=N_STATES,
        window=20,
        log_path=folder / "advice",
        resume=True,  # of the life before, which may not have come to a checkpoint
    )
    checkpoints = CheckpointCallback(6, str(folder), save_replay_buffer=True)
    replays = folder.glob("rl_model_replay_buffer_*_steps.pkl")
    steps = max((int(path.stem.split("_")[-2]) for path in replays), default=0)
    if steps:
        model = VARL.load(folder / f"rl_model_{steps}_steps", env=env)
        model.load_replay_buffer(folder / f"rl_model_replay_buffer_{steps}_steps")
    else:
        settings = {"learning_starts": 20, "batch_size": 8, "policy_kwargs": {"net_arch": [16]}}
        model = VARL("MlpPolicy", env, buffer_size=10_000, shaping_steps=10_000, **settings)
    started.set()
    model.learn(max(STEPS - steps, 0), callback=[checkpoints, callback], reset_num_timesteps=not steps)
    # A correction waits for the answer before it and for episodes, and on a busy machine the run's steps may be over by
    # then: what it did not come to ask is put off to one that goes on.
    while form == "rules" and model.num_timesteps < MAX_STEPS and not is_answered(folder):
        model.learn(30, callback=[checkpoints, callback], reset_num_timesteps=False)
    model.save(folder / "final")


class Run:
    """One run through all its lives."""

    def __init__(self, form, context, folder, server, rng, bar, margin):
        self.form, self.context, self.folder, self.server = form, context, folder, server
        self.rng, self.bar, self.margin = rng, bar, margin
        self.kills = []
        self.moments = collections.Counter()
        folder.mkdir()

    def go(self, max_kills):
        """Start and kill until the end is reached, which it may be once there were so many kills."""
        for life in range(10_000):
            started = self.context.Event()
            arguments = (self.form, self.folder, self.server.api_base, life, started)
            process = self.context.Process(target=live, args=arguments)
            process.start()
            assert started.wait(120)
            process.join(self.rng.uniform(0, MAX_LIFE) if len(self.kills) < max_kills else 120)
            if process.exitcode is None:
                self._kill(process)
            elif process.exitcode == 0:
                return
            else:
                raise AssertionError(f"a process ended with exit code {process.exitcode}")

    def _kill(self, process):
        self.kills.append(time.time())
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        self.bar.update()
        log = self.folder / "advice" / "advice.jsonl"
        n_requests, n_delivered = len(self._requests()), len(self._delivered())
        if any(self.folder.glob("*.part")):
            self.moments["during a save"] += 1
            for path in self.folder.glob("*.part"):
                path.unlink()
        elif n_requests > n_delivered or (
            self._requests() and self._requests()[-1].time > self.kills[-1] - self.margin
        ):
            self.moments["during a query"] += 1
        elif log.exists() and n_requests:
            self.moments["between queries"] += 1
        else:
            self.moments["before the first query"] += 1

    def _mine(self, request):
        return f"Run {self.folder.name}." in request.text

    def _requests(self):
        return [request for request in list(self.server.requests) if self._mine(request)]

    def _delivered(self):
        return [(request, sent) for request, sent in list(self.server.delivered) if self._mine(request)]

    def check(self):
        """Compare the log, the guidance and what the server saw; return how old the answers were that kills cut off."""
        queries = read_queries(self.folder / "advice")
        indices = [query.index for query in queries]
        assert indices == list(range(N_QUERIES)), f"a query was put twice, or not at all: {indices}"
        written, n_corrections = {}, 0
        for line in (self.folder / "advice" / "advice.jsonl").read_text().splitlines():
            record = json.loads(line)
            n_corrections += record.get("followed") is not None
            if record["type"] == "answer":
                for state in record["states"]:
                    written[record["query"], state] = record["time"]
        of_observation = {}
        for query in queries:
            assert query.advice is not None, "a query was left open"
            assert sorted(i for a in query.answers for i in a.states) == list(range(N_STATES)), "not answered once each"
            for i, observation in enumerate(query.observations):
                of_observation[tuple(observation[:2])] = (query.index, i)

        for request in self._requests():
            for state in request.states:
                place = of_observation.get(self._observed(state))
                assert place is None or request.time <= written[place], "asked again for what was in the log"
        cut_off, delays = [], []
        for request, sent in self._delivered():
            if any(request.time <= kill <= sent for kill in self.kills):
                continue  # sent to a process that was no more
            end = min((kill for kill in self.kills if kill > sent), default=math.inf)
            places = [of_observation.get(self._observed(state)) for state in request.states]
            if any(place is None or written[place] > end for place in places):
                cut_off.append(end - sent)
            elif places:  # requests for a correction show no states
                delays.append(max(written[place] for place in places) - sent)
        # On a busy machine all of them take longer from the wire to the disk.
        margin = max([self.margin, *(2 * delay for delay in delays)])
        assert all(lived < margin for lived in cut_off), f"a delivered answer is not in the log: {cut_off}, {delays}"

        n_sent = sum(query.n_sent for query in queries)
        assert len(self._requests()) <= n_sent <= len(self._requests()) + len(self.kills), "requests are not counted"
        model = VARL.load(self.folder / "final")
        rows = model.guidance_buffer.rows()
        if self.form == "rules":
            assert n_corrections > 0, "nothing was corrected"
            (last,) = json.loads(queries[-1].answers[-1].text)["rules"]
            assert len(rows["actions"]) > 0, "guidance is missing"
        else:
            assert len(rows["actions"]) == N_QUERIES * N_STATES, "guidance is missing"
            assert {tuple(row[:2]) for row in rows["observations/observation"]} == set(of_observation)
        for observation, action in zip(rows["observations/observation"], rows["actions"], strict=True):
            of_rules = [observation[1] / 10, float(last["action"][1])] if self.form == "rules" else None
            np.testing.assert_allclose(action, of_rules or action_for(observation), atol=1e-6)
        assert model.num_timesteps >= STEPS
        return cut_off

    def _observed(self, state):
        return (state["episode"], state["t"]) if self.form == "rules" else tuple(state["observation"][:2])


def kill(n_kills, seed, margin=MARGIN, progress=True, form="actions"):
    """
    Kill so many times, over as many runs as that takes.

    :return: The numbers of runs, of kills at each moment and of answers, and of each answer that a kill cut off on its
        way, how many seconds before the kill it was sent
    """
    rng = random.Random(seed)
    context = multiprocessing.get_context("forkserver")
    os.environ["PYTHONPATH"] = str(pathlib.Path(__file__).parent)  # the server of forks is told of it in no other way
    context.set_forkserver_preload(["kill"])
    moments, n_runs, n_answers, cut_off = collections.Counter(), 0, 0, []
    with (
        tempfile.TemporaryDirectory() as folder,
        VLMServer(ANSWERS[form], always=lambda: Misbehaviour(delay=rng.uniform(0, MAX_THINKING))) as server,
        tqdm(total=n_kills, unit="kill", disable=not progress) as bar,
    ):
        while sum(moments.values()) < n_kills:
            run = Run(form, context, pathlib.Path(folder) / str(n_runs), server, rng, bar, margin)
            run.go(min(10, n_kills - sum(moments.values())))
            cut_off += run.check()
            moments += run.moments
            n_runs += 1
            n_answers += N_QUERIES if form == "rules" else N_QUERIES * N_STATES // STATES_PER_REQUEST
    return n_runs, moments, n_answers, cut_off


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--form", choices=ANSWERS, default="actions", help="what the model is asked for")
    arguments = parser.parse_args()
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    n_runs, moments, n_answers, cut_off = kill(arguments.kills, seed, form=arguments.form)
    described = ", ".join(f"{n} {moment}" for moment, n in moments.items())
    print(f"{sum(moments.values())} kills in {n_runs} runs, seed {seed}: {described}.")
    print(f"{n_answers} answers in the logs and in the models, none lost, none asked for twice.")
    if cut_off:
        print(f"{len(cut_off)} were on their way, sent by the server up to {1e3 * max(cut_off):.0f} ms before a kill.")
