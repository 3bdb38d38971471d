"""What the pages say of results follows from the data beside them."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import cells
import result_tables
import results
import rules_alone
from evaluations import Evaluations
from sb3_varl.metaworld import MISTAKES
from sb3_varl.training import explain

BENCHMARK = Path(__file__).parents[1] / "examples" / "benchmark"
DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.slow
def test_the_tables_follow_from_the_data(tmp_path):
    """Whoever adds runs draws the figures again, and copies the main tables into docs/results*.md."""
    kept = BENCHMARK / "results"
    result_tables.write_tables(Evaluations(results.Results(kept)), tmp_path / "tables.md")
    tables = (kept / "tables.md").read_text()
    assert (tmp_path / "tables.md").read_text() == tables
    page = "\n".join(file.read_text() for file in sorted(DOCS.glob("results*.md")))
    for name in (
        "rules alone",
        "asked again",
        "drafted",
        "fifteen tasks, 60000 steps",
        "holding",
        "ways to end",
        "prompts",
        "what is made of rules",
        "what is made of rules, by task",
        "rules, threshold 0.1",
        "beyond Meta-World",
        "where small actions decide",
        "demonstrations",
        "first answers",
        "asked again by the step",
        "drafted, with VARL",
        "five lines",
        "five lines, SAC",
        "five lines, 100k",
        "five lines, 100k, no hold",
        "published",
        "main, 102000 steps",
        "main, 60000 steps",
        "rivals, 60000 steps",
        "SAC, 60000 steps",
        "what each part is worth",
        "settings, with rules",
        "settings, the README's code",
    ):
        assert table_of(tables, name) in page
    assert table_of(tables, "what is made of rules") in (DOCS.parent / "README.md").read_text()


def table_of(tables, name):
    return tables.split(f"## {name}\n\n")[1].split("\n\n")[0]


def at_end(evaluations, method, task, seed):
    success = evaluations.table(method, [f"{task}-v3"], [seed], "success", cells.SHORT_STEPS)[1]
    return f"{success[..., -results.N_LAST :].mean():.0%}"


def test_the_sentences_on_the_fifteen_tasks_follow_from_the_data():
    """Evaluations are 6 000 steps apart; the third is at the cutoff, and holding ends at the sixth."""
    evaluations, tasks = Evaluations(results.Results(BENCHMARK / "results")), cells.MAIN_TASKS
    seeds = evaluations.seeds(["SAC", "rules"], tasks)
    success = evaluations.table("rules", tasks, seeds, "success", cells.SHORT_STEPS)[1]
    in_last_step = evaluations.table("rules", tasks, seeds, "success_at_end", cells.SHORT_STEPS)[1]
    sac = evaluations.table("SAC", tasks, seeds, "success", cells.SHORT_STEPS)[1]
    end, by_step = success[..., -results.N_LAST :].mean(axis=-1), success.mean(axis=(0, 1))
    overall = f"{end.mean():.0%}", f"{in_last_step[..., -results.N_LAST :].mean():.0%}"
    without = f"{sac[..., -results.N_LAST :].mean():.0%}"
    after = success[..., 3:]
    low = np.argwhere(after < 0.8)
    lowest = min(low, key=lambda place: after[tuple(place)])
    name, where = tasks[lowest[1]].removesuffix("-v3"), f"{18_000 + 6_000 * (1 + lowest[2]):,}".replace(",", " ")

    def within(values):
        ends = f"{values.min():.0%}", f"{values.max():.0%}"
        return f"at {ends[0]}" if ends[0] == ends[1] else f"between {ends[0]} and {ends[1]}"

    said = (
        f"**{overall[0]} of the episodes succeed, in {overall[1]} their last step does**, with the {len(seeds)} seeds",
        f"**and with SAC {without} succeed**, with the same seeds",
        f"VARL is at {by_step[0]:.0%} after 6 000 steps, at {by_step[2]:.0%} when the advice ends, "
        f"{within(by_step[3:6])} while it holds, at {by_step[6]:.0%} at the first evaluation after that, and "
        f"{within(by_step[7:])} from there on",
        f"{len(low)} of {after.size} evaluations after the cutoff are below 80%, the lowest "
        f"{after[tuple(lowest)]:.0%} ({name}, seed {seeds[lowest[0]]}, at step {where})",
        *(
            f"{tasks[j].removesuffix('-v3')} {end[i, j]:.0%} (seed {seeds[i]})"
            for i, j in zip(*np.where(end < 0.9), strict=True)
        ),
        f"The lowest run ends at {end.min():.0%}",
        f"103 and 104 never, with which VARL ends at {end[3].mean():.0%} and {end[4].mean():.0%}",
    )
    assert seeds == [100, 101, 102, 103, 104]
    page = " ".join((DOCS / "results.md").read_text().split())
    assert [sentence for sentence in said if sentence not in page] == []
    readme = (DOCS.parent / "README.md").read_text()
    assert (
        f"(docs/results.md#fifteen-tasks-with-recorded-rules) VARL ends at **{overall[0]}** and SAC at {without}."
        in readme
    )


def test_what_is_said_of_what_else_can_be_made_of_rules_follows_from_the_data():
    """The tables have the numbers; what is said beside them are the greatest differences."""
    evaluations = Evaluations(results.Results(BENCHMARK / "results"))
    methods = list(result_tables.OF_RULES)

    def mean(method, part, tasks=cells.MAIN_TASKS, seeds=None):
        of_tasks = [
            evaluations.table(
                method, [task], seeds or evaluations.seeds(methods, [task]), "success", cells.SHORT_STEPS
            )[1]
            for task in tasks
        ]
        return np.mean([success[..., part].mean() for success in of_tasks])

    first, whole, end = slice(1), slice(None), slice(-results.N_LAST, None)
    imitated, varl, always, rolled, _ = methods
    page = " ".join((DOCS / "results.md").read_text().split())
    ahead = [task for task in cells.MAIN_TASKS if mean(varl, end, [task]) > mean(rolled, end, [task]) + 0.095]
    assert sorted(task.removesuffix("-v3") for task in ahead) == [
        "basketball",
        "coffee-pull",
        "pick-place",
        "soccer",
        "stick-push",
    ]
    assert (
        f"{mean(varl, first):.0%} after 6 000 steps in place of {mean(rolled, first):.0%}, {mean(varl, whole):.0%} "
        f"over the run in place of {mean(rolled, whole):.0%}, and {mean(varl, end):.0%} at the end in place of "
        f"{mean(rolled, end):.0%}" in page
    )
    for part in (first, whole, end):
        assert mean(imitated, part) > mean(varl, part)
    of_both = [
        f"{mean(imitated, part, ['assembly-v3']):.0%}{when} in place of {mean(varl, part, ['assembly-v3']):.0%}"
        for part, when in ((whole, " over the run"), (end, " at the end"))
    ]
    assert f"later and lower ({', '.join(of_both)})" in page
    assert mean(varl, end) - 0.02 < mean(always, end) < mean(varl, end)
    assert mean(varl, first) + 0.1 < mean(always, first)
    late = mean(always, end, ["assembly-v3"], [102])
    assert f"had hardly begun to succeed at the cutoff, and ended at {late:.0%}" in page


def test_what_is_said_of_first_answers_follows_from_the_data():
    evaluations = Evaluations(results.Results(BENCHMARK / "results"))

    def ends(method, seeds):
        tasks = ("stick-pull-v3", "door-open-v3", "soccer-v3")
        success = evaluations.table(method, tasks, seeds, "success", cells.SHORT_STEPS)[1]
        return [f"{end:.0%}" for end in success[..., -results.N_LAST :].mean(axis=(0, 2))]

    page, readme, rules_page = (
        " ".join(file.read_text().split())
        for file in (DOCS / "results.md", DOCS.parent / "README.md", DOCS / "rules.md")
    )
    varl, imitated, always = (
        ends(f"rules, first answer{how}", [100, 101]) for how in ("", ", imitated", ", gate always")
    )
    three = "{}, {} and {}"
    assert f"VARL comes to {three.format(*varl)}, where imitation comes to {three.format(*imitated)}" in readme
    assert "from 75% VARL came to {}, from 80% to {}, and from 85% to {}".format(*varl) in page
    assert f"VARL comes to {three.format(*varl)}**" in page
    assert f"VARL came to {three.format(*varl)}" in rules_page
    assert f"With the gate always open it comes to {three.format(*always)}." in page
    door = [at_end(evaluations, "rules, first answer, imitated", "door-open", seed) for seed in (100, 101)]
    assert f"on door-open it ends at {' and '.join(door)}, where" in page


def test_what_is_said_of_how_long_rules_were_held_follows_from_the_data():
    evaluations = Evaluations(results.Results(BENCHMARK / "results"))
    held = evaluations.column("five lines", cells.RULES_TASKS, [100, 101, 102], "held", 6)[..., -1]
    said = f"held in {held.min():,.0f} to {held.max():,.0f} of these 30 000 steps".replace(",", " ")
    assert said in " ".join((DOCS / "results.md").read_text().split()), said


def test_what_is_said_of_sac_with_settings_of_its_own_follows_from_the_data():
    evaluations = Evaluations(results.Results(BENCHMARK / "results"))
    page, readme = (" ".join(file.read_text().split()) for file in (DOCS / "results.md", DOCS.parent / "README.md"))
    ends = {}
    for method in ("SAC", "SAC, temperature 0.05"):
        success = evaluations.table(method, cells.MAIN_TASKS, [100], "success", cells.SHORT_STEPS)[1]
        ends[method] = success[0, :, -results.N_LAST :].mean(axis=-1)
    tuned = ends["SAC, temperature 0.05"]
    assert f"comes to {tuned.mean():.0%} on the fifteen tasks, from {ends['SAC'].mean():.0%}" in page
    assert (tuned == 0).sum() == 7
    assert f"with the best of eight other settings {tuned.mean():.0%}" in readme
    names = [task.removesuffix("-v3") for task in cells.MAIN_TASKS]
    never = [name for name, end in zip(names, tuned, strict=True) if end == 0]
    assert f"at 0% on {', '.join(never[:-1])} and {never[-1]}" in page
    changed = [
        f"{name} {before:.0%} to {after:.0%}"
        for name, before, after in zip(names, ends["SAC"], tuned, strict=True)
        if abs(after - before) >= 0.05
    ]
    assert f"; {'; '.join(changed)})" in page
    again = {
        (method, task): at_end(evaluations, method, task, 101)
        for method in ("SAC", "SAC, temperature 0.05")
        for task in ("reach", "button-press-topdown", "drawer-open", "drawer-close", "push", "pick-place")
    }
    now = {task: success for (method, task), success in again.items() if method != "SAC"}
    assert (
        f"reach {now['reach']} (untuned {again['SAC', 'reach']}), button-press-topdown {now['button-press-topdown']}, "
        f"drawer-open {now['drawer-open']} (untuned {again['SAC', 'drawer-open']}), drawer-close "
        f"{now['drawer-close']}, push and pick-place {now['push']};" in page
    )
    rules = evaluations.table("rules", [f"{name}-v3" for name in never], [100], "success", cells.SHORT_STEPS)[1]
    best = rules[0, :, -results.N_LAST :].mean(axis=-1)
    assert f"where VARL ends at {best.min():.0%} to {best.max():.0%}" in page


def test_what_is_said_of_each_part_follows_from_the_data():
    evaluations, page = Evaluations(results.Results(BENCHMARK / "results")), (DOCS / "results_ablations.md").read_text()

    def success(method, task):
        return evaluations.table(method, [task], [100, 101, 102], "success", cells.SHORT_STEPS)[1]

    def end(method, task):
        return f"{success(method, task)[..., -results.N_LAST :].mean():.0%}"

    both, rolled, term, earlier = ("rules", "rules, roll-ins only", "rules, no roll-ins", "{}, earlier prompt")
    sooner = [f"{100 * (success(both, task).mean() - success(rolled, task).mean()):.0f}" for task in cells.RULES_TASKS]
    hard = cells.RULES_TASKS[:2]
    page = " ".join(page.split())
    for said in (
        f"the term alone does little**, {' and '.join(end(term, task) for task in hard)}, and",
        f"by {', '.join(sooner[:3])} and {sooner[3]} points over the run",
        f"pick-place end higher ({end(both, hard[1])} in place of {end(rolled, hard[1])})",
        f"{end('rules, no roll-ins, unbounded pull', hard[0])} with the term alone on push and pick-place, and "
        f"{' and '.join(end(earlier.format(rolled), task) for task in hard)} with roll-ins alone",
    ):
        assert said in page, said


def test_what_is_said_of_one_setting_at_a_time_follows_from_the_data():
    evaluations, page = Evaluations(results.Results(BENCHMARK / "results")), (DOCS / "results_ablations.md").read_text()

    def success(method, seed=None):
        seeds = evaluations.seeds([method], cells.LATE_TASKS) if seed is None else [seed]
        return evaluations.table(method, cells.LATE_TASKS, seeds, "success", cells.SHORT_STEPS)[1]

    def whole(name):
        return f"{success(f'rules, {name}').mean():.0%}"

    def at_end(name):
        return f"{success(f'rules, {name}')[..., -results.N_LAST :].mean():.0%}"

    def of_seeds(name, part):
        first, second, third = [f"{success(f'rules, {name}', seed)[..., part].mean():.0%}" for seed in (100, 101, 102)]
        return f"{first}, {second} and {third}"

    def spread(part):
        of_seeds = [success("rules", seed)[..., part].mean() for seed in evaluations.seeds(["rules"], cells.LATE_TASKS)]
        return f"between {min(of_seeds):.0%} and {max(of_seeds):.0%}"

    end = slice(-results.N_LAST, None)
    page = " ".join(page.split())
    for said in (
        f"{whole('raw observations')} without the one and {whole('1-step returns')} without the other, where the "
        f"defaults' five seeds are {spread(slice(None))}",
        f"a label in each eighth step {whole('label_freq 8')}",
        f"the learnt temperature {whole('learnt temperature')}, the discount of 0.99 {whole('discount 0.99')} and the "
        f"Gaussian noise {whole('other noise')}",
        f"comes to {of_seeds('label_freq 1', slice(None))} over the run, and ends at {of_seeds('label_freq 1', end)}",
        f"come to {of_seeds('plain critics', slice(None))}, and end at {of_seeds('plain critics', end)}",
        f"{success('rules, gate always')[..., 0].mean():.0%} after 6 000 steps where the defaults' five seeds are "
        f"{spread(slice(1))}, as",
        f"over the run it comes to {whole('gate always')}",
        f"any of the defaults' five ({of_seeds('gate always', slice(None))}), and it ends at {at_end('gate always')} (",
        f"the Q-filter ({whole('gate likelihood')} and {whole('gate q_filter')} over the run, ends "
        f"{at_end('gate likelihood')} and {at_end('gate q_filter')})",
        f"the coefficient ({whole('coef 10')} and {whole('coef 50')}, ends {at_end('coef 10')} and "
        f"{at_end('coef 50')})",
        f"guidance batches of 32 and 512 ({whole('batch 32')} and {whole('batch 512')}, ends {at_end('batch 32')} and "
        f"{at_end('batch 512')})",
        f"defaults' seeds are {spread(end)}, the discount is at {success('rules, discount 0.99')[..., end].mean():.0%}",
        f"in place of half ({whole('roll_in 0.25')} and {whole('roll_in 0.75')} over the run, ends "
        f"{at_end('roll_in 0.25')} and {at_end('roll_in 0.75')})",
    ):
        assert said in page, said


def test_what_is_said_of_rules_from_drafts_follows_from_the_data():
    evaluations, page = Evaluations(results.Results(BENCHMARK / "results")), (DOCS / "results_ablations.md").read_text()

    def success(method, part, tasks=cells.MAIN_TASKS):
        seeds = {task: evaluations.seeds(("rules", "rules, drafted"), [task]) for task in tasks}
        means = [
            evaluations.table(method, [task], seeds[task], "success", cells.SHORT_STEPS)[1][..., part].mean()
            for task in tasks
        ]
        return f"{np.mean(means):.0%}"

    end, first = slice(-results.N_LAST, None), slice(1)
    (coffee, soccer), pick = (
        [success("rules, drafted", end, [f"{task}-v3"]) for task in tasks]
        for tasks in (("coffee-pull", "soccer"), ("pick-place",))
    )
    assert coffee == soccer
    alone = pd.read_csv(rules_alone.RESULTS)
    of_grid = alone[alone["prompt"] == rules_alone.IN_THE_GRID]
    partly = {row.task: round(20 * row.success) for row in of_grid.itertuples() if row.success < 1}
    page = " ".join(page.split())
    for said in (
        f"measured VARL comes to {success('rules, drafted', end)}**, in place of {success('rules', end)} with",
        f"with the same seeds SAC comes to {success('SAC', end)}.",
        f"{success('rules, drafted', first)} after 6 000 steps in place of {success('rules', first)}",
        f"coffee-pull and soccer at {coffee} and pick-place at {pick[0]}",
        f"coffee-pull's in {partly.pop('coffee-pull-v3')} of 20 episodes, soccer's in {partly.pop('soccer-v3')}",
    ):
        assert said in page, said
    assert partly == {}
    readme, rules_page = (
        " ".join(file.read_text().split()) for file in (DOCS.parent / "README.md", DOCS / "results_rules.md")
    )
    short = (
        f"{success('rules, drafted', end)} on the fifteen tasks, in place of {success('rules', end)} with sheets that"
    )
    assert short in rules_page
    assert f"comes to {success('rules, drafted', end)} on these fifteen" in readme


def test_what_is_said_of_a_lower_threshold_follows_from_the_data():
    evaluations, page = Evaluations(results.Results(BENCHMARK / "results")), (DOCS / "results_ablations.md").read_text()

    def by_step(method, tasks, column="success"):
        return evaluations.table(method, tasks, [100, 101, 102], column, cells.SHORT_STEPS)[1]

    lower, usual = (by_step(method, cells.MAIN_TASKS) for method in ("rules, threshold 0.1", "rules"))
    first, at_cutoff, whole, end = (
        (f"{lower[..., part].mean():.0%}", f"{usual[..., part].mean():.0%}")
        for part in (slice(1), slice(2, 3), slice(None), slice(-results.N_LAST, None))
    )
    ranges = []
    for method in ("rules, threshold 0.1", "rules"):
        for task in ("pick-place-v3", "basketball-v3"):
            of_seeds = by_step(method, [task])[..., -results.N_LAST :].mean(axis=(1, 2))
            ranges.append(f"{100 * of_seeds.min():.0f} to {100 * of_seeds.max():.0f}%")
    ahead = [
        (by_step(method, cells.MAIN_TASKS, "q_greedy") - by_step(method, cells.MAIN_TASKS, "q_advised"))[..., 2].mean()
        for method in ("rules", "rules, threshold 0.1")
    ]
    page = " ".join(page.split())
    for said in (
        f"{first[0]} after 6 000 steps in place of {first[1]}, {at_cutoff[0]} in place of {at_cutoff[1]} when the "
        f"advice ends, and {whole[0]} over the whole run in place of {whole[1]}, but {end[0]} at the end in place "
        f"of {end[1]}",
        f"on pick-place ({ranges[0]} in place of {ranges[2]}) and on basketball ({ranges[1]} in place of {ranges[3]})",
        f"by {ahead[0]:.2f} on average with 0.4, and by {ahead[1]:.2f} with 0.1",
    ):
        assert said in page, said


def test_what_is_said_of_demonstrations_follows_from_the_data():
    evaluations = Evaluations(results.Results(BENCHMARK / "results"))

    def end(method, task):
        success = evaluations.table(method, [f"{task}-v3"], [100, 101, 102], "success", cells.SHORT_STEPS)[1]
        return f"{success[..., -results.N_LAST :].mean():.0%}"

    ten = [f"SAC, 10 demonstrations {how}" for how in ("in half of each batch", "imitated")]
    (push, pick), (push_of_varl, pick_of_varl) = (
        [[end(method, task) for method in methods] for task in ("push", "pick-place")] for methods in (ten, ["rules"])
    )
    page, readme = (" ".join(file.read_text().split()) for file in (DOCS / "results.md", DOCS.parent / "README.md"))
    assert (
        f"on push they come to {push[0]} and {push[1]}, on pick-place to {pick[0]} and {pick[1]}, where VARL is at "
        f"{push_of_varl[0]} and {pick_of_varl[0]}" in page
    )
    assert (
        f"come to {push[0]} on push and to {pick[1]} on pick-place at most, where VARL is at {push_of_varl[0]} and "
        f"{pick_of_varl[0]}" in readme
    )
    few = [f"SAC, 3 demonstrations {how}" for how in ("in half of each batch", "imitated")]
    assert [end(method, "drawer-open") for method in few] == ["100%", "100%"]
    assert (
        "for button-press-topdown ({} and {})".format(*(end(method, "button-press-topdown") for method in few)) in page
    )
    for method, task in itertools.product(ten, ("drawer-open", "button-press-topdown")):
        assert int(end(method, task).rstrip("%")) >= 98


def test_what_is_said_of_small_actions_follows_from_the_data():
    rows = pd.read_csv(result_tables.CRANE)
    ends = {
        method: [run.sort_values("step")["success"][-results.N_LAST :].mean() for _, run in of_method.groupby("seed")]
        for method, of_method in rows.groupby("method")
    }
    seeds = {method: len(of_seeds) for method, of_seeds in ends.items()}
    readme = " ".join((DOCS.parent / "README.md").read_text().split())
    assert (
        f"VARL ends at {np.mean(ends['default']):.0%}, with `gate_threshold=0.1` at "
        f'{np.mean(ends["threshold 0.1"]):.0%} and with `gate="always"` at {np.mean(ends["gate always"]):.0%} (['
        in readme
    )
    assert f"([{['one', 'two', 'three'][min(seeds.values()) - 1]} seed" in readme


def test_what_is_said_of_environments_beyond_metaworld_follows_from_the_data():
    rows = pd.read_csv(result_tables.BEYOND)

    def end(method, environment):
        runs = rows[(rows["method"] == method) & (rows["environment"] == environment)].sort_values("step")
        return f"{runs.groupby('seed')['success'].apply(lambda run: run[-results.N_LAST :].mean()).mean():.0%}"

    readme = " ".join((DOCS.parent / "README.md").read_text().split())
    for name, environment in (
        ("FetchPickAndPlace", "FetchPickAndPlace-v4"),
        ("panda-gym's PickAndPlace", "PandaPickAndPlace-v3"),
        ("a maze", "PointMaze_Medium-v3"),
    ):
        assert f"{name} ({end('VARL', environment)}, SAC {end('SAC', environment)}" in readme


def test_the_table_of_mistakes_follows_from_the_data():
    """Success of the last three evaluations, and of those until the cutoff."""
    evaluations = Evaluations(results.Results(BENCHMARK / "results"))
    n_until_cutoff = cells.BASE["shaping"]["shaping_steps"] // cells.BASE["eval_freq"]

    def cell(method, task):
        if 100 not in evaluations.seeds([method], [task]):
            return "\N{EN DASH}"
        _, success = evaluations.table(method, [task], [100], "success", cells.SHORT_STEPS)
        parts = success[0, 0, -results.N_LAST :], success[0, 0, :n_until_cutoff]
        return "{:.0%} ({:.0%})".format(*(part.mean() for part in parts))

    page = (DOCS / "results_ablations.md").read_text()
    rows = {"SAC, no advice": ("SAC", ""), "no mistake": ("rules", "")}
    rows |= {f"`{name}`": (f"rules, mistake {name}", f"rules, mistake {name}, corrected") for name in MISTAKES}
    for name, methods in rows.items():
        found = [cell(method, task) for task in ("push-v3", "drawer-open-v3") for method in methods]
        assert f"| {name} | {' | '.join(found)} |" in page


def test_what_is_said_of_mistakes_follows_from_the_data():
    evaluations = Evaluations(results.Results(BENCHMARK / "results"))

    def end(method, task):
        (success,) = evaluations.table(method, [task], [100], "success", cells.SHORT_STEPS)[1]
        return success[0, -results.N_LAST :].mean(), success[0]

    tasks = ("push-v3", "drawer-open-v3")
    corrected = [end(f"rules, mistake {name}, corrected", task)[0] for name in MISTAKES for task in tasks]
    push, drawer = ([end(f"rules, mistake {name}", task)[0] for name in MISTAKES] for task in tasks)
    *five, best = sorted(push)
    not_held, by_step = end("rules, mistake too_fast, no hold", "push-v3")
    page = " ".join((DOCS / "results_ablations.md").read_text().split())
    assert f"**All that is corrected ends at {min(corrected):.0%} to {max(corrected):.0%}**" in page
    assert min(drawer) == 1
    assert f"Five mistakes of six leave little or nothing of push, {max(five):.0%} at most" in page
    assert f"and ends at {best:.0%}. Without holding" in page
    assert f"it ends at {not_held:.0%}, after {by_step[3]:.0%} in the first evaluation behind the cutoff" in page
    said = " ".join((DOCS / "results.md").read_text().split())
    assert (
        f"on push for one of six, in part ({best:.0%}); corrected in the middle of the advice they all end at" in said
    )


def test_what_is_said_of_gates_that_are_open_at_the_cutoff_follows_from_the_data():
    kept = results.Results(BENCHMARK / "results")
    many, few = [], []
    for (method, _, _), run in kept.finished().items():
        if method in ("rules, earlier prompt", "rules, unbounded pull"):
            cutoff = json.loads(run["configuration"])["shaping"]["shaping_steps"]
            (gates,) = [float(row["gate_open"]) for row in kept.evaluations(run["id"]) if int(row["step"]) == cutoff]
            (many if gates > explain._MUCH_DISAGREEMENT else few).append(float(run["success"]))
    said = (
        f"in {len(many)} of {len(many + few)} runs, all on basketball and soccer, which ended at {min(many):.0%} to "
        f"{max(many):.0%}; the other {len(few)} ended at {np.mean(few):.0%} on average, the lowest at {min(few):.0%}"
    )
    assert said in " ".join((DOCS / "results_actions.md").read_text().split()), said
