"""``sluice pull``, ``ls`` and ``cat``: what is in a published artifact."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from sluice.cli.cluster import Place, World, place_options, run
from sluice.cli.complete import complete_artifacts
from sluice.cli.download import Archive, fetch_archive
from sluice.cli.names import ARTIFACT_WORDS, parse_name, without_word
from sluice.cli.objects import Object
from sluice.cli.output import (
    Format,
    Mark,
    Words,
    emit,
    encode,
    encode_data,
    escape,
    human_size,
    is_terminal,
    output_option,
    shorten_revision,
    table,
)
from sluice.cli.trees import write_tree
from sluice.content import describe
from sluice.core.errors import BuildError, Code, StorageError
from sluice.core.gzip import SLICE
from sluice.core.tree import Directory, Entry, File
from sluice.kube.kinds import EXTERNAL_ARTIFACT


def _storage_url(_: click.Context, __: click.Parameter, value: str) -> str:
    if value and (urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).hostname):
        raise click.BadParameter(f"'{value}' is not an http or https URL")
    return value


storage_option = click.option(
    "--storage-url",
    default="",
    callback=_storage_url,
    metavar="URL",
    help="Where the archives are served, if not at the host of their URLs.",
)
_arguments = click.argument("arguments", nargs=-1, metavar="artifact NAME", shell_complete=complete_artifacts)


@click.command("pull")
@_arguments
@click.option(
    "-o", "--output", "file", type=click.Path(path_type=Path), metavar="FILE", help="Write the archive; - prints it."
)
@click.option(
    "-d", "--directory", type=click.Path(path_type=Path), metavar="DIR", help="Unpack it into a new or empty directory."
)
@storage_option
@place_options
def pull(arguments: tuple[str, ...], place: Place, file: Path | None, directory: Path | None, storage_url: str) -> int:
    """Download an artifact and check its digest."""
    name, rest = _split(arguments)
    if rest or (file is None) == (directory is None):
        raise click.UsageError("say where to: one artifact, and -o FILE or -d DIR")
    if file == Path("-") and is_terminal(sys.stdout):
        raise click.UsageError("-o -: an archive is not for a terminal")

    async def work(world: World, words: Words) -> int:
        async with fetch_archive(world, await _find(world, name, words), storage_url) as archive:
            if file == Path("-"):
                for chunk in archive.chunks():
                    emit(chunk)
            elif file is not None:
                _write_file(archive, file)
            else:
                assert directory is not None
                _write_directory(archive.unpack().tree, directory)
            revision = shorten_revision(archive.artifact.revision)
            words.say(
                Mark.SUCCESS,
                f"{archive.object.title} at {revision}{'' if file == Path('-') else f' in {file or directory}'}",
            )
        return 0

    return run_with_words(place, work)


@click.command("ls")
@_arguments
@storage_option
@output_option
@place_options
def ls(arguments: tuple[str, ...], place: Place, form: Format, storage_url: str) -> int:
    """List the files of an artifact, or of one of its directories."""
    name, paths = _split(arguments)

    async def work(world: World, words: Words) -> int:
        async with fetch_archive(world, await _find(world, name, words), storage_url) as archive:
            tree = archive.unpack().tree
            found = [item for path in paths or [""] for item in _below(archive.object, tree, path)]
            emit(_listing(archive, found, form))
        return 0

    return run_with_words(place, work)


@click.command("cat")
@_arguments
@storage_option
@place_options
def cat(arguments: tuple[str, ...], place: Place, storage_url: str) -> int:
    """Print files of an artifact."""
    name, paths = _split(arguments)
    if not paths:
        raise click.UsageError("say which files: artifact NAME PATH")

    async def work(world: World, words: Words) -> int:
        async with fetch_archive(world, await _find(world, name, words), storage_url) as archive:
            tree = archive.unpack().tree
            files = [_file(archive.object, tree, path) for path in paths]
            for file in files:
                _print(file)
        return 0

    return run_with_words(place, work)


def run_with_words(place: Place, work: Callable[[World, Words], Awaitable[int]]) -> int:
    with Words() as words:
        return run(place, lambda world: work(world, words))


def _split(arguments: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The name of an artifact, and what comes after it."""
    texts = without_word(arguments, ARTIFACT_WORDS)
    if not texts:
        raise click.UsageError("say which artifact: artifact NAME")
    return texts[0], texts[1:]


