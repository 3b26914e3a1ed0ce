"""Hold the engine against what was recorded: of the peer, case by case, and of real repositories."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def check(script: Path, *arguments: str, engine: str) -> str:
    """Run a checker with one of our engines; its last words, if all was as recorded."""
    if not script.is_file():
        pytest.skip(f"there is no {script.parent.name}/{script.name} beside the checkout")
    command = shlex.join([sys.executable, str(HERE / engine)])
    done = subprocess.run(
        [sys.executable, str(script), *arguments, "--engine", command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("file", ["cases-handmade.jsonl.gz", "cases-random.jsonl.gz"])
def test_the_recorded_cases(shared: Path, file: str) -> None:
    directory = shared / "conformance"

    assert "total" in check(directory / "check.py", str(directory / file), engine="engine.py")


def test_the_real_repositories(shared: Path) -> None:
    check(shared / "real" / "check.py", str(shared / "real"), engine="real_engine.py")
