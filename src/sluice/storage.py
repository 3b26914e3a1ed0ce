"""Archives on a local disk, one per distinct contents of an artifact.

    <root>/externalartifact/<namespace>/<name>/<contents>-<archive>.tar.gz

`contents` are 32 digits of the digest of the tree, `archive` 16 digits of the sha256 of the file. A
name thus tells what is inside and whether the bytes are still those that were written: what is
stored is learnt from names alone. Files that a source-watcher left are called otherwise; one is
adopted when a status names it and it holds what is wanted.

A file is read again only when it changed: what was found good is remembered with inode, size and
times, and compared with the open file before that is handed out. Every path is made of names checked
here, relative to an open directory, and no symbolic link is followed.
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from msgspec import Struct

from sluice.build import State, StoredArchive
from sluice.confined import (
    READ,
    Confined,
    closing,
    explained,
    is_temporary,
    remove,
    remove_abandoned,
    replace,
)
from sluice.core.errors import BuildError, StorageError
from sluice.core.gzip import SLICE, inflate
from sluice.core.limits import DEFAULT_LIMITS, Limits
from sluice.core.spec import NAMESPACE, OBJECT_NAME
from sluice.core.tar import HASHES, write_archive
from sluice.core.tree import Directory, MemoryContent
from sluice.core.untar import SOURCE, index

KIND = "externalartifact"

_OURS = re.compile(r"([0-9a-f]{32})-([0-9a-f]{16})\.tar\.gz")
_PEERS = re.compile(r"[0-9]{1,10}\.tar\.gz")
_PEERS_LEFTOVER = re.compile(r"([0-9]{1,10}\.tar\.gz)(\.lock|[0-9]+)")

Key = tuple[str, str]
"""Namespace and name of an artifact."""


class OpenArchive(Struct, frozen=True):
    """An archive open for reading, and found intact; whoever has it closes `file`."""

    archive: StoredArchive
    file: io.FileIO


class ArchiveFile(Struct, frozen=True):
    """An archive as retention sees it; not superseded is what a status names or soon may."""

    filename: str
    superseded: datetime | None = None


def select_garbage(
    files: Sequence[ArchiveFile], *, current: str, keep: int, ttl: timedelta, now: datetime
) -> list[ArchiveFile]:
    """Pick the archives that retention allows to go, oldest first.

    The current archive stays, and counts as one of the newest `keep`, which stay too; so does
    whatever was not superseded. Of the rest, what was superseded longer than `ttl` ago goes.
    """
    old = sorted(
        (file.superseded, file.filename, file)
        for file in files
        if file.superseded is not None and file.filename != current
    )
    spared = max(keep - (len(files) - len(old)), 0)
    return [file for superseded, _, file in old[: max(len(old) - spared, 0)] if now - superseded > ttl]


class _Known:
    """What is remembered of a stored file."""

    __slots__ = ("contents", "digests", "durable", "identity", "superseded")

    def __init__(self, filename: str) -> None:
        ours = _OURS.fullmatch(filename)
        self.contents = ours[1] if ours else ""  # a peer's file is not looked into before it is asked for
        self.digests: dict[str, str] = {}  # hexadecimal, by algorithm, of the bytes of the file `identity`
        self.identity: tuple[int, ...] = ()
        self.durable = False  # a predecessor may have ended before it could sync
        self.superseded: datetime | None = None


class DiskStorage:
    """Artifacts on a local disk, one file per distinct contents.

    Promises: a reader never sees part of a file, nor one whose bytes changed; equal trees are
    written once, so an artifact keeps its digest even when a newer zlib would compress it
    differently; what `sync` returned for survives a power cut; what is current, or was put and not
    superseded since, is never garbage.
    Assumes: one process puts and deletes below `root`, at any time one thread per artifact; files
    of other names are not touched. Reading is safe from any thread.
    """

    def __init__(self, root: Path, *, algorithm: str = "sha256", limits: Limits = DEFAULT_LIMITS) -> None:
        self._files = Confined(root)
        self._algorithm = algorithm
        self._limits = limits
        self._artifacts: dict[Key, dict[str, _Known]] = {}
        self._current: dict[Key, str] = {}
        self._superseded: set[Key] = set()
        self._lock = threading.Lock()  # between what finds a superseded file useful and what deletes it
        where = f"storage path '{root}'"
        if not root.is_dir():
            raise StorageError(f"{where}: not a directory")
        # A store that cannot be written is better told of now than by every artifact.
        with explained(where, "write"), self._files.directory(KIND, create=True) as directory:
            with self._files.temporary(directory):
                pass
        self.scan()

    def scan(self) -> None:
        """Learn from the names what is stored, and remove what a crash left behind.

        Done at start; worth repeating only where another process wrote meanwhile.
        """
        artifacts = {}
        with explained(KIND, "read"):
            for namespace in filter(NAMESPACE.accepts, self._files.names(KIND)):
                for name in filter(OBJECT_NAME.accepts, self._files.names(KIND, namespace)):
                    artifacts[namespace, name] = self._scan_artifact(namespace, name)
        self._artifacts = artifacts

    def _scan_artifact(self, namespace: str, name: str) -> dict[str, _Known]:
        before = self._artifacts.get((namespace, name), {})
        files = {}
        for filename in self._files.names(KIND, namespace, name):
            if _is_archive(filename):
                files[filename] = before.get(filename) or _Known(filename)
            elif is_temporary(filename):
                with self._files.directory(KIND, namespace, name) as directory:
                    remove_abandoned(directory, filename)
        return files

    def artifacts(self) -> list[Key]:
        """The artifacts of which files are stored."""
        return [key for key, files in self._artifacts.copy().items() if files]

    def knows(self, namespace: str, name: str, filename: str) -> bool:
        """Whether a file is believed to be stored; does not look at the disk."""
        return filename in self._artifacts.get((namespace, name), {})

    def open(self, namespace: str, name: str, filename: str) -> OpenArchive | None:
        """An archive that is stored and intact; a damaged one is removed.

        Reads the whole file unless it is the one that was found good before.
        """
        known = self._artifacts.get((namespace, name), {}).get(filename)
        if known is None:
            return None
        path = _path(namespace, name, filename)
        with explained(path, "read"), ExitStack() as undo:
            descriptor = self._files.open_file(KIND, namespace, name, filename)
            if descriptor is None:
                self._forget(namespace, name, filename)
                return None
            undo.callback(os.close, descriptor)
            if not self._is_intact(filename, known, descriptor, self._algorithm):
                self._remove(namespace, name, filename)
                return None
            status = os.fstat(descriptor)
            undo.pop_all()
        return OpenArchive(_archive(path, known, self._algorithm, status), io.FileIO(descriptor))

    def find(self, namespace: str, name: str, contents: bytes, *, published: str = "") -> StoredArchive | None:
        """The stored archive with this contents digest; the one named `published` if several have it.

        A source-watcher's file is looked into only when `published` names it.
        """
        wanted = contents.hex()[:32]
        files = self._artifacts.get((namespace, name), {})
        for filename, known in sorted(files.copy().items(), key=lambda item: item[0] != published):
            if known.contents != wanted and (known.contents or filename != published):
                continue
            with self._lock:
                superseded, known.superseded = known.superseded, None
            if opened := self.open(namespace, name, filename):
                with opened.file as file:
                    if known.contents == wanted or self._look_inside(known, file.fileno()) == wanted:
                        return opened.archive
            known.superseded = superseded
        return None

    def verify(self, namespace: str, name: str, filename: str, digest: str, *, reread: bool = False) -> State:
        """Whether a published file is there and has its digest; a damaged one is removed.

        Reads the whole file unless it is the one that was found good before; with `reread` always.
        """
        if not _may_hold(namespace, name, filename):
            return State.MISSING
        algorithm, _, digits = digest.partition(":")
        with explained(_path(namespace, name, filename), "read"):
            descriptor = self._files.open_file(KIND, namespace, name, filename)
            if descriptor is None:
                self._forget(namespace, name, filename)
                return State.MISSING
            with closing(descriptor):
                known = self._artifacts.setdefault((namespace, name), {}).setdefault(filename, _Known(filename))
                if algorithm not in HASHES:
                    return State.CORRUPTED
                if reread:
                    known.identity = ()
                if not known.contents and not known.digests:
                    known.digests[algorithm] = digits  # the name of a peer's file certifies nothing
                if not self._is_intact(filename, known, descriptor, algorithm):
                    self._remove(namespace, name, filename)
                    return State.CORRUPTED
        return State.PRESENT if known.digests[algorithm] == digits else State.CORRUPTED

    def holds(self, namespace: str, name: str, filename: str) -> bool:
        """Whether a file is there; looks at the disk, so it notices what another process wrote."""
        if not _may_hold(namespace, name, filename):
            return False
        with explained(_path(namespace, name, filename), "read"):
            descriptor = self._files.open_file(KIND, namespace, name, filename)
            if descriptor is None:
                return False
            os.close(descriptor)
        self._artifacts.setdefault((namespace, name), {}).setdefault(filename, _Known(filename))
        return True

    def put(self, namespace: str, name: str, tree: Directory, *, published: str = "") -> StoredArchive:
        """Store a tree as an artifact's archive, unless an archive of it has the same contents.

        The file is complete under its name on return, and durable after `sync`. Nothing is left
        behind by an error.
        """
        if not NAMESPACE.accepts(namespace) or not OBJECT_NAME.accepts(name):
            raise StorageError(f"'{namespace}/{name}' is not the name of an artifact ({OBJECT_NAME.words})")
        found = self.find(namespace, name, tree.digest, published=published)
        return found or self._write(namespace, name, tree)

    def _write(self, namespace: str, name: str, tree: Directory) -> StoredArchive:
        where = _path(namespace, name)
        try:
            with explained(where, "write"), self._files.directory(KIND, namespace, name, create=True) as directory:
                with self._files.temporary(directory) as (temporary, out):
                    written = write_archive(tree, out, ("sha256", self._algorithm))
                    out.flush()
                    filename = f"{tree.digest.hex()[:32]}-{written.digests['sha256'][:16]}.tar.gz"
                    replace(directory, temporary, filename)
                    status = os.fstat(out.fileno())
        except BaseException:
            with suppress(OSError):
                self._remove_empty(namespace, name)
            raise
        known = _Known(filename)
        known.digests, known.identity = dict(written.digests), _identity(status)
        self._artifacts.setdefault((namespace, name), {})[filename] = known
        return _archive(_path(namespace, name, filename), known, self._algorithm, status)

    def sync(self, archives: Iterable[StoredArchive]) -> None:
        """Return once these archives survive a power cut; before the first status that names them.

        Cheaper for many at once: a directory is synced once for all its files.
        """
        changed: set[tuple[str, ...]] = set()
        pending = []
        for archive in archives:
            kind, namespace, name, filename = archive.path.split("/")
            known = self._artifacts.get((namespace, name), {}).get(filename)
            if known is not None and known.durable:
                continue
            try:
                with explained(archive.path, "sync"), self._files.directory(kind, namespace, name) as directory:
                    with closing(os.open(filename, READ, dir_fd=directory)) as descriptor:
                        os.fsync(descriptor)
            except StorageError:
                with suppress(OSError):  # after an error nobody knows which of its pages are on disk
                    self._remove(namespace, name, filename)
                raise
            changed |= {(kind, namespace, name), (kind, namespace), (kind,), ()}
            pending.append(known)
        for parts in sorted(changed, reverse=True):
            with explained("/".join(parts) or ".", "sync"), self._files.directory(*parts) as directory:
                os.fsync(directory)
        for known in pending:
            if known is not None:
                known.durable = True

    def supersede(self, namespace: str, name: str, *, current: str, now: datetime) -> None:
        """Note that a status names `current` now, which supersedes the artifact's other files.

        Without `current` nothing of the artifact is published any more, and all of it goes in time.
        A file found at start counts as superseded from the first call, so it stays for at least the
        retention time after a restart. `now` is only compared with other values of `now`: it should
        come from a clock that no one sets.
        """
        key = namespace, name
        self._current[key] = current
        for filename, known in self._artifacts.get(key, {}).copy().items():
            if filename == current:
                known.superseded = None
            else:
                known.superseded = known.superseded or now
                self._superseded.add(key)

    def collect(self, *, keep: int, ttl: timedelta, now: datetime) -> list[str]:
        """Delete what retention allows to go (`select_garbage`); returns the paths.

        Looks only at artifacts that have superseded files.
        """
        gone = []
        for namespace, name in list(self._superseded):
            with self._lock:
                known = self._artifacts.get((namespace, name), {})
                files = [ArchiveFile(filename, file.superseded) for filename, file in known.copy().items()]
                current = self._current.get((namespace, name), "")
                kept = keep if current else 0  # an artifact that nobody publishes any more has no history
                for file in select_garbage(files, current=current, keep=kept, ttl=ttl, now=now):
                    path = _path(namespace, name, file.filename)
                    with explained(path, "delete"):
                        self._remove(namespace, name, file.filename)
                    gone.append(path)
                if len(known) <= (max(keep, 1) if current else 0):
                    self._superseded.discard((namespace, name))
                if not known and not current:
                    with suppress(OSError):
                        self._remove_empty(namespace, name)
        return gone

    def delete(self, namespace: str, name: str) -> None:
        """Delete all files of an artifact, and its directory unless it holds something else."""
        if not NAMESPACE.accepts(namespace) or not OBJECT_NAME.accepts(name):
            return
        key = namespace, name
        self._artifacts.pop(key, None)
        self._current.pop(key, None)
        self._superseded.discard(key)
        with explained(_path(namespace, name), "delete"):
            for filename in self._files.names(KIND, namespace, name):
                if _is_archive(filename) or _PEERS_LEFTOVER.fullmatch(filename) or is_temporary(filename):
                    with self._files.directory(KIND, namespace, name) as directory:
                        remove(directory, filename)
            self._remove_empty(namespace, name)

    def _remove(self, namespace: str, name: str, filename: str) -> None:
        self._forget(namespace, name, filename)
        with suppress(FileNotFoundError), self._files.directory(KIND, namespace, name) as directory:
            remove(directory, filename)
            if _PEERS.fullmatch(filename):
                remove(directory, f"{filename}.lock")

    def _remove_empty(self, namespace: str, name: str) -> None:
        self._files.remove_empty(KIND, namespace, name)
        self._files.remove_empty(KIND, namespace)

    def _forget(self, namespace: str, name: str, filename: str) -> None:
        self._artifacts.get((namespace, name), {}).pop(filename, None)

    # What is inside

    def _is_intact(self, filename: str, known: _Known, descriptor: int, algorithm: str) -> bool:
        """Whether the bytes are those that were written; remembers their digests."""
        identity = _identity(os.fstat(descriptor))
        if known.identity == identity and algorithm in known.digests:
            return True
        ours = _OURS.fullmatch(filename)
        digests = _hash(descriptor, {algorithm, *known.digests, *(["sha256"] if ours else [])})
        if ours:
            intact = digests["sha256"].startswith(ours[2])
        elif known.digests:
            intact = known.digests.items() <= digests.items()
        else:
            intact = bool(self._look_inside(known, descriptor))
        if intact:
            known.digests, known.identity = digests, identity
        return intact

    def _look_inside(self, known: _Known, descriptor: int) -> str:
        """The start of the contents digest of a peer's archive, learnt by reading it; empty for a damaged one."""
        chunks = inflate(
            _slices(descriptor), self._limits, size=SOURCE.stream_size(self._limits), field=SOURCE.size_field
        )
        with suppress(BuildError):
            known.contents = index(chunks, MemoryContent(b""), SOURCE, self._limits).digest.hex()[:32]
        return known.contents


def _path(*parts: str) -> str:
    return "/".join((KIND, *parts))


def _is_archive(filename: str) -> bool:
    return bool(_OURS.fullmatch(filename) or _PEERS.fullmatch(filename))


def _may_hold(namespace: str, name: str, filename: str) -> bool:
    return NAMESPACE.accepts(namespace) and OBJECT_NAME.accepts(name) and _is_archive(filename)


def _archive(path: str, known: _Known, algorithm: str, status: os.stat_result) -> StoredArchive:
    modified = datetime.fromtimestamp(int(status.st_mtime), UTC)
    return StoredArchive(path, f"{algorithm}:{known.digests[algorithm]}", status.st_size, modified)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _slices(descriptor: int) -> Iterator[bytes]:
    offset = 0
    while data := os.pread(descriptor, SLICE, offset):
        yield data
        offset += len(data)


def _hash(descriptor: int, algorithms: Collection[str]) -> dict[str, str]:
    hashers = {algorithm: HASHES[algorithm]() for algorithm in algorithms}
    for data in _slices(descriptor):
        for hasher in hashers.values():
            hasher.update(data)
    return {algorithm: hasher.hexdigest() for algorithm, hasher in hashers.items()}
