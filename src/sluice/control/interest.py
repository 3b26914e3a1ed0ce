"""Who reads which source, and who wants to make which artifact.

What a change of a source or artifact wakes is looked up here, so it costs what it concerns and not
what exists.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping

from sluice.control.objects import Key
from sluice.core.spec import ArtifactGenerator, SourceKind, SourceRef


class Interests:
    """An index of generators by what their specs name. Artifacts of pathPattern are added as found."""

    def __init__(self) -> None:
        self._specs: dict[Key, ArtifactGenerator] = {}
        self._readers: defaultdict[tuple[SourceKind, str, str], set[Key]] = defaultdict(set)
        self._makers: defaultdict[Key, set[Key]] = defaultdict(set)
        self._made: defaultdict[Key, set[Key]] = defaultdict(set)

    def remember(self, key: Key, spec: ArtifactGenerator) -> None:
        """Take a generator's spec in place of its former one."""
        for ref in self._refs(key):
            self._readers[ref.kind, ref.namespace, ref.name].discard(key)
        self._specs[key] = spec
        for ref in spec.sources:
            self._readers[ref.kind, ref.namespace, ref.name].add(key)
        if spec.path_pattern is None:
            for artifact in spec.artifacts:
                self.claim(key, (spec.namespace, artifact.name))

    def forget(self, key: Key) -> list[Key]:
        """Drop a generator; returns the artifacts that nobody wants any more."""
        for ref in self._refs(key):
            self._readers[ref.kind, ref.namespace, ref.name].discard(key)
        self._specs.pop(key, None)
        orphans = []
        for artifact in self._made.pop(key, set()):
            self._makers[artifact].discard(key)
            if not self._makers[artifact]:
                del self._makers[artifact]
                orphans.append(artifact)
        return orphans

    def claim(self, key: Key, artifact: Key) -> None:
        self._makers[artifact].add(key)
        self._made[key].add(artifact)

    def release(self, key: Key, artifact: Key) -> None:
        self._makers[artifact].discard(key)
        self._made[key].discard(artifact)

    def readers(self, kind: SourceKind, namespace: str, name: str) -> Collection[Key]:
        """The generators that name a source."""
        return self._readers.get((kind, namespace, name), ())

    def makers(self, artifact: Key) -> Collection[Key]:
        """The generators that want to make an artifact: one, unless there is a conflict."""
        return self._makers.get(artifact, ())

    def made(self, key: Key) -> Collection[Key]:
        """The artifacts that a generator wants to make."""
        return self._made.get(key, ())

    def rivals(self, namespace: str) -> Iterator[Key]:
        """The generators of a namespace that want what others want too."""
        for (where, _), keys in self._makers.items():
            if where == namespace and len(keys) > 1:
                yield from keys

    def feeds(self) -> Mapping[Key, Collection[Key]]:
        """By generator, the generators whose artifacts it reads."""
        feeds: dict[Key, set[Key]] = {}
        for kind, namespace, name in list(self._readers):
            if kind is SourceKind.EXTERNAL_ARTIFACT:
                for key in self._readers[kind, namespace, name]:
                    feeds.setdefault(key, set()).update(self._makers.get((namespace, name), ()))
        return feeds

    def _refs(self, key: Key) -> Collection[SourceRef]:
        spec = self._specs.get(key)
        return spec.sources if spec is not None else ()
