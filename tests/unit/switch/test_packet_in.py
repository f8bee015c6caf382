"""Punted packets and packets to send, against Open vSwitch's own decoder and os-ken."""

from __future__ import annotations

import contextlib
import shutil
import struct
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonflow.pipeline import NETWORK, SOURCE, Bits, Output, PacketOut, Resubmit, load
from dragonflow.switch.openflow.decode import Unreadable
from dragonflow.switch.openflow.messages import HEADER, MAX_MESSAGE, NX_PACKET_IN2, VERSION, Message, ask_for_packets
from dragonflow.switch.packet_in import decode_packet_in, encode_packet_out

needs_ovs = pytest.mark.skipif(shutil.which("ovs-ofctl") is None, reason="needs ovs-ofctl")

FRAME = bytes.fromhex("ffffffffffff 020000000001 88b5") + bytes(range(46))


def framed(message: Message) -> bytes:
    return HEADER.pack(VERSION, message.type, HEADER.size + len(message.body), 7) + message.body


def printed(wire: bytes) -> str:
    """What Open vSwitch reads in it."""
    done = subprocess.run(["ovs-ofctl", "ofp-print", wire.hex(), "2"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def prop(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack(">HH", kind, length) + value + bytes(-length % 8)


def oxm(oxm_class: int, field: int, value: bytes, mask: bytes = b"") -> bytes:
    return struct.pack(">HBB", oxm_class, field << 1 | bool(mask), len(value + mask)) + value + mask


METADATA = (
    oxm(0x8000, 0, struct.pack(">I", 5))
    + oxm(0x8001, 3, struct.pack(">II", 21, 22))  # reg6 and reg7
    + oxm(0x8001, 0, struct.pack(">II", 0, 9), struct.pack(">II", 0, 0xFFFFFFFF))  # reg1 alone
    + oxm(0xFFFF, 0, bytes(8))  # an experimenter's
    + oxm(0x0001, 107, bytes(4))  # one that the pipeline doesn't know
    + oxm(0x8000, 2, struct.pack(">Q", 77))
)
PUNTED = prop(0, FRAME) + prop(3, b"\6") + prop(5, b"\1") + prop(6, METADATA) + prop(7, b"\1port")


def test_a_punted_packet_is_read() -> None:
    punted = decode_packet_in(PUNTED)
    assert (punted.kind, punted.data, punted.packet, punted.in_port) == (1, b"port", FRAME, 5)
    assert (punted.read(NETWORK), punted.read(SOURCE), punted.read(Bits("reg7", 0, 16))) == (77, 21, 22)
    assert (punted.read(Bits("reg1", 0, 8)), punted.read(Bits("reg0", 0, 32)), punted.read(Bits("reg9", 0, 1))) == (
        9,
        0,
        0,
    )


@needs_ovs
def test_open_vswitch_reads_the_same() -> None:
    text = printed(framed(Message(4, NX_PACKET_IN2 + PUNTED)))
    assert text.startswith("NXT_PACKET_IN2 (OF1.5) (xid=0x7): table_id=6 total_len=60 ")
    assert "reg1=0x9,reg6=0x15,reg7=0x16,metadata=0x4d,in_port=5 (via action) data_len=60" in text
    assert "userdata=01.70.6f.72.74" in text


@given(st.one_of(st.binary(max_size=80), st.integers(0, len(PUNTED)).map(lambda cut: PUNTED[:cut])))
def test_what_is_cut_short_or_nonsense_is_refused_or_read(body: bytes) -> None:
    try:
        decode_packet_in(body)
    except Unreadable:
        assert body != PUNTED


@given(st.integers(0, len(PUNTED) - 1), st.integers(0, 255))
def test_a_byte_that_is_wrong_does_no_more_than_that(at: int, byte: int) -> None:
    with contextlib.suppress(Unreadable):
        decode_packet_in(PUNTED[:at] + bytes((byte,)) + PUNTED[at + 1 :])


@needs_ovs
def test_open_vswitch_reads_what_is_asked_and_sent() -> None:
    config, form = ask_for_packets()
    assert printed(framed(config)) == "OFPT_SET_CONFIG (OF1.5) (xid=0x7): frags=normal miss_send_len=65535"
    assert printed(framed(form)) == "NXT_SET_PACKET_IN_FORMAT (OF1.5) (xid=0x7): format=nxt_packet_in2"
    text = printed(framed(encode_packet_out(PacketOut(FRAME, (load(NETWORK, 77), Resubmit(96))))))
    assert text.startswith(
        "OFPT_PACKET_OUT (OF1.5) (xid=0x7): in_port=CONTROLLER "
        "actions=set_field:0x4d/0xffffff->metadata,resubmit(,96) data_len=60"
    )


def test_os_ken_reads_the_packet_that_is_sent() -> None:
    from os_ken.ofproto import ofproto_v1_5, ofproto_v1_5_parser

    wire = framed(encode_packet_out(PacketOut(FRAME, (Output(3),), in_port=9)))
    buffer_id, actions_length = struct.unpack_from(ofproto_v1_5.OFP_PACKET_OUT_0_PACK_STR, wire, 8)[:2]
    match = ofproto_v1_5_parser.OFPMatch.parser(wire, 16)
    at = 16 + (match.length + 7) // 8 * 8
    action = ofproto_v1_5_parser.OFPAction.parser(wire, at)
    assert (buffer_id, match["in_port"], action.port) == (ofproto_v1_5.OFP_NO_BUFFER, 9, 3)
    assert wire[at + actions_length :] == FRAME


def test_a_packet_too_long_for_a_message_is_refused() -> None:
    with pytest.raises(ValueError, match="a message holds 65535"):
        encode_packet_out(PacketOut(bytes(MAX_MESSAGE), ()))
