"""
SAC's gradient updates for networks that are plain perceptrons, much faster than SB3's.

The same numbers up to rounding, from the same random numbers. What is faster: the states before and after the
transition and those of the guidance go through the actor together; the backward passes are written out, and compute
only the gradients that somebody uses; Adam and the target networks' average are single passes over each tensor.

There is one exception. With gSDE, SB3 takes the Gaussian's value back out of the action, and cannot do so where the
action is within 1e-7 of the box's faces. The density here is right there, too.
"""

from typing import Any, NamedTuple, TypeGuard

import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.policies import BaseModel, ContinuousCritic
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import TensorDict
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, Actor
from torch import nn

from sb3_varl.algorithms.fast.acceleration import flushed_denormals, fused_adam, optimizers_of
from sb3_varl.algorithms.fast.mlp import BlockRecord, Mlp, is_plain, product
from sb3_varl.algorithms.policies import LayerNormCritic
from sb3_varl.algorithms.shaping import LOG_SQRT_2PI
from sb3_varl.algorithms.shaping_term import ShapingTerm

# What SB3 adds to 1 - tanh(u)^2 before it takes the logarithm.
_EPSILON = 1e-6


class FastActor:
    """
    An actor that computes gradients without autograd in all layers but the last. Make it with :meth:`of`.

    :param actor: SAC's actor
    :param latent_pi: Its layers but the last
    """

    def __init__(self, actor: Actor, latent_pi: Mlp) -> None:
        self.actor = actor
        self.latent_pi = latent_pi

    @classmethod
    def of(cls, actor: nn.Module) -> "FastActor | None":
        """
        Look whether the actor is one that is covered here.

        :param actor: Any actor
        :return: The same actor, faster, or None
        """
        if not _is_covered(actor):
            return None
        latent_pi = Mlp.of(actor.latent_pi, product=product)
        return None if latent_pi is None else cls(actor, latent_pi)

    def features(self, observations: th.Tensor | TensorDict) -> th.Tensor:
        """
        Flatten observations.

        :param observations: As they come from a buffer, n of them
        :return: What the networks see, ``(n, features_dim)``
        """
        return self.actor.extract_features(observations, self.actor.features_extractor)

    def forward(self, features: th.Tensor) -> "PolicyOutput":
        """
        Compute the policy's Gaussian before the squashing.

        :param features: From :meth:`features`
        :return: The Gaussian, and what :meth:`backward` needs
        """
        latent, records = self.latent_pi.forward(features)
        latent.requires_grad_()
        mean = self.actor.mu(latent)
        if self.actor.use_sde:
            policy = self.actor.action_dist.proba_distribution(mean, self.actor.log_std, latent)
            return PolicyOutput(mean, policy.distribution.stddev, latent, records)
        return PolicyOutput(mean, _std(self.actor, latent), latent, records)

    def backward(self, output: "PolicyOutput", skip: int = 0) -> None:
        """
        Add to the gradients of all layers but the last, after autograd has seen to the last.

        :param output: From :meth:`forward`
        :param skip: How many of the first rows no gradient comes from
        """
        assert output.latent.grad is not None
        rows = slice(skip, None)
        self.latent_pi.add_gradients([record.rows(rows) for record in output.records], output.latent.grad[rows])


class PolicyOutput(NamedTuple):
    """
    The policy in n states.

    :param mean: Mean before the squashing, a function of ``latent``, ``(n, d)``
    :param std: Standard deviation before the squashing, a function of ``latent``, ``(n, d)``
    :param latent: Inputs of the last layer
    :param records: What the backward pass of the layers before needs
    """

    mean: th.Tensor
    std: th.Tensor
    latent: th.Tensor
    records: list[BlockRecord]


