"""Generators are shared out among controllers by label, and move from one to another while all of them work."""

import random
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from tests.e2e.conftest import Starter
from tests.e2e.controller import Controller
from tests.e2e.trees import Tree, sha256
from tests.e2e.world import Auditor, World, download, eventually, output, source
from tests.envtest.client import Refused

pytestmark = pytest.mark.cluster

LABEL = "sharding.fluxcd.io/key"
ONE, OTHERS = f"{LABEL}=shard1", f"!{LABEL}"
SHARD1 = {LABEL: "shard1"}
KIND = "ArtifactGenerator"


def tree(names: list[str], mark: int = 1) -> Tree:
    return {f"{name}/a.yaml": f"{name}: {mark}\n".encode() for name in names}


def expected(names: list[str], mark: int = 1) -> dict[str, Tree]:
    return {name: {"a.yaml": f"{name}: {mark}\n".encode()} for name in names}


def generate(world: World, name: str, *, labels: dict[str, str] | None = None) -> None:
    spec = {"sources": [source()], "artifacts": [output(name, f"@repo/{name}/**")]}
    world.create(KIND, name, spec, labels=labels or {})


def move(world: World, name: str, shard: str | None) -> None:
    world.client.merge(world.path(KIND, name), {"metadata": {"labels": {LABEL: shard}}})


def stored(world: World, controller: Controller) -> set[str]:
    """The artifacts of which a shard has files."""
    here = controller.store / "externalartifact" / world.namespace
    return {path.parent.name for path in here.glob("*/*")}


def served_by(world: World, name: str) -> int:
    """The port to which consumers of an artifact are sent."""
    return int(world.artifact(name)["url"].split("/")[2].rpartition(":")[2])


@pytest.fixture
def shards(new_controller: Starter) -> tuple[Controller, Controller]:
    """The shard of the label, and that of all without it."""
    brief = "--artifact-retention-ttl=1s"
    one = new_controller(f"--watch-label-selector={ONE}", brief).start()
    return one, new_controller(f"--watch-label-selector={OTHERS}", brief).start()


class Consumer:
    """Fetches what is published over and over; at no moment may it be missing or wrong."""

    def __init__(self, world: World, names: list[str]) -> None:
        self.violations: list[str] = []
        self.fetched = 0
        self._world = world
        self._names = names
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.wait(0.01):
            with suppress(OSError, Refused):
                for name in self._names:
                    self._look(name)

    def _look(self, name: str) -> None:
        there = self._world.artifact(name)
        if not there:
            self.violations.append(f"{name} is not published")
            return
        status, body = download(there["url"])
        self.fetched += 1
        if (status, sha256(body)) != (200, there["digest"]) and self._world.artifact(name) == there:
            self.violations.append(
                f"{name}: {there['url']} answers {status} with {sha256(body)}, not {there['digest']}"
            )


@pytest.fixture
def consume(world: World) -> Iterator[list[Consumer]]:
    """Consumers that a test has started; their findings fail it."""
    started: list[Consumer] = []
    yield started
    for consumer in started:
        consumer.stop()
        assert consumer.violations == []
        assert consumer.fetched > 0


def test_every_generator_is_one_shards(world: World, shards: tuple[Controller, Controller], audit: Auditor) -> None:
    one, others = shards
    names = [f"app{number}" for number in range(6)]
    world.publish(tree(names))
    for number, name in enumerate(names):
        generate(world, name, labels=SHARD1 if number % 2 else {})

    world.settles(expected(names), one.store)

    assert stored(world, one) == {"app1", "app3", "app5"}
    assert stored(world, others) == {"app0", "app2", "app4"}
    assert {served_by(world, name) for name in stored(world, one)} == {one.port}
    assert {served_by(world, name) for name in stored(world, others)} == {others.port}


