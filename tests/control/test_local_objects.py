"""Objects in a directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.control.local_world import LocalWorld
from tests.control.objects_contract import NOON, ObjectsContract

from sluice.local import LocalObjects


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path, lambda: NOON)


@pytest.fixture
def world(tmp_path: Path, objects: LocalObjects) -> LocalWorld:
    return LocalWorld(tmp_path, objects)


class TestLocalObjects(ObjectsContract):
    pass
