"""The ArtifactGenerator, read from a manifest.

Parsing happens once, here, and tells everything that is wrong at once. What concerns the
generator as a whole (its shape, its sources, its names) is an error of the manifest. What concerns
one copy operation is kept as written and judged when that artifact is planned, so that a mistake in
one artifact never costs another.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from enum import StrEnum
from typing import TypeVar

from msgspec import Struct

from sluice.core import yaml
from sluice.core.errors import Code, Problem, SpecError, quote
from sluice.core.limits import DEFAULT_LIMITS, Limits

GROUP = "source.extensions.fluxcd.io"
API_VERSION = f"{GROUP}/v1beta1"
KIND = "ArtifactGenerator"


class Rule(Struct, frozen=True):
    """What a text has to look like: the pattern, the greatest length, and both in words."""

    pattern: re.Pattern[str]
    length: int
    words: str

    def accepts(self, text: str) -> bool:
        return len(text) <= self.length and self.pattern.fullmatch(text) is not None


_ALIAS = "[a-z0-9]([a-z0-9_-]*[a-z0-9])?"
_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
ALIAS = Rule(re.compile(_ALIAS), 63, "lower-case letters, digits, '-' and '_', at most 63")
ALIAS_REFERENCE = Rule(re.compile(f"@{_ALIAS}"), 64, "'@' and the alias of a source")
SOURCE_NAME = Rule(re.compile(_LABEL), 253, "lower-case letters, digits and '-', at most 253")
NAMESPACE = Rule(re.compile(_LABEL), 63, "lower-case letters, digits and '-', at most 63")
OBJECT_NAME = Rule(re.compile(rf"{_LABEL}(\.{_LABEL})*"), 253, "lower-case letters, digits, '-' and '.', at most 253")
TEMPLATE = Rule(re.compile(".+", re.DOTALL), 253, "1 to 253 characters")
PATH_PATTERN = Rule(re.compile(f"@{_ALIAS}/.*", re.DOTALL), 1024, "'@<alias>/<path>', at most 1024 characters")

E = TypeVar("E", bound=StrEnum)


class SourceKind(StrEnum):
    """The kinds of Flux source that a generator may name."""

    BUCKET = "Bucket"
    GIT_REPOSITORY = "GitRepository"
    OCI_REPOSITORY = "OCIRepository"
    HELM_CHART = "HelmChart"
    EXTERNAL_ARTIFACT = "ExternalArtifact"


class Strategy(StrEnum):
    """What a copy operation does with what it selects."""

    OVERWRITE = "Overwrite"
    MERGE = "Merge"
    EXTRACT = "Extract"


class SourceRef(Struct, frozen=True):
    """One of `spec.sources`, its namespace filled in."""

    alias: str
    kind: SourceKind
    name: str
    namespace: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"


class CopySpec(Struct, frozen=True):
    """One copy operation as written; nothing of it is checked before its artifact is planned."""

    source: str
    to: str
    exclude: tuple[str, ...] = ()
    strategy: str = Strategy.OVERWRITE


class ArtifactSpec(Struct, frozen=True):
    """One of `spec.artifacts`; `revision` and `origin_revision` are aliases."""

    name: str
    copy: tuple[CopySpec, ...]
    revision: str | None = None
    origin_revision: str | None = None


class ArtifactGenerator(Struct, frozen=True, kw_only=True):
    """A generator whose shape is right. `annotations` are those of the object itself."""

    name: str
    namespace: str
    sources: tuple[SourceRef, ...]
    artifacts: tuple[ArtifactSpec, ...]
    path_pattern: str | None = None
    labels: Mapping[str, str] = {}
    """Labels for every artifact, from `spec.commonMetadata`."""
    metadata_annotations: Mapping[str, str] = {}
    """Annotations for every artifact, from `spec.commonMetadata`."""
    annotations: Mapping[str, str] = {}

    def __str__(self) -> str:
        return f"{KIND}/{self.namespace}/{self.name}"

    @property
    def pattern_alias(self) -> str | None:
        """The source that pathPattern walks."""
        return None if self.path_pattern is None else self.path_pattern.partition("/")[0].removeprefix("@")


def parse_manifests(
    text: bytes, *, namespace: str = "default", limits: Limits = DEFAULT_LIMITS
) -> tuple[ArtifactGenerator, ...]:
    """The generators among the YAML documents of a text; other kinds are passed over.

    `namespace` is for objects that name none. Raises `SpecError` with the problems of all of them,
    or `BuildError` where the text is not YAML.
    """
    generators: list[ArtifactGenerator] = []
    problems: list[Problem] = []
    for manifest in yaml.load(text, limits):
        if isinstance(manifest, Mapping) and manifest.get("kind") == KIND:
            try:
                generators.append(parse_generator(manifest, namespace=namespace))
            except SpecError as error:
                problems += error.problems
    if problems:
        raise SpecError(problems)
    return tuple(generators)


def parse_generator(
    manifest: Mapping[str, object], *, namespace: str = "default", unknown_fields: bool = False
) -> ArtifactGenerator:
    """A generator from its manifest. Raises `SpecError` with every problem of its shape.

    `unknown_fields` lets fields pass that this version does not know, as an API server with a newer
    definition would.
    """
    generator = read_generator(manifest, namespace=namespace, unknown_fields=unknown_fields)
    if problems := validate(generator):
        raise SpecError(problems)
    return generator


def read_generator(
    manifest: Mapping[str, object], *, namespace: str = "default", unknown_fields: bool = False
) -> ArtifactGenerator:
    """The same for what an API server would admit: what `validate` finds is left to it."""
    problems: list[Problem] = []
    root = _Fields(manifest, "", problems, known=None)
    if (version := manifest.get("apiVersion")) != API_VERSION:
        root.report("apiVersion", f"{_found(version)} is not supported (supported: {API_VERSION})")
    metadata = root.mapping("metadata", known=None)
    name = metadata.text("name", OBJECT_NAME)
    home = metadata.text("namespace", NAMESPACE, default=namespace)
    known = _ANY if unknown_fields else _KNOWN
    # An object without a spec is admitted, and has no artifacts.
    given = manifest.get("spec") is not None
    spec = root.mapping("spec", known=known["spec"], optional=True)
    common = spec.mapping("commonMetadata", known=known["commonMetadata"], optional=True)
    generator = ArtifactGenerator(
        name=name,
        namespace=home,
        annotations=metadata.strings("annotations"),
        labels=common.strings("labels"),
        metadata_annotations=common.strings("annotations"),
        sources=tuple(
            _source(item, home) for item in spec.items("sources", known["source"], most=1000, optional=not given)
        ),
        artifacts=tuple(
            _artifact(item, known["copy"])
            for item in spec.items("artifacts", known["artifact"], most=1000, optional=not given)
        ),
        path_pattern=spec.text("pathPattern", PATH_PATTERN, optional=True) or None,
    )
    if problems:
        raise SpecError(problems)
    return generator


def validate(generator: ArtifactGenerator) -> list[Problem]:
    """What is wrong with the generator as a whole, in the order and words of contract §5.3."""
    problems = []
    aliases: set[str] = set()
    for number, source in enumerate(generator.sources):
        if source.alias in aliases:
            text = f"duplicate source alias '{source.alias}' found"
            problems.append(Problem(Code.INVALID_SPEC, text, f"spec.sources[{number}].alias"))
        aliases.add(source.alias)
    names: set[str] = set()
    for number, artifact in enumerate(generator.artifacts):
        where = f"spec.artifacts[{number}]"
        if artifact.name in names:
            text = f"duplicate artifact name '{artifact.name}' found"
            problems.append(Problem(Code.INVALID_SPEC, text, f"{where}.name"))
        names.add(artifact.name)
        if generator.path_pattern is None and not OBJECT_NAME.accepts(artifact.name):
            text = f'artifact name "{artifact.name}" is not a valid Kubernetes object name: {OBJECT_NAME.words}'
            problems.append(Problem(Code.INVALID_SPEC, text, f"{where}.name"))
        if artifact.revision is not None and artifact.revision not in aliases:
            text = f"artifact {artifact.name} revision source alias '{artifact.revision}' not found"
            problems.append(Problem(Code.UNKNOWN_ALIAS, text, f"{where}.revision"))
    return problems


def unknown_alias(alias: str, declared: Collection[str]) -> str:
    """What to say of an alias that no source has; names the ones there are."""
    shown = ", ".join(sorted(declared)[:10]) or "none"
    more = f" and {len(declared) - 10} more" if len(declared) > 10 else ""
    return f"source alias {quote(alias)} not found (declared: {shown}{more})"


_KNOWN: Mapping[str, frozenset[str] | None] = {
    "spec": frozenset({"commonMetadata", "sources", "pathPattern", "artifacts"}),
    "commonMetadata": frozenset({"labels", "annotations"}),
    "source": frozenset({"alias", "kind", "name", "namespace"}),
    "artifact": frozenset({"name", "revision", "originRevision", "copy"}),
    "copy": frozenset({"from", "to", "exclude", "strategy"}),
}
_ANY: Mapping[str, frozenset[str] | None] = dict.fromkeys(_KNOWN)


def _source(fields: _Fields, home: str) -> SourceRef:
    return SourceRef(
        alias=fields.text("alias", ALIAS),
        kind=fields.choice("kind", SourceKind, SourceKind.GIT_REPOSITORY),
        name=fields.text("name", SOURCE_NAME),
        namespace=fields.text("namespace", NAMESPACE, default=home),
    )


def _artifact(fields: _Fields, known: frozenset[str] | None) -> ArtifactSpec:
    return ArtifactSpec(
        name=fields.text("name", TEMPLATE),
        copy=tuple(_copy(item) for item in fields.items("copy", known)),
        revision=fields.text("revision", ALIAS_REFERENCE, optional=True)[1:] or None,
        origin_revision=fields.text("originRevision", ALIAS_REFERENCE, optional=True)[1:] or None,
    )


def _copy(fields: _Fields) -> CopySpec:
    return CopySpec(
        source=fields.text("from"),
        to=fields.text("to"),
        exclude=tuple(fields.texts("exclude")),
        strategy=fields.text("strategy", default=Strategy.OVERWRITE),
    )


class _Fields:
    """One mapping of a manifest while it is read: gives values of the asked type, or a stand-in
    after noting the problem, so that reading goes on to the next.
    """

    def __init__(self, values: object, where: str, problems: list[Problem], known: frozenset[str] | None) -> None:
        self.where = where
        self.problems = problems
        self.values: Mapping[object, object] = values if isinstance(values, Mapping) else {}
        if not isinstance(values, Mapping):
            self._note(where, f"{_found(values)} is not a mapping")
        for key in self.values:
            if known is not None and key not in known:
                self._note(self._path(str(key)), f"unknown field ({_suggest(str(key), known)})")

    def _path(self, key: str) -> str:
        return f"{self.where}.{key[:80]}" if self.where else key[:80]

    def _note(self, where: str, text: str) -> None:
        self.problems.append(Problem(Code.INVALID_SPEC, text, where))

    def report(self, key: str, text: str) -> None:
        self._note(self._path(key), text)

    def mapping(self, key: str, *, known: frozenset[str] | None, optional: bool = False) -> _Fields:
        value = self.values.get(key)
        if value is None and not optional:
            self.report(key, "required")
        return _Fields({} if value is None else value, self._path(key), self.problems, known)

    def strings(self, key: str) -> dict[str, str]:
        inner = self.mapping(key, known=None, optional=True)
        for name, value in inner.values.items():
            if not isinstance(value, str):
                inner.report(str(name), f"{_found(value)} is not a string (quote it)")
        return {str(name): value for name, value in inner.values.items() if isinstance(value, str)}

    def text(self, key: str, rule: Rule | None = None, *, default: str | None = None, optional: bool = False) -> str:
        value = self.values.get(key)
        if value is None:
            # As for the API server, null is as good as absent.
            if default is None and not optional:
                self.report(key, "required")
        elif not isinstance(value, str):
            self.report(key, f"{_found(value)} is not a string (quote it)")
        elif rule is not None and not rule.accepts(value):
            self.report(key, f"{_found(value)} is not valid ({rule.words})")
        else:
            return value
        return default or ""

    def choice(self, key: str, choices: type[E], stand_in: E) -> E:
        value = self.values.get(key)
        if isinstance(value, str) and value in tuple(choices):
            return choices(value)
        text = "required" if value is None else f"{_found(value)} is not one of {', '.join(choices)}"
        self.report(key, text)
        return stand_in

    def texts(self, key: str) -> Iterator[str]:
        for number, value in enumerate(self._list(key, optional=True)):
            if isinstance(value, str):
                yield value
            else:
                self.report(f"{key}[{number}]", f"{_found(value)} is not a string (quote it)")

    def items(
        self, key: str, known: frozenset[str] | None, *, most: int | None = None, optional: bool = False
    ) -> Iterator[_Fields]:
        values = self._list(key, optional=optional)
        if most is not None and len(values) > most:
            self.report(key, f"{len(values)} items (1 to {most})")
        for number, value in enumerate(values[:most]):
            yield _Fields(value, f"{self._path(key)}[{number}]", self.problems, known)

    def _list(self, key: str, *, optional: bool) -> Sequence[object]:
        match self.values.get(key):
            case None if optional:
                pass
            case None:
                self.report(key, "required")
            case [] if not optional:
                self.report(key, "at least one item is needed")
            case [*items]:
                return items
            case value:
                self.report(key, f"{_found(value)} is not a list")
        return ()


def _found(value: object) -> str:
    """A value as an error shows it: short, and never the inside of a collection."""
    match value:
        case str():
            return quote(value)
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            text = str(value)
            return text if len(text) <= 80 else f"{text[:80]}…"
        case Mapping():
            return "a mapping"
        case _:
            return "a list"


def _suggest(key: str, known: frozenset[str]) -> str:
    close = get_close_matches(key, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(known))}"
