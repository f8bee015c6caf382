"""What the DHCP server says, with scapy as the client."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from dragonflow.apps import APPS
from dragonflow.apps.dhcp import Dhcp
from dragonflow.apps.dhcp.common import SERVER_MAC
from dragonflow.apps.dhcp.v4 import SERVER_ADDRESS
from dragonflow.apps.l2 import to_port
from dragonflow.controller.replica import Object, Replica
from dragonflow.controller.view import Me, View
from dragonflow.model import DHCP_PORT, DhcpOption, FixedIP, HostRoute
from dragonflow.pipeline import Distributed, Flow, Meter, Owner, Punt, Punted, PuntKind, Trouble
from dragonflow.testing import worlds
from dragonflow.testing.oracle import Compiled, compile_world
from dragonflow.testing.worlds import World

ME = Me(chassis="here", tunnel_ip="192.0.2.1", dhcp_lease_time=3600)
NET, V4 = worlds.network(dns_domain="example.org."), worlds.subnet(gateway_ip="10.0.0.1", dns_nameservers=("9.9.9.9",))
A = worlds.port("a", 11)
SERVER = worlds.port("dhcp", 15, on=None, device_owner=DHCP_PORT, fixed_ips=(FixedIP("v4", "10.0.0.2"),))
HERE = (NET, V4, A, worlds.tap("a", 1))

with_options = msgspec.structs.replace


def view(*objects: Object, me: Me = ME) -> View:
    replica = Replica()
    worlds.load(replica, *objects)
    return View(replica, {}, me)


def asked(*options: Any, mac: str = A.mac, chaddr: str = "", to: str = "255.255.255.255", **fields: Any) -> bytes:
    """A client's frame."""
    hardware = bytes.fromhex((chaddr or mac).replace(":", ""))
    head = Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / IP(src=fields.get("ciaddr", "0.0.0.0"), dst=to)
    bootp = BOOTP(**{"op": 1, "chaddr": hardware, "xid": 7, **fields})
    return bytes(head / UDP(sport=68, dport=67) / bootp / DHCP(options=[*options, "end"]))


def answers(frame: bytes, *objects: Object, me: Me = ME, port: str = "a") -> list[Any]:
    """The server's frames, as scapy reads them; each goes out of the port that asked."""
    punted = Punted(PuntKind.DHCPV4, port.encode(), frame, 1, {})
    sent = list(Dhcp().answer_v4(punted, view(*(objects or HERE), me=me)))
    assert all(it.actions == to_port(A) for it in sent)
    return [Ether(it.packet) for it in sent]


def answer(frame: bytes, *objects: Object, me: Me = ME) -> Any:
    (only,) = answers(frame, *objects, me=me)
    return only


def said(frame: Any) -> dict[str | int, Any]:
    """The options of a frame by scapy's names; several values as a tuple."""
    pairs = [it for it in frame[DHCP].options if isinstance(it, tuple)]
    return {name: values[0] if len(values) == 1 else values for name, *values in pairs}


def request(
    wanted: str | None = "10.0.0.11", server: str | None = str(SERVER_ADDRESS), *more: Any, **fields: Any
) -> bytes:
    options = [("message-type", "request")]
    options += [("requested_addr", wanted)] if wanted else []
    options += [("server_id", server)] if server else []
    return asked(*options, *more, **fields)


DISCOVER = asked(("message-type", "discover"))
OFFER, ACK, NAK = 2, 5, 6


def test_a_port_is_offered_its_address_with_all_that_belongs_to_it() -> None:
    offer = answer(DISCOVER)
    assert (offer.src, offer.dst) == (SERVER_MAC.hex(":"), A.mac)
    assert (offer[IP].src, offer[IP].dst, offer[UDP].sport, offer[UDP].dport) == (
        "169.254.169.254",
        "10.0.0.11",
        67,
        68,
    )
    assert (offer[BOOTP].yiaddr, offer[BOOTP].siaddr, offer[BOOTP].xid) == ("10.0.0.11", "0.0.0.0", 7)
    assert said(offer) == {
        "message-type": OFFER,
        "server_id": "169.254.169.254",
        "lease_time": 3600,
        "renewal_time": 1800,
        "rebinding_time": 3150,
        "subnet_mask": "255.255.0.0",
        "broadcast_address": "10.0.255.255",
        "interface-mtu": 1442,
        "hostname": b"host-10-0-0-11",
        "name_server": "9.9.9.9",
        "domain": b"example.org",
        "router": "10.0.0.1",
        "classless_static_routes": ["169.254.169.254/32:10.0.0.1", "0.0.0.0/0:10.0.0.1"],
        249: bytes.fromhex("20a9fea9fe0a000001000a000001"),
    }


