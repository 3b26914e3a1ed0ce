r"""What source-controller leaves out when it archives a source.

The rules look like gitignore's and are read as Flux reads them, which is not how Git does:

- Every path is judged on its own. A file below a directory that is left out is taken again when a
  later rule says so, and the last rule that matches a path decides.
- A rule that matches a directory matches everything below it.
- ``**`` goes to the first name that fits the rest of the rule and does not look further.
- Within a name, ``*``, ``?``, ``[a-z]``, ``[^a-z]`` and ``\`` are special. A malformed rule matches
  nothing.
- The built-in rules against VCS files always hold, as the weakest. Those against pictures, archives,
  CI and tool files hold only where neither a ``.sourceignore`` nor ``spec.ignore`` has any rule.

A rule is a row of names to be met one after the other, so how far it got is one number, and how far
all of them got is a state. States are made when they are first needed and remember where each name
leads: in most directories, judging an entry is one look into a dictionary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from msgspec import Struct

from sluice.core.errors import BuildError, Code
from sluice.core.tree import Directory, Entry, File, Link

IGNORE_FILE: Final = ".sourceignore"
MAX_IGNORE_SIZE: Final = 1 << 20
"""Bytes of one ignore file."""

VCS = ".git/ .gitignore .gitmodules .gitattributes"
MEDIA = "*.jpg *.jpeg *.gif *.png *.wmv *.flv *.tar.gz *.zip"
CI = (
    ".github/ .circleci/ .travis.yml .gitlab-ci.yml appveyor.yml .drone.yml cloudbuild.yaml codeship-services.yml"
    " codeship-steps.yml"
)
EXTRA = "**/.goreleaser.yml **/.sops.yaml **/.flux.yaml"

NameTest = Callable[[str], bool]


class Step(Struct, frozen=True, eq=False):
    """One name that a rule waits for; `anywhere` when directories may come before it."""

    fits: NameTest
    anywhere: bool


class Rule(Struct, frozen=True, eq=False):
    """One line: whether what it matches stays `out`, and if it matches directories only."""

    steps: tuple[Step, ...]
    out: bool
    directories_only: bool


def parse_rules(text: str) -> tuple[Rule, ...]:
    """The rules of an ignore file or of ``spec.ignore``, in order."""
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return tuple(_parse_rule(line) for line in lines if line.strip() and not line.startswith("#"))


def _parse_rule(line: str) -> Rule:
    body = line.removeprefix("!")
    if not body.endswith("\\ "):
        body = body.rstrip(" ")
    directories_only = body.endswith("/")
    names = body[: len(body) - directories_only].split("/")
    steps = list(_parse_steps(names)) if len(names) > 1 else [_step(names[0], anywhere=True)]
    # A rule with a name that nothing can meet stays, without steps: that it is there counts.
    met = tuple(step for step in steps if step is not None)
    return Rule(met if len(met) == len(steps) else (), not line.startswith("!"), directories_only)


def _parse_steps(names: Sequence[str]) -> Iterator[Step | None]:
    anywhere = False
    for index, name in enumerate(names):
        if name == "**":
            anywhere = index < len(names) - 1
        elif not name:
            anywhere = False
        else:
            yield None if "**" in name else _step(name, anywhere=anywhere)
            anywhere = False


def _step(pattern: str, *, anywhere: bool) -> Step | None:
    fits = _name_test(pattern)
    return None if fits is None else Step(fits, anywhere)


_TOKEN = re.compile(r"(?s)(?P<star>\*+)|(?P<any>\?)|\[(?P<not>\^?+)(?P<set>(?:\\.|[^]\\])+)\]|\\(?P<escaped>.)|[^\\[]")
_RANGE = re.compile(r"(?s)(?:\\(.)|([^-\\]))(?:-(?:\\(.)|([^-\\])))?")


def _name_test(pattern: str) -> NameTest | None:
    """Whether a name fits a pattern; None for a malformed pattern.

    Between two stars the length is fixed, so taking the first place that fits is enough and the
    time is linear in the name for each star.
    """
    pieces: list[list[str]] = [[]]
    plain = True
    at = 0
    while at < len(pattern):
        token = _TOKEN.match(pattern, at)
        if token is None:
            return None
        at = token.end()
        if token["star"]:
            pieces.append([])
        elif token["any"]:
            pieces[-1].append(".")
            plain = False
        elif token["set"]:
            characters = _character_class(token["set"], negated=bool(token["not"]))
            if characters is None:
                return None
            pieces[-1].append(characters)
            plain = False
        else:
            pieces[-1].append(re.escape(token["escaped"] or token[0]))
    if plain and len(pieces) == 1:
        return re.sub(r"(?s)\\(.)", r"\1", pattern).__eq__
    if plain and len(pieces) == 2 and not pieces[0]:
        suffix = re.sub(r"(?s)\\(.)", r"\1", pattern.lstrip("*"))
        return lambda name: name.endswith(suffix)
    return partial(_fits_pieces, [(re.compile("(?s)" + "".join(piece)), len(piece)) for piece in pieces])


def _character_class(text: str, *, negated: bool) -> str | None:
    ranges = []
    at = 0
    while at < len(text):
        found = _RANGE.match(text, at)
        if found is None:
            return None
        at = found.end()
        low = found[1] or found[2]
        high = found[3] or found[4] or low
        if low <= high:
            ranges.append(f"{re.escape(low)}-{re.escape(high)}")
    if not ranges:
        return "." if negated else r"(?!)"
    return f"[{'^' * negated}{''.join(ranges)}]"


def _fits_pieces(pieces: Sequence[tuple[re.Pattern[str], int]], name: str) -> bool:
    (first, length), *rest = pieces
    if not rest:
        return first.fullmatch(name) is not None
    if not first.match(name):
        return False
    *middle, (last, tail) = rest
    at = length
    for piece, _ in middle:
        found = piece.search(name, at)
        if found is None:
            return False
        at = found.end()
    return len(name) - tail >= at and last.fullmatch(name, len(name) - tail) is not None


class _Verdict(Struct, frozen=True, eq=False):
    """What a name leads to: out as a file, out as a directory (None: no rule says), and the state below."""

    file: bool | None
    directory: bool | None
    below: _State


class _State:
    """How far rules got on the way to a directory; the strongest rule first.

    `out` is the verdict of the strongest rule that matched the directory itself; weaker rules
    are gone, since whatever is below matches it as well.
    """

    __slots__ = ("_known", "_verdicts", "out", "rules")

    def __init__(
        self,
        rules: tuple[tuple[Rule, int], ...],
        out: bool | None,
        known: dict[tuple[tuple[tuple[Rule, int], ...], bool | None], _State],
    ) -> None:
        self.rules = rules
        self.out = out
        self._known = known
        self._verdicts: dict[str, _Verdict] = {}

    @classmethod
    def of(cls, rules: Sequence[Rule]) -> _State:
        return cls((), None, {}).stronger(rules)

    def stronger(self, rules: Sequence[Rule]) -> _State:
        """The state with further rules, which win over those before."""
        return self._state((*((rule, 0) for rule in reversed(rules) if rule.steps), *self.rules), self.out)

    def _state(self, rules: tuple[tuple[Rule, int], ...], out: bool | None) -> _State:
        state = self._known.get((rules, out))
        if state is None:
            state = self._known[rules, out] = _State(rules, out, self._known)
        return state

    def judge(self, name: str) -> _Verdict:
        verdict = self._verdicts.get(name)
        if verdict is None:
            verdict = self._verdicts[name] = self._judge(name)
        return verdict

    def _judge(self, name: str) -> _Verdict:
        file: bool | None = None
        directory: bool | None = None
        below: list[tuple[Rule, int]] = []
        for rule, at in self.rules:
            step = rule.steps[at]
            if not step.fits(name):
                if step.anywhere and directory is None:
                    below.append((rule, at))
            elif at + 1 < len(rule.steps):
                if directory is None:
                    below.append((rule, at + 1))
            else:
                directory = rule.out if directory is None else directory
                if not rule.directories_only:
                    file = rule.out
                    break
        directory = self.out if directory is None else directory
        file = self.out if file is None else file
        return _Verdict(file, directory, self._state(tuple(below), directory))


def _select(
    directory: Directory, path: str, tree: _State, spec: _State, nested: Mapping[str, Sequence[Rule]], *, objects: bool
) -> Directory:
    """A directory without what the rules leave out; the same object where that is nothing."""
    if path in nested:
        tree = tree.stronger(nested[path])
    kept: dict[str, Entry] = {}
    same = True
    for name, entry in directory.entries.items():
        weak, strong = tree.judge(name), spec.judge(name)
        if isinstance(entry, Directory):
            below = f"{path}/{name}" if path else name
            inner = _select(entry, below, weak.below, strong.below, nested, objects=objects)
            out = weak.directory if strong.directory is None else strong.directory
            if inner.entries or not (out or objects):
                kept[name] = inner
                same &= inner is entry
                continue
        elif isinstance(entry, File):
            out = weak.file if strong.file is None else strong.file
            if not out:
                kept[name] = entry
                continue
        same = False
    return directory if same else Directory.of_entries(kept)


def _ignore_files(tree: Directory) -> Iterator[tuple[str, Sequence[Rule]]]:
    """The rules of every ignore file, by the directory that it is about."""
    todo = [("", tree)]
    while todo:
        path, directory = todo.pop()
        if IGNORE_FILE in directory.entries:
            where = f"{path}/{IGNORE_FILE}" if path else IGNORE_FILE
            found = tree.find(where)
            if isinstance(found, File):
                yield path, _read_rules(where, found)
        for name, entry in directory.entries.items():
            if isinstance(entry, Directory) and name != ".git":
                todo.append((f"{path}/{name}" if path else name, entry))


def _read_rules(path: str, file: File) -> tuple[Rule, ...]:
    if file.size > MAX_IGNORE_SIZE:
        raise BuildError(f"'{path}': {file.size} bytes (an ignore file has at most {MAX_IGNORE_SIZE})", Code.LIMIT)
    return parse_rules(file.read().decode("utf-8", "surrogateescape"))


def _parse_words(text: str) -> tuple[Rule, ...]:
    return parse_rules(text.replace(" ", "\n"))


_VCS_RULES = _parse_words(VCS)
_DEFAULT_RULES = _parse_words(f"{VCS} {MEDIA} {CI} {EXTRA}")


def _filter_repository(tree: Directory, ignore: str) -> Directory:
    """Built-in rules, ignore files of any directory, then ``spec.ignore``."""
    nested = dict(_ignore_files(tree))
    spec = parse_rules(ignore)
    builtin = _VCS_RULES if spec or any(nested.values()) else _DEFAULT_RULES
    return _select(tree, "", _State.of(builtin), _State.of(spec), nested, objects=False)


def _filter_bucket(tree: Directory, ignore: str) -> Directory:
    """The ignore file of the root, then ``spec.ignore``; a bucket holds objects and no directories.

    The ignore file itself always stays: it is fetched before the rules are known.
    """
    found = tree.find(IGNORE_FILE)
    rules = _read_rules(IGNORE_FILE, found) if isinstance(found, File) else ()
    selected = _select(tree, "", _State.of(rules), _State.of(parse_rules(ignore)), {}, objects=True)
    if isinstance(found, File) and IGNORE_FILE not in selected.entries:
        return Directory.of_entries({**selected.entries, IGNORE_FILE: found})
    return selected


def _drop_links(tree: Directory, _: str) -> Directory:
    """Everything but links."""
    if not tree.has_links:
        return tree
    return Directory.of_entries(
        {
            name: _drop_links(entry, "") if isinstance(entry, Directory) else entry
            for name, entry in tree.entries.items()
            if not isinstance(entry, Link)
        }
    )


FILTERS: Mapping[str, Callable[[Directory, str], Directory]] = {
    "GitRepository": _filter_repository,
    "OCIRepository": _filter_repository,
    "Bucket": _filter_bucket,
    "HelmChart": _drop_links,
    "ExternalArtifact": _drop_links,
}
"""How each source kind picks what goes into its archive, from a tree and ``spec.ignore``."""


def filter_source(tree: Directory, kind: str, ignore: str | None = None) -> Directory:
    """What source-controller would archive of a tree, for a source of this kind; links are never in it.

    Directories that lose nothing are shared with `tree`.
    """
    return FILTERS[kind](tree, ignore or "")
