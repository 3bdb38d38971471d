"""See what an advisor is shown, before paying for it: a page, and what is on it."""

import contextlib
import datetime
import html
import inspect
import itertools
import math
import os
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_varl.advice import optional
from sb3_varl.advice.optional import name_of, task_of
from sb3_varl.advice.sheets import action_names, load_task_sheet
from sb3_varl.advice.types import AdviceQuery, Advisor, Briefing, Form, TaskSheet
from sb3_varl.advisors.by_name import is_model, make_advisor
from sb3_varl.advisors.prompt import chats as make_chats
from sb3_varl.advisors.prompt import state_lines
from sb3_varl.advisors.providers import count_tokens, price_of
from sb3_varl.advisors.vlm import VLMAdvisor
from sb3_varl.arguments import check_integer
from sb3_varl.pages import picture_url, render, view_states, write_page
from sb3_varl.preview.checks import Check
from sb3_varl.preview.policy import make_act, statistics_of
from sb3_varl.preview.rollouts import NotRepeatable, visit, wrapped
from sb3_varl.preview.session import Findings, Interview
from sb3_varl.training.briefing import make_briefing
from sb3_varl.training.callback import N_QUERIES, N_QUERIES_OF_RULES, AdvisorCallback
from sb3_varl.training.observing import Privileged
from sb3_varl.wording import count

# What AdvisorCallback asks in a run, unless it is told otherwise.
_DEFAULTS = inspect.signature(AdvisorCallback).parameters
STATES_PER_QUERY = _DEFAULTS["states_per_query"].default
# Of an answer, thought left out, as recorded ones have them.
_TOKENS_OF_RULES = 1500
# A server that wants no key: for looking at a model that will not be asked.
_NO_SERVER = "http://localhost"


@dataclass(frozen=True)
class Estimate:
    """
    What asking would take.

    :param requests: Number of requests
    :param prompt_tokens: Tokens sent
    :param completion_tokens: Tokens received, without those that a model spends on thinking
    :param cost: US dollars, or ``None`` if nobody knows the prices
    """

    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


@dataclass(repr=False)
class Preview:
    """
    What an advisor is shown, and what it said if it was asked. In a notebook, it shows itself.

    :param env_name: The environment
    :param advisor_name: The advisor
    :param task: The task in words, as it is sent
    :param query: What is asked
    :param chats: The messages of each request, as they are sent
    :param estimate: What asking takes
    :param in_a_run: What a run takes, as ``AdvisorCallback`` asks by default
    :param findings: What came back, or ``None`` if it was not asked
    :param form: What is asked for, ``"rules"`` or ``"actions"``
    :param is_model: Whether it is a model that is sent this; others answer by themselves
    :param could_be_rules: Whether a task sheet that names the numbers of an observation would have it asked for rules
    """

    env_name: str
    advisor_name: str
    task: str
    query: AdviceQuery
    chats: list[list[dict]]
    estimate: Estimate
    in_a_run: Estimate
    findings: Findings | None = None
    form: Form = "actions"
    is_model: bool = True
    could_be_rules: bool = False

    def __repr__(self) -> str:
        asked = (
            "" if self.findings is None else "".join(f"\n{check.name} {check.text}" for check in self.findings.checks)
        )
        of_states = count(len(self.query.states), "state")
        return (
            f"<Preview of {self.advisor_name} in {self.env_name}, about {of_states}; page() and save() show it>{asked}"
        )

    def page(self) -> str:
        """
        Put everything on a page that holds all it needs.

        :return: HTML
        """
        states, briefing = self.query.states, self.query.briefing
        views = view_states(
            [state.executed_action for state in states],
            [state.frame for state in states],
            [state.step for state in states],
            self.findings.advice if self.findings is not None else None,
            briefing.action_space,
            action_names(briefing),
            briefing.sheet,
        )
        followed = self.findings.followed if self.findings is not None else []
        strips = [(result, [picture_url(frame, 200) for frame in result.frames]) for result in followed]
        return render(
            "preview.html",
            preview=self,
            states=views,
            strips=strips,
            a_run=self.a_run,
            n_in_prompt=len(state_lines(self.query, self.form)),
        )

    @property
    def prompt(self) -> str:
        """All that is asked, as text: where a picture would be it says so."""
        contents = [message["content"] for chat in self.chats for message in chat]
        return "\n\n".join(
            "\n".join(part["text"] if part["type"] == "text" else "(a picture)" for part in content)
            if isinstance(content, list)
            else content
            for content in contents
        )

    @property
    def a_run(self) -> str:
        """What a run asks by default, in words."""
        if self.form == "rules":
            return f"up to {count(N_QUERIES_OF_RULES, 'query', 'queries')}"
        return f"{count(N_QUERIES, 'query', 'queries')} of {STATES_PER_QUERY} states"

    def save(self, path: str | os.PathLike[str]) -> None:
        """
        Write the page.

        :param path: The file; its folder is made if it is missing
        """
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_page(path, self.page())

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{html.escape(self.page())}" style="width: 100%; height: 45rem; border: 0"></iframe>'


