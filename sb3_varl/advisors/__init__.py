"""Who can be asked: a vision-language model, a function, a recorded run, and whatever has a name."""

from sb3_varl.advisors.by_name import EXAMPLE_MODEL, make_advisor

__all__ = ["EXAMPLE_MODEL", "make_advisor"]
