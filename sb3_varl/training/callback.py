"""The callback that has a model advised: what a run begins with, what is done at each step, and how it ends."""

import os
import warnings
from collections import Counter
from typing import Any, Literal

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from sb3_varl.advice import optional
from sb3_varl.advice.optional import name_of, task_of
from sb3_varl.advice.sheets import load_task_sheet
from sb3_varl.advice.types import AdviceWarning, Advisor, Briefing, Observation, TaskSheet, Usage
from sb3_varl.advisors.by_name import EXAMPLE_MODEL, make_advisor
from sb3_varl.arguments import ArgumentError, check_bool, check_integer, check_number, check_text
from sb3_varl.training import explain
from sb3_varl.training.briefing import make_briefing
from sb3_varl.training.figures import FiguresWriter
from sb3_varl.training.ledger import Ledger
from sb3_varl.training.log_folder import open_log
from sb3_varl.training.model import GuidedModel
from sb3_varl.training.observing import Privileged
from sb3_varl.training.queries import Queries
from sb3_varl.training.query_queue import QueryQueue
from sb3_varl.training.schedule import Schedule
from sb3_varl.training.standing import separate
from sb3_varl.training.state_collector import StateCollector
from sb3_varl.training.teacher import Teacher
from sb3_varl.training.until_success import UntilSuccess, check_until_success, needed_success, succeeds

