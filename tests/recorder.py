"""An advisor that remembers its queries, and training with it."""

import threading
import time

from stable_baselines3.common.callbacks import CallbackList
from standing import SMALL

from conftest import CounterEnv
from sb3_varl import VARL, Advice, AdvisorCallback


class Recorder:
    """An advisor that remembers its queries and answers with the executed action."""

    def __init__(self, answer=None, latency=0.0):
        self.queries, self.threads, self.latency = [], [], latency
        self.answer = answer or (lambda query: Advice([state.executed_action for state in query.states]))

    def advise(self, query):
        self.queries.append(query)
        self.threads.append(threading.current_thread())
        time.sleep(self.latency)
        return self.answer(query)


def learn(
    advisor, env=None, steps=300, policy="MlpPolicy", callbacks=(), model=None, reset_num_timesteps=True, **kwargs
):
    kwargs = {"n_queries": 2, "first_query": 100, "query_freq": 100, "states_per_query": 10, "window": 50} | kwargs
    callback = AdvisorCallback(advisor, **{"blocking": True, "log_path": False} | kwargs)
    model = model or VARL(policy, env or CounterEnv(), **SMALL)
    model.learn(steps, callback=CallbackList([callback, *callbacks]), reset_num_timesteps=reset_num_timesteps)
    return model, callback


class SuccessEnv(CounterEnv):
    """Succeeds in every other episode from some episode on."""

    def __init__(self, first_success):
        super().__init__(horizon=5)
        self.first_success = first_success

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        succeeds = self.episode >= self.first_success and self.episode % 2 == 0
        return observation, reward, terminated, truncated, info | {"is_success": succeeds}
