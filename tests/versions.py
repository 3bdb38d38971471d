"""
Run the suite with the lowest or the newest versions of everything that setup.cfg allows.

    python tests/versions.py lowest
    python tests/versions.py newest -- -m "not slow"

makes a virtual environment of its own, installs into it what uv resolves from setup.cfg, prints the versions of what
is asked for there, and runs pytest, with what stands after ``--`` as its arguments. Torch comes first, with what that
build of it needs; ``--torch 2.13.0`` takes that one, for instance because there is a CPU build of it at hand.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import venv

ROOT = pathlib.Path(__file__).parent.parent
RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}
# Of torch's CUDA builds.
OF_TORCH = re.compile(r"(nvidia|cuda)-|triton==")


def run(*command: object) -> str:
    """Run a command, and show what it does where it fails."""
    process = subprocess.run([str(part) for part in command], cwd=ROOT, text=True, stdout=subprocess.PIPE)
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{process.stdout}")
    return process.stdout


def resolve(resolution: str, torch: str | None, folder: pathlib.Path) -> pathlib.Path:
    """Write the versions of everything to a file."""
    fixed, pins = folder / "fixed.txt", folder / "pins.txt"
    fixed.write_text(f"torch=={torch}\n" if torch else "")
    options = ["--quiet", "--no-annotate", "--no-header", "--resolution", RESOLUTIONS[resolution]]
    run("uv", "pip", "compile", "setup.cfg", "--extra", "tests", *options, "--constraint", fixed, "--output-file", pins)
    lines = pins.read_text().splitlines()
    pins.write_text("\n".join(line for line in lines if not OF_TORCH.match(line)))
    return pins


def asked_for() -> set[str]:
    """Names of the packages that setup.cfg asks for itself."""
    return {
        name.lower().replace("_", "-") for name in re.findall(r"^    ([\w-]+)[\[<>=!]", _requirements(), re.MULTILINE)
    }


def _requirements() -> str:
    return (ROOT / "setup.cfg").read_text().partition("install_requires")[2]


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("resolution", choices=RESOLUTIONS)
    parser.add_argument("--torch", metavar="VERSION", help="take this torch, whatever the resolution")
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args, for_pytest = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        pins = resolve(args.resolution, args.torch, folder)
        (torch,) = re.findall(r"^torch==\S+", pins.read_text(), re.MULTILINE)
        run(python, "-m", "pip", "install", "--quiet", "--upgrade", "pip")
        run(python, "-m", "pip", "install", "--quiet", torch)
        run(python, "-m", "pip", "install", "--quiet", "-r", pins)
        run(python, "-m", "pip", "install", "--quiet", "--no-deps", "-e", ".")
        for line in run(python, "-m", "pip", "list", "--format", "freeze").splitlines():
            if line.partition("==")[0].lower().replace("_", "-") in asked_for():
                print(line)
        sys.stdout.flush()
        environment = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
        everything = ["-n", "auto", "--dist", "worksteal", "-m", "slow or not slow"]
        pytest = [str(python), "-m", "pytest", *(for_pytest or everything)]
        return subprocess.run(pytest, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
