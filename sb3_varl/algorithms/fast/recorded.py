"""
The parent's updates, recorded once and repeated without Python in between.

What the parent's own ``train()`` asks for is recorded as a whole: the same update, whatever the networks and the
losses. What comes from outside is put in its place before each repetition: the batches, the learning rate, the weight
of the shaping term.
"""

import contextlib
import functools
import random
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from sb3_contrib import TQC, CrossQ
from sb3_contrib.common.torch_layers import BatchRenorm
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn
from torch.distributions import Distribution
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.overrides import TorchFunctionMode

from sb3_varl.algorithms.fast.acceleration import optimizers_of
from sb3_varl.algorithms.fast.compiled import record_compiled
from sb3_varl.algorithms.fast.cuda_graph import noted_waits, record_cuda_graph, waiting_allowed
from sb3_varl.algorithms.shaping_term import ShapingTerm

Update = Callable[[Any, int, int, ShapingTerm | None], None]


@dataclass(frozen=True)
class Recorder:
    """
    A way of recording.

    :param record: Takes an update, and returns what does it again, without doing it
    :param covers: The ``train()`` of these, and no other, is known to do the same in every update
    :param adam: Settings with which Adam computes its steps from tensors only
    :param refuses: Types of layers that it does not record, and why
    :param after: Updates after which it pays
    :param notice: What to say at ``verbose=1`` before
    """

    record: Callable[[Callable[[], None]], Callable[[], None]]
    covers: tuple[Any, ...]
    adam: dict[str, bool]
    refuses: tuple[tuple[type[nn.Module], str], ...] = ()
    after: int = 0
    notice: str = ""


# By the type of the device.
RECORDERS = {
    "cuda": Recorder(record_cuda_graph, (SAC.train, TQC.train), {"capturable": True, "fused": True}),
    "cpu": Recorder(
        record_compiled,
        (SAC.train, TQC.train, CrossQ.train),
        {"differentiable": True, "foreach": False, "fused": False},
        refuses=(
            *((layer, "convolutions would be no faster") for layer in (nn.Conv1d, nn.Conv2d, nn.Conv3d)),
            *((layer, "batch normalisation hides what it writes") for layer in (nn.BatchNorm1d, nn.BatchNorm2d)),
        ),
        after=5000,
        notice="The updates are being compiled, which takes half a minute the first time, and then some seconds.",
    ),
}
# With and without the shaping term and the actor, and the same before somebody changed a setting.
_MAX_RECORDINGS = 8
# Updates in which somebody drew other random numbers than PyTorch's, until it must have been a network.
_MAX_FOREIGN_DRAWS = 3
# Adam divides by it where it computes from tensors.
_MIN_LEARNING_RATE = 1e-20
# Settings that a recording has in it as they were.
_SETTINGS = (
    "gamma",
    "tau",
    "target_entropy",
    "gate",
    "gate_threshold",
    "guidance_batch_size",
    "top_quantiles_to_drop_per_net",
)
_NUMBERS = {bool, int, float, str}
# What has Python look at a number, perhaps to decide something, which a replay would not do again.
_LOOKS = {
    th.nonzero,
    *(
        getattr(th.Tensor, name)
        for name in ("__bool__", "__float__", "__int__", "__index__", "__array__", "tolist", "numpy", "cpu", "nonzero")
    ),
}


class _NotRepeatableError(Exception):
    """A replay would leave something out, or bring nothing. The message says what, after "because"."""


