"""`sluice get`, as a process beside a real API server."""

import json
import re
import signal
from pathlib import Path

import pytest
import yaml
from tests.cli.clusters import SUCCESS, Front, condition, ready
from tests.cli.test_terminal import on_terminal
from tests.e2e.world import source

pytestmark = pytest.mark.cluster

COMMIT = "1eabc9a41ca088515cab83f1cce49eb43e84b67f"


@pytest.fixture
def shop(front: Front) -> Front:
    """Two generators, one of them in trouble, with what they read and publish."""
    front.publish({"a": b"1"}, revision=f"main@sha1:{COMMIT}")
    front.set_status("GitRepository", "repo", conditions=[ready(message="stored artifact for revision 'main'")])
    front.add_generator("shop", "web", labels={"team": "blue"})
    front.add_artifact("web", {"a": b"1"})
    front.add_generator("bank", annotations={"source.extensions.fluxcd.io/reconcile": "Disabled"})
    front.reconciled("bank", ready("False", "vault build failed: nothing matches", "BuildFailed"))
    return front


def test_generators_are_listed_as_flux_does(shop: Front) -> None:
    ran = shop.run("get", "generators")

    assert (ran.code, ran.words) == (0, "")
    assert ran.out == (
        "NAME   SUSPENDED   READY   MESSAGE\n"
        "bank   True        False   vault build failed: nothing matches\n"
        f"shop   False       True    {SUCCESS}\n"
    )


def test_artifacts_are_listed_with_their_generator(shop: Front) -> None:
    ran = shop.run("get", "artifacts")

    digest = shop.artifact("web")["revision"].partition(":")[2]
    header, row = ran.out.splitlines()
    assert header.split() == ["NAME", "REVISION", "SOURCE", "READY", "MESSAGE"]
    assert re.split(" {2,}", row) == [
        "web",
        f"latest@sha256:{digest[:8]}",
        f"ArtifactGenerator/{shop.namespace}/shop",
        "True",
        "Artifact is ready",
    ]


def test_sources_of_all_kinds_are_in_one_table(shop: Front) -> None:
    shop.create("Bucket", "files", {"bucketName": "b", "endpoint": "bucket.invalid", "interval": "1h", "suspend": True})

    assert shop.run("get", "sources").out == (
        "NAME                 REVISION             SUSPENDED   READY   MESSAGE\n"
        "bucket/files         -                    True        False   waiting to be reconciled\n"
        "gitrepository/repo   main@sha1:1eabc9a4   False       True    stored artifact for revision 'main'\n"
    )


def test_all_is_one_table_for_each_family(shop: Front) -> None:
    tables = shop.run("get", "all").out.split("\n\n")

    assert [[line.split()[0] for line in table.splitlines()] for table in tables] == [
        ["NAME", "artifactgenerator/bank", "artifactgenerator/shop"],
        ["NAME", "externalartifact/web"],
        ["NAME", "gitrepository/repo"],
    ]


def test_wide_shows_what_is_cut_otherwise(shop: Front) -> None:
    generators = shop.run("get", "generators", "-o", "wide").out.splitlines()
    sources = shop.run("get", "sources", "-o", "wide").out.splitlines()

    assert generators[0].split() == ["NAME", "SUSPENDED", "ARTIFACTS", "SOURCES", "AGE", "READY", "MESSAGE"]
    assert generators[2].split()[:4] == ["shop", "False", "1", "1"]
    assert f"main@sha1:{COMMIT}" in sources[1]
    assert shop.sources.url in sources[1]


def test_json_and_yaml_are_the_whole_objects(shop: Front) -> None:
    as_json = json.loads(shop.run("get", "generators", "-o", "json").out)
    as_yaml = yaml.safe_load(shop.run("get", "generators", "-o", "yaml").out)
    expected = [{**shop.generator(name)} for name in ("bank", "shop")]
    for each in expected:
        del each["metadata"]["managedFields"]

    assert as_json == {"apiVersion": "v1", "kind": "List", "items": expected}
    assert as_yaml == as_json


def test_one_object_by_name_is_not_a_list(shop: Front) -> None:
    assert json.loads(shop.run("get", "generator", "shop", "-o", "json").out)["metadata"]["name"] == "shop"


