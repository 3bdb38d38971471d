"""What there is to know about litellm and the providers behind it, and nothing about advice."""

import asyncio
import contextlib
import importlib
import json
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from sb3_varl.advisors.background import close_at_exit, in_background
from sb3_varl.advisors.by_name import EXAMPLE_MODEL
from sb3_varl.advisors.completion import Completion, read_completion
from sb3_varl.redaction import scrub, scrub_loggers

# Failures that may pass. What litellm cannot place, lost connections above all, it reports as 500; some clients
# report as 200 what cannot be read, such as a proxy's page.
RETRIED_STATUSES = frozenset({200, 408, 409, 425, 429, 500, 502, 503, 504, 529})
_OVERLOADED_STATUSES = frozenset({429, 503, 529})
# Failures that will not: a wrong key, one that may not do this, and a model or an address that there is not.
PERMANENT_STATUSES = frozenset({401, 403, 404})
_NO_SUCH_MODEL = re.compile(r"\b(model_not_found|invalid_model|unknown_model)\b")

# Without these, litellm fetches its prices and its Anthropic headers from the network,
# and loads a .env file from the working directory or its parents.
_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_MODE": "PRODUCTION",
}

# What litellm, and what it makes its classes and sends its requests with, has to say about its own code.
_NOT_OURS = r"(aiohttp|anthropic|httpcore|httpx|litellm|openai|pydantic)(\.|$)"

_import_lock = threading.Lock()
_environment_lock = threading.Lock()
# Of the process that this one was forked from.
_inherited_clients: list[Any] = []


def _forget_clients() -> None:
    """A forked process shares its connections with the one that it was forked from, and is not to close them."""
    global _import_lock, _environment_lock
    _import_lock = threading.Lock()
    _environment_lock = threading.Lock()
    if "litellm" in sys.modules:
        with contextlib.suppress(AttributeError):
            cache = sys.modules["litellm"].in_memory_llm_clients_cache
            _inherited_clients.append(dict(cache.cache_dict))
            cache.flush_cache()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_clients)

# litellm and what it sends requests with.
_LOGGERS = frozenset(
    {"LiteLLM", "LiteLLM Proxy", "LiteLLM Router", "aiohttp", "anthropic", "botocore", "httpcore", "httpx", "openai"}
)
# Exceptions that were raised one because of the other, of which the last is the cause.
_MAX_CHAIN = 20
_IN_MEMORY = re.compile(r" \w+:<[\w.]+ object at 0x[0-9a-f]+>")
# Of what a server says, lists within lists.
_MAX_DEPTH = 4
# Characters of an error in which litellm looks for keys; the rest is dropped.
_MAX_REDACTED = 10_000


class RequestFailed(Exception):
    """
    A request that brought no answer.

    :param text: One line without secrets
    :param retryable: Whether the failure may pass within seconds
    :param permanent: Whether it will not pass at all
    :param retry_after: Seconds that the server asks to wait, or 0
    :param is_overload: Whether the server asks for patience, so that what it says of the request counts only once there
        was some
    """

    def __init__(
        self,
        text: str,
        *,
        retryable: bool = False,
        permanent: bool = False,
        retry_after: float = 0.0,
        is_overload: bool = False,
    ) -> None:
        super().__init__(text)
        self.retryable = retryable
        self.permanent = permanent
        self.retry_after = retry_after
        self.is_overload = is_overload


@dataclass
class Endpoint:
    """
    A model, and how it is reached.

    :param model: litellm's name of the model
    :param api_base: URL of the server, if it is not the provider's own
    :param has_key: Whether litellm finds the key by itself, or none is needed that we know of
    :param deadline: Seconds until a request without a complete answer is given up
    :param completion_kwargs: Further arguments of ``litellm.completion``
    :param price_per_token: US dollars for a token sent and for a token received, ``None`` for litellm's prices
    """

    model: str
    api_base: str | None
    has_key: bool
    deadline: float
    completion_kwargs: dict[str, Any]
    price_per_token: tuple[float, float] | None

    @property
    def may_cut_prompts(self) -> bool:
        """Whether it is a server that leaves out in silence what is too long."""
        return self.model.startswith(("ollama/", "ollama_chat/")) or ":11434" in (self.api_base or "")

    def arguments(self, messages: list[dict], completion_kwargs: dict[str, Any] | None = None) -> dict[str, Any]:
        """
        Put together what litellm is called with.

        :param messages: The chat
        :param completion_kwargs: What the server takes of the further arguments, ``None`` for all
        :return: Arguments of ``litellm.acompletion``
        """
        further = self.completion_kwargs if completion_kwargs is None else completion_kwargs
        arguments = {**further, "model": self.model, "messages": messages, "timeout": self.deadline}
        if self.api_base is not None:
            arguments["api_base"] = self.api_base
        if not self.has_key:
            # Some clients refuse to start without any.
            arguments["api_key"] = "unused"
        return arguments


