"""CoSo: PPO for a policy that writes, with token weights. All of it with models of a few thousand weights."""

import math
import os
import pickle
import signal
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import VecFrameStack
from tiny_models import ANSWERS, PROMPT, SOURCES, gradients, make_model, observations, tiny

from sb3_varl.arguments import ArgumentError
from sb3_varl.coso import (
    BoxActions,
    Choices,
    CoSo,
    LearnedWeights,
    NumberLine,
    TinyVLM,
    VLMPolicy,
    advisor,
    imitate,
)
from sb3_varl.coso.accumulate import accumulating

# What was written, and how likely that was


@pytest.mark.parametrize("lora", [None, 2])
def test_old_and_new_log_probabilities_agree(lora):
    model = make_model(policy={"lora": lora, "thought_coef": 0.3})
    model._setup_learn(12, None)
    model.collect_rollouts(model.env, model._init_callback(None), model.rollout_buffer, model.n_steps)
    utterances = model.policy.utterances = model.rollout_buffer.utterances
    assert len({len(utterance.tokens) for utterance in utterances}) > 1
    n_seen = 0
    for batch in model.rollout_buffer.get(5):
        with th.no_grad():
            values, log_prob, _ = model.policy.evaluate_actions(batch.observations, batch.actions)
        assert log_prob.numpy() == pytest.approx(batch.old_log_prob.numpy(), abs=1e-4)
        assert values.flatten().numpy() == pytest.approx(batch.old_values.numpy(), abs=1e-4)
        n_seen += len(batch.actions)
    assert n_seen == 12


def test_a_prompt_may_change_with_the_observation():
    prompts = []

    def prompt(observation):
        prompts.append(f"Go to {int(observation[0])} from {int(observation[1])}.")
        return prompts[-1]

    env = make_vec_env(NumberLine, 2, env_kwargs={"observation": "numbers"}, seed=0)
    texts = ANSWERS + tuple(f"Go to {i} from {i}." for i in range(6))
    policy = {"prompt": prompt, "model": TinyVLM(texts, width=16, n_layers=1)}
    model = make_model(env, policy=policy, n_steps=6)
    model.learn(12)
    in_rollout, in_update = prompts[: 2 * 7], prompts[2 * 7 :]
    assert len(set(in_rollout)) > 2
    assert set(in_update) <= set(in_rollout)


def test_the_prompt_of_an_update_is_that_of_the_rollout():
    """Also where SB3's buffer gives observations another shape."""

    class Counting(gym.Env):
        observation_space, action_space = spaces.Discrete(5), spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.n = 0
            return 0, {}

        def step(self, action):
            self.n += 1
            return self.n, 0.0, self.n == 4, False, {}

    prompts = []
    policy = {"prompt": lambda observation: prompts.append(f"from {observation}") or prompts[-1]}
    make_model(make_vec_env(Counting, 2), policy=policy).learn(8)
    assert len(set(prompts)) == 4
    assert set(prompts) == {f"from {i}" for i in range(4)}


