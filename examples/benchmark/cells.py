"""What the grid is made of: methods, tasks and seeds, and the settings of each run."""

import copy
import dataclasses
import itertools
import json
import math
from typing import Any

from sb3_varl import SPARSE
from sb3_varl.algorithms.shaping import MIN_STD
from sb3_varl.metaworld import MISTAKES

Settings = dict[str, Any]

# An action holds for 3 of the simulator's steps, or until the first success, so these are 102 000 and 60 000 of them.
FRAME_SKIP = 3
FULL_STEPS, SHORT_STEPS = 34_000, 20_000
# Settings were chosen with seeds 0 and 1. Ten runs with seed 100 had been seen when VARL's schedule was changed for the
# last time, none with the others.
SEEDS = (100, 101, 102)

TASKS = (
    "reach-v3",
    "drawer-close-v3",
    "button-press-topdown-v3",
    "window-open-v3",
    "door-open-v3",
    "drawer-open-v3",
    "push-v3",
)
# Those that SAC had not solved within 60 000 steps in its runs with seed 100.
ABLATION_TASKS = ("button-press-topdown-v3", "door-open-v3", "drawer-open-v3")

# Those that the shortest code has to solve.
RULES_TASKS = ("push-v3", "pick-place-v3", "drawer-open-v3", "button-press-topdown-v3")
# Those whose answers to the earlier prompt were recorded before this package's settings for rules were chosen.
RECORDED_TASKS = (
    *RULES_TASKS,
    "window-open-v3",
    "door-open-v3",
    "assembly-v3",
    "hammer-v3",
    "coffee-pull-v3",
    "stick-push-v3",
    "soccer-v3",
    "peg-insert-side-v3",
)
# Of the three that were added for the main table, SAC learns reach and drawer-close, and nobody had trained anything on
# basketball.
MAIN_TASKS = ("reach-v3", "drawer-close-v3", *RECORDED_TASKS, "basketball-v3")


def _merge(base: Settings, *changes: Settings) -> Settings:
    merged = copy.deepcopy(base)
    for change in changes:
        for key, value in change.items():
            both = isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = _merge(merged[key], value) if both else copy.deepcopy(value)
    return merged


# Three of the five that take VARL longest.
LATE_TASKS = ("push-v3", "assembly-v3", "coffee-pull-v3")
# Those whose first answer to the earlier prompt does not solve its task in every episode: in 75, 80, 85 and 0% of them.
PARTIAL_TASKS = ("stick-pull-v3", "door-open-v3", "soccer-v3", "peg-insert-side-v3")

