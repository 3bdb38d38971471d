"""
How fast VARL is beside SAC, whether slow advice makes training wait, and what the guidance costs.

    python examples/benchmark/throughput.py                  # all of it, a quarter of an hour on one CPU core
    python examples/benchmark/throughput.py --only updates stalls
    python examples/benchmark/throughput.py --device cuda

Every contestant lives in a process of its own, pinned to the same core. They take turns, so that whatever else the
machine does hits all of them alike, and each turn gives one ratio to the first of them, SAC or another parent. With
``pip install sbx-rl`` beside this package, sbx's SAC, in JAX, takes part. Prints tables, and writes ``throughput.csv``
and ``profile.png`` into ``--out``.
"""

import argparse
import contextlib
import csv
import functools
import importlib.util
import pathlib
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from contestants import LATENCY, TASK, Contestant, RandomEnv, Row

SECTIONS = ("updates", "tqc", "crossq", "images", "learning", "stalls", "rules", "guidance", "profile")
STALL_STEPS = 3000  # fewer than an answer takes
GUIDANCE_SIZES = (100, 10_000, 1_000_000)
N_ADVICE = 192  # what three queries of 64 states give

# In a run of the quickstart the share of open gates was 0.8 right after the first query, and a fifth or less for most
# of the time.
SAC_ROW = {"SAC": Row("SAC", {})}
DEFAULT_ROWS = {
    "VARL, unadvised": Row("VARL", {}),
    "VARL, a fifth of the gates open": Row("VARL", {}, N_ADVICE, 0.2),
    "VARL, every gate open": Row("VARL", {}, N_ADVICE, 1.0),
}
FAST_ROWS = {
    name.replace("VARL", "VARL(fast=True)"): row._replace(kwargs={"fast": True}) for name, row in DEFAULT_ROWS.items()
}
SBX_ROW = {"sbx's SAC (JAX)": Row("sbx", {})}


@contextlib.contextmanager
def contest(args: argparse.Namespace, rows: dict[str, Row], env: str) -> Iterator[dict[str, Contestant]]:
    contestants: dict[str, Contestant] = {}
    try:
        for name, row in tqdm(rows.items(), desc="starting", leave=False):
            contestants[name] = Contestant(row, env, args.device, args.cores)
        yield contestants
    finally:
        for contestant in contestants.values():
            contestant.close()


class Report:
    """A table in a file, where the rows of a section replace those of an earlier run."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            with path.open(newline="") as file:
                self.rows = list(csv.DictReader(file))

    def begin(self, section: str) -> None:
        self.rows = [row for row in self.rows if row["section"] != section]

    def add(self, section: str, name: str, metric: str, values: list[float]) -> None:
        quartiles = np.percentile(values, [25, 50, 75])
        self.rows.append(
            {"section": section, "contestant": name, "metric": metric, "n": len(values)}
            | dict(zip(("q25", "median", "q75"), (f"{value:.5g}" for value in quartiles), strict=True))
        )

    def write(self) -> None:
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.rows[0])
            writer.writeheader()
            writer.writerows(self.rows)


def race(
    args: argparse.Namespace,
    report: Report,
    section: str,
    rows: dict[str, Row],
    env: str,
    measurement: str,
    n: int,
) -> None:
    """Let all take turns, and print each one's speed and its ratio to the first."""
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    with contest(args, rows, env) as contestants:
        for contestant in contestants.values():
            contestant(measurement, n)
        for _ in tqdm(range(args.repeats), desc=section, leave=False):
            for name, contestant in contestants.items():
                seconds[name].append(contestant(measurement, n))
        megabytes = {name: contestant.megabytes for name, contestant in contestants.items()}
    first = seconds[next(iter(rows))]
    print(f"{'':46}{'ms':>8}{'per s':>8}{'ratio':>8}  (quartiles)    peak MB")
    for name, own in seconds.items():
        ratios = [a / b for a, b in zip(first, own, strict=True)]
        median = statistics.median(own)
        low, middle, high = np.percentile(ratios, [25, 50, 75])
        speed = f"{1e3 * median:8.2f}{1 / median:8.1f}{middle:8.2f}  ({low:.2f}-{high:.2f})"
        print(f"{name:46}{speed}{megabytes[name]:13.0f}")
        report.add(section, name, "milliseconds", [1e3 * value for value in own])
        report.add(section, name, "ratio", ratios)
        report.add(section, name, "peak_megabytes", [megabytes[name]])


