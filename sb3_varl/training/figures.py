"""What the callback has to say whenever SB3's logger is written out."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from stable_baselines3.common.logger import KVWriter, Logger

# Of an advisor's or a policy's, and not of the run's: what several callbacks have is no sum.
_NO_SUM = re.compile(r"advice/(latency|executed|success_.*|rule_\d+|no_rule|no_value)")


def added_up(parts: Iterable[dict[str, float]]) -> dict[str, float]:
    """
    Put the figures of several callbacks together.

    :param parts: What each has to say
    :return: The sum of what can be added up, and of the rest what the first has
    """
    together = dict[str, float]()
    for part in parts:
        for name, value in part.items():
            known = together.get(name)
            together[name] = value if known is None else known if _NO_SUM.fullmatch(name) else known + value
    return together


class FiguresWriter(KVWriter):
    """
    Adds figures to what a logger writes out, whoever has it written: ``dump_logs()``, an ``EvalCallback``, a user. To
    record them at each step would take longer than all else that is done there. Of several callbacks the first one
    writes for all.

    :param figures: Says what there is to write, by its keys
    :param logger: The logger, whose first output this becomes
    """

    def __init__(self, figures: Callable[[], dict[str, float]], logger: Logger) -> None:
        self._figures = figures
        self._of_who_left: list[dict[str, float]] = []
        self._outputs = logger.output_formats
        self._outputs.insert(0, self)

    def __getstate__(self) -> dict[str, Any]:
        # A copy of the logger is for another model, of which the callback has nothing to say; and threads stay here.
        return {"_figures": dict, "_of_who_left": [], "_outputs": []}

    @property
    def _all(self) -> list["FiguresWriter"]:
        """Those of all callbacks, in their order; each new one comes first among the outputs."""
        return [output for output in self._outputs[::-1] if isinstance(output, FiguresWriter)]

    def together(self) -> dict[str, float]:
        """
        Put together what all callbacks have to say.

        :return: Figures by their keys
        """
        return added_up(part for writer in self._all for part in (*writer._of_who_left, writer._figures()))

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """
        Add the figures, for the outputs that come after this one.

        :param key_values: All that is written out
        :param key_excluded: For each of its keys the outputs that leave it out
        :param step: The run's environment steps
        """
        if self._all[-1:] != [self]:
            return
        figures = self.together()
        key_values.update(figures)
        key_excluded.update(dict.fromkeys(figures, ("",)))

    def leave(self) -> None:
        """Add nothing more, which is asked for twice where the end of a run is broken off; others tell of it."""
        if self in self._outputs:
            self._outputs.remove(self)
            for other in self._all[:1]:
                other._of_who_left += [*self._of_who_left, self._figures()]

    def close(self) -> None:
        """Nothing is open."""
