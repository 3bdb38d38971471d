"""Where models that were saved by version 0.1.0 look for :mod:`sb3_varl.algorithms.policies`."""

from sb3_varl.algorithms.policies import LayerNormCritic, LayerNormMlpPolicy

__all__ = ["LayerNormCritic", "LayerNormMlpPolicy"]
