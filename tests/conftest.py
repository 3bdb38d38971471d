"""Environments and helpers that several test files use."""

import multiprocessing
import os
import pathlib
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

os.environ.setdefault("MUJOCO_GL", "egl")
# For processes that tests start, too: as many threads as cores in each of them keep each other waiting.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from playwright.sync_api import sync_playwright

from sb3_varl import AdviceQuery, Briefing, VisitedState, VLMAdvisor
from sb3_varl.advice import Failure
from sb3_varl.advisors import vlm_query
from sb3_varl.algorithms.fast.compiled import record_compiled
from sb3_varl.testing import VLMServer

th.set_num_threads(1)

KEY = "planted-key-0123456789"


def record_uncompiled(update):
    """Record an update as it is on a CPU, but without the compiler, which takes long."""
    return record_compiled(update, lambda graph: graph)


class CounterEnv(gym.Env):
    """
    Its observation is (episode, step within the episode, last action's first component) and its frame shows the same,
    so that a frame or an action beside the wrong observation is found out.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, horizon=7, render_mode="rgb_array", low=-1.0, high=1.0, offset=0):
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = spaces.Box(np.float32(low), np.float32(high), (2,), np.float32)
        self.horizon, self.render_mode, self.offset = horizon, render_mode, offset
        self.episode, self.t, self.n_renders = offset - 1, 0, 0
        self.history = []

    def _obs(self):
        return np.array([self.episode, self.t, 0.0], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self._obs(), {}

    def step(self, action):
        self.history.append((self.episode, self.t, action.copy()))
        self.t += 1
        return self._obs(), 0.0, False, self.t >= self.horizon, {}

    def render(self):
        self.n_renders += 1
        return np.full((8, 8, 3), (self.episode, self.t, 0), np.uint8)


class DictEnv(CounterEnv):
    """The same with a Dict observation."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.observation_space = spaces.Dict(
            {"count": spaces.Box(-np.inf, np.inf, (3,), np.float32), "extra": spaces.Box(-1, 1, (2,), np.float32)}
        )

    def _obs(self):
        return {"count": super()._obs(), "extra": np.full(2, 0.5, np.float32)}


@pytest.fixture(autouse=True)
def _in_temporary_directory(tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))


@pytest.fixture(autouse=True)
def _without_children():
    """A forked environment holds what was open then, such as the pipe to a browser, which then waits for its end."""
    yield
    for process in multiprocessing.active_children():
        process.terminate()
        process.join()


@dataclass
class Look:
    """What a browser shows of a page, and what it has to say about it."""

    width: int
    scroll_width: int = 0
    title: str = ""
    text: str = ""
    n_images: int = 0
    broken_images: list = field(default_factory=list)
    requests: list = field(default_factory=list)
    errors: list = field(default_factory=list)
    dialogs: list = field(default_factory=list)

    def assert_sound(self):
        """Nothing sticks out, nothing is missing, nothing is loaded from elsewhere, nothing is complained about."""
        assert self.scroll_width <= self.width
        assert (self.broken_images, self.requests, self.errors, self.dialogs) == ([], [], [], [])


def _look(browser, path, width):
    look = Look(width)
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.on("console", lambda message: look.errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: look.errors.append(str(error)))
    page.on("dialog", lambda dialog: (look.dialogs.append(dialog.message), dialog.dismiss()))
    page.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:")) else look.requests.append(request.url),
    )
    page.goto(pathlib.Path(path).absolute().as_uri())
    look.title, look.text = page.title(), page.inner_text("body")
    look.scroll_width = page.evaluate("document.scrollingElement.scrollWidth")
    # Those that are loaded only when they come into view are loaded now.
    images = page.evaluate(
        """async () => {
            const images = [...document.images];
            for (const image of images) { image.loading = "eager"; }
            await Promise.all(images.map(image => image.decode().catch(() => null)));
            return images.map(image => [image.naturalWidth, image.alt || image.src.slice(0, 60)]);
        }"""
    )
    look.n_images, look.broken_images = len(images), [alt for size, alt in images if size == 0]
    page.close()
    return look


