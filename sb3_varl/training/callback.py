"""When to ask the advisor, about which states, and where its answers go."""

import dataclasses
import logging
import math
import os
import pathlib
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import TrainFrequencyUnit

from sb3_varl.advice.history import read_queries
from sb3_varl.advice.log import AdviceLog
from sb3_varl.advice.sheets import load_task_sheet, make_briefing
from sb3_varl.advice.types import Advice, AdviceQuery, AdviceWarning, Advisor, TaskSheet, Usage
from sb3_varl.advisors.by_name import EXAMPLE_MODEL, make_advisor, task_of
from sb3_varl.training.query_queue import Consultation, Outcome
from sb3_varl.training.resume import check_environment, log_folder, progress_of
from sb3_varl.training.state_collector import StateCollector
from sb3_varl.training.tensorboard import show_in_tensorboard

logger = logging.getLogger(__name__)

# Those that until_success looks at.
_N_EPISODES = 20
# Reasons of rejections that are counted each by itself; more of them would be so many keys of the logger.
_MAX_REASONS = 20
# What to do about answers that cannot be used, by the reason.
_HINTS = {
    "out_of_bounds": " Let it keep to the bounds, {low} to {high}; FunctionAdvisor(f, clip=True) clips what f returns.",
    "wrong_shape": " Let it return {n} numbers for a state.",
    "not_numbers": " Let it return {n} numbers for a state; of an SB3 policy, policy.predict(observation)[0].",
}

# What cannot be copied, such as threads, or belongs to the run.
_OF_A_RUN = frozenset(
    {"model", "parent", "locals", "globals", "_briefing", "_progress", "_consultation", "_states", "_model_of_run"}
)

_NOT_TOLD = (
    "AdvisorCallback is inside a callback_on_new_best, where it is not told of the steps that it has to see. "
    "Put it beside the EvalCallback, in a list; first_query and query_freq say when it asks."
)


