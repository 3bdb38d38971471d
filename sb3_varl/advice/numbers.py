"""Numbers of an action as models write them that do not write JSON."""

import re
from typing import Any

# An action that is no JSON: numbers, with a plus, a minus that no keyboard has, or without their zero; as a list, by
# the components' names, or by itself. It is there from its beginning to its end.
# No two ways lead to the same text, or it would take ages to find that one is missing at the end.
_BARE = r"""(?:null|None|(?:[+\-\u2212\u2013]\s{0,3})?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)"""
NUMBER = rf"""(?:["']\s{{0,3}}{_BARE}\s{{0,3}}["']|{_BARE})"""
_NAME = r"""["']?\w[\w\[\]-]{0,60}(?: [\w\[\]-]{1,60}){0,5}["']?"""
_NAMED = rf"""{_NAME}\s*[:=]\s*{NUMBER}"""
VALUE = re.compile(
    rf"""(?P<list>\[\s*{NUMBER}(?:\s*,\s*{NUMBER})*\s*(?:,\s*)?\])"""
    rf"""|(?P<named>\{{\s*{_NAMED}(?:\s*,\s*{_NAMED})*\s*(?:,\s*)?\}})"""
    rf"""|(?P<number>{NUMBER})(?=\s*[,}}])"""
)
_PAIR = re.compile(rf"""["']?(\w[\w\[\]-]{{0,60}}(?: [\w\[\]-]{{1,60}}){{0,5}})["']?\s*[:=]\s*({NUMBER})""")
_MINUS = str.maketrans({"\u2212": "-", "\u2013": "-"})


def value_of(found: re.Match[str]) -> Any:
    """
    Say what was found.

    :param found: A match of ``VALUE``
    :return: Text of numbers as Python reads them, ``None`` where there is none: a list, a dictionary by the components'
        names, or one by itself
    """
    if found["list"]:
        return [_plain(number) for number in found["list"].strip("[] \n\t,").split(",") if number.strip()]
    if found["named"]:
        return {name: _plain(number) for name, number in _PAIR.findall(found["named"])}
    return _plain(found["number"])


def _plain(number: str) -> str | None:
    """The text of a number, as Python reads it."""
    text = re.sub(r"""[\s"']""", "", number).translate(_MINUS)
    return None if text in ("null", "None") else text
