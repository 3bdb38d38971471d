"""A vision-language model as advisor, with any of the providers that litellm knows, or on a local server."""

import asyncio
import contextlib
import logging
import math
import numbers
import time
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import tenacity

from sb3_varl.advice import Advice, AdviceQuery, Answer, Briefing, Rejection, Usage
from sb3_varl.prompt import ParsedAnswer, build_messages, parse_answer, system_prompt
from sb3_varl.providers import (
    RequestFailed,
    check_model,
    close_clients,
    has_prices,
    import_litellm,
    refuse_secrets,
    request_failed,
)

logger = logging.getLogger(__name__)

# Seconds; the first doubles with each retry.
RETRY_WAIT = 2.0
# A server that says "Retry-After: 3600" must not hold up the advice of a whole run.
MAX_RETRY_WAIT = 30.0

_OWN_ARGUMENTS = frozenset(
    {"model", "messages", "api_base", "base_url", "timeout", "num_retries", "max_retries", "stream", "n"}
)


class VLMAdvisor:
    """
    Ask a vision-language model what it would have done.

    Keys come from the environment, from the variable that litellm names for the provider (``OPENAI_API_KEY``,
    ``ANTHROPIC_API_KEY``, …), and are never kept. A server behind ``api_base`` that wants no key needs none;
    if the provider's variable is set, its key is sent there.

    A request that fails, be it for the network, the provider or the deadline, costs its own states and nothing else.

    :param model: litellm's name of the model with its provider, for instance ``"openai/gpt-5"``;
        for a local server with OpenAI's protocol, ``"openai/"`` and the name that the server gives the model
    :param task: The task in words; goes before the task that the callback or the environment gives
    :param api_base: URL of the server, for instance ``"http://localhost:8000/v1"``; default: the provider's own
    :param states_per_request: States that share one request
    :param image_size: Length to which a frame's longer side is scaled down, in pixels
    :param deadline: Seconds until a request without a complete answer is given up. It may have to be paid
        nevertheless, without showing up in ``usage``: providers report what an answer cost only with the answer.
    :param max_retries: How many times a request is sent again after a failure that may pass, such as a rate limit,
        an overloaded server, a lost connection or the deadline
    :param max_requests: Send no more requests than this in the advisor's life, retries included
    :param max_tokens: Send no further request once this many tokens, in and out, are spent.
        (An answer's length is limited by ``completion_kwargs={"max_tokens": …}``.)
    :param max_cost: Send no further request once this many US dollars are spent
    :param price_per_token: US dollars for a token sent and for a token received, for a model that litellm has
        no prices for, or other prices than the list's
    :param completion_kwargs: Further arguments of ``litellm.completion``, such as ``temperature``,
        ``reasoning_effort`` or ``response_format``
    :raises TypeError: if an argument has the wrong type
    :raises ValueError: if the model's provider is not named or not known, its key is not in the environment,
        a number is out of range, ``max_cost`` is set and nobody knows the prices, or ``completion_kwargs`` contains
        a secret or what is set elsewhere
    """

    def __init__(
        self,
        model: str,
        task: str | None = None,
        *,
        api_base: str | None = None,
        states_per_request: int = 16,
        image_size: int = 224,
        deadline: float = 120.0,
        max_retries: int = 3,
        max_requests: int | None = None,
        max_tokens: int | None = None,
        max_cost: float | None = None,
        price_per_token: tuple[float, float] | None = None,
        completion_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if task is not None and not isinstance(task, str):
            raise TypeError(f'task must be a sentence such as "Open the drawer.", got {task!r}.')
        _check_number("states_per_request", states_per_request, integer=True)
        _check_number("image_size", image_size, integer=True)
        _check_number("deadline", deadline)
        _check_number("max_retries", max_retries, integer=True, zero=True)
        for name, limit in (("max_requests", max_requests), ("max_tokens", max_tokens)):
            if limit is not None:
                _check_number(name, limit, integer=True)
        if max_cost is not None:
            _check_number("max_cost", max_cost)
        if price_per_token is not None:
            if not isinstance(price_per_token, (tuple, list)) or len(price_per_token) != 2:
                raise TypeError(f"price_per_token must be two numbers, (sent, received), got {price_per_token!r}.")
            for price in price_per_token:
                _check_number("price_per_token", price, zero=True)
        _check_api_base(api_base)
        _check_completion_kwargs(completion_kwargs)

        self.model = model
        self.task = task
        self.api_base = api_base
        self.states_per_request = int(states_per_request)
        self.image_size = int(image_size)
        self.deadline = float(deadline)
        self.max_retries = int(max_retries)
        self.max_requests = max_requests
        self.max_tokens = max_tokens
        self.max_cost = max_cost
        self.price_per_token = price_per_token
        self.completion_kwargs = dict(completion_kwargs or {})
        self._usage = Usage()
        self._budget_reported = False
        self._has_key = check_model(model, api_base)
        if max_cost is not None and price_per_token is None and not has_prices(model):
            raise ValueError(
                f"max_cost needs prices, and litellm has none for {model!r}. Give price_per_token=(sent, received) "
                "in US dollars, or limit max_tokens or max_requests instead."
            )

    @property
    def usage(self) -> Usage:
        """What all queries so far cost."""
        return self._usage

    def prepare(self, briefing: Briefing) -> None:
        """
        Find out before the training starts whether a query can be put into words.

        :param briefing: What stays the same over all queries
        :raises ValueError: if there is no task, the action space is unbounded, or the task sheet does not fit
        """
        if not briefing.action_space.is_bounded():
            raise ValueError(
                f"A model needs bounds to advise within, but the action space is {briefing.action_space}. "
                "Give the environment an action space of finite bounds."
            )
        system_prompt(briefing, self._task(briefing))

    def advise(self, query: AdviceQuery) -> Advice:
        """
        Ask the model, in as many requests as it takes, one after the other.

        :param query: The states in question
        :return: The advice; faults of the network, the provider or the model are in its ``rejected`` and ``failures``
        :raises ValueError: if there is no task
        """
        return _run(self._advise(query, self._task(query.briefing)))

    def _task(self, briefing: Briefing) -> str:
        task = self.task or briefing.task or (briefing.sheet.goal if briefing.sheet is not None else "")
        if not task.strip():
            raise ValueError(
                "The model does not know the task. Give it to the advisor or to the callback, "
                f'for instance VLMAdvisor({self.model!r}, task="Open the drawer.").'
            )
        return task

    async def _advise(self, query: AdviceQuery, task: str) -> Advice:
        litellm = import_litellm()
        actions: list[np.ndarray | None] = [None] * len(query.states)
        rejected: list[Rejection] = []
        failures: list[str] = []
        before = self._usage
        try:
            for request, start in enumerate(range(0, len(query.states), self.states_per_request)):
                indices = tuple(range(start, min(start + self.states_per_request, len(query.states))))
                if self._budget_spent():
                    rejected += [Rejection("budget_exhausted", index) for index in indices]
                    continue
                try:
                    parsed = await self._request(litellm, query, task, request, indices)
                except RequestFailed as failure:
                    failures.append(f"request {request}: {failure}")
                    rejected += [Rejection("request_failed", index) for index in indices]
                    continue
                rejected += parsed.rejected
                for index, action in parsed.actions.items():
                    actions[index] = action
        finally:
            await close_clients(litellm)
        return Advice(actions, rejected, _difference(self._usage, before), failures)

    async def _request(
        self, litellm: ModuleType, query: AdviceQuery, task: str, request: int, indices: tuple[int, ...]
    ) -> ParsedAnswer:
        messages = build_messages(query, indices, task, self.image_size)
        before, sent = self._usage, time.monotonic()
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, RequestFailed) and error.retryable),
            stop=lambda state: state.attempt_number > self.max_retries or self._budget_spent(),
            wait=_retry_wait,
            reraise=True,
        )
        response: Any = await retrying(self._attempt, litellm, messages)
        latency = time.monotonic() - sent
        self._usage += self._price(litellm, response)
        choice = next(iter(getattr(response, "choices", None) or ()), None)
        content = choice.message.content if choice is not None else None
        text = content if isinstance(content, str) else ""
        query.record(Answer(request, indices, text, _difference(self._usage, before), latency))

        parsed = parse_answer(text, indices, query.briefing.action_space)
        reason = None if parsed.actions else _no_answer(choice, text)
        return parsed if reason is None else ParsedAnswer({}, tuple(Rejection(reason, index) for index in indices))

    async def _attempt(self, litellm: ModuleType, messages: list[dict]) -> Any:
        arguments: dict[str, Any] = {**self.completion_kwargs, "model": self.model, "messages": messages}
        if self.api_base is not None:
            arguments["api_base"] = self.api_base
        if not self._has_key:
            # Some clients refuse to start without any.
            arguments["api_key"] = "unused"
        self._usage += Usage(requests=1)
        try:
            # litellm's own retries multiply with those of the client underneath, and its timeout starts anew
            # with every byte received: neither is of use here.
            return await asyncio.wait_for(
                litellm.acompletion(**arguments, num_retries=0, max_retries=0, timeout=self.deadline), self.deadline
            )
        except asyncio.TimeoutError:
            failure = RequestFailed(f"no complete answer within {self.deadline:g} s", retryable=True)
        except Exception as error:
            failure = request_failed(error)
        # Raised out here, because an exception raised in the handler would carry the caught one, and that the key.
        raise failure

    def _price(self, litellm: ModuleType, response: Any) -> Usage:
        counts = getattr(response, "usage", None)
        prompt_tokens = int(getattr(counts, "prompt_tokens", None) or 0)
        completion_tokens = int(getattr(counts, "completion_tokens", None) or 0)
        cost = 0.0
        if self.price_per_token is not None:
            cost = self.price_per_token[0] * prompt_tokens + self.price_per_token[1] * completion_tokens
        else:
            with contextlib.suppress(Exception):  # raised for a model without known prices
                cost = float(litellm.completion_cost(completion_response=response, model=self.model))
        return Usage(0, prompt_tokens, completion_tokens, cost)

    def _budget_spent(self) -> bool:
        used = self._usage
        budgets = (
            (self.max_requests, used.requests, "max_requests"),
            (self.max_tokens, used.prompt_tokens + used.completion_tokens, "max_tokens"),
            (self.max_cost, used.cost, "max_cost"),
        )
        for limit, spent, name in budgets:
            if limit is not None and spent >= limit:
                if not self._budget_reported:
                    logger.warning("The budget %s=%s of %s is spent: it is not asked again.", name, limit, self.model)
                    self._budget_reported = True
                return True
        return False


