"""Multilayer perceptrons with their backward pass written out, without autograd between the layers."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch as th
from torch import nn

# Below this number of inputs or outputs, preparing oneDNN's product takes longer than the product.
_ONEDNN_MIN_FEATURES = 16


@dataclass(frozen=True)
class Block:
    """
    A linear layer with what comes behind it.

    :param linear: The linear layer
    :param norm: A layer normalisation, or None
    :param relu: Whether a ReLU comes last
    """

    linear: nn.Linear
    norm: nn.LayerNorm | None
    relu: bool


class BlockRecord(NamedTuple):
    """
    What the backward pass of a block needs.

    :param x: Inputs, ``(n, in_features)``
    :param h: Outputs of the linear layer, ``(n, out_features)``, where a normalisation follows
    :param mean: Mean of each row of ``h``, ``(n, 1)``
    :param rstd: Reciprocal of the standard deviation of each row of ``h``, ``(n, 1)``
    :param y: Outputs, ``(n, out_features)``
    """

    x: th.Tensor
    h: th.Tensor | None
    mean: th.Tensor | None
    rstd: th.Tensor | None
    y: th.Tensor

    def rows(self, rows: slice | th.Tensor) -> "BlockRecord":
        """
        Take some of the rows.

        :param rows: Which
        :return: Their record
        """
        h, mean, rstd = (None if tensor is None else tensor[rows] for tensor in (self.h, self.mean, self.rstd))
        return BlockRecord(self.x[rows], h, mean, rstd, self.y[rows])


class Mlp:
    """
    The layers of a network that is a sequence of linear layers, layer normalisations and ReLUs.

    :param blocks: The layers, by linear layer
    :param product: Multiplies matrices as ``torch.nn.functional.linear`` does
    """

    def __init__(self, blocks: list[Block], product: Callable[..., th.Tensor]) -> None:
        self.blocks = blocks
        self.product = product

    @classmethod
    def of(cls, *networks: nn.Module, product: Callable[..., th.Tensor]) -> "Mlp | None":
        """
        Take networks apart.

        :param networks: Any networks, the later ones fed by those before; they keep their parameters
        :param product: :func:`product` or ``torch.nn.functional.linear``
        :return: Their layers, or None if they are something else, somebody watches them with hooks,
            or parts of them are frozen
        """
        layers: list[nn.Module] = []
        for network in networks:
            layers.extend(network if type(network) is nn.Sequential and is_plain(network) else [network])
        if not all(map(is_plain, layers)):
            return None
        blocks: list[Block] = []
        for layer in layers:
            last = blocks[-1] if blocks else None
            if type(layer) is nn.Linear:
                blocks.append(Block(layer, None, False))
            elif type(layer) is nn.LayerNorm and last is not None and last.norm is None and not last.relu:
                blocks[-1] = Block(last.linear, layer, False)
            elif type(layer) is nn.ReLU and last is not None and not last.relu:
                blocks[-1] = Block(last.linear, last.norm, True)
            else:
                return None
        return cls(blocks, product)

    def forward(self, x: th.Tensor) -> tuple[th.Tensor, list[BlockRecord]]:
        """
        Compute the outputs.

        :param x: Inputs, ``(n, in_features)``
        :return: Outputs, ``(n, out_features)``, without autograd's graph, and what the gradients need
        """
        records = []
        with th.no_grad():
            for block in self.blocks:
                y = self.product(x, block.linear.weight, block.linear.bias)
                h = mean = rstd = None
                if (norm := block.norm) is not None:
                    h = y
                    y, mean, rstd = th.native_layer_norm(h, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
                if block.relu:
                    y.relu_()
                records.append(BlockRecord(x, h, mean, rstd, y))
                x = y
        return x, records

    def __call__(self, x: th.Tensor) -> th.Tensor:
        """
        Compute the outputs.

        :param x: Inputs, ``(n, in_features)``
        :return: Outputs, ``(n, out_features)``, without autograd's graph
        """
        return self.forward(x)[0]

    def input_gradient(self, records: list[BlockRecord], grad: th.Tensor) -> th.Tensor:
        """
        Compute the gradient with respect to the inputs.

        :param records: From :meth:`forward`
        :param grad: Gradient with respect to the outputs, ``(n, out_features)``
        :return: Gradient with respect to the inputs, ``(n, in_features)``
        """
        return self._backward(records, grad, parameters=False)

    def add_gradients(self, records: list[BlockRecord], grad: th.Tensor) -> None:
        """
        Add to the gradient of each parameter, as autograd does.

        :param records: From :meth:`forward`
        :param grad: Gradient with respect to the outputs, ``(n, out_features)``
        """
        self._backward(records, grad, parameters=True)

    @th.no_grad()
    def _backward(self, records: list[BlockRecord], grad: th.Tensor, parameters: bool) -> th.Tensor:
        for block, (x, h, mean, rstd, y) in zip(reversed(self.blocks), reversed(records), strict=True):
            linear, norm = block.linear, block.norm
            if block.relu:
                grad = th.ops.aten.threshold_backward(grad, y, 0)
            if norm is not None:
                grad, weight_grad, bias_grad = th.ops.aten.native_layer_norm_backward(
                    grad, h, norm.normalized_shape, mean, rstd, norm.weight, norm.bias, [True, parameters, parameters]
                )
                _add_gradient(norm.weight, weight_grad)
                _add_gradient(norm.bias, bias_grad)
            if parameters:
                _add_gradient(linear.weight, self.product(grad.t(), x.t()))
                _add_gradient(linear.bias, grad.sum(dim=0))
                if block is self.blocks[0]:
                    break
            grad = self.product(grad, linear.weight.t())
        return grad


def _add_gradient(parameter: th.Tensor | None, grad: th.Tensor | None) -> None:
    if parameter is None or grad is None:
        return
    if parameter.grad is None:
        parameter.grad = grad
    else:
        parameter.grad += grad


def is_plain(module: nn.Module) -> bool:
    """
    Look whether a module does what its class says, all of it learns and nobody is watching.

    :param module: Any module; those within it are not looked at
    :return: Whether it is so
    """
    return (
        not (module._forward_hooks or module._forward_pre_hooks)
        and not (module._backward_hooks or module._backward_pre_hooks)
        and "forward" not in vars(module)
        and all(
            parameter is None
            or (
                parameter.requires_grad
                and parameter.is_contiguous()
                and not parameter._backward_hooks
                and not parameter._post_accumulate_grad_hooks
            )
            for parameter in module._parameters.values()
        )
    )


def product(x: th.Tensor, weight: th.Tensor, bias: th.Tensor | None = None) -> th.Tensor:
    """
    ``x @ weight.T + bias``, by oneDNN where it is faster than MKL, which PyTorch takes for float32: on an AMD EPYC
    with AVX-512 (Zen 5) it has twice the throughput, and on one without (Zen 3) 0.9 times as much.

    :param x: Inputs, ``(n, in_features)``
    :param weight: Weights, ``(out_features, in_features)``
    :param bias: Bias, ``(out_features,)``, or None for none
    :return: Outputs, ``(n, out_features)``; carries no gradient
    """
    onednn = _onednn_linear()
    worthwhile = min(weight.shape) >= _ONEDNN_MIN_FEATURES
    if onednn is not None and worthwhile and weight.dtype == th.float32 and weight.device.type == "cpu":
        return onednn(x, weight, bias, "none", [], "")
    return th.nn.functional.linear(x, weight, bias)


@functools.cache
def _onednn_linear() -> Callable[..., th.Tensor] | None:
    """
    The oneDNN operator, or None without AVX-512, where it was slower, or where this PyTorch has none that does what is
    expected of it: it is part of PyTorch's compiler, and the interface is not promised to last.
    """
    if "AVX512" not in th.backends.cpu.get_cpu_capability():
        return None
    if not th.backends.mkldnn.is_available() or not hasattr(th.ops.mkldnn, "_linear_pointwise"):
        return None
    operator = th.ops.mkldnn._linear_pointwise.default
    x, weight = th.linspace(-1, 1, 32 * 48).view(32, 48), th.linspace(1, -2, 64 * 48).view(64, 48)
    bias, grad = th.linspace(-1, 2, 64), th.linspace(-2, 1, 32 * 64).view(32, 64)
    try:
        results = [
            operator(x, weight, bias, "none", [], ""),
            operator(grad, weight.t(), None, "none", [], ""),
            operator(grad.t(), x.t(), None, "none", [], ""),
        ]
    except (RuntimeError, TypeError):  # other arguments than those of the versions known here
        return None
    expected = [th.addmm(bias, x, weight.t()), grad @ weight, grad.t() @ x]
    same = all(th.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(results, expected, strict=True))
    return operator if same else None
