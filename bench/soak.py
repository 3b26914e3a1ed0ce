"""A controller under load and in trouble for a while: it has to stay right, and to stay small.

    make soak                                     ten minutes, 200 generators, one change a second
    make soak ARGS="--minutes 60 --seed 7"        longer, with other luck

The controller is the real one, on a real API server. Sources and generators change at random, and at
random its connections are cut or hang, the API server crashes, and in the first third of the time the
controller is killed and started again. A consumer fetches an artifact after every change.

At the end everything must be as a run without faults would leave it, every served file must have the
digest of its status, and the last process must be flat: see `ALLOWED`. Exit status 1 if it is not.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import psutil
from msgspec import Struct

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.e2e import role
from tests.e2e.api_proxy import ApiProxy
from tests.e2e.controller import Controller
from tests.e2e.sources import serving
from tests.e2e.trees import Tree, sha256
from tests.e2e.world import World, copy, download, output, source
from tests.envtest.build import CONTROL_PLANE, Unavailable, find
from tests.envtest.client import Object, Refused
from tests.envtest.fixtures import definition_files
from tests.envtest.server import ControlPlane, read_definitions

SAMPLE_EVERY = 5.0
WARM_UP = 60.0
"""Seconds of a process that are not measured: caches fill."""
LEAST = 8
"""Samples after which a process can be judged."""
TROUBLE_EVERY = 12.0
SOURCES = 10
FILLER = 300
"""Files of each source that no artifact has: what is kept of a tree should be worth noticing."""
MIB = 1 << 20


class Sample(Struct, frozen=True):
    """A process at one moment; `at` are seconds since it began."""

    at: float
    memory: float
    threads: float
    descriptors: float


ALLOWED: Mapping[str, tuple[float, float]] = {"memory": (4.0, 2.0), "threads": (2.0, 0.0), "descriptors": (8.0, 0.0)}
"""What a process may grow by from the first quarter of what is measured to the last, compared by medians:
so much, or so much in an hour if that is more. Memory is in MiB."""


class Life:
    """One process, from its start to its end."""

    def __init__(self, number: int, process: psutil.Process) -> None:
        self.number = number
        self.process = process
        self.begun = time.monotonic()
        self.ended_by = "the end"
        self.samples: list[Sample] = []

    def sample(self) -> None:
        with suppress(psutil.Error):
            with self.process.oneshot():
                values = self.process.memory_info().rss / MIB, self.process.num_threads(), self.process.num_fds()
            self.samples.append(Sample(time.monotonic() - self.begun, *values))

    @property
    def measured(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.at >= WARM_UP]

    def growth(self, field: str) -> float:
        values: list[float] = [getattr(sample, field) for sample in self.measured]
        quarter = max(len(values) // 4, 1)
        return statistics.median(values[-quarter:]) - statistics.median(values[:quarter])

    def slope(self, field: str) -> float:
        """Growth in an hour: the median of the slopes between any two samples, which outliers do not move."""
        points: list[tuple[float, float]] = [(sample.at, getattr(sample, field)) for sample in self.measured]
        slopes = [(y2 - y1) / (x2 - x1) for n, (x1, y1) in enumerate(points) for x2, y2 in points[n + 1 :]]
        return 3600 * statistics.median(slopes)

    def faults(self) -> Iterator[str]:
        if len(self.measured) < LEAST:
            yield f"process {self.number} was not measured for long enough to be judged (--minutes)"
            return
        hours = (self.measured[-1].at - self.measured[0].at) / 3600
        for field, (amount, hourly) in ALLOWED.items():
            if self.growth(field) > max(amount, hourly * hours):
                yield f"process {self.number}: {field} grew by {self.growth(field):.1f} in {60 * hours:.1f} minutes"

    def row(self) -> list[str]:
        judged = len(self.measured) >= LEAST
        row = [str(self.number), f"{self.samples[-1].at:.0f} s" if self.samples else "0 s", self.ended_by]
        for field in ALLOWED:
            values = [getattr(sample, field) for sample in self.samples] or [0.0]
            row += [f"{values[0]:.1f}", f"{max(values):.1f}", f"{values[-1]:.1f}"]
            row += [f"{self.growth(field):+.1f}", f"{self.slope(field):+.1f}"] if judged else ["", ""]
        return row


def table(lives: Sequence[Life]) -> str:
    head = ["process", "for", "ended by"]
    for name, unit in (("MiB", "MiB/h"), ("threads", "/h"), ("files", "/h")):
        head += [f"{name} first", "most", "last", "growth", unit]
    lines = [head, *(life.row() for life in lives)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


class Fleet:
    """Many generators over a few sources, what is done to them, and what they should have made.

    Each makes one artifact of one directory. Of ten, the last also takes in the artifact of the one before.
    """

    def __init__(self, world: World, count: int, chance: random.Random) -> None:
        self.world = world
        self.count = count
        self.chance = chance
        filler = {f"docs/page{number:04}.md": b"# Page\n" * 10 for number in range(FILLER)}
        self.trees: list[dict[str, bytes]] = [dict(filler) for _ in range(SOURCES)]
        for number in range(count):
            for file in range(3):
                self.trees[number % SOURCES][f"apps/{number:04}/file{file}.yaml"] = self._text(number)
        self.excludes: set[int] = set()
        self.absent: set[int] = set(range(count))

    def _text(self, number: int) -> bytes:
        return f"app: {number}\nvalue: {self.chance.getrandbits(64):x}\n".encode()

    def begin(self) -> None:
        for number in range(SOURCES):
            self._publish(number)
        for number in range(self.count):
            self._create(number)

    def _publish(self, number: int) -> None:
        persist(lambda: self.world.publish(self.trees[number], f"repo-{number}"))

    def _create(self, number: int) -> None:
        sources = [source(name=f"repo-{number % SOURCES}")]
        if _is_chained(number):
            sources.append(source("up", name=_artifact(number - 1), kind="ExternalArtifact"))
        outputs = self._outputs(number)
        persist(lambda: self.world.generate(*outputs, name=_generator(number), sources=sources))
        self.absent.discard(number)

    def _outputs(self, number: int) -> list[Object]:
        copies = [copy(f"@repo/apps/{number:04}/**", exclude=["file2.yaml"] if number in self.excludes else [])]
        if _is_chained(number):
            copies.append(copy("@up/**", "@artifact/up/"))
        return [output(_artifact(number), *copies)]

    # What happens

    def change(self) -> str:
        """Do one thing; returns what it was."""
        ((name, _, do),) = self.chance.choices(self.CHANGES, [weight for _, weight, _ in self.CHANGES])
        do(self)
        return name

    def _any(self) -> int:
        return self.chance.choice([number for number in range(self.count) if number not in self.absent])

    def _commit(self) -> None:
        number = self.chance.randrange(self.count)
        self.trees[number % SOURCES][f"apps/{number:04}/file0.yaml"] = self._text(number)
        self._publish(number % SOURCES)

    def _commit_to_all(self) -> None:
        repo = self.chance.randrange(SOURCES)
        for number in range(repo, self.count, SOURCES):
            self.trees[repo][f"apps/{number:04}/file1.yaml"] = self._text(number)
        self._publish(repo)

    def _edit(self) -> None:
        number = self._any()
        self.excludes ^= {number}
        persist(lambda: self.world.edit(_generator(number), artifacts=self._outputs(number)))

    def _come_or_go(self) -> None:
        back = [
            number for number in sorted(self.absent) if not persist(partial(self.world.get, KIND, _generator(number)))
        ]
        if back:
            self._create(self.chance.choice(back))
            return
        number = self._any()
        if not _is_chained(number + 1):
            persist(lambda: self.world.delete(KIND, _generator(number)))
            self.absent.add(number)

    def _delete_artifact(self) -> None:
        name = _artifact(self._any())
        with suppress(Refused):  # not published yet
            persist(lambda: self.world.delete("ExternalArtifact", name))

    def _request(self) -> None:
        token = datetime.now(UTC).isoformat()
        annotation = {"reconcile.fluxcd.io/requestedAt": token}
        persist(lambda: self.world.annotate(_generator(self._any()), **annotation))

    CHANGES: Sequence[tuple[str, float, Callable[[Fleet], None]]] = (
        ("commits to one artifact", 10, _commit),
        ("commits to all of a source", 1, _commit_to_all),
        ("edits", 2, _edit),
        ("generators made or deleted", 2, _come_or_go),
        ("artifacts deleted by hand", 1, _delete_artifact),
        ("requests", 1, _request),
    )

    # What it should come to

    def expected(self) -> dict[str, Tree]:
        present = [number for number in range(self.count) if number not in self.absent]
        return {_artifact(number): self._tree(number) for number in present}

    def _tree(self, number: int) -> dict[str, bytes]:
        names = ["file0.yaml", "file1.yaml", *([] if number in self.excludes else ["file2.yaml"])]
        tree = {name: self.trees[number % SOURCES][f"apps/{number:04}/{name}"] for name in names}
        if _is_chained(number):
            tree |= {f"up/{name}": text for name, text in self._tree(number - 1).items()}
        return tree


KIND = "ArtifactGenerator"


def _is_chained(number: int) -> bool:
    return number % 10 == 9


def _generator(number: int) -> str:
    return f"gen-{number:04}"


def _artifact(number: int) -> str:
    return f"app-{number:04}"


def persist(call: Callable[[], object]) -> object:
    """Call until the API server answers; what it did before it died may not be done twice."""
    deadline = time.monotonic() + 120
    again = False
    while True:
        try:
            return call()
        except Refused as error:
            if again and error.status in (404, 409):
                return None
            if error.status < 500 and error.status != 429:
                raise
        except OSError:
            pass
        again = True
        if time.monotonic() > deadline:
            raise SystemExit("the API server does not answer any more")
        time.sleep(0.1)


class Consumer:
    """Fetches artifacts as kustomize-controller does, and minds what it gets."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.fetched = 0
        self.violations: list[str] = []

    def look(self, name: str) -> None:
        with suppress(OSError, Refused):
            there = self.world.artifact(name)
            if not there:
                return
            status, body = download(there["url"])
            self.fetched += status == 200
            if status == 200 and sha256(body) != there["digest"]:
                self.violations.append(f"{name}: served {sha256(body)}, published {there['digest']}")
            elif status not in (0, 200, 503) and self.world.artifact(name) == there:
                self.violations.append(f"{name}: published {there['url']}, which answers {status}")


