"""Each rule: something it finds, and something like it that is right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from sluice.core.compose import Composition, compose
from sluice.core.dialect import DOCUMENTED, UPSTREAM, Dialect
from sluice.core.errors import BuildError, Code, Problem, SpecError
from sluice.core.kustomize import Need, needs
from sluice.core.lint import CHART_FILE_SIZE, RULES, Artifact, Subject, Use, lint, rule_of
from sluice.core.plan import ArtifactPlan, plan_recipe
from sluice.core.spec import ArtifactGenerator, ArtifactSpec, CopySpec, SourceKind, SourceRef
from sluice.core.tree import Directory, File

FILES = {
    "app/a.yaml": b"a: 1\n",
    "app/b.md": b"",
    "app/sub/c.yaml": b"c: 1\n",
    "app/.gitignore": b"",
    "other/a.yaml": b"a: 2\n",
    "nest/app/a.yaml": b"a: 3\n",
    "same/a.yaml": b"a: 1\n",
    "logo.png": b"",
    "chart/Chart.yaml": b"",
    "large/Chart.yaml": b"x" * (CHART_FILE_SIZE + 1),
    "kustomized/kustomization.yaml": b"resources: [a.yaml, ../base, 'https://example.com/x.yaml']\n",
    "kustomized/a.yaml": b"",
    "base/kustomization.yml": b"patches: [{path: p.yaml}, {patch: '{}'}]\nconfigMapGenerator: [{files: [k=f]}]\n",
    "base/p.yaml": b"",
    "base/f": b"",
    "plain/x": b"",
    "broken/kustomization.yaml": b"a: [",
}


def s(source: str, to: str = "", *exclude: str, strategy: str = "Overwrite") -> CopySpec:
    return CopySpec(f"@s/{source}", f"@artifact/{to}", exclude, strategy)


@dataclass(frozen=True)
class Case:
    copies: Sequence[CopySpec]
    finding: str = ""
    dialect: Dialect = DOCUMENTED
    aliases: Sequence[str] = ("s",)
    uses: Sequence[Use] = ()
    files: Mapping[str, bytes] = field(default_factory=lambda: FILES)
    is_open: bool = True


def never(file: File) -> Directory:
    raise AssertionError(file)


def composed(case: Case, dialect: Dialect) -> Composition | BuildError | SpecError:
    try:
        recipe = plan_recipe(case.copies, "", case.aliases, dialect)
        return compose(recipe, {"s": Directory.of(case.files)}, never)
    except (BuildError, SpecError) as error:
        return error


def subject(case: Case) -> Subject:
    spec = ArtifactSpec("web", tuple(case.copies))
    sources = tuple(SourceRef(alias, SourceKind.BUCKET, alias, "apps") for alias in case.aliases)
    other = UPSTREAM if case.dialect is DOCUMENTED else DOCUMENTED
    recipe = plan_recipe(case.copies, "spec.artifacts[0]", case.aliases, case.dialect)
    artifact = Artifact(
        where="spec.artifacts[0]",
        plan=ArtifactPlan("web", recipe),
        trees={"s": Directory.of(case.files)} if case.is_open else {},
        composition=composed(case, case.dialect) if case.is_open else None,
        other=composed(case, other) if case.is_open else None,
        uses=case.uses,
    )
    return Subject(ArtifactGenerator(name="g", namespace="apps", sources=sources, artifacts=(spec,)), [artifact])


CHART = Use("HelmRelease/apps/web", is_chart=True)


def kustomization(path: str) -> Use:
    return Use("Kustomization/apps/web", is_chart=False, path=path)


BAD = {
    "no-match": {
        "a path": Case([s("apps/")], "copy[0].from: '@s/apps/' matches nothing in its source"),
        "a pattern, whatever failed before it": Case(
            [s("nope"), s("app/*.yml")], "copy[1].from: '@s/app/*.yml' matches nothing in its source"
        ),
    },
    "unused-exclude": {
        "a name": Case([s("app/", "", "*.txt")], "copy[0].exclude[0]: '*.txt' excludes nothing"),
        "a path": Case([s("app/", "", "*.md", "sub/d/**")], "copy[0].exclude[1]: 'sub/d/**' excludes nothing"),
        "a file that is no directory": Case([s("app/**", "", "a.yaml/")], "exclude[0]: 'a.yaml/' excludes nothing"),
    },
    "double-nesting": {
        "a directory": Case(
            [s("app/", "x/app/")],
            "copy[0].to: directory 'app' lands in 'x/app/app'"
            " ('@s/app/**' copies what is in it, '@artifact/x/' puts it there itself)",
        ),
        "as it looks without its source": Case([s("app/", "app")], "lands in 'app/app'", is_open=False),
    },
    "overwritten-files": {
        "a file": Case([s("app/**"), s("other/a.yaml")], "copy[1]: replaces 1 file (a.yaml) that copy[0] placed"),
        "a file in a directory": Case([s("app"), s("other/*", "app/")], "replaces 1 file (app/a.yaml)"),
        "a directory over a file": Case([s("other/a.yaml", "x/"), s("app/**", "x/")], "replaces 1 file (x/a.yaml)"),
        "merging what does not merge": Case(
            [s("app/b.md"), s("app/a.yaml", "b.md", strategy="Merge")], "replaces 1 file (b.md)"
        ),
        "a directory that upstream does not merge": Case(
            [s("app"), s("nest/app", strategy="Merge")],
            "copy[1]: replaces 1 file (app/a.yaml) that copy[0] placed",
            dialect=UPSTREAM,
        ),
    },
    "unused-source": {
        "a source": Case(
            [s("app/")], "spec.sources[1]: no copy, revision or pathPattern uses source 't'", aliases="st"
        ),
    },
    "dialect-difference": {
        "another place": Case([s("app/*.yaml", "x/")], "spec.artifacts[0]: the upstream dialect would build another"),
        "what is left out": Case([s("")], "another tree: 1 file (logo.png) removed"),
        "an error there": Case([s("**/c.yaml")], "the upstream dialect would fail: copy from '@s/**/c.yaml': no files"),
        "from the other side": Case([s("app/*.yaml")], "the documented dialect would build", dialect=UPSTREAM),
    },
    "build-fails": {
        "a conflict": Case(
            [s("app/a.yaml", "x"), s("app/b.md", "x/y")],
            "copy[1]: copy from '@s/app/b.md': 'x' is both a file and a directory",
        ),
        "everything excluded": Case([s("app/**", "", "**")], "copy[0]: copy from '@s/app/**': all files matching"),
    },
    "chart-shape": {
        "no directory": Case(
            [s("chart/**")],
            "spec.artifacts[0].name: HelmRelease/apps/web cannot use it:"
            " a chart is one directory with a Chart.yaml in it (at the top: Chart.yaml)",
            uses=[CHART],
        ),
        "two": Case([s("chart"), s("app")], "(at the top: app, chart)", uses=[CHART]),
        "no Chart.yaml": Case([s("app")], "(at the top: app)", uses=[CHART]),
        "a large file": Case(
            [s("large")],
            "more than 5242880 bytes, which is all Helm takes of a file: 1 file (large/Chart.yaml)",
            uses=[CHART],
        ),
    },
    "missing-path": {
        "spec.path": Case(
            [s("app")],
            "spec.path: Kustomization/apps/web needs directory './deploy', which is not in the artifact",
            uses=[kustomization("./deploy")],
        ),
        "a file": Case([s("app")], "needs directory './app/a.yaml', which", uses=[kustomization("./app/a.yaml")]),
        "a resource": Case(
            [s("kustomized")],
            "spec.path: resources[1] of 'kustomized/kustomization.yaml': 'base' is not in the artifact",
            uses=[kustomization("./kustomized")],
        ),
        "a patch": Case(
            [s("kustomized"), s("base", "", "p.yaml")],
            "patches[0].path of 'base/kustomization.yml': 'base/p.yaml' is not in the artifact",
            uses=[kustomization("kustomized/")],
        ),
        "a file of a config map": Case(
            [s("base", "", "f")], "configMapGenerator[0].files[0] of", uses=[kustomization("base")]
        ),
        "a path that leads out": Case(
            [s("kustomized/**")], "'../base' leads out of the artifact", uses=[kustomization("")]
        ),
        "a directory without kustomization": Case(
            [s("kustomized"), s("plain/x", "base/")],
            "'base' has no kustomization.yaml",
            uses=[kustomization("kustomized")],
        ),
        "no YAML": Case([s("broken/**")], "spec.path: 'kustomization.yaml': line ", uses=[kustomization("./")]),
    },
}
GOOD = {
    "no-match": [Case([s("app/"), s("app/*"), s("")]), Case([s("nope")], is_open=False)],
    "unused-exclude": [
        Case([s("app/", "", "*.md", "sub", "app/sub/*", "sub/c.yaml", "a.*")]),
        Case([s("nope/*", "", "x")]),
        Case([s("app", "", "x")], is_open=False),
    ],
    "double-nesting": [
        Case([s("app/**", "app/"), s("app/", "x/"), s("app/a.yaml", "a.yaml"), s("", "x"), s("app/sub", "app")]),
        Case([s("app", "app")], is_open=False),
    ],
    "overwritten-files": [
        Case([s("app/**"), s("same/a.yaml")]),
        Case([s("app/**"), s("other/a.yaml", strategy="Merge")]),
        Case([s("app/**"), s("other/**", strategy="Merge")]),
        Case([s("app"), s("nest/app", strategy="Merge")]),
        Case([s("app/**"), s("other/**", "x/")]),
        Case([s("app", "x"), s("app/sub/**", "x/app/sub/d/")]),
    ],
    "unused-source": [Case([s("app/")])],
    "dialect-difference": [Case([s("app/**"), s("other", "x/")]), Case([s("nope")])],
    "build-fails": [Case([s("app/")]), Case([s("nope")]), Case([s("app/*.yml")])],
    "chart-shape": [Case([s("chart")], uses=[CHART]), Case([s("app")], uses=[kustomization("")])],
    "missing-path": [
        Case([s("kustomized"), s("base")], uses=[kustomization("./kustomized"), kustomization("base")]),
        Case([s("app")], uses=[kustomization(""), kustomization("./"), kustomization("/app"), CHART]),
    ],
}


def told(case: Case, rule: str) -> list[str]:
    return [f"{found.where}: {found.text}" for by, found in lint(subject(case)) if by.name == rule]


@pytest.mark.parametrize(
    ("rule", "case"),
    [pytest.param(rule, case, id=f"{rule}: {name}") for rule, cases in BAD.items() for name, case in cases.items()],
)
def test_it_is_found(rule: str, case: Case) -> None:
    (text,) = told(case, rule)[-1:]

    assert case.finding in text


@pytest.mark.parametrize(
    ("rule", "case"),
    [
        pytest.param(rule, case, id=f"{rule}-{number}")
        for rule, cases in GOOD.items()
        for number, case in enumerate(cases)
    ],
)
def test_it_is_right(rule: str, case: Case) -> None:
    assert told(case, rule) == []


def test_every_rule_has_a_good_and_a_bad_example() -> None:
    checked = {name for name, rule in RULES.items() if rule.check is not None}

    assert checked == set(BAD) == set(GOOD)


def test_every_problem_of_a_spec_has_a_rule() -> None:
    by_code = {code: rule_of(Problem(code, "text")).name for code in Code}

    assert {code: name for code, name in by_code.items() if name != "invalid-spec"} == {
        Code.UNKNOWN_ALIAS: "unknown-alias",
        Code.BAD_PATTERN: "bad-pattern",
        Code.ESCAPE: "escaping-path",
        Code.NAME_COLLISION: "duplicate-name",
        Code.CYCLE: "cycle",
        Code.INVALID_YAML: "invalid-yaml",
    }
    assert rule_of(Problem(Code.INVALID_SPEC, "duplicate artifact name 'web' found")).name == "duplicate-name"


def test_a_template_is_to_blame_for_what_all_its_artifacts_have() -> None:
    one, other = (subject(Case([s("app", "", *exclude)])) for exclude in (("x", "*.md"), ("x", "y")))
    made = [artifact for each in (one, other) for artifact in each.artifacts]
    plans = [ArtifactPlan(name, artifact.plan.recipe) for name, artifact in zip("ab", made, strict=True)]
    both = [
        Artifact(where=artifact.where, plan=plan, trees=artifact.trees)
        for artifact, plan in zip(made, plans, strict=True)
    ]

    found = list(lint(Subject(one.generator, both)))

    assert {(finding.artifact, finding.text) for _, finding in found} == {
        ("a", "'x' excludes nothing"),
        ("b", "'x' excludes nothing"),
    }


def test_what_a_kustomization_names() -> None:
    fields = {
        "resources": ["a.yaml", "https://example.com/a", "github.com/o/r//x?ref=v1", "git@example.com:o/r", 3],
        "components": ["../c"],
        "patchesStrategicMerge": ["p.yaml", "a: 1\nb: 2\n", "a: 1"],
        "patches": [{"path": "q.yaml"}, {"patch": "- op: add"}],
        "replacements": [{"path": "r.yaml"}, {"source": {}}],
        "configMapGenerator": [{"files": ["f", "k=g"], "envs": ["e"], "env": "h"}],
        "openapi": {"path": "o.json"},
        "images": [{"name": "x"}],
    }

    assert list(needs(fields)) == [
        Need("resources[0]", "a.yaml"),
        Need("components[0]", "../c"),
        Need("patchesStrategicMerge[0]", "p.yaml"),
        Need("patches[0].path", "q.yaml"),
        Need("replacements[0].path", "r.yaml"),
        Need("configMapGenerator[0].files[0]", "f"),
        Need("configMapGenerator[0].files[1]", "g"),
        Need("configMapGenerator[0].envs[0]", "e"),
        Need("configMapGenerator[0].env", "h"),
        Need("openapi.path", "o.json"),
    ]
