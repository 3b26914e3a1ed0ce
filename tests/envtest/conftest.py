"""The API server and Helm for these tests."""

from tests.envtest.fixtures import control_plane as control_plane
from tests.envtest.fixtures import helm as helm
from tests.envtest.fixtures import namespace as namespace
