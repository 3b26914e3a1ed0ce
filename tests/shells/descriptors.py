"""What this process has open."""

import gc
import os
from pathlib import Path


def open_below(directory: Path) -> int:
    """A directory itself and files of it that are open; of all others some other test's may close at any moment."""
    gc.collect()
    return sum(f"{_target(number)}/".startswith(f"{directory}/") for number in os.listdir("/proc/self/fd"))


def _target(number: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except FileNotFoundError:
        return ""
