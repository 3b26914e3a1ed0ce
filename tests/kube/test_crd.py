"""The resource definition admits and refuses what Flux's own does.

Every row runs against ours, and against the definition of the reference controller where that lies beside the checkout:
there it is installed under a group of its own. What is expected stands in the table, so neither needs the other.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.envtest.client import Client, Object, Refused
from tests.envtest.fixtures import REPOSITORY, SHARED_DEFINITIONS
from tests.envtest.server import ControlPlane, read_definitions

pytestmark = pytest.mark.cluster

DEFINITION = REPOSITORY / "deploy" / "crd" / "artifactgenerators.yaml"
REFERENCE = SHARED_DEFINITIONS / "reference.source.extensions.fluxcd.io_artifactgenerators.yaml"
OURS, THEIRS = "source.extensions.fluxcd.io", "reference.test"
GROUPS = [OURS, THEIRS] if REFERENCE.exists() else [OURS]

ABSENT = object()
SOURCE = {"alias": "s", "kind": "GitRepository", "name": "repo"}
COPY = {"from": "@s/**", "to": "@artifact/"}
ARTIFACT = {"name": "web", "copy": [COPY]}
SPEC: Object = {"sources": [SOURCE], "artifacts": [ARTIFACT]}
CONDITION = {
    "type": "Ready",
    "status": "True",
    "reason": "Succeeded",
    "message": "reconciliation succeeded, generated 1 artifact(s)",
    "observedGeneration": 3,
    "lastTransitionTime": "2026-07-01T10:00:00Z",
}
ENTRY = {"name": "web", "namespace": "apps", "digest": "sha256:47ce", "filename": "242366145.tar.gz"}
STATUS: Object = {
    "conditions": [CONDITION],
    "inventory": [ENTRY],
    "lastHandledReconcileAt": "1751364000",
    "observedSourcesDigest": "sha256:d010",
}


def row(sentence: str, path: str, value: object, *refused: str) -> Any:
    """One row: with this value at this path the server refuses these fields, or none."""
    return pytest.param(path, value, list(refused), id=sentence)


def named(name: str) -> Object:
    return {**ARTIFACT, "name": name}


def templated(name: str) -> Object:
    return {**SPEC, "pathPattern": "@s/{app}", "artifacts": [named(name)]}


ALIAS = "spec.sources[0].alias"
SOURCE_NAME = "spec.sources[0].name"
SOURCE_NAMESPACE = "spec.sources[0].namespace"
NAME = "spec.artifacts[0].name"
FROM = "spec.artifacts[0].copy[0].from"
TO = "spec.artifacts[0].copy[0].to"
EXCLUDE = "spec.artifacts[0].copy[0].exclude"
STRATEGY = "spec.artifacts[0].copy[0].strategy"

SPECS = [
    row("an object without a spec", "spec", ABSENT),
    row("an empty spec", "spec", {}, "spec.artifacts", "spec.sources"),
    row("a spec that is not a mapping", "spec", "x", "spec"),
    row("only what is required", "spec", SPEC),
    # Common metadata
    row("no common labels", "spec.commonMetadata", {}),
    row("labels that no object may carry", "spec.commonMetadata.labels", {"-": "not a label!"}),
    row("a label that is a number", "spec.commonMetadata.labels", {"a": 1}, "spec.commonMetadata.labels.a"),
    row("annotations", "spec.commonMetadata.annotations", {"example.test/a": "b\nc"}),
    row(
        "an annotation that is a list",
        "spec.commonMetadata.annotations",
        {"a": []},
        "spec.commonMetadata.annotations.a",
    ),
    # Sources
    row("no list of sources", "spec.sources", ABSENT, "spec.sources"),
    row("no sources", "spec.sources", [], "spec.sources"),
    row("as many sources as allowed", "spec.sources", [SOURCE] * 1000),
    row("one source too many", "spec.sources", [SOURCE] * 1001, "spec.sources"),
    row("a source without anything", "spec.sources", [{}], ALIAS, "spec.sources[0].kind", SOURCE_NAME),
    row("equal aliases are for the controller to refuse", "spec.sources", [SOURCE, SOURCE]),
    row("an alias of one letter", ALIAS, "a"),
    row("an alias with all that is allowed", ALIAS, "0a_-9"),
    row("the longest alias", ALIAS, "a" * 63),
    row("an alias too long", ALIAS, "a" * 64, ALIAS),
    row("an empty alias", ALIAS, "", ALIAS),
    row("an alias in upper case", ALIAS, "A", ALIAS),
    row("an alias that ends in an underscore", ALIAS, "a_", ALIAS),
    row("an alias that begins with a hyphen", ALIAS, "-a", ALIAS),
    row("an alias with a dot", ALIAS, "a.b", ALIAS),
    row("an alias that ends in a line break", ALIAS, "a\n", ALIAS),
    *(
        row(f"a source of kind {kind}", "spec.sources[0].kind", kind)
        for kind in ("Bucket", "GitRepository", "OCIRepository", "HelmChart", "ExternalArtifact")
    ),
    row("a source of another kind", "spec.sources[0].kind", "HelmRepository", "spec.sources[0].kind"),
    row("an empty kind", "spec.sources[0].kind", "", "spec.sources[0].kind"),
    row("the longest source name", SOURCE_NAME, "a" * 253),
    row("a source name too long", SOURCE_NAME, "a" * 254, SOURCE_NAME),
    row("an empty source name", SOURCE_NAME, "", SOURCE_NAME),
    row("a source name with a hyphen", SOURCE_NAME, "a-b"),
    row("a source name with a dot", SOURCE_NAME, "a.b", SOURCE_NAME),
    row("a source name with an underscore", SOURCE_NAME, "a_b", SOURCE_NAME),
    row("a source name that ends in a hyphen", SOURCE_NAME, "a-", SOURCE_NAME),
    row("the longest namespace", SOURCE_NAMESPACE, "a" * 63),
    row("a namespace too long", SOURCE_NAMESPACE, "a" * 64, SOURCE_NAMESPACE),
    row("an empty namespace", SOURCE_NAMESPACE, "", SOURCE_NAMESPACE),
    row("a namespace with a dot", SOURCE_NAMESPACE, "a.b", SOURCE_NAMESPACE),
    row("a namespace that begins with a hyphen", SOURCE_NAMESPACE, "-a", SOURCE_NAMESPACE),
    # The path pattern
    row("a path pattern", "spec.pathPattern", "@s/apps/{app}"),
    row("a path pattern without a path", "spec.pathPattern", "@s/"),
    row("an empty path pattern", "spec.pathPattern", "", "spec.pathPattern"),
    row("a path pattern without an alias", "spec.pathPattern", "apps/{app}", "spec.pathPattern"),
    row("a path pattern that is only an alias", "spec.pathPattern", "@s", "spec.pathPattern"),
    row("the longest path pattern", "spec.pathPattern", "@s/" + "a" * 1021),
    row("a path pattern too long", "spec.pathPattern", "@s/" + "a" * 1022, "spec.pathPattern"),
    # Artifacts
    row("no list of artifacts", "spec.artifacts", ABSENT, "spec.artifacts"),
    row("no artifacts", "spec.artifacts", [], "spec.artifacts"),
    row("as many artifacts as allowed", "spec.artifacts", [ARTIFACT] * 1000),
    row("one artifact too many", "spec.artifacts", [ARTIFACT] * 1001, "spec.artifacts"),
    row("an artifact without anything", "spec.artifacts", [{}], "spec.artifacts[0].copy", NAME),
    row("a name with dots and hyphens", NAME, "a-1.b-2.c"),
    row("the longest name", NAME, "a" * 253),
    row("a name too long", NAME, "a" * 254, NAME),
    row("an empty name", NAME, "", NAME, "spec"),
    row("a name in upper case", NAME, "Web", "spec"),
    row("a name with an underscore", NAME, "a_b", "spec"),
    row("a name with an empty part", NAME, "a..b", "spec"),
    row("a name that ends in a hyphen", NAME, "a-", "spec"),
    row("a name that is a template, without a path pattern", NAME, "{app}", "spec"),
    row("a name that is a template, with a path pattern", "spec", templated("{app}")),
    row("any name at all, with a path pattern", "spec", templated("Not A Name")),
    row("a template beside a name, without a path pattern", "spec.artifacts", [ARTIFACT, named("{app}")], "spec"),
    *(
        case
        for field in ("revision", "originRevision")
        for case in (
            row(f"{field} of a source", f"spec.artifacts[0].{field}", "@s"),
            row(f"{field} of an unknown source is for the controller", f"spec.artifacts[0].{field}", "@other"),
            row(f"the longest {field}", f"spec.artifacts[0].{field}", "@" + "a" * 63),
            row(f"{field} too long", f"spec.artifacts[0].{field}", "@" + "a" * 64, f"spec.artifacts[0].{field}"),
            row(f"an empty {field}", f"spec.artifacts[0].{field}", "", f"spec.artifacts[0].{field}"),
            row(f"{field} without an at sign", f"spec.artifacts[0].{field}", "s", f"spec.artifacts[0].{field}"),
            row(f"{field} with a path", f"spec.artifacts[0].{field}", "@s/", f"spec.artifacts[0].{field}"),
            row(f"{field} in upper case", f"spec.artifacts[0].{field}", "@S", f"spec.artifacts[0].{field}"),
        )
    ),
    # Copies
    row("no copies", "spec.artifacts[0].copy", [], "spec.artifacts[0].copy"),
    row("very many copies", "spec.artifacts[0].copy", [COPY] * 2000),
    row("a copy without anything", "spec.artifacts[0].copy", [{}], FROM, TO),
    row("from the root of a source", FROM, "@s/"),
    row("from an alias only", FROM, "@s", FROM),
    row("from a path without an alias", FROM, "apps/web", FROM),
    row("from an alias in upper case", FROM, "@S/a", FROM),
    row("from a path with a line break", FROM, "@s/a\nb", FROM),
    row("from nowhere", FROM, "", FROM),
    row("from a path that leaves the root is for the controller to refuse", FROM, "@s/../x"),
    row("from the longest path", FROM, "@s/" + "a" * 1021),
    row("from a path too long", FROM, "@s/" + "a" * 1022, FROM),
    row("from the longest path, counted in characters", FROM, "@s/" + "ä" * 1021),
    row("to a path", TO, "@artifact/apps/{app}/"),
    row("to the artifact without a slash", TO, "@artifact", TO),
    row("to a source", TO, "@s/apps", TO),
    row("to an alias that begins like the artifact", TO, "@artifacts/", TO),
    row("to nowhere", TO, "", TO),
    row("to the longest path", TO, "@artifact/" + "a" * 1014),
    row("to a path too long", TO, "@artifact/" + "a" * 1015, TO),
    row("nothing excluded", EXCLUDE, []),
    row("as many excludes as allowed", EXCLUDE, ["*.md"] * 100),
    row("one exclude too many", EXCLUDE, ["*.md"] * 101, EXCLUDE),
    row("an empty exclude", EXCLUDE, [""]),
    row("an exclude that is a number", EXCLUDE, [1], f"{EXCLUDE}[0]"),
    *(row(f"strategy {name}", STRATEGY, name) for name in ("Overwrite", "Merge", "Extract")),
    row("another strategy", STRATEGY, "merge", STRATEGY),
    row("an empty strategy", STRATEGY, "", STRATEGY),
]

READY = "status.conditions[0]"
STATUSES = [
    row("a status as the controller writes it", "status", STATUS),
    row("an empty status", "status", {}),
    row("two conditions of one type", "status.conditions", [CONDITION, CONDITION]),
    row(
        "a condition without anything",
        "status.conditions", [{}],
        *(f"{READY}.{field}" for field in ("lastTransitionTime", "message", "reason", "status", "type")),
    ),
    row("a condition without a generation", f"{READY}.observedGeneration", ABSENT),
    row("a condition for generation 0", f"{READY}.observedGeneration", 0),
    row("a condition for a negative generation", f"{READY}.observedGeneration", -1, f"{READY}.observedGeneration"),
    row("an unknown state", f"{READY}.status", "Unknown"),
    row("another state", f"{READY}.status", "true", f"{READY}.status"),
    row("an empty message", f"{READY}.message", ""),
    row("the longest message", f"{READY}.message", "ä" * 32768),
    row("a message too long", f"{READY}.message", "a" * 32769, f"{READY}.message"),
    row("the longest reason", f"{READY}.reason", "A" * 1024),
    row("a reason too long", f"{READY}.reason", "A" * 1025, f"{READY}.reason"),
    row("an empty reason", f"{READY}.reason", "", f"{READY}.reason"),
    row("a reason with a hyphen", f"{READY}.reason", "Build-Failed", f"{READY}.reason"),
    row("the longest type", f"{READY}.type", "a" * 316),
    row("a type too long", f"{READY}.type", "a" * 317, f"{READY}.type"),
    row("a type with a prefix", f"{READY}.type", "example.test/Ready"),
    row("a type with a space", f"{READY}.type", "Not Ready", f"{READY}.type"),
    row("a time with a zone", f"{READY}.lastTransitionTime", "2026-07-01T12:00:00+02:00"),
    row("a time that is none", f"{READY}.lastTransitionTime", "yesterday", f"{READY}.lastTransitionTime"),
    row("nothing published", "status.inventory", []),
    row("more published than any list of the spec may hold", "status.inventory", [ENTRY] * 1500),
    row(
        "an inventory entry without anything",
        "status.inventory", [{}],
        *(f"status.inventory[0].{field}" for field in ("digest", "filename", "name", "namespace")),
    ),
    row("an inventory entry of empty strings", "status.inventory", [dict.fromkeys(ENTRY, "")]),
    row("a digest of the sources that is a number", "status.observedSourcesDigest", 1, "status.observedSourcesDigest"),
    row("a handled request that is a number", "status.lastHandledReconcileAt", 1, "status.lastHandledReconcileAt"),
]  # fmt: skip


@pytest.fixture(scope="module")
def served(control_plane: ControlPlane) -> ControlPlane:
    """The control plane with the reference definition too, where there is one."""
    for definition in read_definitions([REFERENCE] if THEIRS in GROUPS else []):
        definition["spec"]["group"] = THEIRS
        definition["metadata"]["name"] = f"artifactgenerators.{THEIRS}"
        control_plane.install([definition])
    return control_plane


@pytest.fixture(scope="module", params=GROUPS)
def group(served: ControlPlane, request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def client(served: ControlPlane) -> Client:
    return served.client


@pytest.fixture(scope="module")
def stored(served: ControlPlane, group: str) -> Iterator[str]:
    """The path of a generator that is in the cluster, for writes of its status."""
    namespace = served.namespace()
    path = f"/apis/{group}/v1beta1/namespaces/{namespace}/artifactgenerators"
    served.client.create(path, generator(group, {"spec": SPEC}))
    yield f"{path}/web"
    served.clear(namespace)


def generator(group: str, content: Object) -> Object:
    return {"apiVersion": f"{group}/v1beta1", "kind": "ArtifactGenerator", "metadata": {"name": "web"}, **content}


def with_value(content: Object, path: str, value: object) -> Object:
    """The content with a value put at a path like `spec.sources[0].alias`, or removed from there."""
    changed = copy.deepcopy(content)
    *parents, last = path.replace("[", ".").replace("]", "").split(".")
    place: Any = changed
    for step in parents:
        place = place[int(step)] if step.isdigit() else place.setdefault(step, {})
    if value is ABSENT:
        del place[last]
    else:
        place[last] = value
    return changed


def refused_fields(error: Refused) -> list[str]:
    """The fields that the server names, each once."""
    assert error.status == 422, error
    # With other errors around, the server says in a cause without a field that it left rules out.
    return sorted({cause["field"] for cause in error.body["details"]["causes"]} - {"<nil>"})


@pytest.mark.parametrize(("path", "value", "refused"), SPECS)
def test_spec(client: Client, group: str, path: str, value: object, refused: list[str]) -> None:
    content = with_value({"spec": SPEC}, path, value)
    collection = f"/apis/{group}/v1beta1/namespaces/default/artifactgenerators?dryRun=All"

    fields, admitted = verdict(lambda: client.create(collection, generator(group, content)))

    assert fields == sorted(refused)
    assert not admitted or admitted.get("spec") == content.get("spec"), "nothing is defaulted, nothing is dropped"


@pytest.mark.parametrize(("path", "value", "refused"), STATUSES)
def test_status(client: Client, stored: str, path: str, value: object, refused: list[str]) -> None:
    content = with_value({"status": STATUS}, path, value)

    fields, admitted = verdict(lambda: client.merge(f"{stored}/status?dryRun=All", content))

    assert fields == sorted(refused)
    assert not admitted or admitted["status"] == content["status"], "nothing is defaulted, nothing is dropped"


def test_the_rule_on_names_says_what_is_wrong(client: Client, group: str) -> None:
    collection = f"/apis/{group}/v1beta1/namespaces/default/artifactgenerators?dryRun=All"
    with pytest.raises(Refused) as refused:
        client.create(collection, generator(group, {"spec": {**SPEC, "artifacts": [named("Web")]}}))

    [cause] = refused.value.body["details"]["causes"]
    assert cause["message"] == (
        "Invalid value: artifact names must be valid Kubernetes object names when pathPattern is not set"
    )


def test_unknown_fields_are_dropped(client: Client, group: str) -> None:
    content = {"spec": {**SPEC, "extra": 1, "sources": [{**SOURCE, "extra": 1}]}}
    collection = f"/apis/{group}/v1beta1/namespaces/default/artifactgenerators?dryRun=All"

    assert client.create(collection, generator(group, content))["spec"] == SPEC


def test_the_spec_and_the_status_are_written_apart(client: Client, stored: str) -> None:
    through_the_object = client.merge(f"{stored}?dryRun=All", {"status": STATUS})
    through_the_status = client.merge(f"{stored}/status?dryRun=All", {"spec": {"pathPattern": "@s/"}, "status": STATUS})

    assert "status" not in through_the_object
    assert through_the_status["spec"] == SPEC
    assert through_the_status["metadata"]["generation"] == 1


def test_names(client: Client, group: str) -> None:
    resources = client.get(f"/apis/{group}/v1beta1")["resources"]

    main, status = sorted(resources, key=lambda resource: str(resource["name"]))
    assert main["name"] == "artifactgenerators"
    assert (main["singularName"], main["kind"], main["shortNames"]) == (
        "artifactgenerator",
        "ArtifactGenerator",
        ["ag"],
    )
    assert (main["namespaced"], main["categories"]) == (True, ["all", "fluxcd", "fluxcd-sources"])
    assert status["name"] == "artifactgenerators/status"


def test_columns(served: ControlPlane, client: Client, group: str) -> None:
    namespace = served.namespace()
    path = f"/apis/{group}/v1beta1/namespaces/{namespace}/artifactgenerators"
    client.create(path, generator(group, {"spec": SPEC}))
    client.merge(f"{path}/web/status", {"status": STATUS})

    table = client.call("GET", path, accept="application/json;as=Table;v=v1;g=meta.k8s.io")

    columns = [(column["name"], column["type"]) for column in table["columnDefinitions"]]
    assert columns == [("Name", "string"), ("Age", "date"), ("Ready", "string"), ("Status", "string")]
    name, _, ready, status = table["rows"][0]["cells"]
    assert (name, ready, status) == ("web", "True", CONDITION["message"])
    served.clear(namespace)


@pytest.mark.parametrize("part", ["spec", "status"])
def test_the_server_publishes_the_schema_of_the_file(client: Client, group: str, part: str) -> None:
    [definition] = read_definitions([DEFINITION])
    expected = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][part]

    schemas = client.get(f"/openapi/v3/apis/{group}/v1beta1")["components"]["schemas"]
    [published] = [schema for name, schema in schemas.items() if name.endswith(".ArtifactGenerator")]

    assert without_descriptions(published["properties"][part]) == without_descriptions(expected)


def test_flux_does_not_substitute_variables_in_the_definition() -> None:
    [definition] = read_definitions([DEFINITION])

    assert definition["metadata"]["annotations"] == {
        "controller-gen.kubebuilder.io/version": "v0.21.0",
        "kustomize.toolkit.fluxcd.io/substitute": "disabled",
    }


def test_every_field_is_described() -> None:
    [definition] = read_definitions([DEFINITION])
    [version] = definition["spec"]["versions"]

    assert list(undescribed(version["schema"]["openAPIV3Schema"], "")) == [".metadata"]


def verdict(call: Callable[[], Object]) -> tuple[list[str], Object]:
    """The fields refused, and the object where none is."""
    try:
        return [], call()
    except Refused as error:
        return refused_fields(error), {}


def without_descriptions(value: Any) -> Any:
    match value:
        case dict():
            return {key: without_descriptions(part) for key, part in value.items() if not is_description(key, part)}
        case list():
            return [without_descriptions(part) for part in value]
        case _:
            return value


def is_description(key: str, part: object) -> bool:
    return key == "description" and isinstance(part, str)


def undescribed(schema: Object, path: str) -> Iterator[str]:
    """Paths of the fields below a schema that have no description."""
    for name, part in schema.get("properties", {}).items():
        if not part.get("description"):
            yield f"{path}.{name}"
        yield from undescribed(part.get("items", part), f"{path}.{name}")
