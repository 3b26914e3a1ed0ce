"""Which cluster the verbs speak to, and as whom: kubeconfigs as people have them."""

import asyncio
from pathlib import Path

import pytest
import yaml
from tests.cli.clusters import Front, kubeconfig
from tests.envtest.server import free_port
from tests.kube.faults import tunnel
from tests.kube.test_client import plugin_config

pytestmark = pytest.mark.cluster

LIST = ("get", "generators", "-o", "name")
AUTHENTICATION = "client.authentication.k8s.io"


def forbidden(front: Front, user: str) -> str:
    return (
        f'✗ artifactgenerators.source.extensions.fluxcd.io is forbidden: User "{user}" cannot list resource'
        f' "artifactgenerators" in API group "source.extensions.fluxcd.io" in the namespace "{front.namespace}"\n'
    )


@pytest.fixture
def shop(front: Front) -> Front:
    front.add_generator("shop")
    return front


@pytest.fixture
def listed(shop: Front) -> str:
    return f"{shop.namespace}/shop\n"


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_a_plugin_that_gives_a_token(shop: Front, listed: str, tmp_path: Path, version: str) -> None:
    path = plugin_config(shop.plane, tmp_path, "token", f"{AUTHENTICATION}/{version}")

    assert shop.run(*LIST, "--kubeconfig", str(path)) == (0, listed, "")


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_a_plugin_that_gives_a_certificate(shop: Front, tmp_path: Path, version: str) -> None:
    path = plugin_config(shop.plane, tmp_path, "certificate", f"{AUTHENTICATION}/{version}")

    assert shop.run(*LIST, "--kubeconfig", str(path)) == (1, "", forbidden(shop, "plugged"))


def test_a_plugin_that_fails(shop: Front, tmp_path: Path) -> None:
    plugin = {"command": "false", "apiVersion": f"{AUTHENTICATION}/v1", "interactiveMode": "Never"}
    path = kubeconfig(shop.plane, tmp_path / "config", {"user": {"exec": plugin}})

    where = f"kubeconfig '{path}': users[test].user.exec"
    message = f"✗ {where}: 'false' failed with exit code 1 (run it to see why)\n"
    assert shop.run(*LIST, KUBECONFIG=str(path)) == (1, "", message)


def test_acting_as_somebody_else(shop: Front, listed: str) -> None:
    assert shop.run(*LIST, "--as", "guest") == (1, "", forbidden(shop, "guest"))
    assert shop.run(*LIST, "--as", "guest", "--as-group", "x", "--as-group", "system:masters") == (0, listed, "")
    assert shop.run(*LIST, "--as-group", "x") == (1, "", "✗ impersonation: groups without a user to act as\n")


async def test_through_a_proxy(shop: Front, listed: str, tmp_path: Path) -> None:
    async with tunnel() as (proxy, asked):
        path = kubeconfig(shop.plane, tmp_path / "config", {"cluster": {"proxy-url": proxy}})

        ran = await asyncio.to_thread(shop.run, *LIST, KUBECONFIG=str(path))

    assert ran == (0, listed, "")
    assert set(asked) == {shop.plane.url.removeprefix("https://")}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("api.test", "", id="that is in it"),
        pytest.param(
            "elsewhere.test",
            "✗ {url}: its certificate is not trusted"
            " (Hostname mismatch, certificate is not valid for 'elsewhere.test'.)\n",
            id="that is not",
        ),
    ],
)
def test_another_name_for_the_certificate(shop: Front, listed: str, tmp_path: Path, name: str, words: str) -> None:
    path = kubeconfig(shop.plane, tmp_path / "config", {"cluster": {"tls-server-name": name}})

    ran = shop.run(*LIST, KUBECONFIG=str(path))

    assert ran == (1 if words else 0, "" if words else listed, words.format(url=shop.plane.url))


def test_several_contexts_in_several_files(shop: Front, listed: str, tmp_path: Path) -> None:
    other = yaml.safe_load(shop.plane.user("other").read_text())
    other["users"][0]["name"] = "other"
    other["contexts"] = [{"name": "other", "context": {"cluster": "test", "user": "other"}}]
    other["current-context"] = "other"
    path = tmp_path / "other"
    path.write_text(yaml.safe_dump(other))
    files = {"KUBECONFIG": f"{path}:{shop.plane.kubeconfig}"}

    assert shop.run(*LIST, **files) == (1, "", forbidden(shop, "other"))
    assert shop.run(*LIST, "--context", "test", **files) == (0, listed, "")
    ran = shop.run(*LIST, "--context", "nowhere", **files)
    names = f"'{path}', '{shop.plane.kubeconfig}'"
    assert ran == (1, "", f"✗ kubeconfig {names}: there is no context 'nowhere' (contexts: other, test)\n")


def test_nobody_listens(shop: Front, tmp_path: Path) -> None:
    server = f"https://127.0.0.1:{free_port()}"
    path = kubeconfig(shop.plane, tmp_path / "config", {"cluster": {"server": server}})

    assert shop.run(*LIST, KUBECONFIG=str(path)) == (1, "", f"✗ {server}: connection refused\n")


def test_no_namespace(shop: Front) -> None:
    assert shop.run(*LIST, "-n", "My_Apps") == (
        2,
        "",
        (
            "✗ Invalid value for '-n' / '--namespace': 'My_Apps' is not a namespace"
            " (lower-case letters, digits and '-', at most 63) (see 'sluice get --help')\n"
        ),
    )


def test_a_cluster_that_knows_no_generators(shop: Front, tmp_path: Path) -> None:
    # What is not served at this path is served nowhere.
    path = kubeconfig(shop.plane, tmp_path / "config", {"cluster": {"server": f"{shop.plane.url}/nowhere"}})
    message = (
        "✗ the cluster does not know artifactgenerators.source.extensions.fluxcd.io"
        " (is its CustomResourceDefinition installed?)\n"
    )

    for arguments in (["get", "generators"], ["get", "generator", "shop"], ["wait", "shop"], ["tree", "shop"]):
        ran = shop.run(*arguments, KUBECONFIG=str(path))
        assert (ran.code, ran.words.splitlines(keepends=True)[-1]) == (1, message)
    assert shop.run("get", "sources", KUBECONFIG=str(path)).words.startswith("⚠ no sources in namespace ")
