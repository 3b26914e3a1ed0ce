"""``sluice get``: generators, artifacts and sources, and how they are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

import click
from msgspec import Struct

from sluice.cli.cluster import NotServed, Place, Sight, World, place_options, run
from sluice.cli.complete import complete_typed
from sluice.cli.names import parse_names
from sluice.cli.objects import Object
from sluice.cli.output import Format, Mark, Words, emit, encode, encode_data, line_up, measure, output_option, table
from sluice.cli.views import FAMILIES, Family
from sluice.core.errors import ApiError
from sluice.kube.kinds import Key, Kind


class Wanted(Struct, frozen=True, kw_only=True):
    """Which objects to show, and how."""

    families: tuple[Family, ...]
    namespace: str
    """Empty for all of them."""
    names: frozenset[Key] = frozenset()
    labels: str = ""
    condition: tuple[str, str] | None = None
    form: Format
    header: bool = True

    def accepts(self, one: Object) -> bool:
        """Whether it is asked for, and in the state that is asked for: without a condition, False."""
        if self.names and one.key not in self.names:
            return False
        if self.condition is None:
            return True
        kind, status = self.condition
        found = [each.status for each in one.status.conditions if each.type.lower() == kind]
        return (found[0] if found else "False").lower() == status


def _condition(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, str] | None:
    if value is None:
        return None
    kind, equals, status = value.lower().partition("=")
    if not (kind and equals and status):
        raise click.BadParameter(f"'{value}' is not CONDITION=STATUS (such as ready=false)")
    return kind, status


@click.command("get")
@click.argument("what", type=click.Choice(list(FAMILIES), case_sensitive=False), metavar="TYPE")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_typed)
@click.option("-A", "--all-namespaces", is_flag=True, help="Look in all namespaces.")
@click.option("-l", "--label-selector", default="", metavar="SELECTOR", help="Only objects with these labels.")
@click.option(
    "--status-selector",
    "condition",
    callback=_condition,
    metavar="CONDITION=STATUS",
    help="Only objects in this state, such as ready=false.",
)
@click.option("-w", "--watch", is_flag=True, help="Go on, and show what changes.")
@click.option("--no-header", is_flag=True, help="Leave out the line with the names of the columns.")
@output_option
@place_options
def command(what: str, names: tuple[str, ...], place: Place, watch: bool, **options: Any) -> int:
    """Show generators, artifacts, sources, or all of them.

    TYPE is generators, artifacts, sources or all.
    """
    families = FAMILIES[what.lower()]
    if names and (options["all_namespaces"] or options["label_selector"] or len(families) > 1):
        raise click.UsageError("names go with one type and without -A and -l")
    if watch and len(families) > 1:
        raise click.UsageError("-w goes with one type")

    async def show(world: World) -> int:
        keys = parse_names(names, world.namespace)
        homes = {home for home, _ in keys} or {world.namespace}
        wanted = Wanted(
            families=families,
            names=frozenset(keys),
            namespace=homes.pop() if len(homes) == 1 and not options["all_namespaces"] else "",
            labels=options["label_selector"],
            condition=options["condition"],
            form=options["form"],
            header=not options["no_header"],
        )
        return await (_follow(world, wanted) if watch else _show_once(world, wanted, keys))

    return run(place, show)


async def _show_once(world: World, wanted: Wanted, keys: Sequence[Key]) -> int:
    found = [await _list(world, wanted, family, keys) for family in wanted.families]
    everything = [one for objects in found for one in objects]
    missing = sorted(set(keys) - {one.key for one in everything})
    chosen = [[one for one in objects if wanted.accepts(one)] for objects in found]
    emit(_render(wanted, chosen))
    with Words() as words:
        for namespace, name in missing:
            words.say(Mark.FAILURE, f"{wanted.families[0].singular} {namespace}/{name} not found")
        if not keys and not any(chosen) and wanted.form in (Format.TABLE, Format.WIDE):
            words.say(Mark.WARNING, _nothing(wanted, any(found)))
    return int(bool(missing))


def _nothing(wanted: Wanted, is_filtered: bool) -> str:
    what = wanted.families[0].words if len(wanted.families) == 1 else "objects"
    where = f"in namespace '{wanted.namespace}' (-A looks in all)" if wanted.namespace else "in any namespace"
    return f"no {what} {'in this state ' if is_filtered else ''}{where}"


async def _list(world: World, wanted: Wanted, family: Family, keys: Sequence[Key]) -> list[Object]:
    """The objects of a family, or those of these names."""
    if keys:
        one_by_one = await asyncio.gather(*(_get(world, family, kind, key) for kind in family.kinds for key in keys))
        return [one for one in one_by_one if one is not None]
    lists = await asyncio.gather(*(_list_kind(world, wanted, family, kind) for kind in family.kinds))
    return [one for found in lists for one in found]


async def _get(world: World, family: Family, kind: Kind, key: Key) -> Object | None:
    """One object; None where there is none."""
    try:
        return await world.get(kind, key)
    except ApiError as error:
        if error.status != HTTPStatus.NOT_FOUND or (isinstance(error, NotServed) and len(family.kinds) == 1):
            raise
        return None


async def _list_kind(world: World, wanted: Wanted, family: Family, kind: Kind) -> list[Object]:
    """The objects of a kind. Of several kinds those may be missing whose resources are not installed."""
    try:
        return await world.list(kind, wanted.namespace, wanted.labels)
    except NotServed:
        if len(family.kinds) > 1:
            return []
        raise


# Forms


def _render(wanted: Wanted, found: Sequence[Sequence[Object]]) -> bytes:
    match wanted.form:
        case Format.TABLE | Format.WIDE:
            pairs = zip(wanted.families, found, strict=True)
            tables = [_table(wanted, family, objects) for family, objects in pairs if objects]
            return encode("\n".join(tables))
        case Format.NAME:
            return encode("".join(f"{_name(wanted, one)}\n" for objects in found for one in objects))
        case _:
            documents = [one.document() for objects in found for one in objects]
            if len(wanted.names) == 1 and len(documents) == 1:
                return encode_data(documents[0], wanted.form)
            return encode_data({"apiVersion": "v1", "kind": "List", "items": documents}, wanted.form)


def _table(wanted: Wanted, family: Family, objects: Sequence[Object]) -> str:
    header = _header(wanted, family)
    rows = [_row(wanted, family, one) for one in objects]
    if wanted.header:
        return table(header, rows)
    widths = measure(rows)
    return "".join(line_up(row, widths) for row in rows)


def _header(wanted: Wanted, family: Family) -> list[str]:
    return ["NAMESPACE"] * (not wanted.namespace) + [column.name for column in family.shown(wanted.form)]


def _row(wanted: Wanted, family: Family, one: Object) -> list[str]:
    cells = [column.value(one) or "-" for column in family.shown(wanted.form)]
    if len(wanted.families) > 1 and family.words != "sources":
        cells[0] = f"{one.kind.lower()}/{cells[0]}"
    return [one.metadata.namespace] * (not wanted.namespace) + cells


def _name(wanted: Wanted, one: Object) -> str:
    """What other verbs take; with its kind where there are several."""
    several = sum(len(family.kinds) for family in wanted.families) > 1
    return f"{one.kind}/{'/'.join(one.key)}" if several else "/".join(one.key)


# Watching


async def _follow(world: World, wanted: Wanted) -> int:
    """Show what there is, then what changes, until interrupted."""
    family = wanted.families[0]
    known: dict[tuple[str, Key], Object] = {}
    shown: set[tuple[str, Key]] = set()
    waiting = len(family.kinds)
    widths: list[int] = []
    async with aclosing(_merge(world, wanted, family)) as sights:
        async for kind, sight in sights:
            if sight.key is None:
                waiting -= 1
                if not waiting:
                    first = [one for _, one in sorted(known.items()) if wanted.accepts(one)]
                    shown = {(one.kind, one.key) for one in first}
                    widths = _begin(wanted, family, first)
                continue
            key = (kind.name, sight.key)
            before = known.pop(key, None)
            if sight.object is not None:
                known[key] = sight.object
            if waiting:
                continue
            one = sight.object or before
            is_shown = sight.object is not None and wanted.accepts(sight.object)
            if one is not None and (is_shown or key in shown):
                emit(_change(wanted, family, widths, one, is_gone=sight.object is None))
            shown.discard(key)
            if is_shown:
                shown.add(key)
    return 0


def _begin(wanted: Wanted, family: Family, objects: Sequence[Object]) -> list[int]:
    """Show what there is; returns the widths of the columns, which stay."""
    if wanted.form not in (Format.TABLE, Format.WIDE):
        for one in objects:
            emit(_change(wanted, family, [], one, is_gone=False))
        return []
    rows = [_row(wanted, family, one) for one in objects]
    header = _header(wanted, family)
    widths = measure([header, *rows])
    emit(encode("".join(line_up(row, widths) for row in ([header] * wanted.header + rows))))
    return widths


def _change(wanted: Wanted, family: Family, widths: Sequence[int], one: Object, *, is_gone: bool) -> bytes:
    match wanted.form:
        case Format.NAME:
            return encode(f"{_name(wanted, one)}\n")
        case Format.JSON:
            return encode(json.dumps(_event(one, is_gone=is_gone)) + "\n")
        case Format.YAML:
            return b"---\n" + encode_data(_event(one, is_gone=is_gone), wanted.form)
        case _:
            row = _row(wanted, family, one)
            return encode(line_up([*row[:-1], "deleted"] if is_gone else row, widths))


def _event(one: Object, *, is_gone: bool) -> dict[str, Any]:
    return {"type": "DELETED" if is_gone else "MODIFIED", "object": one.document()}


async def _merge(world: World, wanted: Wanted, family: Family) -> AsyncGenerator[tuple[Kind, Sight[Object]], None]:
    """What happens to all kinds of a family."""
    reports: asyncio.Queue[tuple[Kind, Sight[Object] | ApiError]] = asyncio.Queue()

    async def pump(kind: Kind) -> None:
        try:
            async with aclosing(world.follow(kind, wanted.namespace, wanted.labels)) as sights:
                async for sight in sights:
                    reports.put_nowait((kind, sight))
        except ApiError as error:
            is_missing = isinstance(error, NotServed) and len(family.kinds) > 1
            reports.put_nowait((kind, Sight() if is_missing else error))

    tasks = [asyncio.create_task(pump(kind)) for kind in family.kinds]
    try:
        while True:
            kind, report = await reports.get()
            if isinstance(report, ApiError):
                raise report
            yield kind, report
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
