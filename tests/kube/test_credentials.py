"""Who we are: files that are rotated, plugins that answer or do not."""

import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.envtest.pki import Authority
from tests.kube.faults import HandClock

from sluice.kube.config import Blob, ClientConfig, ConfigError, ExecPlugin
from sluice.kube.credentials import Credentials

VERSION = "client.authentication.k8s.io/v1"

PLUGIN = """\
import json, os, pathlib, sys
print("planted secret", file=sys.stderr)
here = pathlib.Path(__file__).parent
calls = here / "calls"
calls.write_text(calls.read_text() + os.environ["KUBERNETES_EXEC_INFO"] + "\\n" if calls.exists() else
                 os.environ["KUBERNETES_EXEC_INFO"] + "\\n")
print((here / "answer").read_text())
sys.exit(int(sys.argv[1]))
"""


class Plugin:
    """A plugin that gives whatever answer is set, and remembers what it was asked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "plugin.py").write_text(PLUGIN)

    def answers(self, status: Mapping[str, Any], version: str = VERSION) -> None:
        self.prints(json.dumps({"apiVersion": version, "kind": "ExecCredential", "status": status}))

    def prints(self, text: str) -> None:
        (self.directory / "answer").write_text(text)

    @property
    def asked(self) -> list[Any]:
        calls = self.directory / "calls"
        return [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []

    def config(self, *, code: int = 0, **changes: Any) -> ClientConfig:
        settings: dict[str, Any] = {
            "where": "users[x].user.exec",
            "command": sys.executable,
            "args": [str(self.directory / "plugin.py"), str(code)],
            "env": {},
            "api_version": VERSION,
            "mode": "Never",
            **changes,
        }
        return ClientConfig("http://api.test", exec=ExecPlugin(**settings))


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    return Plugin(tmp_path)


class TestTokens:
    def test_a_file_is_read_again_after_a_minute(self, tmp_path: Path) -> None:
        path = tmp_path / "token"
        path.write_text("first\n")
        clock = HandClock()
        credentials = Credentials(ClientConfig("http://api.test", token=Blob("t", path)), clock=clock)

        assert credentials.current() is None
        assert credentials.fetch().authorization == "Bearer first"
        path.write_text("second\n")
        clock.seconds += 59
        assert credentials.fetch().authorization == "Bearer first"
        clock.seconds += 1
        assert credentials.current() is None
        assert credentials.fetch().authorization == "Bearer second"

    def test_a_file_is_read_again_when_its_token_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "token"
        path.write_text("first")
        credentials = Credentials(ClientConfig("http://api.test", token=Blob("t", path)))
        first = credentials.fetch()
        path.write_text("second")

        second = credentials.fetch(first)

        assert second.authorization == "Bearer second"
        assert credentials.fetch(first) is second  # who was refused with the old one gets the new one

    def test_a_refused_token_that_has_not_changed_stays_the_same(self) -> None:
        credentials = Credentials(ClientConfig("http://api.test", token=Blob("t", data=b"token")))
        first = credentials.fetch()

        assert credentials.fetch(first) is first

    def test_a_file_that_is_gone_for_a_moment_does_no_harm(self, tmp_path: Path) -> None:
        path = tmp_path / "token"
        path.write_text("token")
        clock = HandClock()
        credentials = Credentials(ClientConfig("http://api.test", token=Blob("t", path)), clock=clock)
        credentials.fetch()
        path.unlink()
        clock.seconds += 60

        assert credentials.fetch().authorization == "Bearer token"

    @pytest.mark.parametrize("content", ["", "two words", "töken", "a\nHeader: b"])
    def test_a_file_that_holds_no_token(self, content: str, tmp_path: Path) -> None:
        path = tmp_path / "token"
        path.write_text(content)

        with pytest.raises(ConfigError) as error:
            Credentials(ClientConfig("http://api.test", token=Blob("users[x].user.tokenFile", path))).fetch()

        assert str(error.value) == "users[x].user.tokenFile: not a token"

    def test_a_name_and_a_password(self) -> None:
        grant = Credentials(ClientConfig("http://api.test", basic=("me", "pässword"))).fetch()

        assert grant.authorization == "Basic bWU6cMOkc3N3b3Jk"

    def test_grants_do_not_represent_secrets(self) -> None:
        grant = Credentials(ClientConfig("http://api.test", token=Blob("t", data=b"planted"))).fetch()

        assert "planted" not in repr(grant)


class TestPlugins:
    @pytest.mark.parametrize("version", [VERSION, VERSION + "beta1"])
    def test_a_plugin_is_asked_and_its_answer_kept(self, version: str, plugin: Plugin) -> None:
        plugin.answers({"token": "issued"}, version)
        credentials = Credentials(plugin.config(api_version=version, cluster={"server": "https://api.test"}))

        assert credentials.fetch().authorization == "Bearer issued"
        assert credentials.fetch().authorization == "Bearer issued"
        assert plugin.asked == [
            {
                "apiVersion": version,
                "kind": "ExecCredential",
                "spec": {"interactive": False, "cluster": {"server": "https://api.test"}},
            }
        ]

    def test_an_answer_lasts_until_it_says(self, plugin: Plugin) -> None:
        clock = HandClock()
        expires = clock.now() + timedelta(minutes=5)
        plugin.answers({"token": "first", "expirationTimestamp": expires.astimezone(UTC).isoformat()})
        credentials = Credentials(plugin.config(), clock=clock)
        credentials.fetch()
        plugin.answers({"token": "second", "expirationTimestamp": datetime.max.replace(tzinfo=UTC).isoformat()})

        clock.seconds += 299
        assert credentials.fetch().authorization == "Bearer first"
        clock.seconds += 1
        assert credentials.fetch().authorization == "Bearer second"
        assert len(plugin.asked) == 2

    def test_a_refused_answer_is_asked_for_again(self, plugin: Plugin) -> None:
        plugin.answers({"token": "first"})
        credentials = Credentials(plugin.config())
        first = credentials.fetch()
        plugin.answers({"token": "second"})

        assert credentials.fetch(first).authorization == "Bearer second"

    def test_a_plugin_that_fails_once_is_asked_again(self, plugin: Plugin) -> None:
        plugin.prints("nonsense")
        credentials = Credentials(plugin.config())
        with pytest.raises(ConfigError):
            credentials.fetch()
        plugin.answers({"token": "issued"})

        assert credentials.fetch().authorization == "Bearer issued"

    def test_a_configured_token_comes_before_the_plugin(self, plugin: Plugin) -> None:
        config = ClientConfig("http://api.test", token=Blob("t", data=b"mine"), exec=plugin.config().exec)

        assert Credentials(config).fetch().authorization == "Bearer mine"
        assert plugin.asked == []

    def test_a_plugin_may_ask_only_where_somebody_answers(self, plugin: Plugin) -> None:
        plugin.answers({"token": "issued"})

        Credentials(plugin.config(mode="IfAvailable"), terminal=True).fetch()
        Credentials(plugin.config(mode="Never"), terminal=True).fetch()
        Credentials(plugin.config(mode="IfAvailable")).fetch()

        assert [asked["spec"]["interactive"] for asked in plugin.asked] == [True, False, False]

    def test_one_that_needs_a_terminal(self, plugin: Plugin) -> None:
        with pytest.raises(ConfigError) as error:
            Credentials(plugin.config(mode="Always")).fetch()

        name = Path(sys.executable).name
        assert str(error.value) == f"users[x].user.exec: '{name}' needs a terminal"
        assert plugin.asked == []

    def test_one_that_is_not_installed(self, plugin: Plugin) -> None:
        config = plugin.config(command="no-such-login", hint="Install it\nfrom the portal")

        with pytest.raises(ConfigError) as error:
            Credentials(config).fetch()

        assert str(error.value) == (
            "users[x].user.exec: there is no program 'no-such-login' (Install it from the portal)"
        )

    @pytest.mark.parametrize(
        ("answer", "code", "message"),
        [
            pytest.param("{}", 3, "failed with exit code 3 (run it to see why)", id="it fails"),
            pytest.param("planted", 0, "answered something that is no ExecCredential", id="no JSON"),
            pytest.param("[" * 100_000, 0, "answered something that is no ExecCredential", id="deep JSON"),
            pytest.param('{"kind": "Secret"}', 0, "answered something that is no ExecCredential", id="another kind"),
            pytest.param(
                '{"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1beta1"}',
                0,
                f"answered in another version than it was asked in ({VERSION})",
                id="another version",
            ),
            pytest.param(
                f'{{"kind": "ExecCredential", "apiVersion": "{VERSION}", "status": {{}}}}',
                0,
                "answered with neither a token nor a certificate",
                id="nothing",
            ),
            pytest.param(
                f'{{"kind": "ExecCredential", "apiVersion": "{VERSION}", "status": {{"clientKeyData": "planted"}}}}',
                0,
                "answered half of a certificate and its key",
                id="a key alone",
            ),
        ],
    )
    def test_what_it_printed_is_not_repeated(
        self, answer: str, code: int, message: str, plugin: Plugin, capfd: pytest.CaptureFixture[str]
    ) -> None:
        plugin.prints(answer)

        with pytest.raises(ConfigError) as error:
            Credentials(plugin.config(code=code)).fetch()

        assert str(error.value) == f"users[x].user.exec: '{Path(sys.executable).name}' {message}"
        assert "planted" not in "".join(capfd.readouterr())


class TestCertificates:
    def test_the_same_files_keep_the_same_context(self, tmp_path: Path) -> None:
        authority = Authority(tmp_path)
        pair = authority.issue("me")
        clock = HandClock()
        config = ClientConfig(
            "https://api.test",
            ca=Blob("ca", authority.certificate),
            certificate=Blob("cert", pair.certificate),
            key=Blob("key", pair.key),
        )
        credentials = Credentials(config, clock=clock)
        first = credentials.fetch()
        clock.seconds += 60

        assert credentials.current() is None
        assert credentials.fetch() is first  # connections stay in use

        authority.issue("me")
        clock.seconds += 60
        assert credentials.fetch().tls is not first.tls

    def test_inline_keys_leave_no_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pair = Authority(tmp_path).issue("me")
        empty = tmp_path / "tmp"
        empty.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(empty))
        config = ClientConfig(
            "https://api.test",
            certificate=Blob("cert", data=pair.certificate.read_bytes()),
            key=Blob("key", data=pair.key.read_bytes()),
        )

        assert Credentials(config).fetch().tls
        assert list(empty.iterdir()) == []

    @pytest.mark.parametrize(
        ("ca", "certificate", "key", "message"),
        [
            pytest.param(b"planted", b"", b"", "ca: not a list of certificates in PEM format", id="no authority"),
            pytest.param(
                b"", b"planted", b"planted", "cert: not a certificate in PEM format with its key", id="no certificate"
            ),
            pytest.param(
                b"", b"mine", b"locked", "key: encrypted with a passphrase (store it without one)", id="a locked key"
            ),
        ],
    )
    def test_what_is_no_certificate(
        self, ca: bytes, certificate: bytes, key: bytes, message: str, tmp_path: Path
    ) -> None:
        if certificate == b"mine":
            pair = Authority(tmp_path).issue("me")
            lock = ["openssl", "pkcs8", "-topk8", "-v2", "aes-256-cbc", "-passout", "pass:x", "-in", str(pair.key)]
            certificate, key = (
                pair.certificate.read_bytes(),
                subprocess.run(lock, check=True, capture_output=True).stdout,
            )
        config = ClientConfig(
            "https://api.test",
            ca=Blob("ca", data=ca) if ca else None,
            certificate=Blob("cert", data=certificate) if certificate else None,
            key=Blob("key", data=key) if key else None,
        )

        with pytest.raises(ConfigError) as error:
            Credentials(config).fetch()

        assert str(error.value) == message
