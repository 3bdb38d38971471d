"""Guidance survives every way that Stable-Baselines3 keeps a run."""

import errno
import io
import os
import signal
import threading
import warnings
import zipfile

import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from conftest import CounterEnv, DictEnv, assert_same_parameters
from sb3_varl import VARL, VARLTQC, AdvisorCallback, FunctionAdvisor
from sb3_varl.advice.history import read_queries
from sb3_varl.saving import replacing

SMALL = {"learning_starts": 20, "batch_size": 16, "seed": 3, "policy_kwargs": {"net_arch": [16]}}


def advised(n=5, **kwargs):
    model = VARL("MlpPolicy", CounterEnv(low=-1, high=3), **SMALL, **kwargs)
    for i in range(n):
        model.guidance_buffer.add(np.full(3, i, np.float32), np.full(2, i / n), step=i)
    return model


def assert_same_guidance(first, second):
    first, second = first.guidance_buffer.rows(), second.guidance_buffer.rows()
    for name, rows in first.items():
        np.testing.assert_array_equal(rows, second[name])


@pytest.mark.parametrize("cutoff", [60, 1000], ids=["across_the_cutoff", "while_shaped"])
def test_save_load_continue_equals_never_stopped(cutoff, tmp_path):
    def seed():
        # SB3's zip does not keep the global generators.
        np.random.seed(7)
        th.manual_seed(7)

    straight = advised(shaping_steps=cutoff).learn(50)
    straight.save(tmp_path / "model")
    straight.save_replay_buffer(tmp_path / "replay")
    env = CounterEnv(low=-1, high=3)
    resumed = VARL.load(tmp_path / "model", env=env)
    resumed.load_replay_buffer(tmp_path / "replay")
    assert_same_guidance(straight, resumed)

    for model in (straight, resumed):
        seed()
        model.action_space.seed(0)
        model.set_env(DummyVecEnv([lambda: CounterEnv(low=-1, high=3)]), force_reset=True)
        model.learn(50, reset_num_timesteps=False)
    assert straight.num_timesteps == resumed.num_timesteps == 100
    assert_same_parameters(straight, resumed)


def test_settings_survive(tmp_path):
    settings = {
        "shaping_coef": 11.0,
        "shaping_steps": 77,
        "gate": "likelihood",
        "gate_threshold": 2.5,
        "guidance_buffer_size": 6,
        "guidance_batch_size": 9,
    }
    advised(**settings).save(tmp_path / "model")
    loaded = VARL.load(tmp_path / "model")
    for name, value in settings.items():
        assert getattr(loaded, name) == value
    assert loaded.guidance_buffer.buffer_size == 6


@pytest.mark.parametrize("cls", [VARL, VARLTQC])
def test_n_step_returns_survive_without_a_warning(cls, tmp_path):
    cls("MlpPolicy", CounterEnv(), n_steps=5, gamma=0.9, **SMALL).save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = cls.load(tmp_path / "model", env=CounterEnv())
    assert isinstance(model.replay_buffer, NStepReplayBuffer)
    assert (model.n_steps, model.replay_buffer.n_steps, model.replay_buffer.gamma) == (5, 5, 0.9)


def test_a_replay_buffer_of_one_s_own_that_ignores_n_steps_is_said(tmp_path):
    VARL("MlpPolicy", CounterEnv(), **SMALL).save(tmp_path / "model")
    with pytest.warns(UserWarning, match="`n_steps=5` is ignored"):
        VARL.load(tmp_path / "model", env=CounterEnv(), n_steps=5, replay_buffer_class=NStepReplayBuffer)


def test_a_schedule_survives(tmp_path):
    advised(shaping_coef=lambda progress: 30 * progress).save(tmp_path / "model")
    assert VARL.load(tmp_path / "model").shaping_coef_schedule(0.5) == 15


def test_load_checks_overridden_arguments(tmp_path):
    advised().save(tmp_path / "model")
    assert VARL.load(tmp_path / "model", shaping_coef=3.0).shaping_coef_schedule(1) == 3
    assert VARL.load(tmp_path / "model", guidance_buffer_size=3).guidance_buffer.rows()["steps"].tolist() == [2, 3, 4]
    with pytest.raises(ValueError, match="gate is 'no'"):
        VARL.load(tmp_path / "model", gate="no")


