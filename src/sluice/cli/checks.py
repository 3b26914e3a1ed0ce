"""What has to be so for Sluice to work in a cluster, each as a function that looks and tells."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from sluice.cli.cluster import Cluster
from sluice.cli.discovery import served
from sluice.cli.output import Mark
from sluice.core.errors import ApiError
from sluice.core.spec import SourceKind
from sluice.kube.kinds import ARTIFACT_GENERATOR, EVENT, EXTERNAL_ARTIFACT, SOURCE_KINDS, Kind, Metadata

OLDEST = (1, 29)
"""The first version of Kubernetes where the rules of our definition are stable."""
GATE = "ExternalArtifact"
CONSUMERS = ("kustomize-controller", "helm-controller")
CONTROLLER = "source-watcher"
SHOWN = 3

DEPLOYMENT = Kind("apps", "v1", "Deployment", "deployments")
REVIEW = Kind("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews")


class Finding(Struct, frozen=True):
    """What one look found out: a mark for how good that is, and a line."""

    check: str
    mark: Mark
    text: str

    def document(self) -> dict[str, Any]:
        return {"check": self.check, "level": self.mark.name.lower(), "message": self.text}


class Scope(Struct, frozen=True):
    """What is checked: where Flux is, and whether Sluice is installed already."""

    namespace: str
    is_installed: bool


Check = Callable[[Cluster, Scope], Awaitable[Sequence[Finding]]]


class _Version(Struct, frozen=True, rename="camel"):
    git_version: str = ""
    major: str = ""
    minor: str = ""


class _Container(Struct, frozen=True):
    name: str = ""
    image: str = ""
    args: tuple[str, ...] = ()


class _PodSpec(Struct, frozen=True):
    containers: tuple[_Container, ...] = ()


class _Template(Struct, frozen=True):
    spec: _PodSpec = _PodSpec()


class _DeploymentSpec(Struct, frozen=True):
    replicas: int = 1
    template: _Template = _Template()


class _DeploymentStatus(Struct, frozen=True, rename="camel"):
    ready_replicas: int = 0


class Deployment(Struct, frozen=True):
    """A Deployment, as far as it is checked."""

    metadata: Metadata
    spec: _DeploymentSpec = _DeploymentSpec()
    status: _DeploymentStatus = _DeploymentStatus()

    @property
    def container(self) -> _Container:
        containers = self.spec.template.spec.containers
        return next(
            (each for each in containers if each.name == "manager"), containers[0] if containers else _Container()
        )


class _ReviewStatus(Struct, frozen=True):
    allowed: bool = False


class _Review(Struct, frozen=True):
    status: _ReviewStatus = _ReviewStatus()


_VERSIONS = msgspec.json.Decoder(_Version)
_DEPLOYMENTS = msgspec.json.Decoder(Deployment)
_REVIEWS = msgspec.json.Decoder(_Review)


async def check_kubernetes(world: Cluster, _: Scope) -> Sequence[Finding]:
    found = await world.client.read("/version", _VERSIONS)
    numbers = [int(re.sub(r"\D.*", "", text) or 0) for text in (found.major, found.minor)]
    oldest = ".".join(map(str, OLDEST))
    is_new = tuple(numbers) >= OLDEST
    mark, words = (Mark.SUCCESS, f"{oldest} or newer") if is_new else (Mark.FAILURE, f"{oldest} or newer is needed")
    return [Finding("kubernetes", mark, f"Kubernetes {found.git_version} ({words})")]


async def check_definitions(world: Cluster, scope: Scope) -> Sequence[Finding]:
    """The kinds that we read and write; of sources those may be missing that nobody uses."""
    wanted = [*([ARTIFACT_GENERATOR] * scope.is_installed), *SOURCE_KINDS.values()]
    versions = sorted({kind.api_version for kind in wanted})
    lists = await asyncio.gather(*(served(world.client, version) for version in versions))
    known = {each.kind for found in lists for each in found}
    hints = {
        ARTIFACT_GENERATOR: "install Sluice, or source-watcher",
        EXTERNAL_ARTIFACT: "install Flux 2.7 or newer",
        SOURCE_KINDS[SourceKind.GIT_REPOSITORY]: "install Flux",
    }
    findings: list[Finding] = []
    for kind in wanted:
        what = f"{kind.name} {kind.api_version}"
        if kind in known:
            findings.append(Finding("definitions", Mark.SUCCESS, what))
        elif kind in hints:
            findings.append(Finding("definitions", Mark.FAILURE, f"{what} is not served ({hints[kind]})"))
        else:
            findings.append(Finding("definitions", Mark.WARNING, f"{what} is not served: no generator can read one"))
    return findings


async def check_components(world: Cluster, scope: Scope) -> Sequence[Finding]:
    """The controllers around us: who makes sources, who deploys artifacts, and whether they are allowed to."""
    found = await world.client.list_all(
        DEPLOYMENT, scope.namespace, _DEPLOYMENTS, labels="app.kubernetes.io/part-of=flux"
    )
    here = {each.metadata.name: each for each in found}
    if not here:
        text = f"no Flux in namespace '{scope.namespace}' (say where it is with -n)"
        return [Finding("components", Mark.FAILURE, text)]
    findings: list[Finding] = []
    required = ["source-controller", *([CONTROLLER] * scope.is_installed)]
    for name in [*required, *CONSUMERS]:
        if name in here:
            findings += _component(name, here[name])
        elif name in required:
            findings.append(Finding("components", Mark.FAILURE, f"{name} is not there"))
    if not any(name in here for name in CONSUMERS):
        text = f"neither {' nor '.join(CONSUMERS)} is there: nothing deploys artifacts"
        findings.append(Finding("components", Mark.WARNING, text))
    return findings


def _component(name: str, deployment: Deployment) -> Sequence[Finding]:
    wanted, ready = deployment.spec.replicas, deployment.status.ready_replicas
    what = f"{name}: {deployment.container.image}"
    if ready < max(wanted, 1):
        return [Finding("components", Mark.FAILURE, f"{what}: {ready} of {wanted} replicas are ready")]
    if name in CONSUMERS and not feature_gates(deployment.container.args).get(GATE, False):
        text = f"{what}: it does not deploy artifacts (start it with --feature-gates={GATE}=true)"
        return [Finding("components", Mark.FAILURE, text)]
    return [Finding("components", Mark.SUCCESS, what)]


def feature_gates(args: Sequence[str]) -> Mapping[str, bool]:
    """The feature gates that a controller's arguments set."""
    gates: dict[str, bool] = {}
    for at, argument in enumerate(args):
        flag, equals, value = argument.partition("=")
        if flag.lstrip("-") != "feature-gates":
            continue
        text = value if equals else "".join(args[at + 1 : at + 2])
        for part in filter(None, text.split(",")):
            name, _, switch = part.strip().partition("=")
            gates[name] = switch.lower() in ("true", "t", "1")
    return gates


