"""Requests to the real API server, straight and through a proxy where things go wrong."""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from msgspec import Struct
from tests.envtest.pki import Authority
from tests.envtest.server import ControlPlane
from tests.kube.faults import HandClock, Proxy, reply, tunnel

from sluice.core.errors import ApiError
from sluice.kube.client import Client, Patch, Undecodable
from sluice.kube.config import Blob, ClientConfig, Impersonation, load_config
from sluice.kube.errors import Refused, Unreachable
from sluice.kube.gate import PATIENCE
from sluice.kube.kinds import EXTERNAL_ARTIFACT, Kind, Metadata

pytestmark = pytest.mark.cluster

CONFIG_MAP = Kind("", "v1", "ConfigMap", "configmaps")
SELF = Kind("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews")
ANY = msgspec.json.Decoder(dict[str, Any])


class ConfigMap(Struct, frozen=True):
    metadata: Metadata
    data: dict[str, str] = {}


CONFIG_MAPS = msgspec.json.Decoder(ConfigMap)


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


@pytest.fixture
def config(control_plane: ControlPlane) -> ClientConfig:
    return load_config({"KUBECONFIG": str(control_plane.kubeconfig)})


@pytest.fixture
async def client(config: ClientConfig) -> AsyncIterator[Client]:
    async with Client(config) as client:
        yield client


@pytest.fixture
async def proxy(control_plane: ControlPlane) -> AsyncIterator[Proxy]:
    async with Proxy(control_plane.url, control_plane.directory / "ca.crt") as proxy:
        yield proxy


def through(proxy: Proxy, config: ClientConfig) -> ClientConfig:
    return ClientConfig(proxy.url, token=config.token)


async def who_am_i(client: Client) -> dict[str, Any]:
    body = {"apiVersion": SELF.api_version, "kind": SELF.name}
    found: dict[str, Any] = (await client.create(SELF, "", body, ANY))["status"]["userInfo"]
    return found


def plugin_config(control_plane: ControlPlane, directory: Path, what: str, api: str) -> Path:
    """A kubeconfig whose user is what a plugin issues: the administrator's token, or a certificate for `plugged`."""
    kubeconfig = yaml.safe_load(control_plane.kubeconfig.read_text())
    if what == "token":
        status = {"token": kubeconfig["users"][0]["user"]["token"]}
    else:
        user = yaml.safe_load(control_plane.user("plugged").read_text())["users"][0]["user"]
        status = {
            "clientCertificateData": Path(user["client-certificate"]).read_text(),
            "clientKeyData": Path(user["client-key"]).read_text(),
        }
    (directory / "answer").write_text(json.dumps({"apiVersion": api, "kind": "ExecCredential", "status": status}))
    login = directory / "login"
    login.write_text(f"#!{sys.executable}\nprint(open({str(directory / 'answer')!r}).read())\n")
    login.chmod(0o755)
    kubeconfig["users"][0]["user"] = {
        "exec": {"apiVersion": api, "command": "./login", "interactiveMode": "Never", "args": ["; exit 1"]}
    }
    path = directory / "config"
    path.write_text(yaml.safe_dump(kubeconfig))
    return path