async def _find(world: World, name: str, words: Words) -> Object:
    one = await world.get(EXTERNAL_ARTIFACT, parse_name(name, world.namespace))
    words.working(f"fetching {one.title}")
    return one


# Writing


def _write_file(archive: Archive, file: Path) -> None:
    try:
        with tempfile.TemporaryDirectory(dir=file.absolute().parent, prefix=".sluice-") as temporary:
            new = Path(temporary, "new")
            with new.open("xb") as out:
                out.writelines(archive.chunks())
            new.replace(file)
    except OSError as error:
        raise StorageError(f"'{file}': cannot write: {describe(error)}") from error


def _write_directory(tree: Directory, directory: Path) -> None:
    """Put a tree into its place; it appears complete, or not at all."""
    try:
        if os.path.lexists(directory) and (not directory.is_dir() or any(directory.iterdir())):
            raise StorageError(f"'{directory}' is not an empty directory (choose another place)")
        directory.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.absolute().parent, prefix=".sluice-") as temporary:
            write_tree(tree, Path(temporary, "new"))
            Path(temporary, "new").replace(directory)
    except OSError as error:
        raise StorageError(f"'{directory}': cannot write: {describe(error)}") from error


# Looking


def _below(one: Object, tree: Directory, path: str) -> Iterator[tuple[str, Entry]]:
    """Everything at or below a path."""
    path = path.strip("/")
    entry = _entry(one, tree, path)
    if path:
        yield path, entry
    if isinstance(entry, Directory):
        yield from entry.walk(path)


def _entry(one: Object, tree: Directory, path: str) -> File | Directory:
    path = "/".join(part for part in path.split("/") if part not in ("", "."))
    entry = tree.find(path)
    if entry is None:
        near = get_close_matches(path, [known for known, _ in tree.walk()], 1)
        raise BuildError(f"{one.title} holds no '{path}'{f' (but {near[0]})' if near else ''}", Code.NOT_FOUND)
    return entry


def _file(one: Object, tree: Directory, path: str) -> File:
    entry = _entry(one, tree, path)
    if isinstance(entry, Directory):
        raise BuildError(f"{one.title}: '{path}' is a directory", Code.NOT_FOUND)
    return entry


def _print(file: File) -> None:
    for at in range(0, file.size, SLICE):
        data = File(b"", min(SLICE, file.size - at), False, file.content, file.offset + at).read()
        emit(_harmless(data) if is_terminal(sys.stdout) else data)


def _harmless(data: bytes) -> bytes:
    """Text for a terminal: what could steer it is spelled out, line by line."""
    lines = data.decode("utf-8", "backslashreplace").split("\n")
    return encode("\n".join("\t".join(map(escape, line.split("\t"))) for line in lines))


def _listing(archive: Archive, found: Sequence[tuple[str, Entry]], form: Format) -> bytes:
    match form:
        case Format.NAME:
            return encode("".join(f"{escape(path)}\n" for path, entry in found if isinstance(entry, File)))
        case Format.TABLE | Format.WIDE:
            is_wide = form is Format.WIDE
            rows = [
                (*_columns(entry), *([entry.digest.hex()] * is_wide), path)
                for path, entry in found
                if isinstance(entry, File)
            ]
            return encode(table(("MODE", "SIZE", *(["SHA256"] * is_wide), "PATH"), rows)) if rows else b""
        case _:
            files = [_described(path, entry) for path, entry in found]
            revision, digest = archive.artifact.revision, archive.artifact.digest
            return encode_data({"revision": revision, "digest": digest, "files": files}, form)


def _mode(entry: Entry) -> int:
    if isinstance(entry, Directory):
        return 0o750
    return 0o700 if isinstance(entry, File) and entry.executable else 0o600


def _columns(entry: File) -> tuple[str, str]:
    return stat.filemode(stat.S_IFREG | _mode(entry)), human_size(entry.size)


def _described(path: str, entry: Entry) -> dict[str, Any]:
    mode = f"{_mode(entry):04o}"
    if isinstance(entry, File):
        return {"path": path, "type": "file", "mode": mode, "size": entry.size, "sha256": entry.digest.hex()}
    return {"path": path, "type": "dir", "mode": mode, "size": 0, "sha256": None}
