"""Work beside the training, in threads that the interpreter does not wait for when it exits."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from sb3_varl.advice import QueryInterrupted

Result = TypeVar("Result")


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


class Interruptible(Generic[Result]):
    """
    A coroutine in an event loop of its own, which can be broken off from another thread.

    :param coroutine: What is to be run
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Result]) -> None:
        self._loop = asyncio.new_event_loop()
        # Where litellm calls a provider synchronously, the call may outlast the deadline.
        self._loop.set_default_executor(DaemonExecutor())
        self._task = self._loop.create_task(coroutine)

    def interrupt(self) -> None:
        """Break it off, from any thread."""
        with contextlib.suppress(RuntimeError):  # closed by now
            self._loop.call_soon_threadsafe(self._task.cancel)

    def result(self) -> Result:
        """
        Run it, once.

        :return: Its result
        :raises QueryInterrupted: if it was broken off
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self._run()
        # A notebook's cells run inside of a loop, where no other can be run.
        return in_background(self._run).result()

    def _run(self) -> Result:
        try:
            return self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            raise QueryInterrupted("The query was broken off.") from None
        finally:
            self._close()

    def _close(self) -> None:
        """As asyncio.run() does, except for waiting for threads."""
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        if left:
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()
