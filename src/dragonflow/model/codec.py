"""Rows to bytes and back: JSON with the row's kind and schema number in the field ``schema``.

A reader refuses what it doesn't know: a newer schema, an unknown field, a wrong type. Nothing is guessed.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from dragonflow.model.rows import ROWS, Row

R = TypeVar("R", bound=Row)

KINDS: dict[str, type[Row]] = {row.__name__: row for row in ROWS}
_DECODERS = {row.__name__: msgspec.json.Decoder(row) for row in ROWS}
_ENCODER = msgspec.json.Encoder()
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises of bytes that it can't read; the last of brackets within brackets within brackets."""


class CodecError(ValueError):
    """A row that can't be read."""


class UnknownKind(CodecError):
    """The row's kind is not one of this version of Dragonflow."""


class NewerSchema(CodecError):
    """The row was written by a newer Dragonflow than this one."""


class Corrupt(CodecError):
    """The bytes are no valid row of their kind."""


class _Head(msgspec.Struct):
    schema: str


def encode(row: Row) -> bytes:
    """The row as JSON."""
    return _ENCODER.encode(row)


def decode(kind: str, id: str, data: bytes, scope: str | None = None) -> Row:
    """Read a row that is stored under ``kind`` and ``id``, and in ``scope`` if one is given.

    :raises UnknownKind, NewerSchema, Corrupt: each names the row, the field and what to do.
    """
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise UnknownKind(f"{kind} {id}: unknown kind of row; known are {', '.join(KINDS)}")
    try:
        row = decoder.decode(data)
    except _UNREADABLE as error:
        raise _explain(kind, id, data, error) from error
    if row.id != id:
        raise Corrupt(f"{kind} {id}: the row calls itself {row.id!r}; delete it or run 'dragonflow repair --fix'")
    try:
        row.check()
    except ValueError as error:
        raise Corrupt(f"{kind} {id}: {error}; run 'dragonflow repair --fix'") from error
    if scope is not None and row.scope != scope:
        raise Corrupt(f"{scope}/{kind}/{id}: the row belongs into scope {row.scope}; run 'dragonflow repair --fix'")
    return row


def _explain(kind: str, id: str, data: bytes, error: Exception) -> CodecError:
    try:
        name, _, number = msgspec.json.decode(data, type=_Head).schema.partition("/")
    except _UNREADABLE:
        return Corrupt(f"{kind} {id}: {error}; run 'dragonflow repair --fix'")
    known = int(str(KINDS[kind].__struct_config__.tag).partition("/")[2])
    if name == kind and number.isdecimal() and int(number) > known:
        return NewerSchema(f"{kind} {id}: schema {number}, this version knows up to {known}; upgrade this host first")
    return Corrupt(f"{kind} {id}: {error}; run 'dragonflow repair --fix'")
