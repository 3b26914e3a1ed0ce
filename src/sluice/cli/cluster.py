"""Where objects are, for the verbs that look at them and change them: a cluster, or a directory.

The flags are those of flux. `World` is all that the verbs ask of either place.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import wraps
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import click
import msgspec
from msgspec import Struct

from sluice.cli.complete import complete_contexts, complete_namespaces
from sluice.cli.objects import Object, title
from sluice.core.errors import ApiError
from sluice.core.spec import NAMESPACE
from sluice.kube.config import NOBODY_ELSE, ClientConfig, Impersonation, load_config
from sluice.kube.credentials import Credentials
from sluice.kube.errors import Refused
from sluice.kube.kinds import Key, Kind

if TYPE_CHECKING:  # aiohttp, which neither help nor a directory needs
    from sluice.kube.client import Client
    from sluice.kube.watch import HasMetadata

DEFAULT_NAMESPACE = "flux-system"
LOCAL_NAMESPACE = "default"
FIELD_MANAGER = "sluice"

T = TypeVar("T")
M = TypeVar("M", bound="HasMetadata")

OBJECTS = msgspec.json.Decoder(Object)
_LASTING = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND})


class NotServed(ApiError):
    """The cluster does not know this kind of object."""


class Sight(Struct, Generic[T], frozen=True):
    """A report of `World.follow`: without an object it is gone, without a key all there are were reported."""

    key: Key | None = None
    object: T | None = None


class World(Protocol):
    """Objects, wherever they are. Raises `ApiError`, with status 404 for what is not there."""

    @property
    def namespace(self) -> str:
        """The namespace of names that name none."""
        ...

    def keeps(self, kind: Kind) -> bool:
        """Whether objects of a kind may be here at all."""
        ...

    async def get(self, kind: Kind, key: Key) -> Object: ...

    async def list(self, kind: Kind, namespace: str = "", labels: str = "") -> list[Object]:
        """The objects of a namespace, or of all, by namespace and name."""
        ...

    def follow(
        self, kind: Kind, namespace: str = "", labels: str = "", name: str = ""
    ) -> AsyncGenerator[Sight[Object], None]:
        """What there is, and from then on whatever changes."""
        ...

    async def annotate(self, kind: Kind, key: Key, annotations: Mapping[str, str | None]) -> Object:
        """Set annotations, and remove those that are None; returns the object as it is then."""
        ...

    def archive_file(self, path: str) -> Path | None:
        """Where an archive is on this disk, by the path of its status."""
        ...


class Cluster:
    """The objects of a cluster."""

    def __init__(self, client: Client) -> None:
        self.client = client

    @property
    def namespace(self) -> str:
        return self.client.namespace

    def keeps(self, kind: Kind) -> bool:
        return True

    async def get(self, kind: Kind, key: Key) -> Object:
        with _explained(kind, *key):
            return await self.client.get(kind, *key, OBJECTS)

    async def list(self, kind: Kind, namespace: str = "", labels: str = "") -> list[Object]:
        with _explained(kind):
            found = await self.client.list_all(kind, namespace, OBJECTS, labels=labels)
        return sorted(found, key=lambda one: one.key)

    def follow(
        self, kind: Kind, namespace: str = "", labels: str = "", name: str = ""
    ) -> AsyncGenerator[Sight[Object], None]:
        fields = f"metadata.name={name}" if name else ""
        return self.watch(kind, OBJECTS, namespace, labels=labels, fields=fields)

    async def watch(
        self, kind: Kind, decoder: msgspec.json.Decoder[M], namespace: str, *, labels: str = "", fields: str = ""
    ) -> AsyncGenerator[Sight[M], None]:
        """`World.follow`, for objects of another form."""
        from sluice.kube.client import Undecodable
        from sluice.kube.watch import Changed, Event, Gone, Synced, Watch

        reports: asyncio.Queue[Sight[M] | ApiError] = asyncio.Queue()
        is_complete = False

        def handle(event: Event[M]) -> None:
            nonlocal is_complete
            match event:
                case Changed(item):
                    reports.put_nowait(Sight((item.metadata.namespace, item.metadata.name), item))
                case Gone(key, _):
                    reports.put_nowait(Sight(key))
                case Undecodable(key, _, why):
                    reports.put_nowait(ApiError(f"{title(kind.name, *(key or ('', '?')))}: {why}"))
                case Synced():
                    is_complete = True
                    reports.put_nowait(Sight())

        def failed(_: Kind, error: ApiError) -> None:
            # What once worked is tried again, unless the server says that it will not work.
            if not is_complete or error.status in _LASTING:
                reports.put_nowait(error)

        watch = Watch(self.client, kind, decoder, namespace=namespace, labels=labels, fields=fields, failed=failed)
        task = asyncio.create_task(watch.run(handle))
        try:
            while True:
                report = await reports.get()
                if isinstance(report, ApiError):
                    with _explained(kind):
                        raise report
                yield report
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def annotate(self, kind: Kind, key: Key, annotations: Mapping[str, str | None]) -> Object:
        from sluice.kube.client import Patch

        body = {"metadata": {"annotations": annotations}}
        with _explained(kind, *key):
            return await self.client.patch(kind, *key, body, OBJECTS, how=Patch.MERGE)

    def archive_file(self, path: str) -> Path | None:
        return None


@contextmanager
def _explained(kind: Kind, namespace: str = "", name: str = "") -> Any:
    try:
        yield
    except Refused as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        # Where the resource itself is not served, the server says 404 and no more.
        if not error.reason:
            text = f"the cluster does not know {kind.resource} (is its CustomResourceDefinition installed?)"
            raise NotServed(text, error.status) from error
        if name:
            raise ApiError(f"{title(kind.name, namespace, name)} not found", error.status) from error
        raise


class Place(Struct, frozen=True, kw_only=True):
    """What the flags say of where objects are."""

    kubeconfig: Path | None = None
    context: str = ""
    namespace: str = ""
    follows_context: bool = False
    acting_as: Impersonation = NOBODY_ELSE
    local: Path | None = None

    def config(self, environ: Mapping[str, str]) -> ClientConfig:
        """The cluster, and the namespace in it; raises `ConfigError`."""
        config = load_config(environ, path=self.kubeconfig, context=self.context, acting_as=self.acting_as)
        if self.follows_context and not self.namespace:
            return config
        return replace(config, namespace=self.namespace or environ.get("FLUX_SYSTEM_NAMESPACE") or DEFAULT_NAMESPACE)

    @asynccontextmanager
    async def open(self, credentials: Credentials | None) -> AsyncIterator[World]:
        """The objects there; `credentials` are those of the cluster."""
        if self.local is not None:
            from sluice.cli.kept import Kept

            yield Kept(self.local, self.namespace or LOCAL_NAMESPACE)
            return
        from sluice.kube.client import Client

        config = self.config(os.environ)
        async with Client(config, credentials, manager=FIELD_MANAGER) as client:
            yield Cluster(client)

    def credentials(self, *, terminal: bool) -> Credentials | None:
        """The credentials for the cluster, fetched; none for a directory. Raises `ConfigError`."""
        if self.local is not None:
            return None
        credentials = Credentials(self.config(os.environ), terminal=terminal)
        credentials.fetch()
        return credentials


def run(place: Place, work: Callable[[World], Awaitable[T]]) -> T:
    """Do something with the objects of a place."""
    # Before there is a loop: a plugin may ask questions, and is interrupted like everything else.
    credentials = place.credentials(terminal=sys.stdin is not None and sys.stdin.isatty())

    async def inside() -> T:
        async with place.open(credentials) as world:
            return await work(world)

    return asyncio.run(inside())


def _namespace(_: click.Context, __: click.Parameter, value: str) -> str:
    if value and not NAMESPACE.accepts(value):
        raise click.BadParameter(f"'{value}' is not a namespace ({NAMESPACE.words})")
    return value


_WHICH = (
    click.option(
        "--kubeconfig",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Which kubeconfig to use. [default: $KUBECONFIG, the pod's account, or ~/.kube/config]",
    ),
    click.option(
        "--context",
        default="",
        metavar="NAME",
        shell_complete=complete_contexts,
        help="Which context of the kubeconfig to use.",
    ),
)
_WHERE = (
    click.option(
        "-n",
        "--namespace",
        default="",
        metavar="NAME",
        callback=_namespace,
        shell_complete=complete_namespaces,
        help=f"Where to look. [default: $FLUX_SYSTEM_NAMESPACE or {DEFAULT_NAMESPACE}]",
    ),
    click.option("--ns-follows-kube-context", is_flag=True, help="Look in the namespace of the context."),
)
_WHO = (
    click.option("--as", "as_user", default="", metavar="USER", help="Act as somebody else."),
    click.option("--as-group", "as_groups", multiple=True, metavar="GROUP", help="Act as in a group. Repeatable."),
    click.option("--as-uid", default="", metavar="UID", help="Act as a user with this UID."),
)
_LOCAL = click.option(
    "--local",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Look at the objects of `sluice serve DIR` instead of a cluster's.",
)


def place_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say where objects are; they reach the command as `place`."""

    @wraps(function)
    def command(*args: Any, **values: Any) -> Any:
        return function(*args, place=take_place(values), **values)

    for option in reversed((*_WHICH, *_WHERE, *_WHO, _LOCAL)):
        command = option(command)
    return command


def cluster_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which cluster, and as whom; they reach the command as `place`."""

    @wraps(function)
    def command(*args: Any, **values: Any) -> Any:
        own = {name: values.pop(name) for name in ("kubeconfig", "context", "as_user", "as_groups", "as_uid")}
        return function(*args, place=take_place(own), **values)

    for option in reversed((*_WHICH, *_WHO)):
        command = option(command)
    return command


def take_place(values: dict[str, Any]) -> Place:
    """What the values of `place_options`, or of `cluster_options`, say, taken out of them."""
    user, groups, uid = values.pop("as_user"), values.pop("as_groups"), values.pop("as_uid")
    return Place(
        kubeconfig=values.pop("kubeconfig"),
        context=values.pop("context"),
        namespace=values.pop("namespace", ""),
        follows_context=values.pop("ns_follows_kube_context", False),
        acting_as=Impersonation(user, groups, uid) if user or groups or uid else NOBODY_ELSE,
        local=values.pop("local", None),
    )
