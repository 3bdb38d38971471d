"""The guidance buffer: states and what the advisor would have done there."""

import io
import pathlib
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.type_aliases import TensorDict
from stable_baselines3.common.vec_env import VecNormalize


class GuidanceBufferSamples(NamedTuple):
    """
    A batch of guidance.

    :param observations: Normalised as the policy expects them, n of them
    :param actions: Advised actions in ``[-1, 1]``, ``(n, d)``
    """

    observations: th.Tensor | TensorDict
    actions: th.Tensor


class GuidanceBuffer(BaseBuffer):
    """
    Rows of (original observation, normalised action, step at which the advice was given).
    A full buffer drops its oldest row.

    :param buffer_size: Number of rows that fit
    :param observation_space: The policy's observation space
    :param action_space: The environment's action space
    :param device: Where batches are put
    :raises ValueError: if ``buffer_size`` is not a positive integer
    """

    observations: dict[str, np.ndarray]
    actions: np.ndarray
    steps: np.ndarray

    # The name of the only observation of a Box space.
    BOX_KEY = "observation"

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
    ) -> None:
        if isinstance(buffer_size, bool) or not isinstance(buffer_size, int | np.integer) or buffer_size < 1:
            raise ValueError(f"guidance_buffer_size is {buffer_size!r}, expected a positive number of rows.")
        super().__init__(int(buffer_size), observation_space, action_space, device)
        self._allocate()

    def _allocate(self) -> None:
        self.observations = {
            key: np.zeros((self.buffer_size, *(space.shape or ())), dtype=space.dtype)
            for key, space in self._subspaces().items()
        }
        self.actions = np.zeros((self.buffer_size, self.action_dim), dtype=np.float32)
        self.steps = np.zeros(self.buffer_size, dtype=np.int64)

    def _subspaces(self) -> dict[str, spaces.Space]:
        if isinstance(self.observation_space, spaces.Dict):
            return dict(self.observation_space.spaces)
        return {self.BOX_KEY: self.observation_space}

    def add(self, observation: np.ndarray | dict[str, np.ndarray], action: np.ndarray, step: int = 0) -> None:
        """
        Add one row.

        :param observation: The original observation, before any normalisation, unbatched
        :param action: The advised action in the policy's space ``[-1, 1]^d``;
            ``model.policy.scale_action`` brings an action there from the environment's units
        :param step: Environment steps of the run when the advice was given
        :raises ValueError: if shapes do not fit the spaces, or the action is not finite or outside ``[-1, 1]``
        """
        row = observation if isinstance(observation, dict) else {self.BOX_KEY: observation}
        subspaces = self._subspaces()
        if row.keys() != subspaces.keys():
            raise ValueError(
                f"Guidance for the observation {sorted(row)} given, expected {sorted(subspaces)} "
                f"to fit the observation space {self.observation_space}."
            )
        for key, space in subspaces.items():
            if np.shape(row[key]) != space.shape:
                raise ValueError(
                    f"Guidance observation {key!r} has shape {np.shape(row[key])}, expected {space.shape}: "
                    "one observation without a batch dimension."
                )
        action = np.asarray(action, dtype=np.float32)
        if action.size != self.action_dim:
            raise ValueError(f"Guidance action has shape {action.shape}, expected {self.action_space.shape}.")
        if not (np.abs(action) <= 1).all():  # also false for NaN
            raise ValueError(
                f"Guidance action {action} is not inside [-1, 1]. "
                "Bring it there from the environment's units with model.policy.scale_action(action)."
            )
        for key in subspaces:
            self.observations[key][self.pos] = row[key]
        self.actions[self.pos] = action.reshape(-1)
        self.steps[self.pos] = step
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full = True
            self.pos = 0

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> GuidanceBufferSamples:  # type: ignore[override]
        rows: Any = {key: array[batch_inds] for key, array in self.observations.items()}
        if not isinstance(self.observation_space, spaces.Dict):
            rows = rows[self.BOX_KEY]
        rows = self._normalize_obs(rows, env)
        observations: Any = (
            {key: self.to_torch(array, copy=False) for key, array in rows.items()}
            if isinstance(rows, dict)
            else self.to_torch(rows, copy=False)
        )
        return GuidanceBufferSamples(observations, self.to_torch(self.actions[batch_inds], copy=False))

    def latest(self, n: int, env: VecNormalize | None = None) -> GuidanceBufferSamples:
        """
        Return the rows that were added last.

        :param n: Number of rows, fewer if the buffer has fewer
        :param env: Normalises the observations
        :return: The rows, the last one first
        """
        return self._get_samples((self.pos - 1 - np.arange(min(n, self.size()))) % self.buffer_size, env)

    def rows(self) -> dict[str, np.ndarray]:
        """
        Copy out what the buffer holds, oldest row first.

        :return: ``actions`` ``(n, d)``, ``steps`` ``(n,)`` and each observation as ``observations/<key>``
        """
        order = np.roll(np.arange(self.size()), -self.pos if self.full else 0)
        rows = {f"observations/{key}": array[order] for key, array in self.observations.items()}
        return {**rows, "actions": self.actions[order], "steps": self.steps[order]}

    def extend(self, rows: dict[str, np.ndarray]) -> None:
        """
        Add rows in the form that :meth:`rows` returns them.

        :param rows: ``actions``, ``steps`` and ``observations/<key>``, of equal length
        :raises ValueError: if the rows do not fit the spaces
        """
        keys = [name.removeprefix("observations/") for name in rows if name.startswith("observations/")]
        for i in range(len(rows["actions"])):
            row: Any = {key: rows[f"observations/{key}"][i] for key in keys}
            if not isinstance(self.observation_space, spaces.Dict):
                row = row.get(self.BOX_KEY, row)
            self.add(row, rows["actions"][i], int(rows["steps"][i]))

    def save(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Write the rows to a NumPy ``.npz`` file.

        :param path: Where to; ``.npz`` is appended if it is missing
        """
        np.savez_compressed(path, **self.rows())  # type: ignore[arg-type]

    def load(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Replace the buffer's rows by those of a file.

        :param path: A file that :meth:`save` wrote
        :raises ValueError: if the file holds something else or its rows do not fit the spaces;
            the buffer is then as it was
        """
        if isinstance(path, str | pathlib.Path) and not pathlib.Path(path).exists():
            path = f"{path}.npz"
        with np.load(path, allow_pickle=False) as file:
            rows = dict(file)
        if not {"actions", "steps"} <= rows.keys():
            raise ValueError(f"{path} holds {sorted(rows)}, expected a file written by GuidanceBuffer.save().")
        fresh = GuidanceBuffer(self.buffer_size, self.observation_space, self.action_space, self.device)
        fresh.extend(rows)
        self.__dict__.update(fresh.__dict__)

    def __getstate__(self) -> dict[str, Any]:
        # A model's zip carries the rows, not the empty space behind them.
        return {**self.__dict__, "observations": None, "actions": None, "steps": None, "rows": self.rows()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        rows = state.pop("rows")
        self.__dict__.update(state)
        self._allocate()
        self.pos, self.full = 0, False
        self.extend(rows)
