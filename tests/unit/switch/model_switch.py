"""A switch as OpenFlow describes it, as strict about order and existence as Open vSwitch is."""

from __future__ import annotations

import struct

from dragonflow.switch.ledger import Difference
from dragonflow.switch.openflow.decode import GroupBytes, MeterFigures
from dragonflow.switch.openflow.messages import BucketBytes, Message, Type


class ModelSwitch:
    """Holds flows, groups and meters by what the messages say, not by what the ledger thinks."""

    def __init__(self) -> None:
        self.flows: dict[bytes, bytes] = {}
        self.groups: dict[int, dict[int, bytes]] = {}
        self.meters: dict[int, tuple[int, int, bool]] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelSwitch) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(vars(self))

    def do(self, difference: Difference) -> None:
        """All messages in order; a message that Open vSwitch would refuse fails an assertion."""
        for part, types in (
            (difference.before, {Type.METER_MOD, Type.FLOW_MOD, Type.EXPERIMENTER}),
            (difference.bundle, {Type.FLOW_MOD, Type.GROUP_MOD}),
            (difference.after, {Type.METER_MOD, Type.EXPERIMENTER}),
        ):
            for change in part:
                for message in change.messages:
                    assert message.type in types
                    if message.type != Type.EXPERIMENTER:  # it empties a conntrack zone
                        self._do(message)

    def dump(self) -> tuple[dict[bytes, bytes], list[GroupBytes], list[MeterFigures]]:
        """What a readback would find."""
        groups = [
            GroupBytes(group, tuple(BucketBytes(*bucket) for bucket in buckets.items()))
            for group, buckets in self.groups.items()
        ]
        return dict(self.flows), groups, [MeterFigures(*meter) for meter in self.meters.items()]

    def _do(self, message: Message) -> None:
        body = message.body
        if message.type == Type.FLOW_MOD:
            self._flow(body)
        elif message.type == Type.GROUP_MOD:
            self._group(body)
        else:
            self._meter(body)

    def _flow(self, body: bytes) -> None:
        cookie, command = struct.unpack_from(">Q9xB", body)
        _, match_length = struct.unpack_from(">HH", body, 40)
        end = 40 + (match_length + 7) // 8 * 8
        name = body[16:17] + b"\0" + body[18:end]
        if command == 0:
            used = body[end:]
            for group in referred(used, 22):
                assert group in self.groups, f"flow to group {group}, which isn't there"
            for meter in referred(used, 29):
                assert meter in self.meters, f"flow through meter {meter}, which isn't there"
            self.flows[name] = struct.pack(">Q", cookie) + used
        else:
            assert command == 4
            self.flows.pop(name, None)

    def _group(self, body: bytes) -> None:
        command, kind, group, length, bucket = struct.unpack_from(">HBxIH2xI", body)
        assert kind == 0
        buckets = dict(_buckets(body[16 : 16 + length]))
        if command == 0x8000:
            self.groups[group] = buckets
        elif command == 3:
            assert not buckets.keys() & self.groups[group].keys(), "bucket exists"
            self.groups[group] |= buckets
        elif command == 5:
            del self.groups[group][bucket]
        else:
            assert command == 2
            del self.groups[group]
            self.flows = {name: flow for name, flow in self.flows.items() if group not in referred(flow[8:], 22)}

    def _meter(self, body: bytes) -> None:
        command, flags, meter = struct.unpack_from(">HHI", body)
        if command == 2:
            del self.meters[meter]
            self.flows = {name: flow for name, flow in self.flows.items() if meter not in referred(flow[8:], 29)}
            return
        assert (meter in self.meters) == (command == 1)
        rate, burst = struct.unpack_from(">II", body, 12)
        self.meters[meter] = rate, burst, bool(flags & 1)


def _buckets(body: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(body):
        length, actions, bucket = struct.unpack_from(">HHI", body, at)
        found.append((bucket, body[at + 8 : at + 8 + actions]))
        at += length
    return found


def referred(instructions: bytes, action: int) -> set[int]:
    """The groups (22) or meters (29) that apply_actions names."""
    found, at = set(), 0
    while at < len(instructions):
        kind, length = struct.unpack_from(">HH", instructions, at)
        inner = at + 8
        while kind == 4 and inner < at + length:
            this, size = struct.unpack_from(">HH", instructions, inner)
            if this == action:
                found.add(struct.unpack_from(">I", instructions, inner + 4)[0])
            inner += size
        at += length
    return found
