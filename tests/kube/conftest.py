"""The API server for these tests."""

from tests.envtest.fixtures import control_plane as control_plane
from tests.envtest.fixtures import namespace as namespace
