"""What algorithms have in common whose policy writes: words beside the rollout, and weights of their tokens."""

import copy
import io
import logging
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import MaybeCallback

from sb3_varl.arguments import ArgumentError, check_integer, check_number
from sb3_varl.coso.causal import LearnedWeights
from sb3_varl.coso.policy import VLMPolicy
from sb3_varl.coso.utterances import DictUtteranceBuffer, Utterance, UtteranceBuffer
from sb3_varl.coso.weights import ParserWeights, TokenWeights, UniformWeights
from sb3_varl.saving import held_signals, replacing_path

logger = logging.getLogger(__name__)

SelfWriting = TypeVar("SelfWriting", bound="Writing")

WEIGHTS = {
    "learned": LearnedWeights,
    "code": LearnedWeights.as_in_code,
    "parser": ParserWeights,
    "uniform": UniformWeights,
}


class Writing(OnPolicyAlgorithm):
    """
    An on-policy algorithm of SB3 whose policy writes. Goes before the algorithm among the bases of a class.

    :param args: Arguments of the algorithm
    :param weights: How tokens are weighed, a name, ``None`` or a :class:`~sb3_varl.coso.TokenWeights`
    :param unparsed_penalty: What an answer that says no action costs
    :param accumulate: How many batches make an update
    :param kwargs: Further arguments of the algorithm
    :raises ArgumentError: if an argument is of the wrong kind
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"VLMPolicy": VLMPolicy}
    policy: VLMPolicy  # type: ignore[assignment]
    rollout_buffer: UtteranceBuffer | DictUtteranceBuffer

    def __init__(
        self, *args: Any, weights: str | TokenWeights | None, unparsed_penalty: float, accumulate: int, **kwargs: Any
    ) -> None:
        check_number("unparsed_penalty", unparsed_penalty)
        check_integer("accumulate", accumulate)
        for name in ("n_steps", "batch_size", "n_epochs"):
            if name in kwargs:
                check_integer(name, kwargs[name])
        for name, high in (("gamma", 1.0), ("gae_lambda", 1.0), ("ent_coef", math.inf), ("vf_coef", math.inf)):
            if name in kwargs:
                check_number(name, kwargs[name], high=high)
        if kwargs["max_grad_norm"] != math.inf:
            check_number("max_grad_norm", kwargs["max_grad_norm"], above_low=True, alternative="math.inf")
        self.weights: TokenWeights | None = weights  # type: ignore[assignment]
        self.unparsed_penalty, self.accumulate = unparsed_penalty, accumulate
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        if self.rollout_buffer_class is None:
            is_dict = isinstance(self.observation_space, spaces.Dict)
            self.rollout_buffer_class = DictUtteranceBuffer if is_dict else UtteranceBuffer
        elif not issubclass(self.rollout_buffer_class, UtteranceBuffer | DictUtteranceBuffer):
            raise ArgumentError(
                f"rollout_buffer_class is {self.rollout_buffer_class!r}, expected None, or a class derived from "
                "UtteranceBuffer or DictUtteranceBuffer, which keep words."
            )
        self.weights = _weights(self.weights)
        self._told_of_unparsed = False
        source = self.policy_kwargs.get("model")
        if isinstance(source, str) and pathlib.Path(source).is_dir():
            # So that what is saved can be loaded elsewhere.
            self.policy_kwargs = {**self.policy_kwargs, "model": str(pathlib.Path(source).absolute())}
        super()._setup_model()
        if not isinstance(self.policy, VLMPolicy):
            raise ArgumentError(f"policy is {self.policy_class!r}, expected VLMPolicy or a class derived from it.")
        if self.weights is not None:
            self.weights.prepare(self.policy)

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> bool:
        """
        Have the policy write.

        :param args: As of SB3's on-policy algorithms
        :param kwargs: Likewise
        :return: Whether to go on
        """
        self.rollout_buffer.unparsed_penalty = self.unparsed_penalty
        self.policy.listener = self.rollout_buffer.hear
        try:
            return super().collect_rollouts(*args, **kwargs)
        finally:
            self.policy.listener = None

    def dump_logs(self, iteration: int = 0) -> None:
        """
        Write the logs, whole lines of them: a first Ctrl-C waits.

        :param iteration: Number of rollouts so far
        """
        with held_signals():
            super().dump_logs(iteration)

    def learn(
        self: SelfWriting,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfWriting:
        """
        Train, as any algorithm of SB3.

        :param total_timesteps: Steps of all environments
        :param callback: Callbacks
        :param log_interval: Rollouts from one log to the next
        :param tb_log_name: Name of the run in TensorBoard; ``None`` for that of the class
        :param reset_num_timesteps: Whether to count steps anew
        :param progress_bar: Whether to show one
        :return: The model
        """
        name = type(self).__name__ if tb_log_name is None else tb_log_name
        super().learn(total_timesteps, callback, log_interval, name, reset_num_timesteps, progress_bar)
        self._after_learning()
        return self

    def _after_learning(self) -> None:
        """Say what there is to say when training came to its end."""

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save what was learnt to a zip file. A crash meanwhile leaves an older file of that name as it was.

        :param path: Where to; ``.zip`` is appended if there is no suffix
        :param exclude: Attributes that are left out besides those that always are
        :param include: Attributes that are not left out
        """
        with replacing_path(path, "zip") as partial:
            super().save(partial, exclude, include)

    def weigh(self, utterances: list[Utterance]) -> None:
        """
        Weigh what was written in a rollout, and log what it was like.

        :param utterances: What was written; gets its weights
        """
        self.policy.standardize.settle()
        described: dict[str, float] = {}
        if self.weights is not None:
            described |= self.weights.fit(utterances)
            for utterance, weights in zip(utterances, self.weights.weigh(utterances), strict=True):
                utterance.weights = weights
        described |= describe(utterances)
        if described["unparsed"] == 1 and not self._told_of_unparsed:
            self._told_of_unparsed = True
            logger.warning(
                "None of the %d answers of this rollout says an action, and the fallback was executed in their place. "
                "A model that does not write the format by itself has to be taught it first, with imitate(). One of "
                "them: %.300r",
                len(utterances),
                utterances[0].text,
            )
        for name, value in described.items():
            self.logger.record(f"coso/{name}", value)

    def set_parameters(
        self, load_path_or_dict: str | Mapping[str, Any], exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """
        Take what was trained. Where only one of the two has a causal model, that of this model stays as it is.

        :param load_path_or_dict: A saved model, or its parameters
        :param exact_match: Whether all else has to be there
        :param device: Device
        """
        parameters: Any = load_path_or_dict
        if not isinstance(parameters, dict):
            _, parameters, _ = load_from_zip_file(parameters, device=device, load_data=False)
        own = {name: value for name, value in self.get_parameters().items() if name.startswith("causal_")}
        given = {name: value for name, value in parameters.items() if name.startswith("causal_")}
        merged: dict[str, Any] = {name: value for name, value in parameters.items() if name not in given}
        merged |= given if given.keys() == own.keys() else own
        super().set_parameters(merged, exact_match, device)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, variables = super()._get_torch_save_params()
        learns = ["causal_network", "causal_optimizer"] if isinstance(self.weights, LearnedWeights) else []
        return [*state_dicts, *learns], variables

    @property
    def causal_network(self) -> Any:
        """The causal model, if the weights are learned; saved apart from their settings."""
        return getattr(self.weights, "network", None)

    @property
    def causal_optimizer(self) -> Any:
        """Its optimizer."""
        return getattr(self.weights, "optimizer", None)


def refuse_normalized(model: Writing) -> None:
    """
    Refuse a model that sees other observations than those that it is told of here.

    :param model: The model
    :raises ArgumentError: if it is no model that writes, or its environment normalizes observations
    """
    if not isinstance(model, Writing):
        raise ArgumentError(f"model is {model!r}, expected a CoSo or a CoSoAWR.")
    normalize = model.get_vec_normalize_env()
    if normalize is not None and normalize.norm_obs:
        raise ArgumentError(
            "The model's environment normalizes observations, and prompts are about them as they are. Take "
            "VecNormalize(env, norm_obs=False)."
        )


def describe(utterances: Sequence[Utterance]) -> dict[str, float]:
    """
    Describe what was written in a rollout.

    :param utterances: What was written
    :return: ``unparsed``, the share that says no action; ``length`` in tokens; and of the others the mean entropy and
        weight of a token, for those that state the action and for the thoughts before them
    """
    readable = [utterance for utterance in utterances if utterance.reading is not None]
    described = {
        "unparsed": 1 - len(readable) / len(utterances),
        "length": float(np.mean([len(utterance.tokens) for utterance in utterances])),
    }
    for kind in ("thoughts", "action"):
        for name in ("entropies", "weights"):
            parts = [_part(utterance, kind, getattr(utterance, name)) for utterance in readable]
            values = np.concatenate(parts) if parts else np.zeros(0)
            if values.size:
                described[f"{kind}_{name}"] = float(values.mean())
    return described


def _part(utterance: Utterance, kind: str, values: np.ndarray) -> np.ndarray:
    return values[: utterance.n_thoughts] if kind == "thoughts" else values[utterance.n_thoughts :]


def _weights(given: Any) -> TokenWeights | None:
    if given is None:
        return None
    if isinstance(given, TokenWeights) and not isinstance(given, type):
        # What it learns is of one model.
        return copy.deepcopy(given)
    if isinstance(given, str) and given in WEIGHTS:
        return WEIGHTS[given]()  # type: ignore[operator]
    names = ", ".join(f'"{name}"' for name in WEIGHTS)
    raise ArgumentError(f"weights is {given!r}, expected {names}, None or a TokenWeights.")
