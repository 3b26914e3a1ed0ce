"""Run git, and speak of it without telling secrets.

git runs with an argument list, never a shell, and what it may do is narrowed: no hooks, no prompts,
no monitors that a repository configures, no transports but those named here, in a session of its own
that ends with it. What the user set up to reach remotes (ssh, certificates, credential helpers)
stays in force.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final

from sluice.core.errors import Code, SourceError
from sluice.core.gzip import SLICE

COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""A full commit id."""

_CONFIG: Final = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.quotePath=false",
    "credential.interactive=false",
    "gc.auto=0",
    "maintenance.auto=false",
)
_ENVIRONMENT: Final = {
    "GIT_ALLOW_PROTOCOL": "file:http:https:ssh",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "LC_ALL": "C",
}
# Every other GIT_* may lead to another repository, as it does inside a hook.
_KEPT = re.compile(
    r"GIT_(SSH|SSH_COMMAND|SSH_VARIANT|ASKPASS|SSL_\w+|PROXY_\w+"
    r"|CONFIG_(GLOBAL|SYSTEM|NOSYSTEM|COUNT|KEY_\d+|VALUE_\d+))"
)
_USERINFO = re.compile(r"(?<=://)[^/\s]*@")
_QUERY = re.compile(r"(://[^\s'\"?]*)\?[^\s'\"]*")


class Git:
    """git, on one repository; `where` is what messages call it."""

    def __init__(self, where: str, directory: str | None = None, timeout: float | None = None) -> None:
        self.where = where
        self._directory = directory
        self._timeout = timeout

    def at(self, directory: str) -> Git:
        return Git(self.where, directory, self._timeout)

    def run(self, *arguments: str) -> bytes:
        """What git prints; an error with its reason where it fails."""
        code, printed, said = self._run(arguments)
        if code:
            raise self._error(said)
        return printed

    def ask(self, *arguments: str) -> str | None:
        """One line, or None where git has no answer."""
        code, printed, _ = self._run(arguments)
        return None if code else os.fsdecode(printed).removesuffix("\n") or None

    def commit(self, revision: str) -> str | None:
        """The id of the commit that a revision stands for."""
        found = self.ask("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        return found if found and COMMIT.fullmatch(found) else None

    @contextmanager
    def stream(self, stdin: IO[bytes], *arguments: str) -> Iterator[IO[bytes]]:
        """What git prints, as it does."""
        with self._start(arguments, stdin) as process:
            try:
                assert process.stdout is not None
                yield process.stdout
            finally:
                _end(process)

    def _run(self, arguments: tuple[str, ...]) -> tuple[int, bytes, bytes]:
        with self._start(arguments, subprocess.DEVNULL) as process:
            try:
                printed, said = process.communicate(timeout=self._timeout)
            except subprocess.TimeoutExpired as error:
                raise SourceError(f"'{self.where}': no answer within {self._timeout:g} s", Code.FETCH) from error
            finally:
                _end(process)
        return process.returncode, printed, said

    def _start(self, arguments: tuple[str, ...], stdin: IO[bytes] | int) -> subprocess.Popen[bytes]:
        options = [part for line in _CONFIG for part in ("-c", line)]
        directory = [] if self._directory is None else ["-C", self._directory]
        try:
            return subprocess.Popen(  # noqa: S603  # no shell; what comes from outside is checked or after `--`
                ["git", "--no-pager", *options, *directory, *arguments],  # noqa: S607  # whichever git the user has
                env=_environment(),
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if stdin == subprocess.DEVNULL else subprocess.DEVNULL,
                start_new_session=True,
                bufsize=SLICE,
            )
        except FileNotFoundError as error:
            raise SourceError(f"'{self.where}': git is not installed", Code.FETCH) from error

    def _error(self, said: bytes) -> SourceError:
        lines = os.fsdecode(said).splitlines()
        fatal = [line.partition(": ")[2] for line in lines if line.startswith(("fatal: ", "error: "))]
        reason = (fatal or lines or ["git failed"])[0]
        if self._directory is not None:
            reason = reason.replace(self._directory, ".")
        return SourceError(f"'{self.where}': {redact(reason)}", Code.FETCH)


def _end(process: subprocess.Popen[bytes]) -> None:
    # The whole session: a transport that waits for a dead host would hold our pipes.
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def _environment() -> dict[str, str]:
    # Handed on and not read: git needs PATH and HOME, and what ssh and proxies need.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or _KEPT.fullmatch(name)}
    return {**kept, **_ENVIRONMENT}


def redact(text: str) -> str:
    """A URL, or a text with URLs, without user names, passwords and queries; control characters escaped."""
    clean = _QUERY.sub(r"\1", _USERINFO.sub("", text))
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in clean)
