"""Models of a few thousand weights, and what the tests of CoSo do with them."""

import numpy as np
import transformers
from stable_baselines3.common.env_util import make_vec_env
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from sb3_varl.coso import Choices, CoSo, NumberLine, Reading, TinyVLM
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


def gradients(policy):
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


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


def make_idefics3():
    """One with eyes whose pictures stand between tokens of their own, as those of SmolVLM do."""
    tokenizer = tiny()()[1].tokenizer
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<fake_token_around_image>", "<image>", "<global-img>"]}
    )
    eyes = Idefics3ImageProcessorPil(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 32}, do_image_splitting=False
    )
    tokens = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    config = transformers.Idefics3Config(
        vision_config={**SMALL, "image_size": 32, "patch_size": 8},
        text_config={"model_type": "llama", **SMALL, **tokens},
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    processor = transformers.Idefics3Processor(eyes, tokenizer, image_seq_len=4)
    return transformers.Idefics3ForConditionalGeneration(config), processor


SOURCES = {
    "llava": tiny(),
    "idefics3": make_idefics3,
    "llama": make_llama,
    "gpt2": make_gpt2,
    "chat": make_chat,
}


def uttered(tokens, reading=0):
    classes = None if reading is None else Reading(np.array(reading), (reading,))
    return Utterance(list(tokens), "", None, classes, 0)
