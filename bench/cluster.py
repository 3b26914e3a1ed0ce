"""What the controller costs on a real API server, against the targets and against source-watcher.

    make bench-cluster                                            everything, three times: about an hour
    make bench-cluster ARGS="--scenario fanout --repeat 1"        one scenario; may be given several times
    make bench-cluster ARGS="--scale 0.1 --repeat 1"              smaller; the targets are for the full size
    make bench-cluster ARGS=--check                               exit status 1 if something is over its target

The scenarios are those of the programs in `../shared/bench`, beside the checkout. What the API server can do
is measured first, with a bare client: the least time that the necessary writes take is the floor.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import scenarios
from engine import circumstances
from isal import igzip_lib, isal_zlib
from msgspec import Struct

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.envtest.build import CONTROL_PLANE, Unavailable, find

SHARED = Path(__file__).resolve().parents[2] / "shared" / "bench"

Report = Mapping[str, Any]

START = 0.8
"""Seconds that are granted for the start of a process."""
ROOM = 1.4
"""How much more than the floor a phase may take."""
ATTEMPTS = 2
"""How often a program is tried: on a busy machine its own watches may be late."""
SPACING = 0.05
"""Seconds between the commits of a quick burst."""


class Row(Struct, frozen=True):
    """One line: `limit` is the most, or with `least` the least, that is fine; without one the line only informs."""

    what: str
    value: float
    unit: str = "s"
    limit: float | None = None
    least: bool = False
    peer: float | None = None
    """What source-watcher took, on a machine as fast as this one."""
    note: str = ""

    @property
    def over(self) -> bool:
        return self.limit is not None and (self.value < self.limit if self.least else self.value > self.limit)

    def cells(self) -> list[str]:
        target = "" if self.limit is None else f"{'≥' if self.least else '≤'} {_number(self.limit)} {self.unit}"
        verdict = "" if self.limit is None else "OVER" if self.over else "ok"
        peer = f"{self.value / self.peer:.3f}" if self.peer else ""
        return [self.what, f"{_number(self.value)} {self.unit}", target, verdict, peer, self.note]


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 20 else f"{value:.3g}"


class Rates(Struct, frozen=True):
    """Writes a second that the API server took from a bare client: the best of each kind."""

    create: float
    first: float
    changed: float

    @classmethod
    def best(cls, found: Sequence[Report]) -> Rates:
        def best(step: str) -> float:
            return float(max(each["per_second"] for each in found if each["step"] == step))

        return cls(best("create"), best("status, first"), best("status, changed"))

    def floor(self, *, create: float = 0, first: float = 0, changed: float = 0) -> float:
        return create / self.create + first / self.first + changed / self.changed

    def over(self, other: Rates) -> float:
        """How many times as fast as another machine this one is."""
        pairs = ((self.create, other.create), (self.first, other.first), (self.changed, other.changed))
        return statistics.geometric_mean(mine / its for mine, its in pairs)


class Bench:
    """Runs the programs beside the checkout, and keeps what they found."""

    def __init__(self, scale: float, repeat: int, port: int, directory: Path) -> None:
        self.scale = scale
        self.repeat = repeat
        self.port = port
        self.directory = directory
        place = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else directory
        self._environment = {
            "KUBEBUILDER_ASSETS": str(find(CONTROL_PLANE)),
            **os.environ,
            "BENCH_PORT": str(port),
            "BENCH_DIR": str(place / f"sluice-bench-{port}"),
        }
        self.peer = json.loads((SHARED / "peer-baseline.json").read_text())["runs"]
        recorded = json.loads((SHARED / "peer-baseline-api.json").read_text())["undisturbed"]
        self.rates = Rates.best(self._program("apilimits.py", "--concurrency=10,50", f"--repeat={min(repeat, 2)}"))
        self.speed = self.rates.over(Rates.best(recorded))
        self._found: dict[tuple[str, float, float], Mapping[str, list[Report]]] = {}
        self.idle = 60e6
        """Resident memory of a controller that has nothing to do; measured by `idle`."""

    def phases(self, scenario: str, *, scale: float = 1.0, spacing: float = SPACING) -> Mapping[str, list[Report]]:
        """The reports of a scenario's phases, of all runs; those of the same arguments are made once."""
        asked = (scenario, scale, spacing)
        if asked not in self._found:
            self._found[asked] = self._run(scenario, scale, spacing)
        return self._found[asked]

    def _run(self, scenario: str, scale: float, spacing: float) -> Mapping[str, list[Report]]:
        controller = f"sluice={sys.executable} -m sluice controller"
        found = self._program(
            "run.py",
            *(f"--controller={controller}", f"--scenario={scenario}", f"--spacing={spacing}"),
            *(f"--scale={self.scale * scale}", f"--repeat={self.repeat}"),
        )
        phases: dict[str, list[Report]] = {}
        for run in found["runs"]:
            for phase, report in run["phases"].items():
                phases.setdefault(phase, []).append(report)
        return phases

    def peers(self, scenario: str, phase: str, field: str = "wall") -> float | None:
        """What the peer took for a phase of the same size on an undisturbed machine as fast as this."""
        found = [
            report[field]
            for run in self.peer
            if run["scenario"] == scenario and run["scale"] == self.scale
            for report in [run["phases"].get(phase)]
            if report and others(report) <= 0.25
        ]
        return statistics.median(found) / self.speed if found else None

    def _program(self, name: str, *arguments: str) -> Any:
        for _ in range(ATTEMPTS):
            out = self.directory / f"{name}-{time.monotonic_ns()}.json"
            command = [sys.executable, str(SHARED / name), *arguments, f"--json={out}"]
            if subprocess.run(command, env=self._environment, stdout=sys.stderr, check=False).returncode == 0:
                return json.loads(out.read_text())
        raise SystemExit(f"bench-cluster: {name} failed, see above")

    def loop_lag(self) -> float:
        """Below what 99 of 100 delays of the event loop are, in seconds, as the running controller counts them."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port + 20}/metrics", timeout=2) as answer:
            lines = answer.read().decode().splitlines()
        counts = [line.split('"') for line in lines if line.startswith("sluice_event_loop_lag_seconds_bucket")]
        total = float(counts[-1][2].lstrip("} "))
        return next(float(bound) for _, bound, count in counts if float(count.lstrip("} ")) >= 0.99 * total)


def median(reports: Sequence[Report], field: str) -> float:
    return float(statistics.median(report.get(field) or report["extra"].get(field, 0) for report in reports))


def others(report: Report) -> float:
    """Processors that were busy with something else."""
    return float(report["cpu_other"] / max(report.get("span") or report["wall"], 0.1))


def writes(report: Report) -> int:
    """Requests that write objects; events are counted apart, and the API server has leases of its own."""
    kinds = [(*name.split(" ", 1), number) for name, number in report["api"].items()]
    return sum(
        number
        for verb, what, number in kinds
        if verb not in ("GET", "LIST", "WATCH") and what not in ("events", "leases")
    )


def timed(
    bench: Bench, scenario: str, phase: str, reports: Sequence[Report], limit: float | None, floor: float = 0
) -> Row:
    """The row of a phase's wall time."""
    wall = median(reports, "wall")
    note = f"{wall / floor:.2f} × the floor of {floor:.2f} s; " if floor else ""
    note += (
        f"CPU {median(reports, 'cpu'):.2f} s, {writes(reports[0])} writes, others used {max(map(others, reports)):.2f}"
    )
    return Row(f"{scenario}/{phase}", wall, "s", limit, peer=bench.peers(scenario, phase), note=note)


