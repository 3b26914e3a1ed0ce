"""Run the tables of copy operations in the documentation.

``<!-- tree: ALIAS -->`` before a fenced block lists the files of a source. Each row of a table after
``<!-- copies -->`` is one operation on it: columns `from`, `to` and perhaps `exclude` and `strategy`, and one for each
dialect (`artifact` is `documented`) with the files that come out, ``error``, or nothing where it makes no file.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sluice.core.compose import compose
from sluice.core.dialect import DIALECTS, DialectName
from sluice.core.errors import BuildError, SpecError
from sluice.core.plan import plan_recipe
from sluice.core.spec import CopySpec, Strategy
from sluice.core.tree import Directory, File

ROOT = Path(__file__).resolve().parents[2]
TREE = re.compile(r"^<!-- tree: (\w+) -->\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TABLE = re.compile(r"^<!-- copies -->\n((?:\|.*\n)+)", re.MULTILINE)
DIALECT_COLUMNS = {
    "artifact": DialectName.DOCUMENTED,
    "documented": DialectName.DOCUMENTED,
    "upstream": DialectName.UPSTREAM,
}


def code_spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def rows(text: str) -> Iterator[tuple[DialectName, str, Directory, CopySpec, str]]:
    """Each expectation of a page: the dialect, the source with its files, the operation, and the cell."""
    trees = [(match.start(), match[1], match[2].split("\n")[:-1]) for match in TREE.finditer(text)]
    for table in TABLE.finditer(text):
        _, alias, files = max(tree for tree in trees if tree[0] < table.start())
        tree = Directory.of({path: path.encode() for path in files})
        header, _, *lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[1].splitlines()]
        for line in lines:
            cells = dict(zip((name.strip("`") for name in header), line, strict=True))
            operation = CopySpec(
                source=code_spans(cells["from"])[0],
                to=code_spans(cells["to"])[0],
                exclude=tuple(code_spans(cells.get("exclude", ""))),
                strategy=cells.get("strategy", "").strip("`") or Strategy.OVERWRITE,
            )
            for column in cells.keys() & DIALECT_COLUMNS:
                yield DIALECT_COLUMNS[column], alias, tree, operation, cells[column]


def make(dialect: DialectName, alias: str, tree: Directory, operation: CopySpec) -> dict[str, bytes] | None:
    """The files that an operation makes, None for an error."""
    try:
        recipe = plan_recipe([operation], "copy", [alias], DIALECTS[dialect])
        made = compose(recipe, {alias: tree}, unpack=lambda _: Directory.of({})).tree
    except (SpecError, BuildError):
        return None
    return {path: entry.read() for path, entry in made.walk() if isinstance(entry, File)}


PAGES = [page for page in sorted(ROOT.glob("docs/**/*.md")) if "<!-- copies -->" in page.read_text()]


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_the_tables_of(page: Path) -> None:
    problems = []
    for dialect, alias, tree, operation, cell in rows(page.read_text()):
        expected = None if cell == "error" else sorted(code_spans(cell))
        made = make(dialect, alias, tree, operation)
        if (made if made is None else sorted(made)) != expected:
            problems.append(f"{dialect}: {operation.source} to {operation.to} without {operation.exclude}: {made}")

    assert problems == []


def test_a_wrong_row_is_found() -> None:
    page = """
<!-- tree: s -->
```text
a/x
b
```

<!-- copies -->
| `from` | `to` | documented | upstream |
| --- | --- | --- | --- |
| `@s/a/*` | `@artifact/` | `x` | `a/x` |
| `@s/c` | `@artifact/` | error | error |
"""
    made = {
        (dialect, operation.source): make(dialect, "s", tree, operation)
        for dialect, _, tree, operation, _ in rows(page)
    }

    assert made == {
        (DialectName.DOCUMENTED, "@s/a/*"): {"x": b"a/x"},
        (DialectName.UPSTREAM, "@s/a/*"): {"a/x": b"a/x"},
        (DialectName.DOCUMENTED, "@s/c"): None,
        (DialectName.UPSTREAM, "@s/c"): None,
    }
