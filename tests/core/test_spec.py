"""Manifests: every rule of the definition at its edges, all problems at once, and texts that stay one short line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from sluice.core.errors import MAX_QUOTED, BuildError, Code, SpecError
from sluice.core.limits import Limits
from sluice.core.spec import (
    API_VERSION,
    KIND,
    ArtifactGenerator,
    ArtifactSpec,
    CopySpec,
    SourceKind,
    SourceRef,
    Strategy,
    parse_generator,
    parse_manifests,
    unknown_alias,
    validate,
)

SOURCE = {"alias": "git", "kind": "GitRepository", "name": "repo"}
COPY = {"from": "@git/a", "to": "@artifact/"}
ARTIFACT = {"name": "web", "copy": [COPY]}


def manifest(spec: object = None, **metadata: object) -> dict[str, Any]:
    given = {"sources": [SOURCE], "artifacts": [ARTIFACT]} if spec is None else spec
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "g", **metadata}, "spec": given}


def with_source(**fields: object) -> dict[str, Any]:
    return manifest({"sources": [{**SOURCE, **fields}], "artifacts": [ARTIFACT]})


def with_artifact(**fields: object) -> dict[str, Any]:
    return manifest({"sources": [SOURCE], "artifacts": [{**ARTIFACT, **fields}]})


def with_copy(**fields: object) -> dict[str, Any]:
    return with_artifact(copy=[{**COPY, **fields}])


def with_spec(**fields: object) -> dict[str, Any]:
    return manifest({"sources": [SOURCE], "artifacts": [ARTIFACT], **fields})


def problems_of(given: Mapping[str, object], *, unknown_fields: bool = False) -> list[str]:
    try:
        parse_generator(given, unknown_fields=unknown_fields)
    except SpecError as error:
        return [str(problem) for problem in error.problems]
    return []


def test_everything_is_read() -> None:
    given = manifest(
        {
            "commonMetadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}},
            "sources": [SOURCE, {"alias": "oci", "kind": "OCIRepository", "name": "img", "namespace": "other"}],
            "pathPattern": "@git/apps/{app}",
            "artifacts": [
                {
                    "name": "{app}",
                    "revision": "@git",
                    "originRevision": "@oci",
                    "copy": [{"from": "@git/x", "to": "@artifact/", "exclude": ["*.md"], "strategy": "Merge"}, COPY],
                }
            ],
        },
        namespace="apps",
        annotations={"sluice/dialect": "upstream"},
    )

    generator = parse_generator(given)

    assert generator == ArtifactGenerator(
        name="g",
        namespace="apps",
        labels={"team": "a"},
        metadata_annotations={"note": "b"},
        annotations={"sluice/dialect": "upstream"},
        path_pattern="@git/apps/{app}",
        sources=(
            SourceRef("git", SourceKind.GIT_REPOSITORY, "repo", "apps"),
            SourceRef("oci", SourceKind.OCI_REPOSITORY, "img", "other"),
        ),
        artifacts=(
            ArtifactSpec(
                "{app}",
                (CopySpec("@git/x", "@artifact/", ("*.md",), Strategy.MERGE), CopySpec("@git/a", "@artifact/")),
                "git",
                "oci",
            ),
        ),
    )
    assert str(generator) == "ArtifactGenerator/apps/g"
    assert str(generator.sources[1]) == "OCIRepository/other/img"


def test_what_is_left_out_has_its_default() -> None:
    generator = parse_generator(manifest(), namespace="home")

    assert (generator.namespace, generator.sources[0].namespace) == ("home", "home")
    assert (generator.path_pattern, generator.labels, generator.annotations) == (None, {}, {})
    assert generator.artifacts == (ArtifactSpec("web", (CopySpec("@git/a", "@artifact/", (), "Overwrite"),)),)


def test_a_generator_without_a_spec_makes_nothing() -> None:
    given = manifest()
    del given["spec"]

    assert parse_generator(given).artifacts == ()
    assert parse_generator({**given, "spec": None}).artifacts == ()


def test_null_is_as_good_as_absent() -> None:
    given = with_copy(exclude=None, strategy=None)
    given["metadata"] |= {"namespace": None, "annotations": None, "labels": None}
    given["spec"] |= {"pathPattern": None, "commonMetadata": None}
    given["spec"]["sources"] = [{**SOURCE, "namespace": None}]
    given["spec"]["artifacts"][0] |= {"revision": None, "originRevision": None}

    assert parse_generator(given) == parse_generator(manifest())


LONG = "a" * 64


@pytest.mark.parametrize(
    "given",
    [
        *[pytest.param(with_source(kind=kind), id=f"kind {kind}") for kind in SourceKind],
        *[pytest.param(with_source(alias=text), id=f"alias {text}") for text in ("a", "0", "a-b_c", "a__b", "a" * 63)],
        *[pytest.param(with_source(name=text), id=f"name {text[:9]}") for text in ("a", "0-1", "a" * 253)],
        *[pytest.param(with_source(namespace=text), id=f"namespace {text}") for text in ("a", "a-b", "a" * 63)],
        *[pytest.param(with_artifact(name=text), id=f"artifact {text[:9]}") for text in ("a", "a.b-c", "a" * 253)],
        pytest.param(with_artifact(revision="@git"), id="a revision"),
        pytest.param(with_artifact(originRevision="@" + "x" * 63), id="an origin revision of an unknown source"),
        pytest.param(with_spec(pathPattern="@git/"), id="a pathPattern of the root"),
        pytest.param(with_spec(pathPattern="@" + "x" * 63 + "/" + "y" * 959), id="the longest pathPattern"),
        pytest.param(
            with_spec(pathPattern="@git/{x}", artifacts=[{**ARTIFACT, "name": "A {x}_" + "y" * 247}]),
            id="with pathPattern, names are templates",
        ),
        pytest.param(with_spec(sources=[{**SOURCE, "alias": f"git{n}"} for n in range(1000)]), id="1000 sources"),
        pytest.param(with_spec(artifacts=[{**ARTIFACT, "name": f"web{n}"} for n in range(1000)]), id="1000 artifacts"),
        pytest.param(with_artifact(copy=[COPY] * 2000), id="any number of copies"),
        pytest.param(
            with_copy(**{"from": "nonsense", "to": "[", "exclude": ["["], "strategy": "?"}), id="copy mistakes"
        ),
    ],
)
def test_within_the_rules(given: dict[str, Any]) -> None:
    assert problems_of(given) == []


ALIAS = "lower-case letters, digits, '-' and '_', at most 63"
NAME = "lower-case letters, digits and '-', at most 253"
NAMESPACE = "lower-case letters, digits and '-', at most 63"
VERSIONS: list[tuple[object, str]] = [("v1", "'v1'"), (None, "null"), ({"a": "b"}, "a mapping"), ([], "a list")]
KINDS = "Bucket, GitRepository, OCIRepository, HelmChart, ExternalArtifact"
OBJECT = "lower-case letters, digits, '-' and '.', at most 253"
REFERENCE = "'@' and the alias of a source"
PATTERN = "'@<alias>/<path>', at most 1024 characters"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        *[
            pytest.param(with_source(alias=text), f"spec.sources[0].alias: '{text}' is not valid ({ALIAS})", id=text)
            for text in ("", "A", "-a", "a-", "_a", "a.b", "é", "a b", LONG)
        ],
        *[
            pytest.param(
                with_source(name=text), f"spec.sources[0].name: '{text}' is not valid ({NAME})", id=f"name {text}"
            )
            for text in ("", "A", "a.b", "a_b", "-a", "a" * 254)
        ],
        *[
            pytest.param(
                with_source(namespace=text),
                f"spec.sources[0].namespace: '{text}' is not valid ({NAMESPACE})",
                id=f"namespace {text}",
            )
            for text in ("", "a.b", "a_b", LONG)
        ],
        *[
            pytest.param(
                with_artifact(**{field: text}),
                f"spec.artifacts[0].{field}: '{text}' is not valid ({REFERENCE})",
                id=f"{field} {text}",
            )
            for field in ("revision", "originRevision")
            for text in ("", "git", "@", "@Git", "@git/", f"@{LONG}")
        ],
        *[
            pytest.param(
                with_spec(pathPattern=text),
                f"spec.pathPattern: '{text}' is not valid ({PATTERN})",
                id=f"pattern {text}",
            )
            for text in ("", "git/x", "@git", "@Git/x")
        ],
        pytest.param(
            with_spec(pathPattern="@git/" + "x" * 1020),
            f"spec.pathPattern: '@git/{'x' * 295}…' is not valid ({PATTERN})",
            id="a pathPattern that is too long",
        ),
        pytest.param(
            with_source(kind="HelmRepository"),
            f"spec.sources[0].kind: 'HelmRepository' is not one of {KINDS}",
            id="another kind",
        ),
        pytest.param(
            with_source(kind="bucket"),
            f"spec.sources[0].kind: 'bucket' is not one of {KINDS}",
            id="a kind in lower case",
        ),
        pytest.param(
            with_artifact(name=""), "spec.artifacts[0].name: '' is not valid (1 to 253 characters)", id="no name"
        ),
        pytest.param(
            with_artifact(name="a" * 254),
            f"spec.artifacts[0].name: '{'a' * 254}' is not valid (1 to 253 characters)",
            id="a name that is too long",
        ),
        pytest.param(
            with_artifact(name="My App"),
            f'spec.artifacts[0].name: artifact name "My App" is not a valid Kubernetes object name: {OBJECT}',
            id="a name that is no object name",
        ),
        pytest.param(with_artifact(copy=[]), "spec.artifacts[0].copy: at least one item is needed", id="no copy"),
        pytest.param(with_spec(sources=[]), "spec.sources: at least one item is needed", id="no source"),
        pytest.param(with_spec(artifacts=[]), "spec.artifacts: at least one item is needed", id="no artifact"),
        pytest.param(
            with_spec(sources=[{**SOURCE, "alias": f"git{n}"} for n in range(1001)]),
            "spec.sources: 1001 items (1 to 1000)",
            id="1001 sources",
        ),
        pytest.param(
            with_spec(artifacts=[{**ARTIFACT, "name": f"web{n}"} for n in range(1001)]),
            "spec.artifacts: 1001 items (1 to 1000)",
            id="1001 artifacts",
        ),
        *[
            pytest.param(
                {**manifest(), "apiVersion": version},
                f"apiVersion: {shown} is not supported (supported: {API_VERSION})",
                id=f"version {shown}",
            )
            for version, shown in VERSIONS
        ],
        pytest.param(manifest(name="G"), f"metadata.name: 'G' is not valid ({OBJECT})", id="the generator's name"),
        pytest.param(
            manifest(namespace="a.b"), f"metadata.namespace: 'a.b' is not valid ({NAMESPACE})", id="its namespace"
        ),
    ],
)
def test_outside_the_rules(given: dict[str, Any], problem: str) -> None:
    assert problems_of(given) == [problem]


@pytest.mark.parametrize(
    ("given", "problems"),
    [
        pytest.param(
            manifest(5),
            ["spec: 5 is not a mapping", *[f"spec.{name}: required" for name in ("sources", "artifacts")]],
            id="spec",
        ),
        pytest.param(with_spec(sources="x"), ["spec.sources: 'x' is not a list"], id="sources"),
        pytest.param(with_spec(sources={"a": 1}), ["spec.sources: a mapping is not a list"], id="sources, a mapping"),
        pytest.param(
            with_spec(sources=["x"]),
            [
                "spec.sources[0]: 'x' is not a mapping",
                "spec.sources[0].alias: required",
                "spec.sources[0].kind: required",
                "spec.sources[0].name: required",
            ],
            id="a source",
        ),
        pytest.param(with_source(alias=5), ["spec.sources[0].alias: 5 is not a string (quote it)"], id="an alias"),
        pytest.param(
            with_source(alias=True), ["spec.sources[0].alias: true is not a string (quote it)"], id="a boolean"
        ),
        pytest.param(
            with_source(kind=["x"]),
            [f"spec.sources[0].kind: a list is not one of {KINDS}"],
            id="a kind",
        ),
        pytest.param(with_artifact(copy={}), ["spec.artifacts[0].copy: a mapping is not a list"], id="copy"),
        pytest.param(
            with_artifact(copy=[None]),
            [
                "spec.artifacts[0].copy[0]: null is not a mapping",
                "spec.artifacts[0].copy[0].from: required",
                "spec.artifacts[0].copy[0].to: required",
            ],
            id="a copy",
        ),
        pytest.param(with_copy(to=1.5), ["spec.artifacts[0].copy[0].to: 1.5 is not a string (quote it)"], id="to"),
        pytest.param(
            with_copy(exclude="*.md"), ["spec.artifacts[0].copy[0].exclude: '*.md' is not a list"], id="exclude"
        ),
        pytest.param(
            with_copy(exclude=["a", 1, {}]),
            [
                "spec.artifacts[0].copy[0].exclude[1]: 1 is not a string (quote it)",
                "spec.artifacts[0].copy[0].exclude[2]: a mapping is not a string (quote it)",
            ],
            id="excludes",
        ),
        pytest.param(
            with_spec(commonMetadata={"labels": {"a": 1, "b": "c"}, "annotations": []}),
            [
                "spec.commonMetadata.labels.a: 1 is not a string (quote it)",
                "spec.commonMetadata.annotations: a list is not a mapping",
            ],
            id="common metadata",
        ),
        pytest.param(
            {**manifest(), "metadata": []},
            ["metadata: a list is not a mapping", "metadata.name: required"],
            id="metadata",
        ),
        pytest.param(
            manifest(annotations={"a": True}),
            ["metadata.annotations.a: true is not a string (quote it)"],
            id="annotations",
        ),
    ],
)
def test_other_types(given: dict[str, Any], problems: list[str]) -> None:
    assert problems_of(given) == problems


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (with_spec(artefacts=[]), "spec.artefacts: unknown field (did you mean 'artifacts'?)"),
        (with_spec(pathpattern="x"), "spec.pathpattern: unknown field (did you mean 'pathPattern'?)"),
        (with_spec(zzz=1), "spec.zzz: unknown field (known: artifacts, commonMetadata, pathPattern, sources)"),
        (with_spec(commonMetadata={"label": {}}), "spec.commonMetadata.label: unknown field (did you mean 'labels'?)"),
        (with_source(alais="x"), "spec.sources[0].alais: unknown field (did you mean 'alias'?)"),
        (
            with_artifact(origin="x"),
            "spec.artifacts[0].origin: unknown field (did you mean 'originRevision'?)",
        ),
        (with_copy(excludes=[]), "spec.artifacts[0].copy[0].excludes: unknown field (did you mean 'exclude'?)"),
        (with_copy(**{"": 1}), "spec.artifacts[0].copy[0].: unknown field (known: exclude, from, strategy, to)"),
    ],
)
def test_unknown_fields(given: dict[str, Any], problem: str) -> None:
    assert problems_of(given) == [problem]
    assert problems_of(given, unknown_fields=True) == []


def test_a_key_that_is_no_text_is_an_unknown_field() -> None:
    spec = {"sources": [SOURCE], "artifacts": [ARTIFACT], 5: "x"}

    assert problems_of(manifest(spec)) == [
        "spec.5: unknown field (known: artifacts, commonMetadata, pathPattern, sources)"
    ]


def test_all_problems_are_told_at_once() -> None:
    given = {
        "apiVersion": "v1",
        "kind": KIND,
        "spec": {
            "sources": [{"alias": "A", "kind": "Git", "namespace": "N"}],
            "artifacts": [{"name": "web"}, {"copy": [{"from": 1}]}],
            "extra": 1,
        },
    }

    assert problems_of(given) == [
        f"apiVersion: 'v1' is not supported (supported: {API_VERSION})",
        "metadata: required",
        "metadata.name: required",
        "spec.extra: unknown field (known: artifacts, commonMetadata, pathPattern, sources)",
        f"spec.sources[0].alias: 'A' is not valid ({ALIAS})",
        f"spec.sources[0].kind: 'Git' is not one of {KINDS}",
        "spec.sources[0].name: required",
        f"spec.sources[0].namespace: 'N' is not valid ({NAMESPACE})",
        "spec.artifacts[0].copy: required",
        "spec.artifacts[1].name: required",
        "spec.artifacts[1].copy[0].from: 1 is not a string (quote it)",
        "spec.artifacts[1].copy[0].to: required",
    ]


class TestValidation:
    """What concerns the generator as a whole, in the order and words that conditions have always had."""

    GENERATOR = ArtifactGenerator(
        name="g",
        namespace="n",
        sources=tuple(SourceRef(alias, SourceKind.BUCKET, "b", "n") for alias in ("a", "b", "a")),
        artifacts=(
            ArtifactSpec("web", (), "b"),
            ArtifactSpec("Web", (), "c"),
            ArtifactSpec("web", (), None, "nobody"),
        ),
    )

    def test_texts_codes_and_order(self) -> None:
        assert [(problem.code, problem.text, problem.where) for problem in validate(self.GENERATOR)] == [
            (Code.INVALID_SPEC, "duplicate source alias 'a' found", "spec.sources[2].alias"),
            (
                Code.INVALID_SPEC,
                f'artifact name "Web" is not a valid Kubernetes object name: {OBJECT}',
                "spec.artifacts[1].name",
            ),
            (Code.UNKNOWN_ALIAS, "artifact Web revision source alias 'c' not found", "spec.artifacts[1].revision"),
            (Code.INVALID_SPEC, "duplicate artifact name 'web' found", "spec.artifacts[2].name"),
        ]

    @pytest.mark.parametrize(
        ("name", "valid"),
        [
            *[(name, True) for name in ("a", "a.b", "a-b.c-d", "0")],
            *[(name, False) for name in ("A", ".a", "a.", "a..b", "-a", "a-", "a.-b", "a_b", "a/b", "é", "a\n", "{x}")],
        ],
    )
    def test_object_names(self, name: str, valid: bool) -> None:
        assert (problems_of(with_artifact(name=name)) == []) == valid
        assert problems_of(with_spec(pathPattern="@git/x", artifacts=[{**ARTIFACT, "name": name}])) == []

    def test_unrendered_names_repeat_with_path_pattern_too(self) -> None:
        given = with_spec(pathPattern="@git/{x}", artifacts=[{**ARTIFACT, "name": "{x}"}] * 2)

        assert problems_of(given) == ["spec.artifacts[1].name: duplicate artifact name '{x}' found"]

    def test_is_asked_only_of_a_right_shape(self) -> None:
        given = with_spec(sources=[SOURCE, SOURCE], zzz=1)

        assert problems_of(given) == [
            "spec.zzz: unknown field (known: artifacts, commonMetadata, pathPattern, sources)"
        ]


class TestManifests:
    GENERATOR = b"apiVersion: source.extensions.fluxcd.io/v1beta1\nkind: ArtifactGenerator\nmetadata: {name: %b}\n"

    def test_other_kinds_are_passed_over(self) -> None:
        text = b"---\n".join(
            [b"kind: Namespace\n", self.GENERATOR % b"a", b"", b"- 1\n", b"x\n", self.GENERATOR % b"b"]
        )

        assert [generator.name for generator in parse_manifests(text)] == ["a", "b"]
        assert parse_manifests(b"") == ()

    def test_the_problems_of_all_are_told(self) -> None:
        text = b"---\n".join([self.GENERATOR % b"A", self.GENERATOR % b"fine", self.GENERATOR % b"B"])

        with pytest.raises(SpecError) as caught:
            parse_manifests(text)

        assert [problem.text for problem in caught.value.problems] == [
            f"'A' is not valid ({OBJECT})",
            f"'B' is not valid ({OBJECT})",
        ]

    def test_numbers_are_not_texts(self) -> None:
        text = self.GENERATOR % b"a" + (
            b"spec:\n  sources: [{alias: 007, kind: Bucket, name: 1e3}]\n"
            b"  artifacts: [{name: on, copy: [{from: ~, to: 0x10}]}]\n"
        )

        with pytest.raises(SpecError) as caught:
            parse_manifests(text)

        assert [str(problem) for problem in caught.value.problems] == [
            "spec.sources[0].alias: 7 is not a string (quote it)",
            "spec.sources[0].name: 1000.0 is not a string (quote it)",
            "spec.artifacts[0].copy[0].from: required",
            "spec.artifacts[0].copy[0].to: 16 is not a string (quote it)",
        ]

    def test_a_text_that_is_not_yaml_is_an_error(self) -> None:
        with pytest.raises(BuildError, match=r"line 1, column 1"):
            parse_manifests(b"]")

    def test_limits_hold(self) -> None:
        with pytest.raises(BuildError, match=r"^YAML of 9 bytes \(limit: 8, yaml_size\)$"):
            parse_manifests(b"a: 123456", limits=Limits(yaml_size=8))


HOSTILE = [
    pytest.param("x" * 1_000_000, id="a megabyte"),
    pytest.param("a\nb\r\n\x1b[31mc\x00\t\u2028\u202e\x85", id="control characters"),
    pytest.param("\ud800", id="half a character"),
    pytest.param("'; drop", id="a quote"),
]


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda value: {**manifest(), "apiVersion": value}, id="apiVersion"),
        pytest.param(lambda value: manifest(name=value), id="the name"),
        pytest.param(lambda value: manifest(annotations={value: 1}), id="the key of an annotation"),
        pytest.param(lambda value: with_source(alias=value), id="an alias"),
        pytest.param(lambda value: with_source(kind=value), id="a kind"),
        pytest.param(lambda value: with_source(**{value: 1}), id="a key"),
        pytest.param(lambda value: with_spec(pathPattern=value), id="a pathPattern"),
        pytest.param(lambda value: with_artifact(name=value), id="an artifact's name"),
        pytest.param(lambda value: with_artifact(revision=value), id="a revision"),
        pytest.param(lambda value: with_copy(exclude=value), id="an exclude"),
        pytest.param(lambda value: with_spec(commonMetadata={value: 1}), id="a key of the metadata"),
    ],
)
def test_hostile_values_leave_one_short_line(make: Any, value: str) -> None:
    (problem,) = problems_of(make(value))

    assert problem.isprintable()
    assert len(problem) < MAX_QUOTED + 300
    assert problem.encode()


def test_numbers_of_any_size_are_shown_shortly() -> None:
    (problem,) = problems_of(with_source(alias=10**1000))

    assert problem == f"spec.sources[0].alias: 1{'0' * 79}… is not a string (quote it)"


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        ([], "source alias 'x' not found (declared: none)"),
        (["b", "a"], "source alias 'x' not found (declared: a, b)"),
        (
            [f"a{n:02}" for n in range(12)],
            "source alias 'x' not found (declared: a00, a01, a02, a03, a04, a05, a06, a07, a08, a09 and 2 more)",
        ),
    ],
)
def test_an_unknown_alias_names_some_others(declared: list[str], text: str) -> None:
    assert unknown_alias("x", declared) == text
