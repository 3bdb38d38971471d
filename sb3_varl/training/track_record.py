"""How standing advice fares where it is followed, so that it can be corrected, and put back if that made it worse."""

import math
from collections import deque
from collections.abc import Callable
from typing import Any

from sb3_varl.advice.types import Episode, Followed, StandingAdvice
from sb3_varl.rules import Rules

# Episodes that say something about a rate of success, and those that are kept to be shown.
ENOUGH = 8
MAX_EPISODES = 20
# Advice that succeeds so often needs no correction.
GOOD_ENOUGH = 0.95


class TrackRecord:
    """
    Of one piece of standing advice.

    :param advice: The advice
    :param before: The record of what stood before, if anything did
    :param query: Number of the query that brought it, ``None`` for none
    """

    def __init__(self, advice: StandingAdvice, before: "TrackRecord | None" = None, query: int | None = None) -> None:
        self.advice = advice
        self.before = before
        self.query = query
        self.n_episodes = self.n_successes = 0
        self.remark = ""
        self._episodes: deque[Episode] = deque(maxlen=MAX_EPISODES)

    def add(self, episode: Episode) -> None:
        """
        Take note of an episode in which the advice was followed.

        :param episode: The episode
        """
        self._episodes.append(episode)
        if episode.succeeded is not None:
            self.n_episodes += 1
            self.n_successes += episode.succeeded

    @classmethod
    def load(cls, kept: dict[str, Any], read: Callable[[Any], StandingAdvice]) -> "TrackRecord":
        """
        Go on with a record that was saved, without its episodes.

        :param kept: What :meth:`save` returned
        :param read: Makes advice of what was kept of it: the text of rules, or ``None``
        :return: The record
        """
        before = kept["before"]
        record = cls(read(kept["rules"]), None if before is None else cls.load(before, read), kept["query"])
        record.n_episodes, record.n_successes = int(kept["episodes"]), int(kept["successes"])
        record.remark = str(kept["remark"])
        return record

    def save(self, with_before: bool = True) -> dict[str, Any]:
        """
        Put together what a model's zip keeps.

        :param with_before: Whether what stood before is among it
        :return: Numbers, and the text of rules, ``None`` of other advice
        """
        before = self.before if with_before and self.before and isinstance(self.before.advice, Rules) else None
        return {
            "rules": self.advice.text if isinstance(self.advice, Rules) else None,
            "episodes": self.n_episodes,
            "successes": self.n_successes,
            "remark": self.remark,
            "query": self.query,
            "before": before.save(with_before=False) if before is not None else None,
        }

    @property
    def n_shown(self) -> int:
        """Number of episodes that there are to look at."""
        return len(self._episodes)

    @property
    def can_be_shown(self) -> bool:
        """Whether these are enough."""
        return self.n_shown >= ENOUGH

    @property
    def is_known(self) -> bool:
        """Whether it was followed often enough to tell."""
        return self.n_episodes >= ENOUGH

    @property
    def better_known(self) -> "TrackRecord":
        """This record, or that of what stood before if it can tell more."""
        before = self.before
        return before if before is not None and not self.is_known and before.n_episodes > self.n_episodes else self

    @property
    def success(self) -> float:
        """Share of the episodes that succeeded."""
        return self.n_successes / self.n_episodes if self.n_episodes else 0.0

    @property
    def least_success(self) -> float:
        """The same, where each episode that would be needed to tell counts as a failure."""
        return self.n_successes / max(self.n_episodes, ENOUGH)

    @property
    def is_good_enough(self) -> bool:
        """Whether a correction would be a waste."""
        return self.is_known and self.success >= GOOD_ENOUGH

    @property
    def is_worse_than_before(self) -> bool:
        """
        Whether what stood before should stand again.

        The two were followed from different starts, so that a few episodes tell a large difference only: at first one
        of a standard error or more, and any once there are as many episodes as are kept.
        """
        before = self.before
        if before is None or not (self.is_known and before.is_known):
            return False
        gap = before.success - self.success
        if self.n_episodes >= MAX_EPISODES:
            return gap > 0
        n, n_before = self.n_episodes, before.n_episodes
        success = (self.n_successes + before.n_successes) / (n + n_before)
        return gap > 0 and gap >= math.sqrt(success * (1 - success) * (1 / n + 1 / n_before))

    def put_back(self) -> "TrackRecord":
        """
        Go back to what stood before.

        :return: Its record, with a remark on why
        """
        before = self.before
        assert before is not None
        before.remark = (
            f"You have revised them once, and the revised rules did worse: {self.n_successes} of {self.n_episodes} "
            f"episodes succeeded, where it had been {before.n_successes} of {before.n_episodes}. So the rules above "
            "stand again."
        )
        return before

    def followed(self) -> Followed | None:
        """
        Put together what a model is shown that is to correct the advice.

        :return: The latest episodes, and what else there is to say; ``None`` if there are no episodes
        """
        return Followed(self.advice, tuple(self._episodes), self.remark) if self._episodes else None
