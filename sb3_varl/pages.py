"""HTML pages that hold all they need: they open from the disk, and load nothing."""

import base64
import io
import math
import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
from gymnasium import spaces
from matplotlib.figure import Figure
from PIL import Image

from sb3_varl.advice.types import Advice, TaskSheet
from sb3_varl.saving import replacing
from sb3_varl.wording import count

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("sb3_varl"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals["counted"] = count


@dataclass(frozen=True)
class ComponentView:
    """
    One component of the executed and the suggested action.

    :param name: Its name
    :param meaning: What the task sheet says of it
    :param executed: The executed value
    :param suggested: The suggested one, or ``None``
    :param executed_place: Where the executed value lies between the bounds, in percent
    :param suggested_place: The same of the suggested one
    :param zero: The same of 0, or ``None`` if that is out of bounds
    """

    name: str
    meaning: str
    executed: str
    suggested: str | None
    executed_place: float
    suggested_place: float | None
    zero: float | None


@dataclass(frozen=True)
class StateView:
    """
    A state that was asked about, with what became of it.

    :param index: Number of the state in its query
    :param step: The run's environment steps
    :param kind: ``"advised"``, ``"abstained"``, ``"rejected"`` or ``"open"``
    :param verdict: The same in words, with the reason of a rejection
    :param picture: The frame as a URL, or an empty string
    :param components: The action's components
    """

    index: int
    step: int
    kind: str
    verdict: str
    picture: str
    components: tuple[ComponentView, ...]


def render(template: str, **content: Any) -> str:
    """
    Fill in a template. Text is escaped.

    :param template: Its file name
    :param content: What it is about
    :return: The page
    """
    return _TEMPLATES.get_template(template).render(**content)


def write_page(path: str | os.PathLike[str], page: str) -> None:
    """
    Write a page, as a whole or not at all.

    :param path: The file
    :param page: The page
    """
    with replacing(pathlib.Path(path)) as file:
        # A model may answer with halves of characters, which JSON has and UTF-8 has not.
        file.write_text(page, encoding="utf-8", errors="replace")


def picture_url(frame: np.ndarray, size: int = 320) -> str:
    """
    Turn a frame into something that a page can hold.

    :param frame: ``(height, width, 3)`` uint8
    :param size: Length to which the longer side is scaled down, in pixels
    :return: A data URL
    """
    image = Image.fromarray(frame)
    image.thumbnail((size, size))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def figure_url(figure: Figure) -> str:
    """
    Turn a figure into something that a page can hold, at any size.

    :param figure: A figure of matplotlib
    :return: A data URL
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def view_states(
    executed: Sequence[np.ndarray],
    frames: Sequence[np.ndarray | None],
    steps: Sequence[int],
    advice: Advice | None,
    space: spaces.Box,
    names: Sequence[str],
    sheet: TaskSheet | None = None,
    frame_size: int = 320,
) -> list[StateView]:
    """
    Prepare the states of a query for a page.

    :param executed: What was executed in each state, in the environment's units
    :param frames: Their frames
    :param steps: The run's environment steps when they were reached
    :param advice: What came back, or ``None`` as long as nothing did
    :param space: The action space, in the environment's units
    :param names: Names of an action's components
    :param sheet: Says what they mean
    :param frame_size: Length to which a frame's longer side is scaled down, in pixels
    :return: The states
    """
    reasons = {} if advice is None else {rejection.state: rejection.reason for rejection in advice.rejected}
    meanings = [component.meaning for component in sheet.action] if sheet is not None else []
    views = []
    for i, (action, frame, step) in enumerate(zip(executed, frames, steps, strict=True)):
        suggested = None if advice is None else advice.actions[i]
        if advice is None:
            kind, verdict = "open", "no answer"
        elif suggested is not None:
            kind = verdict = "advised"
        elif i in reasons:
            kind, verdict = "rejected", f"rejected: {reasons[i].replace('_', ' ')}"
        else:
            kind = verdict = "abstained"
        components = _view_components(action, suggested, space, names, meanings or [""] * len(names))
        picture = "" if frame is None else picture_url(frame, frame_size)
        views.append(StateView(i, step, kind, verdict, picture, components))
    return views


def _view_components(
    executed: np.ndarray, suggested: Any, space: spaces.Box, names: Sequence[str], meanings: Sequence[str]
) -> tuple[ComponentView, ...]:
    advised: list[float] | list[None] = (
        [None] * len(names) if suggested is None else np.ravel(np.asarray(suggested, np.float64)).tolist()
    )
    rows = zip(names, meanings, space.low.flat, space.high.flat, np.ravel(executed), advised, strict=True)
    return tuple(
        ComponentView(
            name,
            meaning,
            _in_units_of(high - low, done),
            None if should is None else _in_units_of(high - low, should),
            _place(float(done), float(low), float(high)),
            None if should is None else _place(should, float(low), float(high)),
            _place(0.0, float(low), float(high)) if low <= 0 <= high else None,
        )
        for name, meaning, low, high, done, should in rows
    )


def _in_units_of(width: float, value: float) -> str:
    return f"{value:.3g}" if width < 1 else f"{round(float(value), 2) + 0.0:.2f}"


def _place(value: float, low: float, high: float) -> float:
    if not math.isfinite(high - low) or high == low:
        return 50.0
    return round(100 * min(max((value - low) / (high - low), 0.0), 1.0), 1)
