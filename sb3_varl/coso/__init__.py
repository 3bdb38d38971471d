"""
CoSo: a language model that acts by what it writes, tuned by reward, and an advisor afterwards.

Needs transformers and peft: ``pip install "sb3_varl[coso]"``.
"""

try:
    import peft as _peft  # noqa: F401
    import transformers as _transformers  # noqa: F401
except ImportError as error:
    raise ImportError(f'{error}. sb3_varl.coso needs more than sb3_varl does: pip install "sb3_varl[coso]"') from error

from gymnasium.envs.registration import register, registry

from sb3_varl.coso.awr import CoSoAWR
from sb3_varl.coso.blackjack import BlackjackPixels
from sb3_varl.coso.causal import LearnedWeights
from sb3_varl.coso.coso import CoSo
from sb3_varl.coso.imitate import imitate, read_examples
from sb3_varl.coso.key_and_door import KeyAndDoor
from sb3_varl.coso.model_advisor import ModelAdvisor, advisor
from sb3_varl.coso.number_line import NumberLine
from sb3_varl.coso.parsers import BoxActions, BoxRules, Choices, Parser, Reading
from sb3_varl.coso.policy import VLMPolicy
from sb3_varl.coso.tiny import TinyVLM
from sb3_varl.coso.weights import ParserWeights, TokenWeights, UniformWeights

__all__ = [
    "BlackjackPixels",
    "BoxActions",
    "BoxRules",
    "Choices",
    "CoSo",
    "CoSoAWR",
    "KeyAndDoor",
    "LearnedWeights",
    "ModelAdvisor",
    "NumberLine",
    "Parser",
    "ParserWeights",
    "Reading",
    "TinyVLM",
    "TokenWeights",
    "UniformWeights",
    "VLMPolicy",
    "advisor",
    "imitate",
    "read_examples",
]

for _env in (BlackjackPixels, KeyAndDoor, NumberLine):
    if f"{_env.__name__}-v0" not in registry:
        register(f"{_env.__name__}-v0", entry_point=f"{_env.__module__}:{_env.__name__}")
