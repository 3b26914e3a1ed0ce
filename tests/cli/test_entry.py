"""The door: verbs, exit codes, the public API, and what `--help` costs."""

import subprocess
import sys
from pathlib import Path
from typing import cast

import click
import pytest
from tests.cli.running import invoke

import sluice
from sluice.cli import COMMANDS, EXIT_CODES, exit_code, load
from sluice.control.conditions import OwnershipConflict
from sluice.core.errors import Code, LimitExceeded, SluiceError

REFERENCE = Path(__file__).resolve().parents[2] / "docs/reference/commands.md"
STUB = Path(sluice.__file__).with_suffix(".pyi")


@pytest.mark.parametrize("family", SluiceError.__subclasses__())
def test_every_error_family_has_an_exit_code(family: type[SluiceError]) -> None:
    assert family in EXIT_CODES


def test_an_error_has_the_exit_code_of_its_family() -> None:
    assert exit_code(LimitExceeded("x", 1, "y")) == 1
    assert exit_code(OwnershipConflict("x")) == 1
    assert exit_code(sluice.SpecError(())) == 2
    assert exit_code(sluice.SourceError("x", Code.FETCH)) == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_verb_can_be_loaded(name: str) -> None:
    assert load(name).name == name


def test_help_lists_the_verbs() -> None:
    result = invoke("--help")

    assert result.exit_code == 0
    for name, (_, text) in COMMANDS.items():
        assert f"  {name}" in result.stdout
        assert text in result.stdout


def section(heading: str) -> str:
    """A part of the reference, up to the next."""
    return REFERENCE.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("controller", "serve")])
def test_every_verb_is_documented_with_its_options(name: str) -> None:
    own = section(f"sluice {name}")
    shared = section("sluice build" if "as for `sluice build`" in own else "Verbs for a cluster")
    names = [text for option in load(name).params if isinstance(option, click.Option) for text in option.opts]

    assert own
    assert [text for text in names if f"`{text}" not in own + shared] == []


def test_help_loads_no_verb_and_nothing_heavy() -> None:
    program = "import sys, sluice.cli; sluice.cli.cli.main(['--help'])"
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", program], capture_output=True, text=True, check=True
    )
    loaded = {line.rpartition("|")[2].strip() for line in told.stderr.splitlines()}

    heavy = {"yaml", "rich", "aiohttp", "asyncio", "isal", "structlog", "sluice.build", "sluice.core.spec"}
    assert loaded.isdisjoint(heavy | {place.partition(":")[0] for place, _ in COMMANDS.values()})
    assert "click" in loaded


def test_importing_sluice_loads_nothing_else_of_it() -> None:
    program = "import sys, sluice; print(*(name for name in sys.modules if name.startswith('sluice.')))"

    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "\n"


@pytest.mark.parametrize("name", sluice.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(sluice, name) is not None
    assert name in dir(sluice)


def test_the_stub_says_what_the_module_does() -> None:
    scope: dict[str, object] = {}
    exec(STUB.read_text(), scope)

    assert set(cast(list[str], scope["__all__"])) == set(sluice.__all__)
    assert {name: scope[name] for name in sluice.__all__} == {name: getattr(sluice, name) for name in sluice.__all__}


def test_a_name_that_is_not_public() -> None:
    with pytest.raises(AttributeError, match="module 'sluice' has no attribute 'nothing'"):
        getattr(sluice, "nothing".strip())