def _run(coroutine: Coroutine[Any, Any, Advice]) -> Advice:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        inside_loop = False
    else:
        inside_loop = True
    if not inside_loop:
        return asyncio.run(coroutine)
    # A notebook's cells run inside of a loop, where asyncio.run refuses to start another.
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


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
    extra = getattr(choice.message, "provider_specific_fields", None) or {}
    if choice.finish_reason == "content_filter" or (not text and extra.get("refusal")):
        return "refused"
    return None if text.strip() else "empty_answer"


def _difference(after: Usage, before: Usage) -> Usage:
    return Usage(
        after.requests - before.requests,
        after.prompt_tokens - before.prompt_tokens,
        after.completion_tokens - before.completion_tokens,
        after.cost - before.cost,
    )


def _check_number(name: str, value: Any, *, integer: bool = False, zero: bool = False) -> None:
    kind = "an integer" if integer else "a number"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral if integer else numbers.Real):
        raise TypeError(f"{name} must be {kind}, got {value!r}.")
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{name} must be {kind} {'of at least' if zero else 'greater than'} 0, got {value!r}.")


def _check_api_base(api_base: str | None) -> None:
    if api_base is None:
        return
    if not isinstance(api_base, str):
        raise TypeError(f'api_base must be a URL such as "http://localhost:8000/v1", got {type(api_base).__name__}.')
    if "@" in api_base or "?" in api_base:
        raise ValueError("api_base must have no password and no query: set the provider's key in the environment.")
    url = urlsplit(api_base)
    if url.scheme not in ("http", "https") or not url.netloc:
        raise ValueError(f'api_base must be a URL such as "http://localhost:8000/v1", got {api_base!r}.')


def _check_completion_kwargs(arguments: Mapping[str, Any] | None) -> None:
    if arguments is None:
        return
    if not isinstance(arguments, Mapping):
        raise TypeError(
            f'completion_kwargs must be a dictionary such as {{"temperature": 0.2}}, got {type(arguments).__name__}.'
        )
    refuse_secrets(arguments, "completion_kwargs")
    for name in arguments:
        if name in _OWN_ARGUMENTS:
            raise ValueError(
                f"completion_kwargs contains {name!r}, which VLMAdvisor sets itself. Use its own arguments."
            )