# Scenarios


def fanout(bench: Bench) -> Iterator[Row]:
    phases = bench.phases("fanout")
    generators, artifacts = 200 * bench.scale, 1000 * bench.scale
    rates = bench.rates
    floors = {
        "initial": START + rates.floor(create=artifacts, first=artifacts + generators, changed=generators),
        "tenth": rates.floor(changed=artifacts / 10 + generators),
        "all": rates.floor(changed=artifacts + generators),
    }
    for phase, floor in floors.items():
        yield timed(bench, "fanout", phase, phases[phase], ROOM * floor, floor)
    one = phases["one"]
    yield timed(bench, "fanout", "one", one, 1.2, rates.floor(changed=1 + generators))
    yield Row("  the changed artifact is out", median(one, "last_artifact"), "s", 0.3)
    yield Row("  downloads", median(one, "downloads"), "", 1)
    yield Row("  object writes", statistics.median(map(writes, one)), "", 201)
    yield Row("  CPU", median(one, "cpu"), "s", 1.5, peer=bench.peers("fanout", "one", "cpu"))


def burst(bench: Bench) -> Iterator[Row]:
    generators, artifacts = 200 * bench.scale, 1000 * bench.scale
    touched = artifacts * (1 - 0.9**20)
    fanout = bench.phases("fanout")
    reports = bench.phases("burst", spacing=SPACING)["burst"]
    floor = bench.rates.floor(changed=touched + generators)
    yield timed(bench, "burst", "burst", reports, ROOM * floor, floor)
    yield Row("  CPU", median(reports, "cpu"), "s", 3 * median(fanout["all"], "cpu"))
    yield Row("  since the first commit", median(reports, "since_first_commit"), "s")
    yield Row("  peak memory", median(reports, "rss_peak") / 1e6, "MB")
    slow = bench.phases("burst", spacing=1.0)["burst"]
    yield timed(bench, "burst, a commit a second:", "burst", slow, 1.2 * median(fanout["tenth"], "wall"))


def cold(bench: Bench) -> Iterator[Row]:
    phases = bench.phases("noop")
    count = 1000 * bench.scale
    floor = START + bench.rates.floor(create=count, first=2 * count, changed=count)
    yield timed(bench, "noop", "cold", phases["cold"], ROOM * floor, floor)
    yield timed(bench, "noop", "noop", phases["noop"], 1.2)
    yield Row("  object writes", max(map(writes, phases["noop"])), "", 0)


