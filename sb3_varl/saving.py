"""Files that are there as a whole or not at all, whatever happens while they are written."""

import contextlib
import errno
import io
import os
import pathlib
import shutil
import signal
import threading
import types
from collections.abc import Iterator

# What fsync says of files, or on file systems, that it is not for.
_CANNOT_SYNC = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})


def sync(descriptor: int) -> None:
    """
    Have what was written put on the disk now, where the file system can be told to.

    :param descriptor: Of the file
    :raises OSError: if it cannot be written
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


@contextlib.contextmanager
def held_signals() -> Iterator[None]:
    """
    Have Ctrl-C, and SIGTERM where a function handles it, wait until something is done; only the first: who presses
    again does not wait. PyTorch's writer, and tqdm's, which SB3 logs through, may make another error of a
    ``KeyboardInterrupt``, one that whoever saves what was learnt after a Ctrl-C does not expect.
    """
    if threading.current_thread() is not threading.main_thread():  # signals do not reach others
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    held: list[int] = []

    def restore() -> None:
        for number, handler in handlers.items():
            if callable(handler):
                signal.signal(number, handler)

    def hold(number: int, frame: types.FrameType | None) -> None:
        restore()
        held.append(number)

    try:
        for number, handler in handlers.items():
            if callable(handler):
                signal.signal(number, hold)
        yield
    finally:
        restore()
        for received in held:
            signal.raise_signal(received)


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """
    Write a file beside the one that it is to replace. A crash leaves the old one behind, and a ``.part``; a first
    Ctrl-C waits until it is written. A link stays one, and a file that is replaced hands on its mode.

    :param path: The file
    :return: Where to write in its place: the file itself if nothing can be written beside it, or if it is a device
        or a pipe
    """
    try:
        file = path.resolve()
    except RuntimeError:  # of a link to itself
        file = path
    partial = file.with_name(f"{file.name}.part")
    with held_signals():
        if not _is_prepared(file, partial):
            yield path
            return
        try:
            yield partial
            with open(partial, "rb+") as written:  # Windows syncs only what is open for writing
                sync(written.fileno())
            os.replace(partial, file)
        except Exception:  # raised again; only a crash leaves the partial file
            partial.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def replacing_path(
    path: str | pathlib.Path | io.BufferedIOBase, suffix: str
) -> Iterator[str | pathlib.Path | io.BufferedIOBase]:
    """
    The same for what SB3's ``save()`` takes. What is not the name of a file is left to SB3.

    :param path: A path, or an open file
    :param suffix: What SB3 appends to a path without one
    :return: What to have SB3 write to
    """
    if not isinstance(path, str | pathlib.Path) or pathlib.Path(path).is_dir():
        yield path
    else:
        file = pathlib.Path(path)
        with replacing(file if file.suffix else file.with_name(f"{file.name}.{suffix}")) as partial:
            yield partial


def _is_prepared(file: pathlib.Path, partial: pathlib.Path) -> bool:
    """Whether there is, or can be, a partial file that only those can read who can read the file."""
    try:
        if file.exists():
            if not file.is_file() or not os.access(file, os.W_OK):
                return False
            partial.unlink(missing_ok=True)
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            owner = file.stat()
            if hasattr(os, "chown"):
                os.chown(partial, owner.st_uid, owner.st_gid)
            shutil.copymode(file, partial)
        elif file.parent.exists():  # it may be made by who writes the file
            partial.unlink(missing_ok=True)
            partial.touch()
    except OSError:  # of a folder that is read-only, a name that is too long, or a file of somebody else's
        with contextlib.suppress(OSError):
            partial.unlink()
        return False
    return True
