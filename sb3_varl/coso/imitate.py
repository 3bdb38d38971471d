"""A start for the policy: answers that somebody else gave."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch as th
from tqdm import tqdm

from sb3_varl.advice.history import read_queries
from sb3_varl.arguments import ArgumentError, check_bool, check_integer, check_number
from sb3_varl.coso.coso import CoSo

# Of an answer, in an error message.
_MAX_EXAMPLE = 200


def imitate(
    model: CoSo,
    examples: Iterable[tuple[Any, str]],
    *,
    n_epochs: int = 10,
    batch_size: int = 16,
    learning_rate: float | None = None,
    must_say_actions: bool = True,
    progress_bar: bool = True,
) -> dict[str, float]:
    """
    Fit the model to answers, by their likelihood token by token: the supervised phase that comes before the reward.

    :param model: The model
    :param examples: Observations, unbatched, as the environment of the model gives them, each with its answer
    :param n_epochs: How often all of them are learnt from
    :param batch_size: Answers in an update
    :param learning_rate: Learning rate; ``None`` for that of the model
    :param must_say_actions: Whether to refuse examples of which none says an action; such may teach a model without
        pretraining to see
    :param progress_bar: Whether to show one
    :return: ``loss``, the mean negative log-probability of a token in the last epoch, and ``unparsed``, the share of
        the examples that say no action as the model's tokenizer writes them
    :raises ArgumentError: if there are no examples, or none of them says an action, or the model cannot write one
    """
    check_integer("n_epochs", n_epochs)
    check_integer("batch_size", batch_size)
    check_bool("must_say_actions", must_say_actions)
    check_number("learning_rate", learning_rate, above_low=True, optional=True)
    policy = model.policy
    pairs = list(examples)
    if not pairs:
        raise ArgumentError("There are no examples to imitate.")
    observations = [_as_policy_sees(policy, observation) for observation, _ in pairs]
    answers = [policy.language.encode(text) for _, text in pairs]
    for (_, text), tokens in zip(pairs, answers, strict=True):
        unwritable = [token for token in tokens if policy.language.forbidden[token]]
        if unwritable:
            raise ArgumentError(
                "The model cannot write this example, because its tokenizer does not know a part of it or takes it for "
                f"a special token: {text[:_MAX_EXAMPLE]!r}"
            )
    unread = [
        text
        for (_, text), observation, tokens in zip(pairs, observations, answers, strict=True)
        if policy.parser.read(policy.language.decode(tokens), observation) is None
    ]
    if must_say_actions and len(unread) == len(pairs):
        raise ArgumentError(
            f"None of the {len(pairs)} examples says an action; the first: {unread[0][:_MAX_EXAMPLE]!r}"
        )

    trained = [parameter for parameter in policy.language.parameters() if parameter.requires_grad]
    rate = model.lr_schedule(1.0) if learning_rate is None else learning_rate
    optimizer = th.optim.Adam(trained, lr=rate)
    loss = 0.0
    with tqdm(total=n_epochs * len(pairs), desc="imitate", unit="answer", disable=not progress_bar) as bar:
        for _ in range(n_epochs):
            total, n_tokens = 0.0, 0
            order = np.random.permutation(len(pairs))
            for start in range(0, len(pairs), batch_size):
                rows = order[start : start + batch_size]
                batch = [answers[row] for row in rows]
                prompts = policy.prompts([observations[row] for row in rows])
                nll = -policy.language.score(prompts, batch).log_probs.sum()
                n_in_batch = sum(map(len, batch))
                optimizer.zero_grad()
                (nll / n_in_batch).backward()
                optimizer.step()
                total, n_tokens = total + nll.item(), n_tokens + n_in_batch
                bar.update(len(rows))
            loss = total / n_tokens
            bar.set_postfix(loss=f"{loss:.3f}")
    return {"loss": loss, "unparsed": len(unread) / len(pairs)}


def read_examples(model: CoSo, path: str | os.PathLike[str]) -> list[tuple[Any, str]]:
    """
    Take examples from an advice log: each state whose advice was used, with the advice as the model's parser says it.

    :param model: The model, whose environment has the observations and actions of the log's
    :param path: The run's log folder, or its ``advice.jsonl``
    :return: Observations and answers
    :raises ArgumentError: if there is no advice, or it is about other observations
    """
    examples = []
    for query in read_queries(path):
        for observation, action in zip(query.guided, query.read().actions, strict=True):
            if action is not None:
                examples.append((observation, model.policy.parser.write(np.asarray(action))))
    if not examples:
        raise ArgumentError(f"{path} has no advice that was used.")
    return examples


def _as_policy_sees(policy: Any, observation: Any) -> Any:
    batched, _ = policy.obs_to_tensor(observation)
    seen: Sequence[Any] = policy._unbatch(batched)
    return seen[0]