def single(bench: Bench) -> Iterator[Row]:
    phases = bench.phases("single")
    floor = library_floor(bench.scale)
    for phase in ("first", "second"):
        yield timed(bench, "single", phase, phases[phase], 1.6 * floor, floor)
    peak = max(median(phases[phase], "rss_peak") for phase in phases)
    yield Row("  peak memory above idle", (peak - bench.idle) / (1 << 20), "MiB", 120)


def library_floor(scale: float) -> float:
    """What the libraries alone take for `single`: inflate, deflate, and three digests of the same bytes."""
    spec = importlib.util.spec_from_file_location("shared_trees", SHARED / "trees.py")
    assert spec is not None
    assert spec.loader is not None
    trees = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(trees)
    count = max(10, round(20_000 * scale))
    tree = {f"tree/d{n // 100:03d}/f{n:05d}.yaml": trees.manifest(f"app-{n}", n, 10_000) for n in range(count)}
    packed: bytes = trees.tarball(tree, 1)

    def work() -> None:
        size = 256 << 10
        inflate = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        pieces = [inflate.decompress(packed[at : at + size]) for at in range(0, len(packed), size)]
        deflate = isal_zlib.compressobj(2)
        for piece in pieces:
            deflate.compress(piece)
        deflate.flush()
        for _ in range(3):
            scenarios.digest(pieces)

    seconds: list[float] = [scenarios.cpu_of(work) for _ in range(3)]
    return min(seconds)


def latency(bench: Bench) -> Iterator[Row]:
    reports = bench.phases("latency")["latency"]
    for share, limit in (("p50", 30.0), ("p99", 80.0)):
        recorded = [run["phases"]["latency"]["extra"] for run in bench.peer if run["scenario"] == "latency"]
        peer = statistics.median(each[f"artifact_{share}_ms"] for each in recorded) / bench.speed
        yield Row(f"latency, {share}", median(reports, f"artifact_{share}_ms"), "ms", limit, peer=peer)


def serve(bench: Bench) -> Iterator[Row]:
    lags: list[float] = []
    ended = Event()

    def watch() -> None:
        while not ended.wait(0.25):
            with suppress(OSError, ValueError, IndexError):
                lags.append(bench.loop_lag())

    watching = Thread(target=watch)
    watching.start()
    try:
        phases = bench.phases("serve")
    finally:
        ended.set()
        watching.join()
    yield Row("serve, 20 MB", median(phases["big"], "mb_per_s"), "MB/s", 1800, least=True)
    yield Row("serve, 2 kB", median(phases["small"], "requests_per_s"), "/s", 3000, least=True)
    yield Row("  event loop lag, p99 below", 1000 * max(lags, default=0.0), "ms", 20)


def idle(bench: Bench) -> Iterator[Row]:
    phases = bench.phases("idle")
    for (phase, reports), limit in zip(phases.items(), (60, 68, 95, 85), strict=True):
        value = median(reports, "rss_end")
        bench.idle = value if phase == "rss-0" else bench.idle
        yield Row(
            f"idle/{phase}",
            value / 1e6,
            "MB",
            limit,
            peer=(bench.peers("idle", phase, "rss_end") or 0) / 1e6 * bench.speed,
        )


def growth(bench: Bench) -> Iterator[Row]:
    once, twice = bench.phases("fanout"), bench.phases("fanout", scale=2.0)
    for phase, reports in twice.items():
        yield Row(f"fanout/{phase}, twice the size", median(reports, "wall") / median(once[phase], "wall"), "×", 2.2)


SCENARIOS: Mapping[str, Callable[[Bench], Iterator[Row]]] = {
    "idle": idle,  # before `single`, which wants to know
    "latency": latency,
    "fanout": fanout,
    "burst": burst,
    "cold": cold,
    "single": single,
    "serve": serve,
    "growth": growth,
}


def table(rows: Sequence[Row]) -> str:
    lines = [["what", "measured", "target", "", "of the peer's", "notes"], *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number in (1, 2, 4) else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="one of these (all)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full size (1)")
    parser.add_argument("--repeat", type=int, default=3, help="runs, of which the medians count (3)")
    parser.add_argument("--port", type=int, default=27000, help="the first of about 350 ports (27000)")
    parser.add_argument("--check", action="store_true", help="exit status 1 if something is over its target")
    options = parser.parse_args()
    if not (SHARED / "run.py").exists():
        raise SystemExit(
            f"bench-cluster: there is no {SHARED.parent.name}/{SHARED.name} beside the checkout, with the scenarios"
        )
    print(circumstances(), flush=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as directory:
        try:
            bench = Bench(options.scale, options.repeat, options.port, Path(directory))
        except Unavailable as error:
            raise SystemExit(f"bench-cluster: {error}") from None
        for name in SCENARIOS:
            if name in (options.scenario or SCENARIOS):
                rows += SCENARIOS[name](bench)
    rates, speed = bench.rates, f"{bench.speed:.2f} times as fast as when the peer was measured"
    print(f"\nthe API server: {speed}; {rates.create:.0f} creates, {rates.first:.0f} first statuses,")
    print(f"{rates.changed:.0f} changed statuses a second\n\n{table(rows)}")
    sys.exit(options.check and any(row.over for row in rows))


if __name__ == "__main__":
    main()
