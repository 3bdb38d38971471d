"""Several batches for one step of an optimizer, without an update of its own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch as th

from sb3_varl.coso.policy import VLMPolicy


@contextmanager
def accumulating(policy: VLMPolicy, n_batches: int, max_norm: float) -> Iterator[None]:
    """
    Let the policy's optimizer wait: of ``n_batches`` steps only the last is made, with the mean gradient over all of
    their answers. What is left in the end makes a step, too.

    :param policy: The policy
    :param n_batches: Batches of a step
    :param max_norm: Largest norm of the mean gradient
    """
    if n_batches == 1:
        yield
        return
    optimizer = policy.optimizer
    step = optimizer.step
    sums: dict[th.nn.Parameter, th.Tensor] = {}
    n_gathered = n_answers = 0

    def gather(closure: Callable[[], float] | None = None) -> None:
        nonlocal n_gathered, n_answers
        for parameter in policy.parameters():
            if parameter.grad is not None:
                gradient = parameter.grad * policy.n_evaluated
                sums[parameter] = sums[parameter].add_(gradient) if parameter in sums else gradient
        n_gathered, n_answers = n_gathered + 1, n_answers + policy.n_evaluated
        if n_gathered == n_batches:
            flush()

    def flush() -> None:
        nonlocal n_gathered, n_answers
        for parameter, total in sums.items():
            parameter.grad = total / n_answers
        th.nn.utils.clip_grad_norm_(sums, max_norm)
        step()
        sums.clear()
        n_gathered = n_answers = 0

    changed: Any = optimizer
    changed.step = gather
    try:
        yield
        if n_gathered:
            flush()
    finally:
        changed.step = step
