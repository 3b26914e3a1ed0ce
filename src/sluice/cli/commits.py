"""A checkout as it was at a commit: its manifests, and the files that sources are made of."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sluice.cli.manifests import SUFFIXES, Manifest, parse_file
from sluice.core.errors import Code, Problem, SourceError, SpecError
from sluice.core.plan import Source
from sluice.core.spec import SourceKind
from sluice.core.tree import Directory, File
from sluice.sources import Cache, Checkout, Found, filter_source, find_checkout, open_commit, open_source
from sluice.sources.oci import is_layout


def checkout_of(inputs: Sequence[str]) -> Checkout:
    """The checkout that holds all manifests that are given. Raises `SpecError`."""
    found: Checkout | None = None
    for name in inputs:
        here = _existing(Path() if name == "-" else Path(name))
        checkout = find_checkout(here)
        if checkout is None:
            where = "standard input" if name == "-" else name
            what = "not in a git checkout (--against, --from-manifest or --from-source names another side)"
            raise SpecError(Problem(Code.NOT_FOUND, what, where))
        if found is not None and found.root != checkout.root:
            raise SpecError(Problem(Code.NOT_FOUND, f"not in the checkout of '{inputs[0]}'", name))
        found = checkout
    assert found is not None
    return found


def _existing(path: Path) -> Path:
    """A path, or what is left of it on disk: at a commit there may be more."""
    path = path.absolute()
    while not os.path.lexists(path):
        path = path.parent
    return path if path.is_dir() else path.parent


class Commit:
    """The files of a checkout at a revision: a `Ground` for sources. Raises `SourceError` for no revision.

    Locations inside of the checkout are those of the commit; messages call its files as Git does,
    ``<revision>:<path>``.
    """

    def __init__(self, checkout: Checkout, revision: str) -> None:
        self.revision = revision
        self._checkout = checkout
        self._source = open_commit(Path(os.path.relpath(checkout.root)), revision)

    def manifests(self, inputs: Sequence[str]) -> list[Manifest]:
        """What `read_manifests` finds for these inputs on disk; nothing for those that were not there yet."""
        manifests: list[Manifest] = []
        problems: list[Problem] = []
        for path, entry in self._given(inputs).items():
            try:
                manifests += parse_file(self._title(path), entry.read(), given=True)
            except SpecError as error:
                problems += error.problems
        if problems:
            raise SpecError(problems)
        return manifests

    def _given(self, inputs: Sequence[str]) -> dict[str, File]:
        found: dict[str, File] = {}
        for name in inputs:
            below = None if name == "-" else self._below(Path(name))
            if below is None:
                continue
            entry = self._source.tree.find(below)
            if isinstance(entry, File):
                found[below] = entry
            elif isinstance(entry, Directory):
                found |= dict(_yaml_files(entry, below))
        return found

    def checkout(self, home: Path) -> Checkout | None:
        return self._checkout

    def files(self, root: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
        for path, entry in _yaml_files(self._source.tree, ""):
            yield self._title(path), entry.read

    def open(self, found: Found, kind: SourceKind, cache: Cache) -> Source:
        path = Path(found.location)
        below = self._below(path)
        if below is not None and not is_layout(path):
            entry = self._source.tree.find(below)
            if isinstance(entry, Directory):
                revision = self._source.revision if not below else f"latest@sha256:{entry.digest.hex()}"
                return Source(filter_source(entry, kind, found.ignore), found.revision or revision)
            if path.is_dir():
                raise SourceError(f"'{found.location}' is not in {self.revision}", Code.NOT_FOUND)
        return open_source(
            found.location, kind=kind, cache=cache, ignore=found.ignore, layer=found.layer, revision=found.revision
        )

    def _title(self, path: str) -> str:
        return f"{self.revision}:{path}"

    def _below(self, path: Path) -> str | None:
        """A path as the commit has it; None for one outside of the checkout."""
        real = _existing(path).resolve() / path.absolute().relative_to(_existing(path))
        try:
            return "" if real == self._checkout.root else real.relative_to(self._checkout.root).as_posix()
        except ValueError:
            return None


def _yaml_files(directory: Directory, prefix: str) -> Iterator[tuple[str, File]]:
    """The YAML and JSON files below a directory of a commit, as `list_yaml` finds them on disk."""
    for path, entry in directory.walk(prefix):
        below = path.removeprefix(prefix).strip("/")
        hidden = any(name.startswith(".") for name in below.split("/")[:-1])
        if isinstance(entry, File) and not hidden and path.lower().endswith(SUFFIXES):
            yield path, entry