def run_updates(args: argparse.Namespace, report: Report) -> None:
    print("\nGradient updates: 39 observations, 4 actions, 256x256 networks, batches of 256")
    race(args, report, "updates", SAC_ROW | DEFAULT_ROWS | FAST_ROWS | args.sbx, "state", "update", args.updates)


def run_others(args: argparse.Namespace, report: Report, parent: str) -> None:
    print(f"\nThe same with {parent}")
    rows = {
        row.replace("VARL", f"VARL{parent}"): settings._replace(algorithm=f"VARL{parent}")
        for row, settings in (DEFAULT_ROWS | FAST_ROWS).items()
        if "every gate" not in row
    }
    race(args, report, parent.lower(), {parent: Row(parent, {})} | rows, "state", "update", args.updates)


def run_images(args: argparse.Namespace, report: Report) -> None:
    print("\nGradient updates: images of 3x64x64, SB3's NatureCNN, batches of 256")
    rows = {name: row for name, row in (DEFAULT_ROWS | FAST_ROWS).items() if "every gate" not in name}
    race(args, report, "images", SAC_ROW | rows, "image", "update", max(1, args.updates // 10))


def run_learning(args: argparse.Namespace, report: Report) -> None:
    print(f"\nEnvironment steps with one update each: Meta-World's {TASK}")
    rows = {name: row for name, row in (DEFAULT_ROWS | FAST_ROWS).items() if "every gate" not in name}
    race(args, report, "learning", SAC_ROW | rows | args.sbx, "metaworld", "learn", 3 * args.updates)


def run_stalls(args: argparse.Namespace, report: Report) -> None:
    print(f"\nEnvironment steps while an answer is awaited that takes {LATENCY:.0f} s, prompt and pictures included")
    rows = {name: Row("VARL", {"fast": True}) for name in ("without", "with")}
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    with contest(args, rows, "metaworld") as contestants:
        for contestant in contestants.values():
            contestant("learn", 300)
        for _ in tqdm(range(max(1, args.repeats // 4)), desc="stalls", leave=False):
            for name, contestant in contestants.items():
                result = contestant("advice", STALL_STEPS, name == "with")
                seconds[name].append(result["step"])
    ratios = [a / b for a, b in zip(seconds["without"], seconds["with"], strict=True)]
    print(
        f"throughput with advice in flight / without: {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f}-{max(ratios):.3f}, {len(ratios)} pairs of {STALL_STEPS} steps)\n"
        f"rendering, before the question: {result['frames']} frames, {1e3 * result['frame']:.0f} ms each"
    )
    report.add("stalls", "with / without", "ratio", ratios)
    report.add("stalls", "frame", "milliseconds", [1e3 * result["frame"]])


def run_rules(args: argparse.Namespace, report: Report) -> None:
    print(f"\nWhat recorded rules take of an environment step, in microseconds: Meta-World's {TASK}")
    without_updates, fast = "VARL, without updates", "VARL(fast=True), a fifth of the gates open"
    rows = {
        without_updates: Row("VARL", {"learning_starts": 10**9, "shaping_steps": 10**9}),
        fast: FAST_ROWS[fast],
    }
    spent: dict[str, list[float]] = {}
    shares = []
    with contest(args, rows, "metaworld") as contestants:
        contestants[without_updates]("rules", 500)
        contestants[fast]("learn", 3 * args.updates)
        for _ in tqdm(range(args.repeats), desc="rules", leave=False):
            turn = contestants[without_updates]("rules", 20 * args.updates)
            for part, seconds in {**turn, "together": sum(turn.values())}.items():
                spent.setdefault(part, []).append(1e6 * seconds)
            shares.append(sum(turn.values()) / contestants[fast]("learn", 3 * args.updates))
    for part, microseconds in spent.items():
        low, middle, high = np.percentile(microseconds, [25, 50, 75])
        print(f"{part}: {middle:.0f} ({low:.0f}-{high:.0f})")
        report.add("rules", part, "microseconds", microseconds)
    print(f"as a share of a step with its update, fast=True: {statistics.median(shares):.1%}")
    report.add("rules", "together", "share_of_a_step", shares)


def run_guidance(args: argparse.Namespace, report: Report) -> None:
    from sb3_varl import GuidanceBuffer

    print("\nShaped updates (fast=True) by rows in the guidance buffer")
    rows = {f"{size:9,} rows": Row("VARL", {"fast": True}, size, 0.2) for size in GUIDANCE_SIZES}
    race(args, report, "guidance", rows, "state", "update", args.updates)
    for kind in ("state", "image"):
        env = RandomEnv(image=kind == "image")
        buffer = GuidanceBuffer(10, env.observation_space, env.action_space, "cpu")
        size = sum(array.nbytes for array in (*buffer.observations.values(), buffer.actions, buffer.steps)) / 10
        print(f"{kind} task, {env.observation_space.shape} of {env.observation_space.dtype}: {size:,.0f} bytes per row")
        report.add("guidance", kind, "bytes_per_row", [size])


def run_profile(args: argparse.Namespace, report: Report) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = ("SAC", "VARL, every gate open", "VARL(fast=True), every gate open")
    shares: dict[str, dict[str, float]] = {}
    everyone = SAC_ROW | DEFAULT_ROWS | FAST_ROWS
    with contest(args, {name: everyone[name] for name in names}, "state") as contestants:
        for name, contestant in contestants.items():
            shares[name] = contestant("profile", 5 * args.updates)
    stages = list(shares[names[0]])
    print(f"\nWhere an update's time goes, ms\n{'':46}" + "".join(f"{stage:>18}" for stage in stages))
    for name, by_stage in shares.items():
        print(f"{name:46}" + "".join(f"{1e3 * by_stage[stage]:18.2f}" for stage in stages))
        for stage in stages:
            report.add("profile", name, stage, [1e3 * by_stage[stage]])

    figure, axes = plt.subplots(figsize=(9, 3.2), layout="constrained")
    left = np.zeros(len(shares))
    for stage, color in zip(stages, ("#444444", "#0072B2", "#E69F00"), strict=True):
        width = np.array([1e3 * by_stage[stage] for by_stage in shares.values()])
        axes.barh(list(shares), width, left=left, color=color, label=stage, edgecolor="white")
        left += width
    axes.invert_yaxis()
    axes.set(xlabel="ms for one gradient update", title="Where the time of an update goes")
    figure.legend(loc="outside lower center", ncols=3)
    figure.savefig(args.out / "profile.png", dpi=120)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="sections to run")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cores", type=int, default=1, help="CPU cores that the contestants share")
    parser.add_argument("--repeats", type=int, default=21, help="turns of each contestant")
    parser.add_argument("--updates", type=int, default=50, help="updates in a turn")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("throughput"))
    args = parser.parse_args()
    args.sbx = SBX_ROW if importlib.util.find_spec("sbx") else {}
    return args


def main() -> None:
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    report = Report(args.out / "throughput.csv")
    run: dict[str, Callable[[argparse.Namespace, Report], None]] = {
        "updates": run_updates,
        "tqc": functools.partial(run_others, parent="TQC"),
        "crossq": functools.partial(run_others, parent="CrossQ"),
        "images": run_images,
        "learning": run_learning,
        "stalls": run_stalls,
        "rules": run_rules,
        "guidance": run_guidance,
        "profile": run_profile,
    }
    for section in args.only:
        report.begin(section)
        run[section](args, report)
        report.write()


if __name__ == "__main__":
    main()
