"""The rules of a run's queries beside each other, so that it can be seen what a correction changed."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field

from sb3_varl.advice.types import Answer
from sb3_varl.rules.rule import Rule, outline
from sb3_varl.training.standing import MAX_LOGGED_RULES


@dataclass(frozen=True)
class RulesView:
    """
    The rules that a run was advised by, one version after the other.

    :param versions: What each is called
    :param rows: For each rule its text in each version, ``None`` where there is no such rule
    :param shares: For each rule of the last version the share of the states in which it decided, as logged last
    :param lost: Rules that could not be used
    """

    versions: list[str] = field(default_factory=list)
    rows: list[list[Rule | None]] = field(default_factory=list)
    shares: list[float | None] = field(default_factory=list)
    lost: list[Rule] = field(default_factory=list)

    def is_lost(self, rule: Rule) -> bool:
        """
        Tell whether a rule could not be used, which another one like it may be.

        :param rule: One of those in the rows
        :return: Whether it is among those that could not
        """
        return any(rule is other for other in self.lost)


def view_rules(answers: Sequence[tuple[str, Answer, Sequence[str]]], logged: Sequence[float | None] = ()) -> RulesView:
    """
    Put versions of rules beside each other.

    :param answers: What a run's model answered, in order: what each answer is called, the answer, and what of it could
        not be used
    :param logged: In what share of the states each rule of the last version decided, as far as that was logged
    :return: The versions, rules of the same name in the same row; of those without a counterpart, the ones in the same
        place
    """
    versions, rows, lost = list[str](), list[list[Rule | None]](), list[Rule]()
    for name, answer, rejected in answers:
        rules = outline(answer.text) if answer.form == "rules" else []
        if rules:
            rows = _beside(rows, rules, len(versions))
            versions.append(name)
            left = list(rejected)
            for rule in rules:
                told = next((text for text in left if text.startswith(f"{rule.name}: ")), None)
                if told is not None:
                    left.remove(told)
                    lost.append(rule)
    is_used = [row[-1] is not None and not any(row[-1] is rule for rule in lost) for row in rows]
    # Where something else could not be used, nobody knows here whose shares these are.
    n_logged = sum(share is not None for share in logged)
    numbers = iter(logged if n_logged >= min(sum(is_used), MAX_LOGGED_RULES) else ())
    shares = [next(numbers, None) if used else None for used in is_used]
    return RulesView(versions, rows, shares if any(share is not None for share in shares) else [], lost)


def _beside(rows: list[list[Rule | None]], rules: list[Rule], n_versions: int) -> list[list[Rule | None]]:
    names = [next(rule.name for rule in reversed(row) if rule is not None) for row in rows]
    matcher = difflib.SequenceMatcher(None, names, [rule.name for rule in rules], autojunk=False)
    beside: list[list[Rule | None]] = []
    for _, i, i_end, j, j_end in matcher.get_opcodes():
        old, new = rows[i:i_end], rules[j:j_end]
        for k in range(max(len(old), len(new))):
            before = old[k] if k < len(old) else [None] * n_versions
            beside.append([*before, new[k] if k < len(new) else None])
    return beside
