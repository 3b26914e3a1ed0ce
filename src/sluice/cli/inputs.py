"""What verbs that look at local files take: manifests, sources, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import click
from msgspec import Struct

from sluice.cli.locate import Locator
from sluice.cli.manifests import Declared
from sluice.cli.output import Mark, Words
from sluice.cli.report import shorten_revision
from sluice.cli.variables import NAME
from sluice.core.dialect import DialectName
from sluice.core.plan import Source
from sluice.core.spec import NAMESPACE, SourceRef

SOURCES = """\b
A source is taken from the first of these that there is:
  --source KEY=LOCATION
      KEY: its alias, Kind/name or Kind/namespace/name
      LOCATION: a directory, a .tar.gz, an OCI layout, or a git repository
      (path or URL, with @REVISION)
  the checkout around the manifest, for a GitRepository with its URL
  the URL and ref of the GitRepository
  another generator that is given, for an ExternalArtifact
"""


class Inputs(Struct, frozen=True, kw_only=True):
    """The options that all of these verbs have, checked."""

    sources: tuple[str, ...]
    artifacts: tuple[str, ...]
    dialect: DialectName
    variables: Mapping[str, str]
    namespace: str


_OPTIONS = (
    click.option(
        "-s",
        "--source",
        "sources",
        multiple=True,
        metavar="KEY=LOCATION",
        help="Where a source is; see above. Repeatable.",
    ),
    click.option(
        "--dialect",
        type=click.Choice([name.value for name in DialectName]),
        default=DialectName.DOCUMENTED.value,
        show_default=True,
        help="How copies are read, where a generator does not say.",
    ),
    click.option(
        "--var",
        "variables",
        multiple=True,
        metavar="NAME=VALUE",
        help="A value for ${NAME} in the manifests. Repeatable.",
    ),
    click.option("-n", "--namespace", default="default", show_default=True, help="For objects that name none."),
)
_ARTIFACT = click.option(
    "-a",
    "--artifact",
    "artifacts",
    multiple=True,
    metavar="NAME",
    help="Only this artifact, NAME or NAMESPACE/NAME. Repeatable.",
)


def input_options(*, artifact: bool) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command these options; it gets them as `inputs`. With `artifact`, also one that narrows."""

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        @wraps(command)
        def run(*, variables: tuple[str, ...], dialect: str, **others: Any) -> int:
            namespace = others.pop("namespace")
            if not NAMESPACE.accepts(namespace):
                what = f"'{namespace}' is not a namespace ({NAMESPACE.words})"
                raise click.BadParameter(what, param_hint="--namespace")
            inputs = Inputs(
                sources=others.pop("sources"),
                artifacts=others.pop("artifacts", ()),
                dialect=DialectName(dialect),
                variables=parse_variables(variables),
                namespace=namespace,
            )
            return command(inputs=inputs, **others)

        for option in reversed((*_OPTIONS, _ARTIFACT) if artifact else _OPTIONS):
            run = option(run)
        return run

    return decorate


def parse_variables(texts: Sequence[str]) -> Mapping[str, str]:
    """The values of ``--var``."""
    variables: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not NAME.fullmatch(name):
            raise click.BadParameter(f"'{name}' is not NAME=VALUE", param_hint="--var")
        variables[name] = value
    return variables


class SourceNotice:
    """Tells where the files of a source come from."""

    def __init__(self, words: Words) -> None:
        self._words = words

    def __call__(self, ref: SourceRef, location: str, source: Source) -> None:
        self._words.say(Mark.ACTION, f"{ref}: {location} at {shorten_revision(source.revision)}")


def note_unused(locator: Locator, declared: Sequence[Declared], words: Words) -> None:
    """Warn of locations that no generator asks for."""
    refs = [ref for item in declared for ref in item.generator.sources]
    for key in locator.unused(refs):
        known = ", ".join(sorted({ref.alias for ref in refs}))
        words.say(Mark.WARNING, f"--source {key}: no generator has such a source (aliases: {known or 'none'})")
