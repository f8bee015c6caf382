"""The Switch on a real Open vSwitch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from dragonflow.lab.vswitch import VSwitch
from dragonflow.model import OvsPort
from dragonflow.pipeline import (
    IN_PORT,
    NETWORK,
    SOURCE,
    ApplyMeter,
    Bucket,
    Clause,
    Clone,
    Fact,
    Flow,
    Group,
    Match,
    Meter,
    Output,
    OutputTo,
    PacketOut,
    PatchPort,
    PeerPort,
    Punt,
    Punted,
    PuntKind,
    Resubmit,
    SetField,
    TunnelPort,
    load,
    match,
    punt,
    punt_meter,
    set_field,
)
from dragonflow.pipeline.action import Track
from dragonflow.pipeline.facts import ALL_PUNTED, Owner
from dragonflow.switch import Disconnected, Switch, cookie
from dragonflow.switch.packet_in import decode_packet_in

BRIDGE = "br-int"


class Rig:
    """A Switch that runs, and what it told."""

    def __init__(self, vswitch: VSwitch) -> None:
        self.ports: dict[str, OvsPort] = {}
        self.connects = 0
        self.packets: list[Punted] = []
        self._news = asyncio.Event()
        self.switch = Switch(
            f"unix:{vswitch.openflow(BRIDGE)}",
            f"unix:{vswitch.db_sock}",
            BRIDGE,
            datapath_type="netdev",
            on_ports=self._on_ports,
            on_connect=self._on_connect,
            on_packet=self._on_packet,
        )

    def _on_ports(self, present: list[OvsPort], gone: list[str]) -> None:
        self.ports.update({port.id: port for port in present})
        for name in gone:
            del self.ports[name]
        self._news.set()

    def _on_connect(self) -> None:
        self.connects += 1
        self._news.set()

    def _on_packet(self, body: bytes) -> None:
        self.packets.append(decode_packet_in(body))
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(15):
            while not condition():
                await self._news.wait()
                self._news.clear()


@asynccontextmanager
async def running(vswitch: VSwitch) -> AsyncIterator[Rig]:
    rig = Rig(vswitch)
    task = asyncio.create_task(rig.switch.run())
    try:
        await rig.until(lambda: rig.switch.connected and rig.switch.ovsdb_in_sync)
        yield rig
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture
def ovs(vswitch: VSwitch) -> VSwitch:
    vswitch.add_bridge(BRIDGE)
    return vswitch


def owner(name: str) -> Owner:
    return Owner("test", "Thing", name)


def flow(number: int, *actions: object, table: int = 10) -> Flow:
    return Flow(table, 5, match(reg1=number), actions or (Output(1),))  # type: ignore[arg-type]


def everything() -> dict[Owner, list[Fact]]:
    """Facts of every kind, and matches and actions of every kind that apps use."""
    nd = {"eth_type": 0x86DD, "ip_proto": 58, "icmpv6_code": 0}
    matches: list[Match] = [
        match(),
        match(in_port=3, eth_src="fa:16:3e:00:00:01", eth_dst=(1 << 40, 1 << 40)),
        match(**nd, icmpv6_type=135, nd_target="fe80::1", nd_sll="fa:16:3e:00:00:01", nd_options_type=1, nd_reserved=5),
        match(**nd, icmpv6_type=136, nd_tll="fa:16:3e:00:00:01", ipv6_src="fe80::/16"),
        match(eth_type=0x0806, arp_op=1, arp_spa="10.0.0.1", arp_tpa="10.0.0.0/8", arp_sha="fa:16:3e:00:00:01"),
        match(eth_type=0x0800, ip_proto=6, tcp_src=4, tcp_dst=(16, 0xFFF0), ip_dscp=3, ip_ecn=1, ip_ttl=3, metadata=7),
        match(vlan_vid=0x1005, vlan_pcp=3, tunnel_id=7, tun_ipv4_src="10.0.0.1", reg0=1, reg2=(4, 12), reg3=9, reg15=1),
        match(
            eth_type=0x0800,
            ip_proto=132,
            sctp_dst=5,
            ip_frag=(0, 2),
            ct_state=(0x22, 0x33),
            ct_mark=1,
            reg4=2,
            metadata=7,
        ),
        match(eth_type=0x0800, ip_proto=6, tcp_flags=(2, 0x12), tcp_src=4),
        match(conj_id=7, in_port=3, eth_type=0x0800),
        match(tun_ipv6_src="::1", tun_ipv6_dst="::2", eth_type=0x86DD, ip_proto=17, udp_src=4, udp_dst=5),
    ]
    respond = set_field(nd_sll="fa:16:3e:00:00:01", nd_options_type=2, nd_reserved=0xE0000000, icmpv6_type=136)
    flows: list[Fact] = [
        Flow(
            20, 7, each, respond if index == 2 else (Output(index + 1), Output(IN_PORT)), goto=21 if index % 2 else None
        )
        for index, each in enumerate(matches)
    ]
    return {
        owner("flows"): flows,
        owner("drop"): [Flow(21, 0, match())],
        owner("flood"): [Group(7), Flow(22, 1, match(), (OutputTo(7), ApplyMeter(3)))],
        owner("clauses"): [Clause(23, 5, match(reg1=7), which, 1, 3) for which in (70000, 2)],
        owner("other clauses"): [Clause(23, 5, match(reg1=7), 3, 2, 2)],
        owner("tracked"): [
            Flow(24, 1, match(eth_type=0x0800), (Track(7, 25, commit=True, mark=1),)),
            Flow(24, 2, match(eth_type=0x86DD), (Track(7, 25),)),
        ],
        owner("one"): [Bucket(7, 1, (Output(1),))],
        owner("two"): [Bucket(7, 2, (Output(2),)), Meter(3, 1000, 100)],
    }


async def test_what_was_wanted_reads_back_equal_so_a_restart_sends_nothing(ovs: VSwitch) -> None:
    async with running(ovs) as rig:
        for who, facts in everything().items():
            rig.switch.want(who, facts)
        synced = await rig.switch.sync()
        assert synced.refused == {}
        assert synced.mods > 10
        assert (await rig.switch.sync()).mods == 0
    before = ovs.ofctl("dump-flows", BRIDGE, "--no-stats"), ovs.ofctl("dump-groups", BRIDGE)

    async with running(ovs) as rig:
        for who, facts in reversed(everything().items()):
            rig.switch.want(who, facts)
        synced = await rig.switch.sync()
    assert synced.mods == 0
    assert (ovs.ofctl("dump-flows", BRIDGE, "--no-stats"), ovs.ofctl("dump-groups", BRIDGE)) == before
    assert "reg15=0x1" in before[0]


async def test_nothing_is_swept_before_it_may_be(ovs: VSwitch) -> None:
    ovs.ofctl("add-flow", BRIDGE, "table=10,priority=5,reg1=99,actions=drop")
    ovs.ofctl("add-group", BRIDGE, "group_id=99,type=select,bucket=output:1")
    ovs.ofctl("add-meter", BRIDGE, "meter=99,pktps,band=type=drop,rate=5")
    async with running(ovs) as rig:
        rig.switch.want(owner("a"), [flow(1), flow(99, table=11)])
        await rig.switch.sync(sweep=False)
        assert "reg1=0x63" in ovs.ofctl("dump-flows", BRIDGE, "table=10")
        assert "group_id=99" in ovs.ofctl("dump-groups", BRIDGE)
        await rig.switch.sync(sweep=True)
    assert "reg1=0x63" not in ovs.ofctl("dump-flows", BRIDGE, "table=10")
    assert "reg1=0x1" in ovs.ofctl("dump-flows", BRIDGE, "table=10")
    assert "group_id=99" not in ovs.ofctl("dump-groups", BRIDGE)
    assert "meter=99" not in ovs.ofctl("dump-meters", BRIDGE)


async def test_one_bucket_more_or_less_is_one_message(ovs: VSwitch) -> None:
    async with running(ovs) as rig:
        rig.switch.want(owner("net"), [Group(5), flow(1, OutputTo(5))])
        for number in range(1, 41):
            rig.switch.want(owner(f"port{number}"), [Bucket(5, number, (Output(number),))])
        assert (await rig.switch.sync()).mods == 2

        rig.switch.want(owner("port1"), [])
        rig.switch.want(owner("port41"), [Bucket(5, 41, (Output(41),))])
        assert (await rig.switch.sync()).mods == 2
        dump = ovs.ofctl("dump-groups", BRIDGE)
        assert "bucket_id:41," in dump
        assert "bucket_id:1," not in dump

        rig.switch.want(owner("port2"), [Bucket(5, 2, (Output(99),))])
        await rig.switch.sync()
        assert "bucket_id:2,actions=output:99" in ovs.ofctl("dump-groups", BRIDGE)

        rig.switch.want(owner("net"), [])
        await rig.switch.sync()
        assert "group_id=5" not in ovs.ofctl("dump-groups", BRIDGE)
        rig.switch.want(owner("net"), [Group(5)])
        await rig.switch.sync()
        assert ovs.ofctl("dump-groups", BRIDGE).count("bucket_id:") == 40


async def test_a_group_of_more_buckets_than_one_message_holds_is_sent_anew_after_a_restart(ovs: VSwitch) -> None:
    async with running(ovs) as rig:
        facts: list[Fact] = [Group(5), *(Bucket(5, number, (Output(1 + number % 60000),)) for number in range(1, 6001))]
        rig.switch.want(owner("net"), facts)
        synced = await rig.switch.sync()
        assert synced.refused == {}
        assert 1 < synced.mods < 5
        assert (await rig.switch.sync()).mods == 0
    async with running(ovs) as rig:
        rig.switch.want(owner("net"), facts)
        assert 1 < (await rig.switch.sync()).mods < 5  # OVS can't describe it
        rig.switch.want(owner("more"), [Bucket(5, 7000, (Output(7),))])
        assert (await rig.switch.sync()).mods == 1


async def test_a_refused_flow_names_its_owner_and_the_rest_is_installed(ovs: VSwitch) -> None:
    async with running(ovs) as rig:
        for number in range(20):
            rig.switch.want(owner(f"good{number}"), [flow(number)])
        no_meter = [flow(100), flow(101, ApplyMeter(77))]
        rig.switch.want(owner("bad"), no_meter)
        rig.switch.want(owner("worse"), [Flow(10, 5, match(reg1=200), set_field(nd_tll="fa:16:3e:00:00:01"))])
        rig.switch.want(owner("good meter"), [Meter(78, 100, 10), flow(102, ApplyMeter(78))])
        rig.switch.want(owner("worst"), [Meter(0xFFFF0001, 100, 10), flow(103)])  # beyond what a meter's id may be
        synced = await rig.switch.sync()

        assert set(synced.refused) == {owner("bad"), owner("worse"), owner("worst")} == set(rig.switch.degraded)
        assert "METER" in synced.refused[owner("bad")]
        assert "OFPBAC_MATCH_INCONSISTENT" in str(rig.switch.degraded[owner("worse")])
        dump = ovs.ofctl("dump-flows", BRIDGE, "table=10")
        assert dump.count("reg1=") == 21
        assert "reg1=0x64 " not in dump
        assert "meter=78" in ovs.ofctl("dump-meters", BRIDGE)

        rig.switch.want(owner("bad"), no_meter)
        assert (await rig.switch.sync()).mods == 0
        assert owner("bad") in rig.switch.degraded

        rig.switch.want(owner("bad"), [*no_meter, Meter(77, 100, 10)])
        assert (await rig.switch.sync()).refused == {}
        assert set(rig.switch.degraded) == {owner("worse"), owner("worst")}
        assert "reg1=0x65" in ovs.ofctl("dump-flows", BRIDGE, "table=10")


async def test_a_refused_bucket_names_its_owner_and_the_group_stands(ovs: VSwitch) -> None:
    async with running(ovs) as rig:
        rig.switch.want(owner("net"), [Group(5), flow(1, OutputTo(5))])
        for number in range(1, 6):
            rig.switch.want(owner(f"good{number}"), [Bucket(5, number, (Output(number),))])
        rig.switch.want(owner("bad"), [Bucket(5, 99, (Output(0xFFFFFFFF),))])
        synced = await rig.switch.sync()
        assert set(synced.refused) == {owner("bad")}
        assert ovs.ofctl("dump-groups", BRIDGE).count("bucket_id:") == 5
        assert "group:5" in ovs.ofctl("dump-flows", BRIDGE)


async def test_facts_that_can_not_be_encoded_degrade_their_owner_only(ovs: VSwitch) -> None:
    async with running(ovs) as rig:
        rig.switch.want(owner("bad"), [Flow(300, 5, match())])
        rig.switch.want(owner("good"), [flow(1)])
        assert (await rig.switch.sync()).mods == 1
        assert "can't be encoded" in str(rig.switch.degraded[owner("bad")])


async def test_vswitchd_restarts_and_everything_is_restored_in_one_bundle(ovs: VSwitch) -> None:
    async with running(ovs) as rig:
        for who, facts in everything().items():
            rig.switch.want(who, facts)
        first = await rig.switch.sync()
        before = sorted(ovs.ofctl("dump-flows", BRIDGE, "--no-stats").splitlines()[1:])

        connects = rig.connects
        await asyncio.to_thread(ovs.restart_vswitchd, kill=True)
        await rig.until(lambda: rig.connects > connects)
        again = await rig.switch.sync()

        assert again.mods == first.mods
        assert sorted(ovs.ofctl("dump-flows", BRIDGE, "--no-stats").splitlines()[1:]) == before


async def test_without_a_switch_sync_says_so_and_keeps_what_is_wanted(ovs: VSwitch) -> None:
    async with running(ovs) as rig:
        await asyncio.to_thread(ovs.stop_vswitchd, kill=True)
        rig.switch.want(owner("a"), [flow(1)])
        with pytest.raises(Disconnected):
            await rig.switch.sync()
        connects = rig.connects
        await asyncio.to_thread(ovs.start_vswitchd)
        await rig.until(lambda: rig.connects > connects)
        assert (await rig.switch.sync()).mods == 1


async def test_tunnel_ports_are_made_adopted_and_removed(ovs: VSwitch) -> None:
    geneve = TunnelPort("df-geneve", "geneve", "10.0.0.1")
    async with running(ovs) as rig:
        rig.switch.want(owner("tunnel"), [geneve])
        await rig.switch.sync()
        await rig.until(lambda: "df-geneve" in rig.ports and rig.ports["df-geneve"].ofport is not None)
        assert rig.ports["df-geneve"].tunnel == "df-geneve"
        assert "remote_ip=flow" in ovs.vsctl("get", "Interface", "df-geneve", "options").replace('"', "")
    uuid = ovs.vsctl("get", "Interface", "df-geneve", "_uuid")

    async with running(ovs) as rig:
        await rig.switch.sync(sweep=False)
        rig.switch.want(owner("tunnel"), [geneve])
        rig.switch.want(owner("other"), [PeerPort("df-vxlan", "vxlan", "10.0.0.1", "10.0.0.2")])
        await rig.switch.sync()
        await rig.until(lambda: "df-vxlan" in rig.ports)
        assert ovs.vsctl("get", "Interface", "df-geneve", "_uuid") == uuid

        rig.switch.want(owner("tunnel"), [])
        await rig.switch.sync()
        await rig.until(lambda: "df-geneve" not in rig.ports)
        assert ovs.vsctl("list-ports", BRIDGE).split() == ["df-vxlan"]


def joined(ovs: VSwitch) -> dict[str, tuple[str, str]]:
    """The patch ports that there are: on which bridge, and the other end."""
    found = {}
    for bridge in ovs.vsctl("list-br").split():
        for port in ovs.vsctl("list-ports", bridge).split():
            if ovs.vsctl("get", "Interface", port, "type").strip() == "patch":
                found[port] = bridge, ovs.vsctl("get", "Interface", port, "options:peer").strip().strip('"')
    return found


PHYSNET = PatchPort("df-int-br-ex", "df-phy-br-ex", "br-ex")
PAIR = {"df-int-br-ex": (BRIDGE, "df-phy-br-ex"), "df-phy-br-ex": ("br-ex", "df-int-br-ex")}


async def test_a_pair_of_patch_ports_is_made_adopted_and_removed(ovs: VSwitch) -> None:
    """Ends on other bridges that are somebody else's stay."""
    ovs.add_bridge("br-ex")
    ovs.vsctl(
        *("add-port", "br-ex", "mine", "--", "set", "Interface", "mine", "type=patch", "options:peer=none"),
        "external_ids:df-patch=br-other",
    )
    mine = {"mine": ("br-ex", "none")}
    async with running(ovs) as rig:
        rig.switch.want(owner("provider"), [PHYSNET])
        await rig.switch.sync()
        await rig.until(lambda: "df-int-br-ex" in rig.ports and rig.ports["df-int-br-ex"].ofport is not None)
        assert rig.ports["df-int-br-ex"].patch == "br-ex"
        assert joined(ovs) == PAIR | mine
    uuid = ovs.vsctl("get", "Interface", "df-int-br-ex", "_uuid")
    async with running(ovs) as rig:
        rig.switch.want(owner("provider"), [PHYSNET])
        await rig.switch.sync()
        assert joined(ovs) == PAIR | mine
        assert ovs.vsctl("get", "Interface", "df-int-br-ex", "_uuid") == uuid
    async with running(ovs) as rig:  # the mapping is gone
        await rig.switch.sync(sweep=False)
        assert joined(ovs) == PAIR | mine
        await rig.switch.sync()
        await rig.until(lambda: "df-int-br-ex" not in rig.ports)
        assert joined(ovs) == mine


