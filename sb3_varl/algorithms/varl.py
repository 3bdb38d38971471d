"""
VARL, after "Teaching RL Agents to Act Better: VLM as Action Advisor for Online Reinforcement Learning"
(https://arxiv.org/abs/2509.21126): SAC whose actor is pulled towards an advisor's actions for the first part of a run.
"""

from typing import Any, ClassVar

import torch as th
from sb3_contrib import TQC, CrossQ
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule, TensorDict
from stable_baselines3.sac.policies import SACPolicy

from sb3_varl.algorithms.guided import Guided
from sb3_varl.algorithms.policies import LayerNormMlpPolicy


class VARL(Guided, SAC):
    r"""
    Soft Actor-Critic with an action advisor.

    Until step ``shaping_steps``, as long as the guidance buffer :math:`D_g` holds advice, the actor minimises

    .. math::
        J(\theta) = J_{SAC}(\theta)
        + \lambda \, E_{(s, a) \sim D_g}\left[ g(s, a) \left( -\log \pi_\theta(a | s) \right) \right]

    where the gate :math:`g` is 1 if the advice :math:`a` disagrees with what the policy would do and 0 otherwise.
    The likelihood's gradient goes into the policy's mean only, a standard deviation below 0.3 counts as 0.3 in it, and
    advice is clipped to 0.9 of the action space.
    Rewards, critics and temperature are SAC's own, and so is everything once the guidance ends.
    Without guidance, VARL is SAC to the last bit.

    Fill the guidance buffer with an :class:`~sb3_varl.AdvisorCallback`, or by hand::

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
    :param shaping_steps: Cutoff: environment steps of the whole run after which the guidance is ignored, but for
        what rules have to hold (``AdvisorCallback(hold=...)``).
        As everywhere in SB3, ``learn()`` starts a new run unless ``reset_num_timesteps=False``.
    :param gate: ``"distance"`` (some component of the advice is further than the threshold from the greedy action),
        ``"likelihood"`` (the advice is less likely than the greedy action by more than the threshold),
        ``"q_filter"`` (the critic values the advice above the greedy action by more than the threshold)
        or ``"always"`` (no gate, an ablation)
    :param gate_threshold: The gate's threshold: a distance in the normalised action space, nats, or units of return.
        ``None`` for the gate's default (0.4, 3 and 0)
    :param guidance_buffer_size: Rows that the guidance buffer holds before it drops the oldest
    :param guidance_batch_size: Rows in the shaping term of each gradient update
    :param fast: Whether gradient updates may differ from SAC's in the last digits, for more speed. They are recorded
        and repeated as a whole (:class:`~sb3_varl.algorithms.fast.recorded.RecordedUpdates`): on a CPU from the
        5000th on, compiled, which takes half a minute once, and on a GPU as a CUDA graph. Where that cannot be,
        ``verbose=1`` says why, and updates are SB3's, on a CPU with fused Adam and without denormals.
    :raises ArgumentError: if one of the last seven is of the wrong type or out of its range
    :raises ValueError: if the policy is one of another algorithm
    :raises AssertionError: if the action space is not continuous
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        **SAC.policy_aliases,
        "LayerNormMlpPolicy": LayerNormMlpPolicy,
    }

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
            shaping_coef=shaping_coef,
            shaping_steps=shaping_steps,
            gate=gate,
            gate_threshold=gate_threshold,
            guidance_buffer_size=guidance_buffer_size,
            guidance_batch_size=guidance_batch_size,
            fast=fast,
        )


class VARLTQC(Guided, TQC):
    """
    Truncated Quantile Critics (https://arxiv.org/abs/2005.04269) with an action advisor.

    Unadvised, it is :class:`sb3_contrib.TQC` to the last bit. ``fast=True`` is as for :class:`VARL`.

    :param args: Arguments of :class:`sb3_contrib.TQC`, in its order
    :param kwargs: Its keyword arguments, and the last seven of :class:`VARL`
    """

    def _q_value(self, observations: th.Tensor | TensorDict, actions: th.Tensor) -> th.Tensor:
        return self.critic(observations, actions).mean(dim=(1, 2))


class VARLCrossQ(Guided, CrossQ):
    """
    CrossQ (https://openreview.net/forum?id=PczQtTsTIX) with an action advisor.

    Unadvised, it is :class:`sb3_contrib.CrossQ` to the last bit. ``fast=True`` is as for :class:`VARL`, on a CPU.

    :param args: Arguments of :class:`sb3_contrib.CrossQ`, in its order
    :param kwargs: Its keyword arguments, and the last seven of :class:`VARL`
    """
