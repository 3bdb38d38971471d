"""What an advisor is asked and what it answers: the vocabulary, task sheets, the reading of answers, and the log."""

from sb3_varl.advice.types import (
    ActionComponent,
    Advice,
    AdviceQuery,
    AdviceWarning,
    Advisor,
    AdvisorError,
    Answer,
    Briefing,
    Failure,
    ObservationSlice,
    QueryInterrupted,
    Rejection,
    Request,
    TaskSheet,
    Usage,
    VisitedState,
)

__all__ = [
    "ActionComponent",
    "Advice",
    "AdviceQuery",
    "AdviceWarning",
    "Advisor",
    "AdvisorError",
    "Answer",
    "Briefing",
    "Failure",
    "ObservationSlice",
    "QueryInterrupted",
    "Rejection",
    "Request",
    "TaskSheet",
    "Usage",
    "VisitedState",
]
