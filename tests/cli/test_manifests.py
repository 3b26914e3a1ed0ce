"""How manifests are read, and their variables filled in."""

from pathlib import Path

import pytest
from tests.cli.running import GENERATOR, build, build_json, write


@pytest.mark.usefixtures("shop")
class TestInputs:
    def test_standard_input(self) -> None:
        assert build("-", "--source", "repo=src", "-o", "name", stdin=GENERATOR).stdout == "apps/web\n"

    def test_a_mistake_on_standard_input(self) -> None:
        result = build("-", stdin=GENERATOR.replace("alias: repo", "alias: Repo"))

        assert result.exit_code == 2
        assert result.stderr == (
            "✗ <stdin>:6:8: spec.sources[0].alias: 'Repo' is not valid"
            " (lower-case letters, digits, '-' and '_', at most 63)\n"
        )

    def test_a_directory_with_other_things(self) -> None:
        write(
            Path("all"),
            {
                "a/shop.yml": GENERATOR,
                "b/shop.json": '{"apiVersion": "v1", "kind": "Secret"}',
                "chart/templates/x.yaml": "{{ .Values.x }}: {{- if source.toolkit.fluxcd.io }}",
                ".hidden/shop.yaml": GENERATOR,
                "notes.md": GENERATOR,
            },
        )

        assert build("all", "--source", "repo=src", "-o", "name").stdout == "apps/web\n"

    def test_a_file_that_is_given_twice_counts_once(self) -> None:
        assert build("shop.yaml", "./shop.yaml", ".", "--source", "repo=src", "-o", "name").stdout == "apps/web\n"

    def test_a_list_of_objects(self) -> None:
        indented = "".join(f"    {line}\n" for line in GENERATOR.splitlines())
        write(Path(), {"list.yaml": f"apiVersion: v1\nkind: List\nitems:\n  -\n{indented}"})

        assert build("list.yaml", "--source", "repo=src", "-o", "name").stdout == "apps/web\n"

    def test_the_same_generator_twice(self) -> None:
        write(Path(), {"clusters/a/shop.yaml": GENERATOR, "clusters/b/shop.yaml": f"---\n{GENERATOR}"})

        result = build("clusters")

        assert result.exit_code == 2
        assert result.stderr == (
            "✗ clusters/b/shop.yaml:2:1: ArtifactGenerator/apps/shop is also in clusters/a/shop.yaml:1:1"
            " (build one cluster's manifests at a time)\n"
        )

    def test_all_problems_are_told_at_once(self) -> None:
        write(
            Path(),
            {
                "one.yaml": GENERATOR.replace("kind: Bucket", "kind: Basket").replace("- name: web", "- nam: web"),
                "two.yaml": GENERATOR.replace("name: shop", "name: two").replace("v1beta1", "v9"),
            },
        )

        result = build("one.yaml", "two.yaml")

        assert result.exit_code == 2
        assert result.stderr.splitlines() == [
            (
                "✗ one.yaml:6:21: spec.sources[0].kind: 'Basket' is not one of Bucket, GitRepository, OCIRepository,"
                " HelmChart, ExternalArtifact"
            ),
            "✗ one.yaml:8:7: spec.artifacts[0].nam: unknown field (did you mean 'name'?)",
            "✗ one.yaml:8:7: spec.artifacts[0].name: required",
            (
                "✗ two.yaml:1:1: apiVersion: 'source.extensions.fluxcd.io/v9' is not supported"
                " (supported: source.extensions.fluxcd.io/v1beta1)"
            ),
        ]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            pytest.param(None, "bad.yaml: no such file or directory", id="no file"),
            pytest.param("a: [", "bad.yaml:2:1: did not find expected node content", id="not YAML"),
            pytest.param(b"\xff", "bad.yaml:1:1: not UTF-8", id="not text"),
            pytest.param("a: 1\na: 2\n", "bad.yaml:2:1: duplicate key 'a'", id="a key twice"),
            pytest.param("kind: Secret\n", "bad.yaml: no ArtifactGenerator in it", id="another object"),
            pytest.param("", "bad.yaml: no ArtifactGenerator in it", id="nothing"),
            pytest.param(
                "x" * (10 << 20) + "y",
                "bad.yaml: YAML of 10485761 bytes (limit: 10485760, yaml_size)",
                id="too large",
            ),
        ],
    )
    def test_what_cannot_be_read(self, content: str | bytes | None, message: str) -> None:
        if content is not None:
            write(Path(), {"bad.yaml": content})

        result = build("bad.yaml")

        assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"✗ {message}\n")

    def test_a_broken_file_among_others_in_a_directory(self) -> None:
        write(Path("all"), {"a.yaml": GENERATOR, "b.yaml": "kind: ArtifactGenerator\na: [\n"})

        result = build("all", "--source", "repo=src")

        assert (result.exit_code, result.stderr) == (2, "✗ all/b.yaml:3:1: did not find expected node content\n")