def test_names_are_what_other_verbs_take(shop: Front) -> None:
    names = shop.run("get", "generators", "-o", "name").out
    assert names == f"{shop.namespace}/bank\n{shop.namespace}/shop\n"

    assert shop.run("get", "sources", "-o", "name").out == f"GitRepository/{shop.namespace}/repo\n"
    assert shop.run("get", "generators", *names.split(), "-n", "elsewhere").out.splitlines()[1].startswith("bank")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        pytest.param(["-l", "team=blue"], ["shop"], id="by label"),
        pytest.param(["-l", "team!=blue"], ["bank"], id="without a label"),
        pytest.param(["--status-selector", "ready=false"], ["bank"], id="by status"),
        pytest.param(["--status-selector", "Ready=True"], ["shop"], id="in any case"),
        pytest.param(["--status-selector", "stalled=true"], [], id="by a condition that nobody has"),
        pytest.param(["shop", "shop"], ["shop"], id="a name twice"),
    ],
)
def test_a_selection(shop: Front, options: list[str], names: list[str]) -> None:
    ran = shop.run("get", "generators", *options, "--no-header")

    assert [line.split()[0] for line in ran.out.splitlines()] == names
    assert ran.words == (
        "" if names else f"⚠ no generators in this state in namespace '{shop.namespace}' (-A looks in all)\n"
    )


def test_all_namespaces(shop: Front) -> None:
    ran = shop.run("get", "generators", "-A")

    header, *rows = [line.split() for line in ran.out.splitlines()]
    assert header[:2] == ["NAMESPACE", "NAME"]
    assert [shop.namespace, "shop"] in [row[:2] for row in rows]


def test_the_namespace_where_none_is_named(shop: Front, tmp_path: Path) -> None:
    config = yaml.safe_load(shop.plane.kubeconfig.read_text())
    config["contexts"].append(
        {"name": "other", "context": {**config["contexts"][0]["context"], "namespace": shop.namespace}}
    )
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config))
    run = ("get", "generators", "--no-header", "--kubeconfig", str(path))

    def names(*arguments: str, **variables: str) -> list[str]:
        # `-n ""` is what `run` would else fill in.
        return [line.split()[0] for line in shop.run(*run, *arguments, "-n", "", **variables).out.splitlines()]

    assert names(FLUX_SYSTEM_NAMESPACE=shop.namespace) == ["bank", "shop"]
    assert names("--context", "other", "--ns-follows-kube-context") == ["bank", "shop"]
    assert names("--context", "other") == []
    assert shop.run(*run, "-n", "").words == "⚠ no generators in namespace 'flux-system' (-A looks in all)\n"


def test_a_name_that_is_not_there(shop: Front) -> None:
    ran = shop.run("get", "generators", "shop", "ship", "--no-header")

    assert (ran.code, ran.out.split()[0]) == (1, "shop")
    assert ran.words == f"✗ ArtifactGenerator {shop.namespace}/ship not found\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            ["pods"],
            "Invalid value for 'TYPE': 'pods' is not one of 'generators', 'generator', 'artifacts', 'artifact',"
            " 'sources', 'source', 'all' (see 'sluice get --help')",
            id="another type",
        ),
        pytest.param(
            ["generators", "My_Shop"],
            "'My_Shop' is not the name of an object (lower-case letters, digits, '-' and '.', at most 253)"
            " (see 'sluice get --help')",
            id="not a name",
        ),
        pytest.param(
            ["generators", "--status-selector", "ready"],
            "Invalid value for '--status-selector': 'ready' is not CONDITION=STATUS (such as ready=false)"
            " (see 'sluice get --help')",
            id="not a selector",
        ),
        pytest.param(
            ["generators", "shop", "-A"],
            "names go with one type and without -A and -l (see 'sluice get --help')",
            id="names everywhere",
        ),
        pytest.param(["all", "-w"], "-w goes with one type (see 'sluice get --help')", id="watch all"),
    ],
)
def test_what_makes_no_sense(front: Front, arguments: list[str], message: str) -> None:
    assert front.run("get", *arguments) == (2, "", f"✗ {message}\n")


def test_a_selector_that_the_server_refuses(front: Front) -> None:
    ran = front.run("get", "generators", "-l", "a in")

    assert (ran.code, ran.out) == (1, "")
    assert ran.words.startswith("✗ unable to parse requirement")


