"""Which columns tables of objects have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from msgspec import Struct

from sluice.cli.objects import Object
from sluice.cli.output import Format, human_size, shorten_revision
from sluice.control.objects import ORIGIN_REVISION
from sluice.core.spec import SourceKind
from sluice.kube.kinds import ARTIFACT_GENERATOR, EXTERNAL_ARTIFACT, SOURCE_KINDS, Kind


class Column(Struct, frozen=True):
    """A column of a table, in which forms it is shown."""

    name: str
    value: Callable[[Object], str]
    forms: frozenset[Format] = frozenset({Format.TABLE, Format.WIDE})


class Family(Struct, frozen=True):
    """Kinds that are shown in one table."""

    words: str
    singular: str
    kinds: tuple[Kind, ...]
    columns: tuple[Column, ...]

    def shown(self, form: Format) -> list[Column]:
        return [column for column in self.columns if form in column.forms]


def _wide(name: str, value: Callable[[Object], str]) -> Column:
    return Column(name, value, frozenset({Format.WIDE}))


def _narrow(name: str, value: Callable[[Object], str]) -> Column:
    return Column(name, value, frozenset({Format.TABLE}))


def _revision(one: Object) -> str:
    artifact = one.status.artifact
    return artifact.revision if artifact else ""


def _origin(one: Object) -> str:
    artifact = one.status.artifact
    return artifact.metadata.get(ORIGIN_REVISION, "") if artifact else ""


def _size(one: Object) -> str:
    artifact = one.status.artifact
    return "" if artifact is None or artifact.size is None else human_size(artifact.size)


def _url(one: Object) -> str:
    return one.status.artifact.url if one.status.artifact else ""


def _updated(one: Object) -> str:
    return ago(one.status.artifact.last_update_time) if one.status.artifact else ""


def _age(one: Object) -> str:
    made = one.metadata.creation_timestamp
    return "" if made is None else ago(made.isoformat())


def _made_from(one: Object) -> str:
    origin = one.origin
    return f"{origin.kind}/{origin.namespace}/{origin.name}" if origin else ""


_STATE = (
    Column("READY", lambda one: one.ready[0]),
    Column("MESSAGE", lambda one: one.ready[1]),
)
_SUSPENDED = Column("SUSPENDED", lambda one: str(one.is_suspended))
_REVISION = (
    _narrow("REVISION", lambda one: shorten_revision(_revision(one))),
    _wide("REVISION", _revision),
)

GENERATORS = Family(
    "generators",
    "ArtifactGenerator",
    (ARTIFACT_GENERATOR,),
    (
        Column("NAME", lambda one: one.metadata.name),
        _SUSPENDED,
        _wide("ARTIFACTS", lambda one: str(len(one.inventory))),
        _wide("SOURCES", lambda one: str(len(one.sources))),
        _wide("AGE", _age),
        *_STATE,
    ),
)
ARTIFACTS = Family(
    "artifacts",
    "ExternalArtifact",
    (EXTERNAL_ARTIFACT,),
    (
        Column("NAME", lambda one: one.metadata.name),
        *_REVISION,
        _wide("ORIGIN", _origin),
        _wide("SIZE", _size),
        _wide("UPDATED", _updated),
        Column("SOURCE", _made_from),
        *_STATE,
    ),
)
SOURCES = Family(
    "sources",
    "source",
    tuple(kind for name, kind in SOURCE_KINDS.items() if name is not SourceKind.EXTERNAL_ARTIFACT),
    (
        Column("NAME", lambda one: f"{one.kind.lower()}/{one.metadata.name}"),
        *_REVISION,
        _wide("SIZE", _size),
        _wide("UPDATED", _updated),
        _wide("URL", _url),
        _SUSPENDED,
        *_STATE,
    ),
)

FAMILIES: Mapping[str, tuple[Family, ...]] = {
    "generators": (GENERATORS,),
    "generator": (GENERATORS,),
    "artifacts": (ARTIFACTS,),
    "artifact": (ARTIFACTS,),
    "sources": (SOURCES,),
    "source": (SOURCES,),
    "all": (GENERATORS, ARTIFACTS, SOURCES),
}
"""What can be asked for."""


def ago(moment: str | datetime | None, now: datetime | None = None) -> str:
    """How long ago that was, roughly; nothing for what is no time."""
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            return ""
    if moment is None or moment.tzinfo is None:
        return ""
    seconds = max(0, int(((now or datetime.now(UTC)) - moment).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
