"""CoSo: a model imitates examples, and becomes an advisor."""

import json

import numpy as np
import pytest
import standing
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from tiny_models import ANSWERS, make_model

from conftest import CounterEnv
from sb3_varl import VARL, AdvisorCallback, FunctionAdvisor, VLMAdvisor
from sb3_varl.advice.history import read_queries
from sb3_varl.advice.types import AdviceQuery, Briefing, VisitedState
from sb3_varl.arguments import ArgumentError
from sb3_varl.coso import BoxActions, KeyAndDoor, NumberLine, TinyVLM, advisor, imitate, read_examples
from sb3_varl.testing import VLMServer


def test_a_log_of_advice_is_examples(tmp_path):
    callback = standing.make_callback(
        FunctionAdvisor(lambda o: [o[1] / 10, -0.5]), log_path=tmp_path / "log", n_queries=3
    )
    standing.make_model().learn(80, callback=callback)

    def prompt(observation):
        return f"at {observation[1]:.0f}"

    answers = ['{"advice": [{"state": 0, "action": [0.4, -0.5]}]}', *(f"at {i} .{i}" for i in range(10))]
    policy = {"model": TinyVLM(tuple(answers), width=16, n_layers=1), "prompt": prompt, "actions": BoxActions()}
    policy["max_new_tokens"] = 40
    model = make_model(make_vec_env(standing.NamedEnv, 1), policy=policy)
    examples = read_examples(model, tmp_path / "log")
    assert len(examples) == 12
    log = tmp_path / "log" / "advice.jsonl"
    log.write_text(log.read_text().replace('"altered": ""', '"altered": "pictures exchanged"', 1))
    assert len(read_examples(model, log)) == 8
    for observation, text in examples:
        action = model.policy.parser.read(text).action
        assert action.tolist() == pytest.approx([observation[1] / 10, -0.5], abs=1e-3)
    assert imitate(model, examples, n_epochs=1, progress_bar=False)["unparsed"] == 0
    other = make_model()
    with pytest.raises(ArgumentError, match=r"The actions of .* have the shape \(2,\), not \(\)"):
        read_examples(other, tmp_path / "log")
    other = make_model(make_vec_env(KeyAndDoor, 1), policy=policy)
    with pytest.raises(
        ArgumentError, match=r"observations of .* have the shape \(3,\) and its frames None, those of the model \(7,\)"
    ):
        read_examples(other, tmp_path / "log")
    with pytest.raises(ArgumentError, match="observation is none of Box"):
        imitate(model, [({"x": 1}, ANSWERS[0])])
    with pytest.raises(FileNotFoundError):
        read_examples(model, tmp_path / "nowhere")


