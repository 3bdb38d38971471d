"""What a server takes, as far as its refusals tell: found out once, said once, and kept to from then on."""

import copy
import logging
import re
from collections.abc import Mapping
from typing import Any

from sb3_varl.advisors.prompt import Chat
from sb3_varl.wording import count

logger = logging.getLogger(__name__)

# What servers say, by what it means. Those of vLLM, Groq, OpenAI, Anthropic, Google, DeepSeek, llama.cpp and others.
_MAX_PICTURES = re.compile(
    r"(?:at most|up to|maximum of|more than|limit(?:ed)? (?:of|to)|only) (\d+) (?:image|picture)", re.IGNORECASE
)
_TOO_MANY_PICTURES = re.compile(r"too many (?:images|pictures)|(?:image count|number of images) exceed", re.IGNORECASE)
_NO_PICTURES = re.compile(
    r"not support(?:ed)? (?:image|vision|multimodal)|images? (?:input )?(?:is|are) not supported|not a multimodal model"
    r"|support image input|image_url\W* (?:is (?:not|only)|not supported)|unknown variant .?image_url"
    r"|image inputs? (?:is|are) (?:not|disabled)|provide the mmproj|unsupported.{0,40}image_url",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(
    r"context[_ ](?:length|window|size)|too many tokens"
    r"|(?:prompt|input|request|payload|content) (?:is )?too (?:long|large)|max_model_len"
    r"|maximum (?:input|prompt) |exceeds? the (?:maximum|model|context|available|limit)",
    re.IGNORECASE,
)
_NO_SYSTEM = re.compile(
    r"system.{0,40}not (?:supported|allowed)|not support.{0,40}system|roles must alternate"
    r"|unsupported role.{0,10}system",
    re.IGNORECASE,
)
_REFUSES = re.compile(
    r"(?:not|n't) support|unsupported|unrecogni[sz]ed|unknown|unexpected|deprecated|not permitted|not allowed"
    r"|only the default|invalid",
    re.IGNORECASE,
)
_NO_SCHEMA = re.compile(r"response_format|json.?schema|structured|guided|grammar|\bschema\b", re.IGNORECASE)
# Of an answer that does not keep to its schema, which another may.
_SCHEMA_MISSED = re.compile(r"output that does not match the expected \S+ format", re.IGNORECASE)
# Fewer of what was sent were cut off by the server.
_SHARE_READ = 0.5


class ServerLimits:
    """
    What a server takes. Until it refuses something, everything.

    :param model: litellm's name of the model
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self.max_states: int | None = None
        self.max_pictures: int | None = None
        self.takes_system = True
        self.refused_arguments: frozenset[str] = frozenset()
        self.has_answered = False
        # Whether a question says anything without them.
        self.can_do_without_pictures = True
        self._said_cut = False

    def has_remedy(self, said: str, chat: Chat, arguments: Mapping[str, Any]) -> bool:
        """
        Say whether it is of no use to send the same again, because pictures are refused: llama.cpp calls that an error
        of its own. Whatever else such an error says may pass.

        :param said: What the server said
        :param chat: What it was sent
        :param arguments: Further arguments of the completion
        :return: Whether there is something else to send
        """
        if not any(pattern.search(said) for pattern in (_NO_PICTURES, _MAX_PICTURES, _TOO_MANY_PICTURES)):
            return False
        return copy.copy(self)._remedy(said, chat, arguments) is not None

    def learn(self, said: str, chat: Chat, arguments: Mapping[str, Any], is_about_request: bool = False) -> bool:
        """
        Find out from a refusal what to send instead.

        :param said: What the server said
        :param chat: What it was sent
        :param arguments: Further arguments of the completion
        :param is_about_request: Whether it is the request that is refused, and not the key, say
        :return: Whether there is something else to send
        """
        remedy = self._remedy(said, chat, arguments)
        is_about_request = is_about_request and not self.has_answered
        if remedy is None and (is_about_request or _SCHEMA_MISSED.search(said)):
            remedy = self._without_schema(arguments)
        if remedy is not None:
            logger.warning("%s refuses a request, and is asked again %s. It said: %s", self.model, remedy, said)
        return remedy is not None

    def learn_arguments(self, said: str, arguments: Mapping[str, Any]) -> bool:
        """
        Find out before anything is sent which arguments are to be left out.

        :param said: What is known of the server
        :param arguments: Further arguments of the completion
        :return: Whether there are any
        """
        remedy = self._without_arguments(said, arguments)
        if remedy is not None:
            logger.warning("%s is asked %s: %s", self.model, remedy, said)
        return remedy is not None

    def _remedy(self, said: str, chat: Chat, arguments: Mapping[str, Any]) -> str | None:
        n_pictures = _count_pictures(chat.messages) if self.max_pictures is None else self.max_pictures
        match = _MAX_PICTURES.search(said)
        if n_pictures and (_NO_PICTURES.search(said) or (match and int(match[1]) == 0)):
            if not self.can_do_without_pictures:
                return None
            self.max_pictures = 0
            return "without pictures (frames=False)"
        if n_pictures > 1 and (match or _TOO_MANY_PICTURES.search(said)):
            return self._fewer(chat, min(int(match[1]), n_pictures - 1) if match else n_pictures // 2)
        if _TOO_LONG.search(said):
            if chat.is_divisible and len(chat.states) > 1:
                return self._fewer(chat, len(chat.states) // 2)
            if n_pictures > 1 or (n_pictures and self.can_do_without_pictures):
                self.max_pictures = n_pictures // 2
                return f"with {count(self.max_pictures, 'picture')}"
            return None
        if self.takes_system and _NO_SYSTEM.search(said):
            self.takes_system = False
            return "without a system message, whose text goes first in the user's"
        return self._without_arguments(said, arguments)

    def _without_arguments(self, said: str, arguments: Mapping[str, Any]) -> str | None:
        if _NO_SCHEMA.search(said) and (without := self._without_schema(arguments)) is not None:
            return without
        named = {name for name in arguments if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", said)}
        named -= self.refused_arguments
        if len(named) > 1:
            named.discard("reasoning_effort")  # it is what does not go with thinking that goes
        if _REFUSES.search(said) and named:
            self.refused_arguments |= named
            return f"without {', '.join(sorted(named))} (completion_kwargs)"
        return None

    def _without_schema(self, arguments: Mapping[str, Any]) -> str | None:
        """What it may be that is refused where a server does not say what."""
        if "response_format" not in arguments or "response_format" in self.refused_arguments:
            return None
        self.refused_arguments |= {"response_format"}
        return "without a JSON schema, in plain words (json_schema=False)"

    def _fewer(self, chat: Chat, n: int) -> str:
        if chat.is_divisible:
            self.max_states = n
            return f"about {count(n, 'state')} at a time (states_per_request={n})"
        self.max_pictures = n
        return f"with {count(n, 'picture')}"

    def states_per_request(self, wanted: int) -> int:
        """
        Say how many states may share a request.

        :param wanted: What is wanted
        :return: No more than the server takes
        """
        return wanted if self.max_states is None else min(wanted, self.max_states)

    def messages(self, chat: Chat) -> list[dict[str, Any]]:
        """
        Put a chat into messages that the server takes.

        :param chat: The chat
        :return: Its messages
        """
        messages = chat.messages
        if self.max_pictures is not None:
            messages = without_pictures(messages, self.max_pictures)
        return messages if self.takes_system else _without_system(messages)

    def arguments(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """
        Leave out what the server refuses.

        :param arguments: Arguments of the completion
        :return: Those that it takes
        """
        return {name: value for name, value in arguments.items() if name not in self.refused_arguments}

    def notice_cut(self, n_sent: int, n_read: int) -> None:
        """
        Say it once if a server read less than it was sent, which some do in silence.

        :param n_sent: Tokens that were sent, about
        :param n_read: Tokens that the server counted, 0 if it does not say
        """
        if 0 < n_read < _SHARE_READ * n_sent and not self._said_cut:
            self._said_cut = True
            logger.warning(
                "%s read %d tokens of about %d that it was sent: the server cuts prompts off. Raise its context (for "
                'Ollama num_ctx, in completion_kwargs={"num_ctx": %d} or the Modelfile), or lower states_per_request.',
                self.model,
                n_read,
                n_sent,
                2 ** (n_sent + 4000).bit_length(),
            )


def _count_pictures(messages: list[dict[str, Any]]) -> int:
    return sum(
        part["type"] == "image_url"
        for message in messages
        if isinstance(message["content"], list)
        for part in message["content"]
    )


def without_pictures(messages: list[dict[str, Any]], n_kept: int = 0) -> list[dict[str, Any]]:
    """
    Leave out pictures.

    :param messages: The messages of a chat
    :param n_kept: How many stay, the first ones
    :return: The messages
    """
    kept, n_seen = [], 0
    for message in messages:
        content = message["content"]
        if isinstance(content, list):
            parts = []
            for part in content:
                n_seen += part["type"] == "image_url"
                if part["type"] != "image_url" or n_seen <= n_kept:
                    parts.append(part)
            # Servers of text models often take nothing but a string.
            is_text = all(part["type"] == "text" for part in parts)
            content = "\n".join(part["text"] for part in parts) if is_text else parts
        kept.append({**message, "content": content})
    return kept


def _without_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    text = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    others = [message for message in messages if message["role"] != "system"]
    first, *rest = others
    content = first["content"]
    joined = f"{text}\n\n{content}" if isinstance(content, str) else [{"type": "text", "text": f"{text}\n"}, *content]
    return [{**first, "content": joined}, *rest]
