"""What a shell may offer next: names of what is there, asked for while somebody types.

So it is quick or nothing: whatever goes wrong, or takes longer than a moment, offers nothing and
says nothing.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem, ShellComplete

from sluice.cli.names import ARTIFACT_WORDS, GENERATOR_WORDS
from sluice.cli.output import escape
from sluice.kube.kinds import ARTIFACT_GENERATOR, EXTERNAL_ARTIFACT, Kind

MOMENT = 2.0
"""Seconds that somebody waits for an offer."""
MAX_HELP = 60

NAMESPACES = Kind("", "v1", "Namespace", "namespaces")

Items = list["CompletionItem[str]"]
Completer = Callable[[click.Context, click.Parameter, str], Items]


def _named(kinds: Sequence[Kind], words: Collection[str] = ()) -> Completer:
    """Offers the objects of some kinds, and before them the word for the kind, if it may be left out."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
        given = ctx.params.get(param.name or "") or ()
        offers = [CompletionItem(word) for word in list(words)[:1] if not given]
        offers += _objects(ctx, kinds, incomplete)
        return [one for one in offers if one.value.startswith(incomplete) and one.value not in given]

    return complete


complete_generators = _named([ARTIFACT_GENERATOR], GENERATOR_WORDS)
complete_artifacts = _named([EXTERNAL_ARTIFACT], ARTIFACT_WORDS)


def complete_readied(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """Offers generators, or artifacts where that is the type."""
    given = ctx.params.get(param.name or "") or ()
    if given and given[0] in ARTIFACT_WORDS:
        return complete_artifacts(ctx, param, incomplete)
    types = [ARTIFACT_WORDS[0]] if not given and ARTIFACT_WORDS[0].startswith(incomplete) else []
    return [*map(CompletionItem, types), *complete_generators(ctx, param, incomplete)]


def complete_typed(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """Offers the objects of the type before it."""
    from sluice.cli.views import FAMILIES

    families = FAMILIES.get(ctx.params.get("what") or "", ())
    return _named([kind for family in families for kind in family.kinds])(ctx, param, incomplete)


def complete_namespaces(ctx: click.Context, _: click.Parameter, incomplete: str) -> Items:
    return [one for one in _objects(ctx, [NAMESPACES], "") if one.value.startswith(incomplete)]


def complete_contexts(ctx: click.Context, _: click.Parameter, incomplete: str) -> Items:
    from sluice.kube.config import context_names

    names = _within_a_moment(lambda: context_names(os.environ, ctx.params.get("kubeconfig")))
    return [CompletionItem(name) for name in names or () if name.startswith(incomplete)]


def _objects(ctx: click.Context, kinds: Sequence[Kind], incomplete: str) -> Items:
    from sluice.cli.cluster import World, take_place
    from sluice.cli.objects import Object

    home, slash, _ = incomplete.rpartition("/")
    place = take_place({name: ctx.params.get(name) or empty for name, empty in _UNSET.items()})

    async def ask(world: World) -> list[Object]:
        namespace = home if slash else world.namespace
        lists = await asyncio.gather(
            *(world.list(kind, "" if kind is NAMESPACES else namespace) for kind in kinds), return_exceptions=True
        )
        return [one for found in lists if not isinstance(found, BaseException) for one in found]

    async def inside() -> list[Object]:
        async with asyncio.timeout(MOMENT), place.open(place.credentials(terminal=False)) as world:
            return await ask(world)

    found = _within_a_moment(lambda: asyncio.run(inside())) or []
    return [CompletionItem(f"{home}{slash}{one.metadata.name}", help=_help(one)) for one in found]


_UNSET: dict[str, Any] = {
    "kubeconfig": None,
    "context": "",
    "namespace": "",
    "ns_follows_kube_context": False,
    "as_user": "",
    "as_groups": (),
    "as_uid": "",
    "local": None,
}


def _help(one: Any) -> str | None:
    """How it is, in one line that is not long."""
    if one.condition("Ready") is None:
        return None
    text = escape(one.ready[1])
    return text if len(text) <= MAX_HELP else f"{text[: MAX_HELP - 1]}…"


def _within_a_moment(work: Callable[[], Any]) -> Any:
    """The result of some work; None if it fails, or is not done in a moment."""
    results: list[Any] = []

    def inside() -> None:
        try:
            results.append(work())
        except Exception:  # noqa: BLE001  there is nobody to tell: the line that is typed must stay as it is
            results.append(None)

    # A plugin or a name server may take its time; whoever waits for it here does not keep us from ending.
    thread = threading.Thread(target=inside, daemon=True)
    thread.start()
    thread.join(MOMENT)
    return results[0] if results else None


# Cobra's protocol, by which flux asks its plugins

COBRA = ("__complete", "__completeNoDesc")
_FILES, _NO_FILES, _DIRECTORIES = 0, 4, 16


def answer_cobra(command: click.Command, args: Sequence[str]) -> str:
    """What ``__complete WORD…`` prints: offers, one a line, and what the shell is to do besides."""
    protocol, *words = args
    *before, incomplete = words or [""]
    offers = ShellComplete(command, {}, "sluice", "").get_completions(before, incomplete)
    lines, directive = [], _NO_FILES
    for offer in offers:
        if offer.type == "plain":
            description = f"\t{escape(offer.help)}" if offer.help and protocol == COBRA[0] else ""
            lines.append(f"{offer.value}{description}")
        else:
            directive = _DIRECTORIES if offer.type == "dir" else _FILES
    return "".join(f"{line}\n" for line in [*lines, f":{directive}"])
