"""pathPattern: one set of artifacts for every directory of a source that has a certain path.

``@repo/apps/{app}`` names the directories below ``apps`` and captures their names. The captures are
filled into the templates: as found into `from` and `to`, in lower case into names and labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from sluice.core.dialect import Dialect
from sluice.core.errors import BuildError, Code, LimitExceeded, Problem, SluiceError, SpecError, quote
from sluice.core.limits import Limits
from sluice.core.spec import OBJECT_NAME, ArtifactGenerator, ArtifactSpec, CopySpec, unknown_alias
from sluice.core.tree import Directory

_IDENTIFIER = re.compile("[A-Za-z_][A-Za-z0-9_]*")
_LABEL_VALUE = re.compile("[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_MAX_LABEL = 63
WHERE = "spec.pathPattern"


class Capture(Struct, frozen=True):
    """A place in a pattern or template that stands for what was found."""

    name: str


Token = str | Capture


class PathPattern(Struct, frozen=True):
    """A parsed pathPattern: for each path component its literal texts and captures, in turn."""

    text: str
    alias: str
    components: tuple[tuple[Token, ...], ...]
    captures: tuple[str, ...]


class Rendered(Struct, frozen=True):
    """An artifact of one directory: the template filled in, and the captures as labels."""

    spec: ArtifactSpec
    labels: Mapping[str, str]
    directory: str


class Failure(Struct, frozen=True, eq=False):
    """An artifact that cannot be planned or built, and why."""

    name: str
    error: SluiceError


def parse_path_pattern(text: str, aliases: Sequence[str], dialect: Dialect) -> PathPattern:
    """Read a pathPattern. Raises `SpecError`."""
    head, slash, path = text.partition("/")
    if not slash or not head.startswith("@"):
        raise _wrong(f"{quote(text)} has no source ('@<alias>/<path>')")
    alias = head[1:]
    if alias not in aliases:
        raise SpecError(Problem(Code.UNKNOWN_ALIAS, unknown_alias(alias, aliases), WHERE))
    tokens = _tokens(path, text)
    captures = [token.name for token in tokens if isinstance(token, Capture)]
    for name in captures:
        if captures.count(name) > 1:
            raise _wrong(f"{quote(text)} captures {quote(name)} twice")
        if not (name[0].isalnum() and name[-1].isalnum() and len(name) <= _MAX_LABEL):
            raise _wrong(
                f"{quote(name)} is not a label (letters, digits and '_', alphanumeric at both ends, at most 63)"
            )
    components = _split(tokens)
    if not dialect.lenient_pattern:
        components = _normalised(components, text)
    return PathPattern(text, alias, tuple(map(tuple, components)), tuple(captures))


def _wrong(text: str) -> SpecError:
    return SpecError(Problem(Code.INVALID_SPEC, text, WHERE))


def _split(tokens: Sequence[Token]) -> list[list[Token]]:
    """Tokens grouped by path component."""
    components: list[list[Token]] = [[]]
    for token in tokens:
        if isinstance(token, Capture):
            components[-1].append(token)
            continue
        first, *others = token.split("/")
        if first:
            components[-1].append(first)
        components += [[part] if part else [] for part in others]
    return components


def _normalised(components: list[list[Token]], text: str) -> list[list[Token]]:
    if len(components) > 1 and not components[0]:
        raise _wrong(f"{quote(text)} has a leading slash after its source (a path below it)")
    if [".."] in components:
        raise _wrong(f"{quote(text)} holds '..' (a path below the source)")
    return [component for component in components if component not in ([], ["."])]


def _tokens(text: str, of: str, *, alternatives: bool = False) -> list[Token]:
    r"""Literal texts and captures of a pattern or template, where every brace is a capture's.

    With `alternatives`, braces with a comma are literal text, captures may stand between them, and
    ``\x`` is text too.
    """
    tokens: list[Token] = []
    literal = at = 0
    opened: list[tuple[int, bool]] = []  # where braces opened, and whether a comma was seen in each
    while at < len(text):
        match text[at]:
            case "\\" if alternatives:
                at += 1
            case "{":
                opened.append((at, False))
            case "," if opened and alternatives:
                opened[-1] = opened[-1][0], True
            case "}":
                if not opened:
                    raise _wrong(f"{quote(of)} has a '}}' without a '{{'")
                opening, has_comma = opened.pop()
                if not has_comma:
                    tokens += [text[literal:opening], _capture(text[opening + 1 : at], of)]
                    literal = at + 1
        at += 1
    if opened:
        raise _wrong(f"{quote(of)} has a '{{' without a '}}'")
    return [token for token in [*tokens, text[literal:]] if token]


def _capture(name: str, of: str) -> Capture:
    if not _IDENTIFIER.fullmatch(name):
        raise _wrong(
            f"{quote(f'{{{name}}}')} in {quote(of)} is not a capture (letters, digits and '_', no digit first)"
        )
    return Capture(name)


# --- matching -----------------------------------------------------------------------------------


def find_directories(pattern: PathPattern, tree: Directory) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The directories of a tree that match, in walk order, with their captures."""
    if pattern.components:
        yield from _find(pattern.components, tree, "", {})


def _find(
    components: Sequence[Sequence[Token]], directory: Directory, path: str, captured: Mapping[str, str]
) -> Iterator[tuple[str, Mapping[str, str]]]:
    component, *others = components
    literal = all(isinstance(token, str) for token in component)
    names = ["".join(map(str, component))] if literal else directory.entries
    for name in names:
        entry = directory.entries.get(name)
        if not isinstance(entry, Directory) or (found := _match(component, name)) is None:
            continue
        where = f"{path}/{name}" if path else name
        if others:
            yield from _find(others, entry, where, {**captured, **found})
        else:
            yield where, {**captured, **found}