@pytest.fixture(scope="session")
def in_browser():
    """A function that has another one do something with a browser: ``in_browser(function, *arguments)``."""
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.fail(
            f"This test looks at a page in a browser, and none of {', '.join(names)} is installed: "
            "apt-get install chromium",
            pytrace=False,
        )
    # Playwright has an event loop running in its thread, where others could not start theirs.
    with ThreadPoolExecutor(1) as thread:
        playwright = thread.submit(lambda: sync_playwright().start()).result()
        options = {"executable_path": executable, "args": ["--no-sandbox", "--disable-gpu"]}
        browser = thread.submit(lambda: playwright.chromium.launch(**options)).result()
        yield lambda function, *arguments: thread.submit(function, browser, *arguments).result()
        thread.submit(browser.close).result()
        thread.submit(playwright.stop).result()


@pytest.fixture(scope="session")
def look(in_browser):
    """A function that opens a page in a browser, as wide as one likes: ``look(path, width) -> Look``."""
    return lambda path, width: in_browser(_look, path, width)


def wait_until(condition, seconds=30.0, process=None):
    """Until something is so, but no longer than a busy machine may take, nor than a process lives."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds:g} s"
        assert process is None or process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.01)


def parameters(model):
    """Every number that a model has learnt."""
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def assert_same_parameters(first, second):
    """Bit for bit."""
    first, second = parameters(first), parameters(second)
    assert first.keys() == second.keys()
    for name in first:
        assert th.equal(first[name], second[name]), name


@pytest.fixture(scope="session")
def _warm_litellm():
    """The first request imports much of litellm, which would count against a short deadline."""
    with VLMServer() as server:
        VLMAdvisor("openai/test", "x", api_base=server.api_base).advise(make_query(1))


@pytest.fixture
def vlm_environment(monkeypatch, _warm_litellm):
    """One key, planted, and no waiting between retries."""
    for name in list(os.environ):
        if name.endswith(("_API_KEY", "_API_BASE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(vlm_query, "RETRY_WAIT", 0.001)
    monkeypatch.setattr(vlm_query, "MAX_RETRY_WAIT", 0.01)


def make_query(n_states, record=lambda event: None, frames=False, **kwargs):
    """States that are numbered in their observations and in the pixels of their frames."""
    states = tuple(
        VisitedState(
            np.array([float(index)]),
            np.zeros(2),
            np.full((300, 400, 3), index * 10, np.uint8) if frames else None,
            step=index,
        )
        for index in range(n_states)
    )
    briefing = Briefing(spaces.Box(-1.0, 1.0, (2,)), spaces.Box(-np.inf, np.inf, (1,)))
    return AdviceQuery(0, n_states, states, briefing, record, **kwargs)


def make_vlm(server, **arguments):
    """An advisor that asks the server and does not retry."""
    return VLMAdvisor("openai/test", **{"task": "Go.", "api_base": server.api_base, "max_retries": 0, **arguments})


def failures(events):
    """What was said of the requests that failed."""
    return [event.text for event in events if isinstance(event, Failure)]


def reasons(advice):
    """Why states have no advice."""
    return [rejection.reason for rejection in advice.rejected]


def counts(usage):
    """Requests, tokens and cost, without the time."""
    return usage.requests, usage.prompt_tokens, usage.completion_tokens, usage.cost


def page_table(heading):
    """The rows of the first table below a heading of docs/faults.md: for each first cell the others."""
    page = (pathlib.Path(__file__).parent.parent / "docs" / "faults.md").read_text()
    section = page.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in section.splitlines() if "|" in line]
    return {name: cells for name, *cells in rows[2:]}


@pytest.fixture(scope="session")
def taught():
    """A model that has learnt the format, and nothing of the task."""
    # Transformers take seconds to import, and most tests do without.
    from tiny_models import ANSWERS, make_model

    from sb3_varl.coso import NumberLine, imitate

    model = make_model()
    env = NumberLine()
    rng = np.random.default_rng(0)
    pairs = [(env.reset(seed=i)[0], ANSWERS[rng.integers(len(ANSWERS))]) for i in range(64)]
    imitate(model, pairs, n_epochs=40, learning_rate=3e-3, progress_bar=False)
    return model


@pytest.fixture
def handlers():
    """Those of a process that was started by hand, whatever pytest was started by."""
    before = [(number, signal.signal(number, signal.SIG_DFL)) for number in (signal.SIGINT, signal.SIGTERM)]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    for number, handler in before:
        signal.signal(number, handler)
