"""
The parent's updates on a GPU, without Python between their kernels.

An update of SAC is some hundred small kernels, each done before Python has asked for the next. A CUDA graph has them
all, and replays them as a whole.
"""

import contextlib
import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch as th

# What PyTorch says of an operation that waits for the GPU, when it is told to.
_WAITS = "synchronizing CUDA operation"


def record_cuda_graph(update: Callable[[], None]) -> Callable[[], None]:
    """
    Record the kernels of an update, without doing it.

    :param update: The update
    :return: Does it
    """
    graph = th.cuda.CUDAGraph()
    # A graph that is garbage must not be freed meanwhile, which would end the recording.
    gc.collect()
    collects = gc.isenabled()
    gc.disable()
    try:
        # Other threads may use the GPU meanwhile: an advisor that is a local model.
        with th.cuda.graph(graph, capture_error_mode="thread_local"):
            update()
    except BaseException:
        # Whose numbers would otherwise be drawn for a recording that is over.
        generator = th.cuda.default_generators[th.cuda.current_device()]
        generator.graphsafe_set_state(generator.clone_state())
        raise
    finally:
        if collects:
            gc.enable()
    return graph.replay


@contextlib.contextmanager
def noted_waits(device: th.device, looks: set[str]) -> Iterator[None]:
    """Note as well where PyTorch itself waits for the GPU, as for the rows that a mask lets through."""
    if device.type != "cuda":
        yield
        return
    this_thread, show = threading.get_ident(), warnings.showwarning

    def note(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        if _WAITS not in str(message):
            show(message, *args, **kwargs)
        elif threading.get_ident() == this_thread:  # and no advisor that is a local model
            looks.add("waiting for the GPU")

    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=f".*{_WAITS}")
        warnings.filterwarnings("ignore", message="Synchronization debug mode")
        warnings.showwarning = note
        with _sync_debug_mode("warn"):
            yield


def waiting_allowed(device: th.device) -> contextlib.AbstractContextManager[None]:
    return _sync_debug_mode("default") if device.type == "cuda" else contextlib.nullcontext()


@contextlib.contextmanager
def _sync_debug_mode(mode: str) -> Iterator[None]:
    before = th.cuda.get_sync_debug_mode()
    th.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        th.cuda.set_sync_debug_mode(before)
