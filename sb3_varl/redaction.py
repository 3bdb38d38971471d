"""What may be a key stays out of logs, files and exceptions."""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

# Words of an environment variable's name that make its value a secret, unless it is the name of a place; and words
# that end like one of them.
_SECRET_VARIABLE = re.compile(
    r"(?<!DON)(?<!MON)(?<!TUR)(?<!HOC)(?<!JOC)KEYS?(?=[_\d]|$)|API_?KEY|TOKEN(?!IZ)|SECRET(?!AR)|PASSW(OR)?D|PASSPHRASE"
    r"|CREDENTIAL",
    re.IGNORECASE,
)
_PLACE = re.compile(r"_(PATH|DIR|FOLDER|HOME|ROOT)$", re.IGNORECASE)
# What keys have and words and names have not. It is bounded, as it is looked for again and again.
_KEY_LIKE = r"(?=[\w.~+/=*-]{0,100}?(?:\d|(?-i:[a-z][A-Z])|[a-z]{20}|\*\*))"
# In rules, "key=" may stand before an expression: "has_key==1.0", "to_key=key_position-hand".
_KEY_NAME = r"[?&]key=|(?<![a-z0-9])(?:api|access|auth|private|secret)[-_]?key="
_SECRET_TEXT = re.compile(
    rf"\bsk-{_KEY_LIKE}[\w*.-]{{4,}}|\bAIza[\w-]{{10,}}|\bBearer\s+{_KEY_LIKE}[\w.~+/=-]{{12,}}"
    rf"|({_KEY_NAME})(?!=)[\w.~+/=-]{{8,}}"
    r"|(?<=://)[^\s:/@\"'<>]*:[^\s\"'<>]+(?=@)|(?<=://)[^\s:/@\"'<>]{8,}(?=@)",
    re.IGNORECASE,
)
# Names of arguments. Of a text, and of prices, a token is no secret: "eos_token", "cost_per_token".
_TEXT_TOKENS = "per|bos|eos|pad|unk|sep|cls|mask|stop|start|end|begin|special|image|video|audio|think|prefix|suffix"
_TOKEN = "".join(f"(?<!(?<![a-z0-9]){word}[-_])" for word in _TEXT_TOKENS.split("|")) + "token"
_NAMES = "api[-_]?key|access[-_]key|private[-_]?key|(?:api|access|auth|bearer|refresh|session)[-_]tokens|authorization"
_WORDS = f"secret|password|credential|{_TOKEN}"
_SECRET_ARGUMENT = re.compile(rf"{_NAMES}|secret|password|credential|{_TOKEN}$", re.IGNORECASE)
# The same inside a string of Python code, YAML, JSON or name:value, as rl-zoo's files and arguments may hold it. Words
# that a sentence may have before a colon have to be followed by what looks like a value.
_SECRET_ASSIGNMENT = re.compile(
    rf"(?:{_NAMES})\W{{0,3}}[=:]|(?:\w[-_])(?:{_WORDS})\W{{0,3}}[=:]|(?:{_WORDS})\W{{0,3}}="
    rf"|(?:{_WORDS})(?:['\"]\s*:|:\S|\s?:\s*['\"]|\s?:\s*[^\s'\"]*\d)",
    re.IGNORECASE,
)
# Shorter values would be found in ordinary words.
_MIN_LENGTH = 8
# Characters of an error that are looked at.
_MAX_SCRUBBED = 10_000
# Of an example.
_MAX_EXAMPLE = 120


def without_secrets(text: str) -> str:
    """
    Replace whatever may be a key.

    :param text: Any text, for instance an answer in which a server repeats the key
    :return: The text with ``***`` for the values of the environment's variables and litellm's settings that are called
        as secrets are, and for what looks like a key
    """
    for value in sorted(_known_secrets(), key=len, reverse=True):
        text = text.replace(value, "***")
    for user in _proxy_users():
        text = text.replace(f"://{user}@", "://***@")
    return _SECRET_TEXT.sub(r"\1***", text)


def _known_secrets() -> set[str]:
    logins = {login for login in _proxy_users() if ":" in login}
    passwords = {login.partition(":")[2] for login in logins}
    return (
        logins
        | {password for password in passwords if len(password) >= _MIN_LENGTH}
        | {value.strip() for name, value in _named_values() if len(value.strip()) >= _MIN_LENGTH and _is_secret(name)}
    )


def _named_values() -> list[tuple[str, str]]:
    named: list[tuple[str, Any]] = list(os.environ.items())
    if "litellm" in sys.modules:
        named += list(vars(sys.modules["litellm"]).items())
    return [(name, value) for name, value in named if isinstance(value, str)]


def _proxy_users() -> set[str]:
    """Names of users, and with a colon their passwords, in the addresses of proxies."""
    proxies = [value for name, value in _named_values() if name.lower().endswith("_proxy")]
    return {value.rpartition("@")[0].partition("://")[2] for value in proxies} - {""}


def _is_secret(variable: str) -> bool:
    return _SECRET_VARIABLE.search(variable) is not None and _PLACE.search(variable) is None


def scrub(text: str) -> str:
    """
    Make a text fit for a log.

    :param text: Any text, for instance that of an error
    :return: One line of at most 300 characters, without anything that may be a key
    """
    if len(text) > _MAX_SCRUBBED:
        # Without the last word: it may be half a key.
        text = text[:_MAX_SCRUBBED].rpartition(" ")[0]
    return " ".join(without_secrets(text).split())[:300]


def example_of(thing: Any, max_length: int = _MAX_EXAMPLE) -> str:
    """
    Show in a few words what could not be used.

    :param thing: Anything; text is taken as it is, and an exception with its type
    :param max_length: Characters, at most
    :return: One line, without anything that may be a key
    """
    try:
        if isinstance(thing, BaseException):
            text = f"{type(thing).__name__}: {thing}"
        else:
            text = thing if isinstance(thing, str) else repr(thing)
    except Exception:  # whatever somebody's type raises
        text = type(thing).__name__
    text = scrub(text)
    return text if len(text) <= max_length else f"{text[: max_length - 1]}…"


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
        _SECRET_ASSIGNMENT.search(configuration) or without_secrets(configuration) != configuration
    ):
        raise ValueError(
            f"{name} seems to contain a key, but a configuration is no place for a secret: take it out, and set the "
            "provider's environment variable instead, for instance OPENAI_API_KEY."
        )


def scrub_loggers(packages: frozenset[str]) -> None:
    """
    Keep keys out of what other libraries log. Their debug messages quote what a server says, the key included.

    :param packages: First parts of the names of their loggers
    """
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if name.partition(".")[0] in packages and isinstance(logger, logging.Logger) and _SCRUB not in logger.filters:
            logger.addFilter(_SCRUB)


class _Scrub(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        with contextlib.suppress(TypeError, ValueError):  # arguments that do not fit the message
            record.msg, record.args = without_secrets(record.getMessage()), None
        if record.exc_info:
            record.exc_text = without_secrets(logging.Formatter().formatException(record.exc_info))
        return True


_SCRUB = _Scrub()