def test_a_generator_that_moves_takes_its_artifact_along(
    world: World, shards: tuple[Controller, Controller], audit: Auditor, consume: list[Consumer]
) -> None:
    one, others = shards
    names = ["moves", "stays"]
    world.publish(tree(names))
    for name in names:
        generate(world, name)
    world.settles(expected(names), others.store)
    before, uid = world.artifact("moves"), (world.get("ExternalArtifact", "moves") or {})["metadata"]["uid"]
    consume.append(Consumer(world, names))
    consume[0].start()

    move(world, "moves", "shard1")
    eventually("the artifact is the other shard's", lambda: served_by(world, "moves") == one.port)
    eventually("the files are the other shard's", lambda: stored(world, others) == {"stays"})
    assert stored(world, one) == {"moves"}

    after = world.artifact("moves")
    assert (after["revision"], after["digest"], after["path"]) == (before["revision"], before["digest"], before["path"])
    assert (world.get("ExternalArtifact", "moves") or {})["metadata"]["uid"] == uid

    world.publish(tree(names, 2))
    world.settles(expected(names, 2), one.store)
    assert stored(world, others) == {"stays"}
    warnings = [event["message"] for event in world.events() if event["type"] == "Warning"]
    assert warnings == []


def test_generators_move_to_and_fro_while_everything_changes(
    world: World, shards: tuple[Controller, Controller], audit: Auditor, consume: list[Consumer]
) -> None:
    one, others = shards
    chance = random.Random(1)
    names = [f"app{number}" for number in range(8)]
    where: dict[str, str | None] = dict.fromkeys(names)
    world.publish(tree(names))
    for name in names:
        generate(world, name)
    world.until_ready(*names)
    consume.append(Consumer(world, names))
    consume[0].start()

    for mark in range(2, 22):
        for name in chance.sample(names, 3):
            where[name] = "shard1" if where[name] is None else None
            move(world, name, where[name])
        world.publish(tree(names, mark))
        if mark % 5 == 0:
            world.until_ready(*names)

    world.settles(expected(names, 21), one.store)
    first = {name for name, shard in where.items() if shard is not None}
    eventually("the first shard has what is its own", lambda: stored(world, one) == first)
    eventually("the second shard has what is its own", lambda: stored(world, others) == set(names) - first)
    assert {name: served_by(world, name) for name in names} == {
        name: one.port if name in first else others.port for name in names
    }


def test_a_shard_that_was_away_lets_go_of_what_left(
    world: World, shards: tuple[Controller, Controller], audit: Auditor
) -> None:
    one, others = shards
    world.publish(tree(["moves"]))
    generate(world, "moves")
    world.settles(expected(["moves"]), others.store)
    assert others.stop() == 0
    move(world, "moves", "shard1")
    eventually("the artifact is the other shard's", lambda: served_by(world, "moves") == one.port)

    others.start()

    eventually("the files are gone", lambda: stored(world, others) == set())
    world.settles(expected(["moves"]), one.store)


def test_a_generator_of_no_shard_keeps_what_it_has(
    world: World, new_controller: Starter, consume: list[Consumer]
) -> None:
    brief = ["--artifact-retention-ttl=1s", "--artifact-retention-records=1"]
    one = new_controller(f"--watch-label-selector={ONE}", *brief).start()
    names = ["leaves", "stays"]
    world.publish(tree(names))
    for name in names:
        generate(world, name, labels=SHARD1)
    world.settles(expected(names), one.store)
    consume.append(Consumer(world, names))
    consume[0].start()
    before = {name: world.artifact(name) for name in names}

    move(world, "leaves", None)
    world.publish({**tree(["leaves"]), **tree(["stays"], 2)})
    eventually("the other follows", lambda: world.artifact("stays") != before["stays"])
    former = one.store / before["stays"]["path"]
    eventually("its former file is collected", lambda: not former.exists())

    assert world.artifact("leaves") == before["leaves"]
    assert stored(world, one) == set(names)