def import_litellm() -> ModuleType:
    """
    Import litellm, which takes seconds, without what it would do besides: fetch files, load ``.env``, print banners.

    :return: The module
    """
    with _import_lock:
        if "litellm" not in sys.modules:
            with _told_to_stay_offline(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module("litellm")
                # It would fetch them at the first request to Anthropic, so have it read its own copy now.
                with contextlib.suppress(ImportError, AttributeError):
                    importlib.import_module("litellm.anthropic_beta_headers_manager").reload_beta_headers_config()
                # In a thread, because a notebook has an event loop running in its own.
                in_background(asyncio.run, _rehearse(importlib.import_module("litellm"))).result()
        _bound_redaction()
    litellm = importlib.import_module("litellm")
    litellm.suppress_debug_info = True  # type: ignore[attr-defined]
    close_at_exit(litellm.close_litellm_async_clients)
    return litellm


async def _rehearse(litellm: ModuleType) -> None:
    """Import what litellm imports with its first request, which would count against that request's deadline."""
    messages = [{"role": "user", "content": ""}]
    with contextlib.suppress(Exception):  # then the first request does it
        await litellm.acompletion(model="openai/x", messages=messages, mock_response="x")
        # Of its bookkeeping, which would be found missing when there is another event loop.
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()


@contextlib.contextmanager
def _told_to_stay_offline() -> Iterator[None]:
    saved = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _ignore_warnings_about_others() -> None:
    """
    Keep warnings about other people's code from becoming errors in which answers are lost, or lines on the terminal.

    litellm imports much of itself in the middle of a request. That is in another thread than the user's, for which
    there is no ``warnings.catch_warnings()``, and the filter does not outlive a ``catch_warnings()`` of the user's: so
    each request sets it where it is not the first.
    """
    # Setting any filter has Python repeat what it has warned of once.
    first = warnings.filters[0][3] if warnings.filters else None
    if getattr(first, "pattern", None) != _NOT_OURS:
        warnings.filterwarnings("ignore", module=_NOT_OURS)


def _bound_redaction() -> None:
    """
    Keep litellm from looking for keys in all of an error.

    It takes seconds for each megabyte that a server may send, and holds the interpreter all the while: no deadline
    would be kept, and training would stand still. It is done before an error reaches us, and its only switch would turn
    it off for everybody in the process.
    """
    with contextlib.suppress(ImportError, AttributeError):
        redaction: Any = importlib.import_module("litellm.litellm_core_utils.secret_redaction")
        if not isinstance(redaction._SECRET_RE, _Bounded):
            redaction._SECRET_RE = _Bounded(redaction._SECRET_RE)


class _Bounded:
    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern

    def sub(self, replacement: str, text: str) -> str:
        return self._pattern.sub(replacement, text[:_MAX_REDACTED])


async def complete(litellm: ModuleType, arguments: dict[str, Any], deadline: float) -> Completion:
    """
    Send one request.

    :param litellm: The module
    :param arguments: Arguments of ``litellm.acompletion``
    :param deadline: Seconds until it is given up, whatever the server does
    :return: What the model said
    :raises RequestFailed: if it brought no answer
    """
    _ignore_warnings_about_others()
    scrub_loggers(_LOGGERS)
    received: list[Any] = []

    def keep(details: dict[str, Any]) -> None:
        received[:] = [details.get("original_response")]

    try:
        # litellm's own retries multiply with those of the client underneath, and its timeout starts anew
        # with every byte received: neither is of use here.
        request = litellm.acompletion(**arguments, num_retries=0, max_retries=0, logger_fn=keep)
        response = await asyncio.wait_for(request, deadline)
    except asyncio.TimeoutError:
        failure = RequestFailed(f"no complete answer within {deadline:g} s", retryable=True)
    except Exception as error:
        completion = _unread(received)
        if completion is not None:
            return completion
        failure = _request_failed(error)
    else:
        return read_completion(_as_data(response), response)
    # Raised out here, because an exception raised in the handler would carry the caught one, and that the key.
    raise failure


def _as_data(response: Any) -> dict[str, Any]:
    data = response.model_dump() if hasattr(response, "model_dump") else response
    return data if isinstance(data, dict) else {}


def _unread(received: list[Any]) -> Completion | None:
    """An answer that came, was paid for, and is in a form that litellm refuses."""
    try:
        data = json.loads(received[0])
    except (IndexError, TypeError, ValueError, RecursionError):
        return None
    choices = data.get("choices") if isinstance(data, dict) and not data.get("error") else None
    return read_completion(data) if isinstance(choices, list) and any(isinstance(c, dict) for c in choices) else None


def _request_failed(error: Exception) -> RequestFailed:
    """Say in our own words what litellm raised: its exceptions carry the request, and the key in it."""
    # Not all clients pass the error's code on, but those that do not quote the body.
    said = f"{error} {getattr(error, 'body', '')} {getattr(error, 'code', '')}"
    quota_is_gone = "insufficient_quota" in said
    headers = getattr(error, "litellm_response_headers", None) or {}
    try:
        retry_after = float(headers.get("retry-after", 0))
    except (TypeError, ValueError):  # a date
        retry_after = 0.0
    status = getattr(error, "status_code", None)
    # litellm quotes its own tracebacks, and addresses of objects.
    text = _IN_MEMORY.sub("", str(error).partition("Traceback (most recent call last)")[0])
    text += _body_of(error) + _cause_of(error)
    return RequestFailed(
        scrub(text) or type(error).__name__,
        retryable=status in RETRIED_STATUSES and not quota_is_gone,
        permanent=status in PERMANENT_STATUSES or (status == 400 and _NO_SUCH_MODEL.search(said) is not None),
        retry_after=retry_after if retry_after > 0 else 0.0,
        is_overload=status in _OVERLOADED_STATUSES,
    )


def _body_of(error: Exception) -> str:
    """What a server said, where it has another form than OpenAI's, of which litellm's error then says nothing."""
    body = getattr(error, "body", None)
    said = list(_texts(body))
    if not said or any(text in str(error) for text in said):
        return ""
    return f": {', '.join(said)}"


def _texts(body: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(body, str):
        yield body[:_MAX_REDACTED]
    elif isinstance(body, dict | list) and depth < _MAX_DEPTH:
        for part in body.values() if isinstance(body, dict) else body:
            yield from _texts(part, depth + 1)


def _cause_of(error: BaseException) -> str:
    """What the operating system said of a connection: that it was refused, or which certificate is wrong."""
    said, cause, uses_proxy = str(error), None, False
    chain: BaseException | None = error
    for _ in range(_MAX_CHAIN):
        if chain is None:
            break
        uses_proxy = uses_proxy or "Proxy" in type(chain).__name__
        cause = chain if isinstance(chain, OSError) else cause
        chain = chain.__cause__ or chain.__context__
    if cause is None:
        return ""
    hints = [] if str(cause) in said else [f"{type(cause).__name__}: {cause}"]
    if uses_proxy:
        hints.append("through the proxy that the environment names, in HTTP_PROXY for instance")
    return f" ({', '.join(hints)})" if hints else ""


def check_model(model: str, api_base: str | None) -> bool:
    """
    Find out before the first request whether there is a provider and a key for a model.

    :param model: litellm's name of the model
    :param api_base: URL of the server, if it is not the provider's own
    :return: Whether the environment or litellm's own configuration has the key, or none is needed that we know of
    :raises TypeError: if the name is no string
    :raises ValueError: if the name has no provider or an unknown one, or its key is missing without an ``api_base``, or
        cannot be sent
    """
    if not isinstance(model, str):
        raise TypeError(f'model must be litellm\'s name of a model, such as "{EXAMPLE_MODEL}", got {model!r}.')
    litellm = import_litellm()
    provider, _, name = model.partition("/")
    if not provider or not name:
        try:
            provider = litellm.get_llm_provider(model)[1]
        except Exception:  # litellm does not know the name either; "openai" serves as the example
            provider = "openai"
        raise ValueError(f'model must name its provider, as in "{provider}/{name or model.strip("/")}", got {model!r}.')
    if provider not in litellm.provider_list:
        raise ValueError(
            f"litellm knows no provider {provider!r} (model {model!r}). Its providers are listed at "
            "https://docs.litellm.ai/docs/providers; for a local server with OpenAI's protocol write "
            f'"openai/{model}" and give api_base.'
        )
    if getattr(litellm, "api_key", None) or getattr(litellm, f"{provider}_key", None):
        return True
    missing, unusable = _missing_variables(model)
    for variable in (*missing, f"{provider.upper()}_API_KEY"):
        if unusable.get(variable, "").strip():
            raise ValueError(
                f"The key in {variable} cannot be sent: it has a line end, a blank at an end, or a character that is "
                "not of ASCII. Set it again."
            )
    # Azure has other ways to log in than by a key; so have AWS and Google's Vertex, whose variables end differently.
    missing = [] if provider == "azure" else [variable for variable in missing if variable.endswith("_API_KEY")]
    if missing and api_base is None:
        raise ValueError(
            f"There is no key for {model!r} in the environment. Set {' or '.join(missing)}, "
            "or give api_base for a server that wants no key."
        )
    return not missing


def _can_be_sent(key: str) -> bool:
    return bool(key) and key == key.strip() and key.isascii() and key.isprintable()


def _missing_variables(model: str) -> tuple[list[str], dict[str, str]]:
    """The variables that a model lacks, and all those of keys that cannot be sent, which count as missing."""
    # litellm only looks whether a variable is there, and Docker Compose sets those that are not to nothing.
    with _environment_lock:
        unusable = {
            name: key for name, key in os.environ.items() if name.endswith("_API_KEY") and not _can_be_sent(key)
        }
        try:
            for variable in unusable:
                del os.environ[variable]
            return import_litellm().validate_environment(model)["missing_keys"], unusable
        finally:
            os.environ.update(unusable)


def holds_to_schema(model: str) -> bool:
    """
    Look up whether a model can be held to a JSON schema.

    :param model: litellm's name of the model
    :return: Whether litellm says so
    """
    return bool(import_litellm().supports_response_schema(model=model))


def can_reason(model: str) -> bool:
    """
    Look up whether a model can think before it answers, and be told how much.

    :param model: litellm's name of the model
    :return: Whether litellm says so
    """
    return bool(import_litellm().supports_reasoning(model=model))


def known_refusal(model: str, completion_kwargs: dict[str, Any]) -> str | None:
    """
    Find out before the first request what litellm would not send.

    :param model: litellm's name of the model
    :param completion_kwargs: Further arguments of ``litellm.completion``
    :return: What it says, or ``None`` if it knows of nothing
    """
    litellm = import_litellm()
    provider, _, name = model.partition("/")
    try:
        litellm.get_optional_params(model=name, custom_llm_provider=provider, **completion_kwargs)
    except litellm.UnsupportedParamsError as error:
        return scrub(str(error))
    except Exception:
        # A helper of litellm's that is not documented: what else it raises is about itself, in one version or another,
        # and not about the model. The first request then says what is refused, as where litellm knows of nothing.
        return None
    return None


def count_tokens(messages: list[dict]) -> int:
    """
    Count the tokens of a chat, without sending it.

    :param messages: The chat
    :return: Tokens as OpenAI's models count them, pictures included
    """
    # For some other models, litellm would fetch a tokenizer from the network.
    return int(import_litellm().token_counter(model="gpt-4o", messages=messages))


def price_of(model: str, prompt_tokens: int, completion_tokens: int) -> float | None:
    """
    Look up what tokens cost.

    :param model: litellm's name of the model
    :param prompt_tokens: Tokens sent
    :param completion_tokens: Tokens received
    :return: US dollars, or ``None`` if litellm has no prices for the model
    """
    litellm = import_litellm()
    try:
        prices = litellm.cost_per_token(model=model, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
    except Exception:  # litellm says so with a bare Exception
        return None
    return float(sum(prices)) if any(prices) or _is_free(model) else None


def _is_free(model: str) -> bool:
    """Whether a price of nothing is one: litellm also says it of what it does not know at Hugging Face."""
    provider, _, name = model.partition("/")
    table = import_litellm().model_cost
    is_listed = model in table or str(table.get(name, {}).get("litellm_provider")).startswith(provider)
    return is_listed or provider in ("ollama", "ollama_chat")
