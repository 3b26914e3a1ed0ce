"""``sluice check``: whether a cluster is ready for Sluice, and what a takeover would move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from sluice.cli.checks import CHECKS, Finding, Scope, run_check
from sluice.cli.cluster import Cluster, Place, World, place_options, run
from sluice.cli.output import Format, Mark, Words, emit, encode, encode_data, output_option
from sluice.core.errors import ApiError


@click.command("check")
@click.option("--pre", is_flag=True, help="Only what is needed before Sluice is installed.")
@click.option(
    "--takeover", is_flag=True, help="Only compare what the two dialects make of the generators that there are."
)
@output_option
@place_options
def command(place: Place, pre: bool, takeover: bool, form: Format) -> int:
    """Check whether a cluster has what Sluice needs.

    With --takeover: lists the generators whose artifacts would have other contents, if they were
    built as the documentation says and not as source-watcher does. That downloads their sources,
    so run it where their URLs can be reached, inside of the cluster.

    Ends with 1 if something is missing, or differs.
    """

    async def work(world: World) -> int:
        if not isinstance(world, Cluster):
            raise ApiError("a directory needs nothing that could be checked")
        with Words() as words:
            desk = _Desk(words, form)
            if takeover:
                await _compare(world, desk)
            else:
                for name in CHECKS:
                    words.working(f"checking {name}")
                    desk.take(await run_check(name, world, Scope(world.namespace, not pre)))
            return desk.close()

    return run(place, work)


class _Desk:
    """Takes findings: tells people at once, and programs in the end."""

    def __init__(self, words: Words, form: Format) -> None:
        self.words = words
        self._form = form
        self._findings: list[Finding] = []

    def take(self, findings: Sequence[Finding]) -> None:
        self._findings += findings
        if self._form in (Format.TABLE, Format.WIDE):
            for finding in findings:
                self.words.say(finding.mark, finding.text)

    def close(self) -> int:
        """The exit code."""
        failed = [finding for finding in self._findings if finding.mark is Mark.FAILURE]
        if self._form is Format.NAME:
            emit(encode("".join(f"{name}\n" for name in dict.fromkeys(finding.check for finding in failed))))
        elif self._form in (Format.JSON, Format.YAML):
            document: dict[str, Any] = {"ok": not failed, "findings": [each.document() for each in self._findings]}
            emit(encode_data(document, self._form))
        elif failed:
            self.words.say(Mark.FAILURE, "check failed")
        else:
            self.words.say(Mark.SUCCESS, "check passed")
        return int(bool(failed))


async def _compare(world: World, desk: _Desk) -> None:
    from sluice.cli.takeover import compare_generators, pinned

    generators = artifacts = 0
    desk.words.working("comparing the dialects")
    async for comparison in compare_generators(world):
        generators += 1
        artifacts += comparison.artifacts
        dialect = pinned(comparison.object)
        for each in comparison.differences:
            what = f"{each.generator}: artifact '{each.artifact}'" if each.artifact else each.generator
            if not each.is_known:
                finding = Finding("takeover", Mark.FAILURE, f"{what} could not be compared: {each.text}")
            elif dialect:
                finding = Finding(
                    "takeover", Mark.SUCCESS, f"{what} {each.text} (settled: its generator says '{dialect}')"
                )
            else:
                finding = Finding("takeover", Mark.FAILURE, f"{what} {each.text}")
            desk.take([finding])
    desk.take([Finding("takeover", Mark.SUCCESS, f"compared {artifacts} artifacts of {generators} generators")])
