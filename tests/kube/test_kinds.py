"""Where objects are served."""

import pytest

from sluice.core.errors import ApiError
from sluice.core.spec import SourceKind
from sluice.kube.kinds import ARTIFACT_GENERATOR, EVENT, LEASE, SOURCE_KINDS


def test_every_source_kind_has_its_row() -> None:
    assert {source: kind.name for source, kind in SOURCE_KINDS.items()} == {kind: kind.value for kind in SourceKind}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (EVENT.path("apps"), "/api/v1/namespaces/apps/events"),
        (LEASE.path("apps", "x"), "/apis/coordination.k8s.io/v1/namespaces/apps/leases/x"),
        (ARTIFACT_GENERATOR.path(), "/apis/source.extensions.fluxcd.io/v1beta1/artifactgenerators"),
        (
            ARTIFACT_GENERATOR.path("apps", "web", "status"),
            "/apis/source.extensions.fluxcd.io/v1beta1/namespaces/apps/artifactgenerators/web/status",
        ),
        (EVENT.path("apps", "a b?c#d"), "/api/v1/namespaces/apps/events/a%20b%3Fc%23d"),
    ],
)
def test_paths(path: str, expected: str) -> None:
    assert path == expected


@pytest.mark.parametrize("name", ["..", ".", "../../secrets/x", "a/b", "%2e%2e"])
def test_no_name_leads_elsewhere(name: str) -> None:
    with pytest.raises(ApiError) as error:
        EVENT.path("apps", name)

    assert str(error.value) == f"'{name}' is not a valid object name (lower-case letters, digits, '-' and '.')"


def test_messages_name_the_resource_as_the_server_does() -> None:
    assert (LEASE.resource, EVENT.resource) == ("leases.coordination.k8s.io", "events")
