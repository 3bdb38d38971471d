"""Pictures, wherever they come from: what is one, and in which form it is shown."""

from typing import Any

import numpy as np
from gymnasium import spaces
from PIL import Image

from sb3_varl.advice.types import Observation

# Grey, RGB, and RGB with transparency.
_CHANNELS = (1, 3, 4)
# Of numbers from 0 to 1 that a renderer has computed.
_ROUNDING = 1e-3


def is_picture(thing: Any) -> bool:
    """
    Say whether numbers are a picture's, which nobody names or reads one by one.

    :param thing: A space without parts, or an array of it
    :return: Whether it is of bytes in two dimensions or more
    """
    return thing.dtype == np.uint8 and len(thing.shape or ()) >= 2


def shows_pictures(space: spaces.Space) -> bool:
    """
    Say whether an observation has a picture that can be shown.

    :param space: The observation space
    :return: Whether :func:`picture_in` finds one
    """
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else (space,)
    return any(map(is_picture, parts))


def picture_in(observation: Observation) -> np.ndarray | None:
    """
    Take an observation as a picture, its entries that are some side by side. Of stacked frames it is the latest: the
    last channel, or the last three if their number is a multiple of three, of the last picture along further axes. A
    fourth channel that is 255 everywhere is no frame, but opacity.

    :param observation: The observation
    :return: ``(height, width, 3)`` uint8, a copy, or ``None`` if it has none
    """
    arrays = list(observation.values()) if isinstance(observation, dict) else [observation]
    pictures = [_latest(array) for array in arrays if is_picture(array)]
    if not pictures:
        return None
    height = max(len(picture) for picture in pictures)
    return np.hstack([np.pad(picture, ((0, height - len(picture)), (0, 0), (0, 0))) for picture in pictures])


def _latest(array: np.ndarray) -> np.ndarray:
    while array.ndim > 3:
        array = array[-1]
    deep = array[..., None] if array.ndim == 2 else array
    channels_last = np.moveaxis(deep, 0, -1) if _has_channels_first(deep.shape) else deep
    if channels_last.shape[2] == 4 and (channels_last[..., 3] == 255).all():
        channels_last = channels_last[..., :3]
    latest = channels_last[..., -3:] if channels_last.shape[2] % 3 == 0 else channels_last[..., -1:]
    return np.broadcast_to(latest, (*latest.shape[:2], 3))


def _has_channels_first(shape: tuple[int, ...]) -> bool:
    """Pictures are mostly square, and have fewer channels than rows."""
    first, middle, last = shape
    return first < last and first != middle


def as_frame(image: Any) -> np.ndarray | None:
    """
    Bring a picture into the form that all others have: grey ones, those with transparency, those of numbers from 0 to
    1, and those with their channels first.

    :param image: What an environment rendered
    :return: ``(height, width, 3)`` uint8, a copy, or ``None`` if it cannot be told what it is
    """
    try:
        if isinstance(image, Image.Image):
            image = image.convert("RGB")
        array = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
    except Exception:  # whatever somebody's type raises
        return None
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.size == 0:
        return None
    if array.shape[2] not in _CHANNELS and array.shape[0] in _CHANNELS:
        array = np.moveaxis(array, 0, -1)
    if array.shape[2] not in _CHANNELS:
        return None
    if array.dtype.kind == "f" and np.isfinite(array).all():
        array = np.round(array * 255 if array.max() <= 1 + _ROUNDING else array)
        if array.min() < -255 * _ROUNDING or array.max() > 255 * (1 + _ROUNDING):
            return None
        array = array.clip(0, 255).astype(np.uint8)
    if array.dtype != np.uint8:
        return None
    return np.broadcast_to(array[..., :3], (*array.shape[:2], 3)).copy()
