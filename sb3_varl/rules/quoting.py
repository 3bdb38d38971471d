"""Expressions that stand in JSON without their quotes, ``[clip(5 * dx, -1, 1), -y]``, which repair would take apart."""

import itertools
import json
import re
from collections.abc import Iterator

_COMMENT = r"//[^\n]* | \#[^\n]* | /\*.*?(?:\*/|\Z)"
# In which brackets do not count. A string in single quotes may have an apostrophe in it, and one without an end goes on
# to the end of the text.
STRING_OR_COMMENT = rf"""
    "(?:\\.|[^"\\])*(?:"|\\?\Z)
    | (?<![^\s\[{{,:])'(?:\\.|[^\\])*?'(?=\s*[,:\]}}])
    | \u201c[^\u201d\n]*\u201d
    | {_COMMENT}
"""
_TOKEN = re.compile(
    rf"(?P<aside>\s+ | {_COMMENT}) | (?P<string>{STRING_OR_COMMENT}) | [\[\]{{}}(),:]"
    r"| (?:(?!//|/\*)[^\s\[\]{}(),:\"\#\u201c])+ | .",
    re.DOTALL | re.VERBOSE,
)
_BETWEEN = re.compile(rf"(?:\s | {_COMMENT})+", re.DOTALL | re.VERBOSE)
_DIGITS = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_NUMBER = re.compile(_DIGITS)
# Of a list, between which commas are missing.
_NUMBERS = re.compile(rf"{_DIGITS}(?:\s+{_DIGITS})*")
# What JSON, or JavaScript or Python, has without quotes.
_WORD = re.compile(r"true|false|null|none|nan|[-+]?infinity", re.IGNORECASE)
# What goes on with a list.
_OPERATOR = re.compile(r"[-+*/<>=!\[]|(?:if|and|or)\b")
_OPENED_BY = {"]": "[", "}": "{", ")": "("}


def with_quotes(text: str) -> str:
    """
    Put quotes around what stands where a value should be and is none.

    :param text: Something that is meant to be JSON
    :return: It with each such expression as a string, without the comments in it
    """
    parts, position = list[str](), 0
    for start, end in _Tokens(text).expressions():
        expression = _BETWEEN.sub(" ", text[start:end].replace("\\n", " "))
        parts += [text[position:start], json.dumps(expression, ensure_ascii=False)]
        position = end
    return "".join([*parts, text[position:]])


class _Tokens:
    """
    What a text is made of.

    :param text: The text
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = [token for token in _TOKEN.finditer(text) if not token["aside"]]
        # How many strings there are before each, and where brackets are closed; those that close none are left aside.
        self._n_strings = [0, *itertools.accumulate(token["string"] is not None for token in self._tokens)]
        self._ends = dict[int, int]()
        opened = list[int]()
        for i, token in enumerate(self._tokens):
            if token[0] in ("[", "{", "("):
                opened.append(i)
            elif opened and self._tokens[opened[-1]][0] == _OPENED_BY.get(token[0]):
                self._ends[opened.pop()] = i

    def expressions(self) -> Iterator[tuple[int, int]]:
        """
        Find the values that are none.

        :return: Where they begin and end
        """
        opened = list[str]()
        # Whether a value comes next; and whether there was one that nobody can tell the end of.
        is_value = is_lost = False
        i = 0
        while i < len(self._tokens):
            said = self._tokens[i][0]
            if is_value and said not in (",", "]", "}", "{", "`") and not self._tokens[i]["string"]:
                end = self._end_of_value(i, in_list=opened[-1] == "[")
                if end is not None and not self._is_list(i, end):
                    start, stop = self._tokens[i].start(), self._tokens[end - 1].end()
                    pattern = _NUMBERS if opened[-1] == "[" else _NUMBER
                    if not (_WORD.fullmatch(self._text, start, stop) or pattern.fullmatch(self._text, start, stop)):
                        yield start, stop
                    i, is_value = end, False
                    continue
                is_lost = end is None
            if said in ("[", "{"):
                opened.append(said)
            elif said in ("]", "}") and opened[-1:] == [_OPENED_BY[said]]:
                opened.pop()
            is_lost = is_lost and said not in (",", "[", "{")
            is_next = opened[-1:] == ["{"] if said == ":" else said in ("[", ",") and opened[-1:] == ["["]
            is_value = is_next and not is_lost
            i += 1

    def _end_of_value(self, i: int, in_list: bool) -> int | None:
        """The token that comes after a value, ``None`` where that is no expression, or does not end."""
        while i < len(self._tokens):
            said = self._tokens[i][0]
            if said in (",", "]", "}"):
                return i if in_list or said != "," or self._is_key(i + 1) else None
            if self._tokens[i]["string"] or said == "{" or (said == ":" and not in_list):
                return None
            if said in ("[", "("):
                end = self._ends.get(i)
                if end is None or self._n_strings[end] > self._n_strings[i]:
                    return None
                i = end
            i += 1
        return None

    def _is_key(self, i: int) -> bool:
        """Whether a value ends before a token, and does not go on as a list without brackets."""
        following = [token[0] for token in self._tokens[i : i + 2]]
        return not following or following[0] == "}" or following[1:] == [":"]

    def _is_list(self, i: int, end: int) -> bool:
        """Whether a value is a list, whatever is written behind it, and no expression that begins with one."""
        if self._tokens[i][0] != "[":
            return False
        after = self._ends[i] + 1
        return after == end or not _OPERATOR.match(self._tokens[after][0])
