"""One query to a vision-language model: the requests that it takes, their retries and their price."""

import asyncio
import contextlib
import dataclasses
import logging
import math
import time
from types import ModuleType
from typing import Any

import numpy as np
import tenacity
from gymnasium import spaces

from sb3_varl.advice.answer import ParsedAnswer, parse_answer
from sb3_varl.advice.items import MAX_ANSWER_LENGTH, without_thoughts
from sb3_varl.advice.sheets import action_names
from sb3_varl.advice.types import (
    UNREAD,
    Advice,
    AdviceQuery,
    Answer,
    Failure,
    Form,
    Rejection,
    Request,
    StandingAdvice,
    Usage,
)
from sb3_varl.advisors.answer_schema import response_format
from sb3_varl.advisors.budget import Budget
from sb3_varl.advisors.completion import Completion
from sb3_varl.advisors.limits import ServerLimits, without_pictures
from sb3_varl.advisors.prompt import Chat, chats, system_prompt
from sb3_varl.advisors.providers import Endpoint, RequestFailed, complete, count_tokens, import_litellm, price_of
from sb3_varl.advisors.rules_prompt import objection
from sb3_varl.redaction import without_secrets
from sb3_varl.rules import Rules
from sb3_varl.rules.answers import read_rules
from sb3_varl.rules.rule import readable
from sb3_varl.wording import count

logger = logging.getLogger(__name__)

# Seconds; the first doubles with each retry.
RETRY_WAIT = 2.0
# A server that says "Retry-After: 3600" must not hold up the advice of a whole run.
MAX_RETRY_WAIT = 30.0
# Fewer equal answers may be right.
_MIN_EQUAL_ACTIONS = 8
# The last characters of an answer; rules that solve a task take some thousand.
_MAX_SENT_BACK = 20_000
_NOT_SHOWN = "there is no picture of it, and nothing else to be seen"
_CUT_OFF = "it was cut off. Raise max_tokens (completion_kwargs), or the server's context"


@dataclasses.dataclass(frozen=True)
class RequestSettings:
    """
    How a model is asked.

    :param states_per_request: States that share one request, at most
    :param image_size: Length to which a frame's longer side is scaled down, in pixels
    :param max_retries: How many times a request is sent again after a failure that may pass
    :param json_schema: Whether the provider is to hold the model to the form of an answer
    :param reasoning_effort: How much the model is to think before it answers, ``None`` for what it does by itself
    """

    states_per_request: int
    image_size: int
    max_retries: int
    json_schema: bool
    reasoning_effort: str | None

    def completion_kwargs(
        self, given: dict[str, Any], form: Form, action_space: spaces.Box, is_correction: bool = False
    ) -> dict[str, Any]:
        """
        Put together the further arguments of ``litellm.completion``.

        :param given: The user's, which go before all others
        :param form: What is asked for
        :param action_space: The environment's action space
        :param is_correction: Whether rules may be kept as they are
        :return: These, and what helps where they say nothing of it
        """
        helpful: dict[str, Any] = {}
        if self.json_schema:
            helpful["response_format"] = response_format(form, action_space, is_correction)
        if self.reasoning_effort is not None and "thinking" not in given:
            helpful["reasoning_effort"] = self.reasoning_effort
        return {**helpful, **given}


class CircuitBreaker:
    """
    Counts the requests in a row that brought nothing, over all queries, and opens when there are too many.

    :param model: The model's name
    :param max_failures: So many of them are too many
    """

    def __init__(self, model: str, max_failures: int) -> None:
        self.model = model
        self.max_failures = max_failures
        self._n_failures = 0
        self._was_answered = False

    def count(self, failed: bool, permanent: bool = False) -> None:
        """
        Take note of a request.

        :param failed: Whether it brought nothing
        :param permanent: Whether the next would fail as well, if none was ever answered
        """
        was_open, is_hopeless = self.is_open, permanent and not self._was_answered
        self._was_answered = self._was_answered or not failed
        self._n_failures = (self.max_failures if is_hopeless else self._n_failures + 1) if failed else 0
        if self.is_open and not was_open:
            logger.warning(
                "%s brought nothing: %s is not asked about the rest of this query, and the next one begins with a "
                "single try.",
                "A request that would fail again" if is_hopeless else f"{count(self.max_failures, 'request')} in a row",
                self.model,
            )

    @property
    def is_open(self) -> bool:
        """Whether there were too many."""
        return self._n_failures >= self.max_failures


