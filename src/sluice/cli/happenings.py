"""``sluice events``: what happened to generators."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from typing import Any

import click
import msgspec
from msgspec import Struct

from sluice.cli.cluster import Cluster, Place, World, place_options, run
from sluice.cli.lineage import FLUX_KINDS
from sluice.cli.names import ARTIFACT_WORDS, GENERATOR_WORDS, parse_name
from sluice.cli.output import (
    Format,
    Mark,
    Words,
    emit,
    encode,
    encode_data,
    line_up,
    measure,
    output_option,
    table,
)
from sluice.cli.views import ago
from sluice.core.errors import ApiError
from sluice.kube.kinds import ARTIFACT_GENERATOR, EVENT, EXTERNAL_ARTIFACT, Metadata


class _Involved(Struct, frozen=True):
    kind: str = ""
    name: str = ""


class _Source(Struct, frozen=True):
    component: str = ""


class _Series(Struct, frozen=True, rename="camel"):
    count: int = 0
    last_observed_time: str | None = None


class Happening(Struct, frozen=True, rename="camel"):
    """An event, as far as it is shown."""

    metadata: Metadata
    involved_object: _Involved = _Involved()
    type: str = ""
    reason: str = ""
    message: str = ""
    count: int | None = None
    last_timestamp: str | None = None
    event_time: str | None = None
    series: _Series | None = None
    source: _Source = _Source()
    reporting_component: str = ""

    @property
    def last(self) -> str:
        """When it happened last."""
        series = self.series.last_observed_time if self.series else None
        made = self.metadata.creation_timestamp
        return series or self.last_timestamp or self.event_time or (made.isoformat() if made else "")

    @property
    def times(self) -> int:
        return (self.series.count if self.series else self.count) or 1

    @property
    def target(self) -> str:
        return f"{self.involved_object.kind}/{self.involved_object.name}"

    @property
    def component(self) -> str:
        return self.reporting_component or self.source.component

    def document(self) -> dict[str, Any]:
        return {
            "namespace": self.metadata.namespace,
            "object": self.target,
            "type": self.type,
            "reason": self.reason,
            "message": self.message,
            "count": self.times,
            "lastSeen": self.last,
            "component": self.component,
        }


HAPPENINGS = msgspec.json.Decoder(Happening)

_KINDS = {
    **dict.fromkeys(GENERATOR_WORDS, ARTIFACT_GENERATOR.name),
    **dict.fromkeys(ARTIFACT_WORDS, EXTERNAL_ARTIFACT.name),
    **{name.lower(): name for name in FLUX_KINDS},
}


class Wanted(Struct, frozen=True):
    """Which events to show, and how."""

    namespace: str
    fields: str
    types: frozenset[str]
    form: Format

    def accepts(self, one: Happening) -> bool:
        return not self.types or one.type.lower() in self.types


@click.command("events")
@click.option("--for", "target", default="", metavar="KIND/NAME", help="Only those of one object.")
@click.option("--types", default="", metavar="TYPE,...", help="Only those of these types: Normal, Warning.")
@click.option("-A", "--all-namespaces", is_flag=True, help="Look in all namespaces.")
@click.option("-w", "--watch", is_flag=True, help="Go on, and show what happens.")
@output_option
@place_options
def command(target: str, types: str, place: Place, all_namespaces: bool, watch: bool, form: Format) -> int:
    """Show what happened to generators, the latest last.

    KIND is generator, artifact, or any kind of Flux, such as Kustomization.
    """

    async def work(world: World) -> int:
        if not isinstance(world, Cluster):
            raise ApiError("a directory keeps no events (the log of `sluice serve` tells them)")
        home, fields = _selected(target, world.namespace)
        chosen = frozenset(filter(None, types.lower().split(",")))
        wanted = Wanted("" if all_namespaces else home, fields, chosen, form)
        return await (_follow(world, wanted) if watch else _show(world, wanted))

    return run(place, work)


def _selected(target: str, namespace: str) -> tuple[str, str]:
    """The namespace and the fields of the events that are asked for."""
    if not target:
        return namespace, f"involvedObject.kind={ARTIFACT_GENERATOR.name}"
    kind, slash, name = target.partition("/")
    if not (kind and slash):
        raise click.UsageError(f"--for: '{target}' is not KIND/NAME")
    home, name = parse_name(name, namespace)
    return home, f"involvedObject.kind={_KINDS.get(kind.lower(), kind)},involvedObject.name={name}"


async def _show(world: Cluster, wanted: Wanted) -> int:
    found = await world.client.list_all(EVENT, wanted.namespace, HAPPENINGS, fields=wanted.fields)
    chosen = _sorted(found, wanted)
    emit(_render(chosen, wanted))
    if not chosen and wanted.form in (Format.TABLE, Format.WIDE):
        where = f"in namespace '{wanted.namespace}' (-A looks in all)" if wanted.namespace else "in any namespace"
        Words().say(Mark.WARNING, f"no events {where}")
    return 0


async def _follow(world: Cluster, wanted: Wanted) -> int:
    """Show what happened, then what happens, until interrupted."""
    first: list[Happening] = []
    widths: list[int] = []
    is_complete = False
    async with aclosing(world.watch(EVENT, HAPPENINGS, wanted.namespace, fields=wanted.fields)) as sights:
        async for sight in sights:
            if sight.key is None:
                is_complete = True
                chosen = _sorted(first, wanted)
                widths = measure([_header(wanted), *(_row(one, wanted) for one in chosen)])
                if wanted.form in (Format.TABLE, Format.WIDE):
                    emit(encode(line_up(_header(wanted), widths)))
                for one in chosen:
                    emit(_line(one, wanted, widths))
            elif sight.object is not None and not is_complete:
                first.append(sight.object)
            elif sight.object is not None and wanted.accepts(sight.object):
                emit(_line(sight.object, wanted, widths))
    return 0


def _sorted(found: Iterable[Happening], wanted: Wanted) -> list[Happening]:
    return sorted(filter(wanted.accepts, found), key=lambda one: (one.last, one.metadata.key))


# Forms


def _header(wanted: Wanted) -> list[str]:
    wide = ["COUNT", "COMPONENT"] * (wanted.form is Format.WIDE)
    return [*(["NAMESPACE"] * (not wanted.namespace)), "LAST SEEN", "TYPE", "REASON", "OBJECT", *wide, "MESSAGE"]


def _row(one: Happening, wanted: Wanted) -> list[str]:
    wide = [str(one.times), one.component] if wanted.form is Format.WIDE else []
    home = [] if wanted.namespace else [one.metadata.namespace]
    cells = [*home, ago(one.last), one.type, one.reason, one.target, *wide, one.message]
    return [cell or "-" for cell in cells]


def _render(found: Sequence[Happening], wanted: Wanted) -> bytes:
    match wanted.form:
        case Format.TABLE | Format.WIDE:
            return encode(table(_header(wanted), [_row(one, wanted) for one in found])) if found else b""
        case Format.NAME:
            return encode("".join(f"{one.target}\n" for one in found))
        case _:
            return encode_data({"events": [one.document() for one in found]}, wanted.form)


def _line(one: Happening, wanted: Wanted, widths: Sequence[int]) -> bytes:
    match wanted.form:
        case Format.NAME:
            return encode(f"{one.target}\n")
        case Format.JSON:
            return encode(json.dumps(one.document()) + "\n")
        case Format.YAML:
            return b"---\n" + encode_data(one.document(), wanted.form)
        case _:
            return encode(line_up(_row(one, wanted), widths))
