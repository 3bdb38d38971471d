"""
The command.

    python -m sb3_varl.preview --env sb3_varl.metaworld:SparseMetaWorld/drawer-open-v3 --model openai/gpt-6.1-sol

visits some states of an environment and writes a page with the prompt and the frames of a query about them, its size in
tokens and its price. Nothing is sent without ``--ask``; with it, the answers are shown beside the frames. ``--check``
asks again, and once more with the pictures exchanged, to see whether the answers mean something, and ``--follow`` does
what they say in copies of the environment.
"""

import argparse
import ast
import itertools
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import gymnasium as gym

from sb3_varl.advice.types import Usage
from sb3_varl.advisors.by_name import EXAMPLE_MODEL
from sb3_varl.preview.environments import env_maker
from sb3_varl.preview.page import Estimate, new_log, preview
from sb3_varl.preview.session import N_COPIES
from sb3_varl.wording import count

# Of following advice in copies of the environment.
_ROUNDS = 20


def parse_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    """
    Read arguments as rl-zoo has them.

    :param pairs: Each of the form ``name:value``; a value that is no Python literal is a string
    :return: Values by their names
    :raises ValueError: if one has another form
    """
    arguments: dict[str, Any] = {}
    for pair in pairs:
        name, colon, value = pair.partition(":")
        if not colon or not name.isidentifier():
            raise ValueError(f"{pair!r} is not of the form name:value.")
        try:
            arguments[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[name] = value
    return arguments


def add_environment(parser: argparse.ArgumentParser) -> None:
    """
    Have a command ask for an environment.

    :param parser: The command's arguments, which get those of the environment
    """
    parser.add_argument(
        "--env", required=True, metavar="ID", help="environment, as for gym.make: [module:]name, or file.py:name"
    )
    parser.add_argument("--env-kwargs", nargs="+", default=[], metavar="NAME:VALUE", help="its arguments")
    parser.add_argument("--observe", metavar="NAME", help="the environment's attribute or method that the model reads")


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="See what an advisor is shown, what asking costs and, if told to, what it says.",
    )
    add_environment(parser)
    parser.add_argument(
        "--model",
        required=True,
        help=f"litellm model string such as {EXAMPLE_MODEL}, recorded/<Meta-World task>, rules/<file>, or another name "
        "that AdvisorCallback takes",
    )
    parser.add_argument("--advisor-kwargs", nargs="+", default=[], metavar="NAME:VALUE", help="the advisor's arguments")
    parser.add_argument("--task", help="the task in words; default: that of the environment's task sheet")
    parser.add_argument("--sheet", metavar="FILE", help="task sheet in YAML; default: that of the environment")
    parser.add_argument("--policy", default="random", help="random (default), a model's .zip, or file.py:function")
    parser.add_argument("--states", type=int, default=16, help="states to ask about (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="steps to draw them from (default: %(default)s)")
    parser.add_argument("--no-frames", action="store_true", help="show numbers only")
    parser.add_argument("--ask", action="store_true", help="ask about these states, once")
    parser.add_argument("--check", action="store_true", help="ask again, and with the pictures exchanged")
    parser.add_argument(
        "--follow",
        type=int,
        nargs="?",
        default=0,
        const=_ROUNDS,
        metavar="ROUNDS",
        help="follow the advice: rules in whole episodes, and any advice in "
        f"{N_COPIES} copies of the environment, asking anew so many times (without a number: {_ROUNDS})",
    )
    parser.add_argument(
        "--episodes", type=int, default=20, help="with --follow: episodes of following rules (default: %(default)s)"
    )
    parser.add_argument(
        "--hold", type=int, default=5, help="with --follow: steps of each round in the copies (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("preview"), help="folder (default: preview)")
    return parser


def _measured(usage: Usage) -> str:
    """What asking took, as the server counts it."""
    tokens = f"{usage.prompt_tokens} tokens in and {usage.completion_tokens} out by the server's count"
    return f"{count(usage.requests, 'request')}, {tokens}, {usage.cost:.3f} US dollars and {usage.seconds:.1f} seconds"


def _tokens_and_dollars(estimate: Estimate) -> str:
    price = "unknown price" if estimate.cost is None else f"about {estimate.cost:.3f} US dollars"
    return f"{estimate.prompt_tokens} tokens in, {price}"


def main(arguments: Sequence[str] | None = None, prog: str = "python -m sb3_varl.preview") -> None:
    """
    Run the command.

    :param arguments: Its arguments, ``None`` for those of the command line
    :param prog: How it was called, for its messages
    """
    parser = _parser(prog)
    args = parser.parse_args(arguments)
    if (args.check or args.follow) and not args.ask:
        sys.exit(f"{parser.prog}: --check and --follow ask the advisor: give --ask, too.")
    try:
        result = preview(
            env_maker(args.env, parse_pairs(args.env_kwargs), frames=not args.no_frames),
            args.model,
            args.task,
            sheet=args.sheet,
            observe=args.observe,
            advisor_kwargs=parse_pairs(args.advisor_kwargs),
            policy=args.policy,
            n_states=args.states,
            n_steps=args.steps,
            frames=not args.no_frames,
            ask=args.ask,
            check=args.check,
            follow_rounds=args.follow,
            n_episodes=args.episodes,
            hold=args.hold,
            log_path=new_log(args.out),
            seed=args.seed,
        )
    except (ImportError, OSError, TypeError, ValueError, gym.error.Error) as error:
        sys.exit(f"{parser.prog}: {error}")
    estimate = result.estimate
    in_a_run = result.in_a_run
    if result.advisor_name.startswith("simulated/"):
        print("The advisor is SIMULATED: what it says is no model's performance.")
    if not result.is_model:
        print("This advisor is no model: nothing is sent. What a model would be sent:")
    if result.could_be_rules:
        print("It is asked for an action in each state. With a task sheet that names the numbers of an observation")
        print("(--sheet), it would be asked for rules, which advise in every state. A draft of one:")
        print(f"  python -m sb3_varl.draft --env {shlex.quote(args.env)} --task '...' --out sheet.yml")
    briefing = result.query.briefing
    if briefing.max_episode_steps is None:
        print(
            "The environment sets no limit to the steps of an episode (max_episode_steps of gym.register, TimeLimit)."
        )
    if result.form == "rules" and briefing.sheet is not None and not briefing.sheet.success:
        print("The task sheet does not say what success is, the first thing that a model misses: fill in its success.")
    print(f"This query: {count(estimate.requests, 'request')}, {_tokens_and_dollars(estimate)}")
    print(f"A run of {result.a_run}: {count(in_a_run.requests, 'request')}, {_tokens_and_dollars(in_a_run)}")
    if result.findings is not None:
        if result.findings.usage.requests:
            print(f"Asking took {_measured(result.findings.usage)}.")
        for check in result.findings.checks:
            print(f"{check.name} {_MARKS[check.passed]}: {check.text}")
        for failure in result.findings.failures:
            print(failure)
        if result.findings.rules is not None and not _is_file_of_rules(args.model):
            file = _write_rules(args.out, f"{result.findings.rules.text}\n")
            sheet = "" if args.sheet is None else f', sheet="{args.sheet}"'
            print(f"Its rules are in {file}, to be changed or trained with: ", end="")
            print(f'AdvisorCallback("rules/{file.as_posix()}"{sheet})')
    result.save(args.out / "preview.html")
    prompt = args.out / "prompt.txt"
    prompt.write_text(result.prompt, encoding="utf-8")
    print(f"See {args.out / 'preview.html'}. The prompt by itself, without pictures: {prompt}")


def _is_file_of_rules(name: str) -> bool:
    kind, _, path = name.partition("/")
    return kind == "rules" and not pathlib.Path(path).is_dir()


def _write_rules(folder: pathlib.Path, text: str) -> pathlib.Path:
    """In a file of their own, lest rules that somebody has changed since are lost."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in itertools.count(1):
        file = folder / ("rules.json" if n == 1 else f"rules-{n}.json")
        if not file.exists():
            file.write_text(text, encoding="utf-8")
        if file.read_text(encoding="utf-8") == text:
            break
    return file


_MARKS = {True: "yes", False: "no", None: "unclear"}
