"""
Pytest plugin of ``sb3_suite.py``: what SB3's tests import as ``SAC`` is another class, and their use of it is noted.

``SAC_REBOUND_MODE`` says which class: ``sac`` is SAC itself, ``unadvised`` is VARL, ``advised`` is VARL with guidance
from the start; ``-fast`` behind the latter two is for ``fast=True``. ``SAC_REBOUND_REPORT`` names the JSON file for the
results, and ``SAC_REBOUND_ONLY``, if set, one with the ids of the tests to run.
"""

import copy
import json
import os
import pathlib
from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch as th
from gymnasium import spaces

from sb3_varl import VARL

N_ADVICE = 64
MODE = os.environ["SAC_REBOUND_MODE"]
# The gate is always open, and no test comes near the cutoff: every update with guidance is a shaped one.
SETTINGS = {} if MODE == "sac" else {"gate": "always", "shaping_steps": 10**9, "fast": MODE.endswith("-fast")}

th.set_num_threads(1)

collection_errors: dict[str, str] = {}
tests: dict[str, dict[str, Any]] = {}
running: dict[str, Any] = {}


class SAC(stable_baselines3.SAC if MODE == "sac" else VARL):
    """Has SAC's name in all modes, so that ids of tests and folders of logs are the same."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        running["uses_sac"] = True
        super().__init__(*args, **{**SETTINGS, **kwargs})

    def _setup_model(self) -> None:
        super()._setup_model()
        # A loaded model has its guidance already.
        if MODE.startswith("advised") and self.guidance_buffer.size() == 0:
            # Nobody else's random numbers are drawn: environments sample from their spaces, too. Seeded like this, a
            # space and a Dict with nothing but that space in it give the same observations.
            generator = np.random.default_rng(0)
            space = copy.deepcopy(self.observation_space)
            space.seed(dict.fromkeys(space, 0) if isinstance(space, spaces.Dict) else 0)
            for action in generator.uniform(-1, 1, (N_ADVICE, self.guidance_buffer.action_dim)):
                self.guidance_buffer.add(space.sample(), action)

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        shaped = MODE != "sac" and self.shaping_active
        super().train(gradient_steps, batch_size)
        running["shaped"] |= shaped


stable_baselines3.SAC = stable_baselines3.sac.SAC = SAC


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if only := os.environ.get("SAC_REBOUND_ONLY"):
        ids = set(json.loads(pathlib.Path(only).read_text()))
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in ids])
        items[:] = [item for item in items if item.nodeid in ids]


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        collection_errors[report.nodeid] = reason(report)


def pytest_runtest_logstart(nodeid: str) -> None:
    global running
    running = tests[nodeid] = {"outcome": "passed", "reason": "", "uses_sac": False, "shaped": False}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if not report.passed:
        tests[report.nodeid].update(outcome=report.outcome, reason=reason(report))


def pytest_sessionfinish() -> None:
    results = {"tests": tests, "collection_errors": collection_errors}
    pathlib.Path(os.environ["SAC_REBOUND_REPORT"]).write_text(json.dumps(results))


def reason(report: pytest.CollectReport | pytest.TestReport) -> str:
    """The first line of the error, or why the test was skipped."""
    lines = report.longreprtext.splitlines() or [""]
    return next((line[1:].strip() for line in lines if line.startswith("E  ")), lines[-1])
