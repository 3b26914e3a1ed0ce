"""``sluice verify``: whether what is served is what was announced."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import click
from msgspec import Struct

from sluice.cli.cluster import Place, World, place_options
from sluice.cli.complete import complete_artifacts
from sluice.cli.contents import run_with_words, storage_option
from sluice.cli.download import fetch_archive
from sluice.cli.names import ARTIFACT_WORDS, parse_names, without_word
from sluice.cli.objects import Object
from sluice.cli.output import Format, Mark, Words, emit, encode, encode_data, output_option, table
from sluice.core.errors import SluiceError
from sluice.kube.kinds import EXTERNAL_ARTIFACT, Key


class Verdict(Struct, frozen=True):
    """What became of the verification of an artifact."""

    key: Key
    is_good: bool
    message: str
    digest: str = ""
    contents: str = ""


_OURS = re.compile(r"([0-9a-f]{32})-[0-9a-f]{16}\.tar\.gz")


@click.command("verify")
@click.argument("arguments", nargs=-1, metavar="artifact [NAME]...", shell_complete=complete_artifacts)
@click.option("--all", "everything", is_flag=True, help="All of the namespace.")
@click.option("-A", "--all-namespaces", is_flag=True, help="All there are.")
@storage_option
@output_option
@place_options
def command(
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

    return run_with_words(place, work)


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
