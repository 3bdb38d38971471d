"""The same updates in less time: what makes the parent's faster from outside, and what records and repeats them."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

from sb3_varl.algorithms.fast.acceleration import (
    SparseShapingTerm,
    constant_critic,
    flushed_denormals,
    fused_adam,
    optimizers_of,
)
from sb3_varl.algorithms.fast.recorded import RECORDERS, RecordedUpdates
from sb3_varl.algorithms.shaping_term import ShapingTerm

__all__ = ["RecordedUpdates", "accelerated"]

Update = Callable[[Any, int, int, ShapingTerm | None], None]


def accelerated(update: Update) -> Update:
    """
    Decorate the method that does a model's gradient updates, so that they take less time.

    The parent's part stays the same to the last bit, and the shaping term's gradient up to rounding. Of a model that is
    ``fast``, all is up to rounding, and updates that repeat themselves are recorded.

    :param update: The method. It calls ``super().train()``, and takes the number of updates, the minibatch size, and
        the shaping term, or ``None`` for none
    :return: The same, faster
    """

    @functools.wraps(update)
    def faster(model: Any, gradient_steps: int, batch_size: int, shaping: ShapingTerm | None) -> None:
        on_cpu = model.device.type == "cpu"
        with contextlib.ExitStack() as stack:
            if model.fast and on_cpu:
                stack.enter_context(flushed_denormals())
            recorder = RECORDERS.get(model.device.type) if model.fast else None
            if recorder is not None and parent_train(model) in recorder.covers:
                if model.recorded_updates is None:
                    model.recorded_updates = RecordedUpdates(model, recorder)
                if model.recorded_updates.train(one_by_one, gradient_steps, batch_size, shaping):
                    return
            if model.fast and on_cpu:
                stack.enter_context(fused_adam(optimizers_of(model)))
            if shaping is not None and on_cpu:
                shaping = SparseShapingTerm(model, shaping.coef)
            one_by_one(model, gradient_steps, batch_size, shaping)

    def one_by_one(model: Any, gradient_steps: int, batch_size: int, shaping: ShapingTerm | None) -> None:
        with constant_critic(model.critic, model.actor.optimizer):
            update(model, gradient_steps, batch_size, shaping)

    def parent_train(model: Any) -> Any:
        """Who inherits from another train() than SAC's gets that one."""
        owner: Any = next(cls for cls in type(model).__mro__ if vars(cls).get(update.__name__) is faster)
        return super(owner, model).train.__func__

    return faster
