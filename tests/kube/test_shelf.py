"""What a shelf makes of answers and watch events that come in any order."""

from collections import deque
from contextlib import ExitStack

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from msgspec.structs import replace

from sluice.control.objects import ExternalArtifact, Key
from sluice.kube.shelf import Change, Shelf

KEY: Key = ("apps", "web")
OURS = ("annotations",)


def artifact(version: int | str, uid: str = "1", **fields: str) -> ExternalArtifact:
    """An object; `mine` is a field that we write, `theirs` one that others do."""
    return ExternalArtifact(
        namespace="apps",
        name="web",
        uid=uid,
        resource_version=str(version),
        annotations={"mine": fields.get("mine", "")},
        labels={"theirs": fields.get("theirs", "")},
    )


class Kept:
    """A shelf, and what it told."""

    def __init__(self, *items: ExternalArtifact, is_created_by_us: bool = True) -> None:
        self.changes: list[Change[ExternalArtifact]] = []
        self.shelf: Shelf[ExternalArtifact] = Shelf(self.changes.append, is_created_by_us=is_created_by_us)
        for item in items:
            self.shelf.observe(item)
        self.changes.clear()

    def news(self) -> list[tuple[str | None, str | None]]:
        """The versions before and after what others did."""
        return [(_version(change.before), _version(change.after)) for change in self.changes if not change.is_ours]

    def version(self) -> str | None:
        return _version(self.shelf.get(KEY))


def _version(item: ExternalArtifact | None) -> str | None:
    return None if item is None else item.resource_version


class TestAnswers:
    def test_an_answer_is_seen_at_once_and_its_echo_is_no_news(self) -> None:
        kept = Kept(artifact(1))
        kept.shelf.enter(artifact(2, mine="x"), OURS)
        assert kept.version() == "2"

        kept.shelf.observe(artifact(2, mine="x"))
        assert kept.news() == []

    def test_an_echo_that_comes_first_waits_for_its_answer(self) -> None:
        kept = Kept(artifact(1))
        with kept.shelf.writing(KEY):
            kept.shelf.observe(artifact(2, mine="x"))
            assert kept.version() == "1"
            kept.shelf.enter(artifact(2, mine="x"), OURS)

        assert (kept.version(), kept.news()) == ("2", [])

    def test_what_waits_is_news_where_the_answer_never_came(self) -> None:
        kept = Kept(artifact(1))
        with kept.shelf.writing(KEY):
            kept.shelf.observe(artifact(2, mine="x"))

        assert (kept.version(), kept.news()) == ("2", [("1", "2")])

    def test_it_waits_until_the_last_of_two_writes_ends(self) -> None:
        kept = Kept(artifact(1))
        with kept.shelf.writing(KEY):
            with kept.shelf.writing(KEY):
                kept.shelf.enter(artifact(2, mine="x"), OURS)
            kept.shelf.observe(artifact(3, mine="y"))
            assert kept.version() == "2"
            kept.shelf.enter(artifact(3, mine="y"), OURS)

        assert (kept.version(), kept.news()) == ("3", [])

    def test_others_who_were_faster_show_in_the_answer(self) -> None:
        kept = Kept(artifact(1))
        kept.shelf.enter(artifact(3, mine="x", theirs="y"), OURS)
        assert kept.news() == [("1", "3")]

        kept.shelf.observe(artifact(2, theirs="y"))
        kept.shelf.observe(artifact(3, mine="x", theirs="y"))
        assert (kept.version(), kept.news()) == ("3", [("1", "3")])

    def test_others_who_were_slower_are_news_when_the_watch_tells(self) -> None:
        kept = Kept(artifact(1))
        with kept.shelf.writing(KEY):
            kept.shelf.observe(artifact(2, mine="x"))
            kept.shelf.observe(artifact(3, mine="x", theirs="y"))
            kept.shelf.enter(artifact(2, mine="x"), OURS)

        assert (kept.version(), kept.news()) == ("3", [("2", "3")])

    def test_a_change_that_nobody_sees_is_no_news(self) -> None:
        kept = Kept(artifact(1))
        kept.shelf.observe(artifact(2))

        assert (kept.version(), kept.changes) == ("2", [])

    def test_an_answer_brings_nothing_back_that_left(self) -> None:
        kept = Kept(artifact(1), is_created_by_us=False)
        kept.shelf.lose(KEY, artifact(2))
        kept.shelf.enter(artifact(3, mine="x"), OURS)

        assert kept.version() is None


