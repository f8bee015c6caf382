"""Connections under translation: which ones a flow begins, and which have to be cut when the flows have changed.

A connection that stands goes on as it began, whatever the flows say by then. So the ledger compares what flows began with what
they begin now, and whatever they wouldn't begin any more, or to somebody else, is cut: connections to a port that is forwarded
no more, and those under a source address that a router doesn't have any more. Others of the same zone go on.

A flow may write a source of its own making before it tracks a packet, and then the connection goes by that: it is the guest's of
the flow's owner, and cut with it. Whoever gets that source next gets none of the connections (``apps.chassis_snat``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from itertools import groupby
from typing import NamedTuple

from dragonflow.pipeline.action import Action, SetField, Track
from dragonflow.pipeline.facts import Flow
from dragonflow.pipeline.fields import FIELDS, Field
from dragonflow.pipeline.registers import Bits
from dragonflow.switch.openflow.decode import read_conditions
from dragonflow.switch.openflow.encode import match_of, translation
from dragonflow.switch.openflow.messages import Message, connections_flush

_SINGLY = 8
"""So many ports at most are cut one by one, for each costs Open vSwitch a walk through all its connections. Of more, all that
goes from their address to the same guest is cut."""

_COOKIE = 8
"""Bytes of the cookie with which a flow's contents begin."""

_SOURCE, _ADDRESS, _PROTOCOL = FIELDS["ipv4_src"], FIELDS["ipv4_dst"], FIELDS["ip_proto"]
_PORTS = (FIELDS["tcp_dst"], FIELDS["udp_dst"])
_Conditions = Mapping[Field, tuple[int, int]]


class Begun(NamedTuple):
    """The connections that a flow begins in a zone: to ports of an address (IPv4, packed), or, without protocol, under it.

    ``guest`` is the source that the flow has written before, if it has.
    """

    zone: int
    address: bytes
    protocol: int = 0
    port: int = 0
    mask: int = 0
    guest: bytes = b""

    @property
    def ports(self) -> range:
        """The ports: a mask leaves the low bits open."""
        return range(self.port, self.port + 0x10000 - self.mask)


class Cut(NamedTuple):
    """Connections to be cut: those under an address, or those to a port (0: any) of it that a guest at ``host`` answers.

    Of those under an address only those of ``guest``, if it is given.
    """

    zone: int
    address: bytes
    protocol: int = 0
    port: int = 0
    host: bytes = b""
    guest: bytes = b""

    @property
    def message(self) -> Message:
        """What tells a switch to."""
        if not self.protocol:
            return connections_flush(self.zone, by=self.guest, answered_to=self.address)
        return connections_flush(self.zone, self.protocol, self.address, self.port, answered_by=self.host)


def begun(flow: Flow, action: Track, owner: bytes) -> tuple[Begun, bytes] | None:
    """The connections that a flow begins by this action, and to where they go: address and ports.

    A new destination counts only where the flow says which address and ports it is for. Those under a new source go anywhere; if
    they are a guest's, it is told whose that is: the flow's ``owner`` (its cookie).
    """
    if not action.commit or action.translate is None or isinstance(action.zone, Bits):
        return None
    to = action.translate
    if to.source is not None:
        guest = _written(flow.actions[: flow.actions.index(action)])
        return Begun(action.zone, IPv4Address(to.source).packed, guest=guest), owner if guest else b""
    if to.destination is None:
        return None
    match = flow.match
    conditions = {field: (value, mask) for (field, mask), value in zip(match.shape.fields, match.values, strict=True)}
    first, last = to.ports or (0, 0)
    target = IPv4Address(to.destination).packed + first.to_bytes(2, "big") + last.to_bytes(2, "big")
    return _to(action.zone, conditions, target)


def begun_on(name: bytes, contents: bytes) -> tuple[Begun, bytes] | None:
    """The same of a flow as it stands on a switch."""
    found = translation(contents)
    if found is None:
        return None
    if found.source:
        return Begun(found.zone, found.address, guest=found.guest), contents[:_COOKIE] if found.guest else b""
    conditions = {field: (value, mask) for field, value, mask in read_conditions(match_of(name))}
    ports = found.ports + found.ports if len(found.ports) == 2 else found.ports
    return _to(found.zone, conditions, found.address + (ports or bytes(4)))


def _written(actions: Sequence[Action]) -> bytes:
    """The source address that these actions write, if any (packed)."""
    written = (it.value for it in actions if isinstance(it, SetField) and it.field is _SOURCE)
    return next((value.to_bytes(4, "big") for value in written), b"")


def _to(zone: int, conditions: _Conditions, target: bytes) -> tuple[Begun, bytes] | None:
    ports = next((conditions[field] for field in _PORTS if field in conditions), None)
    if ports is None or _ADDRESS not in conditions or _PROTOCOL not in conditions:
        return None
    address, protocol = conditions[_ADDRESS][0].to_bytes(4, "big"), conditions[_PROTOCOL][0]
    return Begun(zone, address, protocol, *ports), target


def cuts(gone: Mapping[Begun, bytes], come: Mapping[Begun, bytes]) -> Iterator[Cut]:
    """What to cut when flows that began ``gone`` are replaced by some that begin ``come``."""
    yield from (Cut(it.zone, it.address, guest=it.guest) for it in gone if not it.protocol)
    stays = dict(_singly(come))
    lost = sorted(Cut(*to, host=target[:4]) for to, target in _singly(gone) if stays.get(to) != target)
    for (zone, address, protocol, host), ports in groupby(sorted(lost, key=_way), key=_way):
        its = list(ports)
        yield from its if len(its) <= _SINGLY else (Cut(zone, address, protocol, host=host),)


def _singly(begun: Mapping[Begun, bytes]) -> Iterator[tuple[tuple[int, bytes, int, int], bytes]]:
    """Zone, address, protocol and port of all to whom connections begin, one port at a time, with where they go."""
    for it, target in begun.items():
        for port in it.ports if it.protocol else ():
            yield (it.zone, it.address, it.protocol, port), target


def _way(cut: Cut) -> tuple[int, bytes, int, bytes]:
    return cut.zone, cut.address, cut.protocol, cut.host
