"""Names of objects as people type them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import click

from sluice.core.spec import NAMESPACE, OBJECT_NAME
from sluice.kube.kinds import Key

GENERATOR_WORDS = ("generator", "generators")
ARTIFACT_WORDS = ("artifact", "artifacts")


def without_word(texts: Sequence[str], words: Collection[str]) -> Sequence[str]:
    """The arguments after the word for a kind, which may be left out where there is one kind only."""
    return texts[1:] if texts and texts[0] in words else texts


def parse_names(texts: Sequence[str], namespace: str, words: Collection[str] = ()) -> list[Key]:
    """The objects meant by ``NAME`` or ``NAMESPACE/NAME``, each once."""
    return list(dict.fromkeys(parse_name(text, namespace) for text in without_word(texts, words)))


def parse_name(text: str, namespace: str) -> Key:
    home, slash, name = text.rpartition("/")
    if slash and not NAMESPACE.accepts(home):
        raise click.UsageError(f"'{home}' is not a namespace ({NAMESPACE.words})")
    if not OBJECT_NAME.accepts(name):
        raise click.UsageError(f"'{name}' is not the name of an object ({OBJECT_NAME.words})")
    return home or namespace, name