def test_gradients_are_those_of_ppo_written_out(monkeypatch):
    """With uniform weights, from the numbers of the rollout, in plain torch."""
    model = make_model(weights="uniform", ent_coef=0.3, batch_size=12, policy={"thought_coef": 1.0})
    kept = []
    monkeypatch.setattr(model.policy.optimizer, "step", lambda: kept.append(gradients(model.policy)))
    model._setup_learn(12, None)
    model.collect_rollouts(model.env, model._init_callback(None), model.rollout_buffer, model.n_steps)
    buffer, policy = model.rollout_buffer, model.policy
    observed = th.as_tensor(buffer.observations).swapaxes(0, 1).reshape(12, *buffer.obs_shape)
    advantages = buffer.advantages.swapaxes(0, 1).reshape(-1)
    returns, old = buffer.returns.swapaxes(0, 1).reshape(-1), buffer.log_probs.swapaxes(0, 1).reshape(-1)
    utterances = buffer.utterances
    model.max_grad_norm = math.inf
    model.train()

    policy.optimizer.zero_grad()
    prompts = policy.prompts(list(observed.numpy()))
    scores = policy.language.score(prompts, [utterance.tokens for utterance in utterances])
    advantages = th.as_tensor((advantages - advantages.mean()) / (advantages.std() + 1e-8))
    ratio = (scores.log_probs.sum(dim=1) - th.as_tensor(old)).exp()
    policy_loss = -th.min(ratio * advantages, ratio.clamp(0.9, 1.1) * advantages).mean()
    value_loss = ((policy._value(scores.hidden).flatten() - th.as_tensor(returns)) ** 2).mean()
    (policy_loss + 0.5 * value_loss - 0.3 * scores.entropies.sum(dim=1).mean()).backward()
    expected = gradients(policy)
    assert kept[0].keys() == expected.keys()
    for name, gradient in expected.items():
        assert kept[0][name].numpy() == pytest.approx(gradient.numpy(), rel=1e-3, abs=1e-5), name


def test_the_value_has_no_gradient_into_the_model():
    model = make_model()
    model.policy.predict_values(observations(model)).sum().backward()
    assert all(parameter.grad is None for parameter in model.policy.language.parameters())
    assert all(parameter.grad is not None for parameter in model.policy.value_net.parameters())


def test_batches_add_up_to_one_step():
    def after(accumulate, batch_size):
        model = make_model(batch_size=batch_size, accumulate=accumulate, max_grad_norm=0.1, weights="uniform")
        model.learn(12)
        return th.cat([p.detach().flatten() for p in model.policy.parameters()])

    assert after(3, 4).numpy() == pytest.approx(after(1, 12).numpy(), abs=2e-5)
    assert after(3, 5).numpy() == pytest.approx(after(1, 12).numpy(), abs=2e-5)  # 5, 5 and 2


def test_an_accumulated_rest_is_a_step_too():
    weight = th.nn.Parameter(th.zeros(1))
    policy = th.nn.Module()
    policy.weight, policy.optimizer, policy.n_evaluated = weight, th.optim.SGD([weight], lr=1.0), 4
    with accumulating(policy, 2, 10.0):
        for gradient in (1.0, 3.0, 5.0):
            policy.optimizer.zero_grad()
            (weight * gradient).sum().backward()
            policy.optimizer.step()
    assert weight.item() == -(1 + 3) / 2 - 5
    assert not {"step", "zero_grad"} & vars(policy.optimizer).keys()
    policy.optimizer.zero_grad()
    (weight * 2.0).sum().backward()
    policy.optimizer.step()
    assert weight.item() == -(1 + 3) / 2 - 5 - 2


# As an algorithm of SB3


@pytest.mark.parametrize("normalize", [True, False])
def test_whether_advantages_are_normalized_is_one_setting(normalize, tmp_path, monkeypatch):
    make_model(normalize_advantage=not normalize).save(tmp_path / "model")
    model = CoSo.load(tmp_path / "model", env=make_vec_env(NumberLine, 2, seed=0), normalize_advantage=normalize)
    in_batches, rollouts = [], []
    monkeypatch.setattr(PPO, "train", lambda self: in_batches.append(self.normalize_advantage))
    monkeypatch.setattr(type(model.rollout_buffer), "normalize_advantages", lambda self: rollouts.append(self))
    model.learn(12)
    assert model.normalize_advantage == normalize
    assert in_batches == [False, False]
    assert len(rollouts) == 2 * normalize


def test_somebody_else_who_calls_the_policy_does_not_mix_up_words():
    class Caller(BaseCallback):
        def _on_step(self):
            self.model.policy(self.model.policy.obs_to_tensor(self.model._last_obs)[0])
            return True

    model = make_model()
    with pytest.raises(RuntimeError, match=r"model\.policy\.write\(\)"):
        model.learn(12, callback=Caller())
    model.policy(observations(model))
    model.policy(observations(model))
    model.learn(12)


