"""Models, callbacks and advisors for the tests of the advice log."""

import threading

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from conftest import CounterEnv, wait_until
from sb3_varl import VARL, Advice, AdvisorCallback, FunctionAdvisor, Usage
from sb3_varl.advice.log import read_records
from sb3_varl.advice.types import Answer, Request
from sb3_varl.testing import http_error, write_answer

SMALL = {
    "learning_starts": 5,
    "gradient_steps": 0,
    "seed": 0,
    "policy_kwargs": {"net_arch": [8]},
    "shaping_steps": 1000,
}
SETTINGS = {"n_queries": 2, "first_query": 20, "query_freq": 20, "states_per_query": 4, "window": 10}
WRONG_KEY = http_error(401, "Incorrect API key provided")


def make_callback(advisor, log_path=None, **kwargs):
    return AdvisorCallback(advisor, log_path=log_path, **{**SETTINGS, "frames": False, "blocking": True, **kwargs})


def make_model(env=None, **kwargs):
    return VARL("MlpPolicy", env or CounterEnv(), **{**SMALL, **kwargs})


def centre():
    return FunctionAdvisor(lambda observation: np.zeros(2))


def go_on(model, path="model.zip"):
    """The same model in another process, as far as the log can tell."""
    model.save(path)
    return VARL.load(path, env=CounterEnv(offset=100))


class Interrupt(BaseCallback):
    """Ctrl-C at a step, once something has happened."""

    def __init__(self, step, after=None):
        super().__init__()
        self.step, self.after = step, after

    def _on_step(self):
        if self.num_timesteps == self.step:
            assert self.after is None or self.after.wait(30)
            raise KeyboardInterrupt
        return True


def asked(server):
    """The states of each request, by their numbers."""
    return [[state["state"] for state in request.states] for request in server.requests]


def standing(value):
    return FunctionAdvisor(lambda observation: np.full(2, value))


class Stuck:
    """Does not break off: answers when told to."""

    def __init__(self, value, paid=False):
        self.value, self.paid, self.thread = value, paid, None
        self.is_asked, self.go_on = threading.Event(), threading.Event()

    def advise(self, query):
        self.thread = threading.current_thread()
        self.is_asked.set()
        states = tuple(range(len(query.states)))
        if self.paid:
            query.record(Request(0, states))
        self.go_on.wait(30)
        if self.paid:
            answer = write_answer([{"state": i} for i in states], [[self.value] * 2] * len(states))
            query.record(Answer(0, states, answer, Usage(1, cost=0.5)))
        return Advice([np.full(2, self.value)] * len(states))

    def finish(self):
        self.go_on.set()
        self.thread.join(30)
        assert not self.thread.is_alive()


def kinds(log="log"):
    return [record["type"] for record in read_records(log)]


class Until(BaseCallback):
    """Wait for something at a step, or do it."""

    def __init__(self, step, condition):
        super().__init__()
        self.step, self.condition = step, condition

    def _on_step(self):
        if self.num_timesteps == self.step:
            wait_until(self.condition)
        return True