# What all methods share. "advice" and "advisor" are the arguments of AdvisorCallback and ScriptedAdvisor, "model" those
# of the algorithm, which is VARL where nothing else is said.
BASE: Settings = {
    "steps": SHORT_STEPS,
    "eval_freq": 2000,
    "env": {"frame_skip": FRAME_SKIP, "max_episode_steps": 150 // FRAME_SKIP},
    "normalize": True,
    "model": {
        "policy": "LayerNormMlpPolicy",
        "learning_rate": 1e-3,
        "batch_size": 128,
        "learning_starts": 300,
        "tau": 0.01,
        "gamma": 0.97,
        "train_freq": 8,
        "gradient_steps": 4,
        "n_steps": 5,
        "ent_coef": 0.005,
        "use_sde": True,
        "policy_kwargs": {"log_std_init": -2.5},
    },
    "shaping": {
        "shaping_coef": 20.0,
        "shaping_steps": 6000,
        "gate": "distance",
        "gate_threshold": None,
        "guidance_batch_size": 128,
        # Of the shaping term; runs from before there was one have 0.
        "least_std": MIN_STD,
    },
    "advice": {"n_queries": 6, "first_query": 300, "query_freq": 700, "states_per_query": 32, "window": 300},
    "advisor": {"noise": 0.2, "resolution": 0.25, "error_rate": 0.05},
}

# Answers to a prompt that did not say yet what a policy learns easily, after a correction where there was one.
EARLIER_PROMPT = "recorded, earlier prompt"
FIRST_ANSWER = f"{EARLIER_PROMPT}, first answer"
# Second answers to the present prompt, of a model that knew nothing of the first.
ASKED_AGAIN = "recorded, asked again"
# Answers to a prompt that had nothing but a sentence and what a program measured.
DRAFTED = "recorded, drafted"

# What each method changes; None leaves a part out.
NO_ADVICE: Settings = {"advice": None, "advisor": None, "shaping": None}
LEARNT_TEMPERATURE: Settings = {"ent_coef": "auto_0.1"}
OTHER_NOISE: Settings = {"use_sde": False, "policy_kwargs": None}
# Until the cutoff, as in the paper; runs from before rules could hold what was reached after it had no other way.
RECORDED_RULES: Settings = {"advisor": "recorded", "advice": {"n_queries": None, "hold": False}}
HOLD: Settings = {"advice": {"hold": True}}
# Nothing but the advice moves the policy, from the first label to the end: what a supervised learner makes of rules, in
# the states that it comes to itself.
IMITATED: Settings = {
    "advice": {"hold": False},
    "shaping": {"gate": "always", "shaping_coef": 10_000.0, "shaping_steps": SHORT_STEPS},
}
# One at a time, what might suit SAC better than what was chosen for VARL.
FOR_SAC: dict[str, Settings] = {
    "learnt temperature": LEARNT_TEMPERATURE,
    "other noise": OTHER_NOISE,
    "temperature as SAC has it": {"ent_coef": "auto"},
    "temperature 0.05": {"ent_coef": 0.05},
    "more noise": {"policy_kwargs": {"log_std_init": -1.5}},
    "discount 0.99": {"gamma": 0.99},
    "10-step returns": {"n_steps": 10},
    "twice the updates": {"gradient_steps": 8},
}
# Mistakes of a model's kind in the recorded rules, which stand for half of the time until the cutoff, or for all of it.
CORRECTED: Settings = {"n_queries": 2, "first_query": 300, "query_freq": 2700}


def _with_mistakes(base: Settings, suffix: str = "") -> dict[str, Settings]:
    methods = dict[str, Settings]()
    for mistake in MISTAKES:
        made = _merge(base, {"mistake": {"mistake": mistake}})
        methods[f"rules, mistake {mistake}{suffix}"] = made
        mended: Settings = {"mistake": {"corrected_at": 1}, "advice": CORRECTED}
        methods[f"rules, mistake {mistake}, corrected{suffix}"] = _merge(made, mended)
    return methods


EARLIER_RULES: Settings = {**RECORDED_RULES, "advisor": EARLIER_PROMPT}
UNBOUNDED_RULES = _merge(EARLIER_RULES, {"shaping": {"least_std": 0.0}})
RULES_WITH_MISTAKES = _with_mistakes(_merge(RECORDED_RULES, HOLD))
EARLIER_MISTAKES = {
    **_with_mistakes(UNBOUNDED_RULES, ", unbounded pull"),
    **_with_mistakes(_merge(UNBOUNDED_RULES, {"advice": {"roll_in": 0.0}}), ", no roll-ins, unbounded pull"),
}
WHAT_SAC_BRINGS: dict[str, Settings] = {
    "raw observations": {"normalize": False},
    "plain critics": {"model": {"policy": "MlpPolicy"}},
    "learnt temperature": {"model": LEARNT_TEMPERATURE},
    "1-step returns": {"model": {"n_steps": 1}},
    "discount 0.99": {"model": {"gamma": 0.99}},
    "other noise": {"model": OTHER_NOISE},
}
# One setting at a time, by what it is about.
RULES_ABLATIONS: dict[str, dict[str, Settings]] = {
    "gate": {f"gate {gate}": {"shaping": {"gate": gate}} for gate in ("likelihood", "q_filter", "always")},
    "coefficient": {f"coef {coef:g}": {"shaping": {"shaping_coef": coef}} for coef in (10.0, 50.0)},
    "batch": {f"batch {size}": {"shaping": {"guidance_batch_size": size}} for size in (32, 512)},
    "share of roll-ins": {f"roll_in {share:g}": {"advice": {"roll_in": share}} for share in (0.25, 0.75)},
    "labels": {f"label_freq {freq}": {"advice": {"label_freq": freq}} for freq in (1, 8)},
    "SAC": WHAT_SAC_BRINGS,
}
# The README's code: the environment, the model and the callback as they are by themselves.
FIVE_LINES: Settings = {
    "steps": 60_000,
    "eval_freq": 10_000,
    "env": {"frame_skip": 1, "max_episode_steps": 150},
    "model": {"learning_starts": 100, "policy_kwargs": None, **SPARSE},
    "shaping": {"shaping_steps": 30_000},
    "advisor": "recorded",
    "advice": {"n_queries": None, "first_query": None, "query_freq": None, "window": 1000, "hold": False},
}
# SAC's own, of what SPARSE and its company change.
SACS_OWN: dict[str, Settings] = {
    "plain critics": {"model": {"policy": "MlpPolicy"}},
    "raw observations": {"normalize": False},
    "learning rate 0.0003": {"model": {"learning_rate": 3e-4}},
    "batch of 256": {"model": {"batch_size": 256}},
    "tau 0.005": {"model": {"tau": 0.005}},
    "discount 0.99": {"model": {"gamma": 0.99}},
    "an update each step": {"model": {"train_freq": 1, "gradient_steps": 1}},
    "1-step returns": {"model": {"n_steps": 1}},
    "learnt temperature": {"model": {"ent_coef": "auto"}},
    "Gaussian noise": {"model": {"use_sde": False}},
}
FEW_OF_SPARSE = ("plain critics", "raw observations", "discount 0.99", "1-step returns")
UNBOUNDED_FIVE_LINES = _merge(FIVE_LINES, {"advisor": EARLIER_PROMPT, "shaping": {"least_std": 0.0}})
OTHER_SETTINGS: dict[str, Settings] = {
    **{f"five lines, {name}": _merge(FIVE_LINES, HOLD, change) for name, change in SACS_OWN.items()},
    "five lines, SAC's defaults": _merge(FIVE_LINES, HOLD, *SACS_OWN.values()),
    # The shortest list that was found to hold.
    "five lines, four settings": _merge(
        FIVE_LINES, HOLD, *(change for name, change in SACS_OWN.items() if name not in FEW_OF_SPARSE)
    ),
    "five lines, fading": _merge(FIVE_LINES, {"shaping": {"shaping_coef": "fading_20"}}),
    "five lines, earlier prompt": _merge(FIVE_LINES, {"advisor": EARLIER_PROMPT}),
    "five lines, unbounded pull": UNBOUNDED_FIVE_LINES,
    **{
        f"five lines, {name}, unbounded pull": _merge(UNBOUNDED_FIVE_LINES, change) for name, change in SACS_OWN.items()
    },
}
METHODS: dict[str, Settings] = {
    "SAC": NO_ADVICE,
    "VARL": {},
    # Advice of other qualities
    "VARL, clean advice": {"advisor": {"noise": 0.0, "resolution": 0.0, "error_rate": 0.0}},
    "VARL, bad advice": {"advisor": {"noise": 0.4, "resolution": 0.5, "error_rate": 0.6}},
    # Its relatives, with what they have in rl-zoo's YAML
    "TQC": {
        **NO_ADVICE,
        "algorithm": "VARLTQC",
        "model": {"policy": "MlpPolicy", "top_quantiles_to_drop_per_net": 5},
    },
    "CrossQ": {
        **NO_ADVICE,
        "algorithm": "VARLCrossQ",
        "model": {"policy": "MlpPolicy", "tau": None, "policy_delay": 1, "policy_kwargs": {"net_arch": [256, 256]}},
    },
    # One answer with rules
    "five lines": _merge(FIVE_LINES, HOLD),
    "five lines, no hold": FIVE_LINES,
    "five lines, 100k": _merge(FIVE_LINES, HOLD, {"steps": 100_000}),
    "five lines, 100k, no hold": {**FIVE_LINES, "steps": 100_000},
    "five lines, 100k, unbounded pull": {**UNBOUNDED_FIVE_LINES, "steps": 100_000},
    "five lines, SAC": {**FIVE_LINES, **NO_ADVICE},
    **OTHER_SETTINGS,
    "rules": _merge(RECORDED_RULES, HOLD),
    "rules, imitated": _merge(RECORDED_RULES, IMITATED),
    "rules, first answer": _merge(RECORDED_RULES, HOLD, {"advisor": FIRST_ANSWER}),
    "rules, first answer, gate always": _merge(
        RECORDED_RULES, HOLD, {"advisor": FIRST_ANSWER, "shaping": {"gate": "always"}}
    ),
    "rules, first answer, imitated": _merge(RECORDED_RULES, IMITATED, {"advisor": FIRST_ANSWER}),
    "rules, asked again": _merge(RECORDED_RULES, HOLD, {"advisor": ASKED_AGAIN}),
    "rules, drafted": _merge(RECORDED_RULES, HOLD, {"advisor": DRAFTED}),
    "rules, no hold": RECORDED_RULES,
    "rules, earlier prompt": EARLIER_RULES,
    "rules, unbounded pull": UNBOUNDED_RULES,
    "rules, no roll-ins": _merge(RECORDED_RULES, {"advice": {"roll_in": 0.0}}),
    "rules, no roll-ins, unbounded pull": _merge(UNBOUNDED_RULES, {"advice": {"roll_in": 0.0}}),
    "rules, roll-ins only": {**RECORDED_RULES, "shaping": {"shaping_coef": 0.0}},
    "rules, roll-ins only, earlier prompt": {**EARLIER_RULES, "shaping": {"shaping_coef": 0.0}},
    "rules, first answer, unbounded pull": {**UNBOUNDED_RULES, "advisor": FIRST_ANSWER},
    "rules, cutoff 12000": {**RECORDED_RULES, "shaping": {"shaping_steps": 12_000}},
    "rules, fading": {**RECORDED_RULES, "shaping": {"shaping_coef": "fading_20", "shaping_steps": 12_000}},
    # Rules have no noise that a policy should be spared.
    **{
        f"rules, threshold {threshold:g}": _merge(RECORDED_RULES, HOLD, {"shaping": {"gate_threshold": threshold}})
        for threshold in (0.2, 0.1)
    },
    "rules, cutoff 3000, unbounded pull": _merge(UNBOUNDED_RULES, {"shaping": {"shaping_steps": 3000}}),
    "rules, cutoff 12000, unbounded pull": _merge(UNBOUNDED_RULES, {"shaping": {"shaping_steps": 12_000}}),
    "rules, until success, unbounded pull": _merge(
        UNBOUNDED_RULES, {"advice": {"until_success": "advice"}, "shaping": {"shaping_steps": 12_000}}
    ),
    **{
        f"rules, {name}": _merge(RECORDED_RULES, HOLD, change)
        for changes in RULES_ABLATIONS.values()
        for name, change in changes.items()
    },
    **RULES_WITH_MISTAKES,
    # Whether holding costs what they lose, which are held for long.
    "rules, mistake too_fast, no hold": _merge(
        RULES_WITH_MISTAKES["rules, mistake too_fast"], {"advice": {"hold": False}}
    ),
    **EARLIER_MISTAKES,
    # What one would try instead
    "SAC, scored states": {**NO_ADVICE, "scores": {"n_queries": 5000, "weight": 1.0, "noise": 0.1, "error_rate": 0.05}},
    "SAC, exact scores": {**NO_ADVICE, "scores": {"n_queries": 5000, "weight": 1.0, "noise": 0.0, "error_rate": 0.0}},
    "SAC, advice in replay": {"shaping": {"shaping_coef": 0.0}, "advice_in_replay": True},
    "SAC, advice cloned": {"shaping": {"shaping_coef": 0.0}, "cloning": {"n_updates": 2000}},
    **{
        f"SAC, {n} demonstrations {how}": {**NO_ADVICE, "demonstrations": {"n_episodes": n, "use": use}}
        for n in (3, 10)
        for how, use in (("in half of each batch", "replay"), ("imitated", "imitation"))
    },
    **{f"SAC, {name}": {**NO_ADVICE, "model": change} for name, change in FOR_SAC.items()},
    # Gates
    "gate always": {"shaping": {"gate": "always"}},
    "gate likelihood": {"shaping": {"gate": "likelihood"}},
    "gate q_filter": {"shaping": {"gate": "q_filter"}},
    "threshold 0.2": {"shaping": {"gate_threshold": 0.2}},
    "threshold 0.8": {"shaping": {"gate_threshold": 0.8}},
    # The paper's ablations; steps are actions here, so 10 000 are 30 000 of the simulator's
    "coef 10": {"shaping": {"shaping_coef": 10.0}},
    "coef 50": {"shaping": {"shaping_coef": 50.0}},
    "coef 100": {"shaping": {"shaping_coef": 100.0}},
    "cutoff 20k": {"shaping": {"shaping_steps": 6667}},
    "cutoff 30k": {"shaping": {"shaping_steps": 10_000}},
    "cutoff 40k": {"shaping": {"shaping_steps": 13_333}},
    "1 query of 192": {"advice": {"n_queries": 1, "states_per_query": 192}},
    "3 queries of 64": {"advice": {"n_queries": 3, "states_per_query": 64, "query_freq": 1750}},
    "10 queries of 19": {"advice": {"n_queries": 10, "states_per_query": 19, "query_freq": 400}},
    # Beyond it
    "16 states": {"advice": {"states_per_query": 16}},
    "64 states": {"advice": {"states_per_query": 64}},
    "128 states": {"advice": {"states_per_query": 128}},
    "slow schedule": {"advice": {"query_freq": 1400}, "shaping": {"shaping_steps": 10_000}},
    "batch 32": {"shaping": {"guidance_batch_size": 32}},
    "batch 512": {"shaping": {"guidance_batch_size": 512}},
    "coef falling": {"shaping": {"shaping_coef": "falling_20"}},
    "until success": {"advice": {"n_queries": 13, "until_success": 0.25}, "shaping": {"shaping_steps": 10_000}},
    "late states": {"advice": {"states_per_query": 64}, "choice": {"choice": "late", "n_states": 32}},
    "novel states": {"advice": {"states_per_query": 64}, "choice": {"choice": "novel", "n_states": 32}},
    "latest 64 answers": {"shaping": {"guidance_buffer_size": 64}},
    **WHAT_SAC_BRINGS,
    "twice the updates": {"model": {"gradient_steps": 8}},
}

# Experiments whose runs go on for longer than by their methods' settings.
LONGER = {"main": FULL_STEPS}
# A figure or table each: which methods it compares, on which tasks.
EXPERIMENTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "main": (("SAC", "VARL"), TASKS),
    "rivals": (
        (
            "SAC",
            "VARL",
            "SAC, learnt temperature",
            "SAC, other noise",
            "SAC, scored states",
            "SAC, exact scores",
            "SAC, advice in replay",
            "SAC, advice cloned",
        ),
        ABLATION_TASKS,
    ),
    "SAC": (("SAC", *(f"SAC, {name}" for name in FOR_SAC)), ABLATION_TASKS),
    # With what came of the best of these.
    "SAC, tuned": (("SAC", "SAC, temperature 0.05", "rules"), MAIN_TASKS),
    "without advice": (("SAC", "TQC", "CrossQ", "rules"), MAIN_TASKS),
    "quality": (("VARL, clean advice", "VARL", "VARL, bad advice"), ABLATION_TASKS),
    "five lines": (("five lines", "five lines, no hold", "five lines, SAC"), RULES_TASKS),
    "settings": (("five lines, no hold", *OTHER_SETTINGS), RULES_TASKS),
    "five lines, longer": (
        ("five lines, 100k", "five lines, 100k, no hold", "five lines, 100k, unbounded pull"),
        RULES_TASKS[:2],
    ),
    "rules": (("SAC", "VARL", "rules", "rules, no roll-ins", "rules, roll-ins only"), RULES_TASKS),
    "rules, earlier prompt": (
        ("rules, unbounded pull", "rules, no roll-ins, unbounded pull", "rules, roll-ins only, earlier prompt"),
        RULES_TASKS,
    ),
    "roll-ins": (("SAC", "rules", "rules, roll-ins only"), MAIN_TASKS),
    "demonstrations": (
        ("rules", *(method for method in METHODS if "demonstrations" in method)),
        RULES_TASKS,
    ),
    "recorded": (("rules",), RECORDED_TASKS),
    "fifteen tasks": (("SAC", "rules"), MAIN_TASKS),
    "asked again": (("rules", "rules, asked again"), MAIN_TASKS),
    "drafted": (("rules", "rules, drafted"), MAIN_TASKS),
    "fifteen tasks, no hold": (("SAC", "rules, no hold"), MAIN_TASKS),
    "fifteen tasks, earlier prompt": (("SAC", "rules, earlier prompt"), MAIN_TASKS),
    "prompt": (("rules, no hold", "rules, earlier prompt"), MAIN_TASKS),
    "hold": (("rules", "rules, no hold"), MAIN_TASKS),
    "pull": (("rules, earlier prompt", "rules, unbounded pull"), MAIN_TASKS),
    "rules, cutoff": (
        (
            "rules, cutoff 3000, unbounded pull",
            "rules, unbounded pull",
            "rules, cutoff 12000, unbounded pull",
            "rules, until success, unbounded pull",
        ),
        ("coffee-pull-v3", "soccer-v3"),
    ),
    "rules, end": (
        ("rules", "rules, no hold", "rules, cutoff 12000", "rules, fading"),
        # Those in which success fell for a while after the cutoff, or was below 90% when it came, with seed 100.
        ("coffee-pull-v3", "soccer-v3", "basketball-v3", "assembly-v3", "pick-place-v3"),
    ),
    "rules, threshold": (("rules", "rules, threshold 0.2", "rules, threshold 0.1"), MAIN_TASKS),
    **{
        f"rules, {what}": (("rules", *(f"rules, {name}" for name in changes)), LATE_TASKS)
        for what, changes in RULES_ABLATIONS.items()
    },
    "imitation": (("rules", "rules, gate always", "rules, imitated"), MAIN_TASKS),
    "partial rules": (
        (
            "SAC",
            "rules, first answer",
            "rules, first answer, gate always",
            "rules, first answer, imitated",
            "rules, first answer, unbounded pull",
        ),
        PARTIAL_TASKS,
    ),
    "rules with mistakes": (("SAC", "rules", *RULES_WITH_MISTAKES), ("push-v3", "drawer-open-v3")),
    "mistakes, hold": (("rules, mistake too_fast", "rules, mistake too_fast, no hold"), ("push-v3",)),
    "mistakes": (tuple(EARLIER_MISTAKES), ("push-v3", "drawer-open-v3")),
    "gate": (("VARL", "gate likelihood", "gate q_filter", "gate always"), ABLATION_TASKS),
    "threshold": (("threshold 0.2", "VARL", "threshold 0.8"), ABLATION_TASKS),
    "coefficient": (("coef 10", "VARL", "coef 50", "coef 100", "coef falling"), ABLATION_TASKS),
    "cutoff": (("VARL", "cutoff 20k", "cutoff 30k", "cutoff 40k", "until success"), ABLATION_TASKS),
    "queries": (("1 query of 192", "3 queries of 64", "VARL", "10 queries of 19", "slow schedule"), ABLATION_TASKS),
    "states": (("16 states", "VARL", "64 states", "128 states"), ABLATION_TASKS),
    "batch": (("batch 32", "VARL", "batch 512"), ABLATION_TASKS),
    "choice": (("VARL", "late states", "novel states", "latest 64 answers"), ABLATION_TASKS),
    "critic": (("VARL", "plain critics", "1-step returns", "discount 0.99"), ABLATION_TASKS),
    "actor": (("VARL", "raw observations", "learnt temperature", "other noise", "twice the updates"), ABLATION_TASKS),
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """
    One run.

    :param method: One of ``METHODS``
    :param task: A task of Meta-World
    :param seed: Seed of everything
    :param settings: All there is to know besides
    """

    method: str
    task: str
    seed: int
    settings: Settings = dataclasses.field(hash=False)

    @property
    def name(self) -> str:
        """What the run is called in the results, in progress bars and on the command line."""
        return f"{self.method}/{self.task}/{self.seed}"

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells it from all others."""
        return self.method, self.task, self.seed

    @property
    def configuration(self) -> str:
        """The settings as they stand in the results."""
        return json.dumps(self.settings, sort_keys=True)

    def is_same_as(self, configuration: str) -> bool:
        """
        Whether this run and another one are the same as far as both go. Only how often states are scored depends on
        how long a run will be.

        :param configuration: The other one's
        :return: Whether they are
        """
        return _until_the_shorter_end(json.loads(configuration)) == _until_the_shorter_end(self.settings)


def _until_the_shorter_end(settings: Settings) -> Settings:
    return settings if "scores" in settings else {key: value for key, value in settings.items() if key != "steps"}


def make_cell(method: str, task: str, seed: int, steps: int | None = None, eval_episodes: int | None = None) -> Cell:
    """
    Settle a run.

    :param method: One of ``METHODS``
    :param task: A task of Meta-World
    :param seed: Seed of everything
    :param steps: Environment steps, for a run of another length
    :param eval_episodes: Episodes of an evaluation, for another number than usual
    :return: The run
    """
    settings = _merge(BASE, METHODS[method])
    if steps is not None:
        settings.update(steps=steps, eval_freq=max(1, steps // 5))
    if eval_episodes is not None:
        settings.update(eval_episodes=eval_episodes)
    return Cell(method, task, seed, settings)


def make_grid(
    experiments: list[str], seeds: tuple[int, ...], steps: int | None = None, eval_episodes: int | None = None
) -> list[Cell]:
    """
    List the runs of some experiments, each once and for as long as any of them needs it, seed by seed: a grid that was
    stopped is complete in its first seeds.

    :param experiments: Names among ``EXPERIMENTS``
    :param seeds: Seeds of each method and task
    :param steps: Environment steps, for runs of another length
    :param eval_episodes: Episodes of an evaluation, for another number than usual
    :return: The runs
    """
    cells = dict[str, Cell]()
    for seed, experiment in itertools.product(seeds, experiments):
        methods, tasks = EXPERIMENTS[experiment]
        for task, method in itertools.product(tasks, methods):
            cell = make_cell(method, task, seed, steps, eval_episodes)
            if steps is None and experiment in LONGER:
                cell.settings["steps"] = LONGER[experiment]
            same = cells.setdefault(cell.name, cell)
            same.settings["steps"] = max(same.settings["steps"], cell.settings["steps"])
    return list(cells.values())


def is_recorded(settings: Settings) -> bool:
    """Whether the advice of a run is recorded rules."""
    return str(settings["advisor"]).startswith("recorded")


def actions_between_scores(settings: Settings) -> int:
    """How many actions share a score, if a scorer is asked as often in a run as the settings say."""
    return math.ceil(settings["steps"] / settings["scores"]["n_queries"])
