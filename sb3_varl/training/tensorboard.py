"""A picture of a query, for TensorBoard: each state's frame, and below it what was executed and what was suggested."""

import logging
import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from stable_baselines3.common.logger import Image as LoggedImage
from stable_baselines3.common.logger import KVWriter, TensorBoardOutputFormat

from sb3_varl.advice import optional
from sb3_varl.advice.sheets import action_names
from sb3_varl.advice.types import Advice, AdviceQuery, Advisor
from sb3_varl.redaction import scrub
from sb3_varl.rules import Rules

logger = logging.getLogger(__name__)

# Pixels.
_WIDTH, _LINE, _MARGIN, _NAME = 200, 16, 8, 64
_MAX_COLUMNS = 8
# More would hold up the training, and nobody looks at them.
MAX_STATES = 64
_INK, _GREY, _EXECUTED, _SUGGESTED = "#1a1a1a", "#b0b0b0", "#D55E00", "#0072B2"


def show_in_tensorboard(outputs: Iterable[KVWriter], query: AdviceQuery, advice: Advice, advisor: Advisor) -> None:
    """
    Show a query and its answers in TensorBoard, where there is one, at the query's own step.

    :param outputs: Where SB3's logger writes to
    :param query: The query
    :param advice: What came back
    :param advisor: May have a method ``prompt`` that says what it was told
    """
    boards = [output for output in outputs if isinstance(output, TensorBoardOutputFormat)]
    if not boards:
        return
    try:
        shown: dict[str, Any] = {"advice/states": LoggedImage(draw_query(query, advice), "HWC")}
        told = optional.prompt(advisor, query)
        if told is not None:
            shown["advice/prompt"] = textwrap.indent(told, "    ")
        if isinstance(advice.standing, Rules):
            shown["advice/rules"] = textwrap.indent(advice.standing.text, "    ")
        for board in boards:
            board.write(shown, dict.fromkeys(shown, ()), query.step)
    except Exception as error:
        # An advisor is somebody else's code, and a picture not worth a run.
        text = scrub(f"{type(error).__name__}: {error}")
        logger.warning("Query %d is not shown in TensorBoard: %s", query.index + 1, text)


def draw_query(query: AdviceQuery, advice: Advice) -> np.ndarray:
    """
    Draw a query and its answers, of many states the first 64.

    :param query: The query
    :param advice: What came back
    :return: ``(height, width, 3)`` uint8
    """
    names = action_names(query.briefing)
    states, actions = query.states[:MAX_STATES], advice.actions[:MAX_STATES]
    frames = [_scaled(state.frame) for state in states]
    height = max((frame.height for frame in frames if frame is not None), default=0)
    cell = (_WIDTH + _MARGIN, height + (len(names) + 1) * _LINE + _MARGIN)
    n_columns = min(_MAX_COLUMNS, len(frames))
    n_rows = math.ceil(len(frames) / n_columns)
    sheet = Image.new("RGB", (n_columns * cell[0] + _MARGIN, n_rows * cell[1] + 2 * _LINE), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    draw.text((_MARGIN, 6), f"query {query.index + 1}:", _INK, font)
    draw.text((_MARGIN + 70, 6), "| executed", _EXECUTED, font)
    draw.text((_MARGIN + 150, 6), "o suggested", _SUGGESTED, font)
    for i, (state, frame, suggested) in enumerate(zip(states, frames, actions, strict=True)):
        x, y = _MARGIN + (i % n_columns) * cell[0], 2 * _LINE + (i // n_columns) * cell[1]
        if frame is not None:
            sheet.paste(frame, (x, y))
        y += height
        draw.text((x, y), f"state {i}, step {state.step}{'' if suggested is not None else ', no advice'}", _INK, font)
        places = [_places(state.executed_action, query), _places(suggested, query)]
        for j, name in enumerate(names):
            _draw_component(draw, font, (x, y + (j + 1) * _LINE), name, *(place[j] for place in places))
    return np.array(sheet)


def _scaled(frame: np.ndarray | None) -> Image.Image | None:
    if frame is None:
        return None
    image = Image.fromarray(frame)
    scale = min(_WIDTH / image.width, _WIDTH / image.height)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def _places(action: np.ndarray | None, query: AdviceQuery) -> Sequence[float | None]:
    """Where its components lie between their bounds, from 0 to 1."""
    space = query.briefing.action_space
    if action is None:
        return [None] * math.prod(space.shape)
    with np.errstate(invalid="ignore"):
        places = np.ravel((np.asarray(action, np.float64) - space.low) / (space.high.astype(np.float64) - space.low))
    return [float(np.clip(place, 0, 1)) if math.isfinite(place) else 0.5 for place in places]


def _draw_component(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    corner: tuple[int, int],
    name: str,
    executed: float | None,
    suggested: float | None,
) -> None:
    x, y = corner
    left, right, middle = x + _NAME, x + _WIDTH - _MARGIN, y + _LINE // 2
    draw.text((x, y), name[:10], _INK, font)
    draw.line((left, middle, right, middle), _GREY)
    if executed is not None:
        place = left + executed * (right - left)
        draw.rectangle((place - 1, middle - 6, place + 1, middle + 6), _EXECUTED)
    if suggested is not None:
        place = left + suggested * (right - left)
        draw.ellipse((place - 4, middle - 4, place + 4, middle + 4), _SUGGESTED)
