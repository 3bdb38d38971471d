"""Updates that are recorded and compiled on the CPU: the parent's, or refused."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

from conftest import CounterEnv, DictEnv, parameters, record_uncompiled
from sb3_varl import VARL, VARLTQC
from sb3_varl.algorithms.fast import compiled, recorded
from sb3_varl.algorithms.fast.compiled import record_compiled
from sb3_varl.algorithms.fast.recorded import RECORDERS


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setitem(RECORDERS, "cpu", replace(RECORDERS["cpu"], after=0))


def use(monkeypatch, record):
    monkeypatch.setitem(RECORDERS, "cpu", replace(RECORDERS["cpu"], record=record))


def make(policy="MlpPolicy", env=CounterEnv, algorithm=VARL, advice=0, net_arch=(32, 24), **kwargs):
    kwargs = {"learning_starts": 100, "batch_size": 32, "seed": 3, **kwargs}
    model = algorithm(policy, env(), policy_kwargs={"net_arch": list(net_arch)}, **kwargs)
    model.observation_space.seed(0)
    for i in range(advice):
        model.guidance_buffer.add(model.observation_space.sample(), np.full(model.action_space.shape, i / advice))
    return model.learn(100)


def train(model, updates):
    th.manual_seed(1)
    np.random.seed(1)
    for _ in range(updates):
        model.train(1, model.batch_size)


CASES = {
    "gsde_norm": {"policy": "LayerNormMlpPolicy", "use_sde": True, "ent_coef": 0.1, "n_steps": 3, "advice": 9},
    "dict": {"policy": "MultiInputPolicy", "env": DictEnv},
    "tqc": {"algorithm": VARLTQC, "advice": 9, "gate": "q_filter"},
}


@pytest.mark.slow
@pytest.mark.parametrize("kwargs", CASES.values(), ids=CASES)
def test_compiled_updates_stay_close_to_the_parents_for_hundreds(kwargs):
    # One hidden layer: a compiler takes its time for each.
    plain, fast = make(**kwargs, net_arch=[32]), make(**kwargs, net_arch=[32], fast=True)
    train(plain, 300)
    train(fast, 300)
    assert fast.recorded_updates.refusal is None
    assert fast.recorded_updates._recordings
    difference = th.cat([(parameters(plain)[name] - value).flatten() for name, value in parameters(fast).items()])
    assert difference.abs().quantile(0.99) < 1e-3
    expected, found = plain.logger.name_to_value, fast.logger.name_to_value
    for name in {name for name in expected if name.startswith("train/")}:
        assert found[name] == pytest.approx(expected[name], rel=0.01, abs=0.01), name


def test_recording_does_nothing():
    """Neither to numbers, nor to what is drawn next."""
    weight, total = nn.Parameter(th.ones(3)), th.zeros(3)
    optimizer = th.optim.Adam([weight], lr=th.tensor(0.1), foreach=False)
    optimizer.param_groups[0]["differentiable"] = True

    def update():
        loss = (weight * th.randn(3)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total.add_(loss.detach())

    update()
    before, random = (weight.detach().clone(), total.clone()), th.get_rng_state()
    replay = record_uncompiled(update)
    assert th.equal(weight, before[0])
    assert th.equal(total, before[1])
    assert th.equal(th.get_rng_state(), random)
    replay()
    found = weight.detach().clone(), total.clone(), th.get_rng_state()
    weight.data.copy_(before[0])
    total.copy_(before[1])
    th.set_rng_state(random)
    for state in optimizer.state.values():
        assert state["step"] == 2
        state["step"].fill_(1)
    assert not th.equal(found[0], weight)
    update()
    # Adam's moments have seen that gradient twice now.
    th.testing.assert_close(found[1], total)
    assert th.equal(found[2], th.get_rng_state())


def test_an_update_that_draws_and_views_and_writes_to_parts():
    table, noise = th.arange(12.0).view(3, 4), th.zeros(4)

    def update():
        noise.copy_(th.rand(4))
        table[1].add_(noise)
        table.t()[2].mul_(2.0)
        th.add(table[0], noise, out=noise)

    expected_table, expected_noise = table.clone(), noise.clone()
    replay = record_uncompiled(update)
    state = th.get_rng_state()
    replay()
    found = table.clone(), noise.clone()
    table.copy_(expected_table)
    noise.copy_(expected_noise)
    th.set_rng_state(state)
    update()
    assert th.equal(found[0], table)
    assert th.equal(found[1], noise)


NUMBERS = np.zeros(3, np.float32)
REFUSED = {
    "mask": (lambda x: x[x > 0].sum(), "depends on the numbers"),
    "nonzero": (lambda x: x.nonzero(), "depends on the numbers"),
    "number": (lambda x: float(x[0]), "depends on the numbers"),
    "shared": (lambda x: (x.add_(1), th.from_numpy(NUMBERS).add_(x), th.from_numpy(NUMBERS).add_(x)), "share memory"),
}


@pytest.mark.parametrize(("update", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_a_recording_cannot_have_in_it(update, reason):
    x = th.randn(3)
    with pytest.raises(RuntimeError, match=reason):
        record_uncompiled(lambda: update(x))


def wrong(graph):
    """A compiler with a fault."""

    def run(*tensors):
        result = graph(*tensors)
        tensors[0].add_(0.1)
        return result

    return run


def missing(graph):
    raise FileNotFoundError("g++")


@pytest.mark.parametrize(("compiler", "reason"), [(wrong, "they come out differently"), (missing, "g++")])
def test_a_compiler_that_errs_or_is_not_there_leaves_the_parents_updates(compiler, reason, monkeypatch, capsys):
    use(monkeypatch, partial(record_compiled, compiler=compiler))
    plain, fast = make(advice=9), make(advice=9, fast=True, verbose=1)
    train(plain, 5)
    train(fast, 5)
    said = capsys.readouterr().out
    assert said.count("fast=True: the updates are done one operator at a time, because ") == 1
    assert reason in said
    for name, value in parameters(plain).items():
        th.testing.assert_close(parameters(fast)[name], value, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_compiler_that_is_not_there_is_said_by_its_own_words(monkeypatch, capsys):
    """What PyTorch itself does without one."""
    th._dynamo.reset()
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    model = make(fast=True, verbose=1, net_arch=[16])
    train(model, 3)
    said = capsys.readouterr().out
    assert "fast=True: The updates are being compiled" in said
    assert "because they cannot be recorded (" in said
    assert "compiler" in model.recorded_updates.refusal.lower()


def test_a_learning_rate_that_ends_at_zero(monkeypatch):
    use(monkeypatch, record_uncompiled)
    model = make(fast=True, learning_rate=lambda progress: 1e-3 * progress)
    model._current_progress_remaining = 0.5
    train(model, 3)
    assert model.recorded_updates._recordings
    model._current_progress_remaining = 0.0
    before = parameters(model)
    train(model, 3)
    for name, value in parameters(model).items():
        if "target" not in name:
            assert th.equal(value, before[name])
        assert value.isfinite().all()


def test_learning_goes_on_with_the_same_recordings(monkeypatch):
    n_compiled = []
    use(monkeypatch, lambda update: n_compiled.append(1) or record_uncompiled(update))
    model = make(fast=True)
    for _ in range(3):
        model.learn(20, reset_num_timesteps=False)
    assert len(n_compiled) == 1
    model.set_parameters(copy.deepcopy(model.get_parameters()))  # Adam's state comes to lie elsewhere
    model.learn(20, reset_num_timesteps=False)
    assert len(n_compiled) == 2


def test_short_runs_are_not_compiled(monkeypatch):
    monkeypatch.setitem(RECORDERS, "cpu", replace(RECORDERS["cpu"], record=lambda update: 1 / 0, after=50))
    model = make(fast=True, gradient_steps=2)
    for _ in range(25):
        model.train(2, 32)
    assert model._n_updates == 50
    assert not model.recorded_updates._recordings
    for _ in range(2):
        model.train(2, 32)
    assert model.recorded_updates.refusal == "they cannot be recorded (division by zero)"


def test_a_model_that_was_compiled_is_saved_and_copied(monkeypatch, tmp_path):
    use(monkeypatch, record_uncompiled)
    model = make(fast=True)
    train(model, 3)
    model.save(tmp_path / "model")
    loaded = VARL.load(tmp_path / "model", env=CounterEnv())
    assert loaded.recorded_updates is None
    loaded.learn(110)
    assert loaded.recorded_updates._recordings


class Saving(BaseCallback):
    """Looks at the model amid its updates, as checkpoints do."""

    def _on_step(self):
        self.model.policy.state_dict()
        assert all(optimizer.param_groups[0]["lr"] == 3e-4 for optimizer in recorded.optimizers_of(self.model))
        return True


def test_callbacks_see_ordinary_optimizers(monkeypatch):
    use(monkeypatch, record_uncompiled)
    make(fast=True).learn(20, callback=Saving(), reset_num_timesteps=False)


@pytest.mark.parametrize("capability", ["AVX512", "AVX2"])
@pytest.mark.parametrize(("n", "k", "m"), [(32, 39, 256), (5, 256, 1), (128, 20, 16), (16, 16, 16)])
def test_products_are_right_by_whomever(capability, n, k, m, monkeypatch):
    monkeypatch.setattr(th.backends.cpu, "get_cpu_capability", lambda: capability)
    x, weight, bias = th.randn(n, k), th.randn(m, k), th.randn(m)
    forward, backward, sideways = th.zeros(n, m), th.zeros(n, k), th.zeros(m, k)
    grad = th.randn(n, m)

    def update():
        forward.copy_(nn.functional.linear(x, weight, bias))
        backward.copy_(grad @ weight)
        sideways.copy_(grad.t() @ x)

    record_compiled(update, partial(th.compile, backend="eager"))()
    th.testing.assert_close(forward, x @ weight.t() + bias, rtol=1e-3, atol=1e-3)
    th.testing.assert_close(backward, grad @ weight, rtol=1e-3, atol=1e-3)
    th.testing.assert_close(sideways, grad.t() @ x, rtol=1e-3, atol=1e-3)


def test_onednn_is_taken_for_large_products_with_avx512(monkeypatch):
    taken = []
    operator = th.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(compiled, "_onednn", lambda *args: taken.append(args[0].shape) or operator(*args))
    monkeypatch.setattr(th.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    a, b, c = th.randn(64, 32), th.randn(32, 32), th.randn(32, 1)
    record_uncompiled(lambda: (a @ b, a @ c))()
    assert set(taken) == {(64, 32)}
    assert len(taken) == 2  # to check, and for what it is
