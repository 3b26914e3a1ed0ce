"""What the engines build is admitted by a real API server and started by the real program."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.deploy import flux
from tests.deploy.cluster import Cluster
from tests.deploy.engines import (
    DEPLOY,
    IMAGE,
    NAMESPACE,
    OVERLAYS,
    VARIATIONS,
    build,
    build_around,
    by_identity,
    container,
    deployments,
    expanded,
    identity,
    template,
)
from tests.envtest.client import Object, Refused

import sluice

pytestmark = pytest.mark.cluster

PEER_ARGUMENTS = [
    "--watch-all-namespaces",
    "--log-level=info",
    "--log-encoding=json",
    "--enable-leader-election",
    "--storage-path=/data",
    "--storage-adv-addr=source-watcher.$(RUNTIME_NAMESPACE).svc.cluster.local.",
]
RESOURCES = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "1000m", "memory": "1Gi"}}
EVENTS = "--events-addr=http://notification-controller.$(RUNTIME_NAMESPACE).svc.cluster.local./"


def kustomizations() -> list[str]:
    """Every directory of `deploy/` that stands on its own."""
    files = DEPLOY.rglob("kustomization.yaml")
    whole = [path.parent for path in files if yaml.safe_load(path.read_text())["kind"] == "Kustomization"]
    return sorted(str(path.relative_to(DEPLOY)) for path in whole)


def start_without_cluster(arguments: list[str], directory: Path) -> tuple[int, str]:
    """Start the program with a kubeconfig that is not there: how it ends, and its last words."""
    missing = directory / "missing"
    ran = subprocess.run(
        [sys.executable, "-m", "sluice", "controller", *arguments, f"--storage-path={directory}"],
        env={**os.environ, "KUBECONFIG": str(missing), "RUNTIME_NAMESPACE": NAMESPACE},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return ran.returncode, ran.stdout.replace(str(missing), "MISSING")


def assert_starts(deployment: Object, directory: Path) -> None:
    """The program takes the arguments, and fails for want of a cluster only."""
    code, words = start_without_cluster(expanded(container(deployment)["args"]), directory)

    assert code == 1, words
    assert json.loads(words)["msg"] == "KUBECONFIG: none of its files exists: 'MISSING'"


@pytest.mark.parametrize("directory", kustomizations())
def test_the_server_takes_what_kustomize_builds(cluster: Cluster, kustomize: Path, directory: str) -> None:
    objects = build(kustomize, DEPLOY / directory)
    for obj in objects:  # parts that a user puts into a namespace
        if "/namespaces/" in cluster.path({**obj, "metadata": {"namespace": NAMESPACE, **obj["metadata"]}}):
            obj["metadata"].setdefault("namespace", NAMESPACE)

    with cluster.holding(objects) as stored:
        assert [identity(obj) for obj in stored] == [identity(obj) for obj in objects]


@pytest.mark.parametrize("values", [pytest.param(values, id=name) for name, values in VARIATIONS.items()])
def test_the_server_takes_what_the_chart_renders(cluster: Cluster, helm: Path, tmp_path: Path, values: Object) -> None:
    objects = template(helm, values)

    with cluster.holding(objects) as stored:
        assert [identity(obj) for obj in stored] == [identity(obj) for obj in objects]
    for deployment in deployments(objects):
        cluster.admits(deployment)
        assert_starts(deployment, tmp_path)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_of_an_overlay_are_admitted_and_start(
    cluster: Cluster, kustomize: Path, tmp_path: Path, overlay: str
) -> None:
    found = deployments(build(kustomize, DEPLOY / "overlays" / overlay))

    assert len(found) == (2 if overlay == "sharded" else 1)
    for deployment in found:
        cluster.admits(deployment)
        assert_starts(deployment, tmp_path)


def test_the_namespace_refuses_a_pod_that_may_more(cluster: Cluster, kustomize: Path) -> None:
    (deployment,) = deployments(build(kustomize, DEPLOY / "overlays" / "default"))
    container(deployment)["securityContext"]["allowPrivilegeEscalation"] = True

    with pytest.raises(Refused, match="violates PodSecurity"):
        cluster.admits(deployment)


def test_a_field_that_is_not_known_is_refused(cluster: Cluster, kustomize: Path) -> None:
    (deployment,) = deployments(build(kustomize, DEPLOY / "overlays" / "default"))
    deployment["spec"]["template"]["spec"]["restartPolice"] = "Always"

    with pytest.raises(Refused, match="restartPolice"):
        cluster.apply([deployment])


def test_the_program_refuses_a_flag_that_it_does_not_know(tmp_path: Path) -> None:
    assert start_without_cluster(["--unknown"], tmp_path)[0] == 2


OURS = ["--no-loopback-sources"]


@pytest.mark.parametrize(
    ("overlay", "further"),
    [
        pytest.param("default", [], id="by default loopback is refused"),
        pytest.param("drop-in", ["--feature-gates=UpstreamCompat=true"], id="a drop-in moves no file"),
        pytest.param("lockdown", ["--no-cross-namespace-refs=true"], id="tenants are kept apart"),
        pytest.param("persistent", [], id="a volume changes no argument"),
        pytest.param("two-replicas", [], id="a standby has the same arguments"),
    ],
)
def test_our_arguments_follow_those_of_the_peer(kustomize: Path, overlay: str, further: list[str]) -> None:
    (deployment,) = deployments(build(kustomize, DEPLOY / "overlays" / overlay))

    assert container(deployment)["command"] == ["sluice", "controller"]
    assert container(deployment)["args"] == [EVENTS, *PEER_ARGUMENTS, *OURS, *further]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_workload_keeps_the_shape_that_flux_gave_it(kustomize: Path, overlay: str) -> None:
    for deployment in deployments(build(kustomize, DEPLOY / "overlays" / overlay)):
        before, after = flux.DEPLOYMENT["spec"]["template"]["spec"], deployment["spec"]["template"]["spec"]
        same = ("serviceAccountName", "priorityClassName", "terminationGracePeriodSeconds")
        assert {name: after[name] for name in same} == {name: before[name] for name in same}
        assert after["securityContext"]["fsGroup"] == before["securityContext"]["fsGroup"]
        assert after["containers"][0]["resources"] == RESOURCES
        for name in ("env", "ports", "readinessProbe", "securityContext", "volumeMounts"):
            assert container(deployment)[name] == container(flux.DEPLOYMENT)[name]
        assert [volume["name"] for volume in after["volumes"]] == ["data", "tmp"]
        assert container(deployment)["livenessProbe"]["httpGet"] == container(deployment)["startupProbe"]["httpGet"]


def test_shards_share_the_generators_and_nothing_else(kustomize: Path) -> None:
    objects = build(kustomize, DEPLOY / "overlays" / "sharded")
    services = {obj["metadata"]["name"]: obj["spec"]["selector"] for obj in objects if obj["kind"] == "Service"}
    pods = {
        each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"]["app"] for each in deployments(objects)
    }
    flags = {
        each["metadata"]["name"]: [flag for flag in container(each)["args"] if "selector" in flag or "adv" in flag]
        for each in deployments(objects)
    }

    assert services == {name: {"app": app} for name, app in pods.items()}
    assert all(
        each["spec"]["selector"]["matchLabels"]["app"] == pods[identity(each)[2]] for each in deployments(objects)
    )
    assert flags == {
        "source-watcher": [
            "--storage-adv-addr=source-watcher.$(RUNTIME_NAMESPACE).svc.cluster.local.",
            "--watch-label-selector=!sharding.fluxcd.io/key",
        ],
        "source-watcher-shard1": [
            "--storage-adv-addr=source-watcher-shard1.$(RUNTIME_NAMESPACE).svc.cluster.local.",
            "--watch-label-selector=sharding.fluxcd.io/key=shard1",
        ],
    }


def test_a_user_names_the_namespace_and_the_registry(cluster: Cluster, kustomize: Path, tmp_path: Path) -> None:
    namespace = cluster.plane.namespace()
    objects = build_around(
        kustomize,
        tmp_path,
        {
            "namespace": namespace,
            "resources": ["../deploy/overlays/sharded"],
            "components": ["../deploy/components/lockdown"],
            "images": [{"name": IMAGE, "newName": "registry.test/sluice"}],
        },
    )

    with cluster.holding(objects):
        namespaces = {obj["metadata"].get("namespace", namespace) for obj in objects}
        subjects = [subject["namespace"] for obj in objects for subject in obj.get("subjects", [])]
        found = deployments(objects)
        assert (namespaces, set(subjects)) == ({namespace}, {namespace})
        assert [container(each)["image"] for each in found] == [f"registry.test/sluice:{sluice.__version__}"] * 2
        assert [container(each)["args"][-1] for each in found] == ["--no-cross-namespace-refs=true"] * 2


@pytest.fixture
def flux_installation(kustomize: Path, tmp_path: Path) -> Object:
    """Our base in the place of the published deployment, in Flux's own layout."""
    target = {"group": "apps", "version": "v1", "kind": "Deployment", "name": "source-watcher"}
    patches = [
        {"target": target, "patch": yaml.safe_dump(flux.BASE_PATCH)},
        {"target": target, "patch": yaml.safe_dump(flux.INSTALL_PATCH)},
    ]
    kustomization = {"namespace": NAMESPACE, "resources": ["../deploy/crd", "../deploy/base"], "patches": patches}
    (deployment,) = deployments(build_around(kustomize, tmp_path, kustomization))
    return deployment


