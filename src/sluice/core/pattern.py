"""Patterns of copies and excludes: how they are read, in four grammars.

The grammars differ in what copy-semantics, section 3, found the peer to do; `DOCUMENTED` is ours.
Braces are expanded to alternatives first, up to a limit. The alternatives, and all patterns of an
exclude list, become one automaton (`sluice.core.automaton`), so a list costs what one pattern does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import Struct

from sluice.core.automaton import Alternative, Automaton, CharClass, End, Token, Wild
from sluice.core.errors import Code, Problem, SpecError
from sluice.core.limits import Limits


class BadPattern(SpecError):
    """A glob, exclude or pathPattern that cannot be understood, or is beyond a limit."""

    def __init__(self, text: str) -> None:
        super().__init__(Problem(Code.BAD_PATTERN, text))

    @classmethod
    def malformed(cls, pattern: str, reason: str) -> BadPattern:
        return cls(f"'{pattern}' is not a valid pattern: {reason}")


class Grammar(Struct, frozen=True):
    """How a pattern is read."""

    meta: str
    """What makes a component more than a name, unless escaped."""
    negations: str
    """What negates a class when it comes first in it."""
    braces: bool = False
    """`{a,b}` stands for alternatives, `**` as a whole component for any number of components."""
    strict_classes: bool = False
    """An unescaped `-` or `]` in the place of a class member is an error."""
    spanning: bool = False
    """The pattern is matched against whole paths as text: a class may match `/`."""
    shielding: bool = False
    """A comma or brace inside a class belongs to the class, even within braces."""
    follows: bool = False
    """`**` passes through links to directories."""


PATH_MATCH = Grammar("*?[", "^", strict_classes=True)
"""The peer's `from` for Overwrite and Merge."""
DOUBLESTAR = Grammar("*?[{", "^!", braces=True, spanning=True)
"""The peer's excludes."""
DOUBLESTAR_PATHS = Grammar("*?[{", "^!", braces=True, follows=True)
"""The peer's `from` for Extract; see `glob.expand_doublestar`."""
DOCUMENTED = Grammar("*?[{", "^!", braces=True, shielding=True)
"""Globs and excludes of the documented dialect; give it what `normalise` returns."""


class _Malformed(Exception):
    """Why a pattern cannot be read."""


_ANY = CharClass((), negated=True)


class Glob(Automaton):
    """A compiled pattern, or several that are one."""

    def __init__(self, text: str, grammar: Grammar, alternatives: Sequence[Alternative]) -> None:
        super().__init__(alternatives)
        self.text = text
        self.grammar = grammar
        self.prefix = _common_prefix([_prefix_of(each) for each in alternatives])
        """The names that every match begins with, without its last: where a walk may begin."""
        self.recursive = any(
            token is Wild.REST or token is Wild.GLOBSTAR for each in alternatives for token in each.tokens
        )
        """Whether `**` makes it match at any depth."""


def _prefix_of(alternative: Alternative) -> tuple[str, ...]:
    plain = ""
    for token in alternative.tokens[1:]:
        if not isinstance(token, str):
            break
        plain += token
    return tuple(plain.split("/")[:-1])


