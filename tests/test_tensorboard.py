"""What TensorBoard is shown of the advice."""

import dataclasses
import io

import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image
from stable_baselines3.common.logger import configure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import CounterEnv, make_query, make_vlm
from sb3_varl import VARL, Advice, AdvisorCallback, FunctionAdvisor, Rejection, TaskSheet
from sb3_varl.advice.types import ActionComponent, Briefing
from sb3_varl.testing import VLMServer
from sb3_varl.training.tensorboard import draw_query

EXECUTED, SUGGESTED = (213, 94, 0), (0, 114, 178)


def train(advisor, folder, formats=("tensorboard",)):
    model = VARL("MlpPolicy", CounterEnv(), learning_starts=8, batch_size=4, policy_kwargs={"net_arch": [8]})
    model.set_logger(configure(str(folder), list(formats)))
    callback = AdvisorCallback(
        advisor, "Count.", n_queries=2, first_query=20, query_freq=20, states_per_query=3, window=10, blocking=True
    )
    model.learn(60, callback=callback, log_interval=2)
    model.logger.close()


def read(folder):
    # Of images and tensors, it keeps a sample unless told otherwise.
    return EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0}).Reload()


@pytest.mark.usefixtures("vlm_environment")
def test_each_query_is_shown_at_its_step(tmp_path):
    with VLMServer() as server:
        train(make_vlm(server, task=None), tmp_path)
        (sent, *_) = [request.body["messages"] for request in server.requests]
    events = read(tmp_path)
    images = events.Images("advice/states")
    assert [image.step for image in images] == [20, 40]
    picture = np.array(Image.open(io.BytesIO(images[0].encoded_image_string)))
    assert picture.shape[2] == 3
    texts = events.Tensors("advice/prompt/text_summary")
    assert [text.step for text in texts] == [20, 40]
    text = texts[0].tensor_proto.string_val[0].decode()
    assert "    Task: Count." in text
    for part in sent[1]["content"]:
        assert part.get("text", "") in text
    assert "base64" not in text


def test_scalars_are_there_as_well(tmp_path):
    train(FunctionAdvisor(lambda observation: [0.5, -0.5]), tmp_path)
    events = read(tmp_path)
    assert events.Scalars("advice/accepted")[-1].value == 6
    assert events.Scalars("varl/gate_open")
    assert "advice/prompt/text_summary" not in events.Tags()["tensors"]


def test_without_tensorboard_nothing_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr("sb3_varl.training.tensorboard.draw_query", None)
    train(FunctionAdvisor(lambda observation: [0.5, -0.5]), tmp_path, ["csv", "json", "log"])
    assert "advice/accepted" in (tmp_path / "progress.json").read_text()


@pytest.mark.parametrize("prompt", ["You are a robot.", lambda query: 1 / 0, lambda query: [{"role": "user"}]])
def test_an_advisor_s_prompt_cannot_end_the_training(tmp_path, prompt, caplog):
    advisor = FunctionAdvisor(lambda observation: [0.5, -0.5])
    advisor.prompt = prompt
    train(advisor, tmp_path)
    events = read(tmp_path)
    assert events.Scalars("advice/accepted")[-1].value == 6
    failed = "ZeroDivisionError" in caplog.text
    assert failed == ("advice/states" not in events.Tags()["images"])


def column(picture, colour, row):
    """Where a colour is, on average, in a row of pixels."""
    return np.flatnonzero((picture[row] == colour).all(axis=1)).mean()


def test_actions_are_drawn_where_they_are():
    query = make_query(1, frames=True)
    places = {}
    for value in (-1.0, 0.0, 1.0):
        picture = draw_query(query, Advice([np.array([value, 0.5])]))
        row = np.flatnonzero((picture == SUGGESTED).all(axis=2).any(axis=1)).max() - 16
        places[value] = column(picture, SUGGESTED, row - 4)
    assert places[0.0] - places[-1.0] == pytest.approx(places[1.0] - places[0.0], abs=1)
    assert places[1.0] - places[0.0] > 50
    # What was executed, 0, is where 0 is suggested.
    picture = draw_query(query, Advice([None], [Rejection("request_failed", 0)]))
    below = picture[picture.shape[0] // 2 :]
    executed = np.flatnonzero((below == EXECUTED).all(axis=2).any(axis=0))
    assert executed.mean() == pytest.approx(places[0.0], abs=1)
    assert not (below == SUGGESTED).all(axis=2).any()


def test_states_without_frames_and_bounds_are_drawn():
    query = make_query(20)
    with_names = Briefing(
        spaces.Box(-np.inf, np.inf, (2,)),
        query.briefing.observation_space,
        sheet=TaskSheet("Go.", (ActionComponent("torque", "Nm"), ActionComponent("a very long name"))),
    )
    picture = draw_query(
        type(query)(0, 20, query.states, with_names), Advice([np.zeros(2) if i % 2 else None for i in range(20)])
    )
    assert picture.dtype == np.uint8
    assert picture.shape[0] < picture.shape[1]


def test_a_picture_has_a_bounded_size():
    many = make_query(300)
    frame = np.zeros((2000, 1, 3), np.uint8)
    tall = type(many)(0, 1, tuple(dataclasses.replace(state, frame=frame) for state in many.states), many.briefing)
    picture = draw_query(tall, Advice([np.zeros(2)] * 300))
    assert max(picture.shape) < 3000
