"""What makes SB3's gradient updates faster from outside, while they run."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch as th
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.type_aliases import TensorDict
from torch import nn

from sb3_varl.algorithms.shaping_term import ShapingTerm, evaluation_mode, gaussian


@contextlib.contextmanager
def constant_critic(critic: ContinuousCritic, actor_optimizer: th.optim.Optimizer) -> Iterator[None]:
    """
    Treat the critic's parameters as constants where its value is maximised over the actions.

    The actor's loss goes through the critic, and its backward pass would compute gradients of the critic's parameters,
    which SB3 throws away before it updates the critic. Not one bit of what is learnt changes.

    :param critic: A critic with its optimizer
    :param actor_optimizer: If it shares parameters with the critic, they are no constants
    """
    actors = {id(parameter) for group in actor_optimizer.param_groups for parameter in group["params"]}
    parameters = [
        parameter
        for group in critic.optimizer.param_groups
        for parameter in group["params"]
        if id(parameter) not in actors
    ]
    frozen: list[nn.Parameter] = []

    def freeze(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        if any(isinstance(tensor, th.Tensor) and tensor.requires_grad for tensor in inputs):
            frozen.extend(parameter for parameter in parameters if parameter.requires_grad)
            for parameter in frozen:
                parameter.requires_grad_(False)

    def unfreeze(*_: Any) -> None:
        for parameter in frozen:
            parameter.requires_grad_(True)
        frozen.clear()

    hooks = critic.register_forward_pre_hook(freeze), critic.register_forward_hook(unfreeze, always_call=True)
    try:
        yield
    finally:
        # always_call does not count for Ctrl-C.
        unfreeze()
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def fused_adam(optimizers: Iterable[th.optim.Optimizer]) -> Iterator[None]:
    """
    Let Adam update each tensor in one pass instead of ten. Changes what is learnt in the last digits.

    Left alone are other optimizers, other devices than the CPU, and settings that the user has made.

    :param optimizers: The optimizers
    """
    groups = [
        group
        for optimizer in optimizers
        if type(optimizer) in (th.optim.Adam, th.optim.AdamW)
        for group in optimizer.param_groups
        if group["fused"] is None
        and not (group["foreach"] or group["capturable"] or group["differentiable"])
        and all(parameter.device.type == "cpu" for parameter in group["params"])
    ]
    for group in groups:
        group["fused"] = True
    try:
        yield
    finally:
        for group in groups:
            group["fused"] = None


@contextlib.contextmanager
def flushed_denormals() -> Iterator[None]:
    """
    Take numbers below 1e-38 for zero, on the CPU and in this thread.

    The first moments that Adam keeps for units that have died end up there and stay (a quarter of the actor's, after
    11 000 steps of the quickstart), and computing with them takes longer.
    No step that a parameter takes is that small.
    """
    flushed_before = bool(th.full((), 1e-40) == 0)
    th.set_flush_denormal(True)
    try:
        yield
    finally:
        th.set_flush_denormal(flushed_before)


class SparseShapingTerm(ShapingTerm):
    """The shaping term, with a backward pass of those rows only whose gate is open. Looking costs nothing on a CPU."""

    def add_gradient(self, *_: Any) -> None:
        batch = self.sample()
        with evaluation_mode(self.model.policy):
            with th.no_grad():
                gradient = self.gradient(batch, *gaussian(self.model.actor, batch.observations))
            rows = th.where(gradient.any(dim=1))[0]
            if len(rows):
                gaussian(self.model.actor, _rows(batch.observations, rows))[0].backward(gradient[rows])


def optimizers_of(model: Any) -> list[th.optim.Optimizer]:
    """
    List a model's optimizers.

    :param model: A SAC, TQC or CrossQ
    :return: Those of its actor and its critic, and of its temperature if that is learnt
    """
    optimizers = (model.actor.optimizer, model.critic.optimizer, model.ent_coef_optimizer)
    return [optimizer for optimizer in optimizers if optimizer is not None]


def _rows(observations: th.Tensor | TensorDict, rows: th.Tensor) -> th.Tensor | TensorDict:
    if isinstance(observations, dict):
        return {name: values[rows] for name, values in observations.items()}
    return observations[rows]