def test_only_what_a_client_wants_is_sent_and_what_it_must_know() -> None:
    options = said(answer(asked(("message-type", "discover"), ("param_req_list", [6, 77, 1]))))
    assert set(options) == {
        *("message-type", "server_id", "lease_time", "renewal_time", "rebinding_time", "subnet_mask"),
        *("interface-mtu", "name_server"),
    }


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (request(), ACK),  # selecting
        (request("10.0.0.99"), NAK),
        (request(server=None), ACK),  # after a reboot
        (request("10.0.0.99", server=None), NAK),
        (request("192.168.0.7", server=None), NAK),
        (request(None, None, ciaddr="10.0.0.11"), ACK),  # renewing and rebinding
        (request(None, None, ciaddr="10.0.0.99"), NAK),
        (request(None, None), NAK),
    ],
)
def test_a_request_for_the_ports_address_is_acknowledged_and_any_other_is_not(frame: bytes, kind: int) -> None:
    reply = answer(frame)
    assert said(reply)["message-type"] == kind
    if kind == ACK:
        assert reply[BOOTP].yiaddr == "10.0.0.11"
        assert reply.dst == A.mac
    else:  # the client has no address at which it could be told (RFC 2131 §4.3.2)
        assert (reply[IP].dst, reply.dst) == ("255.255.255.255", "ff:ff:ff:ff:ff:ff")
        assert set(said(reply)) == {"message-type", "server_id"}
        assert (reply[BOOTP].yiaddr, reply[BOOTP].ciaddr) == ("0.0.0.0", "0.0.0.0")


@pytest.mark.parametrize(
    "frame",
    [
        request(server="10.0.0.77"),  # another server's offer was taken
        asked(("message-type", "decline"), ("requested_addr", "10.0.0.11"), ("server_id", str(SERVER_ADDRESS))),
        asked(("message-type", "release"), ("server_id", str(SERVER_ADDRESS)), ciaddr="10.0.0.11"),
        asked(("message-type", "offer")),
        asked(("message-type", "discover"), giaddr="10.0.0.77"),
        asked(("message-type", "discover"), chaddr="02:00:00:00:00:99"),
        asked(("message-type", "discover"), op=2),
        asked(("message-type", "discover"))[:100],
        b"",
    ],
)
def test_silence(frame: bytes) -> None:
    assert answers(frame) == []


@given(st.binary(max_size=600), st.integers(0, len(DISCOVER)), st.integers(0, 8))
def test_whatever_a_guest_sends_it_is_answered_with_its_own_address_or_not_at_all(
    noise: bytes, at: int, cut: int
) -> None:
    for frame in (noise, DISCOVER[:at] + noise[:cut] + DISCOVER[at + cut :], DISCOVER[:at] + noise):
        for reply in answers(frame):
            assert reply[BOOTP].yiaddr in ("10.0.0.11", "0.0.0.0")
            assert said(reply)["message-type"] in (OFFER, ACK, NAK)
            assert reply.dst in (A.mac, "ff:ff:ff:ff:ff:ff")


def test_where_an_answer_goes() -> None:
    for flags, address, expected in (
        (0x8000, "0.0.0.0", "255.255.255.255"),
        (0, "0.0.0.0", "10.0.0.11"),
        (0x8000, "10.0.0.11", "10.0.0.11"),
    ):
        wanted = None if address != "0.0.0.0" else "10.0.0.11"
        ack = answer(request(wanted, None, flags=flags, ciaddr=address))
        assert ack[IP].dst == expected
        assert ack.dst == ("ff:ff:ff:ff:ff:ff" if expected == "255.255.255.255" else A.mac)


def test_who_has_an_address_already_is_told_the_rest() -> None:
    ack = answer(asked(("message-type", "inform"), ciaddr="10.0.0.50"))
    assert (ack[BOOTP].yiaddr, ack[IP].dst) == ("0.0.0.0", "10.0.0.50")
    assert said(ack)["message-type"] == ACK
    assert said(ack)["name_server"] == "9.9.9.9"
    assert not {"lease_time", "renewal_time", "rebinding_time"} & set(said(ack))


