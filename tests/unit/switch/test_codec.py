"""The codec against oracles: ovs-ofctl (Open vSwitch's own decoder) and os-ken."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from strategies import actions, matches

from dragonflow.pipeline import (
    ApplyMeter,
    Bits,
    Clone,
    Output,
    OutputTo,
    Punt,
    Resubmit,
    Track,
    Translate,
    Untrack,
    match,
    set_field,
)
from dragonflow.pipeline import match as make_match
from dragonflow.pipeline.match import Match
from dragonflow.switch.openflow import messages
from dragonflow.switch.openflow.decode import FOREIGN, decode_flows, decode_groups, decode_meters
from dragonflow.switch.openflow.encode import encode_actions, encode_match, flow_contents, flow_name
from dragonflow.switch.openflow.errors import decode_error
from dragonflow.switch.openflow.messages import HEADER, VERSION, BucketBytes, Message

needs_ovs = pytest.mark.skipif(shutil.which("ovs-ofctl") is None, reason="needs ovs-ofctl")


def framed(message: Message, xid: int = 7) -> bytes:
    return HEADER.pack(VERSION, message.type, HEADER.size + len(message.body), xid) + message.body


def printed(wire: bytes) -> str:
    """What Open vSwitch reads in it."""
    done = subprocess.run(["ovs-ofctl", "ofp-print", wire.hex()], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@needs_ovs
@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            messages.flow_add(
                flow_name(7, 100, match((Bits("reg6", 0, 32), 5), eth_type=0x0800, ipv4_dst="10.0.0.0/24")),
                flow_contents(
                    bytes.fromhex("df00000000000001"), (*set_field(eth_src="fa:16:3e:00:00:01"), Output(3)), 9
                ),
            ),
            "OFPT_FLOW_MOD (OF1.5) (xid=0x7): ADD table:7 priority=100,ip,reg6=0x5,nw_dst=10.0.0.0/24 "
            "cookie:0xdf00000000000001 actions=set_field:fa:16:3e:00:00:01->eth_src,output:3,goto_table:9",
        ),
        (
            messages.flow_add(
                flow_name(7, 100, match(in_port=5)), flow_contents(bytes(8), (Punt(2, b"port-1"), Output(3)), None)
            ),
            "OFPT_FLOW_MOD (OF1.5) (xid=0x7): ADD table:7 priority=100,in_port=5 "
            "actions=controller(userdata=02.70.6f.72.74.2d.31),output:3",
        ),
        (
            messages.flow_delete(flow_name(7, 100, match(in_port=5))),
            "OFPT_FLOW_MOD (OF1.5) (xid=0x7): DEL_STRICT table:7 priority=100,in_port=5 actions=drop",
        ),
        (
            next(messages.group_set(5, [BucketBytes(1, encode_actions((Output(1),)))])),
            "OFPT_GROUP_MOD (OF1.5) (xid=0x7):\n ADD_OR_MOD group_id=5,type=all,bucket=bucket_id:1,actions=output:1",
        ),
        (
            next(messages.buckets_insert(5, [BucketBytes(9, encode_actions((OutputTo(6),)))])),
            "OFPT_GROUP_MOD (OF1.5) (xid=0x7):\n"
            " INSERT_BUCKET command_bucket_id:last,group_id=5,bucket=bucket_id:9,actions=group:6",
        ),
        (
            messages.bucket_remove(5, 9),
            "OFPT_GROUP_MOD (OF1.5) (xid=0x7):\n REMOVE_BUCKET command_bucket_id:9,group_id=5",
        ),
        (
            messages.flow_add(
                flow_name(7, 100, match(in_port=5)),
                flow_contents(bytes(8), (Clone((ApplyMeter(3), Resubmit(8))), Output(1)), None),
            ),
            "OFPT_FLOW_MOD (OF1.5) (xid=0x7): ADD table:7 priority=100,in_port=5 actions=clone(meter:3,resubmit(,8)),output:1",
        ),
        (
            messages.flow_add(
                flow_name(7, 100, match(eth_type=0x0800)),
                flow_contents(
                    bytes(8),
                    (
                        Untrack(),
                        Track(5, 71, commit=True, translate=Translate(source="192.0.2.1")),
                        Track(6, 65, translate=Translate()),
                        Track(7, 65, commit=True, translate=Translate(destination="192.0.2.2", ports=(80, 80))),
                        Track(8, 65, commit=True, translate=Translate(destination="192.0.2.2", ports=(80, 90))),
                        Track(65535, 3),
                        Track(9, 3, commit=True, force=True),
                    ),
                    None,
                ),
            ),
            "OFPT_FLOW_MOD (OF1.5) (xid=0x7): ADD table:7 priority=100,ip actions=ct_clear,"
            "ct(commit,table=71,zone=5,nat(src=192.0.2.1)),ct(table=65,zone=6,nat),"
            "ct(commit,table=65,zone=7,nat(dst=192.0.2.2:80)),ct(commit,table=65,zone=8,nat(dst=192.0.2.2:80-90)),"
            "ct(table=3,zone=65535),ct(commit,force,table=3,zone=9)",
        ),
        (messages.zone_flush(7), "NXT_CT_FLUSH_ZONE (OF1.5) (xid=0x7): zone_id=7"),
        (
            messages.connections_flush(7, 6, bytes((192, 0, 2, 9)), 80, answered_by=bytes((10, 0, 0, 3))),
            "NXT_CT_FLUSH (OF1.5) (xid=0x7): zone=7 "
            "'ct_nw_src=::,ct_nw_dst=192.0.2.9,ct_tp_src=0,ct_tp_dst=80,ct_nw_proto=6' "
            "'ct_nw_src=10.0.0.3,ct_nw_dst=::,ct_tp_src=0,ct_tp_dst=0'",
        ),
        (
            messages.connections_flush(7, answered_to=bytes((192, 0, 2, 1))),
            "NXT_CT_FLUSH (OF1.5) (xid=0x7): zone=7 "
            "'ct_nw_src=::,ct_nw_dst=::,ct_tp_src=0,ct_tp_dst=0,ct_nw_proto=0' "
            "'ct_nw_src=::,ct_nw_dst=192.0.2.1,ct_tp_src=0,ct_tp_dst=0'",
        ),
        (
            messages.connections_flush(7, by=bytes((240, 0, 0, 3)), answered_to=bytes((192, 0, 2, 1))),
            "NXT_CT_FLUSH (OF1.5) (xid=0x7): zone=7 "
            "'ct_nw_src=240.0.0.3,ct_nw_dst=::,ct_tp_src=0,ct_tp_dst=0,ct_nw_proto=0' "
            "'ct_nw_src=::,ct_nw_dst=192.0.2.1,ct_tp_src=0,ct_tp_dst=0'",
        ),
        (messages.group_delete(5), "OFPT_GROUP_MOD (OF1.5) (xid=0x7):\n DEL group_id=5,type=all"),
        (
            messages.meter_add(3, 100, 10, bits=False),
            "OFPT_METER_MOD (OF1.5) (xid=0x7): ADD meter=3 pktps burst bands=\ntype=drop rate=100 burst_size=10",
        ),
        (
            messages.meter_modify(3, 100, 10, bits=True),
            "OFPT_METER_MOD (OF1.5) (xid=0x7): MOD meter=3 kbps burst bands=\ntype=drop rate=100 burst_size=10",
        ),
        (
            messages.bundle_control(4, messages.OPEN),
            "OFPT_BUNDLE_CONTROL (OF1.5) (xid=0x7):\n bundle_id=0x4 type=OPEN_REQUEST flags=atomic ordered",
        ),
    ],
)
def test_open_vswitch_reads_what_was_meant(message: Message, text: str) -> None:
    assert printed(framed(message)) == text


@needs_ovs
def test_a_bundled_message_is_the_message_in_a_frame() -> None:
    inner = messages.flow_add(flow_name(7, 100, match(in_port=5)), flow_contents(bytes(8), (), None))
    text = printed(messages.bundle_add(4, 7, inner))
    assert text.startswith("OFPT_BUNDLE_ADD_MESSAGE (OF1.5) (xid=0x7):\n bundle_id=0x4 flags=atomic ordered\n")
    assert text.endswith(printed(framed(inner)))


@needs_ovs
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(matches(), actions)
def test_open_vswitch_finds_nothing_wrong_with_any_flow(match: Match, actions: tuple[object, ...]) -> None:
    text = printed(framed(messages.flow_add(flow_name(1, 1, match), flow_contents(bytes(8), actions, 2))))  # type: ignore[arg-type]
    assert text.startswith("OFPT_FLOW_MOD (OF1.5) (xid=0x7): ADD table:1 ")
    assert "***" not in text
    assert "error" not in text.lower()


_OS_KEN_NAMES = {"nw_ttl": "ip_ttl", "ipv6_nd_target": "nd_target", "ipv6_nd_sll": "nd_sll", "ipv6_nd_tll": "nd_tll"}


@settings(max_examples=150, deadline=None)
@given(matches())
def test_os_ken_reads_the_same_match(match: Match) -> None:
    """Of those fields that os-ken knows: neither pairs of registers nor Ericsson's."""
    from os_ken.ofproto import ofproto_v1_5 as ofproto

    conditions = {field: (value, mask) for (field, mask), value in zip(match.shape.fields, match.values, strict=True)}
    known = {
        field: it for field, it in conditions.items() if field.register is None and field.header[:2] != b"\x10\x00"
    }
    wire = encode_match(make_match(**{field.name: it for field, it in known.items()}))
    _, length = struct.unpack_from(">HH", wire)
    read, at = {}, 4
    while at < length:
        header, value, mask, size = ofproto.oxm_parse(wire, at)
        name, _ = ofproto.oxm_to_user(header, value, mask)
        read[_OS_KEN_NAMES.get(name, name)] = (value, mask)
        at += size
    assert read == {
        field.name: (
            value.to_bytes(field.size, "big"),
            None if mask == field.full else mask.to_bytes(field.size, "big"),
        )
        for field, (value, mask) in known.items()
    }


