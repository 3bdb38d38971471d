"""
The commands of this package under one name.

    sb3-varl preview --env sb3_varl.metaworld:SparseMetaWorld/drawer-open-v3 --model simulated/drawer-open-v3
    sb3-varl report logs/VARL_1 logs/SAC_1

``python -m sb3_varl preview`` and ``python -m sb3_varl.preview`` are the same.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from sb3_varl import __version__

# Name, module, and what it is for. A command's module is imported once it is asked for, which takes seconds.
COMMANDS = (
    ("draft", "sb3_varl.draft.command", "draft a task sheet of an environment"),
    ("preview", "sb3_varl.preview.command", "see what an advisor is shown and what it costs"),
    ("report", "sb3_varl.report.page", "write a page about runs and their advice"),
    ("relabel", "sb3_varl.report.relabel", "show what advice logs hold, and merge it"),
    ("zoo", "sb3_varl.zoo", "train, enjoy, optimise and plot with rl-zoo"),
)


def main(arguments: Sequence[str] | None = None, prog: str = "sb3-varl") -> None:
    """
    Run one of the commands.

    :param arguments: Its name and its arguments, ``None`` for those of the command line
    :param prog: How this command was called, for the help texts
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog=prog,
        usage="%(prog)s [-h] [--version] COMMAND ...",
        description="VARL for Stable-Baselines3: a vision-language model as action advisor.",
        epilog="Each command has a --help of its own.",
    )
    parser.add_argument("--version", action="version", version=f"sb3_varl {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="command")
    for name, module, purpose in COMMANDS:
        commands.add_parser(name, help=purpose, add_help=False).set_defaults(module=module)
    args = parser.parse_args(arguments[:1])
    try:
        command = importlib.import_module(args.module)
    except ImportError as error:  # of rl-zoo, for instance
        sys.exit(f"{prog} {args.command}: {error}")
    command.main(arguments[1:], f"{prog} {args.command}")


if __name__ == "__main__":
    main(prog="python -m sb3_varl")
