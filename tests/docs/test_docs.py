"""Run the examples of the documentation.

A comment before a fenced block says what to do with it. ``<!-- run -->`` runs a `python` block, or a `console` block:
lines after ``$`` are commands, lines after ``>`` go on with them, the others are what they print. ``<!-- run: exit 1
-->`` expects that exit code of the last command; ``<!-- file: NAME -->`` writes the block to a file. The blocks of a
page run in order, in one copy of `examples/`. In expected output ``...`` stands for anything within a line, and alone
on a line for any number of lines.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(
    r"^ *<!-- (?P<verb>run|file)(?:: *(?P<argument>[^\n]+?))? -->\n+"
    r"(?P<indent> *)```(?P<language>\w+)[^\n]*\n(?P<body>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
MARK = re.compile(r"^ *<!-- (?:run|file)\b", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A marked block of a page, and where it stands."""

    line: int
    verb: str
    argument: str
    language: str
    body: str

    @property
    def exit_code(self) -> int:
        return int(self.argument.removeprefix("exit ")) if self.argument else 0


def blocks(text: str) -> list[Block]:
    found = []
    for match in BLOCK.finditer(text):
        body = re.sub(rf"^{match['indent']}", "", match["body"], flags=re.MULTILINE)
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(line, match["verb"], match["argument"] or "", match["language"], body))
    assert len(found) == len(MARK.findall(text)), "a mark without a fenced block after it"
    return found


def commands(body: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block with what it prints."""
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        first, *rest = part.splitlines(keepends=True)
        more = list(itertools.takewhile(lambda line: line.startswith("> "), rest))
        command = first + "".join(line.removeprefix("> ") for line in more)
        yield command.rstrip("\n"), "".join(rest[len(more) :])


def fits(expected: str, printed: str) -> bool:
    pattern = ""
    for line in expected.splitlines():
        if line.strip() == "...":
            pattern += r"(?:[^\n]*\n)*"
        else:
            pattern += r"[^\n]*".join(map(re.escape, line.rstrip().split("..."))) + r"[ \t]*\n"
    return re.fullmatch(pattern, printed if not printed or printed.endswith("\n") else f"{printed}\n") is not None


def run(arguments: list[str], directory: Path) -> tuple[int, str]:
    scripts = str(Path(sys.executable).parent)
    environment = {
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(directory),
        "LC_ALL": "C.UTF-8",
        "NO_COLOR": "1",
        "COLUMNS": "120",
    }
    ran = subprocess.run(
        arguments,
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
        check=False,
    )
    return ran.returncode, ran.stdout.decode(errors="replace")


def try_block(block: Block, directory: Path) -> Iterator[str]:
    """Do what a block says; yields what went otherwise."""
    if block.verb == "file":
        target = directory / block.argument
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(block.body)
        return
    match block.language:
        case "python":
            code, printed = run([sys.executable, "-c", block.body], directory)
            if code != block.exit_code:
                yield f"exit code {code}, printed:\n{printed}"
        case "console":
            steps = list(commands(block.body))
            for number, (command, expected) in enumerate(steps, 1):
                code, printed = run(["bash", "-c", command], directory)
                if not fits(expected, printed) or code != (block.exit_code if number == len(steps) else 0):
                    yield f"$ {command}\nexit code {code}, printed:\n{printed}\nexpected:\n{expected}"
        case other:
            yield f"no way to run '{other}'"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    examples, copy = ROOT / "examples", tmp_path / "examples"
    if examples.is_dir():
        shutil.copytree(examples, copy)
    else:
        copy.mkdir()
    return copy


def pages() -> Iterator[Path]:
    for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]:
        if page.is_file() and MARK.search(page.read_text()):
            yield page


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages()])
def test_the_examples_of(page: Path, directory: Path) -> None:
    problems = [
        f"{page.name}:{block.line}: {problem}"
        for block in blocks(page.read_text())
        for problem in try_block(block, directory)
    ]

    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        pytest.param("a\nb\n", "a\nb\n", True, id="the same"),
        pytest.param("a\nb\n", "a\nc\n", False, id="another line"),
        pytest.param("a\n", "a\nb\n", False, id="a line too many"),
        pytest.param("", "a\n", False, id="something instead of nothing"),
        pytest.param("", "", True, id="nothing"),
        pytest.param("a\n", "a", True, id="no newline at the end"),
        pytest.param("took ... ms\n", "took 12 ms\n", True, id="dots within a line"),
        pytest.param("took ... ms\n", "took 12\n ms\n", False, id="dots within a line do not cross it"),
        pytest.param("a\n...\nz\n", "a\nb\nc\nz\n", True, id="dots for lines"),
        pytest.param("a\n...\nz\n", "a\nz\n", True, id="dots for no lines"),
        pytest.param("a.b\n", "axb\n", False, id="one dot is itself"),
    ],
)
def test_expected_output(expected: str, printed: str, same: bool) -> None:
    assert fits(expected, printed) is same


def test_a_wrong_example_is_found(directory: Path) -> None:
    page = """
<!-- file: sub/name.txt -->
```text
sluice
```

<!-- run -->
```console
$ cat sub/name.txt
sluice
$ echo one \\
>   two
one three
```

  <!-- run: exit 3 -->
  ```python
  raise SystemExit(3)
  ```
"""

    problems = [problem for block in blocks(page) for problem in try_block(block, directory)]

    assert problems == ["$ echo one \\\n  two\nexit code 0, printed:\none two\n\nexpected:\none three\n"]


def test_a_mark_without_a_block_is_an_error() -> None:
    with pytest.raises(AssertionError, match="a mark without a fenced block"):
        blocks("<!-- run -->\n\ntext\n")
