"""Files that are there as a whole or not at all, whatever happens while they are written."""

import contextlib
import os
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """
    Write a file beside the one that it is to replace. A crash leaves the old one behind, and a ``.part``.

    :param path: The file
    :return: Where to write in its place
    """
    partial = path.with_name(f"{path.name}.part")
    yield partial
    with open(partial, "rb+") as file:  # Windows syncs only what is open for writing
        os.fsync(file.fileno())
    os.replace(partial, path)