class TestEnds:
    def test_what_left_the_selection_goes_although_an_answer_is_newer(self) -> None:
        kept = Kept(artifact(1))
        kept.shelf.enter(artifact(3, mine="x"), OURS)
        kept.shelf.lose(KEY, artifact(2))

        assert (kept.version(), kept.news()) == (None, [("3", None)])

    def test_an_older_life_ends_without_touching_the_newer_one(self) -> None:
        kept = Kept(artifact(1, uid="1"))
        kept.shelf.enter(artifact(3, uid="2"), OURS)
        kept.shelf.lose(KEY, artifact(2, uid="1"))

        assert kept.version() == "3"

    def test_an_end_that_nobody_saw_is_an_end(self) -> None:
        kept = Kept(artifact(1))
        kept.shelf.lose(KEY, None)
        kept.shelf.lose(KEY, None)

        assert (kept.version(), kept.news()) == (None, [("1", None)])

    @pytest.mark.parametrize("is_gone", [True, False])
    def test_what_we_deleted_is_gone_whatever_the_watch_still_tells(self, *, is_gone: bool) -> None:
        kept = Kept(artifact(1))
        kept.shelf.remove(KEY, "1", is_gone=is_gone)
        kept.shelf.observe(artifact(2, theirs="y"))
        assert (kept.version(), kept.news()) == (None, [])

        kept.shelf.lose(KEY, artifact(3))
        assert kept.news() == []

    def test_what_we_deleted_may_be_held_by_others(self) -> None:
        kept = Kept(artifact(1))
        kept.shelf.remove(KEY, "1", is_gone=False)
        kept.shelf.observe(replace(artifact(2), is_deleted=True))

        assert (kept.version(), kept.news()) == ("2", [(None, "2")])

    def test_what_we_let_go_does_not_come_back(self) -> None:
        kept = Kept(artifact(1))
        kept.shelf.remove(KEY, "1", is_gone=True)
        kept.shelf.observe(replace(artifact(2), is_deleted=True))

        assert kept.version() is None

    def test_another_object_of_the_name_is_not_what_we_deleted(self) -> None:
        kept = Kept(artifact(1))
        kept.shelf.remove(KEY, "other", is_gone=True)
        assert kept.version() == "1"

        kept.shelf.remove(KEY, "1", is_gone=True)
        kept.shelf.observe(artifact(3, uid="2"))
        assert kept.version() == "3"

    def test_what_we_made_and_no_list_holds_is_gone(self) -> None:
        kept = Kept()
        kept.shelf.enter(artifact(1), OURS)
        kept.shelf.settle()

        assert (kept.version(), kept.news()) == (None, [("1", None)])

    def test_what_we_made_anew_and_no_list_holds_is_gone(self) -> None:
        kept = Kept(artifact(1, uid="1"))
        kept.shelf.enter(artifact(3, uid="2"), OURS)
        kept.shelf.observe(artifact(1, uid="1"))
        kept.shelf.lose(KEY, artifact(2, uid="1"))
        kept.shelf.settle()

        assert kept.version() is None

    def test_what_we_made_and_a_list_holds_stays(self) -> None:
        kept = Kept()
        kept.shelf.enter(artifact(1), OURS)
        kept.shelf.observe(artifact(1))
        kept.shelf.settle()

        assert (kept.version(), kept.news()) == ("1", [])


def test_what_we_made_and_deleted_twice_is_no_news_when_the_watch_tells_of_it_late() -> None:
    kept = Kept()
    for made in (artifact(1, uid="1"), artifact(3, uid="2")):
        kept.shelf.enter(made, OURS)
        kept.shelf.remove(KEY, made.uid, is_gone=False)

    for made in (artifact(1, uid="1"), artifact(3, uid="2")):
        kept.shelf.observe(made)
        kept.shelf.lose(KEY, replace(made, resource_version=str(int(made.resource_version) + 1)))

    assert kept.news() == []
    assert kept.version() is None


