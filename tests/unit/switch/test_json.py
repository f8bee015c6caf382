"""The parser that the OVSDB client is given."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dragonflow.switch._json import Parser

TEXT = st.text(st.sampled_from('{}[]"\\:, aé\n'), max_size=8)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**12), 10**12), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXT, VALUES, max_size=3)


def parsed(stream: str, size: int) -> list[Any]:
    """The objects of a stream that comes in pieces of this size, read as ``ovs.jsonrpc`` does."""
    found = []
    parser = Parser()
    for start in range(0, len(stream), size):
        piece = stream[start : start + size]
        while piece:
            piece = piece[parser.feed(piece) :]
            if parser.is_done():
                found.append(parser.finish())
                parser = Parser()
    return found


@given(st.lists(OBJECTS, max_size=3), st.integers(1, 20))
def test_a_stream_in_pieces_gives_its_objects(sent: list[Any], size: int) -> None:
    stream = "".join(map(json.dumps, sent))
    assert parsed(stream, size) == sent


def test_what_is_no_json_is_told_as_a_string() -> None:
    assert all(isinstance(it, str) for it in parsed("{]}", 1) + parsed("}", 1) + parsed("{1}", 3))
