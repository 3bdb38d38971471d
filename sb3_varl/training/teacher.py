"""Standing advice in a run: it labels visited states, begins episodes, and is corrected, or put back, by its record."""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sb3_varl.advice import optional
from sb3_varl.advice.types import Advisor, Briefing, Followed, Observation, StandingAdvice
from sb3_varl.arguments import ArgumentError
from sb3_varl.rules import Rules
from sb3_varl.training import explain
from sb3_varl.training.labels import Labels
from sb3_varl.training.model import GuidedModel
from sb3_varl.training.roll_ins import WHOLE_WHILE_UNKNOWN, RollIns
from sb3_varl.training.standing import Standing
from sb3_varl.training.track_record import ENOUGH, TrackRecord
from sb3_varl.training.until_success import UntilSuccess, missing_success
from sb3_varl.wording import count

logger = logging.getLogger(__name__)

# Defaults where the answers are rules, which advise in every state.
LABEL_FREQ_OF_RULES = 2
ROLL_IN_OF_RULES = 0.5


class Teacher:
    """
    What is done with standing advice, of which there may be none.

    :param model: The model
    :param advisor: Where the advice comes from
    :param briefing: What the advisor was told
    :param label_freq: Steps between labels, 0 for none. ``None`` for every second step where the answers are rules, and
        none elsewhere
    :param roll_in: Share of the episodes that begin with advice. ``None`` for 0.5 where the answers are rules, and none
        elsewhere
    :param max_executed_steps: Steps of advice in the whole run, ``None`` for any number
    :param hold: Whether guidance counts after the cutoff, for as long again, as far as the agent falls short of the
        advice. ``None`` for so where the answers are rules, and not elsewhere
    :param picture: Takes a picture of an environment's present state, or has none
    """

    def __init__(
        self,
        model: GuidedModel,
        advisor: Advisor,
        briefing: Briefing,
        label_freq: int | None,
        roll_in: float | None,
        max_executed_steps: int | None,
        hold: bool | None,
        picture: Callable[[int], np.ndarray | None],
    ) -> None:
        self._advisor = advisor
        self._briefing = briefing
        self.advises_by_rules = optional.form_for(advisor, briefing) == "rules"
        self.can_be_corrected = self.advises_by_rules and self._unasked is None
        if label_freq is None:
            label_freq = LABEL_FREQ_OF_RULES if self.advises_by_rules else 0
        if roll_in is None:
            roll_in = ROLL_IN_OF_RULES if self.advises_by_rules else 0.0
        self.held_share = 0.0
        self._has_looked_ahead = False
        self._hold = self.advises_by_rules if hold is None else hold
        self.n_held = 0
        self.standing = Standing(briefing.action_space)
        self.labels = Labels(model, self.standing, label_freq)
        # A run that goes on, perhaps in short pieces, does not draw what it drew at its beginning.
        seed = None if model.seed is None else [model.seed, 1] + [model.num_timesteps] * (model.num_timesteps > 0)
        horizon = briefing.max_episode_steps
        self.record: TrackRecord | None = None
        self.roll_ins = RollIns(
            model,
            self.standing,
            roll_in,
            max_executed_steps,
            horizon,
            np.random.default_rng(seed),
            picture,
            is_unknown=lambda: self.is_to_be_told,
        )
        # Whether somebody waits for the record to say how good the advice is, and whether for episodes to look at.
        self.waits_for_record: Callable[[], bool] = lambda: False
        self.waits_for_episodes: Callable[[], bool] = lambda: False
        # Told of the query whose rules did worse, and of the text of those that stand again.
        self.on_put_back: Callable[[int, str], None] = lambda query, text: None
        self._model = model
        self._progress: dict[str, Any] = {}

    def recall(self, progress: dict[str, Any]) -> None:
        """
        Begin with what stood when the model was saved, and with what the advisor says in any state before it is asked.

        :param progress: What the model's zip keeps; its ``rules`` are kept up to date here
        """
        self._progress = progress
        self.roll_ins.own.extend(progress.get("own", ()))
        counts = progress.get("counts", (0, 0, 0, 0))
        self.roll_ins.n_executed, self.roll_ins.n_steps, self.labels.n_labels, self.n_held = counts
        text, record = progress.get("rules"), progress.get("record")
        if text is not None:
            self.stand(self.read(text))
        if record is not None and record["rules"] is not None:
            self.record, record = TrackRecord.load(record, self.read), None
        advice = self._unasked if self.needs_no_query else None
        if advice is not None:
            if text is not None and advice != self.standing.advice:
                logger.warning(
                    "The rules that stand from now on are not those that the model was saved with. What these said of "
                    "visited states leaves the guidance."
                )
                self.record = None
            self.stand(advice)
            if record is not None and not isinstance(advice, Rules):
                self.record = TrackRecord.load(record, lambda _: advice)
        self._keep_record()

    @functools.cached_property
    def _unasked(self) -> StandingAdvice | None:
        """What the advisor says in any state before it is asked, made once in a run."""
        return optional.standing(self._advisor, self._briefing)

    @property
    def _is_used(self) -> bool:
        return self.labels.freq > 0 or self.roll_ins.share > 0

    @property
    def needs_no_query(self) -> bool:
        """Whether there is advice in every state before anything is asked."""
        return self._is_used and self._unasked is not None

    def what_is_asked(self, n_states: int) -> str:
        """
        Say what a query asks for.

        :param n_states: Number of states that it has
        :return: In words
        """
        if not self.advises_by_rules:
            return f"about {count(n_states, 'state')}"
        n_followed = self.n_followed
        return f"for a correction of the rules, after {count(n_followed, 'episode')}" if n_followed else "for rules"

    @property
    def is_followed(self) -> bool:
        """Whether some episodes follow standing advice to the end, or will, and others are the agent's own."""
        roll_ins = self.roll_ins
        return 0 < roll_ins.share < 1 and roll_ins.max_steps != 0 and self._brings_standing

    @property
    def _brings_standing(self) -> bool:
        return self.can_be_corrected or optional.advises_unasked(self._advisor)

    @property
    def begins_all_episodes(self) -> bool:
        """Whether no episode will be the agent's own."""
        return self.roll_ins.share == 1 and self.roll_ins.max_steps is None and self._brings_standing

    @property
    def is_followed_too_seldom(self) -> bool:
        """Whether the usual share of whole episodes will not have told at the cutoff how well the advice does."""
        return self._hold and self.is_followed and self.roll_ins.n_whole(self._model.shaping_steps) < ENOUGH

    @property
    def is_to_be_told(self) -> bool:
        """Whether somebody waits to be told how good the advice is."""
        record = self.record
        if record is None:
            return False
        is_wanted = self.waits_for_record() and not record.is_known
        return is_wanted or (self.waits_for_episodes() and self.awaits_episodes)

    def read(self, text: str) -> Rules:
        """
        Read rules that were written down.

        :param text: Their text
        :return: The rules
        :raises ArgumentError: if they are not about this environment
        """
        briefing = self._briefing
        try:
            rules = Rules.parse(text, briefing.sheet, briefing.observation_space, briefing.action_space)
            if rules.rejected:
                raise ArgumentError(f"{rules.rejected[0]}.")
        except ArgumentError as error:
            raise ArgumentError(
                f"The model was saved with rules that stand, and they cannot be read here: {error} Give the "
                "environment the task sheet that it was trained with (AdvisorCallback(sheet=...)), or set "
                "model.advice_progress = [] to begin without them."
            ) from None
        return rules

    def stand(self, advice: StandingAdvice | None, query: int | None = None) -> None:
        """
        Have other advice stand from now on. What was said of visited states before is guidance no longer.

        :param advice: The advice; ``None`` leaves what stands
        :param query: Number of the query that brought it, ``None`` for none
        """
        if advice is None or advice == self.standing.advice:
            return
        # One that neither labels nor is followed has only what it was asked, beside another whose labels these may be.
        has_labels = self._is_used or self.can_be_corrected
        if self.standing.advice is not None or (has_labels and self._has_labels_of_others(advice)):
            self._model.guidance_buffer.remove_labels()
        self.roll_ins.wait()
        self.standing.replace(advice)
        self.record = TrackRecord(advice, self.record, query)
        if isinstance(advice, Rules):
            self._progress["rules"] = advice.text
        if has_labels:
            self._model.guidance_buffer.labels_of = _text(advice)
        self._keep_record()

    def _has_labels_of_others(self, advice: StandingAdvice) -> bool:
        """Whether the guidance has what other rules said, which another callback had, perhaps in another run."""
        return self._model.guidance_buffer.labels_of not in (None, _text(advice))

    def _keep_record(self) -> None:
        if self.record is not None:
            self._progress["record"] = self.record.save()

    def begin(self, present: list[Observation]) -> None:
        """
        Begin a ``learn()``, whose environments may be anywhere in their episodes.

        :param present: What the advisor reads of each environment's state
        :raises ArgumentError: if another callback's advice is to be labels and roll-ins as well
        """
        if self._model.roll_ins and (self._is_used or self.can_be_corrected):
            raise ArgumentError(
                "Two AdvisorCallbacks have advice that stands in every state, and an episode can follow only one. Ask "
                'the other model for actions (form="actions"); of an advisor that is no model, have roll_in=0 and '
                "label_freq=0."
            )
        self.standing.decide_anew()
        goes_on = self.standing.is_at(present)
        if not goes_on:
            self.standing.look_away()
            self.standing.visit(present, np.ones(len(present), bool))
        self.roll_ins.begin(len(present), goes_on, self._model.begins_midway)
        if self._is_used or self.can_be_corrected:
            self._model.roll_ins.append(self.roll_ins.actions)

    def step(
        self,
        seen: Sequence[Observation],
        present: list[Observation],
        dones: np.ndarray,
        infos: Sequence[dict[str, Any]],
    ) -> None:
        """
        Do what is due after a step.

        :param seen: The policy's original observations, one for each environment
        :param present: What the advisor reads of them, not to be changed afterwards
        :param dones: Whether an episode ended
        :param infos: What the environments said of it
        """
        self.standing.visit(present, dones)
        followed = self.roll_ins.note(dones, infos)
        if dones.any():
            self.standing.end_episode()
            self._look_ahead()
        if self.record is not None and followed:
            for episode in followed:
                self.record.add(episode)
            self._keep_record()
            if self.record.is_worse_than_before:
                self._put_back(self.record)
        if dones.any():
            self._progress["own"] = list(self.roll_ins.own)
        model = self._model
        if model.num_timesteps < model.cutoff or self.held_share > 0:
            self.labels.add(seen, model.num_timesteps)
        self._keep_counts()

    def _keep_counts(self) -> None:
        roll_ins = self.roll_ins
        self._progress["counts"] = [roll_ins.n_executed, roll_ins.n_steps, self.labels.n_labels, self.n_held]

    def _look_ahead(self) -> None:
        """Say it once, as soon as an episode ended, if nobody will know at the cutoff how well the advice does."""
        model, horizon = self._model, self.roll_ins.horizon
        if self._has_looked_ahead or horizon is None or self.record is None or self.record.is_known:
            return
        n_whole = self.roll_ins.n_whole(model.shaping_steps, WHOLE_WHILE_UNKNOWN)
        if self.is_followed_too_seldom and n_whole < ENOUGH and model.num_timesteps < model.cutoff:
            self._has_looked_ahead = True
            explain.followed_too_seldom(n_whole, horizon, model.cutoff)

    def hold(self, until_success: UntilSuccess) -> None:
        """
        Have the guidance count after the cutoff, as far as the agent falls short of the advice.

        :param until_success: Argument of :class:`~sb3_varl.AdvisorCallback`
        """
        self.held_share = missing_success(until_success, self.measure, self.roll_ins.own)
        self._model.held_share = self.held_share
        self.n_held += len(self.standing.present) * (self.held_share > 0)
        self._keep_counts()

    def _put_back(self, worse: TrackRecord) -> None:
        better = worse.put_back()
        logger.warning(
            "Step %d: the revised advice succeeds in %.0f%% of the episodes in which it is followed, and what stood "
            "before in %.0f%%, which stands again.",
            self._model.num_timesteps,
            100 * worse.success,
            100 * better.success,
        )
        if isinstance(better.advice, Rules) and worse.query is not None:
            self.on_put_back(worse.query, better.advice.text)
        self._go_back_to(better)

    def stand_again(self, text: str) -> None:
        """
        Put back older rules, as a run did that this one goes on with.

        :param text: Their text
        """
        record, rules = self.record, self.read(text)
        before = None if record is None else record.before
        is_before = record is not None and before is not None and before.advice == rules
        self._go_back_to(record.put_back() if record is not None and is_before else TrackRecord(rules))

    def _go_back_to(self, better: TrackRecord) -> None:
        self.stand(better.advice)
        self.record = better
        self._keep_record()

    @property
    def stands_by_itself(self) -> bool:
        """Whether there is advice in every state that no query is needed for."""
        return self.stands and not self.can_be_corrected

    @property
    def stands(self) -> bool:
        """Whether there is advice in every state."""
        return self.standing.advice is not None

    @property
    def awaits_episodes(self) -> bool:
        """Whether there is nothing yet to correct the advice by, and there will be."""
        record = self.record if self.can_be_corrected else None
        if record is None or record.is_good_enough or not self.roll_ins.can_execute:
            return False
        return not record.can_be_shown

    @property
    def n_followed(self) -> int:
        """Number of episodes by which the advice can be corrected."""
        return 0 if self.record is None else self.record.n_shown

    def let_go(self) -> None:
        """Have the guidance count no longer after the cutoff."""
        if self.held_share > 0:
            self.held_share = self._model.held_share = 0.0

    @property
    def holds(self) -> bool:
        """Whether guidance is to count after the cutoff as far as it has to."""
        return self._hold and self.is_followed and self.record is not None

    @property
    def n_told(self) -> int:
        """Number of episodes that followed the advice and told whether they succeeded."""
        return 0 if self.measure is None else self.measure.n_episodes

    @property
    def measure(self) -> TrackRecord | None:
        """The record that says how well the advice does; ``None`` if none stands."""
        return None if self.record is None else self.record.better_known

    @property
    def needs_no_correction(self) -> bool:
        """Whether the advice succeeds where it is followed."""
        return self.can_be_corrected and self.record is not None and self.record.is_good_enough

    @property
    def is_unseen(self) -> bool:
        """Whether the advice stands, and no episode followed it to the end, or will."""
        return self.can_be_corrected and self.stands and not self.roll_ins.can_execute and not self.n_followed

    @property
    def misses_a_correction(self) -> bool:
        """Whether the advice stands, and a model could have made it better."""
        return self.can_be_corrected and self.stands and not self.needs_no_correction

    def followed(self) -> Followed | None:
        """
        Put together what a model is shown that is to correct the advice.

        :return: What became of the advice, or ``None`` if it was not followed yet
        """
        record = self.record if self.can_be_corrected else None
        return None if record is None else record.followed()

    def figures(self) -> dict[str, float]:
        """
        Put together what is logged.

        :return: Numbers by their keys
        """
        counted = {"advice/labels": self.labels.n_labels, "advice/held": self.n_held}
        figures: dict[str, float] = {name: n for name, n in counted.items() if n}
        if self.record is not None and self.record.n_episodes:
            figures["advice/success_all_the_way"] = self.record.success
        return {**figures, **self.standing.figures(), **self.roll_ins.figures()}


def _text(advice: StandingAdvice) -> str:
    """What tells rules from others, and from all else."""
    return advice.text if isinstance(advice, Rules) else ""