def test_registers_travel_in_pairs_as_open_vswitch_dumps_them() -> None:
    pair = encode_match(match(reg4=1, reg5=2))
    assert pair[4:8] == struct.pack(">HBB", 0x8001, 2 << 1, 8)
    assert pair[8:16] == struct.pack(">II", 1, 2)
    half = encode_match(match(reg5=(4, 12)))
    assert half[8:24] == struct.pack(">IIII", 0, 4, 0, 12)


def test_a_long_group_takes_several_messages_of_allowed_size() -> None:
    buckets = [BucketBytes(number, encode_actions((Output(number),))) for number in range(1, 5000)]
    first, *rest = messages.group_set(1, buckets)
    assert rest
    for message in (first, *rest):
        assert len(messages.bundle_add(1, 1, message)) <= messages.MAX_MESSAGE
    inserted = b"".join(message.body[16:] for message in (first, *rest))
    assert inserted.count(struct.pack(">HH", 24, 16)) == len(buckets)


@needs_ovs
@pytest.mark.parametrize(
    "head",
    [
        *(
            struct.pack(">HH", kind, code)
            for kind, code in [(2, 9), (2, 10), (4, 9), (5, 1), (6, 0), (12, 3), (17, 13)]
        ),
        *(struct.pack(">HHI", 0xFFFF, code, 0x2320) for code in (4, 12, 15, 39)),
    ],
)
def test_errors_bear_the_names_that_open_vswitch_prints(head: bytes) -> None:
    text = printed(framed(Message(1, head)))
    assert decode_error(7, head).name == re.search(r": (\w+)", text).group(1)  # type: ignore[union-attr]


