"""
Updates that are recorded and replayed are the parent's: by a CUDA graph where there is a GPU, and without one by
something that keeps the rules of a graph.
"""

import contextlib
import gc
import threading
import warnings
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import torch as th
from sb3_contrib import TQC
from sb3_contrib.common.torch_layers import BatchRenorm
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn
from torch.autograd.graph import get_gradient_edge

from conftest import DictEnv, parameters, record_uncompiled
from sb3_varl import VARL, VARLTQC, VARLCrossQ
from sb3_varl.algorithms.fast import cuda_graph, recorded
from sb3_varl.algorithms.fast.acceleration import optimizers_of
from sb3_varl.algorithms.fast.compiled import record_compiled
from sb3_varl.algorithms.fast.cuda_graph import record_cuda_graph
from sb3_varl.algorithms.fast.recorded import RECORDERS, RecordedUpdates, _RecordedUpdate
from sb3_varl.algorithms.guided import Guided
from sb3_varl.algorithms.shaping import GATES

CUDA = th.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"


# On a CPU as it is recorded there, but not compiled, which takes long.
RECORDER = RECORDERS["cuda"]
if not CUDA:
    RECORDER = replace(RECORDERS["cpu"], record=record_uncompiled, refuses=(), after=0)


def make(env="Pendulum-v1", policy="MlpPolicy", advice=0, algorithm=VARL, **kwargs):
    policy_kwargs = {"net_arch": [32, 24], **kwargs.pop("policy_kwargs", {})}
    kwargs = {"learning_starts": 200, "batch_size": 32, "buffer_size": 1000, "seed": 3, "device": DEVICE, **kwargs}
    env = env() if callable(env) else env
    model = algorithm(policy, env, policy_kwargs=policy_kwargs, **kwargs)
    model.observation_space.seed(0)
    for i in range(advice):
        model.guidance_buffer.add(model.observation_space.sample(), np.full(model.action_space.shape, i / advice))
    return model.learn(kwargs["learning_starts"])


def replayed(recorder=RECORDER, **kwargs):
    model = make(**kwargs)
    model.fast = True
    model.recorded_updates = RecordedUpdates(model, recorder)
    return model


