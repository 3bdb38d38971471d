"""Rows go in, come out as they were, normalised when sampled, and survive every way of being kept."""

import contextlib
import io
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from conftest import CounterEnv, DictEnv
from sb3_varl.algorithms.guidance_buffer import GuidanceBuffer

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (3, 8, 8), np.uint8)
DICT = spaces.Dict({"image": IMAGE, "state": BOX})
ACTION = spaces.Box(-2, 2, (2,), np.float32)


def filled(space=BOX, size=10, n=4):
    buffer = GuidanceBuffer(size, space, ACTION, "cpu")
    space.seed(0)
    for i in range(n):
        buffer.add(space.sample(), np.array([i / 20, -i / 20]), step=i)
    return buffer


@pytest.mark.parametrize("space", [BOX, IMAGE, DICT], ids=["box", "image", "dict"])
def test_a_sampled_row_is_a_row_that_was_added(space):
    buffer = filled(space)
    rows = buffer.rows()
    samples = buffer.sample(64)
    observations = samples.observations if space is DICT else {"observation": samples.observations}
    for i, action in enumerate(samples.actions.numpy()):
        (index,) = np.flatnonzero((rows["actions"] == action).all(axis=1))
        for key, batch in observations.items():
            np.testing.assert_array_equal(batch[i].numpy(), rows[f"observations/{key}"][index])
            assert batch[i].numpy().dtype == rows[f"observations/{key}"].dtype


def test_a_full_buffer_drops_its_oldest_rows():
    buffer = filled(size=3, n=5)
    assert buffer.size() == 3
    assert buffer.rows()["steps"].tolist() == [2, 3, 4]


@pytest.mark.parametrize("size", [3, 7, 100])
@pytest.mark.parametrize("chunks", [[1, 1, 1, 1, 1, 1, 1], [7], [3, 4], [2, 5], [4, 0, 3]])
def test_rows_in_bulk_are_rows_one_by_one(size, chunks):
    rows, one_by_one, bulk = filled(size=50, n=7).rows(), filled(size=size, n=7), filled(size=size, n=0)
    start = 0
    for n in chunks:
        bulk.extend({name: array[start : start + n] for name, array in rows.items()})
        start += n
    for name, array in one_by_one.rows().items():
        np.testing.assert_array_equal(bulk.rows()[name], array)
    assert (bulk.pos, bulk.full) == (one_by_one.pos, one_by_one.full)


def test_the_latest_rows_come_last_one_first():
    buffer = filled(size=4, n=6)
    rows = buffer.rows()
    np.testing.assert_array_equal(buffer.latest(3).actions.numpy(), rows["actions"][:0:-1])
    assert len(buffer.latest(100).actions) == 4
    assert len(filled(n=2).latest(5).actions) == 2


def test_columns_of_different_length_are_refused():
    buffer = filled()
    rows = buffer.rows()
    with pytest.raises(ValueError, match=r"different numbers of rows: .*'steps': 3"):
        buffer.extend({**rows, "steps": rows["steps"][:3]})
    assert buffer.size() == 4


def test_sampling_normalises_as_the_replay_buffer_does():
    env = VecNormalize(DummyVecEnv([CounterEnv]))
    env.obs_rms.mean[:], env.obs_rms.var[:] = 2.0, 4.0
    buffer = GuidanceBuffer(5, env.observation_space, env.action_space, "cpu")
    buffer.add(np.array([4.0, 2.0, 0.0], np.float32), np.zeros(2))
    np.testing.assert_allclose(buffer.sample(1, env).observations.numpy(), [[1.0, 0.0, -1.0]], rtol=1e-6)
    np.testing.assert_array_equal(buffer.sample(1).observations.numpy(), [[4.0, 2.0, 0.0]])


def test_sampling_normalises_dict_observations():
    env = VecNormalize(DummyVecEnv([DictEnv]), norm_obs_keys=["count"])
    env.obs_rms["count"].mean[:] = 1.0
    buffer = GuidanceBuffer(5, env.observation_space, env.action_space, "cpu")
    buffer.add({"count": np.ones(3), "extra": np.ones(2)}, np.zeros(2))
    samples = buffer.sample(1, env).observations
    assert samples["count"].abs().max() == 0
    assert samples["extra"].tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("space", [BOX, IMAGE, DICT], ids=["box", "image", "dict"])