class Soak:
    """The controller, whatever happens to it, and a sampler beside them."""

    def __init__(self, plane: ControlPlane, proxy: ApiProxy, controller: Controller, chance: random.Random) -> None:
        self.plane = plane
        self.proxy = proxy
        self.controller = controller
        self.chance = chance
        self.lives: list[Life] = []
        self.troubles: Counter[str] = Counter()
        self.kills = True
        self._ending = threading.Event()

    def begin_life(self) -> None:
        self.controller.start()
        assert self.controller.process is not None
        self.lives.append(Life(len(self.lives) + 1, psutil.Process(self.controller.process.pid)))

    @contextmanager
    def sampling(self) -> Iterator[None]:
        def run() -> None:
            while not self._ending.wait(SAMPLE_EVERY):
                self.lives[-1].sample()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ending.set()
            thread.join()

    def trouble(self) -> None:
        kinds = [(name, weight, do) for name, weight, do in self.TROUBLES if self.kills or do is not Soak._kill]
        ((name, _, do),) = self.chance.choices(kinds, [weight for _, weight, _ in kinds])
        self.troubles[name] += 1
        do(self)

    def _kill(self) -> None:
        self.lives[-1].ended_by = "SIGKILL"
        self.controller.kill()
        self.begin_life()

    def _cut(self) -> None:
        self.proxy.cut()

    def _cut_event(self) -> None:
        self.proxy.cut_next_event(self.chance.choice(["artifactgenerators", "externalartifacts", "gitrepositories"]))

    def _hang(self) -> None:
        def hang() -> None:
            with self.proxy.hanging():
                time.sleep(4)

        threading.Thread(target=hang, daemon=True).start()

    def _crash_server(self) -> None:
        self.plane.restart()

    TROUBLES: Sequence[tuple[str, float, Callable[[Soak], None]]] = (
        ("all connections cut", 4, _cut),
        ("an event cut in two", 3, _cut_event),
        ("the API server hangs", 2, _hang),
        ("the API server crashes", 1, _crash_server),
        ("the controller is killed", 3, _kill),
    )