def preview(
    env: gym.Env | Callable[[], gym.Env],
    advisor: Advisor | str,
    task: str | None = None,
    *,
    sheet: TaskSheet | str | os.PathLike[str] | None = None,
    observe: str | None = None,
    advisor_kwargs: dict[str, Any] | None = None,
    policy: str = "random",
    n_states: int = 16,
    n_steps: int = 300,
    frames: bool = True,
    ask: bool = False,
    check: bool = False,
    follow_rounds: int = 0,
    n_episodes: int = 20,
    hold: int = 5,
    log_path: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> Preview:
    """
    See what an advisor would be shown of an environment, and ask it if told to.

    Whatever it answers is in an advice log before it is used, as in a training run.

    :param env: The environment, or a function that makes it. Copies, for following advice, are made by the function,
        or else by ``gym.make`` as the environment was
    :param advisor: An advisor, or its name as :func:`~sb3_varl.advisors.make_advisor` knows it. A model that is not
        asked needs no key
    :param task: The task in words. ``None`` for what the advisor or the environment's task sheet says
    :param sheet: A task sheet or a YAML file of one. ``None`` for the environment's ``task_sheet``, if it has one
    :param observe: Name of an attribute or a method of the environment that says what the advisor reads, as of
        :class:`~sb3_varl.AdvisorCallback`. ``None`` for the observation
    :param advisor_kwargs: Further arguments for an advisor that is given by its name
    :param policy: How to come to the states: ``"random"``; a zip of any of Stable-Baselines3's algorithms, with the
        statistics of ``VecNormalize`` that :func:`~sb3_varl.preview.policy.statistics_of` finds; or
        ``"file.py:function"``
    :param n_states: Number of states to ask about
    :param n_steps: Number of steps that they are drawn from
    :param frames: Whether to show pictures of the states
    :param ask: Whether to ask, once
    :param check: Whether to ask the same again, and once more with the pictures exchanged
    :param follow_rounds: How many times to ask on while following the advice from four of the states
    :param n_episodes: If it is followed, and says something of any state (rules, a function): number of whole episodes
        in which it is followed, too, for which nothing is asked
    :param hold: Steps that each piece of advice is followed for
    :param log_path: Folder of the advice log. ``None`` for ``preview/advice-<time>``
    :param seed: Of the environment, the actions and the draw of states
    :return: The preview
    :raises FileNotFoundError: if a file is missing
    :raises TypeError: if ``env`` is something else, its actions are not continuous, or the advisor takes no such
        argument
    :raises ValueError: if something is out of range, there is no task, or a key is missing that asking needs
    """
    if (check or follow_rounds) and not ask:
        raise ValueError("check and follow_rounds ask the advisor: give ask=True, too.")
    check_integer("n_states", n_states)
    check_integer("follow_rounds", follow_rounds, low=0)
    check_integer("n_episodes", n_episodes, low=0)
    check_integer("hold", hold)
    if not isinstance(env, gym.Env) and (isinstance(env, VecEnv) or not callable(env)):
        raise TypeError(f"env is {env!r}, expected a Gymnasium environment or a function that makes one.")
    sheet = sheet if isinstance(sheet, TaskSheet | None) else load_task_sheet(sheet)
    addressee = _Addressee(advisor, task, advisor_kwargs, ask)
    with contextlib.ExitStack() as stack:
        make = _maker(env)
        venv: VecEnv = DummyVecEnv([(lambda: env) if isinstance(env, gym.Env) else make])
        if not isinstance(env, gym.Env):
            stack.callback(venv.close)
        env_name = _name(venv)
        venv = wrapped(_normalised(venv, policy))
        privileged = None
        if observe is not None:
            venv.seed(seed)
            venv.reset()
            privileged = Privileged(venv, observe)
        space = None if privileged is None else privileged.space
        briefing = make_briefing(venv, task_of(addressee.advisor, task), sheet, frames, space)
        words = addressee.prepare(briefing)
        visited = visit(venv, make_act(policy, venv, seed), n_states, n_steps, frames, seed, privileged)
    query = AdviceQuery(0, n_steps, visited.states, briefing)
    result = addressee.preview(query, words, env_name)
    if ask:
        interview = Interview(addressee.advisor, query, log_path or new_log(pathlib.Path("preview")))
        interview.ask()
        result.findings = interview.findings
        try:
            if check and interview.was_answered:
                interview.check()
            if follow_rounds:
                interview.follow(make, visited, follow_rounds, hold, observe)
            if follow_rounds and n_episodes:
                interview.follow_whole(make, n_episodes, seed, observe)
        except KeyboardInterrupt:
            interview.findings.checks.append(Check("Was everything tried?", False, "No, it was broken off by Ctrl-C."))
    return result


class _Addressee:
    """Who is asked, or would be."""

    def __init__(self, advisor: Advisor | str, task: str | None, arguments: dict[str, Any] | None, ask: bool) -> None:
        self.name = advisor if isinstance(advisor, str) else name_of(advisor)
        if isinstance(advisor, str):
            arguments = dict(arguments or {})
            if not ask and is_model(advisor):
                arguments["api_base"] = arguments.get("api_base") or _NO_SERVER
            advisor = make_advisor(advisor, task, **arguments)
        self.advisor = advisor
        self.model = advisor if isinstance(advisor, VLMAdvisor) else None

    def prepare(self, briefing: Briefing) -> str:
        optional.prepare(self.advisor, briefing)
        task = (self.model.task if self.model is not None else None) or briefing.task
        if not task:
            raise ValueError('There is no task. Say it in words: task="Open the drawer.", or --task.')
        return task

    def preview(self, query: AdviceQuery, task: str, env_name: str) -> Preview:
        settings = self.model.settings if self.model is not None else None
        per_request, image_size = (settings.states_per_request, settings.image_size) if settings else (16, 224)
        form = optional.form_for(self.advisor, query.briefing)
        portions = make_chats(query, task, range(len(query.states)), per_request, image_size, form)
        chats = [chat.messages for chat in portions]
        if not chats:
            raise ValueError("The states are too large to be sent. Leave out of the observation what says little.")
        n_states, system = len(query.states), count_tokens(chats[0][:1])
        states, received = sum(map(count_tokens, chats)) - len(chats) * system, count_tokens(_typical_answer(query))
        estimate = self._estimate(len(chats), system, states, received)
        if form == "rules":
            n_queries = N_QUERIES_OF_RULES
            in_a_run = self._estimate(n_queries, system, n_queries * states, n_queries * _TOKENS_OF_RULES)
            estimate = self._estimate(len(chats), system, states, _TOKENS_OF_RULES)
        else:
            n_queries = N_QUERIES
            share = n_queries * STATES_PER_QUERY / n_states
            n_requests = n_queries * math.ceil(STATES_PER_QUERY / per_request)
            in_a_run = self._estimate(n_requests, system, round(share * states), round(share * received))
        sheet = query.briefing.sheet
        return Preview(
            env_name,
            self.name,
            task,
            query,
            chats,
            estimate,
            in_a_run,
            form=form,
            is_model=self.model is not None,
            could_be_rules=self.model is not None and self.model.form is None and not (sheet and sheet.observation),
        )

    def _estimate(self, n_requests: int, system: int, states: int, received: int) -> Estimate:
        sent = n_requests * system + states
        cost: float | None = None
        if self.model is not None:
            prices = self.model.endpoint.price_per_token
            cost = (
                price_of(self.model.model, sent, received)
                if prices is None
                else prices[0] * sent + prices[1] * received
            )
        return Estimate(n_requests, sent, received, cost)


def _typical_answer(query: AdviceQuery) -> list[dict]:
    action = ", ".join(["-0.25"] * math.prod(query.briefing.action_space.shape))
    entries = ", ".join(f'{{"state": {i}, "action": [{action}]}}' for i in range(len(query.states)))
    return [{"role": "assistant", "content": f'{{"advice": [{entries}]}}'}]


def _maker(env: gym.Env | Callable[[], gym.Env]) -> Callable[[], gym.Env]:
    if not isinstance(env, gym.Env):
        return env
    spec = env.spec

    def make() -> gym.Env:
        if spec is None:
            raise NotRepeatable("the environment was not made with gym.make; give a function that makes it")
        try:
            return gym.make(spec)
        except (ValueError, gym.error.Error) as error:
            raise NotRepeatable(
                f"the environment cannot be made again as it was ({error}); give a function that makes it"
            ) from error

    return make


def _name(env: VecEnv) -> str:
    spec = env.get_attr("spec")[0]
    return spec.id if spec is not None else type(env.get_attr("unwrapped")[0]).__name__


def _normalised(env: VecEnv, policy: str) -> VecEnv:
    """With the statistics that a saved policy was trained with, if they lie where its name says that they are its."""
    path = statistics_of(pathlib.Path(policy)) if policy.endswith(".zip") else None
    if path is None:
        return env
    normalised = VecNormalize.load(str(path), env)
    normalised.training = normalised.norm_reward = False
    return normalised


def new_log(folder: pathlib.Path) -> pathlib.Path:
    """
    Find a name for an advice log that is not taken.

    :param folder: Where it is to be
    :return: Its folder, by the time
    """
    name = f"advice-{datetime.datetime.now():%Y-%m-%d-%H-%M-%S}"
    places = (folder / f"{name}{suffix}" for suffix in itertools.chain([""], (f"-{n}" for n in itertools.count(2))))
    return next(place for place in places if not place.exists())
