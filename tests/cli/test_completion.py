"""What shells, and flux, are offered while somebody types."""

import os
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from tests.cli.clusters import Front, kubeconfig
from tests.cli.running import environment

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def ask(front: Front | None, *words: str, protocol: str = "__complete", **variables: str) -> list[str]:
    """The lines that flux reads when it asks what may follow some words; the last word is being typed."""
    settings = front.environment(**variables) if front else environment(**variables)
    command = [sys.executable, "-m", "sluice", protocol, *words]
    ran = subprocess.run(
        command, env=settings, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True, text=True
    )
    assert ran.stderr == ""
    return ran.stdout.splitlines()


def in_bash(front: Front, *words: str) -> list[str]:
    """What the script for bash is told, for words of which the last is being typed."""
    line = " ".join(("sluice", *words))
    settings = front.environment(_SLUICE_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words)))
    command = [sys.executable, "-m", "sluice"]
    ran = subprocess.run(
        command, env=settings, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True, text=True
    )
    assert ran.stderr == ""
    return ran.stdout.split()


@pytest.fixture
def shop(front: Front) -> Front:
    front.add_generator("shop")
    front.add_generator("ship", "api")
    front.reconciled("ship", artifacts=("api",))
    front.add_artifact("web", {"a": b"1"})
    return front


class TestWords:
    """What needs no cluster."""

    def test_verbs_with_what_they_do(self) -> None:
        assert ask(None, "re") == [
            "reconcile\tReconcile generators now, and wait for it.",
            "resume\tLet generators be reconciled again.",
            ":4",
        ]

    def test_without_descriptions(self) -> None:
        assert ask(None, "re", protocol="__completeNoDesc") == ["reconcile", "resume", ":4"]

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            pytest.param(["get", "so"], ["sources", "source", ":4"], id="types"),
            pytest.param(["get", "generators", "-o", "j"], ["json", ":4"], id="values of an option"),
            pytest.param(["completion", ""], ["bash", "zsh", "fish", ":4"], id="an empty word"),
            pytest.param(["pull", "-o", "x"], [":0"], id="files, by the shell"),
            pytest.param(["nonsense", "x"], [":4"], id="a verb that is none"),
        ],
    )
    def test_offers(self, words: list[str], expected: list[str]) -> None:
        assert ask(None, *words, protocol="__completeNoDesc") == expected

    def test_options_with_their_help(self) -> None:
        assert "--with-source\tReconcile what they read first." in ask(None, "reconcile", "--w")

    def test_no_cluster_is_no_offer(self, tmp_path: Path) -> None:
        assert ask(None, "get", "generators", "", KUBECONFIG=str(tmp_path / "none"), HOME=str(tmp_path)) == [":4"]

    def test_flux_finds_us(self) -> None:
        scripts = tomllib.loads(PROJECT.read_text())["project"]["scripts"]

        assert scripts == {"sluice": "sluice.cli:main", "flux-sluice": "sluice.cli:main"}