class RecordedUpdates:
    """
    The updates of one model.

    :param model: The model, whose parent's ``train()`` the recorder covers
    :param recorder: How to record
    """

    def __init__(self, model: Any, recorder: Recorder) -> None:
        self.model = model
        self.recorder = recorder
        self._has_said_why = False
        self._refused = tuple(layer for layer, _ in recorder.refuses)
        # Why the parent's loop is kept, if it is.
        self.refusal: str | None = None
        self._recordings: dict[Hashable, _RecordedUpdate] = {}
        # What the latest updates depended on. Who comes for the second time may come again.
        self._keys: deque[Hashable] = deque(maxlen=_MAX_RECORDINGS)

    def train(self, update: Update, gradient_steps: int, batch_size: int, shaping: ShapingTerm | None) -> bool:
        """
        Do what the parent's ``train()`` does, with the shaping term in the actor's loss.

        :param update: Does it one operator at a time
        :param gradient_steps: Number of gradient updates
        :param batch_size: Minibatch size of the parent's own terms
        :param shaping: The shaping term, or None for none
        :return: Whether it was done; if not, ``update`` has to
        """
        model, recorder = self.model, self.recorder
        if self.refusal is not None or gradient_steps < 1 or model._n_updates < recorder.after:
            return False
        policy_delay, target_interval = (getattr(model, name, 1) for name in ("policy_delay", "target_update_interval"))
        if gradient_steps > 1 and (max(policy_delay, target_interval) > 1 or any(_renorms(model))):
            if not self._has_said_why:
                self._say_why(
                    "several at a time are not alike with batch renormalisation or a target_update_interval above 1"
                )
            return False
        learning_rate = model.lr_schedule(model._current_progress_remaining)
        if learning_rate < _MIN_LEARNING_RATE:
            return False
        updates_actor = (model._n_updates + 1) % policy_delay == 0
        if not updates_actor:
            shaping = None
        try:
            parts = self._key(batch_size, shaping is not None)
            key = updates_actor, parts, tuple(layer.steps.item() > layer.warmup_steps for layer in _renorms(model))
            hash(key)
        except (_NotRepeatableError, TypeError) as error:
            self._refuse(str(error))
            return False
        recording = self._recordings.get(key)
        if recording is None:
            # Adam makes its state with its first step.
            if key not in self._keys or not all(optimizer.state for optimizer in optimizers_of(model)):
                self._keys.append(key)
                return False
            if len(self._recordings) == _MAX_RECORDINGS:
                self._refuse("what they depend on changes too often")
                return False
            if model.verbose >= 1 and recorder.notice:
                print(f"fast=True: {recorder.notice}")
            recording = self._recordings[key] = _RecordedUpdate(model, update, batch_size)

        model.policy.set_training_mode(True)
        on_device = th.cuda.device(model.device) if model.device.type == "cuda" else contextlib.nullcontext()
        with on_device, _from_tensors(optimizers_of(model), recorder.adam, recording.learning_rate, learning_rate):
            was_recorded = recording.is_recorded
            losses = recording.train(gradient_steps, shaping, recorder.record)
        if recording.refusal is None and not was_recorded and self._key(batch_size, shaping is not None) != parts:
            recording.refusal = "a network replaces its tensors"
        if recording.refusal is not None:
            self._refuse(recording.refusal)
        model._n_updates += gradient_steps
        model.logger.record("train/learning_rate", learning_rate)
        model.logger.record("train/n_updates", model._n_updates, exclude="tensorboard")
        for name, loss in losses.items():
            model.logger.record(name, loss)
        return True

    def _refuse(self, reason: str) -> None:
        self.refusal = reason
        self._recordings.clear()
        self._say_why(reason)

    def _say_why(self, reason: str) -> None:
        self._has_said_why = True
        if self.model.verbose >= 1:
            print(f"fast=True: the updates are done one operator at a time, because {reason}.")

    def _key(self, batch_size: int, shaped: bool) -> tuple[Hashable, ...]:
        """
        All that a recording depends on besides what is put in its place before each replay.

        :raises _NotRepeatableError: if a replay would leave something out, or bring nothing
        """
        model = self.model
        if "_update_learning_rate" in vars(model) or (
            type(model)._update_learning_rate is not BaseAlgorithm._update_learning_rate
        ):
            raise _NotRepeatableError("the learning rates are the model's own")
        if nn.modules.module._has_any_global_hook() or _global_optimizer_pre_hooks or _global_optimizer_post_hooks:
            raise _NotRepeatableError("PyTorch has hooks for all networks or optimizers")
        key: list[Hashable] = [batch_size, shaped, th.get_num_threads(), th.get_default_dtype()]
        key += th.are_deterministic_algorithms_enabled(), th.is_autocast_enabled(model.device.type)
        key += (getattr(model, name, None) for name in _SETTINGS)
        tensors = [getattr(model, name, None) for name in ("ent_coef_tensor", "log_ent_coef")]
        for module in model.policy.modules():
            self._check(module)
            tensors += (*module._parameters.values(), *module._buffers.values())
            key.append(id(module))
            key += [v for name, v in vars(module).items() if type(v) in _NUMBERS and name != "training"]
        for tensor in tensors:
            if tensor is None:
                continue
            if tensor._backward_hooks or (tensor.requires_grad and tensor._post_accumulate_grad_hooks):
                raise _NotRepeatableError("a parameter has hooks")
            key += tensor.data_ptr(), tensor.requires_grad
        for optimizer in optimizers_of(model):
            if type(optimizer) not in (th.optim.Adam, th.optim.AdamW):
                raise _NotRepeatableError(f"{type(optimizer).__name__} is not Adam")
            if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks or "step" in vars(optimizer):
                raise _NotRepeatableError("an optimizer has hooks")
            key.append(id(optimizer))
            for group in optimizer.param_groups:
                if group["foreach"] or group["differentiable"]:
                    raise _NotRepeatableError("Adam is set to be foreach or differentiable")
                key += [value for name, value in group.items() if name not in ("params", "param_names", "lr")]
                key += map(id, group["params"])
            for state in optimizer.state.values():
                if state["step"].device != model.device:
                    state["step"] = state["step"].to(model.device)
                key += [value.data_ptr() for value in state.values()]
        return tuple(key)

    def _check(self, module: nn.Module) -> None:
        if isinstance(module, self._refused):
            raise _NotRepeatableError(next(why for layer, why in self.recorder.refuses if isinstance(module, layer)))
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
            raise _NotRepeatableError("a network has hooks")
        if module._compiled_call_impl is not None or "_orig_mod" in module._modules:
            raise _NotRepeatableError("a network is compiled already")


