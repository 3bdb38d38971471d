"""Pictures of the states: whatever an environment renders, and however it fails."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from PIL import Image
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnvWrapper

from conftest import CounterEnv
from sb3_varl import VARL, Advice, AdviceWarning, AdvisorCallback, FunctionAdvisor
from sb3_varl.advice.pictures import as_frame, picture_in, shows_pictures

SMALL = {"learning_starts": 5, "gradient_steps": 0, "seed": 0, "policy_kwargs": {"net_arch": [8]}}


class Recorder:
    def __init__(self):
        self.queries = []

    def advise(self, query):
        self.queries.append(query)
        return Advice([state.executed_action for state in query.states])

    @property
    def n_frames(self):
        return [sum(state.frame is not None for state in query.states) for query in self.queries]


def learn(env, n_queries=2, **kwargs):
    advisor = Recorder()
    settings = {"first_query": 40, "query_freq": 40, "states_per_query": 10, "window": 40, "log_path": False}
    callback = AdvisorCallback(advisor, n_queries=n_queries, blocking=True, **{**settings, **kwargs})
    model = VARL("MlpPolicy", env, **SMALL)
    model.learn(40 * n_queries + 10, callback=callback)
    return advisor


RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
GREY = np.broadcast_to(RGB[..., :1], RGB.shape)


@pytest.mark.parametrize(
    ("rendered", "frame"),
    [
        (RGB, RGB),
        (np.dstack([RGB, np.full((6, 8), 255, np.uint8)]), RGB),
        (RGB[..., 0], GREY),
        (RGB[..., :1], GREY),
        (RGB / 255, RGB),
        ((RGB / 255).astype(np.float32), RGB),
        (RGB.astype(np.float64), RGB),
        (np.moveaxis(RGB, -1, 0), RGB),
        (th.as_tensor(RGB), RGB),
        (Image.fromarray(RGB), RGB),
        (Image.fromarray(RGB).convert("LA"), np.asarray(Image.fromarray(RGB).convert("L").convert("RGB"))),
        (RGB / 255 * 1.0000001, RGB),
        (np.full((6, 8, 3), 300.0), None),
        (RGB.tolist(), None),
        (None, None),
        ("picture", None),
        (RGB.astype(np.int64), None),
        (-RGB.astype(np.float32), None),
        (np.full((6, 8, 3), np.nan), None),
        (np.zeros((6, 8, 2), np.uint8), None),
        (np.zeros((0, 8, 3), np.uint8), None),
        (np.zeros(3, np.uint8), None),
    ],
)
def test_what_is_unambiguous_becomes_a_frame(rendered, frame):
    made = as_frame(rendered)
    if frame is None:
        assert made is None
    else:
        assert made.dtype == np.uint8
        np.testing.assert_array_equal(made, frame)
        assert not np.shares_memory(made, rendered) if isinstance(rendered, np.ndarray) else True


@pytest.mark.parametrize(
    ("observed", "frame"),
    [
        (RGB, RGB),
        (np.moveaxis(RGB, -1, 0), RGB),
        (RGB[..., 0], GREY),
        (RGB[..., :1], GREY),
        (np.dstack([RGB[..., 1], RGB[..., 2], RGB[..., 1], RGB[..., 0]]), GREY),
        (np.dstack([RGB, np.full_like(RGB[..., 0], 255)]), RGB),
        (np.dstack([RGB[::-1], RGB]), RGB),
        ({"numbers": np.zeros(3, np.float32), "camera": RGB}, RGB),
        (np.stack([GREY, RGB]), RGB),
        (np.stack([np.moveaxis(GREY, -1, 0), np.moveaxis(RGB, -1, 0)]), RGB),
        (np.dstack([GREY[:, :6], GREY[:, :6], GREY[:, :6], RGB[:, :6]]), RGB[:, :6]),
        (RGB[:1, :1], RGB[:1, :1]),
        ({"hand": RGB[:3], "room": RGB}, np.hstack([np.concatenate([RGB[:3], np.zeros_like(RGB[:3])]), RGB])),
        (np.zeros(8, np.uint8), None),
        (RGB.astype(np.float32), None),
    ],
)
def test_an_observation_that_is_a_picture_is_shown(observed, frame):
    def space_of(array):
        return spaces.Box(0, 255, array.shape, array.dtype)

    is_dict = isinstance(observed, dict)
    space = spaces.Dict({key: space_of(array) for key, array in observed.items()}) if is_dict else space_of(observed)
    shown = picture_in(observed)
    assert shows_pictures(space) == (shown is not None) == (frame is not None)
    if frame is not None:
        np.testing.assert_array_equal(shown, frame)
        assert not any(np.shares_memory(shown, array) for array in (observed.values() if is_dict else [observed]))


class Flaky(CounterEnv):
    """Fails at some of its frames."""

    failing: object = ()

    def render(self):
        frame = super().render()
        if self.n_renders in self.failing:
            raise RuntimeError("context lost")
        return frame


def test_one_frame_that_fails_costs_one_frame():
    env = Flaky()
    env.failing = {4}
    with pytest.warns(AdviceWarning, match="rendering failed with RuntimeError: context lost") as caught:
        advisor = learn(env)
    assert len(caught) == 1
    assert advisor.n_frames == [9, 10]


def test_a_connection_of_the_renderer_s_own_is_no_end_of_a_process(monkeypatch):
    def render(self):
        raise ConnectionResetError("the simulator's window is gone")

    monkeypatch.setattr(CounterEnv, "render", render)
    with pytest.warns(AdviceWarning, match="rendering failed with ConnectionResetError"):
        advisor = learn(CounterEnv())
    assert advisor.n_frames == [0, 0]


def test_after_three_in_a_row_a_query_goes_on_without():
    env = Flaky()
    env.failing = range(2, 6)  # 1 is before training; 2 to 4 are of the first query
    with pytest.warns(AdviceWarning) as caught:
        advisor = learn(env)
    # What an earlier test left to the garbage collector may be warned of meanwhile.
    assert len([warning for warning in caught if issubclass(warning.category, AdviceWarning)]) == 1
    assert advisor.n_frames == [0, 9]


def test_a_renderer_that_does_not_work_is_found_out_before_training():
    steps = []

    class Env(Flaky):
        failing = range(1000)

        def step(self, action):
            steps.append(action)
            return super().step(action)

        def render(self):
            if not steps:
                rendered_before.append(True)
            return super().render()

    rendered_before = []
    with pytest.warns(AdviceWarning, match="context lost") as caught:
        advisor = learn(Env())
    assert rendered_before == [True]
    assert len(caught) == 1
    assert advisor.n_frames == [0, 0]


class NoDisplay(CounterEnv):
    def render(self):
        raise RuntimeError("no display")


def test_a_renderer_that_ends_its_process_is_said_to(capfd):
    env = SubprocVecEnv([NoDisplay, NoDisplay], start_method="fork")
    model = VARL("MlpPolicy", env, **SMALL)
    callback = AdvisorCallback(FunctionAdvisor(lambda o: np.zeros(2)), n_queries=1, first_query=40, log_path=False)
    with pytest.raises(RuntimeError, match=r"ended while it rendered; what it said is above.*frames=False"):
        model.learn(60, callback=callback)
    assert model.num_timesteps == 0
    assert "no display" in capfd.readouterr().err


class Closed(VecEnvWrapper):
    """Keeps its environments to itself, as some simulators on GPUs do."""

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        return self.venv.step_wait()

    def get_attr(self, attr_name, indices=None):
        if attr_name == "render_mode":  # without which SB3 makes no VecEnv
            return ["rgb_array"] * self.num_envs
        raise NotImplementedError

    def has_attr(self, attr_name):
        self.get_attr(attr_name)

    def env_method(self, method_name, *args, indices=None, **kwargs):
        raise NotImplementedError

    def get_images(self):
        return [env.render() for env in self.venv.envs]


def test_environments_that_keep_their_attributes_to_themselves():
    advisor = learn(Closed(DummyVecEnv([CounterEnv, lambda: CounterEnv(offset=50)])))
    assert advisor.n_frames == [10, 10]
    for query in advisor.queries:
        for state in query.states:
            assert state.frame[0, 0].tolist() == [*state.observation[:2], 0]
        assert isinstance(query.briefing.action_space, spaces.Box)
