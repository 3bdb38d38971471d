"""The guidance buffer: states and what the advisor would have done there."""

import contextlib
import io
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.type_aliases import TensorDict
from stable_baselines3.common.vec_env import VecNormalize

from sb3_varl.arguments import check_integer
from sb3_varl.saving import replacing

# By how much a bound may be exceeded that was brought to [-1, 1] in 32 bits.
_ROUNDING = 1e-6


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
    Rows of (original observation, normalised action, step at which the advice was given, whether it is a label: of
    standing advice, which may change). A full buffer drops its oldest row.

    :param buffer_size: Number of rows that fit
    :param observation_space: The policy's observation space
    :param action_space: The environment's action space
    :param device: Where batches are put
    :raises ArgumentError: if ``buffer_size`` is not a positive integer
    """

    observations: dict[str, np.ndarray]
    actions: np.ndarray
    steps: np.ndarray
    labels: np.ndarray
    # Whose labels these are, if anybody has said so: the text of rules, and nothing of all other advice.
    labels_of: str | None = None

    # The name of the only observation of a Box space.
    BOX_KEY = "observation"
    # What the names of observations start with among the columns of rows().
    _PREFIX = "observations/"

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
    ) -> None:
        check_integer("guidance_buffer_size", buffer_size)
        super().__init__(int(buffer_size), observation_space, action_space, device)
        self._allocate()

    def _allocate(self) -> None:
        self.observations = {
            key: np.zeros((self.buffer_size, *(space.shape or ())), dtype=space.dtype)
            for key, space in self._subspaces().items()
        }
        self.actions = np.zeros((self.buffer_size, self.action_dim), dtype=np.float32)
        self.steps = np.zeros(self.buffer_size, dtype=np.int64)
        self.labels = np.zeros(self.buffer_size, dtype=bool)

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
        self.add_all([observation], [action], step)

    def add_all(
        self,
        observations: Sequence[np.ndarray | dict[str, np.ndarray]],
        actions: Sequence[np.ndarray],
        step: int = 0,
        *,
        labels: bool = False,
    ) -> None:
        """
        Add several rows, as :meth:`add` does, all or none.

        :param observations: The original observations
        :param actions: The advised actions in the policy's space
        :param step: Environment steps of the run when the advice was given
        :param labels: Whether they are labels, which :meth:`remove_labels` removes
        :raises ValueError: as :meth:`add`
        """
        if not actions:
            return
        named = [row if isinstance(row, dict) else {self.BOX_KEY: row} for row in observations]
        self.extend(
            {
                **{f"{self._PREFIX}{key}": np.stack([np.asarray(row[key]) for row in named]) for key in named[0]},
                "actions": np.stack([np.ravel(action) for action in actions]),
                "steps": np.full(len(actions), step),
                "labels": np.full(len(actions), labels),
            }
        )

    def remove_labels(self) -> None:
        """Remove the labels, because the advice that they are of stands no longer."""
        rows = self.rows()
        kept = {name: column[~rows["labels"]] for name, column in rows.items()}
        self.reset()
        self.extend(kept)

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

        :return: ``actions`` ``(n, d)``, ``steps`` and ``labels`` ``(n,)``, and each observation as
            ``observations/<key>``
        """
        order = np.roll(np.arange(self.size()), -self.pos if self.full else 0)
        rows = {f"{self._PREFIX}{key}": array[order] for key, array in self.observations.items()}
        return {**rows, "actions": self.actions[order], "steps": self.steps[order], "labels": self.labels[order]}

    def extend(self, rows: dict[str, np.ndarray]) -> None:
        """
        Add rows in the form that :meth:`rows` returns them.

        :param rows: ``actions``, ``steps``, ``observations/<key>`` and perhaps ``labels``, of equal length
        :raises ValueError: if the rows do not fit the spaces
        """
        observations = {
            name.removeprefix(self._PREFIX): np.asarray(array)
            for name, array in rows.items()
            if name.startswith(self._PREFIX)
        }
        if observations.keys() != self.observations.keys():
            raise ValueError(
                f"Guidance for the observation {sorted(observations)} given, expected {sorted(self.observations)} "
                f"to fit the observation space {self.observation_space}."
            )
        for key, held in self.observations.items():
            if observations[key].shape[1:] != held.shape[1:]:
                raise ValueError(
                    f"Guidance observation {key!r} has shape {observations[key].shape[1:]}, expected {held.shape[1:]}: "
                    "one observation without a batch dimension."
                )
        actions = np.asarray(rows["actions"], dtype=np.float32)
        if actions.shape[1:] != (self.action_dim,):
            raise ValueError(f"Guidance action has shape {actions.shape[1:]}, expected {self.action_space.shape}.")
        inside = np.abs(actions) <= 1 + _ROUNDING  # also false for NaN
        if not inside.all():
            raise ValueError(
                f"Guidance action {actions[~inside.all(axis=1)][0]} is not inside [-1, 1]. "
                "Bring it there from the environment's units with model.policy.scale_action(action)."
            )
        if len({np.shape(array)[:1] for array in rows.values()}) != 1:
            lengths = {name: (*np.shape(array), "none")[0] for name, array in rows.items()}
            raise ValueError(f"Guidance columns have different numbers of rows: {lengths}.")

        # Rows that later ones of the same call would overwrite are skipped.
        kept = slice(max(0, len(actions) - self.buffer_size), None)
        actions = actions.clip(-1, 1)
        end = self.pos + len(actions)
        fits = end <= self.buffer_size
        places: Any = slice(self.pos, end) if fits else (self.pos + np.arange(len(actions))[kept]) % self.buffer_size
        for key, array in observations.items():
            self.observations[key][places] = array[kept]
        self.actions[places] = actions[kept]
        self.steps[places] = np.asarray(rows["steps"])[kept]
        self.labels[places] = np.asarray(rows["labels"])[kept] if "labels" in rows else False
        self.full = self.full or end >= self.buffer_size
        self.pos = end % self.buffer_size

    def save(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Write the rows to a NumPy ``.npz`` file.

        :param path: Where to; ``.npz`` is appended if it is missing, and its folder is made
        """
        content: dict[str, Any] = {**self.rows(), **self._bounds()}
        if not isinstance(path, str | pathlib.Path):
            np.savez_compressed(path, **content)
            return
        name = str(path) if str(path).endswith(".npz") else f"{path}.npz"
        pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
        with replacing(pathlib.Path(name)) as partial, open(partial, "wb") as file:
            np.savez_compressed(file, **content)

    def _bounds(self) -> dict[str, np.ndarray]:
        """Where -1 and 1 of the normalised actions are, in the environment's units."""
        return {"action_low": self.action_space.low, "action_high": self.action_space.high}  # type: ignore[attr-defined]

    def _check_bounds(self, bounds: dict[str, np.ndarray]) -> None:
        """
        Make sure that normalised actions mean here what they meant elsewhere.

        :param bounds: ``action_low`` and ``action_high`` of the other action space
        :raises ValueError: if they are not this one's
        """
        for name, expected in self._bounds().items():
            if not np.array_equal(bounds[name], expected):
                raise ValueError(
                    f"The guidance was given for actions with {name} = {bounds[name]}, but the environment's is "
                    f"{expected}: the same advice would mean other actions. Make the environment with the bounds that "
                    "it had, or ask for new advice."
                )

    def load(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Replace the buffer's rows by those of a file.

        :param path: A file that :meth:`save` wrote
        :raises OSError: if there is no such file, or it cannot be opened
        :raises ValueError: if the file holds something else or its rows do not fit the spaces;
            the buffer is then as it was
        """
        if isinstance(path, str | pathlib.Path) and not pathlib.Path(path).exists() and not str(path).endswith(".npz"):
            path = f"{path}.npz"
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open(path, "rb")) if isinstance(path, str | pathlib.Path) else path
            try:
                rows = dict(stack.enter_context(np.load(file)))
            except Exception as error:  # whatever NumPy, zipfile and zlib make of other files
                reason = f"{type(error).__name__}: {error}"
                raise ValueError(
                    f"{path} is no file that GuidanceBuffer.save() wrote, or is damaged ({reason})."
                ) from error
        if not {"actions", "steps", *self._bounds()} <= rows.keys():
            raise ValueError(f"{path} holds {sorted(rows)}, expected a file written by GuidanceBuffer.save().")
        bounds = {name: rows.pop(name) for name in self._bounds()}
        fresh = GuidanceBuffer(self.buffer_size, self.observation_space, self.action_space, self.device)
        fresh.extend(rows)
        self._check_bounds(bounds)
        self.__dict__.update(fresh.__dict__, labels_of=None)

    def __getstate__(self) -> dict[str, Any]:
        # A model's zip carries the rows, not the empty space behind them, and compressed: they may be pictures.
        rows = io.BytesIO()
        np.savez_compressed(rows, **self.rows())  # type: ignore[arg-type]
        empty = dict.fromkeys(("observations", "actions", "steps", "labels"))
        return {**self.__dict__, **empty, "rows": rows.getvalue()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        rows = np.load(io.BytesIO(state.pop("rows")))
        self.__dict__.update(state)
        self._allocate()
        self.pos, self.full = 0, False
        self.extend(dict(rows))
