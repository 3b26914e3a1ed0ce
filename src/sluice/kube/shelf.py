"""The objects of one kind as they were last seen: by a watch, or in the answer to a write of ours.

Both tell of the same object, in any order: a watch may report a write before its answer is here, or
long after, and somebody else may have changed the object before or since. So what a watch says of an
object waits while it is written; versions decide which state is newer; and whether somebody else had
a hand in an answer shows in the fields that the write did not mean.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Generic, TypeVar

from msgspec import Struct

from sluice.control.objects import ExternalArtifact, Generator, Key

T = TypeVar("T", Generator, ExternalArtifact)


class Change(Struct, Generic[T], frozen=True):
    """What happened to an object; `is_ours` if nobody but us had a hand in it."""

    key: Key
    before: T | None
    after: T | None
    is_ours: bool = False


class _Deleted(Struct, frozen=True):
    """The object of a name that we deleted last; unless it `is_gone`, finalizers of others may still keep it."""

    uid: str
    version: str
    is_gone: bool


class Shelf(Generic[T]):
    """All objects of a kind that are known, each in its newest known state."""

    def __init__(self, changed: Callable[[Change[T]], None], *, is_created_by_us: bool) -> None:
        self._changed: Callable[[Change[T]], None] = changed
        self._is_created_by_us = is_created_by_us
        self._objects: dict[Key, T] = {}
        self._held: dict[Key, list[Callable[[], None]]] = {}
        self._writers: dict[Key, int] = {}
        self._deleted: dict[Key, _Deleted] = {}
        self._unconfirmed: dict[Key, str] = {}

    def get(self, key: Key) -> T | None:
        return self._objects.get(key)

    def all(self) -> tuple[T, ...]:
        return tuple(self._objects.values())

    @contextmanager
    def writing(self, key: Key) -> Iterator[None]:
        """While an object is written, what the watch says of it waits."""
        held = self._held.setdefault(key, [])
        self._writers[key] = self._writers.get(key, 0) + 1
        try:
            yield
        finally:
            self._writers[key] -= 1
            if not self._writers[key]:
                del self._writers[key], self._held[key]
                for report in held:
                    report()

    # What the watch says

    def observe(self, item: T) -> None:
        """An object is new or has changed."""
        self._after_writes(item.key, lambda: self._learn(item))

    def lose(self, key: Key, last: T | None) -> None:
        """An object is gone, and this was its last state if that was seen."""
        self._after_writes(key, lambda: self._lose(key, last))

    def settle(self) -> None:
        """All that exists has been reported: what we made and nobody reported since may be gone.

        If it is not, because it is younger than the report, the watch tells in a moment.
        """
        for key in self._unconfirmed.keys() | self._held.keys():
            self._after_writes(key, partial(self._settle, key))

    def _after_writes(self, key: Key, report: Callable[[], None]) -> None:
        if key in self._held:
            self._held[key].append(report)
        else:
            report()

    def _learn(self, item: T) -> None:
        key = item.key
        if self._unconfirmed.get(key) == item.uid:
            del self._unconfirmed[key]
        deleted = self._deleted.get(key)
        if deleted is not None and not _is_newer(item.resource_version, deleted.version):
            return  # of the object that we deleted, or of one before it
        if deleted is not None and deleted.uid == item.uid and (deleted.is_gone or not item.is_deleted):
            return
        before = self._objects.get(key)
        if before is not None and not _is_newer(item.resource_version, before.resource_version):
            return
        self._objects[key] = item
        if before is None or _differ(before, item, ("resource_version",)):
            self._changed(Change(key, before, item))

    def _settle(self, key: Key) -> None:
        if key in self._unconfirmed:
            self._lose(key, None)

    def _lose(self, key: Key, last: T | None) -> None:
        deleted = self._deleted.get(key)
        if deleted is not None and (
            last is None or last.uid == deleted.uid or _is_newer(last.resource_version, deleted.version)
        ):
            del self._deleted[key]
        before = self._objects.get(key)
        if before is None:
            return
        # An object of this name that was made after the one that is gone is another one.
        if last is not None and last.uid != before.uid and _is_newer(before.resource_version, last.resource_version):
            return
        self._unconfirmed.pop(key, None)
        del self._objects[key]
        self._changed(Change(key, before, None))

    # What we did

    def enter(self, item: T, ours: Collection[str]) -> None:
        """The answer to a write of the fields `ours`."""
        key = item.key
        before = self._objects.get(key)
        if before is None and not self._is_created_by_us:
            return  # it has left the shelf, and only the watch may bring it back
        if before is not None and not _is_newer(item.resource_version, before.resource_version):
            return
        if before is None or before.uid != item.uid:
            self._unconfirmed[key] = item.uid
        self._objects[key] = item
        is_ours = before is None or not _differ(before, item, ("resource_version", *ours))
        self._changed(Change(key, before, item, is_ours))

    def remove(self, key: Key, uid: str, *, is_gone: bool) -> None:
        """We deleted an object; unless it `is_gone`, finalizers of others may still keep it."""
        before = self._objects.get(key)
        if before is not None and before.uid == uid:
            self._unconfirmed.pop(key, None)
            self._deleted[key] = _Deleted(uid, before.resource_version, is_gone)
            del self._objects[key]
            self._changed(Change(key, before, None, is_ours=True))


def _is_newer(version: str, than: str) -> bool:
    """Whether a version is later than another; unless both are numbers, whether it is another."""
    if version.isdecimal() and than.isdecimal():
        return int(version) > int(than)
    return version != than


def _differ(one: T, other: T, ignored: Collection[str]) -> bool:
    return any(getattr(one, name) != getattr(other, name) for name in one.__struct_fields__ if name not in ignored)
