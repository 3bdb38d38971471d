"""VARL for Stable-Baselines3: a vision-language model as action advisor for online reinforcement learning."""

from typing import TYPE_CHECKING

from sb3_varl.advice.sheets import load_task_sheet
from sb3_varl.advice.types import (
    ActionComponent,
    Advice,
    AdviceQuery,
    AdviceWarning,
    Advisor,
    AdvisorError,
    Answer,
    Briefing,
    ObservationSlice,
    Rejection,
    TaskSheet,
    Usage,
    VisitedState,
)
from sb3_varl.advisors.function import FunctionAdvisor
from sb3_varl.advisors.recorded import ReplayAdvisor
from sb3_varl.advisors.vlm import VLMAdvisor
from sb3_varl.algorithms.guidance_buffer import GuidanceBuffer
from sb3_varl.algorithms.policies import LayerNormMlpPolicy
from sb3_varl.algorithms.varl import VARL, VARLTQC, VARLCrossQ
from sb3_varl.arguments import ArgumentError
from sb3_varl.training.callback import AdvisorCallback

if TYPE_CHECKING:
    from sb3_varl.training.model import GuidedModel

    # The callback and the algorithms do not know each other: this is where a type checker sees that they fit.
    _models: tuple[type[GuidedModel], ...] = (VARL, VARLTQC, VARLCrossQ)

__version__ = "0.1.0"

__all__ = [
    "VARL",
    "VARLTQC",
    "ActionComponent",
    "Advice",
    "AdviceQuery",
    "AdviceWarning",
    "Advisor",
    "AdvisorCallback",
    "AdvisorError",
    "Answer",
    "ArgumentError",
    "Briefing",
    "FunctionAdvisor",
    "GuidanceBuffer",
    "LayerNormMlpPolicy",
    "ObservationSlice",
    "Rejection",
    "ReplayAdvisor",
    "TaskSheet",
    "Usage",
    "VARLCrossQ",
    "VLMAdvisor",
    "VisitedState",
    "load_task_sheet",
]
