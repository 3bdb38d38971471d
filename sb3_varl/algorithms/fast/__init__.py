"""The same updates in less time: what makes SB3's faster from outside, and SAC's written anew for plain networks."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

from stable_baselines3 import SAC

from sb3_varl.algorithms.fast.acceleration import constant_critic, flushed_denormals, fused_adam, optimizers_of
from sb3_varl.algorithms.fast.recorded import REPEATABLE, GraphedUpdates
from sb3_varl.algorithms.fast.fast_sac import FastSAC, FastShapingTerm
from sb3_varl.algorithms.shaping_term import ShapingTerm

__all__ = ["GraphedUpdates", "accelerated"]

Update = Callable[[Any, int, int, ShapingTerm | None], None]


def accelerated(update: Update) -> Update:
    """
    Decorate the method that does a model's gradient updates, so that they take less time.

    The parent's part stays the same to the last bit, and the shaping term's gradient up to rounding. Of a model that is
    ``fast``, all is up to rounding, and SAC's updates become those of
    :class:`~sb3_varl.algorithms.fast.fast_sac.FastSAC` if they cover its networks.

    :param update: The method. It calls ``super().train()``, and takes the number of updates, the minibatch size, and
        the shaping term, or ``None`` for none
    :return: The same, faster
    """

    @functools.wraps(update)
    def faster(model: Any, gradient_steps: int, batch_size: int, shaping: ShapingTerm | None) -> None:
        arguments = gradient_steps, batch_size, shaping
        if model.fast and model.device.type == "cpu" and parent_train(model) is SAC.train:
            fast_sac = FastSAC.of(model)
            if fast_sac is not None:
                fast_sac.train(*arguments)
                return
        if model.fast and model.device.type == "cuda" and parent_train(model) in REPEATABLE:
            if model.graphed_updates is None:
                model.graphed_updates = GraphedUpdates(model)
            if model.graphed_updates.train(one_by_one, *arguments):
                return
        one_by_one(model, *arguments)

    def one_by_one(model: Any, gradient_steps: int, batch_size: int, shaping: ShapingTerm | None) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(constant_critic(model.critic, model.actor.optimizer))
            if model.fast and model.device.type == "cpu":
                stack.enter_context(fused_adam(optimizers_of(model)))
                stack.enter_context(flushed_denormals())
            fast_shaping = None if shaping is None else FastShapingTerm(model, shaping.coef)
            update(model, gradient_steps, batch_size, fast_shaping)

    def parent_train(model: Any) -> Any:
        """Who inherits from another train() than SAC's gets that one."""
        owner: Any = next(cls for cls in type(model).__mro__ if vars(cls).get(update.__name__) is faster)
        return super(owner, model).train.__func__

    return faster