def test_unknown_and_broken_errors_are_told_by_number() -> None:
    assert decode_error(1, struct.pack(">HH", 2, 99)).name == "error type 2 code 99"
    assert decode_error(1, struct.pack(">HHI", 0xFFFF, 7, 5)).name == "error 7 of experimenter 0x5"
    assert decode_error(1, b"\0").name == "error without type"


def test_a_flow_with_a_timeout_is_foreign() -> None:
    def dumped(idle: int) -> bytes:
        name, contents = flow_name(3, 9, match(in_port=1)), flow_contents(bytes(8), (Output(1),), None)
        stats = struct.pack(">HH4x", 0, 4)
        length = len(name) + len(stats) + len(contents) - 8
        head = struct.pack(">H2xBxHHHHH", length, 3, 9, idle, 0, 0, 0)
        return head + contents[:8] + name[24:] + stats + contents[8:]

    expected = flow_name(3, 9, match(in_port=1))
    assert list(decode_flows(dumped(0) * 2)) == [(expected, flow_contents(bytes(8), (Output(1),), None))] * 2
    assert list(decode_flows(dumped(30))) == [(expected, FOREIGN)]


@pytest.mark.parametrize("decode", [decode_flows, decode_groups, decode_meters])
def test_a_reply_that_is_cut_short_or_empty_of_sense_ends_in_an_error(decode: object) -> None:
    for body in (b"\0" * 64, b"\1", b"\0\x40" + b"\0" * 20):
        with pytest.raises(struct.error):
            list(decode(body))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"ipv4_dst": "10.0.0.1"}, "ipv4_dst: a match on it must also hold eth_type=0x0800"),
        ({"eth_type": 0x86DD, "ipv4_dst": "10.0.0.1"}, "eth_type=0x0800"),
        ({"eth_type": 0x0800, "tcp_dst": 80}, "ip_proto=6"),
        ({"eth_type": 0x86DD, "ip_proto": 58, "icmpv6_type": 136, "icmpv6_code": 0, "nd_sll": 1}, "icmpv6_type=135"),
        ({"vlan_vid": 5, "vlan_pcp": 1}, "bit 12"),
        ({"eth_type": (0x0800, 0xFF00)}, "only as a whole"),
        ({"eth_dst": "fa:16:3e"}, "is no MAC"),
        ({"nonsense": 1}, "no such field"),
        ({"eth_type": 0x0800, "ipv4_dst": "::1"}, "no address of 32 bits"),
    ],
)
def test_a_match_that_open_vswitch_would_refuse_is_refused_where_it_is_written(
    fields: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        match(**fields)