def _match(tokens: Sequence[Token], name: str) -> Mapping[str, str] | None:
    """The captures of one component, each as long as the rest allows; None without a match.

    Works back to front: for each token, the places from which it and all after it match. So a
    pattern with many captures costs its length times the name's, and nothing is tried twice.
    """
    ends = {len(name)}
    starts: list[set[int]] = []
    for token in reversed(tokens):
        if isinstance(token, Capture):
            ends = set(range(max(ends))) if ends else set()
        else:
            ends = {end - len(token) for end in ends if end >= len(token) and name.endswith(token, 0, end)}
        starts.insert(0, ends)
    if 0 not in ends:
        return None
    captured: dict[str, str] = {}
    position = 0
    for number, token in enumerate(tokens):
        if isinstance(token, Capture):
            following = starts[number + 1] if number + 1 < len(tokens) else {len(name)}
            end = max(place for place in following if place > position)
            captured[token.name] = name[position:end]
            position = end
        else:
            position += len(token)
    return captured


# --- rendering ----------------------------------------------------------------------------------


def expand_path_pattern(
    generator: ArtifactGenerator, pattern: PathPattern, tree: Directory, dialect: Dialect, limits: Limits
) -> tuple[Rendered | Failure, ...]:
    """The artifacts of all matching directories, in walk order and then in the templates' order.

    A directory whose captures or names Kubernetes would refuse, and directories that give one name,
    fail alone. Raises `SpecError` for wrong templates.
    """
    directories = list(find_directories(pattern, tree))
    if not directories and dialect.lenient_pattern:
        return ()
    check_templates(generator, pattern, dialect)
    made: dict[str, list[Rendered | Failure]] = {}
    for path, captured in directories:
        for spec in generator.artifacts:
            result = _render(spec, captured, path, dialect)
            name = result.spec.name if isinstance(result, Rendered) else result.name
            made.setdefault(name, []).append(result)
            if len(made) > limits.artifacts:
                raise LimitExceeded(
                    f"more artifacts than allowed from {quote(pattern.text)}", limits.artifacts, "artifacts"
                )
    return tuple(_only(name, results) for name, results in made.items())


def _only(name: str, results: Sequence[Rendered | Failure]) -> Rendered | Failure:
    """The one artifact of a name; a failure if there are several or any of them failed."""
    for result in results:
        if isinstance(result, Failure) or len(results) == 1:
            return result
    directories = [result.directory for result in results if isinstance(result, Rendered)]
    shown = [f"'{directory}'" for directory in dict.fromkeys(directories)]
    more = [f"{len(shown) - 5} more"] if len(shown) > 5 else []
    *first, last = [*shown[:5], *more]
    text = f"directories {', '.join(first)} and {last} all give" if first else f"directory {last} gives twice"
    return Failure(name, BuildError(f"{text} the artifact name '{name}'", Code.NAME_COLLISION))


def check_templates(generator: ArtifactGenerator, pattern: PathPattern, dialect: Dialect) -> None:
    """Read every template against the captures that the pattern declares. Raises `SpecError`."""
    stand_in = dict.fromkeys(pattern.captures, "x")
    problems: list[Problem] = []
    for number, artifact in enumerate(generator.artifacts):
        texts = [("name", artifact.name, False)]
        for index, copy in enumerate(artifact.copy):
            texts += [(f"copy[{index}].from", copy.source, dialect.braces), (f"copy[{index}].to", copy.to, False)]
        for field, text, alternatives in texts:
            try:
                _fill(text, stand_in, alternatives=alternatives)
            except SpecError as error:
                where = f"spec.artifacts[{number}].{field}"
                problems += [Problem(problem.code, problem.text, where) for problem in error.problems]
    if problems:
        raise SpecError(problems)


def _render(spec: ArtifactSpec, captured: Mapping[str, str], directory: str, dialect: Dialect) -> Rendered | Failure:
    labels = {name: lower(value) for name, value in captured.items()}
    name = _fill(spec.name, labels, alternatives=False)
    for capture, value in labels.items():
        if len(value) > _MAX_LABEL or not _LABEL_VALUE.fullmatch(value):
            text = f"directory '{directory}': '{value}' for '{{{capture}}}' is not a label value"
            rule = "letters, digits, '-', '_' and '.', alphanumeric at both ends, at most 63"
            return Failure(name, BuildError(f"{text} ({rule})", Code.INVALID_NAME))
    if not OBJECT_NAME.accepts(name):
        text = f"directory '{directory}': '{name}' is not a valid object name ({OBJECT_NAME.words})"
        return Failure(name, BuildError(text, Code.INVALID_NAME))
    copies = tuple(
        CopySpec(
            source=_fill(copy.source, captured, alternatives=dialect.braces),
            to=_fill(copy.to, captured, alternatives=False),
            exclude=copy.exclude,
            strategy=copy.strategy,
        )
        for copy in spec.copy
    )
    return Rendered(ArtifactSpec(name, copies, spec.revision, spec.origin_revision), labels, directory)


def lower(text: str) -> str:
    """Lower case character by character, as Kubernetes' own language does it: never longer."""
    return "".join(character.lower()[0] for character in text)


def _fill(text: str, values: Mapping[str, str], *, alternatives: bool) -> str:
    """A template filled in; `alternatives` as for its tokens."""
    return "".join(_value(token, values, text) for token in _tokens(text, text, alternatives=alternatives))


def _value(token: Token, values: Mapping[str, str], text: str) -> str:
    if isinstance(token, str):
        return token
    if token.name not in values:
        declared = ", ".join(sorted(values)) or "none"
        raise _wrong(
            f"{quote(f'{{{token.name}}}')} in {quote(text)} is not defined by pathPattern (defined: {declared})"
        )
    return values[token.name]
