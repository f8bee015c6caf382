"""Datagrams against scapy; and what is no datagram."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from dragonflow.packet import Malformed, udp
from dragonflow.packet.udp import Datagram

MACS = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")

datagrams = st.builds(
    lambda ips, ports, payload: Datagram(*MACS, *ips, *ports, payload),
    st.one_of(*(st.tuples(*(st.binary(min_size=size, max_size=size),) * 2) for size in (4, 16))),
    st.tuples(*(st.integers(1, 0xFFFF),) * 2),
    st.binary(max_size=300),
)


@given(datagrams)
def test_scapy_reads_what_is_written_and_finds_the_checksums_right(it: Datagram) -> None:
    wire = udp.write(it)
    assert udp.read(wire) == it
    frame = Ether(wire)
    network = frame[IP] if len(it.ip_src) == 4 else frame[IPv6]
    assert (network[UDP].sport, network[UDP].dport) == (it.port_src, it.port_dst)
    assert bytes(network[UDP].payload) == it.payload
    for layer in (frame, network, network[UDP]):
        for name in ("chksum", "len", "plen"):
            if name in layer.fields:
                del layer.fields[name]
    assert bytes(frame) == wire


@given(datagrams, st.data())
def test_what_scapy_writes_is_read(it: Datagram, data: st.DataObject) -> None:
    options = [] if len(it.ip_src) == 16 else data.draw(st.sampled_from(([], [("NOP", None)] * 8)))
    source, destination = it.ip_src, it.ip_dst
    if len(source) == 4:
        network = IP(src=".".join(map(str, source)), dst=".".join(map(str, destination)))
        if options:
            network.options = [b"\x01" * 8]
    else:
        network = IPv6(src=source.hex(":", 2), dst=destination.hex(":", 2))
    frame = Ether(src=it.eth_src.hex(":"), dst=it.eth_dst.hex(":")) / network
    wire = bytes(frame / UDP(sport=it.port_src, dport=it.port_dst) / it.payload)
    assert udp.read(wire + bytes(data.draw(st.integers(0, 20)))) == it  # short frames are filled up


@given(
    st.one_of(
        st.binary(max_size=100), st.tuples(datagrams, st.integers(0, 60)).map(lambda it: udp.write(it[0])[: it[1]])
    )
)
def test_anything_is_read_or_refused(frame: bytes) -> None:
    with contextlib.suppress(Malformed):
        assert isinstance(udp.read(frame), Datagram)


GOOD = udp.write(Datagram(*MACS, bytes(4), bytes(4), 68, 67, b"payload"))


@pytest.mark.parametrize(
    ("at", "byte", "complaint"),
    [
        (12, 9, "not IP"),
        (14, 0x65, "broken IPv4"),
        (14, 0x44, "broken IPv4"),
        (14, 0x4F, "broken IPv4"),
        (17, 99, "broken IPv4"),
        (20, 0x20, "no whole"),
        (21, 1, "no whole"),
        (23, 6, "no whole"),
        (39, 7, "UDP datagram of"),
        (39, 99, "UDP datagram of"),
    ],
)
def test_what_is_wrong_is_told(at: int, byte: int, complaint: str) -> None:
    assert udp.read(GOOD).payload == b"payload"
    with pytest.raises(Malformed, match=complaint):
        udp.read(GOOD[:at] + bytes((byte,)) + GOOD[at + 1 :])


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff\xff", b"\0\0", b"\xff\xff\xff\xff", b"\1\2\3"])
def test_the_checksum_is_that_of_rfc_1071(data: bytes) -> None:
    from scapy.utils import checksum

    assert udp.checksum(data) == checksum(data)