def test_learns_logs_evaluates(taught, tmp_path):
    env = make_vec_env(NumberLine, 2, seed=0)
    model = make_model()
    model.policy.load_state_dict(taught.policy.state_dict())
    callback = EvalCallback(env, eval_freq=4, n_eval_episodes=2, log_path=str(tmp_path), verbose=0)
    model.learn(12, callback=callback)
    logged = model.logger.name_to_value
    assert {"coso/unparsed", "coso/length", "coso/causal_accuracy", "coso/action_entropies"} <= set(logged)
    assert {"coso/action_weights", "coso/thoughts_weights", "train/entropy_loss"} <= set(logged)
    assert (tmp_path / "evaluations.npz").exists()


def test_evaluate_policy(taught):
    mean, _ = evaluate_policy(taught, make_vec_env(NumberLine, 2, seed=0), n_eval_episodes=4)
    assert -10 <= mean <= 1


def test_a_crash_while_saving_leaves_the_older_file(taught, tmp_path, monkeypatch):
    taught.save(tmp_path / "it")
    before = (tmp_path / "it.zip").read_bytes()

    def crash(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        taught.save(tmp_path / "it")
    assert (tmp_path / "it.zip").read_bytes() == before


def test_a_signal_while_logging_waits_for_the_line(handlers):
    lines = []

    class Disturbed(KVWriter):
        def write(self, key_values, key_excluded, step=0):
            signal.raise_signal(signal.SIGINT)
            lines.append(dict(key_values))

    model = make_model()
    model.set_logger(Logger(folder=None, output_formats=[Disturbed()]))
    with pytest.raises(KeyboardInterrupt):
        model.learn(100)
    assert len(lines) == 1


@pytest.mark.parametrize("weights", ["learned", "code", "parser", "uniform", None])
@pytest.mark.parametrize("lora", [None, 2])
def test_saves_what_it_learnt_and_not_the_model(weights, lora, tmp_path):
    model = make_model(weights=weights, policy={"lora": lora, "model": tiny(seed=3)})
    model.learn(12)
    model.save(tmp_path / "model")
    loaded = CoSo.load(tmp_path / "model")
    observed = observations(model)
    before, after = (m.policy.write(observed, deterministic=True) for m in (model, loaded))
    assert [u.tokens for u in before] == [u.tokens for u in after]
    answers = [u.tokens for u in before]
    scores = [
        m.policy.language.score(m.policy.prompts(list(observed.numpy())), answers).log_probs for m in (model, loaded)
    ]
    assert th.equal(*scores)
    assert th.equal(model.policy.predict_values(observed), loaded.policy.predict_values(observed))
    if weights in ("learned", "code"):
        settings = ("window", "absolute", "normalize", "skip", "learning_rate", "n_updates")
        assert [getattr(m.weights, s) for m in (loaded,) for s in settings] == [
            getattr(model.weights, s) for s in settings
        ]
        for mine, its in zip(model.weights.network.parameters(), loaded.weights.network.parameters(), strict=True):
            assert th.equal(mine, its)
    if lora is not None:
        names = model.policy.state_dict().keys()
        assert names
        assert all("lora" in name or name.startswith(("value_net", "standardize")) for name in names)
    loaded.set_env(make_vec_env(NumberLine, 3, seed=0))
    loaded.learn(12, reset_num_timesteps=False)


def test_anothers_parameters_are_refused():
    model = make_model()
    with pytest.raises(RuntimeError, match=r"another model's: .* missing"):
        model.policy.load_state_dict({"foreign": th.zeros(1)})


def test_the_policy_by_itself(taught, tmp_path):
    observed = observations(taught)
    taught.policy.save(tmp_path / "policy")
    policy = type(taught.policy).load(tmp_path / "policy")
    assert [u.text for u in policy.write(observed, True)] == [u.text for u in taught.policy.write(observed, True)]
    pickle.loads(pickle.dumps(taught.weights))


def test_same_seed_same_run():
    def run():
        model = make_model()
        model.learn(12)
        return th.cat([p.detach().flatten() for p in model.policy.parameters()])

    assert th.equal(run(), run())


def test_dict_observations_and_a_box():
    class Walk(gym.Env):
        observation_space = spaces.Dict(
            {"picture": spaces.Box(0, 255, (32, 32, 3), np.uint8), "x": spaces.Box(-1, 1, (1,))}
        )
        action_space = spaces.Box(-1, 1, (1,))

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.x = self.np_random.uniform(-1, 1, 1).astype(np.float32)
            return self.observed(), {}

        def observed(self):
            return {"picture": np.full((32, 32, 3), 100, np.uint8), "x": self.x}

        def step(self, action):
            self.x = np.clip(self.x + 0.1 * action, -1, 1).astype(np.float32)
            return self.observed(), float(self.x[0]), False, False, {}

    answers = [f'{{"advice": [{{"state": 0, "action": [{x}]}}]}}' for x in (-1.0, 0.0, 1.0)]
    env = make_vec_env(lambda: gym.wrappers.TimeLimit(Walk(), 5), 2, seed=0)
    source = TinyVLM(("Walk.", *answers), width=16, n_layers=1)
    model = make_model(env, policy={"model": source, "prompt": "Walk.", "actions": BoxActions()}, n_steps=3)
    examples = [(env.reset(), None)]
    observed = {name: value[0] for name, value in examples[0][0].items()}
    imitate(model, [(observed, answers[2])] * 16, n_epochs=30, batch_size=4, learning_rate=5e-3, progress_bar=False)
    action, _ = model.predict(observed, deterministic=True)
    assert action.tolist() == [1.0]
    model.learn(6)
    assert "coso/causal_accuracy" in model.logger.name_to_value
    assert advisor(model).function(observed).tolist() == [1.0]


# What is wrong is said


@pytest.mark.parametrize(
    ("policy", "kwargs", "message"),
    [
        ({"model": 5}, {}, "model is 5, expected the name or folder"),
        ({"prompt": " "}, {}, "prompt is ' ', expected text, or a function"),
        ({"actions": "+-"}, {}, "expected a parser such as Choices"),
        ({"temperature": 0}, {}, "temperature is 0"),
        ({"max_new_tokens": 0}, {}, "max_new_tokens is 0"),
        ({}, {"weights": "learnt"}, 'weights is \'learnt\', expected "learned", "code"'),
        ({}, {"accumulate": 0}, "accumulate is 0"),
        ({}, {"ent_coef": math.nan}, "ent_coef is nan"),
        ({}, {"ent_coef": "auto"}, "ent_coef is 'auto'"),
        ({}, {"n_steps": 0}, "n_steps is 0"),
        ({}, {"batch_size": 2.5}, "batch_size is 2.5"),
        ({}, {"max_grad_norm": None}, "max_grad_norm is None"),
        ({}, {"gamma": 2}, "gamma is 2"),
        ({}, {"rollout_buffer_class": RolloutBuffer}, "rollout_buffer_class is .* which keep words"),
        ({"lora": True}, {}, "lora is True"),
        ({"lora": "yes"}, {}, "lora is 'yes'"),
        ({"dtype": "float17"}, {}, "dtype is 'float17'"),
        ({"value_arch": 256}, {}, "value_arch is 256"),
        ({"actions": Choices}, {}, "expected a parser such as Choices"),
        ({"model": lambda: 5}, {}, "a function that returned 5, expected a model and its processor"),
        ({"model": "./nothing_here"}, {}, r"no folder ./nothing_here, .*custom_objects"),
        ({"thought_coef": 0}, {}, "thought_coef is 0"),
        ({}, {"unparsed_penalty": -1}, "unparsed_penalty is -1"),
    ],
)
def test_arguments_are_checked(policy, kwargs, message):
    with pytest.raises(ArgumentError, match=message):
        make_model(policy=policy, **kwargs)


def test_there_is_no_noise_in_words():
    spaces_of = spaces.Box(0, 255, (3, 32, 32), np.uint8), spaces.Box(-1, 1, (1,))
    with pytest.raises(ArgumentError, match="no Gaussian noise"):
        VLMPolicy(*spaces_of, lambda _: 1.0, model=tiny(), prompt=PROMPT, actions=BoxActions(), use_sde=True)


def test_a_prompt_that_says_nothing_of_the_state():
    env = make_vec_env(NumberLine, 1, env_kwargs={"observation": "numbers"})
    with pytest.raises(ArgumentError, match="the same in every state, and the observation has no pictures"):
        make_model(env)


def test_prompts_are_text():
    with pytest.raises(ArgumentError, match="prompt is a function that returned 5"):
        make_model(policy={"prompt": lambda _: 5}).learn(12)


def test_stacked_frames_are_no_picture():
    env = VecFrameStack(make_vec_env(NumberLine, 1), 3)
    with pytest.raises(ArgumentError, match="9 channels, expected 1 or 3"):
        make_model(env)


def test_who_does_not_look_takes_any_picture():
    class Seen(gym.Env):
        observation_space = spaces.Dict(
            {"grid": spaces.Box(0, 255, (7, 7, 10), np.uint8), "x": spaces.Box(-1, 1, (1,))}
        )
        action_space = spaces.Discrete(2)

    prompt = {"model": SOURCES["llama"], "prompt": lambda observation: f"Go to {observation['x'][0]:.0f}."}
    make_model(make_vec_env(Seen, 1), policy=prompt)
    with pytest.raises(ArgumentError, match="channels, expected 1 or 3"):
        make_model(make_vec_env(Seen, 1), policy={**prompt, "model": tiny()})


def test_a_rollout_of_nothing_but_nonsense_is_told_of_once(caplog):
    model = make_model()
    model.learn(24)
    (record,) = [record for record in caplog.records if "says an action" in record.message]
    assert "None of the 12 answers of this rollout says an action" in record.message
    assert "imitate()" in record.message


@pytest.mark.parametrize("weights", ["learned", "parser"])
def test_other_weights_may_be_loaded(weights, tmp_path):
    model = make_model(weights=weights)
    model.save(tmp_path / "model")
    for other in ("learned", "code", "parser", "uniform", None):
        loaded = CoSo.load(tmp_path / "model", env=model.env, weights=other)
        loaded.set_parameters(str(tmp_path / "model"))
        assert type(loaded.weights) is type(make_model(weights=other).weights)
        if weights == other == "learned":
            expected = model.causal_network.state_dict()
            assert all(th.equal(value, expected[name]) for name, value in loaded.causal_network.state_dict().items())
        for one, same in zip(loaded.policy.parameters(), model.policy.parameters(), strict=True):
            assert th.equal(one, same)


def test_weights_learn_for_one_model():
    weights = LearnedWeights()
    one, other = make_model(weights=weights), make_model(weights=weights)
    assert one.causal_network is not other.causal_network


def test_a_folder_is_found_from_elsewhere(tmp_path, monkeypatch):
    for part in tiny()():
        part.save_pretrained(tmp_path / "here" / "model")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    make_model(policy={"model": "model"}).save("saved")
    monkeypatch.chdir(tmp_path / "there")
    loaded = CoSo.load("../here/saved")
    # Somewhere else by now.
    (tmp_path / "here" / "model").rename(tmp_path / "there" / "model")
    with pytest.raises(ArgumentError, match=r"no folder .*model"):
        CoSo.load("../here/saved")
    CoSo.load("../here/saved", custom_objects={"policy_kwargs": {**loaded.policy_kwargs, "model": "model"}})


def test_without_transformers():
    code = """
import sys
sys.modules["transformers"] = None
import sb3_varl
try:
    import sb3_varl.coso
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "sb3_varl[coso]"' in result.stdout
