"""The rules language: what a model writes once, and what advises in every state."""

from sb3_varl.rules.rule import RejectedRule, Rule
from sb3_varl.rules.rules import Decision, Rules

__all__ = ["Decision", "RejectedRule", "Rule", "Rules"]
