"""VARL for Stable-Baselines3: a vision-language model as action advisor for online reinforcement learning."""

from sb3_varl.advice import Advice, AdviceQuery, Advisor, Briefing, FunctionAdvisor, TaskSheet, VisitedState

__version__ = "0.1.0"

__all__ = [
    "Advice",
    "AdviceQuery",
    "Advisor",
    "Briefing",
    "FunctionAdvisor",
    "TaskSheet",
    "VisitedState",
]
