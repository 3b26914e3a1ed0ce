"""``sluice reconcile``, ``suspend``, ``resume`` and ``wait``: ask a controller for something, and wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime

import click

from sluice.cli.cluster import Place, World, place_options, run
from sluice.cli.complete import complete_generators, complete_readied
from sluice.cli.durations import DURATION, show_duration
from sluice.cli.names import ARTIFACT_WORDS, GENERATOR_WORDS, parse_names
from sluice.cli.objects import Object, Reference, is_artifact, title
from sluice.cli.output import Mark, Words, shorten_revision
from sluice.cli.waiting import Judge, Result, judge_ready, judge_request, wait_until
from sluice.control.objects import PAUSE_ANNOTATION, REQUEST_ANNOTATION
from sluice.core.errors import ApiError
from sluice.core.spec import SourceKind
from sluice.kube.kinds import ARTIFACT_GENERATOR, EXTERNAL_ARTIFACT, SOURCE_KINDS, Key, Kind

SHOWN = 3
"""Names that one line of words lists."""

timeout_option = click.option(
    "--timeout", type=DURATION, default="5m0s", show_default=True, help="How long to wait at most."
)
_all_option = click.option("--all", "everything", is_flag=True, help="All of the namespace.")
_label_option = click.option(
    "-l", "--label-selector", "labels", default="", metavar="SELECTOR", help="Those with these labels."
)


@click.command("reconcile")
@click.argument("names", nargs=-1, metavar="generator NAME...", shell_complete=complete_generators)
@click.option("--with-source", is_flag=True, help="Reconcile what they read first.")
@timeout_option
@place_options
def reconcile(names: tuple[str, ...], place: Place, with_source: bool, timeout: float) -> int:
    """Ask for a reconciliation of generators, and wait until it is done.

    Ends with 1 if a generator is not ready then.
    """

    async def work(desk: _Desk) -> int:
        keys = await _chosen(desk.world, ARTIFACT_GENERATOR, names, everything=False, labels="")
        return int(not all([await desk.reconcile(key, with_source=with_source) for key in keys]))

    return _run_within(place, timeout, work)


@click.command("suspend")
@click.argument("names", nargs=-1, metavar="generator [NAME]...", shell_complete=complete_generators)
@_all_option
@_label_option
@place_options
def suspend(names: tuple[str, ...], place: Place, everything: bool, labels: str) -> int:
    """Stop the reconciliation of generators; what they have published stays."""

    async def work(world: World) -> int:
        keys = await _chosen(world, ARTIFACT_GENERATOR, names, everything=everything, labels=labels)
        await _annotate(world, Words(), keys, {PAUSE_ANNOTATION: "disabled"}, "suspended")
        return 0

    return run(place, work)


@click.command("resume")
@click.argument("names", nargs=-1, metavar="generator [NAME]...", shell_complete=complete_generators)
@_all_option
@_label_option
@timeout_option
@place_options
def resume(names: tuple[str, ...], place: Place, everything: bool, labels: str, timeout: float) -> int:
    """Let generators be reconciled again, and wait until they are.

    Ends with 1 if a generator is not ready then.
    """

    async def work(desk: _Desk) -> int:
        keys = await _chosen(desk.world, ARTIFACT_GENERATOR, names, everything=everything, labels=labels)
        request = _now()
        annotations = {PAUSE_ANNOTATION: None, REQUEST_ANNOTATION: request}
        await _annotate(desk.world, desk.words, keys, annotations, "resumed")
        return _code(await desk.wait(ARTIFACT_GENERATOR, keys, judge_request(request)))

    return _run_within(place, timeout, work)


@click.command("wait")
@click.argument("names", nargs=-1, metavar="[TYPE] [NAME]...", shell_complete=complete_readied)
@_all_option
@_label_option
@timeout_option
@place_options
def wait(names: tuple[str, ...], place: Place, everything: bool, labels: str, timeout: float) -> int:
    """Wait until generators, or artifacts, are ready.

    TYPE is generator or artifact, and generator where it is left out. Ends with 1 when one of them
    cannot become ready as it is: stalled, suspended or not there.
    """
    kind = EXTERNAL_ARTIFACT if names[:1] and names[0] in ARTIFACT_WORDS else ARTIFACT_GENERATOR

    async def work(desk: _Desk) -> int:
        keys = await _chosen(desk.world, kind, names, everything=everything, labels=labels)
        return _code(await desk.wait(kind, keys, judge_ready))

    return _run_within(place, timeout, work)


def _run_within(place: Place, timeout: float, work: Callable[[_Desk], Awaitable[int]]) -> int:
    async def inside(world: World) -> int:
        with Words() as words:
            desk = _Desk(world, words)
            try:
                async with asyncio.timeout(timeout):
                    return await work(desk)
            except TimeoutError:
                raise ApiError(f"{_some(desk.pending)}: not done within {show_duration(timeout)} (--timeout)") from None
            except ExceptionGroup as group:
                raise group.exceptions[0] from None

    return run(place, inside)


def _code(results: Iterable[Result]) -> int:
    return int(not all(result.is_good for result in results))


def _some(pending: Collection[str]) -> str:
    """What is waited for, not too much of it."""
    names = list(pending)[:SHOWN]
    more = f" and {len(pending) - SHOWN} more" if len(pending) > SHOWN else ""
    return f"{', '.join(names) or 'the cluster'}{more}"


async def _chosen(world: World, kind: Kind, names: Sequence[str], *, everything: bool, labels: str) -> list[Key]:
    words = ARTIFACT_WORDS if kind is EXTERNAL_ARTIFACT else GENERATOR_WORDS
    keys = parse_names(names, world.namespace, words)
    if bool(keys) + everything + bool(labels) != 1:
        raise click.UsageError("say which: by name, or all of them with --all, or some with -l")
    if keys:
        return keys
    found = [one.key for one in await world.list(kind, world.namespace, labels)]
    if not found:
        raise ApiError(f"no {words[1]} {'with these labels ' if labels else ''}in namespace '{world.namespace}'")
    return found


def _title(key: Key, kind: Kind = ARTIFACT_GENERATOR) -> str:
    return title(kind.name, *key)


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


async def _annotate(
    world: World, words: Words, keys: Iterable[Key], annotations: Mapping[str, str | None], done: str
) -> None:
    """Annotate generators; where some are not there, still the others."""

    async def annotate(key: Key) -> None:
        await world.annotate(ARTIFACT_GENERATOR, key, annotations)
        words.say(Mark.SUCCESS, f"{_title(key)} {done}")

    for result in await asyncio.gather(*map(annotate, keys), return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


class _Desk:
    """Asks for reconciliations, each once, and waits; `pending` is what it waits for."""

    def __init__(self, world: World, words: Words) -> None:
        self.world = world
        self.words = words
        self.pending: dict[str, None] = {}
        self._done: dict[tuple[Kind, Key], bool] = {}

    async def reconcile(self, key: Key, *, with_source: bool) -> bool:
        """Whether a generator is ready after it was reconciled."""
        if (ARTIFACT_GENERATOR, key) in self._done:
            return self._done[ARTIFACT_GENERATOR, key]
        # Before it is done, for whoever reads what it makes itself.
        self._done[ARTIFACT_GENERATOR, key] = True
        before = await self.world.get(ARTIFACT_GENERATOR, key)
        if before.is_suspended:
            advice = f"sluice resume generator {key[1]} -n {key[0]}"
            raise ApiError(f"{before.title}: suspended (resume it first: {advice})")
        if with_source:
            for ref in before.sources:
                await self._refresh(ref)
        result = await self._request(ARTIFACT_GENERATOR, key)
        if result.is_good and result.object is not None:
            self._tell_changes(before, result.object)
        self._done[ARTIFACT_GENERATOR, key] = result.is_good
        return result.is_good

    async def _refresh(self, ref: Reference) -> None:
        """Have a source look for something new."""
        key, kind = (ref.namespace, ref.name), SOURCE_KINDS[SourceKind(ref.kind)]
        if (kind, key) in self._done:
            return
        self._done[kind, key] = True
        source = await self.world.get(kind, key)
        if is_artifact(ref):
            maker = source.origin
            if maker is not None and maker.kind == ARTIFACT_GENERATOR.name:
                await self.reconcile((maker.namespace, maker.name), with_source=True)
        elif source.is_suspended:
            self.words.say(Mark.WARNING, f"{source.title} is suspended, and stays as it is")
        else:
            await self._request(kind, key)

    async def _request(self, kind: Kind, key: Key) -> Result:
        """Ask for a reconciliation, and wait until it is over."""
        request = _now()
        self.words.say(Mark.ACTION, f"annotating {_title(key, kind)}")
        await self.world.annotate(kind, key, {REQUEST_ANNOTATION: request})
        [result] = await self.wait(kind, [key], judge_request(request))
        return result

    async def wait(self, kind: Kind, keys: Sequence[Key], judge: Judge) -> list[Result]:
        """Wait until all of these are judged, and say of each how it ended."""
        results: list[Result] = []

        def settled(key: Key, result: Result) -> None:
            results.append(result)
            del self.pending[_title(key, kind)]
            self.words.say(Mark.SUCCESS if result.is_good else Mark.FAILURE, f"{_title(key, kind)}: {result.message}")
            self.words.working(f"waiting for {_some(self.pending)}")

        self.pending |= dict.fromkeys(_title(key, kind) for key in keys)
        self.words.say(Mark.WAITING, f"waiting for {_some(self.pending)}")
        self.words.working(f"waiting for {_some(self.pending)}")
        await wait_until(self.world, kind, keys, judge, settled)
        return results

    def _tell_changes(self, before: Object, after: Object) -> None:
        """Say which artifacts are other ones now."""
        old = {(item.namespace, item.name): item.digest for item in before.inventory}
        new = {(item.namespace, item.name): item.digest for item in after.inventory}
        for key, digest in new.items():
            if old.get(key) != digest:
                self.words.say(Mark.CREATED, f"{_title(key, EXTERNAL_ARTIFACT)}: {shorten_revision(digest)}")
        for key in old.keys() - new.keys():
            self.words.say(Mark.ACTION, f"{_title(key, EXTERNAL_ARTIFACT)}: deleted")