@pytest.mark.usefixtures("shop")
class TestVariables:
    @pytest.mark.parametrize(
        ("text", "arguments", "name"),
        [
            pytest.param("${NAME}", ["NAME=web"], "web", id="given"),
            pytest.param("${a}-${b}", ["a=x", "b=y"], "x-y", id="two"),
            pytest.param("${NAME:=web}", [], "web", id="a default"),
            pytest.param("${NAME:-web}", [], "web", id="a default, spelled otherwise"),
            pytest.param("${NAME:=web}", ["NAME="], "web", id="an empty value takes the default"),
            pytest.param("${NAME:=web}", ["NAME=api"], "api", id="a value goes before the default"),
            pytest.param("w${NAME}b", ["NAME="], "wb", id="an empty value"),
            pytest.param("w${NAME:=}b", [], "wb", id="an empty default"),
            pytest.param("${NAME}", ["NAME=a=b"], None, id="a value with an equals sign is not a name"),
        ],
    )
    def test_a_variable(self, text: str, arguments: list[str], name: str | None) -> None:
        write(Path(), {"shop.yaml": GENERATOR.replace("name: web", f'name: "{text}"')})
        options = [option for value in arguments for option in ("--var", value)]

        result = build("shop.yaml", "--source", "repo=src", "-o", "name", *options)

        assert (result.exit_code, result.stdout) == ((0, f"apps/{name}\n") if name else (2, ""))

    def test_an_escaped_one_stays(self) -> None:
        write(Path(), {"shop.yaml": GENERATOR.replace("@artifact/", "@artifact/$${x}/")})

        (artifact,) = build_json("shop.yaml", "--source", "repo=src")

        assert artifact["files"][0]["path"] == "${x}"

    def test_those_that_are_not_set(self) -> None:
        text = GENERATOR.replace("name: web", 'name: "${NAME}"').replace("web/**", "${DIR}/${!}")
        write(Path(), {"shop.yaml": text})

        result = build("shop.yaml", "--source", "repo=src")

        assert result.exit_code == 2
        assert result.stderr.splitlines() == [
            "✗ shop.yaml:8:7: spec.artifacts[0].name: variable 'NAME' is not set (--var NAME=VALUE)",
            "✗ shop.yaml:10:12: spec.artifacts[0].copy[0].from: variable 'DIR' is not set (--var DIR=VALUE)",
            (
                "✗ shop.yaml:10:12: spec.artifacts[0].copy[0].from: '${!}' is not a variable"
                " (${NAME}, ${NAME:=default} or ${NAME:-default})"
            ),
        ]

    def test_one_that_does_not_end(self) -> None:
        write(Path(), {"shop.yaml": GENERATOR.replace("name: web", 'name: "${NAME"')})

        assert build("shop.yaml", "--source", "repo=src").stderr == (
            "✗ shop.yaml:8:7: spec.artifacts[0].name: '${' is not a variable"
            " (${NAME}, ${NAME:=default} or ${NAME:-default})\n"
        )

    def test_other_objects_are_left_alone(self) -> None:
        write(Path(), {"shop.yaml": f"kind: ConfigMap\ndata: {{a: '${{NOT_SET}}'}}\n---\n{GENERATOR}"})

        assert build("shop.yaml", "--source", "repo=src").exit_code == 0

    @pytest.mark.parametrize("field", ["labels", "annotations"])
    def test_an_object_may_refuse(self, field: str) -> None:
        switch = f"namespace: apps, {field}: {{kustomize.toolkit.fluxcd.io/substitute: disabled}}"
        text = GENERATOR.replace("namespace: apps", switch).replace("@artifact/", "@artifact/${x}/")
        write(Path(), {"shop.yaml": text})

        assert build("shop.yaml", "--source", "repo=src").exit_code == 0
