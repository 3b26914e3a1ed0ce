"""Fixtures for the command line."""

from pathlib import Path

import pytest
from tests.cli.running import FILES, write


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path


@pytest.fixture
def shop(here: Path) -> Path:
    """The current directory, with a generator and the files of its source."""
    write(here, FILES)
    (here / "src/web/sub/run.sh").chmod(0o755)
    return here
