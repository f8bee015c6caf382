"""DHCP options as people write them (Neutron's ``extra_dhcp_opts``): what IPv4 and IPv6 have in common.

Names and values are those of dnsmasq(8), ``--dhcp-option``, which Neutron's own DHCP agent hands them to. An option is named or
numbered, and may be for some clients only: ``tag:ipxe,bootfile-name``, ``tag:!ipxe,67``.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Collection, Mapping

import msgspec

Encoder = Callable[[str], bytes]
"""Makes bytes of a value. :raises ValueError, OverflowError, struct.error: it is none for the option."""

_HEX = re.compile("[0-9a-fA-F]{2}(:[0-9a-fA-F]{2})+")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
FOREVER = 0xFFFFFFFF
"""As a time in seconds."""

_LONGEST = 1024
"""Bytes; longer ones fit into no message."""


class Setting(msgspec.Struct, frozen=True):
    """An option to give to clients that have all tags in ``only`` and none in ``never``. No bytes: it isn't given at all."""

    code: int
    value: bytes
    only: frozenset[str] = frozenset()
    never: frozenset[str] = frozenset()

    def applies(self, tags: frozenset[str]) -> bool:
        """Whether a client with these tags gets it."""
        return self.only <= tags and not self.never & tags


class Options:
    """The options of DHCP for IPv4 or IPv6.

    ``names`` are those that dnsmasq knows, ``numbered`` those that are known by their numbers alone. ``largest`` is the last
    number there is, and ``own`` are those that only the protocol can say. ``guess`` encodes a value of all others.
    """

    def __init__(
        self,
        names: Mapping[str, tuple[int, Encoder]],
        *,
        numbered: Mapping[int, Encoder],
        own: Collection[int],
        largest: int,
        client_id: int,
        guess: Encoder,
    ) -> None:
        self._names = names
        self._encoders = dict(names.values()) | dict(numbered)
        self._own, self._largest, self._guess = own, largest, guess
        self._of_clients = ("client-id", str(client_id))  # Neutron uses it to know a client by; no client is told of it

    def parse(self, name: str, value: str) -> Setting | None:
        """An option as it is written; None for one that says how to know the client.

        :raises ValueError: unknown name, or a value that the option can't have; the message is for people.
        """
        return None if _bare_name(name) in self._of_clients else _setting(name, value, self._find)

    def _find(self, name: str) -> tuple[int, Encoder] | None:
        if name in self._names or not name.isdecimal():
            return self._names.get(name)
        code = int(name)
        if not 0 < code <= self._largest or code in self._own:
            return None
        return code, self._encoders.get(code, self._guess)


def _setting(name: str, value: str, find: Callable[[str], tuple[int, Encoder] | None]) -> Setting:
    *conditions, last = (part.strip() for part in name.split(","))
    tags = [condition.removeprefix("tag:") for condition in conditions if condition.startswith("tag:")]
    if len(tags) < len(conditions):
        raise ValueError(f"DHCP option {name!r}: before the option stand only conditions, each tag:NAME or tag:!NAME")
    known = find(_bare_name(last))
    if known is None:
        raise ValueError(f"DHCP option {name!r}: no option of this name or number can be set")
    code, encode = known
    try:
        encoded = encode(value.strip()) if value.strip() else b""
    except (ValueError, OverflowError, struct.error) as error:
        raise ValueError(f"DHCP option {name!r}: {value!r} is no value for it: {error}") from None
    if len(encoded) > _LONGEST:
        raise ValueError(f"DHCP option {name!r}: {len(encoded)} bytes are too long")
    return Setting(
        code,
        encoded,
        frozenset(tag for tag in tags if not tag.startswith("!")),
        frozenset(tag[1:] for tag in tags if tag.startswith("!")),
    )


def _bare_name(name: str) -> str:
    """The name or number alone, of an option written with its conditions or as ``option:NAME``."""
    last = name.rpartition(",")[2].strip()
    return last.removeprefix("option6:").removeprefix("option:")


def architecture(value: bytes) -> frozenset[str]:
    """The tag ``arch-N`` for a client's processor architecture (RFC 4578, 5970), if it names one."""
    return frozenset((f"arch-{int.from_bytes(value[:2], 'big')}",)) if len(value) >= 2 else frozenset()


def text(value: str) -> bytes:
    """As it stands."""
    return value.encode()


def number(size: int) -> Encoder:
    """A number of so many bytes."""
    return lambda value: int(value, 0).to_bytes(size, "big")


def time(value: str) -> bytes:
    """Seconds, or minutes (``30m``), hours, days, weeks; ``infinite``."""
    found = re.fullmatch(r"(\d+)([smhdw]?)", value)
    if found is None and value != "infinite":
        raise ValueError("no time; write seconds, or a number with m, h, d or w")
    seconds = int(found[1]) * _SECONDS[found[2]] if found else FOREVER
    return min(seconds, FOREVER).to_bytes(4, "big")


def domains(value: str) -> bytes:
    """Names on the wire (RFC 1035 §3.1), not compressed."""
    return b"".join(_domain(each.strip()) for each in value.split(",") if each.strip())


def _domain(name: str) -> bytes:
    labels = [label.encode("idna") for label in name.rstrip(".").split(".")]
    if not all(labels):
        raise ValueError(f"{name!r} is no domain name")
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def guess(value: str) -> bytes:
    """What dnsmasq makes of a value for an option that it doesn't know: bytes, a number, or text."""
    if _HEX.fullmatch(value):
        return bytes.fromhex(value.replace(":", ""))
    if value.isdecimal():
        known = int(value)
        return known.to_bytes(next(size for size in (1, 2, 4, 8, len(value)) if known < 1 << 8 * size), "big")
    return value.encode()