def _common_prefix(prefixes: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    if not prefixes:
        return ()
    low, high = min(prefixes), max(prefixes)
    for depth, name in enumerate(low):
        if high[depth : depth + 1] != (name,):
            return low[:depth]
    return low


# Reading


def _class_at(text: str, at: int, grammar: Grammar) -> tuple[CharClass, int]:
    """The class that begins at `at`, and where it ends."""

    def member(at: int) -> tuple[str, int]:
        if text[at : at + 1] == "\\":
            at += 1
        char = text[at : at + 1]
        if not char:
            raise _Malformed("class is not closed")
        if char == "/" and not grammar.spanning:
            raise _Malformed("class is not closed before '/'")
        return char, at + 1

    at += 1
    negated = at < len(text) and text[at] in grammar.negations
    at += negated
    ranges: list[tuple[str, str]] = []
    while text[at : at + 1] != "]" or not ranges:
        if text[at : at + 1] == "]":
            raise _Malformed("class is empty")
        if grammar.strict_classes and text[at : at + 1] == "-":
            raise _Malformed("'-' in a class needs a '\\' before it")
        low, at = member(at)
        high = low
        if text[at : at + 1] == "-":
            if grammar.strict_classes and text[at + 1 : at + 2] in ("-", "]"):
                raise _Malformed("'-' in a class needs a '\\' before it")
            if text[at + 1 : at + 2] not in ("", "]"):
                high, at = member(at + 1)
                # The peer's doublestar looks at the low end by itself first: `[c-a]` matches `c`.
                high = high if grammar.strict_classes else max(low, high)
        ranges.append((low, high))
    return CharClass(tuple(ranges), negated, slash=grammar.spanning), at + 1


def _stars_at(text: str, at: int, before: Token, grammar: Grammar) -> tuple[Wild, int]:
    end = at
    while text[end : end + 1] == "*":
        end += 1
    # Two stars mean directories only where they are a whole component.
    if grammar.braces and end - at == 2 and before in ("/", Wild.GLOBSTAR):
        if end == len(text):
            return Wild.REST, end
        if text[end] == "/":
            return Wild.GLOBSTAR, end + 1
    return Wild.STAR, end


def _read(text: str, grammar: Grammar) -> Alternative:
    """Read a pattern whose braces are expanded."""
    text = "/" + text
    tokens: list[Token] = []
    offsets: list[int] = []
    at = 0
    while at < len(text):
        offset = at
        char = text[at]
        token: Token
        if char == "*":
            token, at = _stars_at(text, at, tokens[-1], grammar)
        elif char == "?":
            token, at = _ANY, at + 1
        elif char == "[":
            token, at = _class_at(text, at, grammar)
        elif char in "{}" and grammar.braces:
            raise _Malformed(f"'{char}' has no partner")
        else:
            token, at = _literal_at(text, at, grammar)
        # One `**/` after the other says the same once.
        if token is not Wild.GLOBSTAR or tokens[-1] is not Wild.GLOBSTAR:
            tokens.append(token)
            offsets.append(offset)
    ends = _ends_in_text(text, offsets) if grammar.spanning else _ends(tokens)
    return Alternative(tuple(tokens), tuple(ends))


def _literal_at(text: str, at: int, grammar: Grammar) -> tuple[str, int]:
    if text[at] != "\\":
        return text[at], at + 1
    char = text[at + 1 : at + 2]
    if not char or (char == "/" and not grammar.spanning):
        raise _Malformed("nothing follows '\\'")
    return char, at + 2


def _ends(tokens: Sequence[Token]) -> list[End]:
    """What may end at each position, if all that follows may stand for nothing."""
    ends = [End.ANY]
    only_below = False  # what follows is `**` and perhaps stars: a directory matches by itself
    for token in reversed(tokens):
        match token:
            case Wild.STAR:
                ends.append(ends[-1])
            case Wild.REST:
                only_below = True
                ends.append(End.DIRECTORY)
            case Wild.GLOBSTAR:
                ends.append(End.DIRECTORY if only_below else End.NONE)
            case "/" if only_below:
                ends.append(End.DIRECTORY)
                only_below = False
            case _:
                ends.append(End.NONE)
                only_below = False
    return ends[::-1]


def _ends_in_text(text: str, offsets: Sequence[int]) -> list[End]:
    """The same for the peer's excludes: before these and no others (`a/**/**` does not match `a`)."""
    rest = ("*", "**", "/**", "**/", "/**/")
    return [*(End.ANY if text[at:] in rest else End.NONE for at in offsets), End.ANY]


def _after_class(text: str, at: int) -> int:
    """Past the class that begins at `at`, as one looks for it without reading it; -1 if it stays open."""
    at += 1
    while at < len(text) and text[at] != "]":
        at += 2 if text[at] == "\\" else 1
    return at + 1 if at < len(text) else -1


def _opening_brace(text: str, at: int) -> int:
    while 0 <= at < len(text) and text[at] != "{":
        match text[at]:
            case "\\":
                at += 2
            case "[":
                at = _after_class(text, at)
            case _:
                at += 1
    return at if at < len(text) else -1


def _split_braces(text: str, opening: int, grammar: Grammar) -> tuple[list[str], int]:
    """The alternatives between the brace at `opening` and its partner, and where that one ends."""
    parts: list[str] = []
    depth = 0
    begin = at = opening + 1
    while at < len(text):
        match text[at]:
            case "\\":
                at += 1
            case "[" if grammar.shielding:
                at = _after_class(text, at) - 1
                if at < 0:
                    raise _Malformed("class is not closed")
            case "{":
                depth += 1
            case "}" if depth:
                depth -= 1
            case "}":
                parts.append(text[begin:at])
                return parts, at + 1
            case "," if not depth:
                parts.append(text[begin:at])
                begin = at + 1
        at += 1
    raise _Malformed("'{' is not closed")


def _expand_braces(text: str, grammar: Grammar, limit: int) -> list[str]:
    """What the braces stand for, in order; as text, so an alternative may complete what is around it."""
    expanded: list[str] = []
    todo = [(text, 0)]
    while todo:
        text, at = todo.pop()
        opening = _opening_brace(text, at)
        if opening < 0:
            expanded.append(text)
        else:
            parts, end = _split_braces(text, opening, grammar)
            todo += [(text[:opening] + part + text[end:], opening) for part in reversed(parts)]
        if len(expanded) + len(todo) > limit:
            raise BadPattern(f"pattern has more than {limit} alternatives (limit: {limit}, pattern_alternatives)")
    return expanded


def _check_braces(text: str) -> None:
    """Whether braces are paired, outside of classes, and classes closed."""
    depth = at = 0
    while at < len(text):
        match text[at]:
            case "\\":
                at += 1
            case "[":
                at = _after_class(text, at) - 1
                if at < 0:
                    raise _Malformed("class is not closed")
            case "{":
                depth += 1
            case "}":
                depth -= 1
                if depth < 0:
                    raise _Malformed("'}' has no partner")
        at += 1
    if depth:
        raise _Malformed("'{' is not closed")


def _alternatives(text: str, grammar: Grammar, limits: Limits) -> list[Alternative]:
    if len(text) > limits.pattern_length:
        raise BadPattern(f"pattern is {len(text)} characters long (limit: {limits.pattern_length}, pattern_length)")
    if grammar.spanning:
        return _exclude_alternatives(text, grammar, limits)
    flat = [text]
    if grammar.braces:
        _check_braces(text)
        flat = _expand_braces(text, grammar, limits.pattern_alternatives)
    flat = list(map(_without_dot, flat))
    # A tree has no empty or dotted names; without such alternatives a walk does not look for them.
    return [
        alternative
        for each, alternative in [(each, _read(each, grammar)) for each in flat]
        if {"", ".", ".."}.isdisjoint(each.split("/"))
    ]


def _without_dot(text: str) -> str:
    """The peer lists `./*` like `*`, but finds nothing for `./a/*`, `a//*`, `a/./*` or `a/../*`."""
    dot, _, rest = text.partition("/")
    return rest if dot == "." and has_meta(rest.partition("/")[0], "*?[\\") else text


def _exclude_alternatives(text: str, grammar: Grammar, limits: Limits) -> list[Alternative]:
    """Alternatives of an exclude, valid where the peer finds it so.

    The peer tries an exclude on the text `.` and refuses what fails there. So nothing after an
    alternative that matches `.` is looked at, and a negated class with a `.` in it is left behind
    in the middle, its rest taken for a pattern.
    """
    alternatives: list[Alternative] = []
    for each in _expand_braces(text, grammar, limits.pattern_alternatives):
        try:
            alternative = _read(each, grammar)
            if each.startswith(("[^", "[!")):
                _check_braces(each.partition(".")[2])
        except _Malformed:
            if Glob(text, grammar, alternatives).matches("."):
                break
            raise
        alternatives.append(alternative)
    return alternatives


# Patterns


def compile_glob(text: str, grammar: Grammar, limits: Limits) -> Glob:
    """Compile a pattern; raises `BadPattern`, also where nothing would ever reach the error."""
    return compile_globs([text], grammar, limits)


def compile_globs(texts: Sequence[str], grammar: Grammar, limits: Limits) -> Glob:
    """Compile patterns to one that matches where any of them does, at the price of one."""
    alternatives: list[Alternative] = []
    for text in texts:
        try:
            alternatives += _alternatives(text, grammar, limits)
        except _Malformed as error:
            raise BadPattern.malformed(text, str(error)) from None
    return Glob(", ".join(texts), grammar, list(dict.fromkeys(alternatives)))


def has_meta(text: str, characters: str) -> bool:
    """Whether a text holds one of the characters without a backslash before it."""
    at = 0
    while at < len(text):
        if text[at] in characters:
            return True
        at += 2 if text[at] == "\\" else 1
    return False


def unescape(text: str) -> str:
    r"""The text that a pattern without meta characters matches: `\x` is `x`."""
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def literal_prefix(text: str, grammar: Grammar) -> tuple[str, ...]:
    """The leading components of a pattern that are plain names, unescaped, without the last component."""
    names = []
    for component in text.split("/")[:-1]:
        if has_meta(component, grammar.meta):
            break
        names.append(unescape(component))
    return tuple(names)


def normalise(text: str) -> tuple[str, bool]:
    """A pattern spelled canonically, and whether a trailing slash restricts it to directories.

    Empty and `.` components vanish; the root is the empty text. A leading `/` or a `..` component
    raises `BadPattern`, for no path in a tree has either.
    """
    if text.startswith("/"):
        raise BadPattern.malformed(text, "it starts with '/' (paths are relative)")
    components = text.split("/")
    if ".." in components:
        raise BadPattern.malformed(text, "it has a '..' component")
    kept = [component for component in components if component not in ("", ".")]
    return "/".join(kept), bool(kept) and components[-1] in ("", ".")


def split_components(text: str, grammar: Grammar) -> list[tuple[str, bool]]:
    """The components of a valid pattern and whether braces are in them; braces hold together."""
    components = [("", False)]
    at = 0
    while at < len(text):
        opening = _opening_brace(text, at) if grammar.braces else -1
        first, *others = (text[at:opening] if opening >= 0 else text[at:]).split("/")
        last, braces = components[-1]
        components[-1] = (last + first, braces)
        components += [(other, False) for other in others]
        if opening < 0:
            break
        at = _split_braces(text, opening, grammar)[1]
        components[-1] = (components[-1][0] + text[opening:at], True)
    return components