def test_a_sac_zip_loads_into_varl_and_back(tmp_path):
    env = CounterEnv(low=-1, high=3)
    sac = SAC("MlpPolicy", env, **SMALL).learn(50)
    sac.save(tmp_path / "sac")
    varl = VARL.load(tmp_path / "sac", env=CounterEnv(low=-1, high=3))
    assert_same_parameters(sac, varl)
    varl.guidance_buffer.add(np.zeros(3), np.zeros(2))
    varl.learn(30, reset_num_timesteps=False)
    varl.save(tmp_path / "varl")
    back = SAC.load(tmp_path / "varl", env=CounterEnv(low=-1, high=3))
    assert_same_parameters(varl, back)
    back.learn(30, reset_num_timesteps=False)


def test_other_numbers_of_environments(tmp_path):
    model = advised()
    model.save(tmp_path / "model")
    vec_env = DummyVecEnv([lambda: CounterEnv(low=-1, high=3)] * 3)
    loaded = VARL.load(tmp_path / "model", env=vec_env)
    assert_same_guidance(model, loaded)
    loaded.learn(60, reset_num_timesteps=False)
    assert loaded.logger.name_to_value["varl/shaping_active"] == 1


def test_checkpoints_carry_the_guidance(tmp_path):
    model = advised()
    model.learn(40, callback=CheckpointCallback(40, str(tmp_path / "checkpoints")))
    assert_same_guidance(model, VARL.load(tmp_path / "checkpoints" / "rl_model_40_steps"))


def test_the_guidance_buffer_by_itself(tmp_path):
    model, other = advised(), advised(n=0)
    model.save_guidance_buffer(tmp_path / "guidance")
    other.load_guidance_buffer(tmp_path / "guidance")
    assert_same_guidance(model, other)


def test_a_zip_is_not_grown_by_the_callback():
    """No thread, client or frame gets into the zip."""
    model = advised(n=0)
    callback = AdvisorCallback(
        FunctionAdvisor(lambda observation: np.zeros(2)),
        n_queries=1,
        first_query=30,
        states_per_query=5,
        window=20,
        log_path=False,
    )
    model.learn(60, callback=callback)
    buffer = io.BytesIO()
    model.save(buffer)
    assert not {"callback", "advisor"} & set(vars(model))
    with zipfile.ZipFile(buffer) as archive:
        assert "sb3_varl.training.callback" not in archive.read("data").decode()


def test_guidance_for_other_action_bounds_is_refused(tmp_path):
    advised().save_guidance_buffer(tmp_path / "guidance.npz")
    written = (tmp_path / "guidance.npz").read_bytes()
    other = VARL("MlpPolicy", CounterEnv(low=-1, high=2), **SMALL)
    with pytest.raises(ValueError, match=r"action_high = \[3. 3.\].*is \[2. 2.\].*ask for new advice"):
        other.load_guidance_buffer(tmp_path / "guidance.npz")
    assert other.guidance_buffer.size() == 0
    assert (tmp_path / "guidance.npz").read_bytes() == written


@pytest.mark.parametrize("by", ["load", "set_env"])
def test_an_environment_that_changed_its_action_bounds_is_refused(by, tmp_path):
    model = advised()
    model.save(tmp_path / "model")
    written = (tmp_path / "model.zip").read_bytes()
    env = DummyVecEnv([lambda: CounterEnv(low=-1, high=2)])
    with pytest.raises(ValueError, match=r"Action spaces do not match: Box\(-1.0, 3.0.*Box\(-1.0, 2.0"):
        VARL.load(tmp_path / "model", env=env) if by == "load" else model.set_env(env)
    assert (tmp_path / "model.zip").read_bytes() == written


def test_guidance_for_other_observations_is_refused(tmp_path):
    advised().save_guidance_buffer(tmp_path / "guidance.npz")
    other = VARL("MlpPolicy", "Pendulum-v1", **SMALL)
    with pytest.raises(ValueError, match="Guidance action has shape"):
        other.load_guidance_buffer(tmp_path / "guidance.npz")
    other = VARL("MultiInputPolicy", DictEnv(), **SMALL)
    with pytest.raises(ValueError, match=r"\['observation'\] given, expected \['count', 'extra'\]"):
        other.load_guidance_buffer(tmp_path / "guidance.npz")


