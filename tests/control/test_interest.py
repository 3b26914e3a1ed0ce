"""Who is woken by what."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from sluice.control.interest import Interests
from sluice.core.spec import ArtifactGenerator, ArtifactSpec, SourceKind, SourceRef

EA, GIT = SourceKind.EXTERNAL_ARTIFACT, SourceKind.GIT_REPOSITORY


def spec(
    name: str, makes: Iterable[str] = (), reads: Iterable[str] = (), kind: SourceKind = EA, pattern: str | None = None
) -> ArtifactGenerator:
    return ArtifactGenerator(
        name=name,
        namespace="apps",
        sources=tuple(SourceRef(f"alias-{read}", kind, read, "apps") for read in reads),
        artifacts=tuple(ArtifactSpec(made, ()) for made in makes),
        path_pattern=pattern,
    )


def key(name: str) -> tuple[str, str]:
    return "apps", name


@pytest.fixture
def interests() -> Interests:
    return Interests()


def test_readers_of_a_source(interests: Interests) -> None:
    for name in ("a", "b"):
        interests.remember(key(name), spec(name, reads=["repo"], kind=GIT))

    assert set(interests.readers(GIT, "apps", "repo")) == {key("a"), key("b")}
    assert not interests.readers(EA, "apps", "repo")
    assert not interests.readers(GIT, "elsewhere", "repo")

    interests.remember(key("a"), spec("a", reads=["moved"], kind=GIT))
    assert set(interests.readers(GIT, "apps", "repo")) == {key("b")}
    assert set(interests.readers(GIT, "apps", "moved")) == {key("a")}
    interests.forget(key("b"))
    assert not interests.readers(GIT, "apps", "repo")


def test_two_aliases_of_one_source_are_one_reader(interests: Interests) -> None:
    twice = tuple(SourceRef(alias, GIT, "repo", "apps") for alias in ("one", "two"))
    generator = ArtifactGenerator(name="a", namespace="apps", sources=twice, artifacts=())

    interests.remember(key("a"), generator)
    assert list(interests.readers(GIT, "apps", "repo")) == [key("a")]
    interests.forget(key("a"))
    assert not interests.readers(GIT, "apps", "repo")


def test_makers_of_an_artifact(interests: Interests) -> None:
    interests.remember(key("a"), spec("a", makes=["web"]))
    interests.remember(key("b"), spec("b", makes=["web", "own"]))

    assert set(interests.makers(key("web"))) == {key("a"), key("b")}
    assert set(interests.made(key("b"))) == {key("web"), key("own")}
    assert set(interests.rivals("apps")) == {key("a"), key("b")}
    assert not set(interests.rivals("elsewhere"))

    assert interests.forget(key("b")) == [key("own")], "the other is still wanted"
    assert set(interests.makers(key("web"))) == {key("a")}
    assert not set(interests.rivals("apps"))


def test_what_a_pattern_makes_is_claimed_as_it_is_found(interests: Interests) -> None:
    interests.remember(key("a"), spec("a", makes=["{app}"], pattern="@repo/{app}"))
    assert not interests.made(key("a"))

    interests.claim(key("a"), key("one"))
    assert set(interests.makers(key("one"))) == {key("a")}
    interests.release(key("a"), key("one"))
    assert not interests.makers(key("one"))
    assert interests.forget(key("a")) == []


def test_what_was_made_is_claimed_until_it_is_pruned(interests: Interests) -> None:
    """After an edit the artifact is still there, and still this generator's to take away."""
    interests.remember(key("a"), spec("a", makes=["old"]))
    interests.remember(key("a"), spec("a", makes=["new"]))
    assert set(interests.made(key("a"))) == {key("old"), key("new")}

    interests.release(key("a"), key("old"))
    assert set(interests.made(key("a"))) == {key("new")}


def test_who_feeds_whom(interests: Interests) -> None:
    interests.remember(key("a"), spec("a", makes=["a-out"], reads=["b-out", "nobodys"]))
    interests.remember(key("b"), spec("b", makes=["b-out"], reads=["repo"], kind=GIT))
    interests.remember(key("c"), spec("c", makes=["c-out"], reads=["a-out", "b-out"]))

    assert interests.feeds() == {key("a"): {key("b")}, key("c"): {key("a"), key("b")}}


def test_forgetting_twice_is_fine(interests: Interests) -> None:
    assert interests.forget(key("a")) == []