class Picture(CounterEnv):
    """Its frame is its observation."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(0, 255, (8, 8, 3), np.uint8)

    def _obs(self):
        return self.render()


@pytest.mark.usefixtures("vlm_environment")
def test_frames_and_reasons_of_a_model_are_examples(tmp_path):
    """Of a log about numbers, for a model that is to see what the advisor saw."""

    def answer(states, images):
        first, *others = (state["state"] for state in states)
        entries = [{"state": i, "action": [0.5, -0.25], "reason": f'No "{i}"'} for i in others]
        return json.dumps({"advice": [{"state": first, "action": [1, 1]}, *entries]})

    with VLMServer(answer) as server:
        vlm = VLMAdvisor("openai/test", "Go.", api_base=server.api_base, form="actions")
        settings = {"n_queries": 1, "first_query": 30, "states_per_query": 4, "window": 20, "blocking": True}
        callback = AdvisorCallback(vlm, log_path=tmp_path / "log", **settings)
        VARL("MlpPolicy", CounterEnv(), learning_starts=100, buffer_size=200).learn(40, callback=callback)
    policy = {"model": TinyVLM(("at",), width=16, n_layers=1), "prompt": "Go.", "actions": BoxActions()}
    model = make_model(make_vec_env(Picture, 1), policy=policy)
    examples = read_examples(model, tmp_path / "log")
    assert [picture.shape for picture, _ in examples] == [(8, 8, 3)] * 4
    (logged,) = read_queries(tmp_path / "log")
    for (picture, _), (episode, t, _) in zip(examples, logged.observations, strict=True):
        assert picture[0, 0].tolist() == [episode, t, 0]
    assert [json.loads(text)["advice"][0].get("reason") for _, text in examples] == [
        None,
        *(f'No "{i}"' for i in (1, 2, 3)),
    ]
    reading = model.policy.parser.read(examples[1][1])
    assert reading.action.tolist() == [0.5, -0.25]
    assert examples[1][1][: reading.start].count("No")
    assert all("reason" not in text for _, text in read_examples(model, tmp_path / "log", thoughts=False))


def test_no_advice_where_the_words_say_none():
    picture = NumberLine().reset(seed=0)[0]
    heard, silent = make_model(), make_model()
    heard.policy.language.write = lambda prompts, greedy=False: [heard.policy.language.encode(ANSWERS[1])]
    assert int(advisor(heard).function(picture)) == 1
    silent.policy.language.write = lambda prompts, greedy=False: [[5]]
    assert advisor(silent).function(picture) is None


def test_examples_are_checked(taught):
    picture = NumberLine().reset(seed=0)[0]
    with pytest.raises(ArgumentError, match="no examples"):
        imitate(taught, [])
    with pytest.raises(ArgumentError, match="max_new_tokens is 26, so that the model would be cut off"):
        imitate(taught, [(picture, ANSWERS[0] * 2)], progress_bar=False)
    with pytest.raises(ArgumentError, match=r"cannot write this example.*: 'xyzzy'"):
        imitate(taught, [(picture, "xyzzy")], progress_bar=False)
    with pytest.raises(ArgumentError, match="None of the 1 examples says an action; the first: 'add one'"):
        imitate(taught, [(picture, "add one")], progress_bar=False)
    for pair in ((ANSWERS[0], picture), (picture, 1), (picture, ANSWERS[0], 1)):
        with pytest.raises(ArgumentError, match="expected an observation and the text of its answer"):
            imitate(taught, [pair], progress_bar=False)
    with pytest.raises(ArgumentError, match="a batch of them"):
        imitate(taught, [(np.stack([picture] * 2), ANSWERS[0])], progress_bar=False)
    with pytest.raises(ArgumentError, match="observation is none of Box"):
        imitate(taught, [(picture[:5], ANSWERS[0])], progress_bar=False)


def test_who_sees_other_observations_does_not_advise():
    env = VecNormalize(make_vec_env(lambda: NumberLine("numbers"), 1, seed=0))
    model = make_model(env, policy={"prompt": lambda seen: f"Go to {seen[0]:.0f}."})
    with pytest.raises(ArgumentError, match="norm_obs=False"):
        advisor(model)
    with pytest.raises(ArgumentError, match="norm_obs=False"):
        imitate(model, [])
    with pytest.raises(ArgumentError, match="expected a CoSo or a CoSoAWR"):
        advisor("model")


def test_a_query_is_answered_at_once():
    env = make_vec_env(KeyAndDoor, 1, seed=0)
    actions = BoxActions()
    actions.check(env.action_space)
    answers = [actions.write(np.array([x, y])) for x in (-1, 1) for y in (-1, 1)]
    policy = {
        "model": TinyVLM((*answers, "Here 1 2 3 4 5 6 7 8 9 0."), width=16, n_layers=1),
        "prompt": lambda seen: f"Here {seen[0]:.0f} {seen[1]:.0f}.",
        "actions": actions,
        "max_new_tokens": 40,
    }
    model = make_model(env, policy=policy)
    calls = []

    def write(prompts, greedy=False):
        calls.append(len(prompts))
        texts = [answers[len(prompt.text) % 4] if prompt.text != "Here 3 3." else "no idea" for prompt in prompts]
        return [model.policy.language.encode(text) for text in texts]

    model.policy.language.write = write
    places = [(1, 2), (3, 3), (4, 5), (6, 7)]
    seen = [np.array([*place, 0, 0, 0, 0, 0], np.float32) for place in places]
    states = tuple(VisitedState(observation, np.zeros(2), None, i) for i, observation in enumerate(seen))
    briefing = Briefing(env.action_space, env.observation_space)
    advice = advisor(model).advise(AdviceQuery(0, 4, states, briefing, open=(0, 1, 3)))
    assert calls == [3]
    assert advice.actions[1] is None
    assert advice.actions[2] is None
    for i in (0, 3):
        assert advice.actions[i].tolist() == advisor(model).function(seen[i]).tolist()
