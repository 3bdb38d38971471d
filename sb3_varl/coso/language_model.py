"""A language model, with or without eyes: what it writes, and how likely that was."""

import inspect
import pathlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch as th
from peft import LoraConfig, PeftConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from PIL import Image
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from sb3_varl.arguments import ArgumentError, check_integer

# Those whose prompts look ahead, or whose pictures are attended to apart from the sequence.
_UNSUITED = frozenset({"paligemma", "mllama"})

# Of so many logits the distributions are held at once, in float32 and several copies.
_LOGITS_AT_ONCE = 2**25

_DTYPES = ("auto", "float32", "bfloat16", "float16")

Source = str | Callable[[], tuple[Any, Any]]


class Prompt(NamedTuple):
    """
    What is put to the model.

    :param text: The words
    :param images: The pictures, which go first
    """

    text: str
    images: tuple[Image.Image, ...] = ()


class Scores(NamedTuple):
    """
    How likely answers are, token by token, shape ``(n_answers, longest answer)``. Behind an answer's end all is 0.

    :param log_probs: Log-probability of each token, after all before it
    :param entropies: Entropy of the distribution that each was drawn from, over the whole vocabulary, in nats
    :param hidden: The model's last hidden state at the end of each prompt, ``(n_answers, width)``, detached
    """

    log_probs: th.Tensor
    entropies: th.Tensor
    hidden: th.Tensor