@dataclasses.dataclass(frozen=True)
class _Reply:
    """
    What came of a request.

    :param parsed: What it was worth
    :param text: The model's words
    :param objection: What is to be said to these if nothing of them can be used and they are worth another try
    """

    parsed: ParsedAnswer
    text: str
    objection: str


class VLMQuery:
    """
    One query on its way.

    :param query: The query
    :param task: The task in words
    :param form: What is asked for
    :param endpoint: The model, and how it is reached
    :param settings: How it is asked
    :param budget: What it may cost
    :param breaker: Counts failures over all queries
    :param limits: What the server takes
    :param spent: What the advisor has spent in its life
    """

    def __init__(
        self,
        query: AdviceQuery,
        task: str,
        form: Form,
        endpoint: Endpoint,
        settings: RequestSettings,
        budget: Budget,
        breaker: CircuitBreaker,
        limits: ServerLimits,
        spent: Usage,
    ) -> None:
        self.query = query
        self.task = task
        self.form = form
        self.endpoint = endpoint
        self.settings = settings
        self.budget = budget
        self.breaker = breaker
        self.limits = limits
        self._can_do_without_pictures = _says_something_without_frames(query, task, form)
        limits.can_do_without_pictures = self._can_do_without_pictures
        self.usage = Usage()
        self.litellm: ModuleType = import_litellm()
        self.completion_kwargs = settings.completion_kwargs(
            endpoint.completion_kwargs, form, query.briefing.action_space, query.followed is not None
        )
        self._spent_in_life = spent
        self._is_trial = breaker.is_open
        self._counted_until = time.monotonic()

    async def ask(self) -> Advice:
        """
        Send the requests, one after the other.

        :return: The advice about the states that the query has no answers about yet
        """
        query = self.query
        actions: dict[int, np.ndarray] = {}
        rejected: list[Rejection] = []
        pending = [index for index in query.wanted if self._is_shown(index)]
        rejected += [Rejection("not_shown", index, _NOT_SHOWN) for index in query.wanted if index not in pending]
        number = max((answer.request + 1 for answer in query.answers), default=0)
        standing: StandingAdvice | None = None
        while (chat := self._next_chat(pending)) is not None:
            reason = self._reason_not_to_ask()
            if reason is not None:
                rejected += [Rejection(reason, index) for index in chat.states]
                pending = [index for index in pending if index not in chat.states]
                continue
            try:
                reply = await self._request(number, chat)
            except RequestFailed as failure:
                is_about_request = not (failure.retryable or failure.permanent)
                may_ask_again = self.budget.is_left(self._spent())
                if may_ask_again and self.limits.learn(str(failure), chat, self.completion_kwargs, is_about_request):
                    number += 1
                    continue
                rejected += [Rejection("request_failed", index, str(failure)) for index in chat.states]
                self.breaker.count(failed=True, permanent=failure.permanent)
            else:
                if reply.objection and self._reason_not_to_ask() is None and not self._is_trial:
                    number += 1
                    reply = await self._send_back(number, chat, reply)
                actions.update(reply.parsed.actions)
                rejected += reply.parsed.rejected
                standing = reply.parsed.standing or standing
            self._is_trial = False
            number += 1
            pending = [index for index in pending if index not in chat.states]
        rejected += [Rejection("too_large", index) for index in pending]
        if standing is None:
            self._warn_of_equal_actions(list(actions.values()))
        return Advice([actions.get(i) for i in range(len(query.states))], rejected, self.usage, standing)

    async def _send_back(self, number: int, chat: Chat, reply: _Reply) -> _Reply:
        """Have rules mended of which none can be used, once."""
        logger.info("Query %d: none of the rules can be used, and they are sent back.", self.query.index + 1)
        said = readable(without_thoughts(reply.text).strip()[-_MAX_SENT_BACK:])
        try:
            return await self._request(number, chat.sent_back(said, reply.objection))
        except RequestFailed as failure:
            self.breaker.count(failed=True, permanent=failure.permanent)
            return reply

    def _is_shown(self, index: int) -> bool:
        """Whether there is anything to be seen of a state."""
        return self._can_do_without_pictures or self.query.states[index].frame is not None

    def _next_chat(self, pending: list[int]) -> Chat | None:
        settings = self.settings
        n_states = self.limits.states_per_request(settings.states_per_request)
        is_blind = self.limits.max_pictures == 0 and self._can_do_without_pictures
        query = _without_frames(self.query) if is_blind else self.query
        return next(chats(query, self.task, pending, n_states, settings.image_size, self.form), None)

    def _reason_not_to_ask(self) -> str | None:
        if not self.budget.is_left(self._spent()):
            return "budget_exhausted"
        return "given_up" if self.breaker.is_open and not self._is_trial else None

    def _spent(self) -> Usage:
        """In the run or in the advisor's life, whichever is more: it may serve many runs, or the rest of one."""
        now = self.usage + Usage(seconds=time.monotonic() - self._counted_until)
        return (self.query.spent + now).at_least(self._spent_in_life + now)

    async def _request(self, number: int, chat: Chat) -> _Reply:
        max_retries = 0 if self._is_trial else self.settings.max_retries
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(lambda error: self._may_pass(error, chat)),
            stop=lambda state: state.attempt_number > max_retries or not self.budget.is_left(self._spent()),
            wait=lambda state: min(_retry_wait(state), self.budget.seconds_left(self._spent())),
            reraise=True,
        )
        completion: Completion = await retrying(self._attempt, number, chat)
        self.limits.has_answered = True
        # A server may answer with the key, and with anything of any size. The rest is for a key across the bound.
        text = without_secrets(completion.text[: MAX_ANSWER_LENGTH + 1000])[:MAX_ANSWER_LENGTH]
        is_cut = completion.finish_reason == "length"
        answer = Answer(number, chat.states, text, self._count(self._price(completion)), self.form, is_cut)
        self.query.record(answer)
        if self.endpoint.may_cut_prompts:
            n_sent = count_tokens(without_pictures(self.limits.messages(chat)))
            self.limits.notice_cut(n_sent, completion.prompt_tokens)

        parsed = self._read(answer)
        if (parsed.actions or parsed.standing) and len(completion.text) > MAX_ANSWER_LENGTH:
            limit = f"only the first {MAX_ANSWER_LENGTH} characters of an answer are kept and read. Set max_tokens"
            parsed = dataclasses.replace(parsed, rejected=(*parsed.rejected, Rejection("too_long", None, limit)))
        reason = None if parsed.actions or parsed.standing else _no_answer(completion)
        if reason is not None:
            example = _CUT_OFF if reason == "truncated" else ""
            parsed = ParsedAnswer({}, tuple(Rejection(reason, index, example) for index in chat.states))
        self.breaker.count(failed=bool(parsed.rejected) and not parsed.actions and parsed.standing is None)
        return _Reply(parsed, text, "" if reason is not None else self._objection(answer, parsed))

    def _objection(self, answer: Answer, parsed: ParsedAnswer) -> str:
        # Who broke off is not asked for the same again, nor whom this package failed to read.
        is_hopeless = answer.is_cut or any(rejection.reason in ("truncated", UNREAD) for rejection in parsed.rejected)
        if self.form != "rules" or parsed.standing is not None or not parsed.rejected or is_hopeless:
            return ""
        briefing = self.query.briefing
        return objection(Rules.parse(answer.text, briefing.sheet, briefing.observation_space, briefing.action_space))

    def _may_pass(self, error: BaseException, chat: Chat) -> bool:
        """Whether the same request may be answered if it is sent again."""
        if not isinstance(error, RequestFailed) or not error.retryable:
            return False
        return error.is_overload or not self.limits.has_remedy(str(error), chat, self.completion_kwargs)

    def _read(self, answer: Answer) -> ParsedAnswer:
        briefing, text, states = self.query.briefing, answer.text, answer.states
        if self.form == "rules":
            parsed = read_rules(text, states, [state.observation for state in self.query.states], briefing)
            keeps = parsed.standing is None and not parsed.rejected
            if keeps and self.query.followed is None:
                why = "it would keep its rules, but has written none yet"
                return ParsedAnswer({}, tuple(Rejection("no_rules", state, why) for state in states))
            return parsed
        return parse_answer(text, states, briefing.action_space, action_names(briefing), answer.is_cut)

    async def _attempt(self, number: int, chat: Chat) -> Completion:
        if not self.budget.is_left(self._spent()):
            raise RequestFailed("no budget is left to try again")
        self.query.record(Request(number, chat.states))
        deadline = min(self.endpoint.deadline, self.budget.seconds_left(self._spent()))
        try:
            kwargs = self.limits.arguments(self.completion_kwargs)
            arguments = self.endpoint.arguments(self.limits.messages(chat), kwargs)
            return await complete(self.litellm, arguments, deadline)
        except RequestFailed as failure:
            self.query.record(Failure(number, str(failure), self._count(Usage(requests=1)), failure.permanent))
            raise
        except asyncio.CancelledError:
            self.query.record(Failure(number, "broken off", self._count(Usage(requests=1))))
            raise

    def _count(self, usage: Usage) -> Usage:
        """Add a usage and the time since the last one."""
        now = time.monotonic()
        usage = dataclasses.replace(usage, seconds=now - self._counted_until)
        self._counted_until = now
        self.usage += usage
        return usage

    def _price(self, completion: Completion) -> Usage:
        prompt_tokens, completion_tokens = completion.prompt_tokens, completion.completion_tokens
        if not prompt_tokens and not completion_tokens:
            self.budget.note_missing_counts()
        cost = self._cost(completion.response, prompt_tokens, completion_tokens)
        if cost is None:
            self.budget.note_missing_price()
        return Usage(1, prompt_tokens, completion_tokens, cost or 0.0)

    def _cost(self, response: Any, prompt_tokens: int, completion_tokens: int) -> float | None:
        prices, model = self.endpoint.price_per_token, self.endpoint.model
        is_counted = prompt_tokens + completion_tokens > 0
        if prices is not None:
            cost = prices[0] * prompt_tokens + prices[1] * completion_tokens
            return cost if is_counted or not any(prices) else None
        with contextlib.suppress(Exception):  # raised for a model without known prices, and for answers of odd shapes
            cost = float(self.litellm.completion_cost(completion_response=response, model=model))
            if math.isfinite(cost) and cost > 0 and is_counted:
                return cost
        return price_of(model, prompt_tokens, completion_tokens) if is_counted else None

    def _warn_of_equal_actions(self, given: list[np.ndarray]) -> None:
        if len(given) >= _MIN_EQUAL_ACTIONS and all(np.array_equal(action, given[0]) for action in given):
            logger.warning(
                "%s advised the same action, %s, in all %d states of query %d: it does not seem to look at them.",
                self.endpoint.model,
                given[0].tolist(),
                len(given),
                self.query.index + 1,
            )


