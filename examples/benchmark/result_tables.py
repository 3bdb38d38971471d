"""Tables of what ``grid.py`` has run so far, as Markdown."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cells import (
    BASE,
    EXPERIMENTS,
    FRAME_SKIP,
    FULL_STEPS,
    LATE_TASKS,
    MAIN_TASKS,
    METHODS,
    PARTIAL_TASKS,
    RULES_ABLATIONS,
    RULES_TASKS,
    SHORT_STEPS,
    TASKS,
    make_cell,
)
from evaluations import Evaluations, Interval, describe, overall, ranges
from results import N_LAST
from rules_alone import DRAFTS
from rules_alone import RESULTS as RULES_ALONE
from sb3_varl.wording import count

# What others have published: TD-MPC2's own results (arXiv 2310.16828), three seeds, at three of its steps.
PUBLISHED = pathlib.Path(__file__).parent / "results" / "published.csv"
# What each method has of VARL, with the same answers.
PARTS = {
    "SAC": "SAC",
    "VARL": "VARL, actions",
    "rules, no roll-ins": "VARL, rules without roll-ins",
    "rules, roll-ins only": "SAC with the rules' roll-ins, no term",
    "rules": "VARL, rules and roll-ins",
}
# What else can be made of the same rules.
OF_RULES = {
    "rules, imitated": "imitated, no reinforcement learning",
    "rules": "VARL",
    "rules, gate always": 'VARL, `gate="always"`',
    "rules, roll-ins only": "SAC with the roll-ins, no term",
    "SAC": "SAC, no rules",
}
# One setting at a time, with recorded rules.
SETTINGS = {
    "rules": "the defaults",
    **{f"rules, {name}": name for changes in RULES_ABLATIONS.values() for name in changes},
}
# What the successful episodes of the recorded rules are worth as demonstrations.
DEMONSTRATIONS = {
    "SAC": "SAC",
    **{
        f"SAC, {n} demonstrations {how}": f"SAC with {n} demonstrations {how}"
        for how in ("in half of each batch", "imitated")
        for n in (3, 10)
    },
    "rules": "VARL, rules",
}
# The same of first answers, which do not always succeed.
OF_FIRST_ANSWERS = {
    "rules, first answer, imitated": OF_RULES["rules, imitated"],
    "rules, first answer": OF_RULES["rules"],
    "rules, first answer, gate always": OF_RULES["rules, gate always"],
}
# Environments beyond Meta-World, and what was tried there.
BEYOND = pathlib.Path(__file__).parent / "results" / "beyond_metaworld.csv"
BEYOND_NAMES = {
    "rules": "The rules alone",
    "SAC": "SAC",
    "VARL": "VARL",
    "VARL, threshold 0.1": "VARL, `gate_threshold=0.1`",
    "VARL, gate always": 'VARL, `gate="always"`',
    "VARL, no hold": "VARL without `hold`",
    "VARL, SPARSE": "VARL, `SPARSE` and no HER",
    "SAC, SPARSE": "SAC, `SPARSE` and no HER",
    "VARL, corrected rules": "VARL, corrected rules (45% by themselves)",
    "VARL, corrected rules, threshold 0.1": "VARL, corrected rules, `gate_threshold=0.1`",
    "VARL, unbounded pull": r"VARL \*",
    "VARL, unbounded pull, no roll-ins": r"VARL \* without roll-ins",
}
# A task in which small actions decide, with rules written by hand.
CRANE = BEYOND.with_name("crane.csv")
CRANE_NAMES = {
    "SAC": "SAC",
    "default": "VARL, `gate_threshold` 0.4, the default",
    "threshold 0.1": "VARL, `gate_threshold=0.1`",
    "gate always": 'VARL, `gate="always"`',
}
# Parts of a run, for tables of two methods.
FIRST = {f"after {FRAME_SKIP * BASE['eval_freq']:,} steps".replace(",", " "): ("success", slice(0, 1))}
_AT_CUTOFF = BASE["shaping"]["shaping_steps"] // BASE["eval_freq"] - 1
AT_CUTOFF = {"at the cutoff": ("success", slice(_AT_CUTOFF, _AT_CUTOFF + 1))}
AFTER_CUTOFF = {
    f"{FRAME_SKIP * (first + 1) * BASE['eval_freq']:,} to {FRAME_SKIP * last * BASE['eval_freq']:,}".replace(
        ",", " "
    ): (
        "success",
        slice(first, last),
    )
    # While guidance is held, and when it is no longer.
    for first, last in ((_AT_CUTOFF + 1, 2 * _AT_CUTOFF + 2), (2 * _AT_CUTOFF + 2, SHORT_STEPS // BASE["eval_freq"]))
}
OPEN_GATES = {"open gates": ("gate_open", slice(_AT_CUTOFF, _AT_CUTOFF + 1))}
WHOLE_AND_END = {"mean of the run": ("success", slice(None)), "success": ("success", slice(-N_LAST, None))}
# Success at which a task is called learnt.
GOOD = 0.8
DASH = "\N{EN DASH}"


def percent(interval: Interval) -> str:
    """A value, and its range where there is one."""
    middle, low, high = (f"{100 * value:.0f}" for value in interval)
    return f"{middle}%" if low == high else f"{middle}% ({low}{DASH}{high})"


def tabulate(
    evaluations: Evaluations,
    methods: Sequence[str],
    tasks: Sequence[str],
    steps: int,
    names: Sequence[str] | None = None,
) -> list[str]:
    """
    A table with a row for each method and a column for each task.

    :param evaluations: All there are
    :param methods: The methods
    :param tasks: The tasks
    :param steps: Where the runs are judged
    :param names: What the methods are called here
    :return: Lines of Markdown
    """
    of_all = ["mean", "interquartile mean", "mean of the whole run", "seeds"]
    lines = [
        "| | " + " | ".join([*(task.removesuffix("-v3") for task in tasks), *of_all]) + " |",
        "| --- " * (len(tasks) + len(of_all) + 1) + "|",
    ]
    seeds = evaluations.seeds(methods, tasks, steps)
    for method, name in zip(methods, names or methods, strict=True) if seeds else ():
        success = evaluations.table(method, tasks, seeds, "success", steps)[1]
        at_end, of_run = success[..., -N_LAST:].mean(axis=-1), success.mean(axis=-1)
        cells = [percent(of_task) for of_task in ranges(at_end[:, None, :])]
        cells += map(percent, overall(at_end, of_run))
        failed = evaluations.n_failed(method, tasks, seeds)
        n_seeds = str(len(seeds)) if not failed else f"{len(seeds)}, of {at_end.size} runs {failed} failed"
        lines.append(f"| {name}{older(evaluations, method, tasks, seeds)} | " + " | ".join([*cells, n_seeds]) + " |")
    return lines


def tabulate_tasks(evaluations: Evaluations, tasks: Sequence[str], steps: int) -> list[str]:
    """
    The main table, with a row for each task and one for their mean: success of the rules where they are followed as
    they are; of SAC and of VARL with rules success at the end, VARL's in the last step of an episode as well; the mean
    of the whole run; the simulator's steps to 80% in the middle one of the runs; and the number of these. The mean is
    over the seeds that all tasks have, with a bootstrap's interval.

    :param evaluations: All there are
    :param tasks: The tasks
    :param steps: Where the runs are judged
    :return: Lines of Markdown
    """
    of_both = ("mean of the run", f"steps to {GOOD:.0%}", "seeds")
    followed = _followed_rules()
    columns = ["task", "the rules alone", "SAC", "VARL", "VARL, in the last step"]
    columns += [f"{column}: {name}" for column in of_both for name in ("SAC", "VARL")]
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    for name, of_row in (*((task.removesuffix("-v3"), [task]) for task in tasks), ("mean", tasks)):
        sac, varl = (_summarize(evaluations, method, of_row, steps) for method in ("SAC", "rules"))
        pairs = [cell for both in zip(sac[2:], varl[2:], strict=True) for cell in both]
        lines.append(
            "| " + " | ".join([name, f"{followed[list(of_row)].mean():.0%}", sac[0], *varl[:2], *pairs]) + " |"
        )
    return lines


def _followed_rules() -> "pd.Series[float]":
    """Success of the rules that a run has about each task, which are the last answer, followed as they are."""
    answers = pd.read_csv(RULES_ALONE)
    return answers[answers["prompt"] == "present"].sort_values("answer").groupby("task")["success"].last()


def _summarize(evaluations: Evaluations, method: str, tasks: Sequence[str], steps: int) -> list[str]:
    """Success at the end, in any step and in the last, the mean of the run, steps to 80%, and the number of seeds."""
    seeds = evaluations.seeds([method], tasks)
    if not seeds:
        return [*[""] * 4, "0"]
    at, success = evaluations.table(method, tasks, seeds, "success", steps)
    in_last_step = evaluations.table(method, tasks, seeds, "success_at_end", steps)[1]
    if len(tasks) == 1:
        soon = steps_to(GOOD, at, success[:, 0])
        return [at_end(success), at_end(in_last_step), f"{success.mean():.0%}", soon, str(len(seeds))]
    end, _, of_run = overall(success[..., -N_LAST:].mean(axis=-1), success.mean(axis=-1))
    return [percent(end), _mean_at_end(in_last_step), percent(of_run), "", str(len(seeds))]


def tabulate_steps(
    evaluations: Evaluations, methods: Sequence[str], tasks: Sequence[str], same_seeds: bool = False
) -> list[str]:
    """
    A table with a row for each method and task that was run, of methods that are evaluated at the same steps: success
    by the simulator's step, the mean of what came after the cutoff, and the number of seeds.

    :param evaluations: All there are
    :param methods: The methods
    :param tasks: The tasks
    :param same_seeds: Whether only those seeds of a task count that all methods have that were run on it
    :return: Lines of Markdown
    """
    at, n_after = evaluated_at(methods[0])
    columns = ["task", "method", *at, "after the cutoff", "seeds"]
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    for task in tasks:
        run = [method for method in methods if evaluations.seeds([method], [task])]
        for method in run:
            seeds = evaluations.seeds(run if same_seeds else [method], [task])
            if seeds:
                success = evaluations.column(method, [task], seeds, "success", len(at))[:, 0].mean(axis=0)
                name = method + older(evaluations, method, [task], seeds)
                cells = [task.removesuffix("-v3"), name, *by_step(success, n_after), str(len(seeds))]
                lines.append("| " + " | ".join(cells) + " |")
    return lines


def tabulate_both(evaluations: Evaluations, methods: Sequence[str], tasks: Sequence[str]) -> list[str]:
    """
    The same of those tasks, and of their seeds, that all methods were run on.

    :param evaluations: All there are
    :param methods: The methods
    :param tasks: The tasks
    :return: Lines of Markdown
    """
    tasks_of_both = [task for task in tasks if evaluations.seeds(methods, [task])]
    return tabulate_steps(evaluations, methods, tasks_of_both, same_seeds=True)


def tabulate_seeds(evaluations: Evaluations, method: str, tasks: Sequence[str]) -> list[str]:
    """
    The same of one method, with a row for each seed and, where there are several, one for the mean of a task's.

    :param evaluations: All there are
    :param method: The method
    :param tasks: The tasks
    :return: Lines of Markdown
    """
    at, n_after = evaluated_at(method)
    columns = ["task, seed", *at, "after the cutoff"]
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    for task in tasks:
        seeds, name = evaluations.seeds([method], [task]), task.removesuffix("-v3")
        success = evaluations.column(method, [task], seeds, "success", len(at))[:, 0]
        for seed, of_run in zip(seeds, success, strict=True):
            mark = older(evaluations, method, [task], [seed])
            lines.append("| " + " | ".join([f"{name}, {seed}{mark}", *by_step(of_run, n_after)]) + " |")
        if len(seeds) > 1:
            lines.append("| " + " | ".join([f"**{name}, mean**", *by_step(success.mean(axis=0), n_after)]) + " |")
    return lines


def evaluated_at(method: str) -> tuple[list[str], int]:
    """When an advised method is evaluated, in steps of the simulator, and how often after the cutoff."""
    settings = make_cell(method, MAIN_TASKS[0], 0).settings
    at = range(settings["eval_freq"], settings["steps"] + 1, settings["eval_freq"])
    steps = [f"{settings['env']['frame_skip'] * step:,}".replace(",", " ") for step in at]
    return steps, sum(step > settings["shaping"]["shaping_steps"] for step in at)


def by_step(success: np.ndarray, n_after: int) -> list[str]:
    """Success in each evaluation, and the mean of the last ones."""
    return [f"{value:.0%}" for value in (*success, success[-n_after:].mean())]


def tabulate_named(
    evaluations: Evaluations,
    names: Mapping[str, str],
    tasks: Sequence[str] = RULES_TASKS,
    same_seeds: bool = False,
) -> list[str]:
    """
    A table of what some methods come to: success at the end, and the mean of the whole run.

    :param evaluations: All there are
    :param names: What the methods are called here
    :param tasks: The tasks; a method counts with the seeds that it has on all of them
    :param same_seeds: Whether only those seeds count that all methods have
    :return: Lines of Markdown
    """
    columns = ["", *(task.removesuffix("-v3") for task in tasks), "seeds"]
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    for method, name in names.items():
        seeds = evaluations.seeds([*names] if same_seeds else [method], tasks)
        if seeds:
            success = evaluations.table(method, tasks, seeds, "success", SHORT_STEPS)[1]
            of_tasks = np.split(success, len(tasks), axis=1)
            cells = [name + older(evaluations, method, tasks, seeds)]
            cells += [f"{at_end(of_task)}; {of_task.mean():.0%}" for of_task in of_tasks]
            lines.append("| " + " | ".join([*cells, str(len(seeds))]) + " |")
    return lines


def tabulate_parts(
    evaluations: Evaluations, names: Mapping[str, str], tasks: Sequence[str], parts: Mapping[str, tuple[str, slice]]
) -> list[str]:
    """
    A table of what some methods come to on average over tasks, on the seeds that all of them have of a task.

    :param evaluations: All there are
    :param names: What the methods are called here
    :param tasks: The tasks
    :param parts: What of it: by its name, a column of the evaluations, and which of these count
    :return: Lines of Markdown
    """
    seeds = {task: evaluations.seeds([*names], [task]) for task in tasks}
    least = min(map(len, seeds.values()))
    lines = ["| | " + " | ".join([*parts, "seeds"]) + " |", "| --- " * (2 + len(parts)) + "|"]
    for method, name in names.items() if least else ():
        values = [
            float(np.mean([_mean_of(evaluations, method, task, seeds[task], *part) for task in tasks]))
            for part in parts.values()
        ]
        lines.append(_percentages(name, values, str(least)))
    return lines


def tabulate_by_task(evaluations: Evaluations, names: Mapping[str, str], tasks: Sequence[str]) -> list[str]:
    """
    The same by task: success at the end, and the mean of the whole run.

    :param evaluations: All there are
    :param names: What the methods are called here
    :param tasks: The tasks
    :return: Lines of Markdown
    """
    lines = ["| task | " + " | ".join([*names.values(), "seeds"]) + " |", "| --- " * (2 + len(names)) + "|"]
    for task in tasks:
        seeds = evaluations.seeds([*names], [task])
        if seeds:
            cells = [
                "{1:.0%}; {0:.0%}".format(
                    *(_mean_of(evaluations, method, task, seeds, *part) for part in WHOLE_AND_END.values())
                )
                for method in names
            ]
            lines.append("| " + " | ".join([task.removesuffix("-v3"), *cells, str(len(seeds))]) + " |")
    return lines


def _mean_of(
    evaluations: Evaluations, method: str, task: str, seeds: Sequence[int], column: str, which: slice
) -> float:
    return float(evaluations.table(method, [task], seeds, column, SHORT_STEPS)[1][..., which].mean())


def tabulate_two(
    evaluations: Evaluations, methods: Sequence[str], tasks: Sequence[str], parts: Mapping[str, tuple[str, slice]]
) -> list[str]:
    """
    A table of what two methods come to, on the seeds that both have of a task, with their means.

    :param evaluations: All there are
    :param methods: The two
    :param tasks: The tasks
    :param parts: What of it: by its name, a column of the evaluations, and which of these count
    :return: Lines of Markdown
    """
    columns = [f"{method}: {part}" for part in parts for method in methods]
    lines = ["| " + " | ".join(["task", *columns, "seeds"]) + " |", "| --- " * (2 + len(columns)) + "|"]
    rows = []
    for task in tasks:
        seeds = evaluations.seeds(methods, [task])
        if seeds:
            rows.append(
                [_mean_of(evaluations, method, task, seeds, *part) for part in parts.values() for method in methods]
            )
            lines.append(_percentages(task.removesuffix("-v3"), rows[-1], str(len(seeds))))
    return [*lines, _percentages("mean", np.mean(rows, axis=0), "")] if rows else lines


def _percentages(name: str, values: Sequence[float] | np.ndarray, seeds: str) -> str:
    return "| " + " | ".join([name, *(f"{value:.0%}" for value in values), seeds]) + " |"


def tabulate_published(evaluations: Evaluations) -> list[str]:
    """
    A table of what others have published on the fifteen tasks, by their steps, beside VARL with rules: success at the
    end, in any step of an episode and in its last one, and the rules as they are.

    :param evaluations: All there are
    :return: Lines of Markdown
    """
    published = pd.read_csv(PUBLISHED).groupby(["method", "step", "task"])["success"].mean().unstack("task")
    own_steps = f"{FRAME_SKIP * SHORT_STEPS:,}".replace(",", " ")
    columns = [f"{method} at {step:,}".replace(",", " ") for method, step in published.index]
    followed = _followed_rules()
    lines = [
        "| task | " + " | ".join(["the rules alone", f"VARL at {own_steps}, any step", "last step", *columns]) + " |",
        "| --- " * (4 + len(columns)) + "|",
    ]
    for task in MAIN_TASKS:
        seeds = evaluations.seeds(["rules"], [task])
        own = [
            at_end(evaluations.table("rules", [task], seeds, column, SHORT_STEPS)[1])
            for column in ("success", "success_at_end")
        ]
        theirs = [f"{success:.0%}" for success in published[task.replace("-v3", "-v2")]]
        lines.append("| " + " | ".join([task.removesuffix("-v3"), f"{followed[task]:.0%}", *own, *theirs]) + " |")
    seeds = evaluations.seeds(["rules"], MAIN_TASKS)
    means = [
        _mean_at_end(evaluations.table("rules", MAIN_TASKS, seeds, column, SHORT_STEPS)[1])
        for column in ("success", "success_at_end")
    ]
    of_others = [f"{mean:.0%}" for mean in published.mean(axis=1)]
    lines.append("| mean | " + " | ".join([f"{followed[list(MAIN_TASKS)].mean():.0%}", *means, *of_others]) + " |")
    return lines


def tabulate_beyond() -> list[str]:
    """
    A table of environments beyond Meta-World: success, or the mean return where there is none, in the last three
    evaluations, with the range of the seeds and their number if there are several. Rules that are followed as they are
    are measured once.

    :return: Lines of Markdown
    """
    rows = pd.read_csv(BEYOND)
    environments = [*dict.fromkeys(rows["environment"])]
    lines = ["| | " + " | ".join(environments) + " |", "| --- " * (len(environments) + 1) + "|"]
    for method, name in BEYOND_NAMES.items():
        cells = []
        for environment in environments:
            of_cell = rows[(rows["environment"] == environment) & (rows["method"] == method)]
            has_success = of_cell["success"].notna().any()
            column = "success" if has_success else "return"
            at_end = of_cell.sort_values("step").groupby("seed")[column].apply(lambda run: run[-N_LAST:].mean())
            cells.append(_of_seeds(at_end.to_numpy(), has_success))
        if any(cells):
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def tabulate_crane() -> list[str]:
    """
    A table of the crane: mean success by the step, the mean of the last three evaluations, and the number of seeds.

    :return: Lines of Markdown
    """
    rows = pd.read_csv(CRANE)
    by_step = rows[rows["step"] % 4000 == 0].groupby(["method", "step"])["success"].mean().unstack("step")
    lines = ["| | " + " | ".join([*(f"{step:,}".replace(",", " ") for step in by_step), "at the end", "seeds"]) + " |"]
    lines.append("| --- " * (3 + by_step.shape[1]) + "|")
    for method, name in CRANE_NAMES.items():
        of_method = rows[rows["method"] == method].sort_values("step")
        ends = of_method.groupby("seed")["success"].apply(lambda run: run[-N_LAST:].mean())
        end = percent((ends.mean(), ends.min(), ends.max()))
        lines.append(
            f"| {name} | "
            + " | ".join([*(f"{share:.0%}" for share in by_step.loc[method]), end, str(len(ends))])
            + " |"
        )
    return lines


def _of_seeds(values: np.ndarray, are_shares: bool) -> str:
    if not len(values):
        return ""
    mean, low, high = values.mean(), values.min(), values.max()
    said = percent((mean, low, high)) if are_shares else f"{mean:.1f}"
    if len(values) == 1:
        return said
    of_returns = "" if are_shares or low == high else f" ({low:.1f} to {high:.1f})"
    return f"{said}{of_returns}, {len(values)} seeds"


def tabulate_rules_alone(prompt: str) -> list[str]:
    """
    A table of what comes of recorded rules without learning: their number, success, and the mean length of an episode.

    :param prompt: To which prompt they are the answers
    :return: Lines of Markdown
    """
    answers = pd.read_csv(RULES_ALONE)
    tasks = sorted(set(answers.loc[answers["prompt"] == prompt, "task"]), key=lambda task: task.removesuffix("-v3"))
    lines = ["| task | rules, success, actions |", "| --- | --- |"]
    return lines + [_told_of_answers(answers, task, [prompt]) for task in tasks]


def tabulate_asked_again() -> list[str]:
    """
    The same of the answers to the present prompt, and of those of who was asked again.

    :return: Lines of Markdown
    """
    answers = pd.read_csv(RULES_ALONE)
    again = set(answers.loc[answers["prompt"] == "again", "task"])
    lines = ["| task | the first answer | asked again |", "| --- | --- | --- |"]
    return lines + [_told_of_answers(answers, task, ("present", "again")) for task in MAIN_TASKS if task in again]


def tabulate_drafted() -> list[str]:
    """
    The same of answers to prompts whose sheet a program drafted.

    :return: Lines of Markdown
    """
    answers = pd.read_csv(RULES_ALONE)
    prompts = [f"drafted {stage}" for stage in DRAFTS]
    lines = ["| task | the first draft | the second | the third | the fourth |", "| --- | --- | --- | --- | --- |"]
    return lines + [_told_of_answers(answers, task, prompts) for task in MAIN_TASKS]


def _told_of_answers(answers: pd.DataFrame, task: str, prompts: Sequence[str]) -> str:
    cells = [task.removesuffix("-v3")]
    for prompt in prompts:
        told = [
            f"{count(answer.rules, 'rule')}, {answer.success:.0%}, {answer.actions:.1f}"
            for answer in answers[(answers["prompt"] == prompt) & (answers["task"] == task)].itertuples()
        ]
        cells.append("; after a correction ".join(told) or DASH)
    return "| " + " | ".join(cells) + " |"


def older(evaluations: Evaluations, method: str, tasks: Sequence[str], seeds: Sequence[int]) -> str:
    """
    Mark a method some of whose runs had settings that it has no longer.

    :param evaluations: All there are
    :param method: The method
    :param tasks: The tasks
    :param seeds: The seeds
    :return: An asterisk, with how many runs it is about if not about all, or nothing
    """
    n_older, n = evaluations.n_older(method, tasks, seeds), len(tasks) * len(seeds)
    return "" if not n_older else r" \*" if n_older == n else rf" \* ({n_older} of {n} runs)"


def at_end(values: np.ndarray) -> str:
    """
    Say what the last evaluations of a task's runs come to, if that was measured in any.

    :param values: ``(runs, 1, evaluations)``, NaN where it was not
    :return: The mean, its range over the runs, and the number of these if it was not measured in all
    """
    of_runs = values[..., -N_LAST:].mean(axis=-1)
    measured = of_runs[~np.isnan(of_runs)].reshape(-1, 1, 1)
    if not measured.size:
        return ""
    return percent(ranges(measured)[0]) + (
        f", {measured.size} of {of_runs.size} runs" if measured.size < of_runs.size else ""
    )


def _mean_at_end(values: np.ndarray) -> str:
    """Mean of the last evaluations, if all runs have them and measured it."""
    last = values[..., -N_LAST:]
    return f"{last.mean():.0%}" if last.size and not np.isnan(last).any() else ""


def steps_to(level: float, at: np.ndarray, success: np.ndarray) -> str:
    """
    Say how soon the middle one of some runs is at a level for the first time.

    :param level: The level
    :param at: Steps of the evaluations
    :param success: Success in them, ``(runs, evaluations)``
    :return: The steps, or that it never is
    """
    if not len(success):
        return ""
    reaches = success >= level
    first = np.sort(np.where(reaches.any(axis=1), at[reaches.argmax(axis=1)], np.inf))
    middle = first[len(first) // 2]
    return f"{middle:,.0f}".replace(",", " ") if np.isfinite(middle) else "never"


def write_tables(evaluations: Evaluations, path: pathlib.Path) -> None:
    """All tables, as Markdown."""
    lines = [
        r"\* Run with settings that the method has no longer: before the shaping term had a least standard deviation, "
        "or with recorded answers to an earlier prompt (November 27, 2026).",
        "",
    ]
    lines += ["## rules alone", "", *tabulate_rules_alone("present"), ""]
    lines += ["## rules alone, earlier prompt", "", *tabulate_rules_alone("earlier"), ""]
    lines += ["## asked again", "", *tabulate_asked_again(), ""]
    lines += ["## drafted", "", *tabulate_drafted(), ""]
    lines += [f"## fifteen tasks, {FRAME_SKIP * SHORT_STEPS} steps", ""]
    lines += [*tabulate_tasks(evaluations, MAIN_TASKS, SHORT_STEPS), ""]
    lines += [
        "## fifteen tasks by the step",
        "",
        *tabulate_steps(evaluations, *EXPERIMENTS["hold"], same_seeds=True),
        "",
    ]
    lines += ["## holding", "", *tabulate_two(evaluations, *EXPERIMENTS["hold"], AFTER_CUTOFF), ""]
    lines += ["## prompts", "", *tabulate_two(evaluations, *EXPERIMENTS["prompt"], OPEN_GATES | WHOLE_AND_END), ""]
    thresholds = ("rules", "rules, threshold 0.1")
    lines += [
        "## rules, threshold 0.1",
        "",
        *tabulate_two(evaluations, thresholds, MAIN_TASKS, FIRST | WHOLE_AND_END),
        "",
    ]
    parts = FIRST | AT_CUTOFF | WHOLE_AND_END
    of_rules = tabulate_parts(evaluations, OF_RULES, MAIN_TASKS, parts)
    executed = [float(_followed_rules()[list(MAIN_TASKS)].mean())] * len(parts)
    of_rules.insert(2, _percentages("the rules, executed for good", executed, ""))
    lines += ["## what is made of rules", "", *of_rules, ""]
    lines += ["## what is made of rules, by task", "", *tabulate_by_task(evaluations, OF_RULES, MAIN_TASKS), ""]
    lines += ["## first answers", "", *tabulate_by_task(evaluations, OF_FIRST_ANSWERS, PARTIAL_TASKS), ""]
    lines += ["## asked again by the step", "", *tabulate_both(evaluations, *EXPERIMENTS["asked again"]), ""]
    drafted = tabulate_two(evaluations, *EXPERIMENTS["drafted"], FIRST | WHOLE_AND_END)
    lines += ["## drafted, with VARL", "", *drafted, ""]
    lines += [
        "## how the advice ends",
        "",
        *tabulate_steps(evaluations, *EXPERIMENTS["rules, end"], same_seeds=True),
        "",
    ]
    ways, their_tasks = EXPERIMENTS["rules, end"]
    of_ways = tabulate_parts(evaluations, {way: way for way in ways}, their_tasks, AFTER_CUTOFF)
    lines += ["## ways to end", "", *of_ways, ""]
    lines += ["## published", "", *tabulate_published(evaluations), ""]
    lines += ["## beyond Meta-World", "", *tabulate_beyond(), ""]
    lines += ["## where small actions decide", "", *tabulate_crane(), ""]
    lines += ["## what each part is worth", "", *tabulate_named(evaluations, PARTS), ""]
    lines += ["## settings, with rules", "", *tabulate_named(evaluations, SETTINGS, LATE_TASKS), ""]
    lines += ["## demonstrations", "", *tabulate_named(evaluations, DEMONSTRATIONS, same_seeds=True), ""]
    for method in ("five lines", "five lines, unbounded pull"):
        lines += [f"## {method}", "", *tabulate_seeds(evaluations, method, RULES_TASKS), ""]
    lines += ["## five lines, SAC", "", *tabulate_both(evaluations, ("five lines", "five lines, SAC"), RULES_TASKS), ""]
    longer, longer_tasks = EXPERIMENTS["five lines, longer"]
    for method in longer:
        lines += [f"## {method}", "", *tabulate_seeds(evaluations, method, longer_tasks), ""]
    lines += ["## settings, the README's code", "", *tabulate_steps(evaluations, *EXPERIMENTS["settings"]), ""]
    for steps in (FULL_STEPS, SHORT_STEPS):
        lines += [f"## main, {FRAME_SKIP * steps} steps", ""]
        lines += [*tabulate(evaluations, evaluations.compared("main"), TASKS, steps), ""]
    for experiment, (_, tasks) in EXPERIMENTS.items():
        methods = evaluations.compared(experiment)
        has_own_steps = any("eval_freq" in METHODS[method] for method in methods)
        is_above = experiment == "main" or experiment.startswith("fifteen tasks")
        if methods and not is_above and not has_own_steps:
            names = [describe(method, experiment) if experiment != "rivals" else method for method in methods]
            lines += [f"## {experiment}, {FRAME_SKIP * SHORT_STEPS} steps", ""]
            lines += [*tabulate(evaluations, methods, tasks, SHORT_STEPS, names), ""]
    path.write_text("\n".join(lines) + "\n")