class AdvisorCallback(BaseCallback):
    """
    Asks an advisor a few times during training and puts its answers into the model's guidance buffer.

    A query is about ``states_per_query`` states, drawn from the last ``window`` transitions before its trigger step.
    They are drawn before they are reached, so that only their frames are rendered. The advisor works in the background
    while training goes on. Whatever it does, training goes on: a query that fails costs its own answers only.

    The advice log is the run's memory. A run that is resumed, or started anew with the same ``log_path``, takes from it
    what was answered since the model was saved, completes the query that was interrupted and asks those that are due.

    Logs under ``advice/``, as totals of the run: ``queries``, ``failed_queries``, ``requests``, ``failed_requests``,
    ``states`` (asked about), ``accepted``, ``abstained``, ``rejected_<reason>``, ``late`` (accepted after the cutoff),
    ``prompt_tokens``, ``completion_tokens``, ``cost`` (US dollars) and ``seconds`` (spent on asking);
    ``latency`` is the last query's, in seconds. TensorBoard also gets, of each query, ``states``, a picture of the
    frames with the executed and the suggested actions, and ``prompt``, the text that a model was sent.

    It may stand alone, in a list, or inside an event callback such as ``EveryNTimesteps``: whichever steps its parent
    passes on, it sees all of them and keeps to its own schedule.

    :param advisor: An advisor, or its name: a litellm model string such as ``"openai/gpt-6.1-sol"``, or another that
        :func:`~sb3_varl.advisors.make_advisor` knows
    :param task: The task in words. ``None`` for what the environment's ``task_sheet`` says, if it has one
    :param sheet: What there is to know of the environment, as a :class:`~sb3_varl.TaskSheet` or a YAML file of one
        (see :mod:`sb3_varl.advice.sheets`). ``None`` for the environment's ``task_sheet``, if it has one
    :param advisor_kwargs: Further arguments for an advisor that is given by its name
    :param n_queries: Number of queries in the run
    :param first_query: Environment steps before the first query.
        ``None`` for as early as there are enough states, once the model has started to learn
    :param query_freq: Environment steps between queries.
        ``None`` spreads them evenly over the first half of the model's ``shaping_steps``
    :param states_per_query: Number of states in each query
    :param window: Number of the most recent transitions that the states are drawn from
    :param until_success: Share of the last 20 training episodes. Once that many succeed, the advice ends: no more is
        asked, and the guidance counts no longer (``model.end_shaping()``). So queries may be many and the cutoff late,
        for the runs that need it. Takes ``info["is_success"]``, and fewer episodes if the model's ``stats_window_size``
        is smaller. ``None`` goes on to the end
    :param frames: Whether to show pictures of the states. Needs ``render_mode="rgb_array"``; an environment without it
        whose observations are images is shown by these
    :param blocking: Whether training waits for each answer. Slower, but the run can be repeated exactly,
        and no answer comes after the cutoff
    :param log_path: Folder of the advice log, one for each run. ``None`` for the log that a resumed model had, else
        ``advice`` in the folder of the run's other logs or, if it has none, ``advice/<time>`` in the working directory.
        ``False`` keeps no log
    :param verbose: 1 prints a line for each query
    :raises OSError: if ``sheet`` is a file that cannot be read
    :raises TypeError: if ``advisor`` is neither a string nor has a method ``advise``, or does not take its arguments
    :raises ValueError: if a number is out of its range, or when training starts: if a query would come after the
        model's cutoff or finds too few states, or the advisor has no task or finds another reason not to start
    """

    # A VARL or one of its sisters; anything with a guidance buffer will do.
    model: Any

    def __init__(
        self,
        advisor: Advisor | str,
        task: str | None = None,
        *,
        sheet: TaskSheet | str | os.PathLike[str] | None = None,
        advisor_kwargs: dict[str, Any] | None = None,
        n_queries: int = 6,
        first_query: int | None = None,
        query_freq: int | None = None,
        states_per_query: int = 32,
        window: int = 1000,
        until_success: float | None = None,
        frames: bool = True,
        blocking: bool = False,
        log_path: str | os.PathLike[str] | Literal[False] | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        if isinstance(advisor, str):
            advisor = make_advisor(advisor, task, **(advisor_kwargs or {}))
        elif advisor_kwargs is not None:
            raise TypeError(
                f"advisor_kwargs are {advisor_kwargs!r}, but the advisor is no name, it is {advisor!r}. "
                "Give the arguments to its constructor."
            )
        if isinstance(advisor, type) or not isinstance(advisor, Advisor):
            raise TypeError(
                f"advisor is {advisor!r}, expected an object with a method advise(query), a litellm model string "
                f'such as "{EXAMPLE_MODEL}", or FunctionAdvisor(f) for a function f from observation to action.'
            )
        if sheet is not None and not isinstance(sheet, TaskSheet | str | os.PathLike):
            raise TypeError(f"sheet is {sheet!r}, expected a sb3_varl.TaskSheet, a YAML file of one, or None.")
        if task is not None and not (isinstance(task, str) and task.strip()):
            raise ValueError(f"task is {task!r}, expected a sentence such as 'Open the drawer.', or None.")
        for name, value, optional in (
            ("n_queries", n_queries, False),
            ("first_query", first_query, True),
            ("query_freq", query_freq, True),
            ("states_per_query", states_per_query, False),
            ("window", window, False),
        ):
            if value is None and optional:
                continue
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}, expected a positive integer{' or None' * optional}.")
        if states_per_query > window:
            raise ValueError(
                f"states_per_query is {states_per_query}, but the window holds only {window} transitions to draw from. "
                "Make the window larger or ask about fewer states."
            )
        if until_success is not None and (
            isinstance(until_success, bool) or not isinstance(until_success, float | int) or not 0 < until_success <= 1
        ):
            raise ValueError(
                f"until_success is {until_success!r}, expected a share of episodes such as 0.25, at most 1, or None."
            )
        self.advisor = advisor
        self.task = task
        self.sheet = load_task_sheet(sheet) if isinstance(sheet, str | os.PathLike) else sheet
        self.n_queries = n_queries
        self.first_query = first_query
        self.query_freq = query_freq
        self.states_per_query = states_per_query
        self.window = window
        self.until_success = until_success
        self.frames = frames
        self.blocking = blocking
        self.log_path = log_path
        self._forget_run()

    def _forget_run(self) -> None:
        self.n_asked = 0
        self.totals: Counter[str] = Counter()
        self._latency = math.nan
        self._logged: dict[str, float] = {}
        self._consultation = Consultation(self.advisor, None, Usage())
        self._triggers: list[int] = []
        # Among the callbacks of its kind.
        self._place = 0
        self._saw_steps = self._announced = self._explained = False
        # Queries at the end of the schedule that would come after the cutoff.
        self._n_late = 0
        self._states: StateCollector
        self._collecting = False
        self._model_of_run: Any = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy is for a run of its own, which has yet to begin.
        return {name: value for name, value in self.__dict__.items() if name not in _OF_A_RUN}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        super().__init__(self.verbose)
        self._forget_run()

    @property
    def usage(self) -> Usage:
        """What the run has spent on advice."""
        return self._consultation.spent

    def _init_callback(self) -> None:
        # Asked of the class, because a SAC that was loaded from VARL's zip has VARL's attributes.
        if not hasattr(type(self.model), "shaping_active"):
            raise TypeError(
                f"AdvisorCallback fills the guidance buffer of VARL, but the model is {type(self.model).__name__}, "
                "which has none. Use sb3_varl.VARL, a drop-in for SAC."
            )
        if self.parent is not None and getattr(self.parent, "callback_on_new_best", None) is self:
            raise TypeError(_NOT_TOLD)
        self._place = len(self.model.after_learning)
        self.model.after_learning.append(self._after_learning)
        self._saw_steps = False
        self._briefing = make_briefing(self.training_env, task_of(self.advisor, self.task), self.sheet, self.frames)
        if hasattr(self.advisor, "prepare"):
            self.advisor.prepare(self._briefing)
        model, steps = self.model, self.model.num_timesteps
        if 0 < steps == self.num_timesteps and self._model_of_run is model:
            self._consultation.go_on(lambda: model.broken_off)  # the same run, perhaps in the middle of a window
        else:
            self._begin_run()
        if steps >= model.cutoff:
            self._triggers = []
            remedy = (
                "Load it with a higher shaping_steps if it should be."
                if model.shaping_ended is None
                else "The agent succeeded by itself by then; set model.shaping_ended = None if it should be."
            )
            warnings.warn(
                f"The model has {steps} steps behind it and ignores guidance from step {model.cutoff} on: "
                f"the advisor will not be asked. {remedy}",
                AdviceWarning,
                stacklevel=2,
            )
        self._plan()
        if self._triggers and self.frames:
            self._states.try_frames(self.training_env)

    def _begin_run(self) -> None:
        self._model_of_run = None
        self.num_timesteps = self.model.num_timesteps
        schedule = self._schedule()
        log = self._make_log()
        self._progress = progress_of(self.model, self._place, log)
        self.n_asked, self.totals = 0, Counter(self._progress.get("totals", {}))
        self._latency, self._logged, self._collecting = math.nan, {}, False
        self._announced = self._explained = False
        self._n_late = 0
        # A generator of its own, so that asking draws nothing from the run's random numbers.
        self._states = StateCollector(self.states_per_query, self.frames, np.random.default_rng(self.model.seed))
        self._consultation = Consultation(self.advisor, log, Usage(**self._progress.get("usage", {})))
        model = self.model
        self._consultation.go_on(lambda: model.broken_off)
        self._triggers = schedule[self._progress.get("answered", 0) :]
        if log is not None:
            self._recover(log.path, schedule)
        self._model_of_run = self.model

    def _make_log(self) -> AdviceLog | None:
        if self.log_path is False:
            return None
        try:
            return AdviceLog(log_folder(self.model, self._place, self.log_path))
        except OSError as error:
            raise type(error)(
                error.errno,
                f"The advice log cannot be written ({error}). Give a folder that can be written with "
                "AdvisorCallback(log_path=...), or log_path=False for none",
            ) from None

    def _recover(self, folder: pathlib.Path, schedule: list[int]) -> None:
        """Take from the log what the model does not have, so that nothing is asked twice."""
        logged = [query for query in read_queries(folder) if not query.altered]
        missing = [query for query in logged if query.index >= self._progress.get("answered", 0)]
        for query in missing:
            check_environment(query, self._briefing)
        if logged and self.num_timesteps == 0:
            warnings.warn(
                f"The advice log {folder} holds {len(logged)} queries. Their answers are used, and they are not asked "
                "again. For a run with advice of its own, give another log_path.",
                AdviceWarning,
                stacklevel=2,
            )
        if not missing:
            return
        self._triggers = schedule[1 + max(query.index for query in missing) :]
        if self.verbose >= 1:
            print(f"{len(missing)} queries are in the advice log {folder} and not in the model: taken from there.")
        for query in missing:
            asked = query.to_query(self._briefing, frames=query.advice is None)
            self._count(queries=1, states=query.n_states)
            if query.advice is None and self.num_timesteps >= self.model.cutoff:
                self._consultation.spent += query.usage
                continue
            self._consultation.ask(asked, query)
        self._collect(wait=False)

    def _schedule(self) -> list[int]:
        """Trigger steps of the whole run, checked against the model's cutoff."""
        cutoff: int = self.model.shaping_steps
        at_least = self._steps_to_collect()
        earliest = self.training_env.num_envs + at_least
        first = max(self.model.learning_starts, earliest) if self.first_query is None else self.first_query
        freq = self.query_freq or max(at_least, (cutoff // 2 - first) // max(1, self.n_queries - 1))
        triggers = [first + i * freq for i in range(self.n_queries)]
        if triggers[-1] >= cutoff > self.model.num_timesteps:
            raise ValueError(
                f"The queries are due at steps {triggers}, but the model ignores guidance from step {cutoff} on "
                f"(shaping_steps). Ask earlier with first_query and query_freq, or raise shaping_steps."
            )
        for name, value, limit in (("first_query", first, earliest), ("query_freq", freq, at_least)):
            if value < limit:
                raise ValueError(
                    f"{name} is {value}, which leaves fewer than the {self.states_per_query} states to draw from that "
                    f"states_per_query asks for. Make it at least {limit}, or ask about fewer states."
                )
        return triggers

    def _plan(self) -> None:
        """Say before training what the run will not come to ask, and why."""
        n_envs, now, end = self.training_env.num_envs, self.num_timesteps, self.model._total_timesteps
        if not self._collecting:
            self._triggers = postponed(self._triggers, now, n_envs, self._steps_to_collect())
        in_time = [trigger for trigger in self._triggers if trigger < self.model.cutoff]
        if len(in_time) < len(self._triggers):
            warnings.warn(
                f"{len(self._triggers) - len(in_time)} of {self.n_queries} queries will not be asked: the model "
                f"ignores guidance from step {self.model.cutoff} on, training is at step {now}, and they would come at "
                f"{self._triggers[len(in_time) :]}.",
                AdviceWarning,
                stacklevel=2,
            )
            self._n_late += len(self._triggers) - len(in_time)
            self._triggers = in_time
        train_freq = self.model.train_freq
        n_steps = n_envs * (train_freq.frequency if train_freq.unit == TrainFrequencyUnit.STEP else 1)
        last_step = now + n_steps * math.ceil((end - now) / n_steps)
        beyond = [trigger for trigger in self._triggers if trigger > last_step]
        if beyond and not self._announced:
            warnings.warn(
                f"{len(beyond)} of {self.n_queries} queries will not be asked: they are due at {beyond}, and training "
                f"ends at step {last_step}. Train longer, or ask earlier with first_query and query_freq.",
                AdviceWarning,
                stacklevel=2,
            )
            self._announced = True

    def _steps_to_collect(self) -> int:
        """Environment steps from the first state of a query to the query itself, at the least."""
        n_envs = self.training_env.num_envs
        return n_envs * math.ceil(self.states_per_query / n_envs)

    def update_locals(self, locals_: dict[str, Any]) -> None:
        """
        Do what is due after a step.

        SB3 calls this at each step even where a parent passes on ``on_step()`` at some of them only, and for all
        callbacks before ``on_step()`` of the first, so that a checkpoint of a trigger step knows of the query.

        :param locals_: Local variables of the rollout
        """
        super().update_locals(locals_)
        self._saw_steps = True
        self.num_timesteps = self.model.num_timesteps
        self._states.complete(self.locals["actions"])
        if self._needs_no_more():
            self._end_advice()
        if self._triggers and self.num_timesteps >= self.model.cutoff:
            self._states.take()
            self._triggers, self._collecting = [], False
        if self._collecting and self.num_timesteps >= self._triggers[0]:
            self._ask()
        self._visit_states()
        self._collect(wait=self.blocking)
        self._record_totals()

    def _on_step(self) -> bool:
        return True

    def _needs_no_more(self) -> bool:
        if self.until_success is None or self.num_timesteps >= self.model.cutoff:
            return False
        successes = self.model.ep_success_buffer
        n_episodes = min(_N_EPISODES, successes.maxlen)
        recent = list(successes)[-n_episodes:]
        return len(recent) == n_episodes and float(np.mean(recent)) >= self.until_success

    def _end_advice(self) -> None:
        self.model.end_shaping()
        if self.verbose >= 1:
            print(f"Step {self.num_timesteps}: the agent succeeds by itself. The advice ends.")

    def _visit_states(self) -> None:
        """Keep the present states if they are among those that the next query is about."""
        if not self._triggers or self.num_timesteps < self._triggers[0] - self.window:
            return
        if not self._collecting:
            self._states.draw(range(self.num_timesteps, self._triggers[0], self.training_env.num_envs))
            self._collecting = True
        if self._states.is_drawn(self.num_timesteps):
            normalize = self.model.get_vec_normalize_env()
            observations = self.locals["new_obs"] if normalize is None else normalize.get_original_obs()
            self._states.visit(self.training_env, self.num_timesteps, observations)

    def _ask(self) -> None:
        self._triggers.pop(0)
        states, self._collecting = self._states.take(), False
        # Counted by the schedule, so that a resumed run goes on with the numbers of the run before.
        index = self.n_queries - self._n_late - len(self._triggers) - 1
        self.n_asked += 1
        self._count(queries=1, states=len(states))
        self._consultation.ask(AdviceQuery(index, self.num_timesteps, states, self._briefing))
        if self.verbose >= 1:
            print(f"Query {index + 1} at step {self.num_timesteps}: asking about {len(states)} states.")

    def _collect(self, wait: bool) -> None:
        """Put the answers that are there into the guidance buffer."""
        if self.num_timesteps >= self.model.cutoff:
            unasked, begun = self._consultation.end()
            self._uncount(unasked)
            if (unasked or begun) and self.model.shaping_ended is None:
                logger.warning(
                    "%d queries were not answered when the cutoff at %d came, and nothing more is asked. Ask earlier, "
                    "or make training wait with blocking=True.",
                    len(unasked) + len(begun),
                    self.model.cutoff,
                )
        for outcome in self._consultation.outcomes(wait):
            self._accept(outcome)

    def _uncount(self, unasked: Sequence[AdviceQuery]) -> None:
        self.n_asked -= len(unasked)
        self._count(queries=-len(unasked), states=-sum(len(query.states) for query in unasked))

    def _accept(self, outcome: Outcome) -> None:
        query, advice = outcome.query, outcome.advice
        rejected_states = {rejection.state for rejection in advice.rejected}
        accepted = [i for i, action in enumerate(advice.actions) if action is not None]
        n_accepted = len(accepted)
        n_abstained = 0 if outcome.error else len(set(range(len(query.states))) - set(accepted) - rejected_states)
        actions = [np.clip(self.model.policy.scale_action(advice.actions[i]), -1, 1) for i in accepted]
        observations = [query.states[i].observation for i in accepted]
        # These three belong together, lest Ctrl-C leave answers in the buffer that the model does not know to have.
        self.model.guidance_buffer.add_all(observations, actions, self.num_timesteps)
        self._progress["answered"] = query.index + 1
        self._consultation.close(outcome)

        self._latency = outcome.latency
        rejected = self._rejections(advice)
        late = n_accepted if self.num_timesteps >= self.model.cutoff else 0
        failed = {"failed_requests": len(advice.failures)} if outcome.error is None else {"failed_queries": 1}
        self._count(accepted=n_accepted, abstained=n_abstained, late=late, **failed, **rejected)
        still_open = self._consultation.open_queries
        asked = Counter(queries=len(still_open), states=sum(len(query.states) for query in still_open))
        self._progress["totals"] = dict(self.totals - asked)
        self._progress["usage"] = dataclasses.asdict(self._consultation.spent)
        self._report(outcome, n_accepted, n_abstained, late)
        show_in_tensorboard(self.logger.output_formats, outcome.query, outcome.advice, self.advisor)

    def _rejections(self, advice: Advice) -> Counter[str]:
        """Somebody's advisor may have a reason of its own for each state, and a logger is not for so many."""
        counts: Counter[str] = Counter()
        names = {name for name in self.totals if name.startswith("rejected_")}
        for rejection in advice.rejected:
            name = f"rejected_{rejection.reason}"
            if len(names) < _MAX_REASONS:
                names.add(name)
            counts[name if name in names else "rejected_other"] += 1
        return counts

    def _report(self, outcome: Outcome, accepted: int, abstained: int, late: int) -> None:
        query, advice = outcome.query, outcome.advice
        name = f"Query {query.index + 1} at step {query.step}"
        if outcome.error is not None:
            n_states = len(query.states)
            logger.warning(
                "%s failed and training goes on with %d of %d answers. %s", name, accepted, n_states, outcome.error
            )
        else:
            for failure in advice.failures:
                logger.warning("%s: %s", name, failure)
        if late and self.model.shaping_ended is None:
            logger.warning(
                "%s: %d answers came at step %d, after the cutoff at %d, and go unused. Ask earlier, raise the model's "
                "shaping_steps, or make training wait with blocking=True.",
                name,
                late,
                self.num_timesteps,
                self.model.cutoff,
            )
        said_why = outcome.error is not None or len(advice.failures) > 0
        if query.states and not accepted and not said_why and not self._explained:
            logger.warning("%s brought no advice: %s", name, self._why_nothing(advice, abstained))
            self._explained = True
        if self.verbose >= 1:
            print(
                f"Query {query.index + 1}: {accepted} answers accepted, {abstained} abstentions, "
                f"{len(advice.rejected)} rejected, after {outcome.latency:.1f} s."
            )

    def _why_nothing(self, advice: Advice, n_abstained: int) -> str:
        """The commonest reason, with an example of it, and what to do about it."""
        reasons = Counter(rejection.reason for rejection in advice.rejected)
        if not reasons or n_abstained > max(reasons.values()):
            return f"the advisor abstained in {n_abstained} states."
        ((reason, n_rejections),) = reasons.most_common(1)
        example = next((r for r in advice.rejected if r.reason == reason and r.example), None)
        text = f"{n_rejections} times {reason.replace('_', ' ')}"
        if example is not None:
            place = f" in state {example.state}" if example.state is not None else ""
            text += f", for instance {example.example}{place}"
        space = self._briefing.action_space
        hint = _HINTS.get(reason, "").format(low=space.low.tolist(), high=space.high.tolist(), n=math.prod(space.shape))
        return f"{text}.{hint}"

    def _count(self, **numbers: int) -> None:
        self.totals.update(numbers)
        figures = {**self.totals, **dataclasses.asdict(self.usage)}
        if not math.isnan(self._latency):
            figures["latency"] = self._latency
        self._logged = {f"advice/{name}": value for name, value in figures.items()}

    def _record_totals(self) -> None:
        """At each step, because the logger forgets what it has written."""
        for name, value in self._logged.items():
            self.logger.record(name, value)

    def _after_learning(self, completed: bool) -> None:
        """Event callbacks do not tell their children of the end, and SB3 tells nobody of Ctrl-C."""
        if completed:
            self.on_training_end()
        else:
            self._consultation.break_off()
            self._collect(wait=False)

    def _put_off(self, unasked: Sequence[AdviceQuery]) -> None:
        """Nothing is sent, and waited for, when training has ended; the queries are due if it goes on."""
        if not unasked:
            return
        self._uncount(unasked)
        self._triggers = [self.num_timesteps] * len(unasked) + self._triggers
        self._states.take()
        self._collecting, self._announced = False, True
        logger.warning(
            "%d queries were waiting for the one before when training ended, and are not asked, unless it goes on with "
            "reset_num_timesteps=False. Ask earlier, or make training wait with blocking=True.",
            len(unasked),
        )

    def _on_training_end(self) -> None:
        is_over = self.num_timesteps >= self.model.cutoff
        if not is_over:
            self._put_off(self._consultation.drop_unasked())
        self._collect(wait=not is_over)
        self._record_totals()
        if not self._saw_steps and self.model.num_timesteps > self.num_timesteps:
            warnings.warn(_NOT_TOLD, AdviceWarning, stacklevel=2)
        elif self._triggers and not self._announced:
            warnings.warn(
                f"{len(self._triggers)} of {self.n_queries} queries were not asked: they are due at {self._triggers}, "
                f"and training ended at step {self.num_timesteps}. Train longer, or ask earlier with first_query and "
                "query_freq.",
                AdviceWarning,
                stacklevel=2,
            )
            self._announced = True
        if self.until_success is not None and self.model.ep_info_buffer and not self.model.ep_success_buffer:
            warnings.warn(
                f"until_success is {self.until_success}, but no episode said whether it succeeded. The environment has "
                'to put "is_success" into the info of an episode\'s last step.',
                AdviceWarning,
                stacklevel=2,
            )


def postponed(triggers: Sequence[int], now: int, n_envs: int, to_collect: int) -> list[int]:
    """
    Tell when queries will be asked. A run that goes on shortly before they are due, or after, collects states first.

    :param triggers: Steps at which they are due, in order
    :param now: The run's environment steps
    :param n_envs: Environment steps between two steps of the training
    :param to_collect: Environment steps that it takes to collect the states of one query
    :return: The steps at which they are asked
    """
    steps, earliest = [], now + n_envs + to_collect
    for trigger in triggers:
        steps.append(max(earliest, now + n_envs * math.ceil((trigger - now) / n_envs)))
        earliest = steps[-1] + to_collect
    return steps
