"""What `engine.py` measures: one function per scenario, each run in a process of its own.

    python bench/scenarios.py NAME ARGUMENT...

prints the numbers as JSON: seconds, bytes, or bytes and files per second.
"""

from __future__ import annotations

import gc
import hashlib
import io
import json
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from isal import igzip_lib, isal_zlib

from sluice.build import Builder
from sluice.cache import UnpackedCache
from sluice.core import glob, pattern
from sluice.core.compose import Composition, compose
from sluice.core.dialect import DOCUMENTED
from sluice.core.gzip import SLICE, inflate
from sluice.core.limits import DEFAULT_LIMITS
from sluice.core.plan import ArtifactPlan, Source, plan_artifacts
from sluice.core.spec import ArtifactGenerator, ArtifactSpec, CopySpec, SourceKind, SourceRef
from sluice.core.tar import write_archive
from sluice.core.tree import Directory, File, MemoryContent
from sluice.core.untar import SOURCE, index
from sluice.storage import DiskStorage

Numbers = Mapping[str, float]

NAMESPACE = "apps"
SOURCES = (SourceRef("repo", SourceKind.GIT_REPOSITORY, "repo", NAMESPACE),)


class Clock:
    """Processor and wall time since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    @property
    def wall(self) -> float:
        return time.perf_counter() - self._wall

    @property
    def cpu(self) -> float:
        return time.process_time() - self._cpu


class Memory:
    """The greatest resident memory since it was made, above what there was then."""

    def __init__(self) -> None:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # forget the greatest so far
        self._base = self._field("VmRSS")

    @property
    def peak(self) -> int:
        return self._field("VmHWM") - self._base

    @staticmethod
    def _field(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def slices(path: str) -> Iterator[bytes]:
    """The bytes of a file, in pieces as a network would give them."""
    with Path(path).open("rb") as file:
        while data := file.read(SLICE):
            yield data


def digest(pieces: Iterable[bytes]) -> None:
    hasher = hashlib.sha256()
    for data in pieces:
        hasher.update(data)


def cpu_of(work: Callable[[], object]) -> float:
    clock = Clock()
    work()
    return clock.cpu


def plans_of(name: str, artifacts: Iterable[ArtifactSpec]) -> tuple[ArtifactPlan, ...]:
    generator = ArtifactGenerator(name=name, namespace=NAMESPACE, sources=SOURCES, artifacts=tuple(artifacts))
    return tuple(plan for plan in plan_artifacts(generator, None, DOCUMENTED) if isinstance(plan, ArtifactPlan))


def plan_of(*copies: CopySpec) -> ArtifactPlan:
    (plan,) = plans_of("all", [ArtifactSpec("all", copies)])
    return plan


def plans_of_teams() -> list[tuple[ArtifactPlan, ...]]:
    """200 generators with five artifacts each."""
    return [
        plans_of(
            f"team{team:03}",
            [
                ArtifactSpec(
                    f"team{team:03}-app{app}", (CopySpec(f"@repo/apps/team{team:03}/app{app}/**", "@artifact/"),)
                )
                for app in range(5)
            ],
        )
        for team in range(200)
    ]


def open_source(cache: UnpackedCache, path: str) -> Source:
    unpacked = cache.open(slices(path))
    return Source(unpacked.tree, f"main@{unpacked.digest}", unpacked.digest)


# The pipeline


def artifact(source: str, place: str) -> Numbers:
    """A big source becomes one artifact: verified, decompressed, indexed, composed, written.

    `libraries` is what inflating, deflating and three digests of the decompressed bytes cost by
    themselves; `least` digests each of the bytes that the pipeline reads or writes once.
    """
    plan = plan_of(CopySpec("@repo/**", "@artifact/"))
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        memory, clock = Memory(), Clock()
        cache = UnpackedCache(Path(scratch))
        builder = Builder(DiskStorage(Path(scratch)), cache.unpack)
        built = builder.build(NAMESPACE, plan, {"repo": open_source(cache, source)})
        numbers = {"cpu": clock.cpu, "wall": clock.wall, "peak": memory.peak}
        stored = f"{scratch}/{built.archive.path}"
        raw: list[bytes] = []
        convert = cpu_of(lambda: raw.extend(inflated(source))) + cpu_of(lambda: deflate(raw))
        once = cpu_of(lambda: digest(raw))
        archives = cpu_of(lambda: digest(slices(source))) + cpu_of(lambda: digest(slices(stored)))
        return {**numbers, "libraries": convert + 3 * once, "least": convert + once + archives}


def inflated(source: str) -> Iterator[bytes]:
    decompressor = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)
    for data in slices(source):
        yield decompressor.decompress(data)


def deflate(pieces: Iterable[bytes]) -> None:
    compressor = isal_zlib.compressobj(2, isal_zlib.DEFLATED, 31)
    for data in pieces:
        compressor.compress(data)
    compressor.flush()


def commit(before: str, after: str, place: str) -> Numbers:
    """A file of a monorepo changes: its artifact is stored, all others are known to be unchanged."""
    teams = plans_of_teams()
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        memory, clock = Memory(), Clock()
        cache = UnpackedCache(Path(scratch))
        builder = Builder(DiskStorage(Path(scratch)), cache.unpack)
        opened = {"repo": open_source(cache, before)}
        for plan in (plan for team in teams for plan in team):
            builder.build(NAMESPACE, plan, opened)
        numbers = {"first": clock.cpu, "first_wall": clock.wall}
        clock = Clock()
        opened = {"repo": open_source(cache, after)}
        changed = 0
        for plan in (plan for team in teams for plan in team):
            if builder.recall(NAMESPACE, plan, opened) is None:
                builder.build(NAMESPACE, plan, opened)
                changed += 1
        numbers |= {"cpu": clock.cpu, "wall": clock.wall, "peak": memory.peak}
    assert changed == 1, changed
    raw: list[bytes] = []
    libraries = cpu_of(lambda: raw.extend(inflated(after))) + cpu_of(lambda: digest(raw))
    return {**numbers, "libraries": libraries + cpu_of(lambda: digest(slices(after)))}


# What stays in memory


def allocated(work: Callable[[], object]) -> tuple[object, int]:
    """What some work returns, and the bytes that stay allocated with it."""
    gc.collect()
    tracemalloc.start()
    kept = work()
    gc.collect()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return kept, size


def plans(source: str) -> Numbers:
    """What 1000 plans cost to make and to keep, before and after they are used."""
    cpu = cpu_of(plans_of_teams)
    unused = allocated(plans_of_teams)[1]
    tree = open_source(UnpackedCache(), source).tree

    def use() -> object:
        teams = plans_of_teams()
        for plan in (plan for team in teams for plan in team):
            composed(plan, tree)
        return teams

    return {"cpu": cpu, "unused": unused / 1000, "used": allocated(use)[1] / 1000}


def tree_memory(source: str) -> Numbers:
    tree, size = allocated(lambda: open_source(UnpackedCache(), source).tree)
    assert isinstance(tree, Directory)
    return {"size": size, "per_file": size / tree.files}


# Patterns


EXCLUDES: Mapping[str, Callable[[int], str]] = {
    "names": lambda number: f"*.ext{number}",
    "directories": lambda number: f"apps/**/test{number}/**",
    "long": lambda number: f"apps/**/dir{number:02}{'x' * 1000}/**",
    "hostile": lambda number: f"**/{'*a' * 505}{number:03}",
}
"""Lists of a hundred excludes, none of which matches anything."""


def excludes(kind: str) -> Numbers:
    """A copy of 100 000 files with a hundred excludes."""
    file = File.of(b"")
    names = {f"{'a' * 20}{number:02}.yaml": file for number in range(100)}
    leaf = Directory.of_entries(names)
    tree = Directory.of_entries(
        {f"apps{a}": Directory.of_entries({f"d{b}": leaf for b in range(100)}) for a in range(10)}
    )
    clock = Clock()
    plan = plan_of(CopySpec("@repo/**", "@artifact/", exclude=tuple(EXCLUDES[kind](number) for number in range(100))))
    planning = clock.cpu
    clock = Clock()
    made = composed(plan, tree)
    assert made.tree.files == tree.files == 100_000
    return {"plan": planning, "cpu": clock.cpu}


# Rates of single steps


def composed(plan: ArtifactPlan, tree: Directory) -> Composition:
    return compose(plan.recipe, {"repo": tree}, lambda file: Directory.of({}))


def rates(source: str) -> Numbers:
    stream = b"".join(inflate(slices(source), DEFAULT_LIMITS, size=1 << 40, field="source_size"))
    pieces = [stream[at : at + SLICE] for at in range(0, len(stream), SLICE)]
    content = MemoryContent(stream)
    tree = index(pieces, content, SOURCE, DEFAULT_LIMITS)
    indexing = cpu_of(lambda: index(pieces, content, SOURCE, DEFAULT_LIMITS))
    deep = pattern.compile_glob("**/*.yaml", pattern.DOCUMENTED, DEFAULT_LIMITS)
    each = plan_of(CopySpec("@repo/**/*.yaml", "@artifact/"))
    composition = composed(each, tree)
    paths = [path for path, entry in composition.tree.walk() if isinstance(entry, File)]
    shared = plan_of(CopySpec("@repo/apps", "@artifact/"))
    return {
        "index": len(stream) / indexing,
        "index_files": tree.files / indexing,
        "write": len(stream) / cpu_of(lambda: write_archive(tree, io.BytesIO())),
        "compose_shared": cpu_of(lambda: composed(shared, tree)),
        "compose_each": cpu_of(lambda: composed(each, tree)),
        "glob": cpu_of(lambda: list(glob.expand(tree, deep))),
        "placed_by": cpu_of(lambda: [composition.placed_by(path) for path in paths[::20]]),
        "merge": cpu_of(lambda: _merge(tree)),
    }


def _merge(tree: Directory) -> None:
    """A hundred files merged into another each."""
    base, overlay = (tree.find(f"apps/team000/app0/file{number}.yaml") for number in (0, 1))
    assert isinstance(base, File)
    assert isinstance(overlay, File)
    for _ in range(100):
        DOCUMENTED.merge(base.read(), overlay.read(), DEFAULT_LIMITS)


SCENARIOS: Mapping[str, Callable[..., Numbers]] = {
    scenario.__name__: scenario for scenario in (artifact, commit, plans, tree_memory, excludes, rates)
}

if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    print(json.dumps(SCENARIOS[name](*arguments)))
