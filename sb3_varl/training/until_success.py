"""How well the agent does by itself: the advice may end before the cutoff, or has to count again after it."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from sb3_varl.arguments import ArgumentError, check_number
from sb3_varl.training.track_record import TrackRecord

UntilSuccess = float | Literal["advice"] | None

# Episodes by which the agent's success is judged.
N_OWN = 20
# The agent explores, and advice that is followed to the end does not, so it need not succeed quite as often; and advice
# that never succeeds is no measure.
SHARE_OF_ADVICE = 0.75
LEAST = 0.25


def check_until_success(until_success: UntilSuccess) -> None:
    """
    Refuse what says nothing of success.

    :param until_success: Argument of :class:`~sb3_varl.AdvisorCallback`
    :raises ArgumentError: if it is neither a share of episodes, ``"advice"`` nor ``None``
    """
    if isinstance(until_success, str):
        if until_success != "advice":
            raise ArgumentError(
                f'until_success is {until_success!r}, expected a number greater than 0 and at most 1, "advice" or None.'
            )
    else:
        check_number("until_success", until_success, high=1.0, above_low=True, optional=True, alternative='"advice"')


def needed_success(until_success: UntilSuccess, record: TrackRecord | None) -> float | None:
    """
    Say how often the agent has to succeed by itself for the advice to end.

    :param until_success: Argument of :class:`~sb3_varl.AdvisorCallback`
    :param record: How the standing advice fares where it is followed
    :return: Share of the episodes, or ``None`` as long as the advice does not end
    """
    if not isinstance(until_success, str):
        return until_success
    if record is None or not record.is_known:
        return None
    return max(LEAST, SHARE_OF_ADVICE * record.success)


def succeeds(needed: float, successes: Sequence[bool], longest: int | None) -> bool:
    """
    Tell whether the agent succeeds by itself.

    :param needed: Share of the episodes
    :param successes: Whether its own episodes succeeded, the latest last
    :param longest: How many of them are kept at most, ``None`` for all
    :return: Whether so many of the last 20 did, or of as many as are kept
    """
    n_episodes = min(N_OWN, longest or N_OWN)
    recent = list(successes)[-n_episodes:]
    return len(recent) == n_episodes and sum(bool(np.all(success)) for success in recent) / n_episodes >= needed


def missing_success(until_success: UntilSuccess, record: TrackRecord | None, own: Sequence[bool]) -> float:
    """
    Say how far the agent falls short of the advice.

    :param until_success: Argument of :class:`~sb3_varl.AdvisorCallback`; more than what ends the advice is not missed
    :param record: How the standing advice fares where it is followed
    :param own: Whether the agent's own episodes succeeded, the latest last
    :return: Share of its last 20 episodes by which it succeeds less often. 0 before there are so many, and as if the
        advice had failed in each episode that is missing to 8
    """
    recent = list(own)[-N_OWN:]
    if record is None or len(recent) < N_OWN:
        return 0.0
    enough = needed_success(until_success, record)
    return max(0.0, min(record.least_success, 1.0 if enough is None else enough) - sum(recent) / N_OWN)