@pytest.mark.parametrize("n", [0, 4, 10, 13], ids=lambda n: f"{n}_rows")
def test_save_and_load(space, n, tmp_path):
    buffer = filled(space, n=n)
    buffer.save(tmp_path / "guidance")
    loaded = GuidanceBuffer(10, space, ACTION, "cpu")
    loaded.load(tmp_path / "guidance")
    unpickled = pickle.loads(pickle.dumps(buffer))
    for other in (loaded, unpickled):
        for name, rows in buffer.rows().items():
            np.testing.assert_array_equal(other.rows()[name], rows)


def test_a_pickle_does_not_carry_the_empty_space():
    assert len(pickle.dumps(filled(size=1_000_000, n=1))) < 10_000


def test_a_pickle_of_pictures_is_compressed():
    space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    buffer = GuidanceBuffer(100, space, spaces.Box(-1, 1, (2,)), "cpu")
    buffer.add_all([np.full(space.shape, i, np.uint8) for i in range(100)], [np.zeros(2)] * 100)
    pickled = pickle.dumps(buffer)
    assert len(pickled) < buffer.observations["observation"].nbytes / 20
    for name, column in pickle.loads(pickled).rows().items():
        np.testing.assert_array_equal(column, buffer.rows()[name])


def test_a_folder_that_is_missing_is_made(tmp_path):
    GuidanceBuffer(5, spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,)), "cpu").save(tmp_path / "new" / "guidance")
    assert (tmp_path / "new" / "guidance.npz").exists()


def test_a_failed_load_leaves_the_buffer_as_it_was(tmp_path):
    filled(IMAGE).save(tmp_path / "image.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    buffer = filled()
    with pytest.raises(ValueError, match="shape"):
        buffer.load(tmp_path / "image.npz")
    with pytest.raises(ValueError, match=r"expected a file written by GuidanceBuffer.save"):
        buffer.load(tmp_path / "other.npz")
    assert buffer.size() == 4


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"words"], ids=["empty", "damaged", "other"])
def test_a_file_that_is_none_is_refused_by_its_name(content, tmp_path):
    (tmp_path / "guidance.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"guidance.npz is no file that GuidanceBuffer.save\(\) wrote"):
        filled().load(tmp_path / "guidance.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"array.npy is no file"):
        filled().load(tmp_path / "array.npy")
    with pytest.raises(FileNotFoundError, match=r"nope.npz'$"):
        filled().load("nope.npz")


def test_a_file_that_is_damaged_anywhere_is_refused_or_read():
    file = io.BytesIO()
    filled().save(file)
    for place in range(len(file.getvalue())):
        damaged = bytearray(file.getvalue())
        damaged[place] ^= 0xFF
        with contextlib.suppress(ValueError):
            filled().load(io.BytesIO(damaged))


def test_a_column_that_is_a_number_is_refused():
    with pytest.raises(ValueError, match="different numbers of rows"):
        filled().extend({**filled().rows(), "steps": np.array(3)})


@given(st.floats(-100, 100), st.floats(0.01, 100))
def test_the_bounds_of_the_actions_are_inside(low, width):
    """Brought to [-1, 1] as SB3 does it, in 32 bits."""
    space = spaces.Box(np.float32(low), np.float32(low + width), (2,), np.float32)
    buffer = GuidanceBuffer(5, BOX, space, "cpu")
    for bound in (space.low, space.high):
        buffer.add(np.zeros(3), BasePolicy.scale_action(SimpleNamespace(action_space=space), bound.astype(np.float64)))
    assert np.abs(buffer.rows()["actions"]).max() <= 1


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (np.zeros(4), np.zeros(2), r"shape \(4,\), expected \(3,\)"),
        (np.zeros((1, 3)), np.zeros(2), "without a batch dimension"),
        ({"state": np.zeros(3)}, np.zeros(2), r"\['state'\] given, expected \['observation'\]"),
        (np.zeros(3), np.zeros(3), r"shape \(3,\), expected \(2,\)"),
        (np.zeros(3), np.array([0, 1.5]), "scale_action"),
        (np.zeros(3), np.array([0, np.nan]), "scale_action"),
    ],
)
def test_rows_that_do_not_fit_are_refused(observation, action, message):
    with pytest.raises(ValueError, match=message):
        GuidanceBuffer(5, BOX, ACTION, "cpu").add(observation, action)


@pytest.mark.parametrize("size", [0, -1, 1.5, True, None])
def test_sizes_that_make_no_sense_are_refused(size):
    with pytest.raises(ValueError, match="guidance_buffer_size"):
        GuidanceBuffer(size, BOX, ACTION, "cpu")
