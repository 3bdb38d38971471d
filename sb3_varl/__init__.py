"""VARL for Stable-Baselines3: a vision-language model as action advisor for online reinforcement learning."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from sb3_varl.advisors.rules_advisor import RulesAdvisor
    from sb3_varl.advisors.vlm import VLMAdvisor
    from sb3_varl.algorithms.guidance_buffer import GuidanceBuffer
    from sb3_varl.algorithms.n_step import NStepDictReplayBuffer
    from sb3_varl.algorithms.policies import LayerNormMlpPolicy
    from sb3_varl.algorithms.presets import SPARSE
    from sb3_varl.algorithms.varl import VARL, VARLTQC, VARLCrossQ
    from sb3_varl.arguments import ArgumentError
    from sb3_varl.draft.sheet import draft_sheet
    from sb3_varl.human.advisor import HumanAdvisor
    from sb3_varl.rules.rules import Rules
    from sb3_varl.success import SuccessFromReward
    from sb3_varl.training.callback import AdvisorCallback

if TYPE_CHECKING:
    from sb3_varl.training.model import GuidedModel

    # The callback and the algorithms do not know each other: this is where a type checker sees that they fit.
    _models: tuple[type[GuidedModel], ...] = (VARL, VARLTQC, VARLCrossQ)

__version__ = "0.1.0"

__all__ = [
    "SPARSE",
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
    "HumanAdvisor",
    "LayerNormMlpPolicy",
    "NStepDictReplayBuffer",
    "ObservationSlice",
    "Rejection",
    "ReplayAdvisor",
    "Rules",
    "RulesAdvisor",
    "SuccessFromReward",
    "TaskSheet",
    "Usage",
    "VARLCrossQ",
    "VLMAdvisor",
    "VisitedState",
    "draft_sheet",
    "load_task_sheet",
]

# Where the names are, if not in advice.types. The modules are imported when a name is first used: with PyTorch they
# take seconds, which neither a command's --help nor sb3_varl.testing should.
_MODULES = {
    "AdvisorCallback": "training.callback",
    "ArgumentError": "arguments",
    "FunctionAdvisor": "advisors.function",
    "GuidanceBuffer": "algorithms.guidance_buffer",
    "HumanAdvisor": "human.advisor",
    "LayerNormMlpPolicy": "algorithms.policies",
    "NStepDictReplayBuffer": "algorithms.n_step",
    "ReplayAdvisor": "advisors.recorded",
    "Rules": "rules.rules",
    "SPARSE": "algorithms.presets",
    "RulesAdvisor": "advisors.rules_advisor",
    "SuccessFromReward": "success",
    "VARL": "algorithms.varl",
    "VARLCrossQ": "algorithms.varl",
    "VARLTQC": "algorithms.varl",
    "VLMAdvisor": "advisors.vlm",
    "draft_sheet": "draft.sheet",
    "load_task_sheet": "advice.sheets",
}

if not TYPE_CHECKING:  # type checkers take the imports above, and know which names there are not

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"{__name__}.{_MODULES.get(name, 'advice.types')}")
        globals()[name] = getattr(module, name)
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
