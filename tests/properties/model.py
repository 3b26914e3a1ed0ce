"""A model of trees that knows only a dict: paths, and the contents of files; `None` stands for a directory."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import strategies as st

from sluice.core.tree import Directory, Entry, File

Model = dict[str, bytes | None]

# Few and short, so that paths meet.
names = st.sampled_from(["a", "b", "c", "a-b", "é", "\udcff"])
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
contents = st.sampled_from([b"", b"1", b"2"])


def parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


class Conflict(Exception):
    """The model's word for a file where a directory is, or the reverse."""


def put(model: Model, path: str, data: bytes | None) -> None:
    if any(model.get(parent, b"") is not None and parent in model for parent in parents(path)):
        raise Conflict
    if path in model and (model[path] is None) != (data is None):
        raise Conflict
    model |= dict.fromkeys(parents(path))
    model[path] = data


def put_tree(model: Model, path: str, tree: Directory) -> None:
    if path:
        put(model, path, None)
    for below, entry in tree.walk():
        put(model, f"{path}/{below}" if path else below, entry.read() if isinstance(entry, File) else None)


def show(tree: Directory) -> Model:
    return {path: entry.read() if isinstance(entry, File) else None for path, entry in tree.walk()}


@st.composite
def models(draw: st.DrawFn) -> Model:
    model: Model = {}
    for path, data in draw(st.lists(st.tuples(paths, st.none() | contents), max_size=8)):
        try:
            put(model, path, data)
        except Conflict:
            continue
    return model


def make(model: Mapping[str, bytes | None], base: str = "") -> Directory:
    """A tree made from the bottom, without a staging."""
    entries: dict[str, Entry] = {}
    for path, data in model.items():
        head, _, name = path.rpartition("/")
        if head == base:
            entries[name] = make(model, path) if data is None else File.of(data)
    return Directory.of_entries(entries)


trees = models().map(make)
