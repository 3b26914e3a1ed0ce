"""Reading the outer layer of JSON that the decoder cannot read."""

import pytest

from sluice.kube import shallow


@pytest.mark.parametrize(
    ("data", "found"),
    [
        pytest.param(b"{}", {}, id="nothing"),
        pytest.param(b' {"a": 1, "b":"x"} ', {"a": b"1", "b": b'"x"'}, id="scalars"),
        pytest.param(b'{"a":{"b":[1,{"c":2}]},"d":null}', {"a": b'{"b":[1,{"c":2}]}', "d": b"null"}, id="nested"),
        pytest.param(rb'{"a":"}\",{[","b":1}', {"a": rb'"}\",{["', "b": b"1"}, id="brackets and quotes in text"),
        pytest.param(rb'{"\u0061":1}', {"a": b"1"}, id="an escaped name"),
        pytest.param(b"[1]", {}, id="a list"),
        pytest.param(b"", {}, id="no bytes"),
        pytest.param(b'{"a":1,"b', {"a": b"1"}, id="cut off"),
        pytest.param(b"{1:2}", {}, id="a name that is no text"),
    ],
)
def test_members(data: bytes, found: dict[str, bytes]) -> None:
    assert shallow.members(data) == found


@pytest.mark.parametrize(
    ("data", "found"),
    [
        pytest.param(b"[]", [], id="nothing"),
        pytest.param(b'[1, "a,b", {"c":[2]}]', [b"1", b'"a,b"', b'{"c":[2]}'], id="all sorts"),
        pytest.param(b"{}", [], id="an object"),
    ],
)
def test_items(data: bytes, found: list[bytes]) -> None:
    assert shallow.items(data) == found


def test_depth_does_not_matter() -> None:
    deep = b"[" * 1_000_000 + b"]" * 1_000_000

    assert shallow.members(b'{"deep":' + deep + b',"name":"a"}') == {"deep": deep, "name": b'"a"'}


@pytest.mark.parametrize(("data", "text"), [(b'"a"', "a"), (b"1", ""), (None, ""), (b'"cut', "")])
def test_text(data: bytes | None, text: str) -> None:
    assert shallow.text(data) == text