@pytest.mark.parametrize(
    ("version", "than", "is_newer"),
    [
        pytest.param("10", "9", True, id="numbers, not texts"),
        pytest.param("9", "10", False, id="an older number"),
        pytest.param("9", "9", False, id="the same"),
        pytest.param("a", "9", True, id="without an order, whatever comes later"),
        pytest.param("a", "a", False, id="the same, without an order"),
    ],
)
def test_versions(version: str, than: str, *, is_newer: bool) -> None:
    kept = Kept(artifact(than))
    kept.shelf.observe(artifact(version, theirs="new"))

    assert (kept.changes != []) is is_newer


class AnyOrder(RuleBasedStateMachine):
    """One object on a server, which we and others change; its watch and our answers tell of it when they like."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = Kept()
        self.writing = ExitStack()
        self.is_writing = self.others_acted = self.was_listed = False
        self.answer: ExternalArtifact | None = None
        self.item: ExternalArtifact | None = None
        self.events: deque[tuple[bool, ExternalArtifact]] = deque()
        self.is_watched = False
        """Whether the watch has told of the object last, rather than of its end."""
        self.version = self.uid = 0

    @precondition(lambda self: not self.is_writing)
    @rule()
    def write(self) -> None:
        self.writing.enter_context(self.kept.shelf.writing(KEY))
        self.is_writing = True

    @precondition(lambda self: self.is_writing and self.answer is None)
    @rule()
    def take_effect(self) -> None:
        self._put(annotations={"mine": str(self.version)})
        self.answer = self.item

    @precondition(lambda self: self.answer is not None)
    @rule()
    def be_answered(self) -> None:
        assert self.answer is not None
        self.kept.shelf.enter(self.answer, OURS)
        self.writing.close()
        self.is_writing, self.answer = False, None

    @precondition(lambda self: not self.is_writing and self.kept.shelf.get(KEY))
    @rule()
    def delete(self) -> None:
        mine = self.kept.shelf.get(KEY)
        assert mine is not None
        if self.item is not None and self.item.uid == mine.uid:
            self._end(self.item)
        self.kept.shelf.remove(KEY, mine.uid, is_gone=False)

    @precondition(lambda self: self.item is not None)
    @rule(how=st.sampled_from(["edit", "delete"]))
    def others_act(self, how: str) -> None:
        assert self.item is not None
        self.others_acted = True
        if how == "edit":
            self._put(labels={"theirs": str(self.version)})
        else:
            self._end(self.item)

    @precondition(lambda self: self.events)
    @rule()
    def hear(self) -> None:
        is_gone, item = self.events.popleft()
        self.is_watched = not is_gone
        if is_gone:
            self.kept.shelf.lose(KEY, item)
        else:
            self.kept.shelf.observe(item)

    @rule()
    def start_over(self) -> None:
        """The watch reads a list: the state at some moment instead of what led there."""
        self.events.clear()
        self.was_listed = True
        if self.item is not None:
            self.kept.shelf.observe(self.item)
        elif self.is_watched:
            self.kept.shelf.lose(KEY, None)
        self.is_watched = self.item is not None
        self.kept.shelf.settle()

    def teardown(self) -> None:
        """When all is told, the shelf is right, and others' last change was told as theirs."""
        if self.is_writing and self.answer is None:
            self.take_effect()
        if self.answer is not None:
            self.be_answered()
        while self.events:
            self.hear()
        found, changes = self.kept.shelf.get(KEY), self.kept.changes
        assert found == self.item
        assert found == (changes[-1].after if changes else None)
        # After a list, what we have just made may seem to be gone for a moment.
        if not self.was_listed:
            told = [change.after for change in changes if not change.is_ours]
            assert told == [] or self.others_acted
            if found is not None and found.labels["theirs"]:
                assert told[-1] is not None
                assert told[-1].labels == found.labels

    def _put(self, **change: dict[str, str]) -> None:
        self.version += 1
        if self.item is None:
            self.uid += 1
            self.item = artifact(self.version, uid=str(self.uid))
        self.item = replace(self.item, resource_version=str(self.version), **change)
        self.events.append((False, self.item))

    def _end(self, item: ExternalArtifact) -> None:
        self.version += 1
        self.events.append((True, replace(item, resource_version=str(self.version))))
        self.item = None


TestAnyOrder = AnyOrder.TestCase