class LanguageModel(nn.Module):
    """
    A model of transformers with its processor or tokenizer.

    Special tokens can neither be written nor counted, but for those that end an answer. What the checkpoint says about
    sampling (``top_k`` and the like) is dropped, so that what is sampled has the probabilities of :meth:`score`.

    :param source: Name or folder of a model, as ``from_pretrained`` takes it, or a function that returns the model and
        its processor
    :param lora: Rank of adapters on all linear layers, or a configuration of peft; ``None`` trains all weights
    :param dtype: Of the base model's weights; ``"auto"`` for that of the checkpoint, or float32 where all weights are
        trained, which 16 bits round to nothing. Adapters are float32 in any case
    :param gradient_checkpointing: Whether an update makes each layer's activations again in place of keeping them
    :param temperature: Of the distribution that tokens are drawn from, and that probabilities and entropies are of
    :param max_new_tokens: An answer's tokens at most
    :raises ArgumentError: if the source is something else
    """

    def __init__(
        self,
        source: Source,
        *,
        lora: Any = None,
        dtype: str = "auto",
        gradient_checkpointing: bool = False,
        temperature: float,
        max_new_tokens: int,
    ) -> None:
        super().__init__()
        model, processor = _load(source, "float32" if lora is None and dtype == "auto" else dtype)
        _check_architecture(model)
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.can_see = hasattr(processor, "image_processor")
        self.temperature, self.max_new_tokens = float(temperature), max_new_tokens
        # The first one ends the answers that are imitated.
        ends = [*_ids(self.tokenizer.eos_token_id), *_ids(model.generation_config.eos_token_id)]
        self.ends = list(dict.fromkeys(ends))
        if not self.ends:
            raise ArgumentError("The model has no token that ends an answer: its tokenizer needs an eos_token.")
        self.pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.ends[0]
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.convert_ids_to_tokens(self.pad)
        model.generation_config = GenerationConfig()
        if lora is not None:
            _add_adapters(model, lora)
        self.model = model.eval()
        if gradient_checkpointing:
            _checkpoint_gradients(model)
        self._takes_logits_to_keep = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.forbidden: th.Tensor
        self.register_buffer("forbidden", self._find_forbidden(), persistent=False)
        # By thread: an advisor may write while training reads.
        self._hidden: dict[int, th.Tensor] = {}
        model.get_output_embeddings().register_forward_pre_hook(self._remember_hidden)

    def train(self, mode: bool = True) -> "LanguageModel":
        """Stay as it is: with dropout, probabilities would be others in an update than they were in the rollout."""
        return self

    @property
    def width(self) -> int:
        """Width of the hidden states."""
        return int(self.model.get_output_embeddings().in_features)

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens, with those that no tokenizer writes."""
        return int(self.model.get_output_embeddings().out_features)

    def write(self, prompts: Sequence[Prompt], greedy: bool = False) -> list[list[int]]:
        """
        Answer prompts.

        :param prompts: The prompts
        :param greedy: Whether to take the likeliest token each time
        :return: The tokens of each answer, with the one that ends it unless it was cut off
        :raises MemoryError: if there is not enough memory for all of them at once
        """
        inputs = self._encode(prompts)
        sampling = {"do_sample": False} if greedy else {"do_sample": True, "temperature": self.temperature}
        config = GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            eos_token_id=self.ends,
            pad_token_id=self.pad,
            **sampling,
            **({} if greedy else {"top_k": 0, "top_p": 1.0}),
        )
        processors = LogitsProcessorList([_Forbid(self.forbidden)])
        with (
            _memory(f"write {len(prompts)} answers of up to {self.max_new_tokens} tokens", "fewer environments"),
            th.no_grad(),
        ):
            try:
                written = self.model.generate(**inputs, generation_config=config, logits_processor=processors)
            finally:
                self._hidden.pop(threading.get_ident(), None)
        start = inputs["input_ids"].shape[1]
        return [self._until_end(tokens) for tokens in written[:, start:].tolist()]

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]]) -> Scores:
        """
        Say how likely answers are. All of them are padded behind, so that neither their company nor the model's way to
        count positions matters.

        :param prompts: The prompts
        :param answers: The tokens of an answer to each; may be empty
        :return: Log-probabilities, entropies, and hidden states at the prompts' ends
        """
        inputs = self._encode(prompts)
        n_prompt = inputs["attention_mask"].sum(dim=1)
        written = [th.tensor(list(answer), dtype=th.long, device=n_prompt.device) for answer in answers]
        whole: dict[str, Any] = {**inputs, **self._append(inputs, written)}
        if self._takes_logits_to_keep:
            whole["logits_to_keep"] = whole["input_ids"].shape[1] - int(n_prompt.min()) + 1
        with _memory(f"read {len(prompts)} answers of up to {self.max_new_tokens} tokens", "a smaller batch_size"):
            try:
                logits = self.model(**whole, use_cache=False).logits
            finally:
                hidden = self._hidden.pop(threading.get_ident(), None)
        assert hidden is not None
        before = n_prompt - 1 - (whole["input_ids"].shape[1] - logits.shape[1])

        rows = th.arange(len(prompts), device=before.device)
        tokens = pad_sequence(written, batch_first=True, padding_value=0)
        places = before[:, None] + th.arange(tokens.shape[1], device=before.device)
        lengths = th.tensor([len(answer) for answer in written], device=before.device)
        is_token = th.arange(tokens.shape[1], device=before.device) < lengths[:, None]
        # A few answers at a time, made again for the gradient: a vocabulary is wide.
        n_at_once = max(1, _LOGITS_AT_ONCE // max(1, tokens.shape[1] * logits.shape[2]))
        parts = [part.split(n_at_once) for part in (logits, places.clamp(max=logits.shape[1] - 1), tokens)]
        is_whole = n_at_once >= len(prompts)
        of_parts = [
            self._read_off(*part)
            if is_whole
            else checkpoint(self._read_off, *part, use_reentrant=False, preserve_rng_state=False)
            for part in zip(*parts, strict=True)
        ]
        log_probs, entropies = (th.cat(values).masked_fill(~is_token, 0.0) for values in zip(*of_parts, strict=True))
        return Scores(log_probs, entropies, hidden[rows, before].detach().float())

    def _read_off(self, logits: th.Tensor, places: th.Tensor, tokens: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Say how likely the tokens at some places are, and what the entropy is there."""
        chosen = logits[th.arange(len(places), device=places.device)[:, None], places].float() / self.temperature
        distribution = chosen.masked_fill(self.forbidden, -th.inf).log_softmax(dim=-1)
        # What is forbidden has a probability of 0, and 0 log 0 is 0.
        finite = distribution.masked_fill(self.forbidden, 0.0)
        return distribution.gather(-1, tokens[..., None]).squeeze(-1), -(distribution.exp() * finite).sum(dim=-1)

    def encode(self, text: str) -> list[int]:
        """
        Say which tokens an answer is.

        :param text: The answer
        :return: Its tokens, with one that ends it
        """
        return [*self.tokenizer.encode(text, add_special_tokens=False), self.ends[0]]

    def decode(self, tokens: Sequence[int]) -> str:
        """
        Say which text tokens are.

        :param tokens: An answer's tokens
        :return: The text, without special tokens
        """
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def starts(self, tokens: Sequence[int]) -> list[int]:
        """
        Say where tokens begin in their text.

        :param tokens: An answer's tokens
        :return: For each, the number of characters before it
        """
        return [len(self.decode(tokens[:i])) for i in range(len(tokens))]

    def _encode(self, prompts: Sequence[Prompt]) -> dict[str, th.Tensor]:
        texts = [self._in_template(prompt) for prompt in prompts]
        has_template = self._template is not None
        options = {
            "padding": True,
            "padding_side": "left",
            "return_tensors": "pt",
            "add_special_tokens": not has_template,
        }
        images = [list(prompt.images) for prompt in prompts]
        encoded = (
            self.processor(text=texts, images=images if any(images) else None, **options)
            if self.can_see
            else self.tokenizer(texts, **options)
        )
        encoded.pop("labels", None)
        if not self.can_see:
            encoded.pop("token_type_ids", None)
        weight = next(self.model.parameters())
        return {
            name: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
            for name, value in encoded.items()
        }

    @property
    def _template(self) -> Any:
        return getattr(self.processor, "chat_template", None) or getattr(self.tokenizer, "chat_template", None)

    def _in_template(self, prompt: Prompt) -> str:
        content: Any = f"{getattr(self.processor, 'image_token', '')}\n" * len(prompt.images) + prompt.text
        if self._template is None:
            return f"{content}\n"
        template = self.processor if getattr(self.processor, "chat_template", None) else self.tokenizer
        if template is self.processor and self.can_see:
            content = [*({"type": "image"} for _ in prompt.images), {"type": "text", "text": prompt.text}]
        messages = [{"role": "user", "content": content}]
        return str(template.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def _append(self, inputs: dict[str, th.Tensor], answers: list[th.Tensor]) -> dict[str, th.Tensor]:
        """Put the answers behind the prompts, and the padding behind both."""
        is_prompt = inputs["attention_mask"].bool()
        appended = {}
        for name, value in inputs.items():
            if value.shape == is_prompt.shape and not value.is_floating_point():
                fill = self.pad if name == "input_ids" else 0
                rows = [
                    th.cat(
                        [row[kept], answer if name == "input_ids" else th.full_like(answer, name == "attention_mask")]
                    )
                    for row, kept, answer in zip(value, is_prompt, answers, strict=True)
                ]
                appended[name] = pad_sequence(rows, batch_first=True, padding_value=fill)
        return appended

    def _until_end(self, tokens: list[int]) -> list[int]:
        end = next((i for i, token in enumerate(tokens) if token in self.ends), len(tokens) - 1)
        return tokens[: end + 1]

    def _find_forbidden(self) -> th.Tensor:
        forbidden = th.zeros(self.vocabulary_size, dtype=th.bool)
        forbidden[max(self.tokenizer.get_vocab().values()) + 1 :] = True
        special = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        media = {getattr(self.processor, f"{kind}_token_id", None) for kind in ("image", "video", "audio")}
        for token in special | set(self.tokenizer.all_special_ids) | media:
            if token is not None and token < len(forbidden) and token not in self.ends:
                forbidden[token] = True
        return forbidden

    def _remember_hidden(self, module: nn.Module, inputs: tuple[th.Tensor, ...]) -> None:
        self._hidden[threading.get_ident()] = inputs[0].detach()


@contextmanager
def _memory(task: str, remedy: str) -> Iterator[None]:
    """Say what to do where memory does not suffice."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, th.OutOfMemoryError) and "not enough memory" not in str(error):
            raise
        raise MemoryError(
            f"Not enough memory to {task} at once. Nothing is lost: save() works. Take {remedy}, a lower "
            "max_new_tokens, smaller pictures, a smaller dtype or, to learn, gradient_checkpointing=True."
        ) from error


class _Forbid(LogitsProcessor):
    def __init__(self, forbidden: th.Tensor) -> None:
        self._forbidden = forbidden

    def __call__(self, input_ids: th.Tensor, scores: th.Tensor) -> th.Tensor:
        return scores.masked_fill(self._forbidden.to(scores.device), -th.inf)


def _load(source: Source, dtype: str) -> tuple[Any, Any]:
    if dtype not in _DTYPES:
        raise ArgumentError(f"dtype is {dtype!r}, expected {', '.join(map(repr, _DTYPES))}.")
    if callable(source):
        made = source()
        if not isinstance(made, tuple | list) or len(made) != 2:
            raise ArgumentError(f"model is a function that returned {made!r}, expected a model and its processor.")
        model, processor = made
        return (model if dtype == "auto" else model.to(getattr(th, dtype))), processor
    if not isinstance(source, str):
        raise ArgumentError(
            f"model is {source!r}, expected the name or folder of a model, or a function that returns a model and its "
            "processor. A model itself will not do: saved models say where theirs comes from, and do not hold it."
        )
    is_path = source.startswith((".", "~")) or pathlib.Path(source).is_absolute()
    if is_path and not pathlib.Path(source).is_dir():
        raise ArgumentError(
            f"There is no folder {source}, where the model is to come from. Where it is somewhere else by now, give "
            'all policy_kwargs with its new place: load(..., custom_objects={"policy_kwargs": {"model": ..., ...}}).'
        )
    config = AutoConfig.from_pretrained(source)
    sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    kind = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    return kind.from_pretrained(source, dtype=dtype), AutoProcessor.from_pretrained(source)


def _check_architecture(model: Any) -> None:
    if model.config.model_type in _UNSUITED or getattr(model.config, "is_encoder_decoder", False):
        raise ArgumentError(
            f"A model of the kind {model.config.model_type} does not write one token after the other from prompt and "
            "pictures in one sequence. Take a decoder-only one, such as those of the kinds llava, idefics3 or qwen2_vl."
        )
    if not isinstance(model.get_output_embeddings(), nn.Linear):
        raise ArgumentError(
            f"{type(model).__name__} has no linear layer before its logits, which the value is read from."
        )


def _checkpoint_gradients(model: Any) -> None:
    """Have layers keep no activations. They do that in training only, where some of them would drop out."""
    model.activation_checkpointing_enable()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True
            for name, value in vars(module).items():
                if "drop" in name and isinstance(value, float):
                    setattr(module, name, 0.0)


def _add_adapters(model: nn.Module, lora: Any) -> None:
    """Let adapters learn, and nothing else."""
    if not isinstance(lora, PeftConfig):
        check_integer("lora", lora)
        lora = LoraConfig(r=lora, lora_alpha=2 * lora, lora_dropout=0.0, target_modules="all-linear")
    inject_adapter_in_model(lora, model)
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            for name in module.adapter_layer_names:
                getattr(module, name).float()


def _ids(value: Any) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else list(value)