class FastSAC:
    """
    The updates of one model. Make it with :meth:`of`.

    :param model: The model
    :param actor: Its actor
    :param critics: Its critics
    :param target_critics: Their targets
    """

    def __init__(self, model: SAC, actor: FastActor, critics: list[Mlp], target_critics: list[Mlp]) -> None:
        self.model = model
        self.actor = actor
        self.critics = critics
        self.target_critics = target_critics

    @classmethod
    def of(cls, model: SAC) -> "FastSAC | None":
        """
        Look whether the model is one that is covered here.

        :param model: Any SAC
        :return: Its updates, or None if SB3 has to do them: other networks than perceptrons of linear layers, ReLUs
            and layer normalisations, features that are learnt (images), frozen layers, hooks, other devices than
            the CPU
        """
        actor, critics = FastActor.of(model.actor), []
        for critic in (model.critic, model.critic_target):
            if type(critic) not in (ContinuousCritic, LayerNormCritic) or not _has_plain_features(critic):
                return None
            critics.append([Mlp.of(q_network, product=product) for q_network in critic.q_networks])
        if actor is None or None in critics[0] + critics[1]:
            return None
        return cls(model, actor, *critics)  # type: ignore[arg-type]

    def train(self, gradient_steps: int, batch_size: int, shaping: ShapingTerm | None) -> None:
        """
        Do what SAC's ``train()`` does, with the shaping term in the actor's loss.

        :param gradient_steps: Number of gradient updates
        :param batch_size: Minibatch size of SAC's own terms
        :param shaping: The shaping term, or None for none
        """
        model, optimizers = self.model, optimizers_of(self.model)
        model.policy.set_training_mode(True)
        model._update_learning_rate(optimizers)
        parameters: list[th.Tensor] = list(model.critic.parameters())
        target_parameters: list[th.Tensor] = list(model.critic_target.parameters())

        losses = []
        with fused_adam(optimizers), flushed_denormals():
            for step in range(gradient_steps):
                losses.append(self._update(batch_size, shaping))
                if step % model.target_update_interval == 0:
                    with th.no_grad():
                        th._foreach_lerp_(target_parameters, parameters, model.tau)

        model._n_updates += gradient_steps
        model.logger.record("train/n_updates", model._n_updates, exclude="tensorboard")
        if losses:
            ent_coef, actor_loss, critic_loss, *ent_coef_loss = th.stack(losses).mean(dim=0).tolist()
            model.logger.record("train/ent_coef", ent_coef)
            model.logger.record("train/actor_loss", actor_loss)
            model.logger.record("train/critic_loss", critic_loss)
            if ent_coef_loss:
                model.logger.record("train/ent_coef_loss", ent_coef_loss[0])

    def _update(self, batch_size: int, shaping: ShapingTerm | None) -> th.Tensor:
        model, actor = self.model, self.actor
        replay = model.replay_buffer.sample(batch_size, env=model._vec_normalize_env)  # type: ignore[union-attr]
        n = len(replay.actions)
        guidance = None if shaping is None else shaping.sample()
        if model.use_sde:
            model.actor.reset_noise()

        # The next states come first: no gradient goes there.
        observations = [replay.next_observations, replay.observations]
        if guidance is not None:
            observations.append(guidance.observations)
        all_features = th.cat([actor.features(batch) for batch in observations])
        next_features, features = all_features[:n], all_features[n : 2 * n]
        policy = actor.forward(all_features)
        all_actions, log_prob = self._act(policy.latent[: 2 * n], policy.mean[: 2 * n], policy.std[: 2 * n])
        next_actions, actions = all_actions.split(n)
        next_log_prob, log_prob = log_prob.split(n)

        ent_coef, *ent_coef_loss = self._update_temperature(log_prob.detach())
        with th.no_grad():
            next_q = _min([critic(th.cat([next_features, next_actions], dim=1)) for critic in self.target_critics])
            discounts = model.gamma if replay.discounts is None else replay.discounts
            target = replay.rewards + (1 - replay.dones) * discounts * (next_q - ent_coef * next_log_prob.unsqueeze(1))
        critic_loss = self._update_critics(th.cat([features, replay.actions], dim=1), target)
        q_value, q_gradient = self._value_gradient(features, actions.detach())

        model.actor.optimizer.zero_grad()
        # Its value is not the loss's, but its gradient is.
        loss = ent_coef * log_prob.mean() - (actions * q_gradient).sum()
        pull = None
        if shaping is not None and guidance is not None:
            pull = shaping.gradient(guidance, policy.mean[2 * n :], policy.std[2 * n :])
        if pull is None:
            loss.backward()
        else:
            th.autograd.backward([loss, policy.mean[2 * n :]], [None, pull])
        actor.backward(policy, skip=n)
        model.actor.optimizer.step()

        actor_loss = ent_coef * log_prob.detach().mean() - q_value
        return th.stack([ent_coef, actor_loss, critic_loss, *ent_coef_loss])

    def _update_temperature(self, log_prob: th.Tensor) -> list[th.Tensor]:
        """The temperature before its update and, if it is learnt, its loss."""
        log_ent_coef, optimizer = self.model.log_ent_coef, self.model.ent_coef_optimizer
        if log_ent_coef is None or optimizer is None:
            return [self.model.ent_coef_tensor.squeeze()]
        assert isinstance(self.model.target_entropy, float)
        excess = (log_prob + self.model.target_entropy).mean()
        ent_coef, loss = log_ent_coef.detach().exp().squeeze(), -(log_ent_coef.detach() * excess).squeeze()
        log_ent_coef.grad = -excess.expand_as(log_ent_coef).clone()
        optimizer.step()
        return [ent_coef, loss]

    def _update_critics(self, inputs: th.Tensor, target: th.Tensor) -> th.Tensor:
        """The critics' loss before their update."""
        self.model.critic.optimizer.zero_grad()
        losses = []
        for critic in self.critics:
            q, records = critic.forward(inputs)
            error = q - target
            critic.add_gradients(records, error / len(error))
            losses.append(error.square().mean())
        self.model.critic.optimizer.step()
        return th.stack(losses).sum() / 2

    def _value_gradient(self, features: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Mean of the lowest value that the critics give each action, and its gradient in the actions."""
        inputs = th.cat([features, actions], dim=1)
        q, records = zip(*(critic.forward(inputs) for critic in self.critics), strict=True)
        min_q, lowest = th.cat(q, dim=1).min(dim=1)
        gradient = th.zeros_like(actions)
        for i, critic in enumerate(self.critics):
            share = (lowest == i).unsqueeze(1) / len(actions)
            gradient += critic.input_gradient(records[i], share)[:, -actions.shape[1] :]
        return min_q.mean(), gradient

    def _act(self, latent: th.Tensor, mean: th.Tensor, std: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Sample actions for the next states and the states, and their log-densities."""
        if self.model.use_sde:
            noise = self.model.actor.action_dist.get_noise(latent)
        else:
            # As SB3 draws it: first that of the states.
            noise, next_noise = th.randn_like(mean[: len(mean) // 2]), th.randn_like(mean[: len(mean) // 2])
            noise = std * th.cat([next_noise, noise])
        actions = (mean + noise).tanh()
        log_density = (noise / std).square() / 2 + std.log() + LOG_SQRT_2PI + (1 - actions.square() + _EPSILON).log()
        return actions, -log_density.sum(dim=1)


class FastShapingTerm(ShapingTerm):
    """
    The shaping term amid SB3's updates: where the actor is covered here, one pass of the batch through it, and one back
    of the rows that have a gradient.

    The products are PyTorch's own: beside SB3's, which use them, they are faster than oneDNN's.
    """

    def add_gradient(self, *_: Any) -> None:
        actor = self.model.actor
        network = None
        if _is_covered(actor) and not actor.use_sde:
            network = Mlp.of(actor.latent_pi, actor.mu, product=nn.functional.linear)
        if network is None:
            super().add_gradient()
            return
        batch = self.sample()
        with th.no_grad():
            mean, records = network.forward(actor.extract_features(batch.observations, actor.features_extractor))
            std = _std(actor, records[-1].x)
        gradient = self.gradient(batch, mean, std)
        if gradient is not None:
            has_gradient = gradient.any(dim=1)
            if not has_gradient.all():
                records = [record.rows(has_gradient) for record in records]
                gradient = gradient[has_gradient]
            network.add_gradients(records, gradient)


def _std(actor: Actor, latent: th.Tensor) -> th.Tensor:
    log_std: Any = actor.log_std
    return log_std(latent).clamp(LOG_STD_MIN, LOG_STD_MAX).exp()


def _min(values: list[th.Tensor]) -> th.Tensor:
    return th.cat(values, dim=1).min(dim=1, keepdim=True).values


def _is_covered(actor: nn.Module) -> TypeGuard[Actor]:
    return type(actor) is Actor and actor.device.type == "cpu" and _has_plain_features(actor)


def _has_plain_features(network: BaseModel) -> bool:
    """Whether the features are the observations, flattened, and nobody is watching the network."""
    extractor = network.features_extractor
    return (
        isinstance(extractor, FlattenExtractor | CombinedExtractor)
        and type(extractor) in (FlattenExtractor, CombinedExtractor)
        and all(is_plain(module) and not module._parameters and not module._buffers for module in extractor.modules())
        and is_plain(network)
    )