_NEEDED: Sequence[tuple[str, Kind, str]] = (
    ("list", ARTIFACT_GENERATOR, "get"),
    ("watch", ARTIFACT_GENERATOR, "get -w, reconcile and wait"),
    ("patch", ARTIFACT_GENERATOR, "reconcile, suspend and resume"),
    ("list", EXTERNAL_ARTIFACT, "get, tree and pull"),
    ("list", SOURCE_KINDS[SourceKind.GIT_REPOSITORY], "get and trace"),
    ("list", EVENT, "events"),
)
"""What our verbs ask of the API server, and which verbs do."""


async def check_permissions(world: Cluster, _: Scope) -> Sequence[Finding]:
    """What we ourselves may do, in all namespaces."""
    allowed = await asyncio.gather(*(_may(world, verb, kind) for verb, kind, _ in _NEEDED))
    missing = [
        Finding("permissions", Mark.WARNING, f"you may not {verb} {kind.resource} in all namespaces (for {verbs})")
        for (verb, kind, verbs), is_allowed in zip(_NEEDED, allowed, strict=True)
        if not is_allowed
    ]
    return missing or [Finding("permissions", Mark.SUCCESS, "you may do all that the verbs of sluice need")]


async def _may(world: Cluster, verb: str, kind: Kind) -> bool:
    attributes = {"verb": verb, "group": kind.group, "resource": kind.plural}
    body = {"apiVersion": REVIEW.api_version, "kind": REVIEW.name, "spec": {"resourceAttributes": attributes}}
    return (await world.client.create(REVIEW, "", body, _REVIEWS)).status.allowed


async def check_generators(world: Cluster, scope: Scope) -> Sequence[Finding]:
    """How the generators of all namespaces are."""
    if not scope.is_installed:
        return []
    found = await world.list(ARTIFACT_GENERATOR)
    bad = [one for one in found if one.ready[0] != "True" and not one.is_suspended]
    paused = sum(one.is_suspended for one in found)
    count = f"{len(found)} generator{'s' * (len(found) != 1)}{f', {paused} suspended' if paused else ''}"
    if not bad:
        return [Finding("generators", Mark.SUCCESS, f"{count}: all are ready" if found else "no generators")]
    names = ", ".join("/".join(one.key) for one in bad[:SHOWN])
    more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    return [Finding("generators", Mark.WARNING, f"{count}: {len(bad)} not ready ({names}{more})")]


CHECKS: Mapping[str, Check] = {
    "kubernetes": check_kubernetes,
    "definitions": check_definitions,
    "components": check_components,
    "permissions": check_permissions,
    "generators": check_generators,
}
"""All checks, in the order in which they are made."""


async def run_check(name: str, world: Cluster, scope: Scope) -> Sequence[Finding]:
    """One check; that it cannot look is what it finds, too."""
    try:
        return await CHECKS[name](world, scope)
    except ApiError as error:
        return [Finding(name, Mark.FAILURE, f"{name}: {error}")]
