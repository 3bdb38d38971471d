"""A vision-language model as advisor, with any of the providers that litellm knows, or on a local server."""

import logging
import os
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from sb3_varl.advice.types import Advice, AdviceQuery, Briefing, Form, QueryInterrupted, Usage
from sb3_varl.advisors.background import Interruptible
from sb3_varl.advisors.budget import Budget
from sb3_varl.advisors.form import UsualForm, check_form
from sb3_varl.advisors.limits import ServerLimits
from sb3_varl.advisors.prompt import MAX_IMAGE_SIZE, MAX_STATES_PER_REQUEST, system_prompt, whole_prompt
from sb3_varl.advisors.providers import Endpoint, can_reason, check_model, holds_to_schema, known_refusal, price_of
from sb3_varl.advisors.vlm_query import CircuitBreaker, RequestSettings, VLMQuery
from sb3_varl.arguments import ArgumentError, check_bool, check_integer, check_number, check_text
from sb3_varl.redaction import refuse_secrets

logger = logging.getLogger(__name__)

_EFFORTS, _USUAL_EFFORT = ("low", "medium", "high"), "medium"
_OWN_ARGUMENTS = frozenset(
    {"model", "messages", "api_base", "base_url", "timeout", "num_retries", "max_retries", "stream", "n", "logger_fn"}
)