def test_of_several_addresses_the_client_may_choose() -> None:
    other = worlds.subnet("w4", "10.7.0.0/24", gateway_ip=None)
    both = with_options(A, fixed_ips=(*A.fixed_ips, FixedIP("w4", "10.7.0.5")))
    world = (NET, V4, other, both)
    assert answer(DISCOVER, *world)[BOOTP].yiaddr == "10.0.0.11"
    chosen = answer(asked(("message-type", "discover"), ("requested_addr", "10.7.0.5")), *world)
    assert chosen[BOOTP].yiaddr == "10.7.0.5"
    assert said(chosen)["subnet_mask"] == "255.255.255.0"
    assert said(chosen)["classless_static_routes"] == ["10.0.0.0/16:0.0.0.0"]
    assert "router" not in said(chosen)
    assert said(answer(request("10.7.0.5"), *world))["message-type"] == ACK
    without = (NET, with_options(V4, enable_dhcp=False), other, both)
    assert answer(DISCOVER, *without)[BOOTP].yiaddr == "10.7.0.5"
    assert said(answer(request("10.0.0.11"), *without))["message-type"] == NAK


def test_routes_are_told_as_neutrons_own_agent_tells_them() -> None:
    routes = (HostRoute("10.8.0.0/16", "10.0.0.3"), HostRoute("0.0.0.0/0", "10.0.0.4"))
    subnet = with_options(V4, gateway_ip=None, host_routes=routes)
    options = said(
        answer(DISCOVER, NET, subnet, A, worlds.subnet("w4", "10.7.0.0/24"), worlds.subnet("v6", "fd00::/64"))
    )
    assert options["router"] == "10.0.0.4"
    assert options["classless_static_routes"] == [
        "10.7.0.0/24:0.0.0.0",
        "10.8.0.0/16:10.0.0.3",
        "169.254.169.254/32:10.0.0.4",
        "0.0.0.0/0:10.0.0.4",
    ]


def test_without_name_servers_of_its_own_a_subnet_has_the_regions_and_none_if_it_says_so() -> None:
    me = Me(chassis="here", tunnel_ip="192.0.2.1", dhcp_dns_servers=("8.8.8.8", "2001:db8::8", "8.8.4.4"))
    none = with_options(V4, dns_nameservers=())
    assert said(answer(DISCOVER, NET, none, A, me=me))["name_server"] == ["8.8.8.8", "8.8.4.4"]
    assert "name_server" not in said(answer(DISCOVER, NET, none, A))
    assert "name_server" not in said(answer(DISCOVER, NET, with_options(V4, dns_nameservers=("0.0.0.0",)), A, me=me))


def test_a_port_says_more_or_less_than_its_subnet() -> None:
    port = with_options(
        A,
        dns_name="web",
        dhcp_options=(
            DhcpOption("router", ""),
            DhcpOption("mtu", "1300"),
            DhcpOption("ntp-server", "10.0.0.6"),
            DhcpOption("lease-time", "infinite"),
            DhcpOption("dns-server", "::1", 6),
            DhcpOption("client-id", "01"),
            DhcpOption("nonsense", "1"),
        ),
    )
    options = said(answer(DISCOVER, NET, V4, port))
    assert (options["interface-mtu"], options["NTP_server"], options["hostname"]) == (1300, "10.0.0.6", b"web")
    assert options["lease_time"] == 0xFFFFFFFF
    assert options["name_server"] == "9.9.9.9"
    assert not {"router", "renewal_time", "rebinding_time"} & set(options)


PXE = (
    DhcpOption("tag:!ipxe,67", "pxelinux.0"),
    DhcpOption("tag:ipxe,67", "http://10.0.0.6/boot.ipxe"),
    DhcpOption("tag:arch-7,tag:!ipxe,bootfile-name", "shim.efi"),
    DhcpOption("tftp-server", "10.0.0.6"),
)


@pytest.mark.parametrize(
    ("options", "file"),
    [
        ((), b"pxelinux.0"),
        (((93, b"\0\7"),), b"shim.efi"),
        (((93, b"\0\7"), (175, b"\1")), b"http://10.0.0.6/boot.ipxe"),
        (((77, b"iPXE"),), b"http://10.0.0.6/boot.ipxe"),
    ],
)
def test_machines_boot_from_the_network(options: tuple[Any, ...], file: bytes) -> None:
    frame = asked(("message-type", "discover"), ("param_req_list", [66, 67, 150]), *options)
    offer = answer(frame, NET, V4, with_options(A, dhcp_options=PXE))
    assert (offer[BOOTP].file.rstrip(b"\0"), offer[BOOTP].siaddr) == (file, "10.0.0.6")
    assert offer[BOOTP].sname.rstrip(b"\0") == b"10.0.0.6"
    assert said(offer)["boot-file-name"] == file
    assert said(offer)["tftp_server_name"] == b"10.0.0.6"
    by_header = with_options(A, dhcp_options=(*PXE, DhcpOption("server-ip-address", "10.0.0.7")))
    assert answer(frame, NET, V4, by_header)[BOOTP].siaddr == "10.0.0.7"


