"""What OpenFlow encoding costs, and 10,000 flows in one bundle against what Open vSwitch alone needs for ready-made bytes.

    python bench/codec.py

Needs root and Open vSwitch (its own, in a network namespace of its own). All figures of a line come from one run, taken in turns,
so that their ratio means something on a noisy machine. Budgets: at most 8 µs a flow mod; at most twice the ready-made time.
"""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable

from os_ken.ofproto import ofproto_v1_5
from os_ken.ofproto import ofproto_v1_5_parser as parser
from os_ken.ofproto.ofproto_protocol import ProtocolDesc

from dragonflow.lab.vswitch import VSwitch
from dragonflow.pipeline import DESTINATION, NETWORK, Flow, load, match
from dragonflow.pipeline.facts import Owner
from dragonflow.switch.bundle import bring_up_to_date
from dragonflow.switch.ledger import Ledger, cookie
from dragonflow.switch.openflow import messages
from dragonflow.switch.openflow.connection import Connection
from dragonflow.switch.openflow.encode import flow_contents, flow_name
from dragonflow.switch.openflow.messages import HEADER, VERSION, Message, bundle_add, bundle_control

FLOWS, ROUNDS = 10_000, 7
BRIDGE = "br-bench"
COOKIE = bytes(8)


def flow(number: int) -> Flow:
    """The flow of which a controller has most: a destination MAC of a network leads to a port."""
    where = match((NETWORK, 7), eth_dst=0xFA163E000000 + number)
    return Flow(98, 100, where, (load(DESTINATION, number + 1),), 192)


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def encode_own(flows: list[Flow]) -> list[bytes]:
    return [
        bundle_add(
            *(1, number),
            messages.flow_add(
                flow_name(flow.table, flow.priority, flow.match), flow_contents(COOKIE, flow.actions, flow.goto)
            ),
        )
        for number, flow in enumerate(flows)
    ]


def encode_os_ken(count: int) -> None:
    """The same flow by os-ken, serialised."""
    datapath = ProtocolDesc(ofproto_v1_5.OFP_VERSION)
    for number in range(count):
        actions = [parser.OFPActionSetField(reg7=number + 1)]
        instructions = [
            parser.OFPInstructionActions(ofproto_v1_5.OFPIT_APPLY_ACTIONS, actions),
            parser.OFPInstructionGotoTable(192),
        ]
        where = parser.OFPMatch(metadata=(7, 0xFFFFFF), eth_dst=f"fa:16:3e:00:{number >> 8:02x}:{number & 255:02x}")
        mod = parser.OFPFlowMod(datapath, cookie=5, table_id=98, priority=100, match=where, instructions=instructions)
        mod.set_xid(number)
        mod.serialize()


def bench_encoding() -> None:
    flows = [flow(number) for number in range(FLOWS)]
    own, os_ken, ledger = [], [], []
    owners = [Owner("l2", "LogicalPort", str(number)) for number in range(FLOWS)]
    for _ in range(ROUNDS):
        own.append(timed(lambda: encode_own(flows)) / FLOWS)
        os_ken.append(timed(lambda: encode_os_ken(500)) / 500)
        book = Ledger(time.time)
        ledger.append(timed(lambda: [book.set(who, (what,)) for who, what in zip(owners, flows, strict=True)]) / FLOWS)  # noqa: B023
    ours, theirs, filed = (statistics.median(each) * 1e6 for each in (own, os_ken, ledger))
    print(f"a flow mod, encoded and framed   own {ours:7.1f} µs   os-ken {theirs:7.1f} µs   ratio {theirs / ours:.0f}")
    print(f"a flow set in the ledger             {filed:7.1f} µs   (encoding, cookie and filing; one owner a flow)")


def ready_made(bundle: int) -> list[bytes]:
    """A whole bundle as bytes: open, adds, commit."""

    def framed(message: Message, xid: int) -> bytes:
        return HEADER.pack(VERSION, message.type, HEADER.size + len(message.body), xid) + message.body

    adds = []
    for number in range(FLOWS):
        this = flow(number)
        contents = flow_contents(
            cookie(Owner("l2", "LogicalPort", str(number))).to_bytes(8, "big"), this.actions, this.goto
        )
        add = messages.flow_add(flow_name(this.table, this.priority, this.match), contents)
        adds.append(bundle_add(bundle, 100 + number, add))
    return [
        framed(bundle_control(bundle, messages.OPEN), 1),
        *adds,
        framed(bundle_control(bundle, messages.COMMIT), 2),
    ]


async def send_ready_made(target: str, data: bytes) -> None:
    """Hand the bytes over and wait for the reply to the commit, with no code of ours in between."""
    reader, writer = await asyncio.open_unix_connection(target)
    writer.write(HEADER.pack(VERSION, 0, 8, 0) + data)
    while True:
        _, kind, length, xid = HEADER.unpack(await reader.readexactly(HEADER.size))
        await reader.readexactly(length - HEADER.size)
        if kind == messages.Type.ERROR:
            raise RuntimeError("Open vSwitch refused the ready-made bundle")
        if xid == 2:
            break
    writer.close()
    await writer.wait_closed()


async def bench_bundle(vswitch: VSwitch) -> None:
    target = str(vswitch.openflow(BRIDGE))
    data = b"".join(ready_made(9))
    flows = [(Owner("l2", "LogicalPort", str(number)), (flow(number),)) for number in range(FLOWS)]
    floor, encoded, sent = [], [], []
    for _ in range(ROUNDS):
        vswitch.ofctl("del-flows", BRIDGE)
        began = time.perf_counter()
        await send_ready_made(target, data)
        floor.append(time.perf_counter() - began)

        vswitch.ofctl("del-flows", BRIDGE)
        connection = await Connection.open(f"unix:{target}")
        ledger = Ledger(time.time)
        began = time.perf_counter()
        for owner, facts in flows:
            ledger.set(owner, facts)
        filed = time.perf_counter()
        synced = await bring_up_to_date(connection, ledger, sweep=True)
        ended = time.perf_counter()
        assert synced.mods == FLOWS
        encoded.append(ended - began)
        sent.append(ended - filed)
        connection.close()
    base, whole, after = (statistics.median(each) for each in (floor, encoded, sent))
    print(
        f"{FLOWS:,} flows in one bundle: ready-made bytes {base:.3f} s, ledger → barrier {after:.3f} s (ratio {after / base:.2f})"
    )
    print(f"       facts → encoded → barrier {whole:.3f} s (ratio {whole / base:.2f})")


def main() -> None:
    version = subprocess.run(["ovs-vswitchd", "--version"], capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )[0]
    load_average = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    print(
        f"Python {platform.python_version()}, {version}, {os.cpu_count()} cores, load {load_average}, median of {ROUNDS}"
    )
    bench_encoding()
    netns = f"dfb-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", netns], check=True)
    vswitch = VSwitch(tempfile.mkdtemp(prefix="dfb-"), netns)
    try:
        vswitch.start()
        vswitch.add_bridge(BRIDGE)
        asyncio.run(bench_bundle(vswitch))
    finally:
        vswitch.remove()
        subprocess.run(["ip", "netns", "del", netns], check=True)


if __name__ == "__main__":
    main()