class TestVerbs:
    async def test_an_object_from_its_making_to_its_end(self, client: Client, namespace: str) -> None:
        made = await client.create(CONFIG_MAP, namespace, config_map("a", x="1"), CONFIG_MAPS)
        assert (made.metadata.key, made.data) == ((namespace, "a"), {"x": "1"})
        assert await client.get(CONFIG_MAP, namespace, "a", CONFIG_MAPS) == made

        merged = await client.patch(CONFIG_MAP, namespace, "a", {"data": {"y": "2"}}, CONFIG_MAPS, how=Patch.MERGE)
        assert merged.data == {"x": "1", "y": "2"}

        removal = [{"op": "remove", "path": "/data/x"}]
        patched = await client.patch(CONFIG_MAP, namespace, "a", removal, CONFIG_MAPS, how=Patch.JSON)
        assert patched.data == {"y": "2"}

        replaced = await client.update(CONFIG_MAP, namespace, "a", config_map("a", z="3"), CONFIG_MAPS)
        assert replaced.data == {"z": "3"}

        await client.delete(CONFIG_MAP, namespace, "a", uid=made.metadata.uid)
        with pytest.raises(Refused) as error:
            await client.get(CONFIG_MAP, namespace, "a", CONFIG_MAPS)
        assert (error.value.status, error.value.reason) == (404, "NotFound")
        assert str(error.value) == 'configmaps "a" not found'

    async def test_applying_owns_fields_under_the_peers_name(self, client: Client, namespace: str) -> None:
        body = {**config_map("a", x="1"), "metadata": {"name": "a", "namespace": namespace}}
        made = await client.patch(CONFIG_MAP, namespace, "a", body, ANY, how=Patch.APPLY)

        assert [(m["manager"], m["operation"]) for m in made["metadata"]["managedFields"]] == [
            ("source-watcher", "Apply")
        ]

    async def test_applying_takes_fields_only_by_force(
        self, client: Client, namespace: str, control_plane: ControlPlane
    ) -> None:
        control_plane.client.create(f"/api/v1/namespaces/{namespace}/configmaps", config_map("a", x="theirs"))
        body = config_map("a", x="ours")

        with pytest.raises(Refused) as error:
            await client.patch(CONFIG_MAP, namespace, "a", body, CONFIG_MAPS, how=Patch.APPLY)
        assert (error.value.status, error.value.fields) == (409, (".data.x",))

        forced = await client.patch(CONFIG_MAP, namespace, "a", body, CONFIG_MAPS, how=Patch.APPLY, force=True)
        assert forced.data == {"x": "ours"}

    async def test_a_status_is_written_apart(self, client: Client, namespace: str) -> None:
        head = {"apiVersion": EXTERNAL_ARTIFACT.api_version, "kind": EXTERNAL_ARTIFACT.name}
        body = {**head, "metadata": {"name": "a"}, "spec": {}}
        await client.create(EXTERNAL_ARTIFACT, namespace, body, ANY)
        condition = {
            "type": "Ready",
            "status": "True",
            "reason": "Succeeded",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        status = {**head, "metadata": {"name": "a"}, "status": {"conditions": [condition]}}

        written = await client.patch(
            EXTERNAL_ARTIFACT, namespace, "a", status, ANY, how=Patch.APPLY, subresource="status", force=True
        )

        assert written["status"] == {"conditions": [condition]}

    async def test_somebody_was_faster(self, client: Client, namespace: str) -> None:
        old = await client.create(CONFIG_MAP, namespace, config_map("a"), ANY)
        await client.patch(CONFIG_MAP, namespace, "a", {"data": {"x": "1"}}, ANY, how=Patch.MERGE)

        with pytest.raises(Refused) as error:
            await client.update(CONFIG_MAP, namespace, "a", old, ANY)

        assert (error.value.status, error.value.reason) == (409, "Conflict")

    async def test_another_object_of_the_same_name_is_not_deleted(self, client: Client, namespace: str) -> None:
        await client.create(CONFIG_MAP, namespace, config_map("a"), ANY)

        with pytest.raises(Refused) as error:
            await client.delete(CONFIG_MAP, namespace, "a", uid="another")

        assert error.value.status == 409
        assert (await client.get(CONFIG_MAP, namespace, "a", CONFIG_MAPS)).metadata.name == "a"

    async def test_fields_that_are_wrong_are_named(self, client: Client, namespace: str) -> None:
        with pytest.raises(Refused) as error:
            await client.create(CONFIG_MAP, namespace, config_map("Not_A_Name"), ANY)

        assert (error.value.status, error.value.reason, error.value.fields) == (422, "Invalid", ("metadata.name",))
        assert "\n" not in str(error.value)

    async def test_an_answer_that_cannot_be_read(self, client: Client, namespace: str) -> None:
        await client.create(CONFIG_MAP, namespace, config_map("a"), ANY)

        class Strange(Struct):
            metadata: int

        with pytest.raises(ApiError) as error:
            await client.get(CONFIG_MAP, namespace, "a", msgspec.json.Decoder(Strange))

        assert str(error.value) == (
            f"GET /api/v1/namespaces/{namespace}/configmaps/a: cannot read the answer:"
            " Expected `int`, got `object` - at `$.metadata`"
        )


class TestLists:
    async def test_pages(self, client: Client, namespace: str) -> None:
        for name in "abcde":
            await client.create(CONFIG_MAP, namespace, config_map(name), ANY)

        pages = [page async for page in client.pages(CONFIG_MAP, namespace, CONFIG_MAPS, limit=2)]

        assert [[item.metadata.name for item in page.items] for page in pages] == [["a", "b"], ["c", "d"], ["e"]]
        assert len({page.version for page in pages}) == 1

    async def test_selectors(self, client: Client, namespace: str) -> None:
        for name in "ab":
            body = {**config_map(name), "metadata": {"name": name, "labels": {"is": name}}}
            await client.create(CONFIG_MAP, namespace, body, ANY)

        async def names(**selectors: str) -> list[str]:
            found = await client.list_all(CONFIG_MAP, namespace, CONFIG_MAPS, **selectors)
            return [item.metadata.name for item in found]

        assert await names() == ["a", "b"]
        assert await names(labels="is in (b)") == ["b"]
        assert await names(fields="metadata.name=a") == ["a"]

    async def test_one_object_that_cannot_be_read_does_not_hide_the_others(
        self, client: Client, namespace: str
    ) -> None:
        class Strict(Struct, frozen=True):
            metadata: Metadata
            data: dict[str, int]

        strict = msgspec.json.Decoder(Strict, strict=False)
        for name, value in [("a", "1"), ("b", "none"), ("c", "3")]:
            await client.create(CONFIG_MAP, namespace, config_map(name, x=value), ANY)
        bad = await client.get(CONFIG_MAP, namespace, "b", CONFIG_MAPS)

        [page] = [page async for page in client.pages(CONFIG_MAP, namespace, strict)]

        assert [item.metadata.name for item in page.items] == ["a", "c"]
        assert page.undecodable == [
            Undecodable((namespace, "b"), bad.metadata.resource_version, "Expected `int`, got `str` - at `$.data[...]`")
        ]
        with pytest.raises(ApiError) as error:
            await client.list_all(CONFIG_MAP, namespace, strict)
        assert str(error.value) == f"ConfigMap {namespace}/b: Expected `int`, got `str` - at `$.data[...]`"

    async def test_one_object_that_is_too_deep_does_not_hide_the_others(
        self, proxy: Proxy, config: ClientConfig
    ) -> None:
        deep = b"[" * 100_000 + b"]" * 100_000
        proxy.answers = [
            reply(
                "200 OK",
                b'{"metadata":{"resourceVersion":"9"},"items":[{"metadata":{"name":"a"}},'
                b'{"spec":%b,"metadata":{"name":"b","resourceVersion":"7"}}]}' % deep,
            )
        ]
        proxy.on_request = lambda chunk: None

        async with Client(through(proxy, config)) as client:
            [page] = [page async for page in client.pages(CONFIG_MAP, "apps", CONFIG_MAPS)]

        assert [item.metadata.name for item in page.items] == ["a"]
        assert page.undecodable == [Undecodable(("", "b"), "7", "nested too deeply")]
        assert page.version == "9"


class TestWhoWeAre:
    async def test_a_client_certificate(self, control_plane: ControlPlane) -> None:
        path = control_plane.user("jane", "dev")

        async with Client(load_config({"KUBECONFIG": str(path)})) as client:
            user = await who_am_i(client)

        assert (user["username"], user["groups"]) == ("jane", ["dev", "system:authenticated"])

    async def test_acting_as_somebody_else(self, control_plane: ControlPlane) -> None:
        acting_as = Impersonation("joe", ("dev", "ops"), "7", {"example.test/Scope": ("a b", "c")})
        config = load_config({"KUBECONFIG": str(control_plane.kubeconfig)}, acting_as=acting_as)

        async with Client(config) as client:
            user = await who_am_i(client)

        assert user == {
            "username": "joe",
            "uid": "7",
            "groups": ["dev", "ops", "system:authenticated"],
            "extra": {"example.test/scope": ["a b", "c"]},
        }

    @pytest.mark.parametrize("version", ["v1", "v1beta1"])
    @pytest.mark.parametrize("what", ["token", "certificate"])
    async def test_a_plugin(self, what: str, version: str, control_plane: ControlPlane, tmp_path: Path) -> None:
        path = plugin_config(control_plane, tmp_path, what, f"client.authentication.k8s.io/{version}")

        async with Client(load_config({"KUBECONFIG": str(path)})) as client:
            user = await who_am_i(client)

        assert user["username"] == ("admin" if what == "token" else "plugged")

    async def test_a_token_that_was_rotated_costs_one_refusal(self, config: ClientConfig, tmp_path: Path) -> None:
        assert config.token
        path = tmp_path / "token"
        path.write_text("old")
        codes: list[str] = []
        rotating = ClientConfig(config.server, ca=config.ca, token=Blob("token", path))
        async with Client(rotating, observe=lambda code, method, host: codes.append(code)) as client:
            with pytest.raises(Refused) as error:
                await who_am_i(client)
            assert (error.value.status, codes) == (401, ["401"])

            path.write_bytes(config.token.read())
            assert (await who_am_i(client))["username"] == "admin"
            assert (await who_am_i(client))["username"] == "admin"

        assert codes == ["401", "401", "201", "201"]

    async def test_many_refused_at_once_fetch_one_new_token(self, config: ClientConfig, tmp_path: Path) -> None:
        assert config.token
        path = tmp_path / "token"
        path.write_text("old")
        rotating = ClientConfig(config.server, ca=config.ca, token=Blob("token", path))
        async with Client(rotating) as client:
            with pytest.raises(Refused):
                await who_am_i(client)
            path.write_bytes(config.token.read())

            users = await asyncio.gather(*(who_am_i(client) for _ in range(20)))

        assert {user["username"] for user in users} == {"admin"}


class TestTls:
    async def test_a_name_that_is_not_the_address(self, config: ClientConfig) -> None:
        async with Client(replace(config, server_name="api.test")) as client:
            assert await who_am_i(client)

        async with Client(replace(config, server_name="other.test")) as client:
            with pytest.raises(Unreachable) as error:
                await who_am_i(client)
        assert str(error.value) == (
            f"{config.server}: its certificate is not trusted"
            " (Hostname mismatch, certificate is not valid for 'other.test'.)"
        )

    async def test_an_unknown_authority(self, config: ClientConfig) -> None:
        async with Client(replace(config, ca=None)) as client:
            with pytest.raises(Unreachable) as error:
                await who_am_i(client)

        assert str(error.value) == (
            f"{config.server}: its certificate is not trusted (unable to get local issuer certificate)"
        )

    async def test_trusting_anybody(self, config: ClientConfig) -> None:
        async with Client(replace(config, ca=None, insecure=True)) as client:
            assert await who_am_i(client)

    async def test_an_authority_that_was_rotated_costs_no_failure(
        self, config: ClientConfig, control_plane: ControlPlane, tmp_path: Path
    ) -> None:
        authority = Authority(tmp_path)
        config = replace(config, ca=Blob("ca", authority.certificate))
        codes: list[str] = []
        async with Client(config, observe=lambda code, method, host: codes.append(code)) as client:
            with pytest.raises(Unreachable):
                await who_am_i(client)

            shutil.copy(control_plane.directory / "ca.crt", authority.certificate)
            assert await who_am_i(client)

        assert codes == ["<error>", "<error>", "201"]

    async def test_through_an_http_proxy(self, config: ClientConfig) -> None:
        async with tunnel() as (url, asked):
            async with Client(replace(config, proxy=url)) as client:
                assert await who_am_i(client)

        assert asked == [config.server.removeprefix("https://")]


BUSY = reply("429 Too Many Requests", b"", "Retry-After: 3")


class TestFaults:
    async def test_a_busy_server_is_left_alone_by_all_until_it_said(
        self, proxy: Proxy, config: ClientConfig, namespace: str
    ) -> None:
        clock = HandClock()
        free_at = clock.seconds + 30
        early: list[float] = []
        told = clock.seconds

        def answer(chunk: bytes) -> bytes | None:
            nonlocal told
            if clock.seconds < told:
                early.append(clock.seconds)
            if clock.seconds >= free_at:
                return chunk
            told = clock.seconds + 3
            proxy.answers.append(BUSY)
            return None

        async with Client(through(proxy, config), width=4, clock=clock) as client:
            proxy.on_request = answer
            results = await asyncio.gather(
                *(client.list_all(CONFIG_MAP, namespace, CONFIG_MAPS) for _ in range(20)), return_exceptions=True
            )

        # The first four were under way together; from then on one asks at a time, every 3 seconds.
        assert [seconds for seconds in early if seconds > 1000] == []
        assert len(proxy.requests) <= 1.2 * (20 + 4 + 10)
        assert any(result == [] for result in results)

    async def test_a_busy_server_is_asked_again(self, proxy: Proxy, config: ClientConfig) -> None:
        clock = HandClock()
        proxy.answers = [BUSY, BUSY]
        proxy.on_request = lambda chunk: None if proxy.answers else chunk

        async with Client(through(proxy, config), clock=clock) as client:
            assert await who_am_i(client)  # even what may not be repeated: the server did not take it

        assert clock.slept == [3, 3]

    async def test_a_server_that_stays_busy_is_an_error(self, proxy: Proxy, config: ClientConfig) -> None:
        clock = HandClock()
        proxy.answers = [BUSY] * 10
        proxy.on_request = lambda chunk: None

        async with Client(through(proxy, config), clock=clock) as client:
            with pytest.raises(Refused) as error:
                await who_am_i(client)

        assert (error.value.status, error.value.retry_after) == (429, 3)
        assert str(error.value) == ("POST /apis/authentication.k8s.io/v1/selfsubjectreviews: the server answered 429")
        assert clock.slept == [3] * 5

    async def test_nobody_waits_for_hours(self, proxy: Proxy, config: ClientConfig) -> None:
        clock = HandClock()
        proxy.answers = [reply("503 Service Unavailable", b"", "Retry-After: 7200")]
        proxy.on_request = lambda chunk: None if proxy.answers else chunk

        async with Client(through(proxy, config), clock=clock) as client:
            with pytest.raises(Refused):
                await who_am_i(client)
            with pytest.raises(Refused) as error:
                await who_am_i(client)
            assert str(error.value) == "the API server asks to wait for 7200 s"
            assert len(proxy.requests) == 1
            clock.seconds += 7200 - PATIENCE
            assert await who_am_i(client)

    async def test_a_connection_that_is_cut_is_no_failure_of_what_may_be_repeated(
        self, proxy: Proxy, config: ClientConfig, namespace: str, client: Client
    ) -> None:
        await client.create(CONFIG_MAP, namespace, config_map("a"), ANY)
        cuts = 2

        def answer(chunk: bytes) -> bytes | None:
            nonlocal cuts
            cuts -= 1
            return chunk if cuts < 0 else None

        proxy.on_answer = answer
        clock = HandClock()
        async with Client(through(proxy, config), clock=clock) as client:
            await client.patch(CONFIG_MAP, namespace, "a", {"data": {"x": "1"}}, ANY, how=Patch.MERGE)

        assert [len(proxy.requests), cuts] == [3, -1]

    async def test_what_may_not_be_repeated_is_not(self, proxy: Proxy, config: ClientConfig, namespace: str) -> None:
        proxy.on_answer = lambda chunk: None
        async with Client(through(proxy, config), clock=HandClock()) as client:
            with pytest.raises(Unreachable) as error:
                await client.create(CONFIG_MAP, namespace, config_map("a"), ANY)

        assert str(error.value) == f"{proxy.url}: connection cut off"
        assert len(proxy.requests) == 1

    async def test_an_answer_that_is_cut_is_no_answer(
        self, proxy: Proxy, config: ClientConfig, namespace: str, client: Client
    ) -> None:
        await client.create(CONFIG_MAP, namespace, config_map("a", x="y" * 10_000), ANY)
        cut = False

        def answer(chunk: bytes) -> bytes | None:
            nonlocal cut
            if cut or proxy.requests[1:]:
                return chunk
            cut = True
            asyncio.get_running_loop().call_soon(proxy.cut)
            return chunk[:-5000]

        proxy.on_answer = answer
        async with Client(through(proxy, config), clock=HandClock()) as client:
            found = await client.get(CONFIG_MAP, namespace, "a", CONFIG_MAPS)

        assert found.data == {"x": "y" * 10_000}
        assert len(proxy.requests) == 2

    async def test_a_server_that_does_not_answer(self, proxy: Proxy, config: ClientConfig) -> None:
        proxy.hang()
        codes: list[str] = []
        observe = lambda code, method, host: codes.append(f"{code} {method} {host}")  # noqa: E731  named for its use
        async with Client(through(proxy, config), timeout=0.05, observe=observe) as client:
            with pytest.raises(Unreachable) as error:
                await who_am_i(client)

        assert str(error.value) == f"{proxy.url}: no answer in time"
        assert codes == [f"<error> POST 127.0.0.1:{proxy.port}"]

    async def test_nobody_listens(self, proxy: Proxy, config: ClientConfig) -> None:
        await proxy.refuse()
        clock = HandClock()
        async with Client(through(proxy, config), clock=clock) as client:
            with pytest.raises(Unreachable) as error:
                await client.list_all(CONFIG_MAP, "", CONFIG_MAPS)

        assert str(error.value) == f"{proxy.url}: connection refused"
        assert len(clock.slept) == 3

    async def test_a_server_that_is_unwell(self, proxy: Proxy, config: ClientConfig) -> None:
        proxy.answers = [reply("500 Oops", b"<html>planted</html>")]
        proxy.on_request = lambda chunk: None
        async with Client(through(proxy, config)) as client:
            with pytest.raises(Refused) as error:
                await client.list_all(CONFIG_MAP, "", CONFIG_MAPS)

        assert (error.value.status, str(error.value)) == (500, "GET /api/v1/configmaps: the server answered 500")

    async def test_credentials_do_not_follow_redirects(self, proxy: Proxy, config: ClientConfig) -> None:
        proxy.answers = [reply("307 Temporary Redirect", b"", f"Location: {proxy.url}/elsewhere")]
        proxy.on_request = lambda chunk: None if proxy.answers else chunk
        async with Client(through(proxy, config)) as client:
            with pytest.raises(Refused) as error:
                await client.list_all(CONFIG_MAP, "", CONFIG_MAPS)

        assert error.value.status == 307
        assert len(proxy.requests) == 1

    async def test_an_endless_answer(self, proxy: Proxy, config: ClientConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sluice.kube.client.MAX_REPLY", 1000)
        proxy.answers = [reply("200 OK", b"x" * 2000)]
        proxy.on_request = lambda chunk: None
        async with Client(through(proxy, config), max_reply=1000) as client:
            with pytest.raises(ApiError) as error:
                await client.list_all(CONFIG_MAP, "", CONFIG_MAPS)

        assert str(error.value) == "GET /api/v1/configmaps: the answer has more than 1000 bytes"

    async def test_connections_are_used_again(self, proxy: Proxy, config: ClientConfig) -> None:
        async with Client(through(proxy, config)) as client:
            for _ in range(5):
                await who_am_i(client)

        assert proxy.accepted == 1

    async def test_so_many_at_once_and_no_more(self, proxy: Proxy, config: ClientConfig) -> None:
        async with Client(through(proxy, config), width=3) as client:
            await asyncio.gather(*(who_am_i(client) for _ in range(30)))

        assert len(proxy.requests) == 30
        assert proxy.accepted <= 3
