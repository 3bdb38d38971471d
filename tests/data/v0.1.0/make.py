"""
Make what lies beside this file, in a checkout:

    PYTHONPATH=tests python tests/data/v0.1.0/make.py

Models of each kind, a file of guidance, and the advice log of a run that broke off in the second of two requests of its
second query, after the model was saved. A server on the loopback interface answered.
"""

import json
import os
import pathlib
import shutil
import signal
import tempfile
import threading
import time

import numpy as np

from conftest import CounterEnv, DictEnv, make_vlm
from sb3_varl import VARL, VARLTQC, AdvisorCallback, VARLCrossQ
from sb3_varl.testing import Misbehaviour, VLMServer, http_error

HERE = pathlib.Path(__file__).parent
SMALL = {"learning_starts": 5, "batch_size": 8, "seed": 0, "policy_kwargs": {"net_arch": [4]}, "device": "cpu"}
QUERIES = {"n_queries": 3, "first_query": 20, "query_freq": 20, "states_per_query": 4, "window": 10}


def answer(states, images):
    actions = [[0.5, -0.5], [2.0, 0.0], None, [0.25, 0.25]]
    return json.dumps({"advice": [{"state": s["state"], "action": actions[s["state"]]} for s in states]})


def interrupt_at(server, n_requests):
    while len(server.requests) < n_requests:
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGINT)


def make_run():
    model = VARL("LayerNormMlpPolicy", CounterEnv(), shaping_steps=1000, **SMALL)
    # The first request fails; its states are asked about again when learn() goes on, of which the zip knows nothing. Of
    # the second query one request is answered, and the next one hangs.
    script = (http_error(400), None, None, None, Misbehaviour(delay=60))
    with VLMServer(answer, script) as server:
        advisor = make_vlm(server, states_per_request=2, task="Count.")
        callback = AdvisorCallback(advisor, log_path="run/advice", blocking=True, **QUERIES)
        model.learn(30, callback=callback)
        model.save(HERE / "varl.zip")
        threading.Thread(target=interrupt_at, args=(server, 5), daemon=True).start()
        try:
            model.learn(30, callback=callback, reset_num_timesteps=False)
        except KeyboardInterrupt:
            shutil.copytree("run/advice", HERE / "advice", ignore=shutil.ignore_patterns("*.lock"))
            return model
    raise RuntimeError("the run was to break off")


def main():
    os.environ["OPENAI_API_KEY"] = "no key"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        models = {"varl.zip": make_run()}
        models["varl.zip"].save_guidance_buffer(HERE / "guidance.npz")
        models["varl.zip"] = VARL.load(HERE / "varl.zip")
        for name, algorithm, policy, env in (
            ("varl_dict.zip", VARL, "MultiInputPolicy", DictEnv()),
            ("varl_tqc.zip", VARLTQC, "MlpPolicy", CounterEnv()),
            ("varl_crossq.zip", VARLCrossQ, "MlpPolicy", CounterEnv()),
        ):
            model = models[name] = algorithm(policy, env, gate="likelihood", fast=True, **SMALL)
            model.guidance_buffer.add(env.observation_space.sample(), np.full(2, 0.5))
            model.learn(20)
            model.save(HERE / name)
    observations = {"varl_dict.zip": {"count": np.ones(3, np.float32), "extra": np.zeros(2, np.float32)}}
    expected = {
        name: {
            "action": model.predict(observations.get(name, np.ones(3, np.float32)), deterministic=True)[0].tolist(),
            "rows": model.guidance_buffer.rows()["actions"].tolist(),
            "steps": model.num_timesteps,
        }
        for name, model in models.items()
    }
    (HERE / "expected.json").write_text(json.dumps(expected, indent=2) + "\n")


if __name__ == "__main__":
    main()