class _RecordedUpdate:
    """
    An update, recorded once it was done.

    :param model: The model
    :param update: Does it one operator at a time
    :param batch_size: Minibatch size of the parent's own terms
    """

    def __init__(self, model: Any, update: Update, batch_size: int) -> None:
        self.model = model
        self.update = update
        self.batch_size = batch_size
        self.learning_rate = th.zeros((), device=model.device)
        self.refusal: str | None = None
        self._shaping_coef = th.zeros((), device=model.device)
        self._replay: Callable[[], None] | None = None
        self._inputs: Any = None
        # What replays have to say of themselves, by the names that the parent logs it under.
        self._totals = th.zeros(0, device=model.device)
        self._names: list[str] = []
        self._n_foreign_draws = 0
        # What a CUDA graph has but the addresses of.
        self._alive: list[Any] = []

    @property
    def is_recorded(self) -> bool:
        """Whether it repeats itself by now."""
        return self._replay is not None

    def train(self, n: int, shaping: ShapingTerm | None, record: Callable[..., Any]) -> dict[str, float]:
        """
        Do some updates.

        :param n: Number of updates
        :param shaping: The shaping term, or None for none
        :param record: Takes an update, and returns what does it again
        :return: What the parent logs of them
        """
        if shaping is not None:
            self._shaping_coef.fill_(shaping.coef)
            shaping.coef = self._shaping_coef
        self._totals.zero_()
        sums: Counter[str] = Counter()
        for _ in range(n):
            inputs = self._sample(shaping)
            if self._replay is not None and _layout(inputs) == _layout(self._inputs):
                for place, tensor in zip(_tensors(self._inputs), _tensors(inputs), strict=True):
                    place.copy_(tensor)
                self._replay()
                continue
            ages = {id(layer.steps): layer.steps.item() for layer in _renorms(self.model)}
            watch = _Watch(ages)
            drawn = _random_states()
            with noted_waits(self.model.device, watch.looks):
                logged = self._do(inputs, shaping, watch)
            sums.update(logged)
            if drawn != _random_states():
                # An advisor's thread may have, but hardly every time.
                self._n_foreign_draws += 1
                if self._n_foreign_draws == _MAX_FOREIGN_DRAWS:
                    self.refusal = "they draw random numbers that are not PyTorch's"
            elif watch.looks or watch.n_items != len(logged):
                self.refusal = f"they look at numbers on the way ({', '.join(sorted(watch.looks or ['item']))})"
            elif self._replay is None and self.refusal is None:
                self._inputs = _copy(inputs)
                self._totals = th.zeros(len(logged), device=self.model.device)
                _forget_derivatives(self.model.actor.action_dist)
                optimizers = optimizers_of(self.model)
                self._alive = [*self.model.policy.parameters(), *(optimizer.state.copy() for optimizer in optimizers)]
                try:
                    self._replay = record(functools.partial(self._do_again, shaping, ages))
                except Exception as error:  # of the compiler, or whatever else
                    # PyTorch's own is about what came of the first.
                    cause = error.__context__ or error
                    reason = str(cause).strip() or type(cause).__name__
                    self.refusal = f"they cannot be recorded ({reason.splitlines()[0]})"
                if self.model.device.type == "cpu":  # where gradients are nowhere any more
                    for optimizer in optimizers:
                        optimizer.zero_grad()
        sums.update(dict(zip(self._names, self._totals.tolist(), strict=False)))
        return {name: total / n for name, total in sums.items()}

    def _sample(self, shaping: ShapingTerm | None) -> Any:
        model = self.model
        replay = model.replay_buffer.sample(self.batch_size, env=model._vec_normalize_env)
        return replay, None if shaping is None else shaping.sample()

    def _do(self, inputs: Any, shaping: ShapingTerm | None, watch: "_Watch") -> dict[str, float]:
        """Do an update with certain batches, and return what is logged of it."""
        model, (replay, guidance) = self.model, inputs
        log = _Log()
        with contextlib.ExitStack() as stack:
            for owner, name, value in (
                (model, "_n_updates", model._n_updates),
                (model, "_logger", log),
                (model, "_update_learning_rate", lambda _: None),
                (model.replay_buffer, "sample", lambda *_, **__: replay),
                (model.guidance_buffer, "sample", lambda *_, **__: guidance),
                # Distributions look at all that they are given.
                (Distribution, "_validate_args", False),
            ):
                stack.enter_context(_replaced(owner, name, value))
            stack.enter_context(watch)
            self.update(model, 1, self.batch_size, shaping)
        del log.values["train/n_updates"]
        return log.values

    def _do_again(self, shaping: ShapingTerm | None, ages: dict[int, int]) -> None:
        watch = _Watch(ages, placeholders=True)
        names = {placeholder: name for name, placeholder in self._do(self._inputs, shaping, watch).items()}
        self._names = [names[placeholder] for placeholder in watch.items]
        self._totals += th.stack(list(watch.items.values()))


