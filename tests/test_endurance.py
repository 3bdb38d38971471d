"""Processes that are ended from outside, and one that goes on for long."""

import logging
import os
import pathlib
import signal
import subprocess
import sys

import kill
import pytest
import soak
from test_resume import NEVER, asked, make_callback, make_model

from conftest import KEY, CounterEnv, make_vlm, wait_until
from sb3_varl import VARL
from sb3_varl.advice.history import read_queries
from sb3_varl.testing import VLMServer

pytestmark = pytest.mark.usefixtures("vlm_environment")


_SCRIPT = """
import signal, sys
from conftest import CounterEnv
from sb3_varl import VARL, AdvisorCallback, VLMAdvisor

{handler}
model = VARL("MlpPolicy", CounterEnv(), learning_starts=5, batch_size=8, shaping_steps=10**9)
advisor = VLMAdvisor("openai/test", "Go.", api_base=sys.argv[1], states_per_request=2)
callback = AdvisorCallback(
    advisor, n_queries=1, first_query=20, states_per_query=4, window=10, log_path="log", blocking={blocking}
)
try:
    model.learn(10**9, callback=callback)
finally:
    model.save("model")
"""
_HANDLER = "signal.signal(signal.SIGTERM, signal.default_int_handler)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "handler", "blocking"),
    [
        (signal.SIGINT, "", True),
        (signal.SIGINT, "", False),
        (signal.SIGTERM, _HANDLER, False),
        (signal.SIGTERM, "", False),
    ],
    ids=["ctrl-c-blocking", "ctrl-c", "sigterm-as-ctrl-c", "sigterm"],
)
def test_a_signal_ends_the_process_soon_and_with_everything_saved(sent, handler, blocking, tmp_path):
    with VLMServer(script=(None, NEVER)) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT.format(handler=handler, blocking=blocking), server.api_base],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parent), "OPENAI_API_KEY": KEY},
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: len(server.requests) == 2, seconds=120, process=process)
        process.send_signal(sent)
        process.wait(40)  # a busy machine takes its time, and the answer would take 60
        assert process.returncode == (-signal.SIGTERM if sent == signal.SIGTERM and not handler else -signal.SIGINT)
        assert "Fatal" not in process.stderr.read()
        process.stderr.close()
        (query,) = read_queries(tmp_path / "log")
        assert [answer.states for answer in query.answers] == [(0, 1)]

        # And on from there.
        if (tmp_path / "model.zip").exists():
            model, reset = VARL.load(tmp_path / "model", env=CounterEnv(offset=1000)), False
        else:
            assert sent == signal.SIGTERM
            assert not handler
            model, reset = make_model(CounterEnv(offset=1000)), True
        advisor = make_vlm(server, states_per_request=2)
        callback = make_callback(advisor, tmp_path / "log", n_queries=1, resume=reset)
        model.learn(10, callback=callback, reset_num_timesteps=reset)
        assert [[state for state, _ in request] for request in asked(server)] == [[0, 1], [2, 3], [2, 3]]
    assert model.guidance_buffer.size() == 4


@pytest.mark.slow
@pytest.mark.parametrize("form", kill.ANSWERS)
def test_random_kills(form):
    """A few of them; ``python tests/kill.py`` has a hundred."""
    n_runs, moments, n_answers, _ = kill.kill(4, seed=None, margin=1.0, progress=False, form=form)
    assert sum(moments.values()) == 4
    assert n_answers == (6 if form == "rules" else 12) * n_runs


@pytest.fixture
def _noisy_again():
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.slow
@pytest.mark.usefixtures("_noisy_again")
def test_soak():
    """A short one; ``python tests/soak.py`` has thousands of queries."""
    rows = soak.soak(150, seed=0, deadline=1.0)
    grown = soak.growth(rows)
    assert grown[0] < 20, f"{grown[0]} MB more"
    assert grown[1:].max() <= 2, "threads, files or sockets that stay"
