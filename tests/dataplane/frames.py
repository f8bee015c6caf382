"""Frames as a guest may make them, right or wrong; and a sender and a listener in a namespace."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from socket import AF_INET, AF_INET6, inet_pton
from struct import pack, unpack
from types import TracebackType
from typing import IO

ALL, ALL_NODES = "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01"


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ip(text: str) -> bytes:
    return inet_pton(AF_INET6 if ":" in text else AF_INET, text)


def checksum(data: bytes) -> int:
    """RFC 1071."""
    words = unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2))
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(source: str, target: str, kind: int, payload: bytes, *tags: tuple[int, int]) -> bytes:
    """``tags`` are TPID and VLAN, the outer one first."""
    bearing = b"".join(pack(">HH", *tag) for tag in tags)
    return mac(target) + mac(source) + bearing + pack(">H", kind) + payload.ljust(46, b"\0")


def arp(op: int, sha: str, spa: str, tha: str, tpa: str) -> bytes:
    return pack(">HHBBH", 1, 0x0800, 6, 4, op) + mac(sha) + ip(spa) + mac(tha) + ip(tpa)


def ipv4(source: str, target: str, protocol: int, payload: bytes, *, options: bytes = b"", fragment: int = 0) -> bytes:
    """``fragment``: flags and offset."""
    words = 5 + len(options) // 4
    head = pack(">BBHHHBBH", 0x40 | words, 0, words * 4 + len(payload), 7, fragment, 64, protocol, 0)
    head += ip(source) + ip(target) + options
    return head[:10] + pack(">H", checksum(head)) + head[12:] + payload


def ipv6(source: str, target: str, protocol: int, payload: bytes, *, headers: bytes = b"", first: int = 0) -> bytes:
    """``headers`` are extension headers, of which ``first`` is the first one's number. ND wants a hop limit of 255."""
    head = pack(">IHBB", 6 << 28, len(headers + payload), first if headers else protocol, 255)
    return head + ip(source) + ip(target) + headers + payload


def _sum(source: str, target: str, protocol: int, data: bytes) -> int:
    pseudo = ip(source) + ip(target) + pack(">II" if ":" in source else ">HH", *_order(len(data), protocol, source))
    return checksum(pseudo + data) or 0xFFFF


def _order(length: int, protocol: int, source: str) -> tuple[int, int]:
    return (length, protocol) if ":" in source else (protocol, length)


def udp(source: str, target: str, sport: int, dport: int, data: bytes = b"hello") -> bytes:
    """Whole IP packet."""
    body = pack(">HHHH", sport, dport, 8 + len(data), 0) + data
    body = body[:6] + pack(">H", _sum(source, target, 17, body)) + body[8:]
    return (ipv6 if ":" in source else ipv4)(source, target, 17, body)


def tcp(source: str, target: str, sport: int, dport: int, flags: int, *, seq: int = 0, ack: int = 0) -> bytes:
    """Whole IP packet, with the flags of RFC 9293 (FIN 1, SYN 2, RST 4, ACK 16) and a window of 64 000."""
    body = pack(">HHIIHHHH", sport, dport, seq, ack, 5 << 12 | flags, 64000, 0, 0)
    body = body[:16] + pack(">H", _sum(source, target, 6, body)) + body[18:]
    return (ipv6 if ":" in source else ipv4)(source, target, 6, body)


def icmpv6(source: str, target: str, kind: int, body: bytes, code: int = 0) -> bytes:
    """Whole IPv6 packet."""
    message = pack(">BBH", kind, code, 0) + body
    message = message[:2] + pack(">H", _sum(source, target, 58, message)) + message[4:]
    return ipv6(source, target, 58, message)


def link_address(kind: int, address: str) -> bytes:
    """An ND option: 1 of the source, 2 of the target."""
    return pack(">BB", kind, 1) + mac(address)


def solicitation(source: str, target: str, *options: bytes, to: str = "ff02::1") -> bytes:
    return icmpv6(source, to, 135, bytes(4) + ip(target) + b"".join(options))