def test_set_env_keeps_the_guidance():
    model = advised()
    rows = model.guidance_buffer.rows()
    model.set_env(DummyVecEnv([lambda: CounterEnv(low=-1, high=3)] * 1), force_reset=True)
    np.testing.assert_array_equal(model.guidance_buffer.rows()["actions"], rows["actions"])


def test_checkpoints_with_everything(tmp_path):
    """Without the replay buffer's file, and with it, and with the statistics of normalisation."""
    vec_env = VecNormalize(DummyVecEnv([lambda: CounterEnv(low=-1, high=3)]))
    model = VARL("MlpPolicy", vec_env, **SMALL)
    model.guidance_buffer.add(np.full(3, 2, np.float32), np.zeros(2))
    checkpoint = CheckpointCallback(40, str(tmp_path), save_replay_buffer=True, save_vecnormalize=True)
    model.learn(40, callback=checkpoint)
    statistics = VecNormalize.load(
        tmp_path / "rl_model_vecnormalize_40_steps.pkl", DummyVecEnv([lambda: CounterEnv(low=-1, high=3)])
    )
    resumed = VARL.load(tmp_path / "rl_model_40_steps", env=statistics)
    resumed.load_replay_buffer(tmp_path / "rl_model_replay_buffer_40_steps")
    assert_same_guidance(model, resumed)
    assert resumed.replay_buffer.size() == 39, "callbacks come before the step's transition is stored"
    resumed.learn(20, reset_num_timesteps=False)
    assert resumed.logger.name_to_value["varl/shaping_active"] == 1


