"""What the callback has to say whenever SB3's logger is written out."""

from collections.abc import Callable
from typing import Any

from stable_baselines3.common.logger import KVWriter, Logger


class FiguresWriter(KVWriter):
    """
    Adds figures to what a logger writes out, whoever has it written: ``dump_logs()``, an ``EvalCallback``, a user. To
    record them at each step would take longer than all else that is done there.

    :param figures: Says what there is to write, by its keys
    :param logger: The logger, whose first output this becomes
    """

    def __init__(self, figures: Callable[[], dict[str, float]], logger: Logger) -> None:
        self._figures = figures
        self._outputs = logger.output_formats
        self._outputs.insert(0, self)

    def __getstate__(self) -> dict[str, Any]:
        # A copy of the logger is for another model, of which the callback has nothing to say; and threads stay here.
        return {"_figures": dict, "_outputs": []}

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """
        Add the figures, for the outputs that come after this one.

        :param key_values: All that is written out
        :param key_excluded: For each of its keys the outputs that leave it out
        :param step: The run's environment steps
        """
        figures = self._figures()
        key_values.update(figures)
        key_excluded.update(dict.fromkeys(figures, ("",)))

    def leave(self) -> None:
        """Add nothing any more, which is asked for twice where the end of a run is broken off."""
        if self in self._outputs:
            self._outputs.remove(self)

    def close(self) -> None:
        """Nothing is open."""
