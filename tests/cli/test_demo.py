"""The demo does what the README says of it."""

import re
import subprocess
import sys
from pathlib import Path

from tests.cli.running import environment

ROOT = Path(__file__).resolve().parents[2]


def test_only_what_the_change_touched_rolls_out(tmp_path: Path) -> None:
    run = [sys.executable, str(ROOT / "examples/demo.py")]
    ran = subprocess.run(run, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert re.search(r"^frontend   (\S+) → (?!\1)\S+  rolls out$", ran.stdout, re.MULTILINE)
    assert re.search(r"^backend    (\S+) → \1  stays as it is$", ran.stdout, re.MULTILINE)
    assert ran.stdout.endswith("1 of 2 artifacts changed: Flux deploys frontend and leaves the rest alone.\n")
    assert "replicas: 3\nimage:\n  repository: nginx\n" in ran.stdout
    assert "\x1b" not in ran.stdout
    assert list(tmp_path.iterdir()) == []
