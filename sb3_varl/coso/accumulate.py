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
    step, zero_grad = optimizer.step, optimizer.zero_grad
    # Gradients are in units of the latest batch: what was gathered, by answers, over that batch's answers.
    n_gathered = n_answers = n_latest = 0

    def keep_grad(set_to_none: bool = True) -> None:
        if n_gathered == 0:
            zero_grad(set_to_none)
        else:
            scale(n_latest / policy.n_evaluated)

    def gather(closure: Callable[[], float] | None = None) -> None:
        nonlocal n_gathered, n_answers, n_latest
        n_latest = policy.n_evaluated
        n_gathered, n_answers = n_gathered + 1, n_answers + n_latest
        if n_gathered == n_batches:
            flush()

    def flush() -> None:
        nonlocal n_gathered, n_answers
        scale(n_latest / n_answers)
        th.nn.utils.clip_grad_norm_(policy.parameters(), max_norm)
        step()
        zero_grad()
        n_gathered = n_answers = 0

    def scale(factor: float) -> None:
        for parameter in policy.parameters():
            if parameter.grad is not None:
                parameter.grad *= factor

    changed: Any = optimizer
    # What somebody has put in place of the class's methods, if anybody has.
    own = {name: value for name, value in vars(optimizer).items() if name in ("step", "zero_grad")}
    changed.step, changed.zero_grad = gather, keep_grad
    try:
        yield
        if n_gathered:
            flush()
    finally:
        del changed.step, changed.zero_grad
        vars(optimizer).update(own)
