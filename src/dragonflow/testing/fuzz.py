"""Fuzzing without an instrument: inputs made of good ones by chance, and what must hold for each of them.

Every case has a random source of its own, made of the run's seed and the case's number; so any case that failed is made again by
``DRAGONFLOW_FUZZ=SEED:NUMBER``. With ``DRAGONFLOW_FUZZ_SECONDS`` a target goes on for so long with a new seed (``make fuzz``),
else it takes its few cases with the seed 0: a change of the code is tried on the same inputs as the one before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

MOST_SECONDS = 0.5
"""Of the processor's time that checking one case may take; making its input isn't counted."""

_EDGES = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)
_NUMBERS = (0, 1, -1, 255, 1 << 12, 1 << 16, (1 << 24) - 1, 1 << 24, 1 << 30, 1 << 32, (1 << 63) - 1, 1 << 64, 1e308)
_WORDS = (
    *("", "*", "\0", "\ud800", "é" * 300, "x" * 5000, "/", "net", "here", "0.0.0.0", "255.255.255.255", "10.0.0.0/8"),
    *("::", "fe80::1%eth0", "10.0.0.11", "fd00::/0", "::/129", "1.2.3.4/99"),
    *("02:00:00:00:00:0b", "ff:ff:ff:ff:ff:ff", "geneve", "vlan"),
    *("RemoteChassis:", "RemoteChassis:x", "network:router_interface", "network:floatingip", "network:dhcp"),
)


def cases(few: int) -> Iterator[tuple[str, Random]]:
    """The name and the random source of each case of a target; ``few`` of them, if no time is given."""
    again = os.environ.get("DRAGONFLOW_FUZZ")
    if again is not None:
        yield again, Random(again)
        return
    seconds = float(os.environ.get("DRAGONFLOW_FUZZ_SECONDS", "0"))
    seed = int.from_bytes(os.urandom(4), "big") if seconds else 0
    end, number = time.monotonic() + seconds, 0
    while number < few or time.monotonic() < end:
        yield f"{seed}:{number}", Random(f"{seed}:{number}")
        number += 1
    print(f"fuzz: {number} cases with seed {seed}")


def fuzz(few: int, make: Callable[[Random], Any], check: Callable[[Any], object]) -> None:
    """Make each case's input and check it, within ``MOST_SECONDS``. Whatever fails tells the input, and how to make it again."""
    for name, random in cases(few):
        made = make(random)
        began = time.thread_time()
        try:
            check(made)
            took = time.thread_time() - began
            assert took < MOST_SECONDS, f"{took:.2f} s for one case"
        except BaseException as error:
            error.add_note(f"DRAGONFLOW_FUZZ={name}: {made!r}"[:1500])
            raise


def mutated(random: Random, good: Sequence[bytes]) -> bytes:
    """One of the good inputs, changed in one to six places: bits and bytes, lengths, cuts, repetitions, pieces of another."""
    data = bytearray(random.choice(good))
    for _ in range(random.choice((1, 1, 2, 3, 6))):
        at = random.randrange(len(data) + 1)
        if not data or random.random() < 0.1:
            data[at:at] = random.randbytes(random.choice((1, 2, 8, 64)))
            continue
        at = min(at, len(data) - 1)
        match random.randrange(8):
            case 0:
                data[at] ^= 1 << random.randrange(8)
            case 1:
                data[at] = random.choice(_EDGES)
            case 2:
                data[at : at + 2] = random.choice((0, 1, 0x7FFF, 0xFFFF, len(data))).to_bytes(2, "big")
            case 3:
                del data[at:]
            case 4:
                del data[at : at + random.randrange(1, 9)]
            case 5:
                data[at:at] = data[at : at + random.randrange(1, 33)] * random.randrange(1, 20)
            case 6:
                other = random.choice(good)
                data[at:] = other[random.randrange(len(other) + 1) :]
            case _:
                data[at] = random.randrange(256)
    return bytes(data)


def disturbed(random: Random, good: Any) -> Any:
    """A JSON value, a few places of which have another value, another kind of value, or are gone, or are new."""
    changed = good
    for _ in range(random.choice((1, 1, 2, 4))):
        changed = _disturb(random, changed)
    return changed


def _disturb(random: Random, value: Any) -> Any:
    if isinstance(value, Mapping) and value and random.random() < 0.9:
        name = random.choice(sorted(value))
        chance = random.random()
        if chance < 0.05:
            return {key: it for key, it in value.items() if key != name}
        if chance < 0.1:
            return {**value, random.choice(_WORDS): name}
        return {**value, name: _disturb(random, value[name])}
    if isinstance(value, list) and value and random.random() < 0.8:
        at = random.randrange(len(value))
        return random.choice(
            ([*value, *value], value[:at], [*value[:at], _disturb(random, value[at]), *value[at + 1 :]])
        )
    return _instead(random, value)


def _instead(random: Random, value: Any) -> Any:
    """Mostly another value of the same kind: others are refused at the door."""
    if random.random() < 0.15:
        return random.choice((None, True, [], {}, "", 0, [value], {"a": value}, 1.5))
    if isinstance(value, bool) or value is None:
        return random.choice((True, False, None, *_WORDS))
    if isinstance(value, int | float):
        return random.choice((*_NUMBERS, value + 1, -value))
    if isinstance(value, str) and value and random.random() < 0.5:
        return mutated(random, [value.encode(errors="replace")]).decode(errors="replace")
    return random.choice(_WORDS)


def nested(depth: int = 100_000) -> bytes:
    """JSON that ends a parser which calls itself, if nobody bounds it."""
    return b"[" * depth
