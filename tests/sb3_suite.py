"""
Run SB3's own tests of SAC with VARL in SAC's place.

    python tests/sb3_suite.py                                   # all modes, ten to fifteen minutes
    python tests/sb3_suite.py --modes advised --keyword sde

Fetches the source distribution of the installed SB3, which has the tests in it, and runs all of them with SAC itself
first. That shows which use SAC, and which fail here anyway; for want of an optional package, perhaps:
``pip install pandas matplotlib tensorboard opencv-python-headless pygame psutil ale-py``. Then those that use SAC run
with VARL, with and without advice, see ``sac_rebound.py``. Exits with 1 if one of them passes with SAC only.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
from typing import Any

MODES = ("unadvised", "advised", "unadvised-fast", "advised-fast")


def fetch(folder: pathlib.Path) -> pathlib.Path:
    """Unpack the tests of the installed SB3, without its code, with the settings that it has for pytest."""
    version = importlib.metadata.version("stable_baselines3")
    requirement = f"stable_baselines3=={version}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "stable_baselines3"]
    subprocess.run([*pip, "--dest", folder, requirement], check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        members = [m for m in file if m.name.split("/")[1:2] in (["tests"], ["pyproject.toml"])]
        file.extractall(folder, members, filter="data")
    return next(folder.glob("*/tests")).parent


def run(suite: pathlib.Path, mode: str, keyword: str, only: list[str] | None = None) -> dict[str, Any]:
    """Run the tests in one mode, in a process of its own."""
    print(f"\n=== {mode} ===", flush=True)
    report, selection = (suite.parent / name for name in ("report.json", "only.json"))
    report.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (os.path.dirname(__file__), os.environ.get("PYTHONPATH")))),
        "SAC_REBOUND_MODE": mode,
        "SAC_REBOUND_REPORT": str(report),
        "TMPDIR": str(suite.parent),  # SB3 leaves a folder of logs for each run
    }
    if only is not None:
        selection.write_text(json.dumps(only))
        environment["SAC_REBOUND_ONLY"] = str(selection)
    pytest = [sys.executable, "-m", "pytest", "-p", "sac_rebound", "-p", "no:cacheprovider", "-q", "--no-header"]
    pytest += ["--continue-on-collection-errors", "--tb=short", "--disable-warnings", "-k", keyword]
    pytest += ["tests"] if only is None else sorted({test.partition("::")[0] for test in only})
    subprocess.run(pytest, cwd=suite, env=environment, check=False)
    return json.loads(report.read_text())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--keyword", default="", help="for pytest's -k")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        suite = fetch(pathlib.Path(folder))
        sac = run(suite, "sac", args.keyword)
        baseline = {test: result for test, result in sac["tests"].items() if result["uses_sac"]}
        if not baseline:
            sys.exit("No test used SAC.")
        results = {"sac": baseline}
        for mode in args.modes:
            results[mode] = run(suite, mode, args.keyword, list(baseline))["tests"]

    print(f"\n{'':16}  passed  failed  skipped  with shaped updates")
    for mode, tests in results.items():
        outcomes = [result["outcome"] for result in tests.values()]
        counts = [outcomes.count(outcome) for outcome in ("passed", "failed", "skipped")]
        print("{:16}  {:6}  {:6}  {:7}  {:19}".format(mode, *counts, sum(r["shaped"] for r in tests.values())))

    show("Not collected", [f"{module}: {reason}" for module, reason in sac["collection_errors"].items()])
    failures = {test: result for test, result in sac["tests"].items() if result["outcome"] == "failed"}
    show("Fail with SAC itself", [f"{test}: {result['reason']}" for test, result in failures.items()])
    regressions = [
        f"{mode}: {test}: {tests[test]['reason'] if test in tests else 'was not run'}"
        for mode, tests in results.items()
        for test, expected in baseline.items()
        if expected["outcome"] == "passed" and (test not in tests or tests[test]["outcome"] != "passed")
    ]
    show("Pass with SAC only", regressions)
    return int(bool(regressions))


def show(title: str, lines: list[str]) -> None:
    print(f"\n{title}:", *lines or ["none"], sep="\n  ")


if __name__ == "__main__":
    sys.exit(main())
