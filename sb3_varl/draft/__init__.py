"""A draft of a task sheet, with what can be measured of an environment: what the actions move, and by how much."""

from sb3_varl.draft.measure import Facts, measure
from sb3_varl.draft.sheet import draft_sheet
from sb3_varl.draft.text import write_sheet

__all__ = ["Facts", "draft_sheet", "measure", "write_sheet"]
