"""A start for the policy: answers that somebody else gave."""

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from tqdm import tqdm

from sb3_varl.advice.history import LoggedQuery, read_queries
from sb3_varl.arguments import ArgumentError, check_bool, check_integer, check_number
from sb3_varl.coso.writing import Writing, refuse_normalized

# Of an answer, in an error message.
_MAX_EXAMPLE = 200


def imitate(
    model: Writing,
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
    refuse_normalized(model)
    policy = model.policy
    pairs = list(examples)
    if not pairs:
        raise ArgumentError("There are no examples to imitate.")
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[1], str):
            raise ArgumentError(f"An example is {pair!r:.300}, expected an observation and the text of its answer.")
    observations = [_as_policy_sees(policy, observation) for observation, _ in pairs]
    answers = [policy.language.encode(text) for _, text in pairs]
    for (_, text), tokens in zip(pairs, answers, strict=True):
        if len(tokens) > policy.language.max_new_tokens:
            raise ArgumentError(
                f"This example has {len(tokens)} tokens and max_new_tokens is {policy.language.max_new_tokens}, so "
                f"that the model would be cut off before its end; read_examples(..., thoughts=False) has shorter ones: "
                f"{text[:_MAX_EXAMPLE]!r}"
            )
        is_ended_early = any(token in policy.language.ends for token in tokens[:-1])
        if is_ended_early or any(policy.language.forbidden[token] for token in tokens):
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


def read_examples(model: Writing, path: str | os.PathLike[str], *, thoughts: bool = True) -> list[tuple[Any, str]]:
    """
    Take examples from an advice log: each state whose advice was used, with the advice as the model's parser says it.

    :param model: The model, whose environment has the actions of the log's, and its observations or else pictures as
        large as the log's frames, which are taken then
    :param path: The run's log folder, or its ``advice.jsonl``
    :param thoughts: Whether answers begin with the reason that was given for an action, if one was
    :return: Observations and answers
    :raises ArgumentError: if there is no advice, or it is about other observations or actions
    :raises FileNotFoundError: if there is no log
    """
    check_bool("thoughts", thoughts)
    refuse_normalized(model)
    examples = []
    for query in read_queries(path):
        if query.altered:  # to check the advisor
            continue
        reasons = _reasons(query) if thoughts else {}
        observations = query.guided
        frames = [None] * query.n_states if _fits(model, observations[0]) else query.frames
        rows = zip(observations, frames, query.read().actions, strict=True)
        for i, (observation, frame, action) in enumerate(rows):
            if action is None:
                continue
            expected = model.action_space.shape
            if np.shape(action) != expected:
                raise ArgumentError(f"The actions of {path} have the shape {np.shape(action)}, not {expected}.")
            seen = next((thing for thing in (observation, frame) if _fits(model, thing)), None)
            if seen is None:
                raise ArgumentError(
                    f"The observations of {path} have the shape {_shapes(observation)} and its frames "
                    f"{_shapes(frame)}, those of the model {_shapes_of_space(model.observation_space)}."
                )
            said = {"thoughts": reasons[i]} if i in reasons else {}
            examples.append((seen, model.policy.parser.write(np.asarray(action), **said)))
    if not examples:
        raise ArgumentError(f"{path} has no advice that was used.")
    return examples


def _reasons(query: LoggedQuery) -> dict[int, str]:
    """What a model gave as its reasons, where that stands in plain JSON beside the states."""
    reasons = {}
    for answer in query.answers:
        try:
            entries = json.loads(answer.text[answer.text.index("{") : answer.text.rindex("}") + 1])["advice"]
            said = [(entry["state"], entry.get("reason")) for entry in entries if isinstance(entry, dict)]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        for state, reason in said:
            if isinstance(state, int) and state in answer.states and isinstance(reason, str):
                reasons[state] = reason
    return reasons


def _fits(model: Writing, observation: Any) -> bool:
    if observation is None:
        return False
    try:
        _as_policy_sees(model.policy, observation)
    except ArgumentError:
        return False
    return True


def _shapes(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {name: np.shape(value) for name, value in observation.items()}
    return None if observation is None else np.shape(observation)


def _shapes_of_space(space: spaces.Space) -> Any:
    return {name: part.shape for name, part in space.spaces.items()} if isinstance(space, spaces.Dict) else space.shape


def _as_policy_sees(policy: Any, observation: Any) -> Any:
    space = policy.observation_space
    keys = set(space.spaces) if isinstance(space, spaces.Dict) else None
    if (set(observation) if isinstance(observation, dict) else None) != keys:
        raise ArgumentError(f"An example's observation is none of {space}: {observation!r:.200}")
    try:
        batched, is_batch = policy.obs_to_tensor(observation)
    except (ValueError, AttributeError, TypeError) as error:
        raise ArgumentError(f"An example's observation is none of {space}: {error}") from error
    if is_batch:
        raise ArgumentError(
            "An example's observation is a batch of them. Give each by itself, as the environment itself does."
        )
    seen: Sequence[Any] = policy._unbatch(batched)
    return seen[0]
