"""The command line: the verbs, and what becomes of errors.

A verb is a row of `COMMANDS` and a module that is imported when the verb is used, so that
``sluice --help`` costs little. Here alone errors become exit codes.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

import sluice
from sluice.cli.output import Mark, Words
from sluice.core.errors import ApiError, BuildError, SluiceError, SourceError, SpecError, StorageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS: Mapping[str, tuple[str, str]] = {
    "build": ("sluice.cli.build", "Compose artifacts from files: for CI and laptops."),
    "diff": ("sluice.cli.diff", "Show what a change makes of artifacts."),
    "lint": ("sluice.cli.lint", "Look for mistakes in manifests, and for what may not be meant."),
    "explain": ("sluice.cli.explain", "Say why a path is in an artifact, or is not."),
    "serve": ("sluice.cli.serve", "Serve the artifacts of a directory, without a cluster."),
    "get": ("sluice.cli.get", "Show generators, artifacts and sources."),
    "tree": ("sluice.cli.lineage:tree", "Show what comes of a generator."),
    "trace": ("sluice.cli.lineage:trace", "Show where an object comes from."),
    "events": ("sluice.cli.happenings", "Show what happened to generators."),
    "reconcile": ("sluice.cli.requests:reconcile", "Reconcile generators now, and wait for it."),
    "suspend": ("sluice.cli.requests:suspend", "Stop the reconciliation of generators."),
    "resume": ("sluice.cli.requests:resume", "Let generators be reconciled again."),
    "wait": ("sluice.cli.requests:wait", "Wait until generators or artifacts are ready."),
    "pull": ("sluice.cli.contents:pull", "Download an artifact, checked."),
    "ls": ("sluice.cli.contents:ls", "List the files of an artifact."),
    "cat": ("sluice.cli.contents:cat", "Print files of an artifact."),
    "verify": ("sluice.cli.verify", "Compare what is served with what is announced."),
    "check": ("sluice.cli.check", "Check whether a cluster has what Sluice needs."),
    "completion": ("sluice.cli.completion", "Print the completion script of a shell."),
    "controller": ("sluice.cli.controller", "Reconcile generators in a cluster."),
}
"""The verbs: where each is, as `module`, which then has a `command`, or `module:name`; and its line in the help."""

EXIT_CODES: Mapping[type[SluiceError], int] = {
    SpecError: 2,
    SourceError: 1,
    BuildError: 1,
    StorageError: 1,
    ApiError: 1,
}
"""For errors that end a command; an artifact that fails alone, whatever the reason, makes it 1."""

VERDICTS = frozenset({"diff", "lint"})
"""Verbs for which 1 is an answer: whatever ends one of them makes it 2."""

USAGE = 2
INTERRUPTED = 130
CLOSED_PIPE = 141


def exit_code(error: SluiceError) -> int:
    """The exit code for an error: that of its family."""
    return next(EXIT_CODES[family] for family in type(error).__mro__ if family in EXIT_CODES)


def load(name: str) -> click.Command:
    """The command of a verb."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    command = getattr(import_module(module), attribute or "command")
    assert isinstance(command, click.Command)
    return command


class Sluice(click.Group):
    """The group of all verbs; turns what goes wrong in them into words and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return load(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """What the group of click offers, without loading the verbs."""
        from click.shell_completion import CompletionItem

        offers = [CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items()]
        found = [offer for offer in offers if offer.value.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def main(self, args: Sequence[str] | None = None, *others: Any, **extra: Any) -> Any:
        """Run a command line and exit."""
        given = list(sys.argv[1:] if args is None else args)
        if "_SLUICE_COMPLETE" in os.environ or given[:1] in (["__complete"], ["__completeNoDesc"]):
            self._complete(given)
        _tolerate_any_name()
        sys.exit(self._run(given))

    def _complete(self, args: list[str]) -> NoReturn:
        """Tell a shell, or flux, what may follow."""
        if "_SLUICE_COMPLETE" in os.environ:
            with suppress(SystemExit):
                super().main([], "sluice")
        else:
            from sluice.cli.complete import answer_cobra

            click.echo(answer_cobra(self, args), nl=False)
        sys.stdout.flush()
        # Nobody waits for a thread that still asks the cluster.
        os._exit(0)

    def _run(self, args: list[str]) -> int:
        try:
            with self.make_context("sluice", args) as context:
                code = self.invoke(context)
            sys.stdout.flush()
        except click.exceptions.Exit as exit_:
            return exit_.exit_code
        except click.ClickException as error:
            return _misused(error)
        except SluiceError as error:
            code = _failed(error)
            return code if VERDICTS.isdisjoint(args[:1]) else USAGE
        except (KeyboardInterrupt, click.Abort):
            Words().say(Mark.FAILURE, "interrupted")
            return INTERRUPTED
        except BrokenPipeError:
            # Whoever read our output has enough; the interpreter must not try again at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return CLOSED_PIPE
        return code if isinstance(code, int) else 0


def _tolerate_any_name() -> None:
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")


def _failed(error: SluiceError) -> int:
    words = Words()
    for text in error.problems if isinstance(error, SpecError) else (error,):
        words.say(Mark.FAILURE, str(text))
    return exit_code(error)


def _misused(error: click.ClickException) -> int:
    context = error.ctx if isinstance(error, click.UsageError) else None
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return USAGE
    path = context.command_path if context else "sluice"
    Words().say(Mark.FAILURE, f"{error.format_message().rstrip('.')} (see '{path} --help')")
    return USAGE


@click.group(cls=Sluice, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(sluice.__version__, message="sluice %(version)s")
def cli() -> None:
    """Compose Flux sources into ExternalArtifacts: in a cluster, on a server, in CI.

    Data goes to standard output, words go to standard error. Exit codes: 0 done, 1 something
    failed, 2 nothing was attempted.
    """


def main() -> None:
    """The program ``sluice``."""
    signal.signal(signal.SIGTERM, _stop)
    cli.main()


def _stop(number: int, _: FrameType | None) -> NoReturn:
    # As an exception, so that what is half written is taken away.
    raise SystemExit(128 + number)
