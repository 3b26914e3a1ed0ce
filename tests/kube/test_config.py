"""Which cluster is chosen, and what a kubeconfig may say."""

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluice.kube.config import Blob, ConfigError, Impersonation, load_config, service_account_namespace
from sluice.kube.proxy import proxy_for

CERTIFICATE = "-----BEGIN CERTIFICATE-----"
ENCODED = base64.b64encode(CERTIFICATE.encode()).decode()


def kubeconfig(path: Path, *, cluster: Any = None, user: Any = None, context: Any = None, name: str = "main") -> Path:
    """A kubeconfig with one of each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": name, "cluster": {"server": "https://api.test:6443/", **(cluster or {})}}],
                "users": [{"name": name, "user": user or {}}],
                "contexts": [{"name": name, "context": {"cluster": name, "user": name, **(context or {})}}],
                "current-context": name,
            }
        )
    )
    return path


@pytest.fixture
def account(tmp_path: Path) -> Path:
    """A pod's service account."""
    directory = tmp_path / "account"
    directory.mkdir()
    (directory / "token").write_text("pod-token")
    (directory / "ca.crt").write_text(CERTIFICATE)
    (directory / "namespace").write_text("flux-system\n")
    return directory


POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}


class TestWhichCluster:
    def test_a_pod_uses_its_service_account(self, account: Path) -> None:
        config = load_config(POD, service_account=account)

        assert (config.server, config.namespace) == ("https://10.0.0.1:443", "flux-system")
        assert config.ca
        assert config.ca.read() == CERTIFICATE.encode()
        assert config.token
        assert config.token.read() == b"pod-token"

    def test_an_address_of_version_6_gets_brackets(self, account: Path) -> None:
        assert load_config({**POD, "KUBERNETES_SERVICE_HOST": "fd00::1"}, service_account=account).server == (
            "https://[fd00::1]:443"
        )

    def test_the_variable_comes_before_the_service_account(self, account: Path, tmp_path: Path) -> None:
        path = kubeconfig(tmp_path / "config")

        assert load_config({**POD, "KUBECONFIG": str(path)}, service_account=account).server == "https://api.test:6443"

    def test_naming_a_context_asks_for_a_kubeconfig(self, account: Path, tmp_path: Path) -> None:
        kubeconfig(tmp_path / ".kube" / "config")
        environ = {**POD, "HOME": str(tmp_path)}

        assert load_config(environ, context="main", service_account=account).server == "https://api.test:6443"

    def test_the_home_directory_comes_last(self, tmp_path: Path) -> None:
        kubeconfig(tmp_path / ".kube" / "config")

        assert load_config({"HOME": str(tmp_path)}).server == "https://api.test:6443"

    def test_a_path_comes_first(self, tmp_path: Path) -> None:
        first = kubeconfig(tmp_path / "first", cluster={"server": "https://first.test"})
        second = kubeconfig(tmp_path / "second")

        assert load_config({"KUBECONFIG": str(second)}, path=first).server == "https://first.test"

    def test_nothing_is_configured(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as error:
            load_config({"HOME": str(tmp_path)})

        assert str(error.value) == (
            f"no cluster is configured (KUBECONFIG is not set, '{tmp_path}/.kube/config' does not exist)"
        )

    def test_outside_of_a_pod_there_is_no_namespace(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as error:
            service_account_namespace(tmp_path)

        assert str(error.value) == f"service account: cannot read '{tmp_path}/namespace': no such file or directory"


class TestSeveralFiles:
    def test_the_first_that_sets_something_wins(self, tmp_path: Path) -> None:
        first = kubeconfig(tmp_path / "a" / "config", cluster={"server": "https://first.test"}, name="one")
        second = kubeconfig(tmp_path / "b" / "config", cluster={"server": "https://second.test"}, name="one")
        third = kubeconfig(tmp_path / "c" / "config", cluster={"server": "https://third.test"}, name="two")
        environ = {"KUBECONFIG": f"{first}:{second}::{tmp_path / 'missing'}:{third}"}

        assert load_config(environ).server == "https://first.test"
        assert load_config(environ, context="two").server == "https://third.test"

    def test_paths_are_relative_to_the_file_that_names_them(self, tmp_path: Path) -> None:
        first = kubeconfig(tmp_path / "a" / "config", name="one")
        second = kubeconfig(tmp_path / "b" / "config", name="two", cluster={"certificate-authority": "pki/ca.crt"})

        config = load_config({"KUBECONFIG": f"{first}:{second}"}, context="two")

        assert config.ca
        assert config.ca.path == tmp_path / "b" / "pki" / "ca.crt"

    def test_one_of_them_must_exist(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as error:
            load_config({"KUBECONFIG": f"{tmp_path}/a:{tmp_path}/b"})

        assert str(error.value) == f"KUBECONFIG: none of its files exists: '{tmp_path}/a:{tmp_path}/b'"


class TestContents:
    def load(self, tmp_path: Path, **parts: Any) -> Any:
        return load_config({"KUBECONFIG": str(kubeconfig(tmp_path / "config", **parts))})

    def test_the_namespace_of_the_context(self, tmp_path: Path) -> None:
        assert self.load(tmp_path, context={"namespace": "apps"}).namespace == "apps"
        assert self.load(tmp_path).namespace == "default"

    def test_a_namespace_may_be_given(self, tmp_path: Path) -> None:
        path = kubeconfig(tmp_path / "config", context={"namespace": "apps"})

        assert load_config({"KUBECONFIG": str(path)}, namespace="other").namespace == "other"

    def test_inline_data_wins_over_files(self, tmp_path: Path) -> None:
        cluster = {"certificate-authority": "nowhere", "certificate-authority-data": ENCODED}

        assert self.load(tmp_path, cluster=cluster).ca.read() == CERTIFICATE.encode()

    def test_a_token_file_wins_over_a_token(self, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("from-the-file")

        assert self.load(tmp_path, user={"token": "inline", "tokenFile": "token"}).token.read() == b"from-the-file"
        assert self.load(tmp_path, user={"token": "inline"}).token.read() == b"inline"

    def test_how_to_reach_the_server(self, tmp_path: Path) -> None:
        cluster = {"tls-server-name": "api", "proxy-url": "http://proxy.test:3128", "insecure-skip-tls-verify": True}

        config = self.load(tmp_path, cluster=cluster)

        assert (config.server_name, config.proxy, config.insecure) == ("api", "http://proxy.test:3128", True)

    def test_acting_as_somebody_else(self, tmp_path: Path) -> None:
        user = {"as": "jane", "as-groups": ["dev"], "as-uid": "7", "as-user-extra": {"scope": ["view"]}}

        assert self.load(tmp_path, user=user).acting_as == Impersonation("jane", ("dev",), "7", {"scope": ("view",)})

    def test_who_to_act_as_may_be_given(self, tmp_path: Path) -> None:
        path = kubeconfig(tmp_path / "config", user={"as": "jane", "as-groups": ["dev"]})

        config = load_config({"KUBECONFIG": str(path)}, acting_as=Impersonation("joe"))

        assert config.acting_as == Impersonation("joe")

    def test_null_means_not_set(self, tmp_path: Path) -> None:
        assert self.load(tmp_path, user={"token": None, "exec": None}).token is None

    def test_json_is_yaml(self, tmp_path: Path) -> None:
        path = tmp_path / "config"
        path.write_text(
            '{"clusters": [{"name": "c", "cluster": {"server": "http://localhost:8080"}}], "users": null,'
            ' "contexts": [{"name": "x", "context": {"cluster": "c"}}], "current-context": "x"}'
        )

        assert load_config({"KUBECONFIG": str(path)}).server == "http://localhost:8080"

    def test_a_plugin(self, tmp_path: Path) -> None:
        plugin = {
            "apiVersion": "client.authentication.k8s.io/v1beta1",
            "command": "bin/login",
            "args": ["--flag"],
            "env": [{"name": "PROFILE", "value": "dev"}],
            "provideClusterInfo": True,
        }
        cluster = {
            "certificate-authority-data": ENCODED,
            "extensions": [{"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}],
        }
        path = kubeconfig(tmp_path / "config", cluster=cluster, user={"exec": plugin})

        found = load_config({"KUBECONFIG": str(path), "PATH": "/bin"}).exec

        assert found
        assert found.command == f"{tmp_path}/bin/login"
        assert found.args == ["--flag"]
        assert found.env == {"KUBECONFIG": str(path), "PATH": "/bin", "PROFILE": "dev"}
        assert found.mode == "IfAvailable"
        assert found.cluster == {
            "server": "https://api.test:6443/",
            "certificate-authority-data": ENCODED,
            "config": {"audience": "x"},
        }

    def test_secrets_are_not_represented(self, tmp_path: Path) -> None:
        plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": "x", "interactiveMode": "Never"}
        user = {
            "token": "planted",
            "exec": {**plugin, "args": ["planted"], "env": [{"name": "PASSWORD", "value": "planted"}]},
        }
        cluster = {"proxy-url": "http://me:planted@proxy.test"}

        assert "planted" not in repr(self.load(tmp_path, user=user, cluster=cluster))
        assert "planted" not in repr(self.load(tmp_path, user={"username": "me", "password": "planted"}))
        assert "planted" not in repr(Blob("key", data=b"planted"))


EXEC = {"apiVersion": "client.authentication.k8s.io/v1", "command": "login", "interactiveMode": "Never"}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        pytest.param(
            {"user": {"token": 12345}}, "users[0].user.token: expected str, got int", id="a number where text belongs"
        ),
        pytest.param(
            {"user": {"client-key-data": "!planted!", "client-certificate-data": ENCODED}},
            "users[main].user.client-key-data: not valid base64",
            id="data that is not base64",
        ),
        pytest.param(
            {"user": {"client-certificate-data": ENCODED}},
            "users[main].user.client-key: missing (a client certificate and its key come together)",
            id="a certificate without its key",
        ),
        pytest.param(
            {"user": {"token": "planted", "username": "me"}},
            "users[main].user.token: cannot be combined with username and password",
            id="two ways to say who",
        ),
        pytest.param(
            {"user": {"auth-provider": {"name": "gcp"}}},
            "users[main].user.auth-provider: not supported (use an exec plugin)",
            id="an old kind of plugin",
        ),
        pytest.param(
            {"user": {"exec": {**EXEC, "apiVersion": "client.authentication.k8s.io/v1alpha1"}}},
            "users[main].user.exec.apiVersion: 'client.authentication.k8s.io/v1alpha1' is not supported"
            " (client.authentication.k8s.io/v1 or client.authentication.k8s.io/v1beta1)",
            id="a version of plugins that is gone",
        ),
        pytest.param(
            {"user": {"exec": {**EXEC, "interactiveMode": None}}},
            "users[main].user.exec.interactiveMode: missing (Never, IfAvailable or Always)",
            id="v1 must say whether it asks questions",
        ),
        pytest.param(
            {"user": {"exec": {**EXEC, "interactiveMode": "planted"}}},
            "users[0].user.exec.interactiveMode: not one of the values that are allowed",
            id="an unknown mode",
        ),
        pytest.param(
            {"user": {"exec": {**EXEC, "command": ""}}}, "users[main].user.exec.command: missing", id="no command"
        ),
        pytest.param(
            {"cluster": {"server": "ftp://api.test"}},
            "clusters[main].cluster.server: 'ftp' is not a scheme to use here (http or https)",
            id="a server that is no web server",
        ),
        pytest.param(
            {"cluster": {"server": "https://me:planted@api.test"}},
            "clusters[main].cluster.server: must be a plain URL, without user, query or fragment",
            id="a password in the address",
        ),
        pytest.param(
            {"cluster": {"server": "https://api.test:planted"}},
            "clusters[main].cluster.server: not a valid URL",
            id="a port that is no number",
        ),
        pytest.param(
            {"cluster": {"proxy-url": "socks5://me:planted@proxy.test"}},
            "clusters[main].cluster.proxy-url: 'socks5' is not a scheme to use here (http or https)",
            id="a proxy of an unknown kind",
        ),
        pytest.param(
            {"cluster": {"insecure-skip-tls-verify": True, "certificate-authority-data": ENCODED}},
            "clusters[main].cluster.insecure-skip-tls-verify: cannot be combined with a certificate authority",
            id="trust nobody in particular and somebody",
        ),
        pytest.param(
            {"context": {"cluster": "other"}},
            "contexts[main].context.cluster: there is no cluster 'other'",
            id="an unknown cluster",
        ),
        pytest.param(
            {"context": {"user": "other"}},
            "contexts[main].context.user: there is no user 'other'",
            id="an unknown user",
        ),
    ],
)
def test_what_is_wrong_is_named(parts: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", **parts)

    with pytest.raises(ConfigError) as error:
        load_config({"KUBECONFIG": str(path)})

    assert str(error.value) == f"kubeconfig '{path}': {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "current-context: not set (contexts: none)", id="an empty file"),
        pytest.param("contexts: [{name: a}, {name: b}]", "current-context: not set (contexts: a, b)", id="no choice"),
        pytest.param("current-context: c", "there is no context 'c' (contexts: none)", id="an unknown context"),
        pytest.param("- a", "the file: expected object, got array", id="a list"),
        pytest.param("a: 1\n---\na: 1", "more than one document", id="two documents"),
    ],
)
def test_a_file_without_a_cluster(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(text)

    with pytest.raises(ConfigError) as error:
        load_config({"KUBECONFIG": str(path)})

    assert str(error.value) == f"kubeconfig '{path}': {message}"


def test_a_file_that_is_no_yaml_names_the_place(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text("users: [planted")

    with pytest.raises(ConfigError) as error:
        load_config({"KUBECONFIG": str(path)})

    assert str(error.value) == f"kubeconfig '{path}': line 2, column 1: did not find expected ',' or ']'"


def test_groups_need_a_user(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config")

    with pytest.raises(ConfigError) as error:
        load_config({"KUBECONFIG": str(path)}, acting_as=Impersonation(groups=("dev",)))

    assert str(error.value) == "impersonation: groups without a user to act as"


@pytest.mark.parametrize(
    ("environ", "url", "proxy"),
    [
        pytest.param({}, "https://api.test", "", id="none is set"),
        pytest.param({"HTTPS_PROXY": "http://p:1"}, "https://api.test", "http://p:1", id="upper case"),
        pytest.param({"https_proxy": "p:1"}, "https://api.test", "http://p:1", id="lower case, without a scheme"),
        pytest.param({"HTTP_PROXY": "http://p:1"}, "https://api.test", "", id="one for http alone"),
        pytest.param({"HTTPS_PROXY": "p"}, "https://127.0.0.1:6443", "", id="never for loopback"),
        pytest.param({"HTTPS_PROXY": "p"}, "https://localhost:6443", "", id="never for localhost"),
        pytest.param({"HTTPS_PROXY": "p", "NO_PROXY": "*"}, "https://api.test", "", id="none for all"),
        pytest.param({"HTTPS_PROXY": "p", "NO_PROXY": "x, api.test"}, "https://api.test", "", id="a host"),
        pytest.param({"HTTPS_PROXY": "p", "NO_PROXY": "test"}, "https://api.test", "", id="a domain"),
        pytest.param({"HTTPS_PROXY": "p", "NO_PROXY": ".test"}, "https://api.test", "", id="what is below a domain"),
        pytest.param({"HTTPS_PROXY": "p", "NO_PROXY": ".api.test"}, "https://api.test", "http://p", id="not itself"),
        pytest.param(
            {"HTTPS_PROXY": "p", "NO_PROXY": "pi.test"}, "https://api.test", "http://p", id="not a part of it"
        ),
        pytest.param({"HTTPS_PROXY": "p", "NO_PROXY": "10.0.0.0/8"}, "https://10.9.0.1:443", "", id="a network"),
        pytest.param({"HTTPS_PROXY": "p", "NO_PROXY": "10.0.0.1"}, "https://10.0.0.2", "http://p", id="other address"),
        pytest.param({"HTTPS_PROXY": "p", "NO_PROXY": ""}, "https://api.test", "http://p", id="an empty list"),
    ],
)
def test_the_proxy_of_the_environment(environ: dict[str, str], url: str, proxy: str) -> None:
    assert proxy_for(environ, url) == proxy


def test_the_proxy_of_the_kubeconfig_comes_first(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", cluster={"proxy-url": "http://mine.test"})

    assert load_config({"KUBECONFIG": str(path), "HTTPS_PROXY": "http://other.test"}).proxy == "http://mine.test"
