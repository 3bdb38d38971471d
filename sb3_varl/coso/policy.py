"""A policy that writes: its words are read as an action."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from PIL import Image
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.torch_layers import create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from sb3_varl.arguments import ArgumentError, check_bool, check_integer, check_number
from sb3_varl.coso.language_model import LanguageModel, Prompt, Source
from sb3_varl.coso.parsers import Choices, Parser
from sb3_varl.coso.utterances import Utterance


class VLMPolicy(BasePolicy):
    """
    A vision-language model, or one of language alone, as an actor-critic policy: it is shown the observation, writes
    an answer, and a parser reads the action from it. The value is a small network's on the hidden state at the end of
    the prompt, without a gradient into the language model.

    :param observation_space: Observation space; pictures in it, by themselves or as entries of a Dict, are shown
    :param action_space: Action space
    :param lr_schedule: Learning rate
    :param model: Name or folder of a model of transformers, image-text-to-text or causal, or a function without
        arguments that returns a model and its processor or tokenizer
    :param prompt: What to say to it: text, or a function of an observation (unbatched, as the policy sees it)
    :param actions: What reads actions from answers, for instance :class:`~sb3_varl.coso.Choices`, or its words
    :param lora: Rank of the adapters that are trained, or a configuration of peft; ``None`` trains all weights
    :param dtype: Of the model's weights, ``"auto"`` for that of the checkpoint
    :param gradient_checkpointing: Whether an update makes each layer's activations again in place of keeping them,
        which takes more time and less memory
    :param temperature: Of sampling, and of all probabilities and entropies
    :param max_new_tokens: Tokens of an answer at most
    :param thought_coef: By how much the log-probability of a token counts that comes before those that state the
        action (lambda of RL4VLM, https://arxiv.org/abs/2405.10292)
    :param mean_entropy: Whether an answer's weighted entropy is the mean over its tokens, as in CoSo's code, in place
        of the sum, as in the paper
    :param value_arch: Width of each layer of the value's network
    :param use_sde: Only to be ``False``: there is no Gaussian noise in words
    :param optimizer_class: Optimizer
    :param optimizer_kwargs: Its arguments
    :raises ArgumentError: if an argument is of the wrong kind
    :raises ValueError: if the parser does not cover the action space
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        *,
        model: Source,
        prompt: str | Callable[[Any], str],
        actions: Parser | Mapping[str, int],
        lora: Any = 16,
        dtype: str = "auto",
        gradient_checkpointing: bool = False,
        temperature: float = 0.2,
        max_new_tokens: int = 256,
        thought_coef: float = 0.5,
        mean_entropy: bool = False,
        value_arch: Sequence[int] = (256,),
        use_sde: bool = False,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            observation_space, action_space, optimizer_class=optimizer_class, optimizer_kwargs=optimizer_kwargs
        )
        if isinstance(actions, Mapping):
            actions = Choices(actions)
        _check(prompt, actions, value_arch, use_sde)
        check_number("temperature", temperature, above_low=True)
        check_integer("max_new_tokens", max_new_tokens)
        check_number("thought_coef", thought_coef, above_low=True)
        check_bool("mean_entropy", mean_entropy)
        check_bool("gradient_checkpointing", gradient_checkpointing)
        actions.check(action_space)
        self._arguments = {
            "model": model,
            "prompt": prompt,
            "actions": actions,
            "lora": lora,
            "dtype": dtype,
            "gradient_checkpointing": gradient_checkpointing,
            "temperature": temperature,
            "max_new_tokens": max_new_tokens,
            "thought_coef": thought_coef,
            "mean_entropy": mean_entropy,
            "value_arch": value_arch,
        }
        self.prompt, self.parser = prompt, actions
        self.thought_coef, self.mean_entropy = thought_coef, mean_entropy
        self.language = LanguageModel(
            model,
            lora=lora,
            dtype=dtype,
            gradient_checkpointing=gradient_checkpointing,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
        )
        self.images = _Images(observation_space if self.language.can_see else None)
        if isinstance(prompt, str) and not (self.language.can_see and len(self.images)):
            why = (
                "has no pictures (which are uint8, 0 to 255, so that VecNormalize needs norm_obs=False)"
                if self.language.can_see
                else "cannot be shown to a model without an image processor"
            )
            raise ArgumentError(
                f"The prompt is the same in every state, and the observation {why}: the model would know nothing of "
                "it. Give a function of the observation as the prompt."
            )
        width = self.language.width
        self.standardize = Standardize(width)
        self.value_net = nn.Sequential(*create_mlp(width, 1, list(value_arch)))
        self.utterances: Sequence[Utterance] = ()
        # Of the latest batch: by so much it counts where several make an update.
        self.n_evaluated = 0
        self.listener: Callable[[Sequence[Utterance]], None] | None = None
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        self.optimizer = self.optimizer_class(trained, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Act in the rollout.

        :param obs: Observations
        :param deterministic: Whether to write the likeliest tokens
        :return: Actions of the environment, values, and log-probabilities of what was written
        """
        observations = self._unbatch(obs)
        prompts = self.prompts(observations)
        utterances = self._write(observations, prompts, deterministic)
        scores = self.language.score(prompts, [utterance.tokens for utterance in utterances])
        for utterance, entropies in zip(utterances, scores.entropies.detach().cpu().numpy(), strict=True):
            utterance.entropies = entropies[: len(utterance.tokens)]
        if self.listener is not None:
            self.listener(utterances)
        self.standardize.remember(scores.hidden)
        log_prob = (scores.log_probs * self._coefficients(utterances, scores.log_probs)).sum(dim=1)
        return self._actions(utterances), self._value(scores.hidden), log_prob

    def evaluate_actions(self, obs: PyTorchObs, rows: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Evaluate what was written, with the gradient of the policy and of the value.

        :param obs: Observations, which the utterances have, too
        :param rows: Numbers of what was written about them, in :attr:`utterances`
        :return: Values, log-probabilities, and entropies weighted by token, which PPO takes for its entropy
        """
        # Not about those of the batch: SB3's buffer gives Discrete ones another shape than the rollout had.
        return self.evaluate([self.utterances[int(row)] for row in rows])

    def evaluate(self, written: Sequence[Utterance]) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Evaluate what was written, with the gradient of the policy and of the value.

        :param written: What was written, with what it is about
        :return: Values, log-probabilities, and entropies weighted by token
        """
        observations = [utterance.observation for utterance in written]
        scores = self.language.score(self.prompts(observations), [utterance.tokens for utterance in written])
        self.n_evaluated = len(written)
        log_prob = (scores.log_probs * self._coefficients(written, scores.log_probs)).sum(dim=1)
        return self._value(scores.hidden), log_prob, self.weighted_entropy(written, scores.entropies)

    def weighted_entropy(self, utterances: Sequence[Utterance], entropies: th.Tensor) -> th.Tensor:
        """
        Weigh entropies: H_B = sum_i B_i H(y_i | y_<i), eq. 7 of CoSo, without a gradient into the weights.

        :param utterances: What was written, with the weights of its tokens
        :param entropies: Entropy of each token, ``(n, length)``
        :return: One number for each, ``(n,)``
        """
        weights = th.zeros_like(entropies)
        for i, utterance in enumerate(utterances):
            weights[i, : len(utterance.weights)] = th.as_tensor(utterance.weights, device=entropies.device)
        total = (weights * entropies).sum(dim=1)
        if self.mean_entropy:
            total = total / th.tensor([len(utterance.tokens) for utterance in utterances], device=total.device)
        return total

    def predict_values(self, obs: PyTorchObs) -> th.Tensor:
        """
        Estimate values.

        :param obs: Observations
        :return: A value for each, ``(n, 1)``
        """
        prompts = self.prompts(self._unbatch(obs))
        return self._value(self.language.score(prompts, [[]] * len(prompts)).hidden)

    def write(self, obs: PyTorchObs, deterministic: bool = False) -> list[Utterance]:
        """
        Answer.

        :param obs: Observations
        :param deterministic: Whether to write the likeliest tokens
        :return: What was written about each
        """
        observations = self._unbatch(obs)
        return self._write(observations, self.prompts(observations), deterministic)

    def prompts(self, observations: Sequence[Any]) -> list[Prompt]:
        """
        Say what the model is asked.

        :param observations: Observations as the policy sees them, unbatched
        :return: Its prompts
        :raises ArgumentError: if the prompt is a function that returns something else than text
        """
        return [Prompt(self._text(observation), self.images.of(observation)) for observation in observations]

    def _text(self, observation: Any) -> str:
        text = self.prompt if isinstance(self.prompt, str) else self.prompt(observation)
        if not isinstance(text, str):
            raise ArgumentError(f"prompt is a function that returned {text!r}, expected text.")
        return text

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """
        Give what is trained: adapters and heads, and not the base model.

        :return: Parameters by name
        """
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        trained |= {f"standardize.{name}" for name, _ in self.standardize.named_buffers()}
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in trained}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """
        Take what was trained.

        :param state_dict: What :meth:`state_dict` gave
        :param strict: Whether all of it has to be there, and nothing else
        :param assign: As in torch
        :return: What did not fit
        :raises RuntimeError: if something does not fit, and that matters
        """
        if strict:
            expected, given = set(self.state_dict()), set(state_dict)
            if expected != given:
                raise RuntimeError(
                    f"This is another model's: {len(expected - given)} of its parameters are missing "
                    f"({', '.join(sorted(expected - given)[:3])}), and {len(given - expected)} are foreign "
                    f"({', '.join(sorted(given - expected)[:3])})."
                )
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def _value(self, hidden: th.Tensor) -> th.Tensor:
        return self.value_net(self.standardize(hidden))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        spaces_and_optimizer = super()._get_constructor_parameters()
        del spaces_and_optimizer["normalize_images"]
        optimizer = {"optimizer_class": self.optimizer_class, "optimizer_kwargs": self.optimizer_kwargs}
        # The schedule is SB3's placeholder, too: whoever loads a policy by itself gives it another.
        return {**spaces_and_optimizer, "lr_schedule": _no_schedule, **self._arguments, **optimizer}

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        return self._actions(self.write(observation, deterministic))

    def _write(self, observations: list[Any], prompts: list[Prompt], deterministic: bool) -> list[Utterance]:
        answers = self.language.write(prompts, deterministic)
        return [self._read(tokens, observation) for tokens, observation in zip(answers, observations, strict=True)]

    def _read(self, tokens: list[int], observation: Any) -> Utterance:
        text = self.language.decode(tokens)
        reading = self.parser.read(text, observation)
        n_thoughts = len(tokens)
        if reading is not None:
            starts = self.language.starts(tokens) if reading.start else [0]
            n_thoughts = max(i for i, start in enumerate(starts) if start <= reading.start)
        return Utterance(tokens, text, observation, reading, n_thoughts)

    def _actions(self, utterances: Sequence[Utterance]) -> th.Tensor:
        readings = [utterance.reading for utterance in utterances]
        actions = [self.parser.fallback if reading is None else reading.action for reading in readings]
        return th.as_tensor(np.stack(actions).astype(self.action_space.dtype), device=self.device)

    def _coefficients(self, utterances: Sequence[Utterance], log_probs: th.Tensor) -> th.Tensor:
        coefficients = th.ones_like(log_probs)
        for i, utterance in enumerate(utterances):
            coefficients[i, : utterance.n_thoughts] = self.thought_coef
        return coefficients

    def _unbatch(self, obs: PyTorchObs) -> list[Any]:
        if isinstance(obs, dict):
            entries = {name: value.cpu().numpy().copy() for name, value in obs.items()}
            n = len(next(iter(entries.values())))
            return [{name: value[i] for name, value in entries.items()} for i in range(n)]
        # Some environments write into the same array at each step.
        return list(obs.cpu().numpy().copy())


class Standardize(nn.Module):
    """
    Gives features a mean of 0 and a standard deviation of 1 over the states that were visited. At the end of a prompt
    most of a hidden state is the same in all of them.

    :param width: Number of features
    """

    mean: th.Tensor
    m2: th.Tensor
    n: th.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", th.zeros(width))
        self.register_buffer("m2", th.ones(width))
        self.register_buffer("n", th.ones(()))
        self._seen: list[th.Tensor] = []

    def remember(self, features: th.Tensor) -> None:
        """
        Take note of features, without an effect before :meth:`settle`, so that all values of a rollout are alike.

        :param features: Those of some states, ``(n, width)``
        """
        self._seen.append(features)

    def settle(self) -> None:
        """Learn from what was remembered."""
        if not self._seen:
            return
        features = th.cat(self._seen)
        self._seen = []
        n = len(features)
        shift = features.mean(dim=0) - self.mean
        self.m2 += ((features - features.mean(dim=0)) ** 2).sum(dim=0) + shift**2 * self.n * n / (self.n + n)
        self.mean += shift * n / (self.n + n)
        self.n += n

    def forward(self, features: th.Tensor) -> th.Tensor:
        """
        Standardize features.

        :param features: Those of some states, ``(n, width)``
        :return: The same, standardized
        """
        return (features - self.mean) / (self.m2 / self.n + 1e-8).sqrt()


class _Images:
    """
    The pictures in observations.

    :param space: Observation space; ``None`` where nobody looks at it
    """

    def __init__(self, space: spaces.Space | None) -> None:
        entries = dict(space.spaces) if isinstance(space, spaces.Dict) else {None: space} if space is not None else {}
        self._channels_first = {
            name: is_image_space_channels_first(entry)  # type: ignore[arg-type]
            for name, entry in entries.items()
            if is_image_space(entry)
        }
        for name, channels_first in self._channels_first.items():
            n_channels = entries[name].shape[0 if channels_first else -1]  # type: ignore[index]
            if n_channels not in (1, 3):
                raise ArgumentError(
                    f"A picture has {n_channels} channels, expected 1 or 3. Give the model one frame, not a stack."
                )

    def __len__(self) -> int:
        return len(self._channels_first)

    def of(self, observation: Any) -> tuple[Image.Image, ...]:
        """
        Take the pictures out of an observation.

        :param observation: An observation, unbatched
        :return: Its pictures
        """
        return tuple(
            _picture(observation if name is None else observation[name], channels_first)
            for name, channels_first in self._channels_first.items()
        )


def _picture(array: np.ndarray, channels_first: bool) -> Image.Image:
    array = np.moveaxis(array, 0, -1) if channels_first else array
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).convert("RGB")


def _check(prompt: Any, actions: Any, value_arch: Any, use_sde: bool) -> None:
    if not (callable(prompt) or (isinstance(prompt, str) and prompt.strip())):
        raise ArgumentError(f"prompt is {prompt!r}, expected text, or a function of an observation that returns text.")
    if isinstance(actions, type) or not all(
        callable(getattr(actions, name, None)) for name in ("check", "read", "write")
    ):
        raise ArgumentError(f'actions is {actions!r}, expected a parser such as Choices({{"+": 1, "-": 0}}).')
    if isinstance(value_arch, str) or not isinstance(value_arch, Sequence):
        raise ArgumentError(f"value_arch is {value_arch!r}, expected widths of layers such as (256,).")
    for width in value_arch:
        check_integer("a width in value_arch", width)
    if use_sde:
        raise ArgumentError("use_sde is True, but a policy that writes has no Gaussian noise.")


def _no_schedule(progress_remaining: float) -> float:
    return 0.0
