"""One query to a vision-language model: the requests that it takes, their retries and their price."""

import asyncio
import contextlib
import dataclasses
import logging
import math
import time
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import tenacity

from sb3_varl.advice.answer import MAX_ANSWER_LENGTH, ParsedAnswer, parse_answer, parse_answers
from sb3_varl.advice.types import Advice, AdviceQuery, Answer, Failure, Rejection, Request, Usage
from sb3_varl.advisors.prompt import Portion, build_messages, split
from sb3_varl.advisors.providers import RequestFailed, complete, import_litellm, price_of
from sb3_varl.redaction import without_secrets

if TYPE_CHECKING:
    from sb3_varl.advisors.vlm import VLMAdvisor

logger = logging.getLogger(__name__)

# Seconds; the first doubles with each retry.
RETRY_WAIT = 2.0
# A server that says "Retry-After: 3600" must not hold up the advice of a whole run.
MAX_RETRY_WAIT = 30.0
# Fewer equal answers may be right.
_MIN_EQUAL_ACTIONS = 8


class Conversation:
    """
    One query on its way: requests, retries, what they cost and what they brought.

    :param advisor: Has the settings, the budgets and the count of failures
    :param query: The query
    :param task: The task in words
    """

    def __init__(self, advisor: "VLMAdvisor", query: AdviceQuery, task: str) -> None:
        self.advisor = advisor
        self.query = query
        self.task = task
        self.usage = Usage()
        self.litellm: ModuleType = import_litellm()
        self._spent_in_life = advisor.usage
        self._is_trial = advisor.is_given_up
        self._counted_until = time.monotonic()

    async def ask(self) -> Advice:
        """
        Send the requests, one after the other.

        :return: The advice
        """
        query, advisor = self.query, self.advisor
        earlier = parse_answers(query.answers, query.briefing.action_space)
        actions, rejected = dict(earlier.actions), list(earlier.rejected)
        failures: list[str] = []
        answered = {index for answer in query.answers for index in answer.states}
        missing = [index for index in range(len(query.states)) if index not in answered]
        number = max((answer.request + 1 for answer in query.answers), default=0)
        for portion in split(query, missing, advisor.states_per_request, advisor.image_size):
            answered.update(portion.indices)
            reason = self._reason_not_to_ask()
            if reason is not None:
                rejected += [Rejection(reason, index) for index in portion.indices]
                continue
            try:
                parsed = await self._request(number, portion)
            except RequestFailed as failure:
                failures.append(f"request {number}: {failure}")
                rejected += [Rejection("request_failed", index) for index in portion.indices]
                advisor.count_failure(True)
            else:
                actions.update(parsed.actions)
                rejected += parsed.rejected
                advisor.count_failure(bool(parsed.rejected) and not parsed.actions)
            self._is_trial = False
            number += 1
        rejected += [Rejection("too_large", index) for index in missing if index not in answered]
        self._warn_of_equal_actions(list(actions.values()))
        return Advice([actions.get(i) for i in range(len(query.states))], rejected, self.usage, failures)

    def _reason_not_to_ask(self) -> str | None:
        if not self.advisor.budget_left(self._spent()):
            return "budget_exhausted"
        return "given_up" if self.advisor.is_given_up and not self._is_trial else None

    def _spent(self) -> Usage:
        """In the run or in the advisor's life, whichever is more: it may serve many runs, or the rest of one."""
        now = Usage(seconds=time.monotonic() - self._counted_until)
        of_run, of_life = (
            dataclasses.astuple(before + self.usage + now) for before in (self.query.spent, self._spent_in_life)
        )
        return Usage(*(max(pair) for pair in zip(of_run, of_life, strict=True)))

    async def _request(self, number: int, portion: Portion) -> ParsedAnswer:
        max_retries = 0 if self._is_trial else self.advisor.max_retries
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, RequestFailed) and error.retryable),
            stop=lambda state: state.attempt_number > max_retries or not self.advisor.budget_left(self._spent()),
            wait=lambda state: min(_retry_wait(state), self._seconds_left()),
            reraise=True,
        )
        messages = build_messages(self.query.briefing, portion, self.task)
        response: Any = await retrying(self._attempt, number, portion.indices, messages)
        choice = next(iter(getattr(response, "choices", None) or ()), None)
        content = choice.message.content if choice is not None else None
        # A server may answer with the key, and with anything of any size. The rest is for a key across the bound.
        text = without_secrets(content[: MAX_ANSWER_LENGTH + 1000]) if isinstance(content, str) else ""
        text = text[:MAX_ANSWER_LENGTH]
        self.query.record(Answer(number, portion.indices, text, self._count(self._price(response))))

        parsed = parse_answer(text, portion.indices, self.query.briefing.action_space)
        reason = None if parsed.actions else _no_answer(choice, text)
        if reason is None:
            return parsed
        return ParsedAnswer({}, tuple(Rejection(reason, index) for index in portion.indices))

    async def _attempt(self, number: int, indices: tuple[int, ...], messages: list[dict]) -> Any:
        if not self.advisor.budget_left(self._spent()):
            raise RequestFailed("no budget is left to try again", retryable=False)
        self.query.record(Request(number, indices))
        deadline = min(self.advisor.deadline, self._seconds_left())
        try:
            return await complete(self.litellm, self.advisor.arguments(messages), deadline)
        except RequestFailed as failure:
            self.query.record(Failure(number, str(failure), self._count(Usage(requests=1))))
            raise
        except asyncio.CancelledError:
            self.query.record(Failure(number, "broken off", self._count(Usage(requests=1))))
            raise

    def _seconds_left(self) -> float:
        limit = self.advisor.max_seconds
        return math.inf if limit is None else max(0.0, limit - self._spent().seconds)

    def _count(self, usage: Usage) -> Usage:
        """Add a usage and the time since the last one."""
        now = time.monotonic()
        usage = dataclasses.replace(usage, seconds=now - self._counted_until)
        self._counted_until = now
        self.usage += usage
        return usage

    def _price(self, response: Any) -> Usage:
        counts = getattr(response, "usage", None)
        prompt_tokens = max(0, int(getattr(counts, "prompt_tokens", None) or 0))
        completion_tokens = max(0, int(getattr(counts, "completion_tokens", None) or 0))
        if not prompt_tokens and not completion_tokens:
            self.advisor.warn_of_missing_counts()
        cost = self._cost(response, prompt_tokens, completion_tokens)
        if cost is None:
            self.advisor.note_missing_price()
        return Usage(1, prompt_tokens, completion_tokens, cost or 0.0)

    def _cost(self, response: Any, prompt_tokens: int, completion_tokens: int) -> float | None:
        prices = self.advisor.price_per_token
        is_counted = prompt_tokens + completion_tokens > 0
        if prices is not None:
            cost = prices[0] * prompt_tokens + prices[1] * completion_tokens
            return cost if is_counted or not any(prices) else None
        with contextlib.suppress(Exception):  # raised for a model without known prices, and for answers of odd shapes
            cost = float(self.litellm.completion_cost(completion_response=response, model=self.advisor.model))
            if math.isfinite(cost) and cost >= 0 and is_counted:
                return cost
        return price_of(self.advisor.model, prompt_tokens, completion_tokens) if is_counted else None

    def _warn_of_equal_actions(self, given: list[np.ndarray]) -> None:
        if len(given) >= _MIN_EQUAL_ACTIONS and all(np.array_equal(action, given[0]) for action in given):
            logger.warning(
                "%s advised the same action, %s, in all %d states of query %d: it does not seem to look at them.",
                self.advisor.model,
                given[0].tolist(),
                len(given),
                self.query.index + 1,
            )


def _retry_wait(state: tenacity.RetryCallState) -> float:
    failure = state.outcome.exception() if state.outcome is not None else None
    backoff = tenacity.wait_random_exponential(multiplier=RETRY_WAIT, max=MAX_RETRY_WAIT)(state)
    return min(max(backoff, getattr(failure, "retry_after", 0.0)), MAX_RETRY_WAIT)


def _no_answer(choice: Any, text: str) -> str | None:
    """Why an answer without usable advice has none, as far as the provider tells."""
    if choice is None:
        return "no_choices"
    if choice.finish_reason == "length":
        return "truncated"
    # Where litellm has it depends on its release.
    extra = getattr(choice.message, "provider_specific_fields", None) or {}
    refusal = getattr(choice.message, "refusal", None) or extra.get("refusal")
    if choice.finish_reason == "content_filter" or (not text and refusal):
        return "refused"
    return None if text.strip() else "empty_answer"
