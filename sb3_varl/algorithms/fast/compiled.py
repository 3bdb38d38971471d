"""
The parent's updates on a CPU, compiled.

What the parent's own ``train()`` asks of PyTorch in one update is written down, operator by operator: both passes of
all networks, the losses, Adam and the target networks. torch.compile makes C++ of that, in which all but the matrix
products comes in few passes over the memory, and Python asks for once.
"""

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch as th
from torch import fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

# Below this number of rows or columns, preparing oneDNN's product takes longer than the product.
_ONEDNN_MIN_SIZE = 16
# What a compiled update may differ by from the parent's, as a share of what that changes.
_TOLERANCE = 0.05


# oneDNN's product, by names of our own, because the compiler takes it for constant weights only.
_onednn: Any = getattr(th.ops.mkldnn, "_linear_pointwise", None)


@th.library.custom_op("sb3_varl::mm", mutates_args=())
def _mm(x: th.Tensor, weight: th.Tensor) -> th.Tensor:
    return _onednn(x, weight.t(), None, "none", [], "")


@th.library.custom_op("sb3_varl::addmm", mutates_args=())
def _addmm(bias: th.Tensor, x: th.Tensor, weight: th.Tensor) -> th.Tensor:
    return _onednn(x, weight.t(), bias, "none", [], "")


_mm.register_fake(lambda x, weight: x.new_empty(len(x), weight.shape[1]))
_addmm.register_fake(lambda bias, x, weight: x.new_empty(len(x), weight.shape[1]))
_PRODUCTS = {
    th.ops.aten.mm.default: th.ops.sb3_varl.mm.default,
    th.ops.aten.addmm.default: th.ops.sb3_varl.addmm.default,
}


def compile_graph(graph: fx.GraphModule) -> Callable[..., Any]:
    """
    Compile recorded operators.

    :param graph: What was recorded
    :return: Does the same, with the random numbers that PyTorch's operators draw
    """
    return th.compile(graph, fullgraph=True, dynamic=False, options={"fallback_random": True})


def record_compiled(
    update: Callable[[], None], compiler: Callable[[fx.GraphModule], Callable[..., Any]] = compile_graph
) -> Callable[[], None]:
    """
    Record the operators of an update, without doing it, and compile them.

    :param update: The update
    :param compiler: What makes a function of the recorded operators
    :return: Does it, within rounding errors
    :raises RuntimeError: if it cannot be recorded, or comes out differently when compiled
    :raises Exception: of the compiler, if it cannot be compiled
    """
    tracer = _Tracer()
    random = th.get_rng_state()

    def undo() -> None:
        for tensor, before in tracer.written.values():
            tensor.copy_(before)
        th.set_rng_state(random)

    with th.no_grad():
        try:
            with tracer, th.enable_grad():
                update()
            expected = [tensor.clone() for tensor, _ in tracer.written.values()]
        finally:
            undo()
        inputs = tracer.inputs
        compiled = compiler(tracer.module())
        try:
            compiled(*inputs)
            for (found, before), right in zip(tracer.written.values(), expected, strict=True):
                if not _agree(found, right, before):
                    raise RuntimeError("compiled, they come out differently")
        finally:
            undo()

    def replay() -> None:
        with th.no_grad():
            compiled(*inputs)

    return replay


def _agree(found: th.Tensor, right: th.Tensor, before: th.Tensor) -> bool:
    """Whether a compiled update has made the same of a tensor, by and large: Adam makes a step of a rounding error."""
    if not right.is_floating_point():
        return th.equal(found, right)
    change = th.maximum((right - before).abs().mean(), 1e-4 * right.abs().mean())
    return bool((found - right).abs().mean() <= _TOLERANCE * change)


class _Tracer(TorchDispatchMode):
    """
    Writes down which operators are called, on which tensors.

    :param inputs: Tensors that were there before, which the graph takes in this order
    :param written: Those of them that were written to, with their numbers before, by where they are in memory
    """

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[th.Tensor] = []
        self.written: dict[int, tuple[th.Tensor, th.Tensor]] = {}
        self._graph = fx.Graph()
        self._last_input: fx.Node | None = None
        # With the tensors, whose ids would be given to others otherwise.
        self._nodes: dict[int, tuple[th.Tensor, fx.Node]] = {}
        self._inputs_at: dict[int, th.Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "profiler":
            return func(*args, **kwargs)
        if _depends_on_numbers(func, args):
            raise RuntimeError(f"how much {func.name()} returns depends on the numbers")
        called = _PRODUCTS[func] if func in _PRODUCTS and not kwargs and _onednn_is_faster(*args) else func
        node = self._graph.call_function(called, *tree_map(self._node, (args, kwargs)))
        for tensor in _written_by(func, args, kwargs):
            place = tensor.untyped_storage().data_ptr()
            if place in self._inputs_at and place not in self.written:
                self.written[place] = self._inputs_at[place], self._inputs_at[place].clone()
        result = func(*args, **kwargs)
        for i, tensor in enumerate(result if isinstance(result, list | tuple) else [result]):
            if isinstance(tensor, th.Tensor) and id(tensor) not in self._nodes:
                part = node if tensor is result else self._graph.call_function(operator.getitem, (node, i))
                self._nodes[id(tensor)] = tensor, part
        return result

    def _node(self, value: Any) -> Any:
        if not isinstance(value, th.Tensor):
            return value
        if id(value) not in self._nodes:
            with self._graph.inserting_after(self._last_input):
                self._last_input = self._graph.placeholder(f"input_{len(self.inputs)}")
            self._nodes[id(value)] = value, self._last_input
            self.inputs.append(value.detach())
            if self._inputs_at.setdefault(value.untyped_storage().data_ptr(), self.inputs[-1]) is not self.inputs[-1]:
                raise RuntimeError("two of their tensors share memory")
        return self._nodes[id(value)][1]

    def module(self) -> fx.GraphModule:
        """What was written down, as a function of ``inputs``."""
        self._graph.output(())
        return fx.GraphModule(th.nn.Module(), self._graph)


def _onednn_is_faster(*factors: th.Tensor) -> bool:
    """
    Whether oneDNN, which PyTorch takes for other types than float32, has the better product. On an AMD EPYC with
    AVX-512 (Zen 5) it has twice the throughput of MKL, and on one without (Zen 3) 0.9 times as much.
    """
    *_, x, weight = factors
    return (
        "AVX512" in th.backends.cpu.get_cpu_capability()
        and th.backends.mkldnn.is_available()
        and _onednn is not None
        and x.dtype == th.float32
        and min(*x.shape, *weight.shape) >= _ONEDNN_MIN_SIZE
    )


def _depends_on_numbers(func: Any, args: tuple[Any, ...]) -> bool:
    if func is th.ops.aten.index.Tensor:
        return any(index is not None and index.dtype in (th.bool, th.uint8) for index in args[1])
    return th.Tag.dynamic_output_shape in func.tags or th.Tag.data_dependent_output in func.tags


def _written_by(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[th.Tensor]:
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value: Any = args[i] if i < len(args) else kwargs[argument.name]
            yield from value if isinstance(value, list | tuple) else [value]
