"""What terminals, pipes and signals see of `sluice`, as a process."""

import io
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.cli.running import environment, process

from sluice.cli.output import Mark, Words, escape, human_size, table


def on_terminal(directory: Path, *arguments: str, **more: str) -> str:
    """What a terminal of its own sees of a command."""
    control, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "sluice", *arguments],
        cwd=directory,
        env=environment(**{"TERM": "xterm", **more}),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    ):
        os.close(terminal)
        seen = b""
        with suppress(OSError):  # which is how the end looks
            while data := os.read(control, 65536):
                seen += data
    os.close(control)
    return seen.decode()


BUILD = ("build", "shop.yaml", "--source", "repo=src")


def test_a_terminal_gets_colour(shop: Path) -> None:
    seen = on_terminal(shop, *BUILD)

    assert "\x1b[32m✔\x1b[0m built 1 artifact\r\n" in seen


@pytest.mark.parametrize("variable", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_that_wants_none(shop: Path, variable: dict[str, str]) -> None:
    seen = on_terminal(shop, *BUILD, **variable)

    assert "✔ built 1 artifact\r\n" in seen
    assert "\x1b" not in seen


def test_an_empty_no_color_says_nothing(shop: Path) -> None:
    assert "\x1b[32m✔" in on_terminal(shop, *BUILD, NO_COLOR="")


def test_a_pipe_gets_neither_colour_nor_cursor_codes(shop: Path) -> None:
    with process(*BUILD, directory=shop) as running:
        out, words = running.communicate()

    assert running.returncode == 0
    assert "\x1b" not in out + words
    assert words.endswith("✔ built 1 artifact\n")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param(BUILD, 0, id="all built"),
        pytest.param(("build", "shop.yaml"), 1, id="an artifact failed"),
        pytest.param(("build", "nowhere.yaml"), 2, id="nothing attempted"),
        pytest.param(("build",), 2, id="wrong usage"),
        pytest.param(("--version",), 0, id="the version"),
        pytest.param(("build", "--help"), 0, id="help"),
    ],
)
def test_the_exit_code(shop: Path, arguments: tuple[str, ...], code: int) -> None:
    with process(*arguments, directory=shop) as running:
        out, words = running.communicate()

    assert running.returncode == code
    assert "Traceback" not in out + words


def test_a_closed_pipe_is_quiet(shop: Path) -> None:
    with process(*BUILD, "-o", "json", directory=shop) as running:
        assert running.stdout is not None
        running.stdout.close()
        running.stdout = None
        _, words = running.communicate()

    assert running.returncode == 141
    assert words.endswith("✔ built 1 artifact\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_behind_standard_output(shop: Path) -> None:
    with Path("/dev/full").open("w") as full, process(*BUILD, directory=shop, stdout=full) as running:
        _, words = running.communicate()

    assert running.returncode == 1
    assert words.splitlines()[1:] == [
        "✔ built 1 artifact",
        "✗ standard output: cannot write: no space left on device",
    ]


@pytest.fixture
def waiting(shop: Path) -> Iterator["subprocess.Popen[str]"]:
    """A build that waits for a manifest which somebody writes at the other end of a pipe."""
    os.mkfifo(shop / "slow.yaml")
    with process("build", "slow.yaml", directory=shop) as running:
        # This end opens once the other does, so the command is under way.
        with (shop / "slow.yaml").open("wb"):
            yield running


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        pytest.param(signal.SIGINT, 130, "✗ interrupted\n", id="interrupted"),
        pytest.param(signal.SIGTERM, 143, "", id="terminated"),
    ],
)
def test_a_signal(waiting: "subprocess.Popen[str]", number: int, code: int, words: str) -> None:
    waiting.send_signal(number)

    assert waiting.communicate() == ("", words)
    assert waiting.returncode == code


class Terminal(io.StringIO):
    """A terminal that keeps what it is told; `shown` is set by the first cursor code."""

    def __init__(self) -> None:
        super().__init__()
        self.shown = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        written = super().write(text)
        if "fetching" in text:
            self.shown.set()
        return written


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def test_work_that_takes_long_is_shown_and_taken_away(terminal: Terminal) -> None:
    with Words(terminal, patience=0) as words:
        words.working("fetching")
        assert terminal.shown.wait(120)
        words.say(Mark.SUCCESS, "done")
        words.working("and more")

    text = terminal.getvalue()
    assert "\x1b[32m✔\x1b[0m done\n" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_work_that_is_quick_is_not_shown(terminal: Terminal) -> None:
    with Words(terminal, patience=600) as words:
        words.working("fetching")
        words.say(Mark.SUCCESS, "done")

    assert terminal.getvalue() == "\x1b[32m✔\x1b[0m done\n"


def test_without_a_terminal_work_is_not_shown() -> None:
    out = io.StringIO()

    with Words(out, patience=0) as words:
        words.working("fetching")
        words.say(Mark.WAITING, "for it")

    assert out.getvalue() == "◎ for it\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("naïve ✔", "naïve ✔", id="what can be seen"),
        pytest.param("a\nb\tc", r"a\nb\tc", id="line breaks and tabs"),
        pytest.param("\x1b[2J\x9b\x07", r"\x1b[2J\x9b\x07", id="control sequences"),
        pytest.param("\u202eabc", r"\u202eabc", id="a change of direction"),
        pytest.param("\udcff", r"\udcff", id="a byte that is not UTF-8"),
    ],
)
def test_escape(text: str, shown: str) -> None:
    assert escape(text) == shown


def test_a_table_lines_up() -> None:
    assert table(("A", "BB"), [("long", "x"), ("", "y\n")]) == "A      BB\nlong   x\n       y\\n\n"


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 40, "5120.0 GiB")])
def test_sizes(size: int, text: str) -> None:
    assert human_size(size) == text
