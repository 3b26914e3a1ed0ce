"""What the engine costs, against the budgets and against the libraries it stands on.

    make bench                            all of it, medians of five runs
    make bench ARGS="--only commit"       what has `commit` in its name
    make bench ARGS=--check               exit status 1 if something is over its budget

Every run of a scenario is a process of its own: its memory is counted from after the imports, and
the libraries do the same work in the same process right after it. Times are processor time of this
process unless they are called wall; so a busy machine spoils them less.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import scenarios
import trees
from msgspec import Struct

MIB = 1 << 20
LIBRARIES = ("isal", "msgspec", "PyYAML", "click")
Numbers = Mapping[str, float]


class Row(Struct, frozen=True):
    """One line of the report; without a budget it only informs."""

    what: str
    value: float
    unit: str
    budget: float | None = None
    note: str = ""

    @property
    def over(self) -> bool:
        return self.budget is not None and self.value > self.budget

    def cells(self) -> list[str]:
        value = f"{self.value:.{0 if self.value >= 1000 else 1 if self.value >= 100 else 2}f} {self.unit}"
        if self.budget is None:
            return [self.what, value, "", "", "", self.note]
        verdict = "OVER" if self.over else "ok"
        return [self.what, value, f"{self.budget:g} {self.unit}", f"{self.value / self.budget:.2f}", verdict, self.note]


class Bench:
    """Runs scenarios in processes of their own, over sources that are made once."""

    def __init__(self, runs: int, disk: Path, scratch: Path) -> None:
        self.runs = runs
        self.disk = disk
        self.scratch = scratch

    def medians(self, scenario: Callable[..., Numbers], *arguments: object) -> Numbers:
        """Each number's median over all runs of a function of `scenarios`."""
        found: list[Numbers] = []
        for _ in range(self.runs):
            command = [sys.executable, scenarios.__file__, scenario.__name__, *map(str, arguments)]
            found.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
        return {name: statistics.median(numbers[name] for numbers in found) for name in found[0]}

    @functools.cached_property
    def large(self) -> Path:
        """20 000 files, 200 MB."""
        return self._source("large", trees.monorepo(200, 5, 20, 10_000))

    @functools.cached_property
    def commits(self) -> tuple[Path, Path]:
        """3000 files, 20 MB, for 1000 artifacts; and the same with one of them changed."""
        tree = trees.monorepo(200, 5, 3, 6_667)
        changed = trees.touched(tree, ["apps/team100/app2/file1.yaml"], "changed")
        return self._source("before", tree), self._source("after", changed)

    def _source(self, name: str, tree: trees.Tree) -> Path:
        path = self.scratch / f"{name}.tar.gz"
        path.write_bytes(trees.packed(tree))
        return path


def places(bench: Bench) -> Iterator[tuple[str, Path]]:
    """Where stores and caches are put: in memory, where there is a place for that, and on a disk."""
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK) and memory.stat().st_dev != bench.disk.stat().st_dev:
        yield "memory", memory
    yield "disk", bench.disk


def artifact(bench: Bench) -> Iterator[Row]:
    for name, place in places(bench):
        found = bench.medians(scenarios.artifact, bench.large, place)
        ratio = found["cpu"] / found["libraries"]
        note = f"{found['cpu']:.2f} s; the libraries alone {found['libraries']:.2f} s; wall {found['wall']:.2f} s"
        yield Row(f"20 000 files, 200 MB, one artifact, {name}", ratio, "×", 1.6, note)
        note = f"the libraries over what the pipeline hashes: {found['least']:.2f} s"
        yield Row("  against the least it could be", found["cpu"] / found["least"], "×", None, note)
        yield Row("  peak memory above the imports", found["peak"] / MIB, "MiB", 100)


def commit(bench: Bench) -> Iterator[Row]:
    for name, place in places(bench):
        found = bench.medians(scenarios.commit, *bench.commits, place)
        note = (
            f"{found['cpu']:.3f} s; inflating and hashing alone {found['libraries']:.3f} s; wall {found['wall']:.3f} s"
        )
        yield Row(f"commit, 1000 artifacts, one changed, {name}", found["cpu"] - found["libraries"], "s", 0.3, note)
        yield Row("  first build of all", found["first"], "s", None, f"wall {found['first_wall']:.2f} s")
        yield Row("  peak memory above the imports", found["peak"] / MIB, "MiB", 100)


