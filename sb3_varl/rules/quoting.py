"""Expressions that stand in JSON without their quotes, ``[clip(5 * dx, -1, 1), -y]``, which repair would take apart."""

import json
import re
from collections.abc import Iterator

# In which brackets do not count. A string in single quotes may have an apostrophe in it, and one without an end goes on
# to the end of the text.
STRING_OR_COMMENT = r"""
    "(?:\\.|[^"\\])*(?:"|\\?\Z)
    | (?<![^\s\[{,:])'(?:\\.|[^\\])*?'(?=\s*[,:\]}])
    | //[^\n]* | \#[^\n]* | /\*.*?(?:\*/|\Z)
"""
_TOKEN = re.compile(
    rf"(?P<string>{STRING_OR_COMMENT}) | [\[\]{{}}(),:] | \s+ | (?:(?!//|/\*)[^\s\[\]{{}}(),:\"\#])+ | .",
    re.DOTALL | re.VERBOSE,
)
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
# What JSON, or JavaScript or Python, has without quotes; and numbers between which commas are missing.
_LITERAL = re.compile(rf"{_NUMBER}(?:\s+{_NUMBER})*|true|false|null|none|nan|[-+]?infinity", re.IGNORECASE)
_OPENED_BY = {"]": "[", "}": "{", ")": "("}


def with_quotes(text: str) -> str:
    """
    Put quotes around what stands where a value should be and is none.

    :param text: Something that is meant to be JSON
    :return: It with each such expression as a string
    """
    parts, position = list[str](), 0
    for start, end in _expressions(text):
        parts += [text[position:start], json.dumps(" ".join(text[start:end].split()), ensure_ascii=False)]
        position = end
    return "".join([*parts, text[position:]])


def _expressions(text: str) -> Iterator[tuple[int, int]]:
    """Where they begin and end."""
    tokens = [token for token in _TOKEN.finditer(text) if not token[0].isspace() and token[0][0] not in "/#"]
    closings = _closings(tokens)
    opened = list[str]()
    is_value = False
    i = 0
    while i < len(tokens):
        said = tokens[i][0]
        if is_value and said not in (",", "]", "}", "{") and not tokens[i]["string"]:
            end = _end_of_value(tokens, closings, i, in_list=opened[-1] == "[")
            is_list = said == "[" and closings.get(i, i) + 1 == end
            if end is not None and not is_list:
                if not _LITERAL.fullmatch(text, tokens[i].start(), tokens[end - 1].end()):
                    yield tokens[i].start(), tokens[end - 1].end()
                i, is_value = end, False
                continue
        if said in ("[", "{"):
            opened.append(said)
        elif said in ("]", "}") and opened[-1:] == [_OPENED_BY[said]]:
            opened.pop()
        is_value = opened[-1:] == ["{"] if said == ":" else said in ("[", ",") and opened[-1:] == ["["]
        i += 1


def _closings(tokens: list[re.Match[str]]) -> dict[int, int]:
    """For each bracket that is closed, where it is; those that close none are left aside."""
    opened, closings = list[int](), dict[int, int]()
    for i, token in enumerate(tokens):
        if token[0] in ("[", "{", "("):
            opened.append(i)
        elif opened and tokens[opened[-1]][0] == _OPENED_BY.get(token[0]):
            closings[opened.pop()] = i
    return closings


def _end_of_value(tokens: list[re.Match[str]], closings: dict[int, int], i: int, in_list: bool) -> int | None:
    """The token that comes after a value, ``None`` where that is no expression, or does not end."""
    while i < len(tokens):
        said = tokens[i][0]
        if said in (",", "]", "}"):
            return i
        if tokens[i]["string"] or said == "{" or (said == ":" and not in_list):
            return None
        if said in ("[", "("):
            if i not in closings or any(token["string"] for token in tokens[i : closings[i]]):
                return None
            i = closings[i]
        i += 1
    return None
