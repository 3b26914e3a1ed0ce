"""What a build came to, for people and for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from sluice.build import StoredArchive
from sluice.cli.output import Format as Format
from sluice.cli.output import encode, encode_data, human_size, table
from sluice.cli.output import shorten_revision as shorten_revision
from sluice.cli.workshop import Built
from sluice.core.compose import Placement
from sluice.core.tree import Directory, File, Link


class Result(Struct, frozen=True, eq=False):
    """An artifact, what is to be noted of it, and its archive, if one was written."""

    built: Built
    error: str | None
    warnings: Sequence[str] = ()
    archive: StoredArchive | None = None


def render(results: Sequence[Result], warnings: Sequence[str], form: Format) -> bytes:
    """The results in a format."""
    return _FORMATS[form](results, warnings)


def _as_table(results: Sequence[Result], _: Sequence[str]) -> bytes:
    if not results:
        return b""
    return encode(table(("NAMESPACE", "NAME", "READY", "FILES", "SIZE", "REVISION"), [_row(r) for r in results]))


def _as_wide(results: Sequence[Result], _: Sequence[str]) -> bytes:
    if not results:
        return b""
    rows = [
        (
            *_row(result)[:-1],
            _or_dash(result.built.revision),
            _or_dash(result.built.origin_revision),
            _generator(result),
        )
        for result in results
    ]
    header = ("NAMESPACE", "NAME", "READY", "FILES", "SIZE", "REVISION", "ORIGIN", "GENERATOR")
    return encode(table(header, rows))


def _row(result: Result) -> tuple[str, ...]:
    built = result.built
    composition = built.composition if result.error is None else None
    return (
        built.namespace,
        _or_dash(built.name),
        str(result.error is None),
        "-" if composition is None else str(composition.tree.files),
        "-" if composition is None else human_size(composition.tree.size),
        "-" if composition is None else shorten_revision(built.revision),
    )


def _or_dash(text: str | None) -> str:
    return text or "-"


def _generator(result: Result) -> str:
    return result.built.declared.generator.name


def _as_names(results: Sequence[Result], _: Sequence[str]) -> bytes:
    return encode("".join(f"{result.built.title}\n" for result in results if result.error is None))


def _as_json(results: Sequence[Result], warnings: Sequence[str]) -> bytes:
    return encode_data(document(results, warnings), Format.JSON)


def _as_yaml(results: Sequence[Result], warnings: Sequence[str]) -> bytes:
    return encode_data(document(results, warnings), Format.YAML)


_FORMATS: Mapping[Format, Callable[[Sequence[Result], Sequence[str]], bytes]] = {
    Format.TABLE: _as_table,
    Format.WIDE: _as_wide,
    Format.JSON: _as_json,
    Format.YAML: _as_yaml,
    Format.NAME: _as_names,
}


def document(results: Sequence[Result], warnings: Sequence[str]) -> dict[str, Any]:
    """All that is known, as plain data."""
    return {"artifacts": [_artifact(result) for result in results], "warnings": list(warnings)}


def _artifact(result: Result) -> dict[str, Any]:
    built, archive = result.built, result.archive
    about: dict[str, Any] = {
        "namespace": built.namespace,
        "name": built.name or None,
        "generator": _generator(result),
        "ok": result.error is None,
        "error": result.error,
        "warnings": list(result.warnings),
        "revision": None,
        "originRevision": None,
        "digest": None,
        "size": 0,
        "files": [],
        "leftOut": [],
        "archive": None,
    }
    if result.error is None and built.composition is not None:
        tree = built.composition.tree
        about |= {
            "revision": built.revision,
            "originRevision": built.origin_revision,
            "digest": f"sha256:{tree.digest.hex()}",
            "size": tree.size,
            "files": [_file(*item) for item in attribute(tree, built.composition.placements)],
            "leftOut": list(built.composition.left_out),
        }
    if archive is not None:
        about["archive"] = {"path": archive.path, "digest": archive.digest, "size": archive.size}
    return about


def _file(path: str, entry: File | Directory, copy: int | None) -> dict[str, Any]:
    if isinstance(entry, Directory):
        return {"path": path, "type": "dir", "mode": "0750", "size": 0, "sha256": None, "copy": copy}
    mode = "0700" if entry.executable else "0600"
    sha256 = entry.digest.hex()
    return {"path": path, "type": "file", "mode": mode, "size": entry.size, "sha256": sha256, "copy": copy}


class _Place:
    """A path of the artifact at or below which placements begin."""

    __slots__ = ("below", "here")

    def __init__(self) -> None:
        self.below: dict[str, _Place] = {}
        self.here: list[tuple[int, File | Directory]] = []


def attribute(tree: Directory, placements: Sequence[Placement]) -> Iterator[tuple[str, File | Directory, int | None]]:
    """Everything in a tree with the copy that placed it, as `Composition.placed_by` has it.

    In one walk over the tree and all that was placed, together. None for a directory that exists
    for the sake of what is in it.
    """
    root = _Place()
    for order, placement in enumerate(placements):
        place = root
        for name in placement.path.split("/") if placement.path else ():
            place = place.below.setdefault(name, _Place())
        place.here.append((order, placement.entry))
    stack = [("", iter(tree.entries.items()), root.here, root.below)]
    while stack:
        base, entries, active, below = stack[-1]
        for name, entry in entries:
            path = f"{base}/{name}" if base else name
            found = [
                (order, child)
                for order, placed in active
                if isinstance(placed, Directory) and isinstance(child := placed.entries.get(name), (File, Directory))
            ]
            here = below.get(name)
            if here is not None:
                found += here.here
            assert not isinstance(entry, Link)
            copy = placements[max(order for order, _ in found)].copy if found else None
            yield path, entry, copy
            if isinstance(entry, Directory):
                stack.append((path, iter(entry.entries.items()), found, here.below if here else {}))
                break
        else:
            stack.pop()