def plans(bench: Bench) -> Iterator[Row]:
    found = bench.medians(scenarios.plans, bench.commits[0])
    yield Row("plan 1000 artifacts of 200 generators", found["cpu"] * 1000, "ms")
    yield Row("  kept per artifact", found["used"] / 1024, "KiB", 3, "once used")
    yield Row("  before it is used", found["unused"] / 1024, "KiB")


def tree_memory(bench: Bench) -> Iterator[Row]:
    for what, path in (("3000 files", bench.commits[0]), ("20 000 files", bench.large)):
        found = bench.medians(scenarios.tree_memory, path)
        yield Row(
            f"memory of a tree of {what}",
            found["per_file"],
            "bytes/file",
            None,
            f"{found['size'] / MIB:.2f} MiB in all",
        )


def excludes(bench: Bench) -> Iterator[Row]:
    for kind in scenarios.EXCLUDES:
        found = bench.medians(scenarios.excludes, kind)
        yield Row(
            f"100 excludes, {kind}, 100 000 paths", found["cpu"], "s", 1.0, f"planning {found['plan'] * 1000:.0f} ms"
        )


def rates(bench: Bench) -> Iterator[Row]:
    found = bench.medians(scenarios.rates, bench.large)
    yield Row("index a tar stream", found["index"] / 1e6, "MB/s", None, f"{found['index_files']:.0f} files/s")
    yield Row("write an archive", found["write"] / 1e6, "MB/s")
    yield Row("compose 20 000 files, a shared directory", found["compose_shared"] * 1000, "ms")
    yield Row("compose 20 000 files, **/*.yaml", found["compose_each"] * 1000, "ms")
    yield Row("walk 20 000 files with a glob", found["glob"] * 1000, "ms")
    yield Row("say what placed a file among 20 000", found["placed_by"], "ms")
    yield Row("merge two YAML files of 10 kB", found["merge"] * 10, "ms")


def start(bench: Bench) -> Iterator[Row]:
    bare, program = [sys.executable, "-c", "pass"], [sys.executable, "-m", "sluice", "--help"]
    # One after the other in turns: a machine that gets busy is so for both.
    pairs = [(_wall(bare), _wall(program)) for _ in range(4 * bench.runs)]
    base, whole = (statistics.median(times) * 1000 for times in zip(*pairs, strict=True))
    yield Row(
        "sluice --help above bare Python, wall", whole - base, "ms", 120, f"bare {base:.0f} ms, help {whole:.0f} ms"
    )


def _wall(command: Sequence[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


SCENARIOS: Mapping[str, Callable[[Bench], Iterator[Row]]] = {
    "artifact": artifact,
    "commit": commit,
    "plans": plans,
    "tree memory": tree_memory,
    "excludes": excludes,
    "rates": rates,
    "start": start,
}


def circumstances() -> str:
    """What else decides the numbers: when, on what, and what else ran."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {cores} cores, {platform.machine()}, {platform.system()}, "
        f"Python {platform.python_version()}, {libraries}; load average {load}"
    )


def table(rows: Sequence[Row]) -> str:
    lines = [["what", "measured", "budget", "ratio", "", "notes"], *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if 0 < number < 4 else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="runs of each scenario (5)")
    parser.add_argument("--only", default="", help="a part of the names of the scenarios to run")
    parser.add_argument("--check", action="store_true", help="exit status 1 if something is over its budget")
    disk = Path(tempfile.gettempdir())
    parser.add_argument("--disk", type=Path, default=disk, help="a directory on a disk (where temporary files go)")
    options = parser.parse_args()
    rows: list[Row] = []
    print(circumstances())
    with tempfile.TemporaryDirectory(prefix="sluice-bench-", dir=options.disk) as scratch:
        bench = Bench(options.runs, options.disk, Path(scratch))
        for name, scenario in SCENARIOS.items():
            if options.only in name:
                rows += scenario(bench)
    print(f"\n{table(rows)}\n\nload average at the end {os.getloadavg()[0]:.2f}; medians of {options.runs} runs")
    sys.exit(options.check and any(row.over for row in rows))


if __name__ == "__main__":
    main()
