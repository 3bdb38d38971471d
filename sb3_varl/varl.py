"""
VARL, after "Teaching RL Agents to Act Better: VLM as Action Advisor for Online Reinforcement Learning"
(https://arxiv.org/abs/2509.21126): SAC whose actor is pulled towards an advisor's actions for the first part of a run.
"""

import contextlib
import io
import math
import pathlib
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule, TensorDict
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.sac.policies import Actor, SACPolicy

from sb3_varl.acceleration import constant_critic, flushed_denormals, fused_adam
from sb3_varl.fast_sac import FastSAC, add_shaping_gradient
from sb3_varl.guidance_buffer import GuidanceBuffer, GuidanceBufferSamples
from sb3_varl.policies import LayerNormMlpPolicy
from sb3_varl.shaping import (
    DEFAULT_THRESHOLDS,
    GATES,
    Comparison,
    clip_advice,
    entropy,
    min_q_value,
    shaping_gradient,
    shaping_loss,
)

# Rows of guidance that the logged figures are about.
_SUMMARY_ROWS = 256


class VARL(SAC):
    r"""
    Soft Actor-Critic with an action advisor.

    Until step ``shaping_steps``, as long as the guidance buffer :math:`D_g` holds advice, the actor minimises

    .. math::
        J(\theta) = J_{SAC}(\theta)
        + \lambda \, E_{(s, a) \sim D_g}\left[ g(s, a) \left( -\log \pi_\theta(a | s) \right) \right]

    where the gate :math:`g` is 1 if the advice :math:`a` disagrees with what the policy would do and 0 otherwise.
    The likelihood's gradient goes into the policy's mean only, and advice is clipped to 0.9 of the action space.
    Rewards, critics and temperature are SAC's own, and so is everything once the guidance ends.
    Without guidance, VARL is SAC to the last bit.

    Fill the guidance buffer with an :class:`~sb3_varl.callback.AdvisorCallback`, or by hand::

        model.guidance_buffer.add(observation, model.policy.scale_action(action))

    All parameters but the last seven are those of :class:`stable_baselines3.SAC`, in the same order.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"``, a SAC policy class, or
        ``"LayerNormMlpPolicy"``, which helps where rewards are sparse
    :param env: The environment, or its registered id
    :param learning_rate: Learning rate of all Adam optimizers, or a schedule
    :param buffer_size: Size of the replay buffer
    :param learning_starts: Steps before learning starts
    :param batch_size: Minibatch size of each gradient update
    :param tau: Soft update coefficient
    :param gamma: Discount factor
    :param train_freq: Update the model every so many steps, or a tuple such as ``(1, "episode")``
    :param gradient_steps: Gradient steps after each rollout; -1 for as many as steps were done
    :param action_noise: Noise added to the actions, for hard exploration problems
    :param replay_buffer_class: Replay buffer class, for instance ``HerReplayBuffer``
    :param replay_buffer_kwargs: Its keyword arguments
    :param optimize_memory_usage: Memory efficient variant of the replay buffer
    :param n_steps: Length of the n-step returns
    :param ent_coef: Entropy coefficient; ``"auto"`` learns it, ``"auto_0.1"`` from 0.1
    :param target_update_interval: Update the target network every so many gradient steps
    :param target_entropy: Target entropy when learning the entropy coefficient
    :param use_sde: Generalized state-dependent exploration instead of action noise
    :param sde_sample_freq: Sample new gSDE noise every so many steps; -1 for once per rollout
    :param use_sde_at_warmup: gSDE instead of uniform sampling before learning starts
    :param stats_window_size: Episodes to average success rate and return over
    :param tensorboard_log: Log location for TensorBoard
    :param policy_kwargs: Keyword arguments of the policy
    :param verbose: 0 no output, 1 info, 2 debug
    :param seed: Seed of the pseudo random generators
    :param device: Device to run on
    :param _init_setup_model: Whether to build the networks at creation
    :param shaping_coef: Weight :math:`\lambda` of the shaping term, at least 0, or a schedule
        from the remaining progress of the run (1 to 0) to a weight
    :param shaping_steps: Cutoff: environment steps of the whole run after which the guidance is ignored.
        As everywhere in SB3, ``learn()`` starts a new run unless ``reset_num_timesteps=False``.
    :param gate: ``"distance"`` (some component of the advice is further than the threshold from the greedy action),
        ``"likelihood"`` (the advice is less likely than the greedy action by more than the threshold),
        ``"q_filter"`` (the critic values the advice above the greedy action by more than the threshold)
        or ``"always"`` (no gate, an ablation)
    :param gate_threshold: The gate's threshold: a distance in the normalised action space, nats, or units of return.
        ``None`` for the gate's default (0.4, 3 and 0)
    :param guidance_buffer_size: Rows that the guidance buffer holds before it drops the oldest
    :param guidance_batch_size: Rows in the shaping term of each gradient update
    :param fast: Whether gradient updates may differ from SAC's in the last digits, for more speed.
        On a CPU, networks of linear layers, ReLUs and layer normalisations get updates of their own
        (:class:`~sb3_varl.fast_sac.FastSAC`); all others keep SB3's, on a CPU with fused Adam and without denormals.
    :raises ValueError: if one of the last seven is out of its range, or the action space is not continuous
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        **SAC.policy_aliases,
        "LayerNormMlpPolicy": LayerNormMlpPolicy,
    }
    guidance_buffer: GuidanceBuffer

    def __init__(
        self,
        policy: str | type[SACPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        ent_coef: str | float = "auto",
        target_update_interval: int = 1,
        target_entropy: str | float = "auto",
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        use_sde_at_warmup: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        shaping_coef: float | Schedule = 20.0,
        shaping_steps: int = 30_000,
        gate: str = "distance",
        gate_threshold: float | None = None,
        guidance_buffer_size: int = 10_000,
        guidance_batch_size: int = 128,
        fast: bool = False,
    ) -> None:
        self.shaping_coef = shaping_coef
        self.shaping_steps = shaping_steps
        self.gate = gate
        self.gate_threshold = gate_threshold
        self.guidance_buffer_size = guidance_buffer_size
        self.guidance_batch_size = guidance_batch_size
        self.fast = fast
        self._check_shaping_arguments()
        super().__init__(
            policy,
            env,
            learning_rate,
            buffer_size,
            learning_starts,
            batch_size,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            action_noise,
            replay_buffer_class,
            replay_buffer_kwargs,
            optimize_memory_usage,
            n_steps,
            ent_coef,
            target_update_interval,
            target_entropy,
            use_sde,
            sde_sample_freq,
            use_sde_at_warmup,
            stats_window_size,
            tensorboard_log,
            policy_kwargs,
            verbose,
            seed,
            device,
            _init_setup_model,
        )

    def _check_shaping_arguments(self) -> None:
        if not callable(self.shaping_coef):
            _check_number("shaping_coef", self.shaping_coef, "a number that is at least 0, or a schedule")
        if self.gate not in GATES:
            raise ValueError(f"gate is {self.gate!r}, expected one of {', '.join(map(repr, GATES))}.")
        if self.gate_threshold is not None:
            _check_number("gate_threshold", self.gate_threshold, "a number that is at least 0, or None")
        if not isinstance(self.fast, bool):
            raise ValueError(f"fast is {self.fast!r}, expected True or False.")
        _check_integer("shaping_steps", self.shaping_steps, minimum=0)
        _check_integer("guidance_batch_size", self.guidance_batch_size, minimum=1)
        _check_integer("guidance_buffer_size", self.guidance_buffer_size, minimum=1)

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        vec_env = SAC._wrap_env(env, verbose, monitor_wrapper)
        if not isinstance(vec_env.action_space, spaces.Box):
            raise ValueError(
                f"VARL needs a continuous action space (Box), but the environment's is {vec_env.action_space}. "
                "For discrete actions use an algorithm made for them, for instance DQN or PPO, without advice."
            )
        return vec_env

    def _setup_model(self) -> None:
        super()._setup_model()
        # Checked again because load() sets attributes without the constructor.
        self._check_shaping_arguments()
        self.shaping_coef_schedule = FloatSchedule(
            self.shaping_coef if callable(self.shaping_coef) else float(self.shaping_coef)
        )
        loaded: GuidanceBuffer | None = getattr(self, "guidance_buffer", None)
        self.guidance_buffer = GuidanceBuffer(
            self.guidance_buffer_size, self.observation_space, self.action_space, self.device
        )
        if loaded is not None:
            self.guidance_buffer.extend(loaded.rows())

    @property
    def shaping_active(self) -> bool:
        """Whether the next gradient update contains the shaping term."""
        return self.num_timesteps < self.shaping_steps and self.guidance_buffer.size() > 0

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """
        SAC's updates, with the gradient of the shaping term added to the actor's while the guidance counts.

        :param gradient_steps: Number of gradient updates
        :param batch_size: Minibatch size of SAC's own terms
        """
        shaping = self._shaping_term() if self.shaping_active else None
        self.logger.record("varl/shaping_active", int(shaping is not None))
        self.logger.record("varl/guidance_size", self.guidance_buffer.size())
        if shaping is not None:
            self.logger.record("varl/shaping_coef", shaping.shaping_coef)

        updates = FastSAC.of(self) if self.fast else None
        if updates is not None:
            updates.train(self._optimizers(), gradient_steps, batch_size, shaping)
        else:
            with contextlib.ExitStack() as stack:
                stack.enter_context(constant_critic(self.critic, self.actor.optimizer))
                if self.fast:
                    stack.enter_context(fused_adam(self._optimizers()))
                    stack.enter_context(flushed_denormals())
                if shaping is not None:
                    optimizer = self.actor.optimizer
                    hook = optimizer.register_step_pre_hook(shaping.add_gradient)
                    stack.callback(hook.remove)
                    # Before the user's hooks, which may clip the gradient.
                    optimizer._optimizer_step_pre_hooks.move_to_end(hook.id, last=False)  # type: ignore[attr-defined]
                super().train(gradient_steps, batch_size)

    def _shaping_term(self) -> "_ShapingTerm":
        shaping_coef = self.shaping_coef_schedule(self._current_progress_remaining)
        _check_number("shaping_coef", shaping_coef, "a schedule of numbers that are at least 0")
        return _ShapingTerm(self, shaping_coef)

    def _optimizers(self) -> list[th.optim.Optimizer]:
        optimizers = (self.actor.optimizer, self.critic.optimizer, self.ent_coef_optimizer)
        return [optimizer for optimizer in optimizers if optimizer is not None]

    def dump_logs(self) -> None:
        """
        Write the logs.

        Adds, while the guidance counts, what the policy makes of its latest 256 rows: ``varl/gate_open``, the share of
        them whose gate is open, ``varl/shaping_loss`` without its coefficient, and ``varl/entropy``, in nats.
        """
        if self.shaping_active:
            self.policy.set_training_mode(False)
            for name, value in self._shaping_term().summary().items():
                self.logger.record(f"varl/{name}", value)
        super().dump_logs()

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "VARL",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> "VARL":
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

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


class _ShapingTerm:
    """The shaping term of one model, with the coefficient that it has at present."""

    def __init__(self, model: VARL, shaping_coef: float) -> None:
        self.model = model
        self.shaping_coef = shaping_coef
        self.gate = GATES[model.gate]
        self.threshold = DEFAULT_THRESHOLDS[model.gate] if model.gate_threshold is None else model.gate_threshold

    def sample(self) -> GuidanceBufferSamples:
        model = self.model
        return model.guidance_buffer.sample(model.guidance_batch_size, env=model._vec_normalize_env)

    def add_gradient(self, *_: Any) -> None:
        """Gradients add up: as a hook this runs after SAC's own backward pass and before the optimizer's step."""
        if add_shaping_gradient(self.model.actor, self):
            return
        batch = self.sample()
        mean, std = gaussian(self.model.actor, batch.observations)
        gradient = self.gradient(batch, mean, std)
        if gradient is not None:
            mean.backward(gradient)

    @th.no_grad()
    def gradient(self, batch: GuidanceBufferSamples, mean: th.Tensor, std: th.Tensor) -> th.Tensor | None:
        comparison = self._compare(batch, mean, std)
        is_open = self.gate(comparison, self.threshold)
        # Looking costs nothing on the CPU, and saves the backward pass; elsewhere the host would have to wait.
        if is_open.device.type == "cpu" and not is_open.any():
            return None
        return self.shaping_coef * shaping_gradient(comparison, is_open)

    @th.no_grad()
    def summary(self) -> dict[str, float]:
        batch = self.model.guidance_buffer.latest(_SUMMARY_ROWS, env=self.model._vec_normalize_env)
        mean, std = gaussian(self.model.actor, batch.observations)
        comparison = self._compare(batch, mean, std)
        is_open = self.gate(comparison, self.threshold)
        return {
            "gate_open": is_open.float().mean().item(),
            "shaping_loss": shaping_loss(comparison, is_open).item(),
            "entropy": entropy(mean, std).mean().item(),
        }

    def _compare(self, batch: GuidanceBufferSamples, mean: th.Tensor, std: th.Tensor) -> Comparison:
        return Comparison(
            clip_advice(batch.actions),
            mean,
            std,
            lambda actions: min_q_value(self.model.critic, batch.observations, actions),
        )


def gaussian(actor: Actor, observations: th.Tensor | TensorDict) -> tuple[th.Tensor, th.Tensor]:
    """
    Compute the policy's Gaussian before the squashing.

    :param actor: SAC's actor
    :param observations: Preprocessed as the actor expects, n of them
    :return: Mean and standard deviation, ``(n, d)`` each
    """
    mean, log_std, latent = actor.get_action_dist_params(observations)
    if not actor.use_sde:
        return mean, log_std.exp()
    return mean, actor.action_dist.proba_distribution(mean, log_std, **latent).distribution.stddev


def _check_number(name: str, value: Any, expected: str) -> None:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} is {value!r}, expected {expected}.")


def _check_integer(name: str, value: Any, minimum: int) -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < minimum:
        raise ValueError(f"{name} is {value!r}, expected an integer that is at least {minimum}.")