def _without_frames(query: AdviceQuery) -> AdviceQuery:
    """So that the text speaks of no pictures where the server takes none."""
    states = tuple(dataclasses.replace(state, frame=None) for state in query.states)
    followed = query.followed
    if followed is not None:
        episodes = tuple(dataclasses.replace(episode, frames={}) for episode in followed.episodes)
        followed = dataclasses.replace(followed, episodes=episodes)
    briefing = dataclasses.replace(query.briefing, frames=False)
    return dataclasses.replace(query, states=states, followed=followed, briefing=briefing)


def _says_something_without_frames(query: AdviceQuery, task: str, form: Form) -> bool:
    try:
        system_prompt(_without_frames(query).briefing, task, form)
    except ValueError:
        return False
    return True


def _retry_wait(state: tenacity.RetryCallState) -> float:
    failure = state.outcome.exception() if state.outcome is not None else None
    backoff = tenacity.wait_random_exponential(multiplier=RETRY_WAIT, max=MAX_RETRY_WAIT)(state)
    return min(max(backoff, getattr(failure, "retry_after", 0.0)), MAX_RETRY_WAIT)


def _no_answer(completion: Completion) -> str | None:
    """Why an answer without usable advice has none, as far as the provider tells."""
    if not completion.has_choices:
        return "no_choices"
    if completion.finish_reason == "length":
        return "truncated"
    if completion.finish_reason == "content_filter" or completion.refused:
        return "refused"
    return None if completion.said_anything else "empty_answer"
