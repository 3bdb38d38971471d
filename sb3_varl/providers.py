"""What there is to know about litellm and the providers behind it, and nothing about advice."""

import asyncio
import contextlib
import importlib
import os
import re
import sys
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import Any

# Failures that may pass. What litellm cannot place, lost connections above all, it reports as 500.
RETRIED_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})

# Without these, litellm fetches its prices and its Anthropic headers from the network,
# and loads a .env file from the working directory or its parents.
_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_MODE": "PRODUCTION",
}
_SECRET_VARIABLE = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"\bsk-[\w*.-]{4,}|\bAIza[\w-]{10,}|\bBearer\s+\S+|(?<=key=)[^&\s'\"]+|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)",
    re.IGNORECASE,
)
_SECRET_WORDS = "api[-_]?key|access[-_]key|secret|password|credential|authorization"
_TOKEN = "(?<!per[-_])token"
_SECRET_ARGUMENT = re.compile(rf"{_SECRET_WORDS}|{_TOKEN}$", re.IGNORECASE)
# The same inside a string of Python code, which rl-zoo's YAML files and arguments may hold.
_SECRET_ASSIGNMENT = re.compile(rf"({_SECRET_WORDS}|{_TOKEN})\W{{0,3}}[=:]", re.IGNORECASE)


class RequestFailed(Exception):
    """
    A request that brought no answer.

    :param text: One line without secrets
    :param retryable: Whether the failure may pass
    :param retry_after: Seconds that the server asks to wait, or 0
    """

    def __init__(self, text: str, *, retryable: bool, retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.retryable = retryable
        self.retry_after = retry_after


def import_litellm() -> ModuleType:
    """
    Import litellm, which takes seconds, without what it would do besides: fetch files, load ``.env``, print banners.

    :return: The module
    """
    if "litellm" not in sys.modules:
        saved = {name: os.environ.get(name) for name in _ENVIRONMENT}
        os.environ.update(_ENVIRONMENT)
        try:
            with warnings.catch_warnings():
                # Pydantic's, about litellm's own classes; made here, lest the first answer be lost to "-W error".
                warnings.simplefilter("ignore")
                importlib.import_module("litellm").ModelResponse()
            # It would fetch them at the first request to Anthropic, so have it read its own copy while it is told to.
            with contextlib.suppress(ImportError, AttributeError):
                importlib.import_module("litellm.anthropic_beta_headers_manager").reload_beta_headers_config()
        finally:
            for name, value in saved.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
    litellm = importlib.import_module("litellm")
    litellm.suppress_debug_info = True  # type: ignore[attr-defined]
    return litellm


async def close_clients(litellm: ModuleType) -> None:
    """
    Close the clients that litellm keeps for the running event loop.

    They are of no use after it, and as litellm finds them by the loop's ``id()``, which Python gives out again,
    a later loop could be handed a client of dead connections.

    :param litellm: The module
    """
    suffix = f"-{id(asyncio.get_running_loop())}"
    with contextlib.suppress(Exception):
        cache = litellm.in_memory_llm_clients_cache
        for key, client in list(cache.cache_dict.items()):
            if key.endswith(suffix):
                cache.delete_cache(key)
                await client.close()


def scrub(text: str) -> str:
    """
    Make a text fit for a log.

    :param text: Any text, for instance that of an error in which a server repeats the key
    :return: One line of at most 300 characters, without anything that may be a key
    """
    return " ".join(_without_secrets(text).split())[:300]


def _without_secrets(text: str) -> str:
    values = {value.strip() for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)}
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= 8:
            text = text.replace(value, "***")
    return _SECRET_TEXT.sub("***", text)


def refuse_secrets(configuration: Any, name: str) -> None:
    """
    Make sure that something that will be written to files, or printed, holds no key.

    :param configuration: Any nesting of mappings, sequences and strings
    :param name: What it is called, for the error
    :raises ValueError: if something in it is called as secrets are, or looks like one, or is one of the environment's
    """
    if isinstance(configuration, Mapping):
        for key, value in configuration.items():
            if _SECRET_ARGUMENT.search(str(key)):
                raise ValueError(
                    f"{name} contains {key!r}, but a configuration is no place for a secret: "
                    "set the provider's environment variable instead, for instance OPENAI_API_KEY."
                )
            refuse_secrets(value, f"{name}[{key!r}]")
    elif isinstance(configuration, list | tuple):
        for i, value in enumerate(configuration):
            refuse_secrets(value, f"{name}[{i}]")
    elif isinstance(configuration, str) and (
        _SECRET_ASSIGNMENT.search(configuration) or _without_secrets(configuration) != configuration
    ):
        raise ValueError(
            f"{name} seems to contain a key, but a configuration is no place for a secret: take it out, and set the "
            "provider's environment variable instead, for instance OPENAI_API_KEY."
        )


def request_failed(error: Exception) -> RequestFailed:
    """
    Say in our own words what litellm raised: its exceptions carry the request, and the key in it.

    :param error: What litellm raised
    :return: The failure, to be raised where the error is not being handled, lest it become the failure's context
    """
    # Not all clients pass the error's code on, but those that do not quote the body.
    quota_is_gone = "insufficient_quota" in f"{error} {getattr(error, 'body', '')}"
    headers = getattr(error, "litellm_response_headers", None) or {}
    try:
        retry_after = float(headers.get("retry-after", 0))
    except (TypeError, ValueError):  # a date
        retry_after = 0.0
    return RequestFailed(
        scrub(str(error)) or type(error).__name__,
        retryable=getattr(error, "status_code", None) in RETRIED_STATUSES and not quota_is_gone,
        retry_after=retry_after if retry_after > 0 else 0.0,
    )


def check_model(model: str, api_base: str | None) -> bool:
    """
    Find out before the first request whether there is a provider and a key for a model.

    :param model: litellm's name of the model
    :param api_base: URL of the server, if it is not the provider's own
    :return: Whether the environment has the key, or none is needed that we know of
    :raises TypeError: if the name is no string
    :raises ValueError: if the name has no provider or an unknown one, or its key is missing without an ``api_base``
    """
    if not isinstance(model, str):
        raise TypeError(f'model must be litellm\'s name of a model, such as "openai/gpt-5", got {model!r}.')
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
    # Azure has other ways to log in than by a key; so have AWS and Google's Vertex, whose variables end differently.
    missing = [] if provider == "azure" else litellm.validate_environment(model)["missing_keys"]
    missing = [variable for variable in missing if variable.endswith("_API_KEY")]
    if missing and api_base is None:
        raise ValueError(
            f"There is no key for {model!r} in the environment. Set {' or '.join(missing)}, "
            "or give api_base for a server that wants no key."
        )
    return not missing


def has_prices(model: str) -> bool:
    """
    Look a model up in litellm's price list.

    :param model: litellm's name of the model
    :return: Whether its prices are known
    """
    try:
        import_litellm().cost_per_token(model=model, prompt_tokens=1, completion_tokens=1)
    except Exception:  # litellm says so with a bare Exception
        return False
    return True