@pytest.mark.cluster
class TestNames:
    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            pytest.param(["get", "generators", ""], ["ship", "shop"], id="all"),
            pytest.param(["get", "generators", "sho"], ["shop"], id="that begin so"),
            pytest.param(["get", "generators", "shop", "s"], ["ship"], id="that are not there yet"),
            pytest.param(["get", "artifacts", ""], ["web"], id="of another type"),
            pytest.param(["get", "all", ""], ["ship", "shop", "web"], id="of all types"),
            pytest.param(["suspend", ""], ["generator", "ship", "shop"], id="after the word that may be left out"),
            pytest.param(["suspend", "generator", ""], ["ship", "shop"], id="after that word"),
            pytest.param(["wait", "artifact", ""], ["web"], id="of what is waited for"),
            pytest.param(["wait", "a"], ["artifact"], id="types to wait for"),
            pytest.param(["cat", "artifact", ""], ["web"], id="of artifacts"),
        ],
    )
    def test_they_are_those_of_the_cluster(self, shop: Front, words: list[str], expected: list[str]) -> None:
        verb, *rest = words

        assert in_bash(shop, verb, "-n", shop.namespace, *rest) == [f"plain,{name}" for name in expected]

    def test_another_namespace_may_be_named_on_the_way(self, shop: Front) -> None:
        home = shop.namespace

        assert ask(shop, "get", "generators", f"{home}/sh", protocol="__completeNoDesc") == [
            f"{home}/ship",
            f"{home}/shop",
            ":4",
        ]

    def test_how_they_are_is_the_description(self, shop: Front) -> None:
        message = "web build failed:\n\x1b[2Jnothing matches " + "x" * 100
        shop.set_status(
            "ArtifactGenerator",
            "shop",
            conditions=[{**shop.generator("shop")["status"]["conditions"][0], "status": "False", "message": message}],
        )

        [line] = ask(shop, "get", "generators", "-n", shop.namespace, "sho")[:-1]
        shown = r"web build failed:\n\x1b[2Jnothing matches " + "x" * 100
        assert line == f"shop\t{shown[:59]}…"

    def test_namespaces_and_contexts(self, shop: Front, tmp_path: Path) -> None:
        config = yaml.safe_load(shop.plane.kubeconfig.read_text())["contexts"]
        named = [{**config[0], "name": "one"}, {**config[0], "name": "other"}, *config]
        path = kubeconfig(shop.plane, tmp_path / "config", {"top": {"contexts": named}})

        assert ask(shop, "get", "all", "-n", shop.namespace[:8], protocol="__completeNoDesc") == [shop.namespace, ":4"]
        assert ask(shop, "get", "all", "--context", "o", KUBECONFIG=str(path)) == ["one", "other", ":4"]
        assert ask(shop, "get", "all", "--kubeconfig", str(path), "--context", "ot") == ["other", ":4"]

    @pytest.mark.parametrize("user", ["nobody", "a plugin that takes its time", "a plugin that fails"])
    def test_nobody_is_bothered(self, shop: Front, tmp_path: Path, user: str) -> None:
        script = {"a plugin that takes its time": "sleep 60", "a plugin that fails": "echo no >&2; exit 1"}.get(user)
        if script is None:
            path = shop.plane.user("nobody-to-ask")
        else:
            login = tmp_path / "login"
            login.write_text(f"#!/bin/sh\n{script}\n")
            login.chmod(0o755)
            plugin = {"command": str(login), "apiVersion": "client.authentication.k8s.io/v1"}
            path = kubeconfig(
                shop.plane, tmp_path / "config", {"user": {"exec": {**plugin, "interactiveMode": "IfAvailable"}}}
            )

        assert ask(shop, "get", "generators", "-n", shop.namespace, "", KUBECONFIG=str(path)) == [":4"]

    def test_a_server_that_says_nothing(self, shop: Front, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            server = f"https://127.0.0.1:{silent.getsockname()[1]}"
            path = kubeconfig(shop.plane, tmp_path / "config", {"cluster": {"server": server}})

            assert ask(shop, "get", "generators", "", KUBECONFIG=str(path)) == [":4"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell(shell: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sluice", "completion", shell]
    ran = subprocess.run(command, env=environment(), capture_output=True, check=True, text=True)

    assert f"_SLUICE_COMPLETE={shell}_complete" in ran.stdout
    assert ran.stderr == ""
    if program := shutil.which(shell):
        script = tmp_path / "script"
        script.write_text(ran.stdout)
        subprocess.run([program, "-n", str(script)], check=True, env={"PATH": os.environ["PATH"]})


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes(tmp_path: Path) -> None:
    program = tmp_path / "sluice"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m sluice "$@"\n')
    program.chmod(0o755)
    typed = """
        source <(sluice completion bash)
        COMP_WORDS=(sluice re) COMP_CWORD=1
        _sluice_completion sluice
        echo "${COMPREPLY[@]}"
    """

    settings = environment(PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    ran = subprocess.run(["bash", "-c", typed], env=settings, capture_output=True, check=True, text=True)

    assert (ran.stdout, ran.stderr) == ("reconcile resume\n", "")