class _Watch(TorchFunctionMode):
    """
    Notes where Python looks at numbers.

    :param ages: Steps of the batch normalisations, by the id of their counter; the key has what is asked of these
    :param placeholders: Whether it is told made-up ones, which say where they went, since there are none yet
    """

    def __init__(self, ages: dict[int, int], placeholders: bool = False) -> None:
        super().__init__()
        self.ages = ages
        self.placeholders = placeholders
        self.looks: set[str] = set()
        self.n_items = 0
        # By their placeholders.
        self.items: dict[float, th.Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is th.Tensor.item:
            self.n_items += 1
            if not self.placeholders:
                with waiting_allowed(args[0].device):
                    return func(*args)
            # Nothing else that is logged is a negative half.
            placeholder = 0.5 - self.n_items
            self.items[placeholder] = args[0].detach().float().reshape(())
            return placeholder
        if func is th.Tensor.gt and id(args[0]) in self.ages:
            return self.ages[id(args[0])] > args[1]
        if func in _LOOKS:
            self.looks.add(func.__name__.strip("_"))
        return func(*args, **(kwargs or {}))


def _random_states() -> Any:
    return str(np.random.get_state(legacy=False)), random.getstate()


def _renorms(model: Any) -> Iterator[Any]:
    return (module for module in model.policy.modules() if isinstance(module, BatchRenorm))


class _Log:
    """A logger that tells what it was told."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def record(self, name: str, value: float, exclude: Any = None) -> None:
        self.values[name] = value


@contextlib.contextmanager
def _from_tensors(
    optimizers: list[th.optim.Optimizer], settings: dict[str, bool], rate: th.Tensor, learning_rate: float
) -> Iterator[None]:
    """Have Adam take its learning rate and count its steps in tensors on the device."""
    rate.fill_(learning_rate)
    before = []
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            before.append((group, {**{name: group[name] for name in settings}, "lr": learning_rate}))
            group.update(settings, lr=rate)
    try:
        yield
    finally:
        for group, settings in before:
            group.update(settings)


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give an object another attribute for a while."""
    missing = object()
    before = vars(owner).get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


def _forget_derivatives(distribution: Any) -> None:
    """
    Have a policy's distribution keep no result that derivatives can be taken of, such as gSDE's noise.

    Autograd has a node for each parameter for as long as such a result is kept, and the node goes on working on the
    stream that it was made on, which must not be another than the recording's.
    """
    for name, value in list(vars(distribution).items()):
        if isinstance(value, th.Tensor):
            setattr(distribution, name, value.detach())
        elif isinstance(value, Distribution):
            setattr(distribution, name, None)


def _tensors(inputs: Any) -> Iterator[th.Tensor]:
    """The tensors in a batch."""
    if isinstance(inputs, th.Tensor):
        yield inputs
    elif isinstance(inputs, dict | tuple):
        for value in inputs.values() if isinstance(inputs, dict) else inputs:
            yield from _tensors(value)


def _layout(inputs: Any) -> list[tuple[th.Size, th.dtype]]:
    return [(tensor.shape, tensor.dtype) for tensor in _tensors(inputs)]


def _copy(inputs: Any) -> Any:
    if isinstance(inputs, th.Tensor):
        return inputs.clone()
    if isinstance(inputs, dict):
        return {key: _copy(value) for key, value in inputs.items()}
    if isinstance(inputs, tuple):
        values = [_copy(value) for value in inputs]
        return type(inputs)(*values) if hasattr(inputs, "_fields") else tuple(values)
    return inputs