def run(soak: Soak, fleet: Fleet, consumer: Consumer, seconds: float, rate: float) -> Counter[str]:
    """Change and trouble for so long; returns what was changed how often."""
    changes: Counter[str] = Counter()
    begun = time.monotonic()
    next_trouble, number = begun + TROUBLE_EVERY, 0
    while (now := time.monotonic()) < begun + seconds:
        soak.kills = now < begun + seconds / 3
        if now > next_trouble:
            next_trouble = now + fleet.chance.expovariate(1 / TROUBLE_EVERY)
            soak.trouble()
        changes[fleet.change()] += 1
        consumer.look(_artifact(fleet.chance.randrange(fleet.count)))
        number += 1
        time.sleep(max(0.0, begun + number / rate - time.monotonic()) if rate else 0.0)
    return changes


def soak(options: argparse.Namespace) -> list[str]:
    """Run it all; returns what is wrong."""
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="sluice-soak-") as name:
        directory = Path(name)
        (directory / "plane").mkdir()
        with (
            ControlPlane(find(CONTROL_PLANE), directory / "plane", read_definitions(definition_files())) as plane,
            serving() as sources,
            ApiProxy(role.install(plane), directory) as proxy,
        ):
            world = World(plane.client, plane.namespace(), sources)
            controller = Controller(directory / "controller", proxy.kubeconfig, "--artifact-retention-ttl=10s")
            try:
                fleet, consumer = Fleet(world, options.generators, chance), Consumer(world)
                here = Soak(plane, proxy, controller, chance)
                here.begin_life()
                with here.sampling():
                    fleet.begin()
                    changes = run(here, fleet, consumer, 60 * options.minutes, options.rate)
                    ended = time.monotonic()
                    wrong = converge(world, fleet, controller)
                    print(f"converged {time.monotonic() - ended:.1f} s after the last change")
            finally:
                controller.end()
            wrong += consumer.violations
            wrong += [f"the controller logged a bug: {line['msg']}" for line in controller.log() if "exception" in line]
    wrong += here.lives[-1].faults()
    print(f"changes: {told(changes)}\ntroubles: {told(here.troubles)}\nfetched in between: {consumer.fetched}")
    print(f"\n{table(here.lives)}\n")
    return wrong


def converge(world: World, fleet: Fleet, controller: Controller) -> list[str]:
    try:
        world.settles(fleet.expected(), controller.store, within=120)
    except AssertionError as error:
        return [str(error)]
    return []


def told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in sorted(counts.items())) or "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="how long (10)")
    parser.add_argument("--generators", type=int, default=200, help="how many (200)")
    parser.add_argument("--rate", type=float, default=1, help="changes a second (1)")
    parser.add_argument("--seed", type=int, default=1, help="decides what happens, and in which order (1)")
    options = parser.parse_args()
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {options}, load average {psutil.getloadavg()[0]:.2f}", flush=True)
    try:
        wrong = soak(options)
    except Unavailable as error:
        raise SystemExit(f"soak: {error}") from None
    print("\n".join(["not passed:", *wrong] if wrong else ["passed"]))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
