"""
The command.

    python -m sb3_varl.draft --env examples/ferry.py:Ferry-v0 --out sheet.yml

steps an environment, and writes a draft of a task sheet with what it saw. Nothing is sent.
"""

import argparse
import pathlib
import shlex
import sys
from collections.abc import Sequence

import gymnasium as gym

from sb3_varl.advice.sheets import load_task_sheet
from sb3_varl.advisors.by_name import EXAMPLE_MODEL
from sb3_varl.draft.measure import measure
from sb3_varl.draft.text import write_sheet
from sb3_varl.preview.command import add_environment, parse_pairs
from sb3_varl.preview.environments import env_maker


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Draft a task sheet: what the actions move and by how much, what the numbers are and which belong "
        "together. The environment is stepped; nothing is sent.",
    )
    add_environment(parser)
    parser.add_argument("--task", help="the task in words; without it the draft has to be completed by hand")
    parser.add_argument("--sheet", metavar="FILE", help="a draft whose names, places and words are to be kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("sheet.yml"), help="file (default: %(default)s)"
    )
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = "python -m sb3_varl.draft") -> None:
    """
    Run the command.

    :param arguments: Its arguments, ``None`` for those of the command line
    :param prog: How it was called, for its messages
    """
    parser = _parser(prog)
    args = parser.parse_args(arguments)
    if args.out.exists():
        sys.exit(f"{parser.prog}: {args.out} is there already. Name another file (--out), or move it away.")
    if not args.out.parent.is_dir():
        sys.exit(f"{parser.prog}: There is no folder {args.out.parent} to write {args.out.name} into.")
    try:
        sheet = None if args.sheet is None else load_task_sheet(args.sheet)
        env = env_maker(args.env, parse_pairs(args.env_kwargs), frames=False)()
        try:
            facts = measure(env, args.observe, args.seed)
        finally:
            env.close()
        draft = write_sheet(facts, args.env, args.task, _preview(args), sheet)
    except (ImportError, OSError, TypeError, ValueError, gym.error.Error) as error:
        sys.exit(f"{parser.prog}: {error}")
    args.out.write_text(draft, encoding="utf-8")
    print(f"See {args.out}")


def _preview(args: argparse.Namespace) -> str:
    given = ["--env", args.env]
    if args.env_kwargs:
        given += ["--env-kwargs", *args.env_kwargs]
    if args.observe is not None:
        given += ["--observe", args.observe]
    return shlex.join(["python", "-m", "sb3_varl.preview", *given, "--sheet", str(args.out), "--model", EXAMPLE_MODEL])
