"""A run's queries: when they are put, what is put again where a run was broken off, and where the answers go."""

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence

import numpy as np
from stable_baselines3.common.type_aliases import TrainFrequencyUnit

from sb3_varl.advice.history import LoggedQuery, read_queries
from sb3_varl.advice.log import FILE_NAME
from sb3_varl.advice.optional import name_of
from sb3_varl.advice.types import AdviceQuery, Advisor, AdvisorError, Briefing, Usage
from sb3_varl.saving import held_signals
from sb3_varl.training import explain
from sb3_varl.training.ledger import Ledger
from sb3_varl.training.log_folder import warn_of_missing_log
from sb3_varl.training.model import GuidedModel
from sb3_varl.training.query_queue import Outcome, QueryQueue
from sb3_varl.training.resume import Recovered, check_environment, recover
from sb3_varl.training.schedule import Schedule
from sb3_varl.training.state_collector import StateCollector
from sb3_varl.training.teacher import Teacher
from sb3_varl.training.tensorboard import show_in_tensorboard
from sb3_varl.wording import count

logger = logging.getLogger(__name__)


class Queries:
    """
    The queries of one run. What is answered becomes guidance; standing advice goes to the teacher.

    :param model: The model that is advised
    :param advisor: Who is asked
    :param briefing: What stays the same over all queries
    :param schedule: All queries of the run, asked ones included
    :param window: Number of the most recent transitions that the states of a query are drawn from
    :param states: Collects them
    :param queue: Puts the queries to the advisor
    :param ledger: What the run has asked, got and spent
    :param teacher: What becomes of standing advice
    :param verbose: 1 prints a line for each query
    :param asks_anew: Whether to ask for other rules even where nobody sees what becomes of those that stand
    """

    def __init__(
        self,
        *,
        model: GuidedModel,
        advisor: Advisor,
        briefing: Briefing,
        schedule: Schedule,
        window: int,
        states: StateCollector,
        queue: QueryQueue,
        ledger: Ledger,
        teacher: Teacher,
        verbose: int,
        asks_anew: bool,
    ) -> None:
        self.n_asked = 0
        self._model = model
        self._advisor = advisor
        self._briefing = briefing
        self._n_queries = len(schedule)
        self._schedule = schedule.without_first(ledger.n_answered)
        self._window = window
        self._states = states
        self._queue = queue
        self._ledger = ledger
        self._teacher = teacher
        self._verbose = verbose
        self._asks_anew = asks_anew
        self._is_collecting = False
        # One that was broken off, and is asked again once there is something to show.
        self._open_correction: tuple[AdviceQuery, Recovered] | None = None
        # What is said once.
        self._told_of_unasked = self._told_why_nothing = self._told_of_no_advice = False

    @property
    def any_to_come(self) -> bool:
        """Whether there are queries that were not put yet."""
        return len(self._schedule) > 0

    @property
    def want_episodes(self) -> bool:
        """Whether any are to come, or to be asked again, that may show what became of the advice."""
        return self.any_to_come or self._open_correction is not None

    @property
    def _now(self) -> int:
        return self._model.num_timesteps

    @property
    def _is_past_cutoff(self) -> bool:
        return self._now >= self._model.cutoff

    @property
    def _waits_for_an_answer(self) -> bool:
        """Whether what is still to come would be corrected unseen."""
        is_any_open = len(self._queue.indices) > 0 or self._open_correction is not None
        return self._teacher.can_be_corrected and is_any_open

    @property
    def _lacks_a_reason(self) -> bool:
        """Whether an answer would replace rules by others that know nothing more."""
        return self._teacher.is_unseen and not self._asks_anew

    # ---- The start of learn()

    def catch_up(self, briefing: Briefing, window: int, verbose: int) -> None:
        """
        Go on in the same run, perhaps in the middle of a window; another may have gone on with its log meanwhile.

        :param briefing: What stays the same from now on
        :param window: Number of the most recent transitions that the states of a query are drawn from
        :param verbose: 1 prints a line for each query
        :raises ValueError: if the log is of another task or environment
        """
        self._briefing, self._window, self._verbose = briefing, window, verbose
        if self._queue.log is not None:
            changed = self._queue.log.claim()
            self._ledger.ask(self._queue.forget(changed), sign=-1)
            self.recover()

    def recover(self) -> None:
        """
        Take from the log what neither the model nor the queue has, so that nothing is asked twice.

        :raises ValueError: if the log is of another task or environment
        """
        if self._queue.log is None:
            return
        self._open_correction = None
        folder, in_queue = self._queue.log.path, self._queue.indices
        is_there = (folder / FILE_NAME).exists()
        if not is_there and self._ledger.n_answered:
            warn_of_missing_log(self._ledger.progress)
        logged = [query for query in read_queries(folder) if not query.altered] if is_there else []
        unknown = [query for query in logged if query.index not in in_queue]
        for known in unknown[:1]:
            check_environment(known, self._briefing)
        recovered = recover(unknown, self._ledger.progress, self._briefing)
        if not logged:
            return
        spent = sum((query.usage for query in logged), Usage()) - self._queue.in_flight
        self._queue.spent = spent.at_least(self._queue.spent)
        n_asked = max(self._ledger.n_answered, *(1 + query.index for query in logged))
        if n_asked > self._schedule.index:
            self._schedule = self._schedule.without_first(n_asked - self._schedule.index)
            self._drop_states()
        if recovered and self._verbose >= 1:
            queries = count(len(recovered), "query", "queries")
            print(f"The model does not have, or not all of, {queries} of the advice log {folder}.")
        for known in logged:
            self._stand_again(known)
        if self._teacher.can_be_corrected:
            # What was answered goes first, and then the latest of what was not: one answer is enough to stand.
            recovered.sort(key=lambda part: -part.logged.index if part.open else -math.inf)
        for part in recovered:
            self._take_up(part, is_latest=part.logged is logged[-1])

    def _take_up(self, part: Recovered, is_latest: bool) -> None:
        """Accept what was answered of a query, and ask again about the rest, unless it is too late for that."""
        assert self._queue.log is not None
        teacher = self._teacher
        is_overtaken = teacher.can_be_corrected and (teacher.stands or len(self._queue.indices) > 0)
        is_over = self._is_past_cutoff or (is_overtaken and not is_latest)
        query = part.logged.to_query(self._briefing, frames=len(part.open) > 0)
        if part.is_new:
            self._ledger.ask([query])
        outcome = part.outcome(query, is_over)
        if part.is_new or outcome.states:
            self._accept(outcome)
        self._stand_again(part.logged)
        if part.logged.advice is None and not part.open:
            self._queue.log.write_advice(query, part.known, part.logged.latency)  # a crash came in between
        if part.open and not is_over:
            if is_overtaken:
                self._open_correction = query, part
            else:
                self._queue.ask_again(query, part.logged, part.known, part.open)

    def _stand_again(self, logged: LoggedQuery) -> None:
        """Put back older rules if the log says that those of a query, which stand, did worse."""
        record = self._teacher.record
        if logged.put_back is not None and record is not None and record.query == logged.index:
            self._teacher.stand_again(logged.put_back)

    def begin(self, is_broken_off: Callable[[], bool]) -> None:
        """
        Ask from now on, and say before training what the run will not come to ask, and why.

        :param is_broken_off: Tells whether training was broken off
        """
        self._queue.go_on(is_broken_off)
        model, now = self._model, self._now
        if self._is_past_cutoff:
            self._schedule = self._schedule.without_first(len(self._schedule))
        matters = not self._teacher.stands_by_itself
        if not self._is_collecting:
            self._schedule = self._schedule.postponed(now)
        self._schedule, late = self._schedule.until(model.cutoff)
        if late and matters:
            explain.after_cutoff(late, self._n_queries, model.cutoff, now)
        frequency, n_envs = model.train_freq, self._schedule.n_envs
        n_steps = n_envs * (frequency.frequency if frequency.unit == TrainFrequencyUnit.STEP else 1)
        last_step = now + n_steps * math.ceil((model._total_timesteps - now) / n_steps)
        beyond = self._schedule.after(last_step)
        if beyond and matters and not self._told_of_unasked:
            explain.beyond_end(beyond, self._n_queries, last_step)
            self._told_of_unasked = True

    # ---- Each step

    def ask_what_is_due(self) -> None:
        """Put a query if it is time, or drop what it is too late for."""
        if self.any_to_come and self._is_past_cutoff:
            self._drop_late()
        if self._open_correction is not None:
            self._ask_again(*self._open_correction)
        if self._is_collecting and self._schedule.is_due(self._now):
            self._ask()

    def _drop_late(self) -> None:
        model, teacher, n_queries = self._model, self._teacher, len(self._schedule)
        if model.shaping_ended is None and teacher.misses_a_correction and not self._queue.indices:
            explain.without_episodes(n_queries, teacher.n_followed, model.cutoff)
        elif model.shaping_ended is None and self._waits_for_an_answer:
            explain.not_answered(n_queries, model.cutoff)
        self._schedule = self._schedule.without_first(n_queries)
        self._drop_states()

    def _drop_states(self) -> None:
        """Those of the next query are to be collected from the beginning."""
        self._states.take()
        self._is_collecting = False

    def _ask_again(self, query: AdviceQuery, part: Recovered) -> None:
        is_over = self._is_past_cutoff or self._teacher.needs_no_correction or self._lacks_a_reason
        if not is_over and (self._teacher.awaits_episodes or len(self._queue.indices)):
            return
        self._open_correction = None
        if not is_over:
            query = dataclasses.replace(query, followed=self._teacher.followed())
            self._queue.ask_again(query, part.logged, part.known, part.open)

    def _ask(self) -> None:
        if self._waits_for_an_answer or self._teacher.awaits_episodes:
            return
        index = self._schedule.index
        # A correction may have waited for its episodes beyond the next one's time.
        self._schedule = self._schedule.without_first().postponed(self._now, with_present=True)
        states, self._is_collecting = self._states.take(), False
        if self._teacher.needs_no_correction:
            logger.info("Query %d is not asked: the rules succeed where they are followed.", index + 1)
            if self._verbose >= 1:
                print(f"Query {index + 1} at step {self._now} is not asked: the rules succeed where they are followed.")
            return
        if self._lacks_a_reason:
            logger.info(
                "Query %d is not asked: no episode follows the rules that stand to its end (roll_in, "
                "max_executed_steps), so that there is nothing to correct them by. To have others, give n_queries.",
                index + 1,
            )
            return
        query = AdviceQuery(index, self._now, states, self._briefing, followed=self._teacher.followed())
        self._note_asked([query])
        self._queue.ask(query)
        if self._verbose >= 1 and not self._teacher.needs_no_query:
            print(f"Query {index + 1} at step {self._now}: asking {self._teacher.what_is_asked(len(states))}.")

    def _note_asked(self, queries: Sequence[AdviceQuery], sign: int = 1) -> None:
        self.n_asked += sign * len(queries)
        self._ledger.ask(queries, sign)

    def draw_states(self) -> bool:
        """
        Draw the states of the next query once it is less than a window away.

        :return: Whether present states are among them
        """
        if not self._schedule.is_due(self._now + max(self._window, self._schedule.to_collect)):
            return False
        if not self._is_collecting:
            self._states.draw(range(self._now, self._schedule.next, self._schedule.n_envs))
            self._is_collecting = True
        return self._states.is_drawn(self._now)

    # ---- Answers

    def collect(self, wait: bool, refuse: bool = False) -> None:
        """
        Take in the answers that are there.

        :param wait: Whether to wait for all that is on its way
        :param refuse: Whether to refuse to go on if there will never be any
        :raises AdvisorError: if it refuses
        """
        if self._is_past_cutoff:
            self._give_up(*self._queue.end())
        for outcome in self._queue.outcomes(wait):
            self._accept(outcome, of_queue=True)
            if refuse and not self._ledger.was_answered:
                self._refuse_to_go_on(outcome)

    def _give_up(self, unasked: Sequence[AdviceQuery], begun: Sequence[Outcome]) -> None:
        self._note_asked(unasked, sign=-1)
        if (unasked or begun) and self._model.shaping_ended is None:
            explain.not_answered(len(unasked) + len(begun), self._model.cutoff)
        for outcome in begun:
            self._accept(outcome, explain_nothing=False)

    def _accept(self, outcome: Outcome, of_queue: bool = False, explain_nothing: bool = True) -> None:
        """Take in what came back, and count it; if the queue handed it over, the queue is done with it."""
        model, query, standing = self._model, outcome.query, outcome.advice.standing
        scaled = [model.policy.scale_action(outcome.advice.actions[i]) for i in outcome.accepted]
        observations = [query.states[i].guided for i in outcome.accepted]
        is_late = self._is_past_cutoff
        with held_signals():  # lest Ctrl-C leave answers in the buffer that the model does not know to have
            # After the cutoff nobody would follow it, to see how well it does.
            if not is_late or not self._teacher.stands:
                self._teacher.stand(standing, query.index)
            model.guidance_buffer.add_all(
                observations, [np.clip(a, -1, 1) for a in scaled], self._now, labels=standing is not None
            )
            self._ledger.note(outcome)
            if of_queue:
                self._queue.close()
            self._ledger.accept(outcome, is_late, self._queue.open_queries)
        too_late = is_late and model.shaping_ended is None
        explain.report(outcome, self._now, model.cutoff if too_late else None)
        if explain_nothing and not self._told_why_nothing:
            self._told_why_nothing = explain.nothing(outcome)
        if self._verbose >= 1:
            print(explain.summary(outcome))
        show_in_tensorboard(model.logger.output_formats, query, outcome.advice, self._advisor)

    def _refuse_to_go_on(self, outcome: Outcome) -> None:
        """A day of training without advice costs more than a run that ends at once."""
        final = next((failure for failure in outcome.failures if failure.permanent), None)
        if final is not None:
            raise AdvisorError(
                f"{name_of(self._advisor)} cannot be asked, and trying again would not help: {final.text}. Training "
                f"ends at step {self._now}, with nothing answered yet. Mend the key, the model's name or its address, "
                "and start again."
            )

    def log_put_back(self, query: int, rules: str) -> None:
        """
        Write down that older rules stand again.

        :param query: Number of the query whose rules did worse
        :param rules: The text of those that stand again
        """
        if self._queue.log is not None:
            self._queue.log.write_put_back(query, rules)

    # ---- The end of learn()

    def end(self) -> None:
        """Wait for what the advisor was told of when training ended, unless it comes too late, and for nothing else."""
        if not self._is_past_cutoff:
            self._put_off(self._queue.drop_unasked())
            if self._waits_for_an_answer and self._schedule.is_due(self._now) and not self._told_of_unasked:
                self._told_of_unasked = True
                explain.put_off(sum(trigger <= self._now for trigger in self._schedule.triggers))
        self.collect(wait=not self._is_past_cutoff)

    def _put_off(self, unasked: Sequence[AdviceQuery]) -> None:
        """Nothing is sent, and waited for, when training has ended; the queries are due if it goes on."""
        if not unasked:
            return
        self._note_asked(unasked, sign=-1)
        self._schedule = self._schedule.with_again(len(unasked), self._now)
        self._drop_states()
        self._told_of_unasked = True
        explain.put_off(len(unasked))

    def tell_of_unasked(self) -> None:
        """Say after training which queries it did not come to, and why."""
        if not self.any_to_come or self._told_of_unasked or self._teacher.stands_by_itself:
            return
        self._told_of_unasked = True
        if self._teacher.awaits_episodes and self._schedule.is_due(self._now):
            explain.without_episodes(len(self._schedule), self._teacher.n_followed)
        else:
            explain.not_reached(self._schedule.triggers, self._n_queries, self._now)

    def tell_of_no_advice(self) -> None:
        """Say after training, once, that all that was asked brought nothing."""
        if self._told_of_no_advice or self._model.guidance_buffer.size() or not self._ledger.totals["queries"]:
            return
        self._told_of_no_advice = True
        explain.no_advice(self._ledger.totals)

    def break_off(self) -> None:
        """Have the advisor stop, if it can, and use what is there. Its query stays open."""
        self._queue.break_off()
        self.collect(wait=False)

    def give_up_late(self) -> None:
        """After the cutoff, forget also what is on its way; it may still arrive in the log."""
        if self._is_past_cutoff:
            self._give_up(*self._queue.end(everything=True))