def advertisement(source: str, target: str, *options: bytes, flags: int = 0x20000000, to: str = "ff02::1") -> bytes:
    return icmpv6(source, to, 136, pack(">I", flags) + ip(target) + b"".join(options))


_SEND = """
import socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind((sys.argv[1], 0))
print("ready", flush=True)
for line in sys.stdin:
    wire.send(bytes.fromhex(line))
"""

_HEAR = """
import socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.setsockopt(263, 8, 1)
wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
wire.bind((sys.argv[1], 3))
print("ready", flush=True)
while True:
    frame, parts, _, where = wire.recvmsg(2000, 64)
    for level, kind, data in parts:
        status, tci, tpid = (int.from_bytes(data[at:at + size], sys.byteorder) for at, size in ((0, 4), (16, 2), (18, 2)))
        if (level, kind) == (263, 8) and status & 16:
            frame = frame[:12] + (tpid if status & 64 else 0x8100).to_bytes(2) + tci.to_bytes(2) + frame[12:]
    if where[2] != 4:
        print(frame.hex(), flush=True)
"""
"""Tells everything that comes in, with the outer VLAN tag, which the kernel takes off (PACKET_AUXDATA, packet(7))."""


_FLOOD = """
import socket, sys, threading, time
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind((sys.argv[1], 0))
frames, sent = [], 0
def flood():
    global sent
    while True:
        for frame in frames[:]:
            try:
                wire.send(frame)
                sent += 1
            except OSError:
                pass
        time.sleep(0.0005)
print("ready", flush=True)
threading.Thread(target=flood, daemon=True).start()
for line in sys.stdin:
    if line.strip():
        frames[:] = map(bytes.fromhex, line.split())
    print(sent, flush=True)
"""

_COUNT = """
import select, socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
wire.bind((sys.argv[1], 3))
print("ready", flush=True)
heard = 0
while True:
    for source in select.select([wire, sys.stdin], [], [])[0]:
        if source is wire:
            frame, where = wire.recvfrom(2000)
            heard += where[2] != 4 and b"flood" in frame
        elif sys.stdin.readline():
            print(heard, flush=True)
"""


class _Process:
    _code: str

    def __init__(self, vm: str, interface: str = "eth0") -> None:
        command = ["ip", "netns", "exec", vm, sys.executable, "-c", self._code, interface]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._out.readline() == "ready\n"

    @property
    def _out(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _ask(self, question: str = "") -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        return int(self._out.readline())

    def __enter__(self):  # type: ignore[no-untyped-def]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()


class Sender(_Process):
    """Sends frames from an interface of a namespace."""

    _code = _SEND

    def send(self, *frames: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("".join(f"{frame.hex()}\n" for frame in frames))
        self._process.stdin.flush()


class Flood(_Process):
    """Sends its frames over and over, thousands a second."""

    _code = _FLOOD

    def send(self, *frames: bytes) -> None:
        """From now on these."""
        self._ask(" ".join(it.hex() for it in frames))

    def more(self, number: int = 1000) -> None:
        """Wait until so many more have been sent."""
        until = self._ask() + number
        while self._ask() < until:
            time.sleep(0.05)


class FloodCounter(_Process):
    """Counts the frames that come in with the word "flood" in them."""

    _code = _COUNT

    @property
    def heard(self) -> int:
        return self._ask()


class Listener(_Process):
    """Hears what comes in at an interface of a namespace."""

    _code = _HEAR
    _rest = b""

    def until(self, last: bytes, sender: Sender, sent: bytes | None = None) -> Iterator[bytes]:
        """What comes until ``last`` does, which is sent (as ``sent``) again and again: Open vSwitch may lose any packet."""
        while True:
            sender.send(sent or last)
            while select.select([self._out], [], [], 0.5)[0]:
                data = os.read(self._out.fileno(), 1 << 16)
                assert data, "the listener ended"
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    frame = bytes.fromhex(line.decode())
                    if frame == last:
                        return
                    yield frame