def test_a_dhcp_port_lends_the_server_its_address() -> None:
    world = (NET, with_options(V4, gateway_ip=None), A, SERVER)
    offer = answer(DISCOVER, *world)
    assert (offer.src, offer[IP].src, said(offer)["server_id"]) == (SERVER.mac, "10.0.0.2", "10.0.0.2")
    assert said(offer)["classless_static_routes"] == ["169.254.169.254/32:10.0.0.2"]
    assert said(answer(request(server="10.0.0.2"), *world))["message-type"] == ACK
    assert answers(request(server=str(SERVER_ADDRESS)), *world) == []
    theirs = with_options(SERVER, chassis="there")
    assert said(answer(DISCOVER, NET, V4, A, theirs))["server_id"] == str(SERVER_ADDRESS), (
        "somebody runs a server there"
    )


@pytest.mark.parametrize(
    "world",
    [
        (NET, A, worlds.tap("a", 1)),
        (V4, A, worlds.tap("a", 1)),
        (NET, V4, worlds.tap("a", 1)),
        (NET, with_options(V4, enable_dhcp=False), A, worlds.tap("a", 1)),
        (NET, V4, with_options(A, fixed_ips=(FixedIP("v6", "fd00::b"),)), worlds.tap("a", 1)),
    ],
)
def test_who_has_no_address_to_get_is_not_served(world: tuple[Object, ...]) -> None:
    assert answers(DISCOVER, *world) == []
    assert facts(*world) == []


def compiled(*objects: Object) -> Compiled:
    return compile_world(APPS, World.of(ME, *objects))


def facts(*objects: Object, port: str = "a") -> list[Any]:
    return list(compiled(*objects).facts.get(Owner("dhcp", "LogicalPort", port), ()))


def test_only_ports_here_are_served_each_with_a_meter_of_its_own() -> None:
    meter, *flows = facts(*HERE)
    assert isinstance(meter, Meter)
    assert [flow.table for flow in flows] == [Dhcp.requests.number] * 2
    assert all(isinstance(flow, Flow) and flow.actions[-1] == Punt(PuntKind.DHCPV4, b"a") for flow in flows)
    assert facts(NET, V4, A) == []
    there = with_options(A, chassis="there")
    assert facts(NET, V4, there, worlds.tap("a", 1), worlds.chassis("there", "192.0.2.2"), worlds.tunnel_port()) == []
    second, *_ = facts(*HERE, worlds.port("b", 12), worlds.tap("b", 2), port="b")
    assert second.id != meter.id


def test_a_dhcp_port_is_everywhere_while_a_subnet_of_its_has_dhcp() -> None:
    def place(*objects: Object) -> Any:
        return compiled(*objects).places.get("dhcp")

    assert place(NET, V4, SERVER) == Distributed()
    assert place(NET, with_options(V4, enable_dhcp=False), SERVER) is None
    assert place(NET, SERVER) is None
    assert place(V4, SERVER) is None
    assert place(worlds.network(admin_up=False), V4, SERVER) is None
    assert place(NET, V4, with_options(SERVER, admin_up=False)) is None
    assert place(NET, V4, with_options(SERVER, chassis="there")) is None  # somebody runs a server there


def test_what_is_wrong_with_a_ports_options_is_told() -> None:
    port = with_options(A, dhcp_options=(DhcpOption("mtu", "many"), DhcpOption("router", "")))
    placed = View(Replica(), {"a": compiled(*HERE).places["a"]}, ME)
    assert [it.reason for it in Dhcp().port(port, placed) if isinstance(it, Trouble)] == [
        "DHCP option 'mtu': 'many' is no value for it: invalid literal for int() with base 0: 'many'"
    ]


def test_a_port_that_went_meanwhile_is_not_answered() -> None:
    assert answers(DISCOVER, NET, V4) == []


@pytest.mark.parametrize("gateway", [None, "10.0.0.1"])
def test_where_this_chassis_serves_metadata_its_address_is_on_link(gateway: str | None) -> None:
    """A gateway may be no router of anybody's; that chassis answers ARP for the address in every network."""
    me, subnet = msgspec.structs.replace(ME, metadata=True), with_options(V4, gateway_ip=gateway)
    offer = answer(asked(("message-type", "discover")), NET, subnet, A, SERVER, me=me)
    default = [f"0.0.0.0/0:{gateway}"] if gateway else []
    assert said(offer)["classless_static_routes"] == ["169.254.169.254/32:0.0.0.0", *default]
