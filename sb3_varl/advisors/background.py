"""Work beside the training, in threads that the interpreter does not wait for when it exits."""

import asyncio
import atexit
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from sb3_varl.advice.types import QueryInterrupted

Result = TypeVar("Result")

# Seconds that the event loop gets to end when the interpreter exits, and a coroutine to end after Ctrl-C.
_PATIENCE = 1.0


def in_background(
    function: Callable[..., Result], *args: Any, future: Future[Result] | None = None, **kwargs: Any
) -> Future[Result]:
    """
    Call a function in a thread of its own, a daemon.

    :param function: What to call
    :param args: Its arguments
    :param future: What is to have its result, ``None`` for a new one; it can be cancelled until the thread runs
    :param kwargs: Its keyword arguments
    :return: What will have its result, or the exception that it raised
    :raises RuntimeError: if there can be no more threads
    """
    promise: Future[Result] = Future() if future is None else future

    def call() -> None:
        if not promise.set_running_or_notify_cancel():
            return
        try:
            result = function(*args, **kwargs)
        except BaseException as error:  # raised again by the future's result()
            promise.set_exception(error)
        else:
            promise.set_result(result)

    threading.Thread(target=call, name="advisor", daemon=True).start()
    return promise


class DaemonExecutor(ThreadPoolExecutor):
    """
    For an event loop whose end must not be put off by a call that does not return. An ordinary executor's threads are
    waited for when the interpreter exits.
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """
        Call a function in a thread of its own.

        :param fn: What to call
        :param args: Its arguments
        :param kwargs: Its keyword arguments
        :return: What will have its result
        """
        return in_background(fn, *args, **kwargs)


class _LoopThread:
    """
    An event loop that runs in a thread of its own until the interpreter exits.

    There is one for all requests of the process, because clients and their connections belong to the loop that they
    were made in: with a loop for each query, each query would leave some behind.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        # Where litellm calls a provider synchronously, the call may outlast the deadline.
        self.loop.set_default_executor(DaemonExecutor())
        self._thread = threading.Thread(target=self._run, name="advisor-requests", daemon=True)
        self._thread.start()
        atexit.register(self._end)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def is_alive(self) -> bool:
        """Whether there is a thread that runs the loop."""
        return self._thread.is_alive()

    def is_mine(self) -> bool:
        """Whether it is the present thread that runs the loop."""
        return threading.current_thread() is self._thread

    def _end(self) -> None:
        """What is not closed complains, and the loop itself as well."""
        for close in _closing:
            with contextlib.suppress(Exception):
                asyncio.run_coroutine_threadsafe(close(), self.loop).result(_PATIENCE)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_PATIENCE)
        if not self._thread.is_alive():
            self.loop.close()


_closing: list[Callable[[], Coroutine[Any, Any, Any]]] = []
_loop_thread: _LoopThread | None = None
# Of the process that this one was forked from; never to be used, and not to be taken apart either.
_inherited: list[Any] = []
_lock = threading.Lock()


def close_at_exit(close: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """
    Have something closed when the interpreter exits, in the event loop that all requests share.

    :param close: Closes it
    """
    if close not in _closing:
        _closing.append(close)


def _loop() -> asyncio.AbstractEventLoop:
    global _loop_thread
    with _lock:
        if _loop_thread is None or not _loop_thread.is_alive():
            _loop_thread = _LoopThread()
        if _loop_thread.is_mine():
            raise RuntimeError("A request cannot wait for another, made by what it calls: ask from another thread.")
        return _loop_thread.loop


def _forget_loop() -> None:
    """
    A forked process has the loop, and not its thread. It shares its connections, and closing them here would close them
    there.
    """
    global _loop_thread, _lock
    if _loop_thread is not None:
        atexit.unregister(_loop_thread._end)
        _inherited.append(_loop_thread)
    _loop_thread, _lock = None, threading.Lock()
    _closing.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_loop)


class Interruptible(Generic[Result]):
    """
    A coroutine that can be broken off from another thread. It runs in the event loop that all requests share.

    :param coroutine: What is to be run
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Result]) -> None:
        self._coroutine = coroutine
        try:
            self._loop = _loop()
        except RuntimeError:
            coroutine.close()  # lest it complain that nobody awaited it
            raise
        self._task: asyncio.Task[Result] | None = None
        self._is_interrupted = False
        self._fatal: BaseException | None = None

    def interrupt(self) -> None:
        """Break it off, from any thread."""
        self._is_interrupted = True
        with contextlib.suppress(RuntimeError):  # closed by now
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def result(self) -> Result:
        """
        Run it, once.

        :return: Its result
        :raises QueryInterrupted: if it was broken off
        """
        future = asyncio.run_coroutine_threadsafe(self._supervise(), self._loop)
        try:
            result = future.result()
        except BaseException:
            if not future.done():  # Ctrl-C in the thread that waits
                self.interrupt()
                with contextlib.suppress(Exception):
                    future.result(_PATIENCE)
            raise
        if self._fatal is not None:
            raise self._fatal
        return result

    async def _guarded(self) -> Any:
        """What ends a program would end the loop, and with it everybody's requests."""
        try:
            return await self._coroutine
        except (KeyboardInterrupt, SystemExit) as error:
            self._fatal = error

    async def _supervise(self) -> Result:
        self._task = self._loop.create_task(self._guarded())
        if self._is_interrupted:
            self._task.cancel()
        try:
            return await self._task
        except asyncio.CancelledError:
            raise QueryInterrupted("The query was broken off.") from None