async def test_patch_ports_come_and_go_with_a_bridge_that_can_be_joined(
    ovs: VSwitch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(ovs) as rig:
        rig.switch.want(owner("provider"), [PHYSNET])
        await rig.switch.sync()
        assert joined(ovs) == {}
        await asyncio.to_thread(ovs.add_bridge, "br-ex")
        await rig.until(lambda: "df-int-br-ex" in rig.ports)
        assert "can't be joined to bridge br-ex: it isn't there" in caplog.text
        await asyncio.to_thread(ovs.vsctl, "del-port", "df-phy-br-ex")
        async with asyncio.timeout(10):
            while await asyncio.to_thread(joined, ovs) != PAIR:
                pass
        await asyncio.to_thread(ovs.vsctl, "set", "Bridge", "br-ex", "datapath_type=system")
        await rig.until(lambda: "df-int-br-ex" not in rig.ports)
        assert "can't be joined to bridge br-ex: its datapath_type is not br-int's" in caplog.text
        await asyncio.to_thread(ovs.vsctl, "set", "Bridge", "br-ex", "datapath_type=netdev")
        await rig.until(lambda: "df-int-br-ex" in rig.ports)
        await asyncio.to_thread(ovs.vsctl, "del-br", "br-ex")
        await rig.until(lambda: "df-int-br-ex" not in rig.ports)


async def test_a_tunnel_wanted_while_another_is_being_removed_is_made(ovs: VSwitch) -> None:
    async with running(ovs) as rig:
        for turn in range(20):
            old, new = f"df-old{turn}", f"df-new{turn}"
            rig.switch.want(owner("tunnel"), [PeerPort(old, "geneve", "10.0.0.1", f"10.0.1.{turn}")])
            await rig.switch.sync()
            await rig.until(lambda old=old: old in rig.ports and rig.ports[old].ofport is not None)
            rig.switch.want(owner("tunnel"), [])
            await rig.switch.sync()
            await asyncio.sleep(turn * 0.0002)  # the removal is on its way now, or not yet, or done
            rig.switch.want(owner("tunnel"), [PeerPort(new, "geneve", "10.0.0.1", f"10.0.2.{turn}")])
            await rig.switch.sync()
            await rig.until(lambda new=new: new in rig.ports)


@pytest.mark.parametrize(
    ("spoil", "look", "right"),
    [
        (("set", "Interface", "df-geneve", "options:remote_ip=9.9.9.9"), ("Interface", "df-geneve", "options:remote_ip"), "flow"),
        (("set", "Interface", "df-geneve", "type=gre"), ("Interface", "df-geneve", "type"), "geneve"),
        (("clear", "Interface", "df-geneve", "external_ids"), ("Interface", "df-geneve", "external_ids:df-tunnel"), "df-geneve"),
        (("del-port", BRIDGE, "df-geneve"), ("Interface", "df-geneve", "external_ids:df-tunnel"), "df-geneve"),
        (("set", "Bridge", BRIDGE, "fail_mode=standalone"), ("Bridge", BRIDGE, "fail_mode"), "secure"),
    ],
)  # fmt: skip
async def test_what_somebody_spoils_in_the_database_is_put_right(
    ovs: VSwitch, spoil: tuple[str, ...], look: tuple[str, ...], right: str
) -> None:
    def value() -> str:
        return ovs.vsctl("--if-exists", "get", *look).strip().strip('"')

    async with running(ovs) as rig:
        rig.switch.want(owner("tunnel"), [TunnelPort("df-geneve", "geneve", "10.0.0.1")])
        await rig.switch.sync()
        await rig.until(lambda: "df-geneve" in rig.ports and rig.ports["df-geneve"].ofport is not None)
        await asyncio.to_thread(ovs.vsctl, "--no-wait", *spoil)
        async with asyncio.timeout(10):
            while await asyncio.to_thread(value) != right:
                pass


async def test_interfaces_come_change_and_go(ovs: VSwitch) -> None:
    async with running(ovs) as rig:
        ovs.vsctl(
            "--no-wait", "add-port", BRIDGE, "nodevice", "--", "set", "Interface", "nodevice", "external_ids:iface-id=x"
        )
        await rig.until(lambda: "nodevice" in rig.ports and rig.ports["nodevice"].error is not None)
        assert rig.ports["nodevice"].ofport is None
        assert rig.ports["nodevice"].iface_id == "x"

        ovs.vsctl(
            *("add-port", BRIDGE, "vm", "--", "set", "Interface", "vm", "type=internal"),
            *("external_ids:iface-id=port1", 'external_ids:attached-mac="fa:16:3e:00:00:01"'),
        )
        await rig.until(lambda: "vm" in rig.ports and rig.ports["vm"].ofport is not None)
        assert (rig.ports["vm"].iface_id, rig.ports["vm"].attached_mac) == ("port1", "fa:16:3e:00:00:01")
        ovs.vsctl("del-port", "vm")
        await rig.until(lambda: "vm" not in rig.ports)


async def test_the_bridge_is_made_and_set_up(vswitch: VSwitch) -> None:
    async with running(vswitch):
        pass
    get = [vswitch.vsctl("get", "Bridge", BRIDGE, column).strip() for column in ("fail_mode", "datapath_type")]
    assert get == ["secure", "netdev"]
    assert "OpenFlow15" in vswitch.vsctl("get", "Bridge", BRIDGE, "protocols")


async def test_the_database_restarts(ovs: VSwitch) -> None:
    async with running(ovs) as rig:
        await asyncio.to_thread(ovs.stop_ovsdb)
        await asyncio.to_thread(ovs.start_ovsdb)
        await asyncio.to_thread(ovs.vsctl, "add-port", BRIDGE, "vm", "--", "set", "Interface", "vm", "type=internal")
        await rig.until(lambda: "vm" in rig.ports and rig.ports["vm"].ofport is not None)
        assert "br-int" in rig.ports


async def test_ten_thousand_flows_in_one_bundle(ovs: VSwitch) -> None:
    async with running(ovs) as rig:
        for number in range(10_000):
            rig.switch.want(owner(str(number)), [flow(number)])
        assert (await rig.switch.sync()).mods == 10_000
        rig.switch.want(owner("77"), [])
        rig.switch.want(owner("78"), [flow(78, Output(5))])
        assert (await rig.switch.sync()).mods == 2
    dump = ovs.ofctl("dump-flows", BRIDGE, "--no-stats")
    assert dump.count("reg1=") == 9_999
    assert f"cookie={cookie(owner('5')):#x}" in dump


FRAME = bytes.fromhex("020000000002 020000000001 88b5") + bytes(range(200)) * 7


def come_in(ovs: VSwitch, port: int, frame: bytes = FRAME) -> None:
    """A packet comes in at a port and begins at table 0."""
    ovs.ofctl("packet-out", BRIDGE, f"in_port={port} packet={frame.hex()} actions=resubmit(,0)")


async def test_packets_are_punted_whole_and_sent_back_through_the_tables(ovs: VSwitch) -> None:
    there = Flow(0, 1, match(in_port=5), (*load_all(), Punt(PuntKind.DHCPV4, b"port")), 10)
    back = Flow(10, 2, match((NETWORK, 9)), (Punt(2),))
    for _ in range(2):  # the second time all is there already
        async with running(ovs) as rig:
            rig.switch.want(owner("punts"), [there, back])
            await rig.switch.sync()
            assert (await rig.switch.sync()).mods == 0
            come_in(ovs, 5)
            await rig.until(lambda: len(rig.packets) == 1)
            (punted,) = rig.packets
            assert (punted.kind, punted.data, punted.packet, punted.in_port) == (PuntKind.DHCPV4, b"port", FRAME, 5)
            assert (punted.read(NETWORK), punted.read(SOURCE)) == (8, 77)

            assert rig.switch.send(PacketOut(FRAME[::-1], (load(NETWORK, 9), Resubmit(10))))
            assert rig.switch.send(PacketOut(FRAME, (load(NETWORK, 9), Resubmit(10)), in_port=6))
            await rig.until(lambda: len(rig.packets) == 3)
            assert [it.packet for it in rig.packets[1:]] == [FRAME[::-1], FRAME]
            assert rig.packets[2].in_port == 6
            assert not rig.switch.degraded


def load_all() -> tuple[SetField, ...]:
    return load(NETWORK, 8), load(SOURCE, 77)


async def test_a_port_that_punts_too_much_does_not_take_others_share(ovs: VSwitch) -> None:
    async with running(ovs) as rig:
        for port in (5, 6):
            meter = replace(punt_meter(PuntKind.DHCPV4, port), rate=1, burst=5)
            punts = Flow(0, 1, match(in_port=port), punt(PuntKind.DHCPV4, port, b""))
            rig.switch.want(owner(f"port{port}"), [meter, punts])
        assert (await rig.switch.sync()).refused == {}
        for _ in range(40):
            come_in(ovs, 5)
        come_in(ovs, 6)
        await rig.until(lambda: any(it.in_port == 6 for it in rig.packets))
        assert 5 <= len([it for it in rig.packets if it.in_port == 5]) < 30


async def test_one_meter_bounds_all_that_is_punted_and_what_goes_on_goes_on(ovs: VSwitch) -> None:
    """No flow names it; after a restart it is found again."""
    async with running(ovs) as rig:
        both = Flow(0, 1, match(in_port=5), (Clone((Punt(PuntKind.DHCPV4),)),), goto=1)
        goes_on = Flow(1, 1, match())
        rig.switch.want(owner("punts"), [both, goes_on, Meter(ALL_PUNTED, 1, 5)])
        assert (await rig.switch.sync()).refused == {}
        for _ in range(40):
            come_in(ovs, 5)
        assert "n_packets=40" in ovs.ofctl("dump-flows", "br-int", "table=1")
        await rig.until(lambda: len(rig.packets) >= 5)
        assert len(rig.packets) < 30
    async with running(ovs) as rig:
        rig.switch.want(owner("punts"), [both, goes_on, Meter(ALL_PUNTED, 1, 5)])
        assert (await rig.switch.sync()).mods == 0
        rig.switch.want(owner("punts"), [both, goes_on])
        assert (await rig.switch.sync()).mods == 1
        assert "controller" not in ovs.ofctl("dump-meters", "br-int")


async def test_without_a_switch_nothing_is_sent(ovs: VSwitch) -> None:
    async with running(ovs) as rig:
        ovs.stop()
        async with asyncio.timeout(15):
            while rig.switch.send(PacketOut(FRAME, ())):
                await asyncio.sleep(0.01)
        assert not rig.switch.connected
