"""
What every algorithm of this package adds to its parent: guidance, and its term in the actor's loss.

After "Teaching RL Agents to Act Better: VLM as Action Advisor for Online Reinforcement Learning"
(https://arxiv.org/abs/2509.21126).
"""

import contextlib
import io
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BaseModel, BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule, TensorDict
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_varl.algorithms.fast import RecordedUpdates, accelerated
from sb3_varl.algorithms.guidance_buffer import GuidanceBuffer
from sb3_varl.algorithms.n_step import NStepDictReplayBuffer
from sb3_varl.algorithms.shaping import GATES, min_q_value
from sb3_varl.algorithms.shaping_term import ShapingTerm
from sb3_varl.arguments import ArgumentError, check_bool, check_integer, check_number
from sb3_varl.saving import held_signals, replacing_path

# What is of the present learn() only, and of this process.
_NOT_SAVED = (
    "advice_in_use",
    "after_learning",
    "begins_midway",
    "broken_off",
    "held_share",
    "recorded_updates",
    "roll_ins",
)

SelfGuided = TypeVar("SelfGuided", bound="Guided")


class Guided(OffPolicyAlgorithm):
    r"""
    Mixin for off-policy algorithms whose actor is a squashed Gaussian. Put it before the algorithm::

        class VARLTQC(Guided, TQC): ...

    Until step ``shaping_steps``, as long as the guidance buffer :math:`D_g` holds advice, the actor minimises

    .. math::
        J(\theta) = J_{parent}(\theta)
        + \lambda \, E_{(s, a) \sim D_g}\left[ g(s, a) \left( -\log \pi_\theta(a | s) \right) \right]

    Everything else, and everything after, is the parent's own, but that :class:`~sb3_varl.AdvisorCallback` may have a
    share of :math:`\lambda` count on after the cutoff: see its ``hold``. Without guidance, the two are the same to the
    last bit.

    :param args: Arguments of the parent, in its order
    :param shaping_coef: See :class:`~sb3_varl.VARL`, as for all that follow
    :param shaping_steps: Cutoff, in environment steps
    :param gate: Name of the gate
    :param gate_threshold: The gate's threshold
    :param guidance_buffer_size: Rows that the guidance buffer holds
    :param guidance_batch_size: Rows in the shaping term of each gradient update
    :param fast: Whether gradient updates may differ from the parent's in the last digits
    :param kwargs: Keyword arguments of the parent
    :raises ArgumentError: if one of the seven is of the wrong type or out of its range
    :raises ValueError: if the policy is one of another algorithm
    :raises AssertionError: if the action space is not continuous
    """

    actor: Any
    critic: Any
    guidance_buffer: GuidanceBuffer
    recorded_updates: RecordedUpdates | None = None
    # Whether the replay buffer has n-step returns without being the user's choice.
    _chose_n_steps: bool = False
    # Of the present learn().
    advice_in_use: list[dict[str, Any]]
    after_learning: list[Callable[[bool], None]]
    broken_off: bool
    roll_ins: list[Callable[[], Sequence[np.ndarray | None]]]
    held_share: float
    begins_midway: bool

    def __init__(
        self,
        *args: Any,
        shaping_coef: float | Schedule = 20.0,
        shaping_steps: int = 30_000,
        gate: str = "distance",
        gate_threshold: float | None = None,
        guidance_buffer_size: int = 10_000,
        guidance_batch_size: int = 128,
        fast: bool = False,
        **kwargs: Any,
    ) -> None:
        self.shaping_coef = shaping_coef
        self.shaping_steps = shaping_steps
        self.gate = gate
        self.gate_threshold = gate_threshold
        self.guidance_buffer_size = guidance_buffer_size
        self.guidance_batch_size = guidance_batch_size
        self.fast = fast
        # For each advice log what an AdvisorCallback needs to go on with a resumed run: how many queries were answered,
        # what they cost, and whose log it is.
        self.advice_progress: list[dict[str, Any]] = []
        # The step at which the advice ended before shaping_steps, if it did.
        self.shaping_ended: int | None = None
        self._forget_learn()
        self._check_shaping_arguments()
        super().__init__(*args, **kwargs)

    def _forget_learn(self) -> None:
        # What callbacks have of advice_progress; what they want to be done when learn() ends, told whether it came to
        # its end; whether it was broken off, which is set before they are told; what they want to be executed; what
        # share of the shaping coefficient they have count after the cutoff; and whether it began in the middle of
        # episodes.
        self.advice_in_use, self.after_learning, self.broken_off, self.roll_ins = [], [], False, []
        self.held_share = 0.0
        self.begins_midway = False

    def _check_shaping_arguments(self) -> None:
        if not callable(self.shaping_coef):
            check_number("shaping_coef", self.shaping_coef, alternative="a schedule")
        if self.gate not in GATES:
            raise ArgumentError(f"gate is {self.gate!r}, expected one of {', '.join(map(repr, GATES))}.")
        check_number("gate_threshold", self.gate_threshold, optional=True)
        check_bool("fast", self.fast)
        check_integer("shaping_steps", self.shaping_steps, low=0)
        check_integer("guidance_batch_size", self.guidance_batch_size)
        check_integer("guidance_buffer_size", self.guidance_buffer_size)

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        vec_env = OffPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)
        if not isinstance(vec_env.action_space, spaces.Box):
            # SB3's own class of error for this.
            raise AssertionError(
                f"VARL needs a continuous action space (Box), but the environment's is {vec_env.action_space}. "
                "For discrete actions use an algorithm made for them, for instance DQN or PPO, without advice."
            )
        return vec_env

    def _check_policy(self) -> None:
        """Another algorithm's policy may fit well enough to be trained, on losses that mean something else."""
        expected = self.policy_aliases["MlpPolicy"]
        if not issubclass(self.policy_class, expected):
            for base in self.policy_class.__mro__:
                is_sb3s = base.__module__.startswith(("stable_baselines3.", "sb3_contrib."))
                if is_sb3s and base not in (BasePolicy, BaseModel):
                    raise ValueError(
                        f"{type(self).__name__} needs a policy that is a {expected.__name__}, but {base.__name__} is "
                        "one of another algorithm. If this is a saved model, load it with the algorithm that it was "
                        "trained with, or one that shares its policy: VARL and SAC, VARLTQC and TQC, VARLCrossQ and "
                        "CrossQ."
                    )

    def _setup_model(self) -> None:
        # Checked here as well because load() sets attributes without the constructor.
        self._check_policy()
        self._check_shaping_arguments()
        n_steps, of_n_steps = self.n_steps, {"n_steps": self.n_steps, "gamma": self.gamma}
        if self._chose_n_steps and self.replay_buffer_class in (NStepReplayBuffer, NStepDictReplayBuffer):
            # What load() would have Stable-Baselines3 take for the user's own choice, and warn.
            others = {name: value for name, value in self.replay_buffer_kwargs.items() if name not in of_n_steps}
            self.replay_buffer_class, self.replay_buffer_kwargs = None, others
        given = self.replay_buffer_kwargs
        is_undecided = (
            self.replay_buffer_class in (None, NStepDictReplayBuffer) and not given.keys() & of_n_steps.keys()
        )
        self._chose_n_steps = n_steps > 1 and is_undecided
        if self._chose_n_steps and isinstance(self.observation_space, spaces.Dict):
            self.replay_buffer_class = NStepDictReplayBuffer
        if self.replay_buffer_class is NStepDictReplayBuffer:
            # Of which Stable-Baselines3 knows nothing, and would complain. SAC has to find them in the zip.
            self.replay_buffer_kwargs = {**of_n_steps, **given}
            self.n_steps = 1
        super()._setup_model()
        self.n_steps = n_steps
        self.shaping_coef_schedule = FloatSchedule(
            self.shaping_coef if callable(self.shaping_coef) else float(self.shaping_coef)
        )
        loaded: GuidanceBuffer | None = getattr(self, "guidance_buffer", None)
        self.guidance_buffer = GuidanceBuffer(
            self.guidance_buffer_size, self.observation_space, self.action_space, self.device
        )
        if loaded is not None:
            self.guidance_buffer.extend(loaded.rows())
            self.guidance_buffer.labels_of = loaded.labels_of

    @property
    def cutoff(self) -> int:
        """
        Environment step from which on guidance does not count, but for ``held_share``: ``shaping_steps``, or where it
        was ended before.
        """
        return self.shaping_steps if self.shaping_ended is None else min(self.shaping_steps, self.shaping_ended)

    def end_shaping(self) -> None:
        """Have the cutoff come now, until ``learn()`` begins to count its steps anew."""
        self.shaping_ended = self.num_timesteps

    @property
    def shaping_share(self) -> float:
        """Share of the shaping coefficient that counts: all of it until the cutoff, and then ``held_share``."""
        return 1.0 if self.num_timesteps < self.cutoff else self.held_share

    @property
    def shaping_active(self) -> bool:
        """Whether the next gradient update contains the shaping term."""
        return self.shaping_share > 0 and self.guidance_buffer.size() > 0

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sample as the parent does, and take advice in its place where a callback wants it executed."""
        actions, scaled = super()._sample_action(learning_starts, action_noise, n_envs)
        for roll_in in self.roll_ins:
            for env, advised in enumerate(roll_in()):
                if advised is not None:
                    scaled[env], actions[env] = advised, self.policy.unscale_action(advised)
        return actions, scaled

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """
        Do the parent's updates, with the gradient of the shaping term added to the actor's while the guidance counts.

        :param gradient_steps: Number of gradient updates
        :param batch_size: Minibatch size of the parent's own terms
        """
        shaping = self._shaping_term() if self.shaping_active else None
        self.logger.record("varl/shaping_active", int(shaping is not None))
        self.logger.record("varl/guidance_size", self.guidance_buffer.size())
        if shaping is not None:
            self.logger.record("varl/shaping_coef", shaping.coef)
            if self.num_timesteps >= self.cutoff:
                self.logger.record("varl/held_share", self.held_share)
        self._update(gradient_steps, batch_size, shaping)

    @accelerated
    def _update(self, gradient_steps: int, batch_size: int, shaping: ShapingTerm | None) -> None:
        """Have the parent do its updates, with the term's gradient added before each step of the actor's optimizer."""
        optimizer = self.actor.optimizer
        with contextlib.ExitStack() as stack:
            if shaping is not None:
                hook = optimizer.register_step_pre_hook(shaping.add_gradient)
                stack.callback(hook.remove)
                # Before the user's hooks, which may clip the gradient.
                optimizer._optimizer_step_pre_hooks.move_to_end(hook.id, last=False)
            super().train(gradient_steps, batch_size)

    def _shaping_term(self) -> ShapingTerm:
        # Below 0 where the last rollout goes beyond the end.
        shaping_coef = self.shaping_coef_schedule(max(0.0, self._current_progress_remaining))
        check_number("what the schedule shaping_coef returns", shaping_coef)
        return ShapingTerm(self, shaping_coef * self.shaping_share)

    def dump_logs(self) -> None:
        """
        Write the logs, whole lines of them: a first Ctrl-C waits.

        Adds what :meth:`guidance_summary` says, under ``varl/``, while the guidance counts.
        """
        if self.shaping_active:
            for name, value in self.guidance_summary().items():
                self.logger.record(f"varl/{name}", value)
        with held_signals():
            super().dump_logs()

    def guidance_summary(self) -> dict[str, float]:
        """
        Compare the latest 256 rows of guidance with the policy as it is.

        :return: ``gate_open``, the share of them whose gate is open; ``disagreement``, the share from which the greedy
            action is further than 0.4 in some component, whatever the gate; ``shaping_loss`` without its coefficient;
            ``q_advised`` and ``q_greedy``, what the critic thinks of the advice and of the policy's greedy actions;
            ``entropy`` of the policy, in nats. Empty without guidance.
        """
        return self._shaping_term().summary() if self.guidance_buffer.size() > 0 else {}

    def _q_value(self, observations: th.Tensor | TensorDict, actions: th.Tensor) -> th.Tensor:
        """What the parent's actor maximises besides the entropy, ``(n,)``."""
        return min_q_value(self.critic, observations, actions)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[int, BaseCallback]:
        self._forget_learn()
        self.begins_midway = not reset_num_timesteps and self.num_timesteps > 0 and self._last_obs is not None
        if reset_num_timesteps:
            self.shaping_ended = None
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # Of a copy, or of a model for another process; callbacks have threads, and recordings this model's tensors.
        return {name: value for name, value in self.__dict__.items() if name not in _NOT_SAVED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget_learn()

    def learn(
        self: SelfGuided,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfGuided:
        gradients = th.is_grad_enabled()
        trained = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        try:
            super().learn(
                total_timesteps,
                callback,
                log_interval,  # type: ignore[arg-type]
                tb_log_name or type(self).__name__,
                reset_num_timesteps,
                progress_bar,
            )
            self._finish_learn(True)
        except BaseException:
            if self.after_learning:
                self.broken_off = True
            # Ctrl-C in the wrong moment leaves PyTorch, or parameters, without gradients.
            th.set_grad_enabled(gradients)
            for parameter in trained:
                parameter.requires_grad_(True)
            self._finish_learn(False)
            raise
        return self

    def _finish_learn(self, completed: bool) -> None:
        """Tell the callbacks, in their order, all of them whatever one of them raises, and let go of them."""
        with contextlib.ExitStack() as stack:
            while self.after_learning:
                stack.callback(self.after_learning.pop(), completed)
        self.roll_ins = []

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *_NOT_SAVED]

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save the model to a zip file. A crash meanwhile leaves an older file of that name as it was.

        :param path: Where to; ``.zip`` is appended if there is no suffix
        :param exclude: Attributes that are left out besides those that always are
        :param include: Attributes that are not left out
        """
        with replacing_path(path, "zip") as partial:
            super().save(partial, exclude, include)

    def save_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Save the replay buffer to a pickle file. A crash meanwhile leaves an older file of that name as it was.

        :param path: Where to; ``.pkl`` is appended if there is no suffix
        """
        with replacing_path(path, "pkl") as partial:
            super().save_replay_buffer(partial)

    def save_guidance_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Save the guidance buffer by itself. A model's zip contains it anyway.

        :param path: Where to; ``.npz`` is appended if it is missing
        """
        self.guidance_buffer.save(path)

    def load_guidance_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Replace the guidance by that of a file.

        :param path: A file that :meth:`save_guidance_buffer` wrote
        :raises ValueError: if it does not fit this model's spaces
        """
        self.guidance_buffer.load(path)
