"""Open commits and checkouts."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from sluice.content import cache_errors
from sluice.core.errors import Code, SourceError
from sluice.core.limits import DEFAULT_LIMITS, Limits
from sluice.core.plan import Source
from sluice.sources.directory import SKIPPED, Digests, scan_directory
from sluice.sources.git_command import COMMIT, Git, redact
from sluice.sources.git_objects import read_commit

TIMEOUT: Final = 60.0
"""Seconds for one exchange with a remote, the default of source-controller."""

BRANCHES_AND_TAGS: Final = ("refs/heads/", "refs/tags/")

_URL = re.compile(r"(?i)(https?|ssh|file)://[^/]*/")
_SCP = re.compile(r"([^/:@]+@)?[^/:@]+:(?!//)")


class Checkout(Struct, frozen=True):
    """A working copy: the URL of its origin, its branch (None: detached), its commit (None: none yet)."""

    root: Path
    origin: str | None
    branch: str | None
    commit: str | None


def is_remote(location: str) -> bool:
    """Whether a location is a URL that git fetches from, ``host:path`` included."""
    scp = _SCP.match(location)
    return bool(_URL.match(location) or (scp and (scp[1] or "/" in location)))


def split_revision(location: str) -> tuple[str, str | None]:
    """A URL or path and what follows its last ``@``, if that is not the one behind a user's name."""
    start = found.end() if (found := _URL.match(location) or _SCP.match(location)) else 0
    rest, at, revision = location[start:].rpartition("@")
    return (location[:start] + rest, revision) if at else (location, None)