@pytest.mark.parametrize("what", ["save", "save_replay_buffer", "save_guidance_buffer"])
def test_a_crash_while_saving_leaves_the_older_file(what, tmp_path, monkeypatch):
    model = advised().learn(10)
    getattr(model, what)(tmp_path / "it")
    (path,) = tmp_path.iterdir()
    before = path.read_bytes()

    def crash(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        getattr(model.learn(10, reset_num_timesteps=False), what)(tmp_path / "it")
    assert path.read_bytes() == before
    assert {other.name for other in tmp_path.iterdir()} == {path.name, f"{path.name}.part"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_saving_waits_for_the_file(number, handlers, tmp_path, monkeypatch):
    """PyTorch's writer would make a RuntimeError of the KeyboardInterrupt."""
    disturbed = []

    class Disturbed(zipfile._ZipWriteFile):
        def write(self, data):
            if self._zinfo.filename == "policy.pth" and not disturbed:
                disturbed.append(data)
                signal.raise_signal(number)
            return super().write(data)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    monkeypatch.setattr(zipfile, "_ZipWriteFile", Disturbed)
    with pytest.raises(KeyboardInterrupt):
        advised().save(tmp_path / "it")
    assert disturbed
    assert handlers() == (signal.default_int_handler,) * 2
    assert os.listdir(tmp_path) == ["it.zip"]
    assert VARL.load(tmp_path / "it").guidance_buffer.size() == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_logging_waits_for_the_line(number, handlers):
    """tqdm, which SB3 writes through, would make an AttributeError of the KeyboardInterrupt, in its first line."""
    lines = []

    class Disturbed(KVWriter):
        def write(self, key_values, key_excluded, step=0):
            signal.raise_signal(number)
            lines.append(dict(key_values))

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    model = advised()
    model.set_logger(Logger(folder=None, output_formats=[Disturbed()]))
    with pytest.raises(KeyboardInterrupt):
        model.learn(100, log_interval=1)
    (line,) = lines
    assert line["time/episodes"] == 1
    assert handlers() == (signal.default_int_handler,) * 2


def test_a_signal_is_not_lost_where_the_file_cannot_be_written(handlers, tmp_path):
    def save():
        with replacing(tmp_path / "it"), replacing(tmp_path / "other"):
            signal.raise_signal(signal.SIGINT)
            raise OSError("the disk is full")

    with pytest.raises(KeyboardInterrupt) as caught:
        save()
    assert "the disk is full" in str(caught.value.__context__)
    assert handlers() == (signal.default_int_handler, signal.SIG_DFL)
    assert not os.listdir(tmp_path)


def test_a_second_signal_does_not_wait(handlers, tmp_path):
    n_raised = 0

    def save():
        nonlocal n_raised
        with replacing(tmp_path / "it"):
            signal.raise_signal(signal.SIGINT)
            n_raised += 1
            signal.raise_signal(signal.SIGINT)
            n_raised += 1

    with pytest.raises(KeyboardInterrupt):
        save()
    assert n_raised == 1


def test_signals_are_left_alone_where_they_cannot_be_handled(handlers, tmp_path):
    """In another thread, and SIGTERM that ends the process."""
    seen = []

    def save():
        with replacing(tmp_path / "it") as partial:
            seen.append(handlers())
            partial.write_text("it")

    thread = threading.Thread(target=save)
    thread.start()
    thread.join()
    save()
    assert seen[0] == handlers() == (signal.default_int_handler, signal.SIG_DFL)
    assert seen[1][0] is not signal.default_int_handler
    assert seen[1][1] == signal.SIG_DFL


# ---- What is replaced

SAVES = ["save", "save_replay_buffer", "save_guidance_buffer"]
SUFFIXES = dict(zip(SAVES, ["zip", "pkl", "npz"], strict=True))


@pytest.mark.parametrize("what", SAVES)
def test_a_link_stays_a_link(what, tmp_path):
    name = f"it.{SUFFIXES[what]}"
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / name).write_bytes(b"old")
    (tmp_path / name).symlink_to(tmp_path / "real" / name)
    getattr(advised().learn(10), what)(tmp_path / name)
    assert (tmp_path / name).is_symlink()
    assert (tmp_path / "real" / name).stat().st_size > 100
    assert os.listdir(tmp_path / "real") == [name]


@pytest.mark.parametrize("what", SAVES)
def test_a_mode_is_not_widened(what, tmp_path, monkeypatch):
    """Not even while it is written."""
    path = tmp_path / f"it.{SUFFIXES[what]}"
    path.touch(0o600)
    modes = []

    def watch(descriptor):
        modes.append(os.fstat(descriptor).st_mode & 0o777)

    monkeypatch.setattr(os, "fsync", watch)
    getattr(advised().learn(10), what)(path)
    assert path.stat().st_size > 100
    assert {*modes, path.stat().st_mode & 0o777} == {0o600}


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_file_systems_that_cannot_sync(code, tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    model = VARL("MlpPolicy", CounterEnv(low=-1, high=3), **SMALL)
    advice = AdvisorCallback(
        FunctionAdvisor(lambda observation: np.zeros(2)),
        n_queries=1,
        first_query=30,
        states_per_query=5,
        window=20,
        blocking=True,
        log_path=tmp_path / "log",
    )
    model.learn(50, callback=[advice, CheckpointCallback(25, str(tmp_path), save_replay_buffer=True)])
    assert model.num_timesteps == 50
    assert VARL.load(tmp_path / "rl_model_50_steps").guidance_buffer.size() == 5
    (query,) = read_queries(tmp_path / "log")
    assert query.advice is not None


def test_a_disk_that_is_broken_is_no_such_file_system(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        advised().save(tmp_path / "model")
    assert os.listdir(tmp_path) == []


def test_a_partial_file_that_is_somebody_else_s_is_not_written_to(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "model.zip").touch()
    (tmp_path / "model.zip.part").symlink_to(tmp_path / "victim")
    advised().save(tmp_path / "model")
    assert (tmp_path / "victim").read_text() == "mine"
    assert not (tmp_path / "model.zip").is_symlink()
    (tmp_path / "model.zip.part").mkdir()
    advised(n=7).save(tmp_path / "model")
    assert VARL.load(tmp_path / "model").guidance_buffer.size() == 7


def test_a_device_is_not_replaced(tmp_path):
    """As ``/dev/stdout`` is one; here a pipe, which a thread reads."""
    os.mkfifo(tmp_path / "pipe.npz")
    read = []
    thread = threading.Thread(target=lambda: read.append((tmp_path / "pipe.npz").read_bytes()))
    thread.start()
    advised().save_guidance_buffer(tmp_path / "pipe.npz")
    thread.join(20)
    assert (tmp_path / "pipe.npz").is_fifo()
    assert read[0].startswith(b"PK")


def test_where_nothing_can_be_written_beside_it_the_file_itself_is_written(tmp_path):
    """A name as long as names may be has no room for another ending."""
    name = "m" * 251 + ".zip"
    (tmp_path / name).touch(0o600)
    advised().save(tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    assert VARL.load(tmp_path / name).guidance_buffer.size() == 5