def test_an_empty_list_for_programs(front: Front) -> None:
    assert json.loads(front.run("get", "all", "-o", "json").out)["items"] == []
    assert front.run("get", "all") == (0, "", f"⚠ no objects in namespace '{front.namespace}' (-A looks in all)\n")


def test_nothing_in_an_object_steers_the_terminal(front: Front) -> None:
    front.add_generator("shop")
    front.reconciled("shop", ready("False", "\x1b[2Jgone\nREADY True\u202e", "BuildFailed"))

    plain = front.run("get", "generators").out
    assert plain.splitlines()[1].endswith(r"False   \x1b[2Jgone\nREADY True\u202e")
    assert "\x1b" not in front.run("get", "generators", "-o", "json").out
    assert "\x1b" not in front.run("get", "generators", "-o", "yaml").out


def test_a_narrow_terminal_gets_every_character(shop: Front) -> None:
    seen = on_terminal(
        Path(), "get", "generators", "-n", shop.namespace, COLUMNS="20", KUBECONFIG=str(shop.plane.kubeconfig)
    )

    assert seen == shop.run("get", "generators").out.replace("\n", "\r\n")


def test_a_reader_that_has_enough(shop: Front) -> None:
    with shop.start("get", "generators") as running:
        assert running.stdout is not None
        running.stdout.close()
        running.stdout = None
        _, words = running.communicate()

    assert (running.returncode, words) == (141, "")


@pytest.mark.parametrize("form", ["table", "name"])
def test_watching_shows_what_enters_changes_and_leaves(shop: Front, form: str) -> None:
    with shop.start("get", "generators", "-w", "--status-selector", "ready=true", "-o", form) as running:
        assert running.stdout is not None
        lines = [running.stdout.readline() for _ in range(2 if form == "table" else 1)]
        shop.reconciled("bank")
        lines.append(running.stdout.readline())
        shop.reconciled("shop", ready("False", "no", "BuildFailed"), condition("Stalled", "True", "no", "BuildFailed"))
        lines.append(running.stdout.readline())
        shop.reconciled("shop", ready("False", "still no", "BuildFailed"))
        shop.delete("ArtifactGenerator", "bank")
        lines.append(running.stdout.readline())
        running.send_signal(signal.SIGINT)
        _, words = running.communicate()

    home = shop.namespace
    expected = {
        "table": [
            "NAME   SUSPENDED   READY   MESSAGE",
            f"shop   False       True    {SUCCESS}",
            f"bank   True        True    {SUCCESS}",
            "shop   False       False   no",
            "bank   True        True    deleted",
        ],
        "name": [f"{home}/shop", f"{home}/bank", f"{home}/shop", f"{home}/bank"],
    }
    assert "".join(lines).splitlines() == expected[form]
    assert (running.returncode, words) == (130, "✗ interrupted\n")


def test_watching_for_programs(shop: Front) -> None:
    with shop.start("get", "sources", "-w", "-o", "json") as running:
        assert running.stdout is not None
        first = json.loads(running.stdout.readline())
        shop.delete("GitRepository", "repo")
        last = json.loads(running.stdout.readline())
        running.send_signal(signal.SIGINT)
        running.communicate()

    assert (first["type"], first["object"]["kind"]) == ("MODIFIED", "GitRepository")
    assert (last["type"], last["object"]["metadata"]["name"]) == ("DELETED", "repo")


def test_no_cluster(tmp_path: Path, front: Front) -> None:
    ran = front.run("get", "generators", KUBECONFIG=str(tmp_path / "none"))

    assert ran == (1, "", f"✗ KUBECONFIG: none of its files exists: '{tmp_path / 'none'}'\n")


def test_somebody_who_may_not(front: Front) -> None:
    ran = front.run("get", "generators", KUBECONFIG=str(front.plane.user("nobody-special")))

    assert (ran.code, ran.out) == (1, "")
    assert ran.words == (
        '✗ artifactgenerators.source.extensions.fluxcd.io is forbidden: User "nobody-special" cannot list resource'
        f' "artifactgenerators" in API group "source.extensions.fluxcd.io" in the namespace "{front.namespace}"\n'
    )


def test_sources_are_counted_in_wide(front: Front) -> None:
    front.add_generator("shop", sources=(source("repo"), source("more")))

    assert front.run("get", "generators", "-o", "wide").out.splitlines()[1].split()[3] == "2"