class VLMAdvisor:
    """
    Ask a vision-language model what it would have done, or by which rules.

    In the form ``"rules"`` one request a query brings ordered rules, from which advice for every state follows (see
    :class:`~sb3_varl.Rules`), and a second one where none of these can be used, which are sent back with the reasons;
    it needs a task sheet that names the numbers of an observation. In the form ``"actions"`` each state gets an action
    of its own.

    Keys come from the environment, from the variable that litellm names for the provider (``OPENAI_API_KEY``,
    ``ANTHROPIC_API_KEY``, …), and are never kept. A server behind ``api_base`` that wants no key needs none;
    if the provider's variable is set, its key is sent there.

    A request that fails, be it for the network, the provider or the deadline, costs its own states and nothing else.
    The budgets hold for the advisor's life and for each run, with all that was spent before it was resumed. No request
    is sent once one of them is spent, so that ``max_total_tokens`` and ``max_cost`` are exceeded by one answer at most.

    :param model: litellm's name of the model with its provider, for instance ``"openai/gpt-6.1-sol"``;
        for a local server with OpenAI's protocol, ``"openai/"`` and the name that the server gives the model
    :param task: The task in words; goes before the task that the callback or the environment gives
    :param form: What is asked for: ``"rules"`` or ``"actions"``. ``None`` for rules where the task sheet names the
        numbers of an observation, and for actions elsewhere
    :param api_base: URL of the server, for instance ``"http://localhost:8000/v1"``; default: the provider's own
    :param states_per_request: States that share one request, at most; large ones are sent in smaller numbers
    :param image_size: Length to which a frame's longer side is scaled down, in pixels
    :param deadline: Seconds until a request without a complete answer is given up. It may have to be paid
        nevertheless, without showing up in ``usage``: providers report what an answer cost only with the answer.
    :param max_retries: How many times a request is sent again after a failure that may pass, such as a rate limit,
        an overloaded server, a lost connection or the deadline
    :param max_failures: After this many requests in a row that brought nothing usable, with all their retries, the
        rest of the query is not asked; the next query tries a single request, without retries, before it goes on
    :param max_requests: Budget of requests, retries included
    :param max_total_tokens: Budget of tokens, sent and received.
        (An answer's length is limited by ``completion_kwargs={"max_tokens": …}``.)
    :param max_cost: Budget of US dollars. Where nobody can tell what an answer cost, it counts as spent
    :param max_seconds: Budget of time spent on asking. A request that would exceed it is cut short.
    :param price_per_token: US dollars for a token sent and for a token received, for a model that litellm has
        no prices for, or other prices than the list's
    :param json_schema: Whether the provider is to hold the model to the form of an answer, by a JSON schema in
        ``response_format``. ``None`` for where litellm says that it can. A server that refuses is asked in plain words
    :param reasoning_effort: How much a model is to think that litellm says can: ``"low"``, ``"medium"`` or ``"high"``.
        ``None`` for what it does by itself, which is nothing in many. Thinking is paid for as what is said. Others are
        asked nothing of the kind
    :param completion_kwargs: Further arguments of ``litellm.completion``, such as ``temperature``; they go before what
        the two above set
    :raises ArgumentError: if an argument has the wrong type or is out of range, or ``max_cost`` is set and nobody knows
        the prices
    :raises ValueError: if the model's provider is not named or not known, its key is not in the environment,
        or ``completion_kwargs`` contains a secret or what is set elsewhere
    """

    def __init__(
        self,
        model: str,
        task: str | None = None,
        *,
        form: Form | None = None,
        api_base: str | None = None,
        states_per_request: int = 16,
        image_size: int = 224,
        deadline: float = 300.0,
        max_retries: int = 3,
        max_failures: int = 3,
        max_requests: int | None = None,
        max_total_tokens: int | None = None,
        max_cost: float | None = None,
        max_seconds: float | None = None,
        price_per_token: tuple[float, float] | None = None,
        json_schema: bool | None = None,
        reasoning_effort: str | None = _USUAL_EFFORT,
        completion_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        check_text("task", task, "Open the drawer.")
        check_form(form)
        check_integer("states_per_request", states_per_request, high=MAX_STATES_PER_REQUEST)
        check_integer("image_size", image_size, high=MAX_IMAGE_SIZE)
        check_number("deadline", deadline, above_low=True)
        check_integer("max_retries", max_retries, low=0)
        check_integer("max_failures", max_failures)
        check_integer("max_requests", max_requests, optional=True)
        check_integer("max_total_tokens", max_total_tokens, optional=True)
        check_number("max_cost", max_cost, above_low=True, optional=True)
        check_number("max_seconds", max_seconds, above_low=True, optional=True)
        if json_schema is not None:
            check_bool("json_schema", json_schema)
        if reasoning_effort not in (None, *_EFFORTS):
            raise ArgumentError(
                f"reasoning_effort is {reasoning_effort!r}, expected {', '.join(map(repr, _EFFORTS))} or None. "
                "What else a model knows goes into completion_kwargs."
            )
        if reasoning_effort not in (None, _USUAL_EFFORT) and not can_reason(model):
            logger.warning(
                "reasoning_effort=%r is not sent, because litellm does not say that %s can think. To send it in any "
                'case, as to a server of your own, give completion_kwargs={"reasoning_effort": %r}.',
                reasoning_effort,
                model,
                reasoning_effort,
            )
        _check_prices(price_per_token)
        _check_api_base(api_base)
        _check_completion_kwargs(completion_kwargs)

        self.task = task
        self.form = form
        self.endpoint = Endpoint(
            model,
            api_base,
            check_model(model, api_base),
            float(deadline),
            dict(completion_kwargs or {}),
            price_per_token,
        )
        self.settings = RequestSettings(
            int(states_per_request),
            int(image_size),
            int(max_retries),
            holds_to_schema(model) if json_schema is None else bool(json_schema),
            reasoning_effort if can_reason(model) else None,
        )
        self.budget = Budget(model, max_requests, max_total_tokens, max_cost, max_seconds)
        self._breaker = CircuitBreaker(model, int(max_failures))
        self._limits = ServerLimits(model)
        self._usage = Usage()
        self._usual_form = UsualForm(f"{model} is")
        self._be_idle()
        if max_cost is not None and price_per_token is None and price_of(model, 1, 1) is None:
            raise ArgumentError(
                f"max_cost needs prices, and litellm has none for {model!r}. Give price_per_token=(sent, received) "
                "in US dollars, or limit max_total_tokens or max_requests instead."
            )

    def _be_idle(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._n_interruptions = 0
        self._running: Interruptible[Advice] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Of a copy, which is not asking anything.
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_running")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._be_idle()

    @property
    def model(self) -> str:
        """Litellm's name of the model."""
        return self.endpoint.model

    @property
    def usage(self) -> Usage:
        """What all queries so far cost."""
        return self._usage

    def prepare(self, briefing: Briefing) -> None:
        """
        Find out before the training starts whether a query can be put into words.

        :param briefing: What stays the same over all queries
        :raises ValueError: if there is no task, the action space is unbounded, the task sheet does not fit or is too
            long, nothing of a state would be shown, or rules are to be asked for and nothing has a name
        """
        if not briefing.action_space.is_bounded():
            raise ValueError(
                f"A model needs bounds to advise within, but the action space is {briefing.action_space}. "
                "Give the environment an action space of finite bounds."
            )
        form = self.form_for(briefing)
        system_prompt(briefing, self._task(briefing), form)
        self._learn_what_is_refused(form, briefing)

    def _learn_what_is_refused(self, form: Form, briefing: Briefing) -> None:
        """As far as litellm knows it before anything is sent."""
        arguments = self.settings.completion_kwargs(self.endpoint.completion_kwargs, form, briefing.action_space)
        while (said := known_refusal(self.model, self._limits.arguments(arguments))) is not None:
            if not self._limits.learn_arguments(said, arguments):
                logger.warning("%s will refuse a request: %s", self.model, said)
                return

    def advise(self, query: AdviceQuery) -> Advice:
        """
        Ask the model, in as many requests as it takes, one after the other.

        :param query: The states in question
        :return: The advice; faults of the network, the provider or the model are in its ``rejected``
        :raises ValueError: if there is no task
        :raises QueryInterrupted: if :meth:`interrupt` was called meanwhile
        """
        task = self._task(query.briefing)
        if self._process != os.getpid():  # forked, perhaps while it was asking
            self._be_idle()
        n_interruptions = self._n_interruptions
        with self._lock:  # an advisor may serve several callbacks
            if self._n_interruptions > n_interruptions:
                raise QueryInterrupted("The query was broken off before it was asked.")
            form = self.form_for(query.briefing)
            asked = VLMQuery(
                query,
                task,
                form,
                self.endpoint,
                self.settings,
                self.budget,
                self._breaker,
                self._limits,
                self._usage,
            )
            self._running = Interruptible(asked.ask())
            try:
                return self._running.result()
            finally:
                self._running = None
                self._usage += asked.usage

    @property
    def takes_pictures(self) -> bool:
        """Whether the server takes pictures, as far as it was asked."""
        return self._limits.max_pictures != 0

    def prompt(self, query: AdviceQuery) -> str:
        """
        Say what the model is sent about a query, without the pictures.

        :param query: The query
        :return: The text of its requests: what they all begin with, and a line for each state
        """
        return whole_prompt(query, self._task(query.briefing), self.form_for(query.briefing))

    def form_for(self, briefing: Briefing) -> Form:
        """
        Say what is asked for in an environment.

        :param briefing: What stays the same over all queries
        :return: The form
        """
        return self.form or self._usual_form(briefing)

    def interrupt(self) -> None:
        """Break off what is being asked, from any thread. What was answered so far is recorded."""
        self._n_interruptions += 1
        running = self._running
        if running is not None:
            running.interrupt()

    def _task(self, briefing: Briefing) -> str:
        task = self.task or briefing.task or (briefing.sheet.goal if briefing.sheet is not None else "")
        if not task.strip():
            raise ValueError(
                "The model does not know the task. Give it to the advisor or to the callback, for instance "
                f'VLMAdvisor({self.model!r}, task="Open the drawer."), as goal in the task sheet, or by --task on the '
                "command line."
            )
        return task


def _check_prices(prices: Any) -> None:
    if prices is None:
        return
    if not isinstance(prices, (tuple, list)) or len(prices) != 2:
        raise ArgumentError(f"price_per_token is {prices!r}, expected two numbers, (sent, received), or None.")
    for price in prices:
        check_number("price_per_token", price)


def _check_api_base(api_base: str | None) -> None:
    if api_base is None:
        return
    if not isinstance(api_base, str):
        raise ArgumentError(f'api_base is {api_base!r}, expected a URL such as "http://localhost:8000/v1", or None.')
    if "@" in api_base or "?" in api_base:
        raise ArgumentError("api_base must have no password and no query: set the provider's key in the environment.")
    url = urlsplit(api_base)
    if url.scheme not in ("http", "https") or not url.netloc:
        raise ArgumentError(f'api_base is {api_base!r}, expected a URL such as "http://localhost:8000/v1", or None.')


def _check_completion_kwargs(arguments: Mapping[str, Any] | None) -> None:
    if arguments is None:
        return
    if not isinstance(arguments, Mapping):
        raise ArgumentError(
            f'completion_kwargs must be a dictionary such as {{"temperature": 0.2}}, got {type(arguments).__name__}.'
        )
    refuse_secrets(arguments, "completion_kwargs")
    for name in arguments:
        if name in _OWN_ARGUMENTS:
            raise ArgumentError(
                f"completion_kwargs contains {name!r}, which VLMAdvisor sets itself. Use its own arguments."
            )