def test_patches_by_position_find_what_they_replace(
    cluster: Cluster, flux_installation: Object, tmp_path: Path
) -> None:
    positions = [flux.POSITIONS.get(place, old) for place, old in enumerate(["", *PEER_ARGUMENTS])]

    assert container(flux_installation)["args"] == [*positions, *OURS]
    cluster.admits(flux_installation)
    assert_starts(flux_installation, tmp_path)


def test_the_takeover_changes_the_program_and_little_else(cluster: Cluster, kustomize: Path, tmp_path: Path) -> None:
    kustomization = {"resources": ["flux.yaml"], "components": ["../deploy/components/takeover"]}
    (deployment,) = build_around(kustomize, tmp_path, kustomization, flux=yaml.safe_dump(flux.DEPLOYMENT))
    before, after = container(flux.DEPLOYMENT), container(deployment)
    changed = {field for field in after if after[field] != before.get(field)}

    assert changed == {"image", "command", "args", "startupProbe", "livenessProbe"}
    assert after["image"] == f"{IMAGE}:{sluice.__version__}"
    assert after["args"] == [*before["args"], *OURS, "--feature-gates=UpstreamCompat=true"]
    assert after["livenessProbe"] == {**before["livenessProbe"], "timeoutSeconds": 5}
    cluster.admits(deployment)
    assert_starts(deployment, tmp_path)


def test_no_overlay_deletes_the_namespace_of_flux(kustomize: Path, helm: Path) -> None:
    built = [obj for overlay in OVERLAYS for obj in build(kustomize, DEPLOY / "overlays" / overlay)]

    assert not [obj for obj in [*built, *template(helm, {})] if obj["kind"] == "Namespace"]


def test_users_of_the_cluster_may_see_and_edit_generators_only(cluster: Cluster, kustomize: Path) -> None:
    objects = by_identity(build(kustomize, DEPLOY / "access"))
    given = {
        name: {label.rpartition("-to-")[2] for label in obj["metadata"]["labels"] if "aggregate-to-" in label}
        for (_, _, name), obj in objects.items()
    }
    written = [
        resource
        for obj in objects.values()
        for rule in obj["rules"]
        if {"create", "update", "patch", "delete"} & set(rule["verbs"])
        for resource in rule["resources"]
    ]

    assert given == {"source-watcher-viewer": {"view", "edit", "admin"}, "source-watcher-editor": {"edit", "admin"}}
    assert written == ["artifactgenerators"]