def open_git(
    url: str,
    revision: str | None = None,
    *,
    refs: Sequence[str] = BRANCHES_AND_TAGS,
    limits: Limits = DEFAULT_LIMITS,
    timeout: float = TIMEOUT,
    known: Source | None = None,
) -> Source:
    """A commit of a remote repository, fetched alone; not at all where it is that of `known`.

    `revision` is a branch or tag (looked for below `refs`), a whole ref or a full commit id;
    None is the default branch. The source's revision is ``<branch or tag>@sha1:<commit>``, with the
    whole ref where that was given, and ``sha1:<commit>`` for a commit.
    """
    _refuse_option(url)
    git = Git(redact(url), timeout=timeout)
    name, ref, at = _find_remote_ref(git, url, revision, refs)
    if known is not None and known.revision == _show(name, at):
        return known
    with cache_errors(), tempfile.TemporaryDirectory(prefix="sluice-git-") as repository:
        git.run("init", "--quiet", "--bare", "--template=", "--", repository)
        here = git.at(repository)
        fetch = ("fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head")
        try:
            here.run(*fetch, "--depth=1", "--", url, f"+{ref}:refs/sluice/it")
        except SourceError:
            if not COMMIT.fullmatch(ref):
                raise
            # Some servers give a commit only to those who fetch a branch that holds it.
            here.run(*fetch, "--", url, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
            commit = here.commit(ref)
        else:
            commit = here.commit("refs/sluice/it")
        if commit is None:
            raise SourceError(f"'{redact(url)}': no commit '{revision}'", Code.NOT_FOUND)
        return Source(read_commit(here, commit, limits), _show(name, commit), url=redact(url))


def open_commit(
    path: Path, revision: str | None = None, limits: Limits = DEFAULT_LIMITS, *, known: Source | None = None
) -> Source:
    """A commit of a local repository: a branch, tag, or anything git takes for a commit; None is HEAD.

    It is not read where it is that of `known`.
    """
    revision = revision or "HEAD"
    _refuse_option(revision)
    git = Git(str(path)).at(str(path))
    commit = git.commit(revision)
    if commit is None:
        raise SourceError(f"'{path}': no branch, tag or commit '{revision}'", Code.NOT_FOUND)
    shown = _show(_local_name(git, revision, commit), commit)
    return known if known is not None and known.revision == shown else Source(read_commit(git, commit, limits), shown)


def open_worktree(path: Path, limits: Limits = DEFAULT_LIMITS, *, digests: Digests | None = None) -> Source:
    """The files of a checkout as they are on disk: tracked ones, and others that Git does not ignore.

    The revision is that of the commit checked out, with ``-dirty`` behind where files differ from
    it; without a commit it names the content.
    """
    checkout = find_checkout(path)
    if checkout is None:
        raise SourceError(f"'{path}' is not in a git checkout", Code.NOT_FOUND)
    git = Git(str(path)).at(str(checkout.root))
    listed = git.run("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    # A trailing slash marks another repository, which is no part of this one.
    names = [name for name in os.fsdecode(listed).split("\0") if name and not name.endswith("/")]
    tree = scan_directory(checkout.root, limits, only=names, digests=digests)
    url = redact(checkout.origin or "")
    if checkout.commit is None:
        return Source(tree, f"latest@sha256:{tree.digest.hex()}", url=url)
    excluded = [f":(exclude,glob)**/{name}/**" for name in sorted(SKIPPED)]
    changes = git.run(
        "status", "--porcelain", "--untracked-files=normal", "--ignore-submodules=all", "--", ".", *excluded
    )
    return Source(tree, _show(checkout.branch, checkout.commit) + "-dirty" * bool(changes), url=url)


def find_checkout(path: Path) -> Checkout | None:
    """The checkout that holds a path; None where there is none, an error where git refuses to look."""
    absolute = path.absolute()
    if not any(os.path.lexists(parent / ".git") for parent in (absolute, *absolute.parents)):
        return None
    git = Git(str(path)).at(str(absolute if absolute.is_dir() else absolute.parent))
    try:
        root = os.fsdecode(git.run("rev-parse", "--show-toplevel")).removesuffix("\n")
    except SourceError as error:
        if "not a git repository" in str(error):
            return None
        raise
    origin = git.ask("config", "--get", "remote.origin.url")
    branch = git.ask("symbolic-ref", "--quiet", "--short", "HEAD")
    return Checkout(Path(root), origin, branch, git.commit("HEAD"))


def same_repository(one: str, other: str) -> bool:
    """Whether two URLs name one repository, however it is reached and spelt."""
    return _normalise(one) == _normalise(other)


def _normalise(url: str) -> tuple[str, str]:
    """Host and path."""
    url = url.strip()
    if "://" not in url and (found := _SCP.match(url)):
        host, path = found[0][:-1].rpartition("@")[2], url[found.end() :]
    else:
        try:
            parts = urlsplit(url)
            host, path = parts.hostname or "", parts.path
        except ValueError:
            host, path = "", url
    path = path.rstrip("/").removesuffix(".git").rstrip("/")
    return host.lower(), path.strip("/") if host else path


def _refuse_option(text: str) -> None:
    host = found[0].rpartition("@")[2] if (found := _SCP.match(text)) else ""
    if "\0" in text or text.startswith("-") or host.startswith("-") or re.match(r"(?i)\w+://([^/@]*@)?-", text):
        raise SourceError(f"'{redact(text)}' is not a URL, path or revision (it looks like an option)", Code.NOT_FOUND)


def _show(name: str | None, commit: str) -> str:
    algorithm = "sha1" if len(commit) == 40 else "sha256"
    return f"{name}@{algorithm}:{commit}" if name else f"{algorithm}:{commit}"


def _find_remote_ref(git: Git, url: str, revision: str | None, refs: Sequence[str]) -> tuple[str | None, str, str]:
    """The name to show, the ref to fetch, and the commit that it is at now."""
    if revision is not None and COMMIT.fullmatch(revision):
        return None, revision, revision
    if revision is not None and (revision.startswith("-") or re.search(r"[\x00-\x20\x7f:^~?*\[\\]|\.\.|@\{", revision)):
        raise SourceError(f"'{git.where}': '{redact(revision)}' is not a branch, tag or commit", Code.NOT_FOUND)
    wanted = _full_names(revision, refs) if revision else ["HEAD"]
    asked = [*wanted, *(f"{ref}^{{}}" for ref in wanted)]  # an annotated tag is no commit; what it is about is
    listed = os.fsdecode(git.run("ls-remote", "--symref", "--", url, *asked)).splitlines()
    pairs = [line.partition("\t")[::2] for line in listed]
    ids = {name: value for value, name in pairs if not value.startswith("ref: ")}
    found = [ref for ref in wanted if ref in ids]
    if not found:
        what = f"no branch or tag '{revision}'" if revision else "no commits"
        raise SourceError(f"'{git.where}': {what}", Code.NOT_FOUND)
    if len(found) > 1:
        names = " or ".join(f"'{ref}'" for ref in found)
        raise SourceError(f"'{git.where}': '{revision}' is both a branch and a tag ({names})", Code.NOT_FOUND)
    commit = ids.get(f"{found[0]}^{{}}", ids[found[0]])
    if revision:
        return revision, found[0], commit
    target = next((value for value, name in pairs if name == "HEAD" and value.startswith("ref: refs/heads/")), None)
    return target and target.removeprefix("ref: refs/heads/"), "HEAD", commit


def _local_name(git: Git, revision: str, commit: str) -> str | None:
    """The branch or tag that a revision is the name of."""
    if revision == "HEAD":
        return git.ask("symbolic-ref", "--quiet", "--short", "HEAD")
    names = _full_names(revision, BRANCHES_AND_TAGS)
    return revision if any(git.commit(name) == commit for name in names) else None


def _full_names(revision: str, refs: Sequence[str]) -> list[str]:
    return [revision] if revision.startswith("refs/") else [f"{prefix}{revision}" for prefix in refs]
