"""VARL for Stable-Baselines3: a vision-language model as action advisor for online reinforcement learning."""

from sb3_varl.advice import (
    ActionComponent,
    Advice,
    AdviceQuery,
    AdviceWarning,
    Advisor,
    Answer,
    Briefing,
    FunctionAdvisor,
    ObservationSlice,
    Rejection,
    TaskSheet,
    Usage,
    VisitedState,
)
from sb3_varl.callback import AdvisorCallback
from sb3_varl.guidance_buffer import GuidanceBuffer
from sb3_varl.policies import LayerNormMlpPolicy
from sb3_varl.replay import ReplayAdvisor
from sb3_varl.sheets import load_task_sheet
from sb3_varl.varl import VARL, VARLTQC, VARLCrossQ
from sb3_varl.vlm import VLMAdvisor

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
    "Answer",
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
