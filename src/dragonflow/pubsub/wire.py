"""Messages as bytes: two frames, the topic ended by a NUL, and the format's number before the records in MessagePack.

A reader refuses what it doesn't know; it never guesses and never raises anything but ``Unreadable``.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dragonflow.pubsub.protocol import Message
from dragonflow.store.protocol import Record, check_key

FORMAT = 1
"""Raised with any change that older readers would misread."""

MAX_SIZE = 16 * 2**20
"""Bytes of a frame beyond which a message is not sent and not read."""

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(tuple[Record, ...])


class Unreadable(ValueError):
    """Bytes that are no message of this format."""


def topic_frame(topic: str) -> bytes:
    """What a subscriber of the topic has its socket filter for."""
    return topic.encode() + b"\0"


def pack(message: Message) -> list[bytes]:
    """The frames of a message."""
    return [topic_frame(message.topic), bytes((FORMAT,)) + _ENCODER.encode(message.records)]


def unpack(frames: Sequence[bytes]) -> Message:
    """The message of the frames. :raises Unreadable: says what is wrong with them."""
    if len(frames) != 2:
        raise Unreadable(f"{len(frames)} frames instead of 2")
    topic, body = frames
    if not topic.endswith(b"\0"):
        raise Unreadable("the topic does not end in a NUL")
    if not body or body[0] != FORMAT:
        raise Unreadable(f"format {body[0] if body else 'missing'}, this version reads format {FORMAT}")
    try:
        records = _DECODER.decode(memoryview(body)[1:])
        name = topic[:-1].decode()
        for record in records:
            check_key(record.key)
            if record.revision < 1:
                raise Unreadable(f"{record.key}: revision {record.revision}")
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise Unreadable(str(error)) from error
    return Message(name, records)
