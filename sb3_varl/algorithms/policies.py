"""A SAC policy whose critics do not lose their heads over actions that they have never seen."""

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, create_mlp
from stable_baselines3.sac.policies import SACPolicy
from torch import nn


class LayerNormCritic(ContinuousCritic):
    """
    SAC's critics with layer normalisation before each activation.

    It bounds a critic's values outside the data by the size of its last layer (https://arxiv.org/abs/2302.02948).
    That matters when the guidance ends: from then on the actor follows the critics to actions nobody has tried.

    :param observation_space: Observation space
    :param action_space: Action space
    :param net_arch: Width of each hidden layer
    :param features_extractor: Network that extracts features
    :param features_dim: Number of features
    :param kwargs: Further arguments of :class:`stable_baselines3.common.policies.ContinuousCritic`
    """

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            observation_space, action_space, net_arch, features_extractor, features_dim, activation_fn, **kwargs
        )
        input_dim = features_dim + get_action_dim(action_space)
        for i in range(self.n_critics):
            layers = create_mlp(input_dim, 1, net_arch, activation_fn, post_linear_modules=[nn.LayerNorm])
            self.q_networks[i] = nn.Sequential(*layers)
            self.add_module(f"qf{i}", self.q_networks[i])


class LayerNormMlpPolicy(SACPolicy):
    """
    SAC's ``MlpPolicy``, or with Dict observations its ``MultiInputPolicy``, with layer normalisation in the critics.
    Takes the same arguments.

    Both :class:`~sb3_varl.VARL` and :class:`stable_baselines3.SAC` take it as a policy class;
    VARL also by the name ``"LayerNormMlpPolicy"``.

    :param observation_space: Observation space
    :param args: Further arguments of :class:`stable_baselines3.sac.policies.SACPolicy`
    :param kwargs: Its keyword arguments
    """

    def __init__(self, observation_space: spaces.Space, *args: Any, **kwargs: Any) -> None:
        if isinstance(observation_space, spaces.Dict):
            kwargs.setdefault("features_extractor_class", CombinedExtractor)
        super().__init__(observation_space, *args, **kwargs)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        """
        Make the critics, or their targets.

        :param features_extractor: Network that extracts features, if it is shared
        :return: The critics
        """
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return LayerNormCritic(**kwargs).to(self.device)