# What cannot be copied, such as threads, or belongs to the run.
_OF_A_RUN = frozenset(
    {
        *("model", "parent", "locals", "globals", "_model_of_run", "_briefing", "_privileged", "_figures_writer"),
        *("_states", "_queue", "_ledger", "_queries", "_teacher"),
    }
)
# Defaults of n_queries; the second where the answers are rules, and those after the first correct them.
N_QUERIES, N_QUERIES_OF_RULES = 6, 3

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

    The advice log is the run's memory. A run that goes on, be it by another ``learn()`` with the same callback, takes
    from it what was answered meanwhile, asks again about states that were not answered, and asks the queries that are
    due. A new run has a log of its own.

    If a request fails in a way that cannot pass (a wrong key, a model that there is not) before anything was answered,
    training ends with an :class:`~sb3_varl.AdvisorError`; once anything was answered, no failure ends it.

    Logs under ``advice/``, whenever SB3's logger is written out, as totals of the run: ``queries``,
    ``failed_queries``, ``requests``, ``failed_requests``, ``states`` (asked about), ``accepted``, ``abstained``,
    ``rejected_<reason>``, ``late`` (accepted after the cutoff), ``prompt_tokens``, ``completion_tokens``, ``cost`` (US
    dollars) and ``seconds`` (spent on asking); ``latency`` is the last query's, in seconds. With standing advice also
    ``labels``, ``held`` (steps after the cutoff in which guidance counted), ``rule_<number>``, ``no_rule`` and
    ``no_value`` (share of the states in which this rule decided, none did, or an expression had no value),
    ``executed`` (share of the steps that were advice), and, by which part of an episode was advice, ``success_own`` and
    ``success_rolled_in`` (of the latest 20 each) and ``success_all_the_way`` (of all that followed what stands now).
    Of two callbacks the totals are added up.
    TensorBoard gets, of each query, ``states``, a picture of the frames with the executed and the suggested actions,
    ``prompt``, the text that a model was sent, and the ``rules`` that it wrote.

    :param advisor: An advisor, or its name: a litellm model string such as ``"openai/gpt-6.1-sol"``, or another that
        :func:`~sb3_varl.advisors.make_advisor` knows
    :param task: The task in words. ``None`` for what the environment's ``task_sheet`` says, if it has one
    :param sheet: What there is to know of the environment, as a :class:`~sb3_varl.TaskSheet` or a YAML file of one
        (see :mod:`sb3_varl.advice.sheets`). ``None`` for the environment's ``task_sheet``, if it has one
    :param advisor_kwargs: Further arguments for an advisor that is given by its name
    :param n_queries: Number of queries in the run. ``None`` for 6, or for 3 where the answers are rules. Those after
        the first then show what became of the rules, as soon as they were followed for 8 episodes, and are left out
        where the rules succeed, or are never executed. A number is kept to in the latter case, too: other rules are
        asked for then, by a model that knows nothing of the first
    :param first_query: Environment steps before the first query.
        ``None`` for as early as there are enough states, once the model has started to learn
    :param query_freq: Environment steps between queries.
        ``None`` spreads them evenly over the first half of the model's ``shaping_steps``
    :param states_per_query: Number of states in each query
    :param window: Number of the most recent transitions that the states are drawn from
    :param label_freq: With standing advice (rules, a function), every how many steps the visited states become guidance
        by it; 0 for never. ``None`` for every second step where the answers are rules, and never elsewhere
    :param roll_in: With standing advice, share of the episodes before the cutoff that begin with it being executed, for
        a drawn number of steps and with a little noise; then the policy takes over. 0 for none, as on hardware that
        must not move by untried advice. ``None`` for 0.5 where the answers are rules, and none elsewhere
    :param max_executed_steps: Steps of advice that are executed in the run at most. ``None`` for any number
    :param until_success: Share of the last 20 training episodes, of those without roll-ins if there are any. Once that
        many succeed, the cutoff comes: no more is asked, and the guidance counts no longer, but for ``hold``. So
        queries may be many and the cutoff late, for the runs that need it. ``"advice"`` for three quarters of the share
        that succeeds where the advice is followed to the end, which takes roll-ins, and at least a quarter. Takes
        ``info["is_success"]``, and fewer episodes if the model's ``stats_window_size`` is smaller. ``None`` goes on to
        the cutoff
    :param hold: With standing advice, whether guidance counts after the cutoff, for as long again, as far as the agent
        falls short of the advice: ``shaping_coef`` times the share of the agent's last 20 episodes by which it succeeds
        less often than the advice where it is followed to the end, or than ``until_success`` asks for. So what was
        learnt from good advice is not lost when it ends; advice that seldom succeeds hardly counts. Takes roll-ins and
        ``info["is_success"]``; of 8 episodes that follow the advice, those that are missing count as failures. Nothing
        is asked for it, and nothing executed. Not after ``model.end_shaping()``. ``None`` for yes where the answers are
        rules, and no elsewhere
    :param observe: Name of an attribute or a method of the environment that says what the advisor reads in place of the
        policy's observation, an array or a dictionary of arrays: the simulator's state, where the policy sees pixels.
        The task sheet's slices are of it. ``None`` for the policy's observation
    :param frames: Whether to show pictures of the states. Needs ``render_mode="rgb_array"``; an environment without it
        whose observations are images is shown by these
    :param blocking: Whether training waits for each answer. Slower, but the run can be repeated exactly,
        and no answer comes after the cutoff
    :param log_path: Folder of the advice log. If it holds the log of another run, this one's goes beside it, to
        ``<folder>_2`` and so on. ``None`` for the log that a resumed model had, else ``advice`` in the folder of the
        run's other logs or, if it has none, in the user's data folder, which is said. ``False`` keeps no log
    :param resume: Whether to take over the log of another run, with all that was answered there
    :param verbose: 1 prints a line for each query
    :raises OSError: if ``sheet`` is a file that cannot be read
    :raises TypeError: if ``advisor`` is neither a string nor has a method ``advise``, or does not take its arguments
    :raises ArgumentError: if another argument is of the wrong type or out of its range
    :raises ValueError: when training starts: if a query would come after the model's cutoff or finds too few states, or
        the advisor has no task or finds another reason not to start
    :raises RuntimeError: when training starts: if another process writes to the log
    """

    model: GuidedModel  # type: ignore[assignment]
    # Of a run, from its beginning on.
    _figures_writer: FiguresWriter
    _privileged: Privileged | None
    _briefing: Briefing
    _teacher: Teacher
    _states: StateCollector
    _queries: Queries

    def __init__(
        self,
        advisor: Advisor | str,
        task: str | None = None,
        *,
        sheet: TaskSheet | str | os.PathLike[str] | None = None,
        advisor_kwargs: dict[str, Any] | None = None,
        n_queries: int | None = None,
        first_query: int | None = None,
        query_freq: int | None = None,
        states_per_query: int = 32,
        window: int = 1000,
        label_freq: int | None = None,
        roll_in: float | None = None,
        max_executed_steps: int | None = None,
        until_success: UntilSuccess = None,
        hold: bool | None = None,
        observe: str | None = None,
        frames: bool = True,
        blocking: bool = False,
        log_path: str | os.PathLike[str] | Literal[False] | None = None,
        resume: bool = False,
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
            raise ArgumentError(f"sheet is {sheet!r}, expected a sb3_varl.TaskSheet, a YAML file of one, or None.")
        check_text("task", task, "Open the drawer.")
        check_integer("n_queries", n_queries, optional=True)
        check_integer("first_query", first_query, optional=True)
        check_integer("query_freq", query_freq, optional=True)
        check_integer("states_per_query", states_per_query)
        check_integer("window", window)
        check_integer("label_freq", label_freq, low=0, optional=True)
        check_number("roll_in", roll_in, high=1.0, optional=True)
        check_integer("max_executed_steps", max_executed_steps, low=0, optional=True)
        check_text("observe", observe, "state")
        check_until_success(until_success)
        for name, flag in (("frames", frames), ("blocking", blocking), ("resume", resume)):
            check_bool(name, flag)
        if hold is not None:
            check_bool("hold", hold)
        if (
            log_path is not None
            and log_path is not False
            and not (isinstance(log_path, str | os.PathLike) and log_path)
        ):
            raise ArgumentError(f"log_path is {log_path!r}, expected a folder, False for no log, or None.")
        if states_per_query > window:
            raise ArgumentError(
                f"states_per_query is {states_per_query}, but the window holds only {window} transitions to draw from. "
                "Make the window larger or ask about fewer states."
            )
        self.advisor = advisor
        self.task = task
        self.sheet = load_task_sheet(sheet) if isinstance(sheet, str | os.PathLike) else sheet
        self.n_queries = n_queries
        self.first_query = first_query
        self.query_freq = query_freq
        self.states_per_query = states_per_query
        self.window = window
        self.label_freq = label_freq
        self.roll_in = roll_in
        self.max_executed_steps = max_executed_steps
        self.until_success = until_success
        self.hold = hold
        self.observe = observe
        self.frames = frames
        self.blocking = blocking
        self.log_path = log_path
        self.resume = resume
        self._forget_run()

    def _forget_run(self) -> None:
        # Whose run it is, once it has begun.
        self._model_of_run: Any = None
        self._ledger = Ledger({})
        self._queue = QueryQueue(self.advisor, None, Usage())
        self._has_looked_back = False
        # What is said once.
        self._saw_steps = self._has_ended = self._told_of_hold = self._told_of_cutoff = False

    def __getstate__(self) -> dict[str, Any]:
        # A copy is for a run of its own, which has yet to begin.
        return {name: value for name, value in self.__dict__.items() if name not in _OF_A_RUN}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        super().__init__(self.verbose)
        self._forget_run()

    @property
    def n_asked(self) -> int:
        """Number of queries that were put."""
        return 0 if self._model_of_run is None else self._queries.n_asked

    @property
    def usage(self) -> Usage:
        """What the run has spent on advice, requests on their way included."""
        return self._queue.spent_so_far

    @property
    def totals(self) -> Counter[str]:
        """What is logged under ``advice/``, without what was spent."""
        return self._ledger.totals

    # ---- The start of learn()

    def _init_callback(self) -> None:
        # Asked of the class, because a SAC that was loaded from VARL's zip has VARL's attributes.
        if not hasattr(type(self.model), "shaping_active"):
            raise TypeError(
                f"AdvisorCallback fills the guidance buffer of VARL, but the model is {type(self.model).__name__}, "
                "which has none. Use sb3_varl.VARL, a drop-in for SAC."
            )
        if self.parent is not None and getattr(self.parent, "callback_on_new_best", None) is self:
            raise TypeError(_NOT_TOLD)
        model = self.model
        self._figures_writer = FiguresWriter(self._figures, self.logger)
        model.after_learning.append(self._after_learning)
        self._saw_steps = self._has_ended = False
        self._privileged = None if self.observe is None else Privileged(self.training_env, self.observe)
        space = None if self._privileged is None else self._privileged.space
        task = task_of(self.advisor, self.task)
        self._briefing = make_briefing(self.training_env, task, self.sheet, self.frames, space)
        optional.prepare(self.advisor, self._briefing)
        if 0 < model.num_timesteps == self.num_timesteps and self._model_of_run is model:
            model.advice_in_use.append(self._ledger.progress)
            self._queries.catch_up(self._briefing, self.window, self.verbose)
        else:
            self._begin_run()
        seen = separate(self._original_observations(model._last_obs), self.training_env.num_envs)
        self._teacher.begin(self._read(seen))
        self._has_looked_back = is_past_cutoff = model.num_timesteps >= model.cutoff
        if is_past_cutoff and not (self._told_of_cutoff or (self._teacher.holds and self._teacher.n_told)):
            self._told_of_cutoff = True
            explain.past_cutoff(model.num_timesteps, model.cutoff, self._who_ended())
        self._queries.begin(lambda: model.broken_off)
        if self.verbose >= 1 and model.num_timesteps < model._total_timesteps <= model.cutoff:
            print(
                f"This run ends at step {model._total_timesteps}, and the advice at {model.cutoff} (shaping_steps), so "
                "that what the agent can do without it will not be seen."
            )
        if self._queries.any_to_come and self.frames:
            self._states.try_frames(self.training_env)

    def _begin_run(self) -> None:
        model, run = self.model, self._ledger.progress.get("run")
        self._queue.rest()
        self._forget_run()
        self.num_timesteps = model.num_timesteps
        self._teacher = Teacher(
            model,
            self.advisor,
            self._briefing,
            self.label_freq,
            self.roll_in,
            self.max_executed_steps,
            self.hold,
            self._picture,
        )
        if optional.chooses_form(self.advisor):
            explain.could_be_rules(self._briefing)
        for name, compares, instead in (
            ("until_success", self.until_success == "advice", "give a share of episodes, such as 0.25"),
            ("hold", self.hold, "leave it out"),
        ):
            if compares and not self._teacher.is_followed:
                raise ArgumentError(
                    f"{name} is {getattr(self, name)!r}, but no episode follows the advice to its end, or none is the "
                    "agent's own, so that nobody can compare them. That takes rules, or other advice that stands in "
                    f"every state, roll_in between 0 and 1, and max_executed_steps above 0. Or {instead}."
                )
        if self.until_success is not None and self._teacher.begins_all_episodes:
            raise ArgumentError(
                f"until_success is {self.until_success!r}, but with roll_in=1 all episodes begin with advice, and none "
                "is the agent's own, to be judged by. Make roll_in less."
            )
        schedule = self._whole_schedule()
        known = list(model.advice_progress)
        try:
            log, progress = open_log(model, name_of(self.advisor), self.log_path, self.resume, run)
        except OSError as error:
            raise type(error)(
                error.errno,
                f"The advice log cannot be written ({error}). Give a folder that can be written with "
                "AdvisorCallback(log_path=...), or log_path=False for none",
            ) from None
        self._queue = QueryQueue(self.advisor, log, Usage(**progress.get("usage", {})))
        self._ledger = Ledger(progress)
        # A generator of its own, so that asking draws nothing from the run's random numbers.
        self._states = StateCollector(
            self.states_per_query,
            self.frames,
            np.random.default_rng(model.seed),
            # Who needs no query looks at no picture.
            warns=not self._teacher.needs_no_query,
        )
        self._queries = Queries(
            model=model,
            advisor=self.advisor,
            briefing=self._briefing,
            schedule=schedule,
            window=self.window,
            states=self._states,
            queue=self._queue,
            ledger=self._ledger,
            teacher=self._teacher,
            verbose=self.verbose,
            asks_anew=self.n_queries is not None,
        )
        self._teacher.waits_for_record = lambda: self.until_success == "advice" or self._teacher.is_followed_too_seldom
        self._teacher.waits_for_episodes = lambda: self._queries.want_episodes
        self._teacher.on_put_back = self._queries.log_put_back
        self._teacher.recall(progress)
        try:
            self._queries.recover()
        except ValueError:
            if not any(entry is progress for entry in known):  # of a log that is not this run's
                model.advice_progress.remove(progress)
            raise
        self._model_of_run = model

    def _whole_schedule(self) -> Schedule:
        model = self.model
        teacher = self._teacher
        by_default = N_QUERIES_OF_RULES if teacher.can_be_corrected else 1 if teacher.advises_by_rules else N_QUERIES
        schedule = Schedule.of_run(
            self.n_queries or by_default,
            self.first_query,
            self.query_freq,
            states_per_query=self.states_per_query,
            n_envs=self.training_env.num_envs,
            learning_starts=model.learning_starts,
            cutoff=model.shaping_steps,
        )
        if self.n_queries is None and teacher.can_be_corrected:
            # A run that is too short for corrections is not too short for rules.
            in_time, _ = schedule.until(model.shaping_steps)
            schedule = in_time if len(in_time) else schedule
        is_too_late = schedule.triggers[-1] >= model.shaping_steps > model.num_timesteps
        if is_too_late and not teacher.needs_no_query:
            raise ArgumentError(
                f"The queries are due at steps {list(schedule.triggers)}, but the model ignores guidance from step "
                f"{model.shaping_steps} on (shaping_steps). Ask earlier with first_query and query_freq, or raise "
                "shaping_steps."
            )
        return schedule

    # ---- Each step

    def update_locals(self, locals_: dict[str, Any]) -> None:
        """
        Do what is due after a step.

        SB3 calls this at each step even where a parent passes on ``on_step()`` at some of them only, and for all
        callbacks before ``on_step()`` of the first, so that a checkpoint of a trigger step knows of the query.

        :param locals_: Local variables of the rollout
        :raises AdvisorError: if the advisor cannot answer, and has never answered anything
        """
        super().update_locals(locals_)
        self._saw_steps = True
        self.num_timesteps = self.model.num_timesteps
        self._states.complete(self.locals["actions"])
        if self._needs_no_more():
            self._end_advice()
        self._queries.ask_what_is_due()
        if self._queries.draw_states():
            self._visit_states()
        self._queries.collect(wait=self.blocking, refuse=True)
        self._teach()
        self._hold()
        if not self._has_looked_back and self.num_timesteps >= self.model.cutoff:
            self._has_looked_back = True
            self._look_back()
        self._ledger.spend(self.usage)

    def _on_step(self) -> bool:
        if not self._saw_steps:
            raise TypeError(_NOT_TOLD)
        return True

    def _needs_no_more(self) -> bool:
        if self.until_success is None or self.num_timesteps >= self.model.cutoff:
            return False
        needed = needed_success(self.until_success, self._teacher.record)
        # Where advice is executed, its success is not the agent's.
        roll_ins = self._teacher.roll_ins
        successes = roll_ins.own if roll_ins.n_executed > 0 else self.model.ep_success_buffer
        assert successes is not None
        return needed is not None and succeeds(needed, successes, successes.maxlen)

    def _end_advice(self) -> None:
        self.model.end_shaping()
        self._ledger.progress["ended"] = self.model.shaping_ended
        if self.verbose >= 1:
            print(f"Step {self.num_timesteps}: the agent succeeds by itself. The advice ends.")

    def _who_ended(self) -> Literal["success", "somebody"] | None:
        """What made the cutoff come before ``shaping_steps``: the agent's success, or a call of ``end_shaping()``."""
        if self.model.shaping_ended is None:
            return None
        return "success" if self.model.shaping_ended == self._ledger.progress.get("ended") else "somebody"

    def _hold(self) -> None:
        """After the cutoff, for as long again, unless somebody called ``model.end_shaping()``."""
        model, teacher, was_ended = self.model, self._teacher, self._who_ended() == "somebody"
        if not model.cutoff <= self.num_timesteps < 2 * model.cutoff or was_ended or not teacher.holds:
            teacher.let_go()
            return
        teacher.hold(self.until_success)
        if teacher.held_share > 0 and not self._told_of_hold:
            self._told_of_hold = True
            if self.verbose >= 1:
                print(f"Step {self.num_timesteps}: the agent succeeds less often than the advice, which still counts.")

    def _look_back(self) -> None:
        """At the cutoff, say so if the policy does not yet do what it is advised to, or nobody knows how it does."""
        model, teacher = self.model, self._teacher
        if model.shaping_ended is not None:
            return
        measure = teacher.measure
        if teacher.holds and measure is not None and not measure.is_known and teacher.roll_ins.is_told:
            explain.holds_little(teacher.n_told, measure.least_success, model.cutoff)
        if not teacher.labels.n_labels:
            return
        summary, own = model.guidance_summary(), teacher.roll_ins.own
        if model.gate == "distance":
            explain.not_learnt(summary.get("disagreement", 0.0), model.cutoff)
        if measure is not None and measure.is_known and len(own) == own.maxlen:
            explain.agrees_and_fails(summary.get("gate_open", 1.0), sum(own) / len(own), measure.success, model.cutoff)

    def _teach(self) -> None:
        if self._teacher.standing.advice is None:
            self._teacher.standing.look_away()
            return
        seen = separate(self._original_observations(self.locals["new_obs"]), self.training_env.num_envs)
        self._teacher.step(seen, self._read(seen), self.locals["dones"], self.locals["infos"])

    def _read(self, seen: list[Observation]) -> list[Observation]:
        """What the advisor reads of the present states."""
        return seen if self._privileged is None else self._privileged.read()

    def _picture(self, env: int) -> np.ndarray | None:
        """Of a present state, if a model may still be shown it."""
        if not (self.frames and self._queries.any_to_come and self._teacher.can_be_corrected):
            return None
        return self._states.picture(self.training_env, env)

    def _original_observations(self, observations: Observation) -> Observation:
        normalize = self.model.get_vec_normalize_env()
        return observations if normalize is None else normalize.get_original_obs()

    def _visit_states(self) -> None:
        read = None if self._privileged is None else self._privileged.read()
        observations = self._original_observations(self.locals["new_obs"])
        self._states.visit(self.training_env, self.num_timesteps, observations, read)

    # ---- What is logged

    def _figures(self) -> dict[str, float]:
        return {} if self._model_of_run is None else {**self._ledger.figures(), **self._teacher.figures()}

    def _record_figures(self) -> None:
        """For who dumps the logger when training has ended."""
        self._ledger.spend(self.usage)
        for name, value in self._figures_writer.together().items():
            self.logger.record(name, value)

    # ---- The end of learn()

    def _after_learning(self, completed: bool) -> None:
        """Event callbacks do not tell their children of the end, and SB3 tells nobody of Ctrl-C."""
        try:
            if self._model_of_run is None:  # the run could not begin
                self._queue.break_off()
                return
            if completed:
                self.on_training_end()
            else:
                self._queries.break_off()
            self._queries.give_up_late()
            self._record_figures()
        finally:
            self._queue.rest()
            self._figures_writer.leave()

    def _on_training_end(self) -> None:
        if self._has_ended:  # and SB3 has told of it, so that nothing is said twice
            return
        self._has_ended = True
        self._queries.end()
        self._record_figures()
        if not self._saw_steps and self.model.num_timesteps > self.num_timesteps:
            warnings.warn(_NOT_TOLD, AdviceWarning, stacklevel=2)
        else:
            self._queries.tell_of_unasked()
            self._queries.tell_of_no_advice()
        record, is_told = self._teacher.record, self.model.ep_success_buffer or self._teacher.roll_ins.is_told
        if self.model.ep_info_buffer and not is_told:
            for name, value in (("until_success", self.until_success), ("hold", self.hold or None)):
                if value is not None:
                    explain.success_untold(name, value)
        elif self.until_success == "advice" and record is not None and not record.is_known:
            explain.advice_unmeasured(self._teacher.n_followed)