def train(model, updates, at_once=1):
    """By the graph, as ``fast=True`` does on a GPU; on the CPU it would do something else."""
    th.manual_seed(1)
    np.random.seed(1)
    graphs = model.recorded_updates
    done = 0
    for _ in range(updates // at_once):
        if graphs is None:
            model.train(at_once, model.batch_size)
        else:
            done += one_train(model, at_once)
    return done


def one_train(model, n):
    shaping = model._shaping_term() if model.shaping_active else None
    if model.recorded_updates.train(one_by_one, n, model.batch_size, shaping):
        return n
    one_by_one(model, n, model.batch_size, shaping)
    return 0


def one_by_one(model, *arguments):
    type(model)._update.__wrapped__(model, *arguments)


def two_envs():
    return VecNormalize(DummyVecEnv([DictEnv, DictEnv]))


IMAGES = {
    "env": lambda: FakeImageEnv(screen_height=40, screen_width=40, discrete=False),
    "policy": "CnnPolicy",
    "buffer_size": 300,
    # Adam makes a whole step of the sign of a rounding error.
    "policy_kwargs": {"optimizer_kwargs": {"eps": 1e-3}},
}
HINDSIGHT = {
    "env": lambda: BitFlippingEnv(6, continuous=True),
    "policy": "MultiInputPolicy",
    "replay_buffer_class": HerReplayBuffer,
}
CASES = {
    "default": {},
    "shaped": {"advice": 9},
    "gsde": {"use_sde": True},
    "gsde_shaped": {"use_sde": True, "advice": 9},
    "fixed_temperature": {"ent_coef": 0.2},
    "n_step": {"n_steps": 3, "advice": 9},
    "layer_norm": {"policy": "LayerNormMlpPolicy", "advice": 9},
    "dropout_and_tanh": {"policy_kwargs": {"activation_fn": lambda: nn.Sequential(nn.Tanh(), nn.Dropout(0.1))}},
    "weight_decay": {"policy_kwargs": {"optimizer_class": th.optim.AdamW}},
    "schedule": {"learning_rate": lambda progress: 1e-3 * (1 + progress), "advice": 9},
    "coefficient": {"shaping_coef": lambda progress: 5 + progress, "advice": 9},
    "dict": {"env": DictEnv, "policy": "MultiInputPolicy", "advice": 9},
    "normalised": {"env": two_envs, "policy": "MultiInputPolicy", "advice": 9},
    "images": IMAGES,
    "hindsight": HINDSIGHT,
    "tqc": {"algorithm": VARLTQC, "advice": 9},
    **{gate: {"gate": gate, "advice": 9} for gate in GATES},
}


@pytest.mark.parametrize("kwargs", CASES.values(), ids=CASES)
@pytest.mark.parametrize("at_once", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_replayed_updates_are_the_parents(kwargs, at_once):
    plain, graphed = make(**kwargs), replayed(**kwargs)
    graphed.replay_buffer = plain.replay_buffer
    train(plain, 12, at_once)
    assert train(graphed, 12, at_once) >= 12 - 2 * at_once, graphed.recorded_updates.refusal
    for name, value in parameters(plain).items():
        th.testing.assert_close(parameters(graphed)[name], value, rtol=1e-3, atol=1e-4)
    expected, found = plain.logger.name_to_value, graphed.logger.name_to_value
    for name in {name for name in expected if name.startswith("train/")}:
        assert found[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-4), name
    assert {name for name in found if name.startswith("train/")} <= expected.keys()


@pytest.mark.slow
@pytest.mark.parametrize("advice", [0, 9])
def test_batch_renormalisation_and_an_actor_that_is_updated_less_often(advice):
    """CrossQ's layers look at their age, and do something else from a certain one on."""
    recorder = RECORDER
    if advice and not CUDA:  # read by the compiler, though not compiled
        recorder = replace(RECORDER, record=partial(record_compiled, compiler=partial(th.compile, backend="eager")))
    kwargs = {"algorithm": VARLCrossQ, "advice": advice}
    models = make(**kwargs), replayed(recorder, **kwargs)
    for model in models:
        for layer in model.policy.modules():
            if isinstance(layer, BatchRenorm):
                layer.warmup_steps = 7
    plain, graphed = models
    graphed.replay_buffer = plain.replay_buffer
    train(plain, 21)
    assert train(graphed, 21) >= 12, graphed.recorded_updates.refusal
    for name, value in parameters(plain).items():
        th.testing.assert_close(parameters(graphed)[name], value, rtol=1e-3, atol=1e-3)
    expected, found = plain.logger.name_to_value, graphed.logger.name_to_value
    for name in {name for name in expected if name.startswith("train/")}:
        assert found[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-3), name


@pytest.mark.parametrize("kwargs", [CASES[name] for name in ("default", "gsde", "gsde_shaped", "images", "tqc")])
def test_no_node_of_autograd_outlives_the_update_before_the_recording(kwargs, monkeypatch):
    """It would work on another stream, which ends a recording. On a GPU this test's own nodes would do just that."""
    model = replayed(device="cpu", **kwargs)
    do, marked = _RecordedUpdate._do, []

    def do_and_mark(self, *arguments):
        logged = do(self, *arguments)
        for parameter in model.policy.parameters():
            if parameter.requires_grad:
                get_gradient_edge(parameter).node.metadata["old"] = True
        marked.append(True)
        return logged

    def record_afresh(update):
        assert marked
        gc.collect()
        nodes = [
            get_gradient_edge(parameter).node for parameter in model.policy.parameters() if parameter.requires_grad
        ]
        assert not any("old" in node.metadata for node in nodes)
        return RECORDER.record(update)

    monkeypatch.setattr(_RecordedUpdate, "_do", do_and_mark)
    model.recorded_updates = RecordedUpdates(model, replace(RECORDER, record=record_afresh))
    assert train(model, 4) == 2


def test_a_subclass_that_calls_our_train_is_recorded_as_well():
    class Mine(VARL):
        def train(self, gradient_steps, batch_size=64):
            super().train(gradient_steps, batch_size)

    class Other(VARL):
        def _update(self, gradient_steps, batch_size, shaping):
            return super()._update(gradient_steps, batch_size, shaping)

    class Parent(SAC):
        def train(self, gradient_steps, batch_size=64):
            super().train(gradient_steps, batch_size)

    class Theirs(Guided, Parent):
        pass

    for algorithm, is_covered in [(Mine, True), (Other, True), (Theirs, False)]:
        model = replayed(algorithm=algorithm)
        train_as_it_is(model, 3)
        assert bool(model.recorded_updates._recordings) == is_covered


def train_as_it_is(model, updates):
    for _ in range(updates):
        model.train(1, model.batch_size)


def test_frozen_parameters_stay_as_they_are():
    plain, graphed = make(), replayed()
    for model in (plain, graphed):
        next(model.actor.latent_pi.parameters()).requires_grad_(False)
    before = next(graphed.actor.latent_pi.parameters()).clone()
    train(plain, 6)
    assert train(graphed, 6) >= 4
    assert th.equal(next(graphed.actor.latent_pi.parameters()), before)
    for name, value in parameters(plain).items():
        th.testing.assert_close(parameters(graphed)[name], value, rtol=1e-3, atol=1e-4)


def test_the_parents_loop_goes_on_where_a_replay_does_not_reach(capsys):
    """A changed setting, and a target network that is updated every other time."""
    plain, graphed = make(advice=9), replayed(advice=9)
    graphed.verbose = 1
    for model in (plain, graphed):
        train(model, 4)
        model.gamma = 0.9
        train(model, 4)
        model.target_update_interval = 2
        train(model, 8, at_once=4)
        model.end_shaping()
        model.target_update_interval = 1
        train(model, 4)
    assert len(graphed.recorded_updates._recordings) == 3
    for name, value in parameters(plain).items():
        th.testing.assert_close(parameters(graphed)[name], value, rtol=1e-3, atol=1e-4)
    assert graphed._n_updates == plain._n_updates == 20
    assert capsys.readouterr().out.count("a target_update_interval above 1") == 1


def test_a_batch_of_another_size():
    plain, graphed = make(), replayed()
    for model in (plain, graphed):
        sample, sizes = model.replay_buffer.sample, iter([32, 32, 32, 7, 32, 32])
        model.replay_buffer.sample = lambda _, env, sample=sample, sizes=sizes: sample(next(sizes), env)
        n_done = train(model, 6)
    assert n_done >= 4
    for name, value in parameters(plain).items():
        th.testing.assert_close(parameters(graphed)[name], value, rtol=1e-3, atol=1e-4)


class Curious(nn.Module):
    """An activation that decides by what it sees."""

    def __init__(self, look):
        super().__init__()
        self.look = look

    def forward(self, x):
        return x.tanh() if self.look(x) else x.relu()


LOOKS = {
    "bool": lambda x: bool(x.mean() > 0),
    "item": lambda x: x.mean().item() > 0,
    "array": lambda x: np.asarray(x.detach()).mean() > 0,
    "numpy_random": lambda x: np.random.rand() > 0.5,
    "tolist": lambda x: x.mean().tolist() > 0,
    "mask": lambda x: len(x[x.sum(dim=1) > 0]) > 10,
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_networks_that_decide_by_what_they_see_keep_the_parents_loop(look, capsys):
    kwargs = {"policy_kwargs": {"activation_fn": lambda: Curious(look)}, "verbose": 1}
    plain, graphed = make(**kwargs), replayed(**kwargs)
    train(plain, 10)
    train(graphed, 10)
    assert graphed.recorded_updates.refusal
    assert capsys.readouterr().out.count("fast=True: the updates are done one operator at a time, because they ") == 1
    for name, value in parameters(plain).items():
        th.testing.assert_close(parameters(graphed)[name], value, rtol=1e-3, atol=1e-4)
    assert graphed._n_updates == 10


def test_others_may_wait_for_the_gpu_meanwhile(monkeypatch):
    """An advisor that is a local model, in a thread of its own."""
    monkeypatch.setattr(cuda_graph, "_sync_debug_mode", lambda mode: contextlib.nullcontext())
    said = "called a synchronizing CUDA operation (function x)"
    looks = set()
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: shown.append(str(message)))
    shown = []
    with cuda_graph.noted_waits(th.device("cuda"), looks):
        thread = threading.Thread(target=warnings.warn, args=(said,))
        thread.start()
        thread.join()
        assert not looks
        warnings.showwarning("something else", UserWarning, "file", 1)
        warnings.warn(said, stacklevel=1)
    assert looks == {"waiting for the GPU"}
    assert shown == ["something else"]


@pytest.mark.skipif(not CUDA, reason="needs a GPU")
def test_a_recording_that_fails_leaves_nothing_behind(capsys):
    """Random numbers least of all: PyTorch draws none after a recording that was broken off, unless told to."""

    def failing(update):
        def and_wait():
            update()
            th.cuda.synchronize()

        return record_cuda_graph(and_wait)

    plain, graphed = make(advice=9), replayed(advice=9, verbose=1)
    graphed.recorded_updates = RecordedUpdates(graphed, replace(RECORDER, record=failing))
    train(plain, 6)
    train(graphed, 6)
    assert "they cannot be recorded (" in capsys.readouterr().out
    th.rand(3, device="cuda")
    for name, value in parameters(plain).items():
        th.testing.assert_close(parameters(graphed)[name], value, rtol=1e-3, atol=1e-4)
    another = replayed()
    assert train(another, 4) == 3


def watched(model):
    model.critic.q_networks[0][0].register_forward_hook(lambda *_: None)


def clipped(model):
    next(model.critic.parameters()).register_hook(lambda grad: grad.clamp(-1, 1))


def hooked(model):
    model.actor.optimizer.register_step_post_hook(lambda *_: None)


def wrapped(model):
    model.critic.optimizer.step = model.critic.optimizer.step


def descending(model):
    model.actor.optimizer = th.optim.SGD(model.actor.parameters(), lr=1e-3)


def foreach(model):
    model.actor.optimizer.param_groups[0]["foreach"] = True


def with_rates_of_its_own(model):
    model._update_learning_rate = lambda optimizers: None


def with_a_compiled_network(model):
    model.critic.qf0.compile(backend="eager")


def clipped_temperature(model):
    model.log_ent_coef.register_hook(lambda grad: grad.clamp(-1, 1))


def with_a_list_of_betas(model):
    model.actor.optimizer.param_groups[0]["betas"] = [0.9, 0.999]


CHANGES = [watched, clipped, hooked, wrapped, descending, foreach]
CHANGES += [with_rates_of_its_own, with_a_compiled_network, clipped_temperature, with_a_list_of_betas]


@pytest.mark.parametrize("change", CHANGES)
def test_who_watches_is_still_told(change):
    model = replayed()
    change(model)
    assert train(model, 4) == 0
    assert model.recorded_updates.refusal


def test_a_setting_that_changes_all_the_time_is_not_recorded_anew_each_time():
    plain, graphed = make(), replayed()
    for model in (plain, graphed):
        for i in range(20):
            model.gamma = 0.9 + i / 1000
            n_done = train(model, 1)
            assert n_done == 0
    for name, value in parameters(plain).items():
        th.testing.assert_close(parameters(graphed)[name], value, rtol=1e-3, atol=1e-4)


def test_many_settings_that_come_again_end_in_the_parents_loop():
    model = replayed()
    for i in range(10):
        model.gamma = 0.9 + i / 1000
        train(model, 2)
    assert model.recorded_updates.refusal == "what they depend on changes too often"


def test_another_thread_may_draw_random_numbers_meanwhile(monkeypatch):
    model = replayed()
    states = iter([1, 2, 3, 4, *[5] * 10])
    monkeypatch.setattr(recorded, "_random_states", lambda: next(states))
    assert train(model, 7) == 5
    assert model.recorded_updates.refusal is None
    assert all(recording.is_recorded for recording in model.recorded_updates._recordings.values())


class Averaging(nn.Module):
    """An activation whose statistics are a new tensor each time."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", th.zeros(()))

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean()
        return (x - self.mean).tanh()


def test_networks_that_replace_their_tensors_keep_the_parents_loop():
    model = replayed(policy_kwargs={"activation_fn": Averaging})
    train(model, 6)
    assert not model.recorded_updates._recordings or model.recorded_updates.refusal


@pytest.mark.skipif(CUDA, reason="CUDA graphs record these")
def test_batch_normalisation_is_not_recorded_on_a_cpu(monkeypatch):
    model = replayed(
        policy_kwargs={"net_arch": [16], "activation_fn": lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm1d(16))}
    )
    model.recorded_updates = RecordedUpdates(model, replace(RECORDER, refuses=RECORDERS["cpu"].refuses))
    assert train(model, 3) == 0
    assert "batch normalisation" in model.recorded_updates.refusal


def test_batches_with_more_than_tensors():
    """As of a prioritised buffer."""

    class More(NamedTuple):
        observations: th.Tensor
        actions: th.Tensor
        next_observations: th.Tensor
        dones: th.Tensor
        rewards: th.Tensor
        discounts: th.Tensor | None
        indices: np.ndarray
        name: str

    plain, graphed = make(), replayed()
    for model in (plain, graphed):
        sample = model.replay_buffer.sample
        model.replay_buffer.sample = lambda *args, sample=sample, **kwargs: More(
            *sample(*args, **kwargs), indices=np.arange(3), name="first"
        )
        train(model, 6)
    assert graphed.recorded_updates._recordings
    for name, value in parameters(plain).items():
        th.testing.assert_close(parameters(graphed)[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "settings", [{"amsgrad": True}, {"maximize": True}, {"weight_decay": 0.1}, {"betas": (0.5, 0.9)}]
)
def test_adams_settings_are_kept(settings):
    kwargs = {"policy_kwargs": {"optimizer_kwargs": settings}}
    plain, graphed = make(**kwargs), replayed(**kwargs)
    train(plain, 8)
    assert train(graphed, 8) >= 6, graphed.recorded_updates.refusal
    for name, value in parameters(plain).items():
        th.testing.assert_close(parameters(graphed)[name], value, rtol=1e-3, atol=1e-4)


def test_adam_is_as_it_was_after_training(tmp_path):
    plain, graphed = make(), replayed()
    for model in (plain, graphed):
        train(model, 4)
    for mine, parents in zip(optimizers_of(graphed), optimizers_of(plain), strict=True):
        for group, expected in zip(mine.param_groups, parents.param_groups, strict=True):
            assert {**group, "params": 0} == {**expected, "params": 0}
            assert type(group["lr"]) is type(expected["lr"])
    graphed.save(tmp_path / "model")
    loaded = VARL.load(tmp_path / "model", env=graphed.get_env())
    assert loaded.recorded_updates is None
    SAC.load(tmp_path / "model", env=graphed.get_env()).learn(210)


def test_everything_is_undone_when_training_fails(monkeypatch):
    model = replayed(advice=5)
    train(model, 3)
    sample, logger = model.replay_buffer.sample, model.logger
    monkeypatch.setattr(model.replay_buffer, "sample", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(model, 1)
    monkeypatch.undo()
    assert model.replay_buffer.sample == sample
    assert model.logger is logger
    assert model.actor.optimizer.param_groups[0]["capturable"] is False
    train(model, 1)


@pytest.mark.skipif(not CUDA, reason="needs a GPU")
@pytest.mark.parametrize("algorithm", [VARL, VARLTQC])
def test_on_a_gpu_a_fast_model_replays(algorithm):
    kwargs = {"learning_starts": 50, "batch_size": 64, "seed": 0, "device": "cuda"}
    model = algorithm("MlpPolicy", "Pendulum-v1", fast=True, **kwargs)
    model.guidance_buffer.add(model.observation_space.sample(), np.zeros(1))
    model.learn(150)
    assert model.recorded_updates.refusal is None
    assert model.recorded_updates._recordings
    parent = {VARL: SAC, VARLTQC: TQC}[algorithm]("MlpPolicy", "Pendulum-v1", **kwargs).learn(150)
    unadvised = algorithm("MlpPolicy", "Pendulum-v1", fast=True, **kwargs).learn(150)
    assert unadvised.logger.name_to_value["train/n_updates"] == parent.logger.name_to_value["train/n_updates"]
    difference = th.cat([(parameters(parent)[name] - value).flatten() for name, value in parameters(unadvised).items()])
    assert difference.abs().quantile(0.99) < 1e-2
