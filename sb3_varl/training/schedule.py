"""At which environment steps the advisor is asked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sb3_varl.arguments import ArgumentError


@dataclass(frozen=True)
class Schedule:
    """
    The queries that are still to come.

    :param triggers: Steps at which they are due, in order
    :param index: Number of the first of them within the run, from 0
    :param n_envs: Environment steps between two steps of the training
    :param to_collect: Environment steps that it takes to collect the states of one query
    """

    triggers: tuple[int, ...]
    index: int
    n_envs: int = 1
    to_collect: int = 1

    @classmethod
    def of_run(
        cls,
        n_queries: int,
        first_query: int | None,
        query_freq: int | None,
        *,
        states_per_query: int,
        n_envs: int,
        learning_starts: int,
        cutoff: int,
    ) -> "Schedule":
        """
        Spread the queries over a run.

        :param n_queries: Number of queries
        :param first_query: Environment steps before the first; ``None`` for as early as there are enough states, once
            the model has started to learn
        :param query_freq: Environment steps between queries; ``None`` spreads them over the first half until the cutoff
        :param states_per_query: Number of states that each is about
        :param n_envs: Number of environments
        :param learning_starts: Environment steps before the model starts to learn
        :param cutoff: Step from which on guidance does not count
        :return: All queries
        :raises ArgumentError: if they leave too few steps to collect their states from
        """
        to_collect = n_envs * math.ceil(states_per_query / n_envs)
        earliest = n_envs + to_collect
        first = max(learning_starts, earliest) if first_query is None else first_query
        freq = query_freq or max(to_collect, (cutoff // 2 - first) // max(1, n_queries - 1))
        for name, value, limit in (("first_query", first, earliest), ("query_freq", freq, to_collect)):
            if value < limit:
                raise ArgumentError(
                    f"{name} is {value}, which leaves fewer than the {states_per_query} states to draw from that "
                    f"states_per_query asks for. Make it at least {limit}, or ask about fewer states."
                )
        return cls(tuple(first + i * freq for i in range(n_queries)), 0, n_envs, to_collect)

    def __len__(self) -> int:
        return len(self.triggers)

    @property
    def next(self) -> int:
        """The step at which the next query is due."""
        return self.triggers[0]

    def is_due(self, step: int) -> bool:
        """
        Tell whether it is time.

        :param step: The run's environment steps
        :return: Whether there is a query for it
        """
        return len(self.triggers) > 0 and step >= self.next

    def without_first(self, n: int = 1) -> "Schedule":
        """
        Be done with some queries.

        :param n: How many
        :return: The others
        """
        return replace(self, triggers=self.triggers[n:], index=self.index + n)

    def with_again(self, n: int, now: int) -> "Schedule":
        """
        Take up again what was not asked after all.

        :param n: How many queries
        :param now: When they are due
        :return: These and the others
        """
        return replace(self, triggers=(now,) * n + self.triggers, index=self.index - n)

    def postponed(self, now: int, with_present: bool = False) -> "Schedule":
        """
        Tell when the queries will be asked. A run that goes on shortly before they are due, or after, collects states
        first.

        :param now: The run's environment steps
        :param with_present: Whether the present states can be collected
        :return: The same queries, at the steps at which they are asked
        """
        steps: list[int] = []
        earliest = now + self.to_collect + (0 if with_present else self.n_envs)
        for trigger in self.triggers:
            steps.append(max(earliest, now + self.n_envs * math.ceil((trigger - now) / self.n_envs)))
            earliest = steps[-1] + self.to_collect
        return replace(self, triggers=tuple(steps))

    def until(self, cutoff: int) -> tuple["Schedule", Sequence[int]]:
        """
        Leave out what would come too late.

        :param cutoff: Step from which on guidance does not count
        :return: The queries before it, and the steps of the others
        """
        n_in_time = sum(trigger < cutoff for trigger in self.triggers)
        return replace(self, triggers=self.triggers[:n_in_time]), list(self.triggers[n_in_time:])

    def after(self, step: int) -> Sequence[int]:
        """
        Tell what a run does not come to.

        :param step: Its last step
        :return: The steps of the queries after it
        """
        return [trigger for trigger in self.triggers if trigger > step]
