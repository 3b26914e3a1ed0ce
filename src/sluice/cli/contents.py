"""``sluice pull``, ``ls``, ``cat`` and ``verify``: what is in a published artifact, checked."""

from __future__ import annotations

import os
import re
import stat
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from msgspec import Struct

from sluice.cli.cluster import Place, World, place_options, run
from sluice.cli.complete import complete_artifacts
from sluice.cli.download import Archive, fetch_archive
from sluice.cli.names import ARTIFACT_WORDS, parse_name, parse_names, without_word
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
from sluice.core.errors import BuildError, Code, SluiceError, StorageError
from sluice.core.gzip import SLICE
from sluice.core.tree import Directory, Entry, File
from sluice.kube.kinds import EXTERNAL_ARTIFACT, Key


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

    return _run(place, work)


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

    return _run(place, work)


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

    return _run(place, work)


@click.command("verify")
@click.argument("arguments", nargs=-1, metavar="artifact [NAME]...", shell_complete=complete_artifacts)
@click.option("--all", "everything", is_flag=True, help="All of the namespace.")
@click.option("-A", "--all-namespaces", is_flag=True, help="All there are.")
@storage_option
@output_option
@place_options
def verify(
    arguments: tuple[str, ...], place: Place, everything: bool, all_namespaces: bool, form: Format, storage_url: str
) -> int:
    """Download artifacts, and compare what is served with what their status says.

    The bytes must have the digest and the size; the contents must be those of the revision, where
    that is one of contents.
    """
    if bool(without_word(arguments, ARTIFACT_WORDS)) + everything + all_namespaces != 1:
        raise click.UsageError("say which: by name, or all of them with --all or -A")

    async def work(world: World, words: Words) -> int:
        if arguments and not (everything or all_namespaces):
            names = parse_names(arguments, world.namespace, ARTIFACT_WORDS)
            objects = [await world.get(EXTERNAL_ARTIFACT, key) for key in names]
        else:
            objects = await world.list(EXTERNAL_ARTIFACT, "" if all_namespaces else world.namespace)
        verdicts = [await _verify(world, one, storage_url, words) for one in objects]
        emit(_verdicts(verdicts, form))
        bad = [verdict for verdict in verdicts if not verdict.is_good]
        if bad:
            words.say(Mark.FAILURE, f"{len(bad)} of {len(verdicts)} artifacts are not as they should be")
        return int(bool(bad))

    return _run(place, work)


def _run(place: Place, work: Callable[[World, Words], Awaitable[int]]) -> int:
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


# Verifying


class Verdict(Struct, frozen=True):
    """What became of the verification of an artifact."""

    key: Key
    is_good: bool
    message: str
    digest: str = ""
    contents: str = ""


_OURS = re.compile(r"([0-9a-f]{32})-[0-9a-f]{16}\.tar\.gz")


async def _verify(world: World, one: Object, storage_url: str, words: Words) -> Verdict:
    words.working(f"fetching {one.title}")
    try:
        async with fetch_archive(world, one, storage_url) as archive:
            unpacked = archive.unpack()
            contents = f"sha256:{unpacked.tree.digest.hex()}"
            is_good, message = judge(
                archive.artifact.revision, archive.artifact.digest, archive.artifact.path, contents
            )
            size = sum(map(len, archive.chunks()))
            if archive.artifact.size not in (None, size):
                is_good, message = False, f"{size} bytes are served, the status says {archive.artifact.size}"
            return Verdict(one.key, is_good, message, archive.artifact.digest, contents)
    except SluiceError as error:
        return Verdict(one.key, False, str(error).removeprefix(f"{one.title}: "))


def judge(revision: str, digest: str, path: str, contents: str) -> tuple[bool, str]:
    """Whether contents fit a revision and the name of a file, whose archive has its digest; and why, or why not."""
    head, _, told = revision.partition("@")
    if head == "latest" and told == digest:
        return True, "digest matches; the revision is the archive's"
    if head == "latest" and told != contents:
        return False, f"contents are {contents}, the revision says {told}"
    name = _OURS.fullmatch(path.rpartition("/")[2])
    if name is not None and name[1] != contents.removeprefix("sha256:")[:32]:
        return False, f"contents are {contents}, the file is named for {name[1]}"
    if head == "latest":
        return True, "digest and contents match"
    return True, "digest matches; the revision is a source's"


def _verdicts(verdicts: Sequence[Verdict], form: Format) -> bytes:
    match form:
        case Format.NAME:
            return encode("".join(f"{'/'.join(verdict.key)}\n" for verdict in verdicts if verdict.is_good))
        case Format.TABLE | Format.WIDE:
            is_wide = form is Format.WIDE
            wide = ("DIGEST", "CONTENTS") if is_wide else ()
            rows = [
                (
                    *verdict.key,
                    str(verdict.is_good),
                    *((verdict.digest or "-", verdict.contents or "-") if is_wide else ()),
                    verdict.message,
                )
                for verdict in verdicts
            ]
            return encode(table(("NAMESPACE", "NAME", "VERIFIED", *wide, "MESSAGE"), rows)) if rows else b""
        case _:
            return encode_data({"artifacts": [_verdict(verdict) for verdict in verdicts]}, form)


def _verdict(verdict: Verdict) -> Mapping[str, Any]:
    return {
        "namespace": verdict.key[0],
        "name": verdict.key[1],
        "ok": verdict.is_good,
        "message": verdict.message,
        "digest": verdict.digest or None,
        "contents": verdict.contents or None,
    }
