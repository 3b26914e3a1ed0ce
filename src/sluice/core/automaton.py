"""Patterns over paths as automata that are stepped one path segment at a time.

A pattern is a row of tokens, and a position in it says "so far everything up to here matched". The
state of a walk is a set of positions, kept as the bits of an integer, and a character moves all of
them at once. What a state does on a character is remembered, so a walk mostly follows
links from state to state. There is no backtracking: a character costs at most a few operations on
integers as wide as all patterns together, whatever the patterns and the names are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from enum import Enum

from msgspec import Struct


class Wild(Enum):
    """Tokens that stand for more than one character."""

    STAR = "*"
    GLOBSTAR = "**/"
    REST = "**"


class CharClass(Struct, frozen=True):
    """One character out of many."""

    ranges: tuple[tuple[str, str], ...]
    negated: bool
    slash: bool = False
    """Whether `/` may match; otherwise it never does."""

    def has(self, char: str) -> bool:
        if char == "/" and not self.slash:
            return False
        return any(low <= char <= high for low, high in self.ranges) != self.negated


Token = Wild | CharClass | str
"""A `str` is one character that stands for itself."""


class End(Enum):
    """Which paths may end at a position."""

    ANY = "any"
    DIRECTORY = "directory"
    NONE = "none"


class Alternative(Struct, frozen=True):
    """A row of tokens, beginning with the `/` that precedes every name; one more end than tokens."""

    tokens: tuple[Token, ...]
    ends: tuple[End, ...]


class State:
    """How far a walk has come. Only the automaton that it came from can tell what it means."""

    __slots__ = ("bits", "end", "moves")

    def __init__(self, bits: int, end: End) -> None:
        self.bits = bits
        self.end = end
        self.moves: dict[str, State] = {}


_ROOM = 8 << 20
"""Bytes of moves and states, roughly, that one automaton remembers before it forgets them all."""
_MOVE_SIZE = 128


class Automaton:
    """Alternatives, compiled.

    Safe to share between threads; what it remembers of its walks is bounded.
    """

    def __init__(self, alternatives: Iterable[Alternative]) -> None:
        starts: list[int] = []
        places: dict[Token, list[int]] = {}
        ends: dict[End, list[int]] = {end: [] for end in End}
        width = 0
        for alternative in alternatives:
            starts.append(width)
            for token, end in zip(alternative.tokens, alternative.ends, strict=False):
                places.setdefault(token, []).append(width)
                ends[end].append(width)
                # A `**/` has a second position, in the middle of what it passes over.
                width += 2 if token is Wild.GLOBSTAR else 1
            ends[alternative.ends[-1]].append(width)
            width += 1
        masks = {token: _mask_of(found, width) for token, found in places.items()}
        star, rest, globstar = (masks.pop(wild, 0) for wild in (Wild.STAR, Wild.REST, Wild.GLOBSTAR))
        self._enter, self._globstar = star | rest, globstar
        self._loops_at_slash = (rest | globstar) << 1
        self._loops = (star | rest | globstar) << 1
        self._ends_any, self._ends_directory = _mask_of(ends[End.ANY], width), _mask_of(ends[End.DIRECTORY], width)
        self._literals = {token: mask for token, mask in masks.items() if isinstance(token, str)}
        self._classes = [(token, mask) for token, mask in masks.items() if isinstance(token, CharClass)]
        # Characters between two neighbouring bounds are alike: no literal or range tells them apart.
        self._bounds = _bounds(masks)
        self._leads_on: list[int | None] = [None] * (len(self._bounds) + 1)
        self._room = _ROOM
        self._states: dict[int, State] = {}
        self._dead = self._state(0)
        self.start = self._state(_mask_of(starts, width))

    def step(self, state: State, name: str) -> State:
        """The state after going down into the child `name`."""
        found = self._run(self._move(state, "/"), name)
        if found.end is End.NONE and not self._move(found, "/").bits:
            return self._dead
        return found

    def accepts(self, state: State) -> bool:
        """Whether the path walked so far matches: as a text, or as that of a directory."""
        return state.end is not End.NONE

    def accepts_file(self, state: State) -> bool:
        """Whether the path walked so far matches as that of a file: `a/**` then does not match `a`."""
        return state.end is End.ANY

    def is_dead(self, state: State) -> bool:
        """Whether neither the path walked so far nor anything below it matches."""
        return not state.bits

    def matches(self, path: str) -> bool:
        """Whether a path matches as a text."""
        return self.accepts(self._run(self._move(self.start, "/"), path))

    def _run(self, state: State, text: str) -> State:
        for char in text:
            found = state.moves.get(char)
            state = found if found is not None else self._move(state, char)
            if not state.bits:
                break
        return state

    def _move(self, state: State, char: str) -> State:
        found = state.moves.get(char)
        if found is None:
            bits = state.bits
            # A star may stand for nothing: be behind it too, before looking at the character.
            passing = bits & self._globstar
            bits |= passing << 1 | passing << 2
            bits |= (bits & self._enter) << 1
            loops = self._loops_at_slash if char == "/" else self._loops
            found = self._state((bits & self._leading_on(char)) << 1 | bits & loops)
            self._room -= _MOVE_SIZE
            if self._room < 0:
                self._forget()
            state.moves[char] = found
        return found

    def _leading_on(self, char: str) -> int:
        """The positions that this character takes one further."""
        alike = bisect_right(self._bounds, ord(char))
        mask = self._leads_on[alike]
        if mask is None:
            mask = self._literals.get(char, 0)
            for each, positions in self._classes:
                if each.has(char):
                    mask |= positions
            if char == "/":
                mask |= self._globstar << 1
            self._leads_on[alike] = mask
        return mask

    def _state(self, bits: int) -> State:
        found = self._states.get(bits)
        if found is None:
            self._room -= _MOVE_SIZE + bits.bit_length() // 8
            end = End.ANY if bits & self._ends_any else End.DIRECTORY if bits & self._ends_directory else End.NONE
            found = self._states[bits] = State(bits, end)
        return found

    def _forget(self) -> None:
        states = list(self._states.values())
        self._states = {0: self._dead, self.start.bits: self.start}
        self._room = _ROOM
        for state in states:
            state.moves.clear()


def _mask_of(positions: Sequence[int], width: int) -> int:
    """An integer with these bits set, in time linear in its width."""
    octets = bytearray(width // 8 + 1)
    for position in positions:
        octets[position >> 3] |= 1 << (position & 7)
    return int.from_bytes(octets, "little")


def _bounds(tokens: Iterable[Token]) -> list[int]:
    bounds = {ord("/"), ord("/") + 1}
    for token in tokens:
        if isinstance(token, str):
            bounds |= {ord(token), ord(token) + 1}
        elif isinstance(token, CharClass):
            for low, high in token.ranges:
                bounds |= {ord(low), ord(high) + 1}
    return sorted(bounds)
