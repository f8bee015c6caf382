"""Who holds a shared address, who is led there, and what the controller hears of it."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

import pytest
from msgspec.structs import replace

from dragonflow.apps import APPS
from dragonflow.apps.delivery import Delivery
from dragonflow.apps.firewall.ingress import Ingress
from dragonflow.apps.l3 import L3, is_next
from dragonflow.apps.shared import HELD, MOST, Shared, holder_of, may_hold
from dragonflow.controller.engine import Engine
from dragonflow.controller.replica import Object, Replica
from dragonflow.model import AddressPair, FixedIP, Holder, LogicalPort
from dragonflow.pipeline import DESTINATION, Clone, Flow, Local, Remote, load, set_field
from dragonflow.switch.ledger import Ledger
from dragonflow.testing import worlds
from dragonflow.testing.oracle import compile_world

ROWS = {it.id: it for it in worlds.SHARED}
VIP, VMAC = "10.0.0.99", "00:00:5e:00:01:07"
A, C = ROWS["a"], ROWS["c"]
assert isinstance(A, LogicalPort)
assert isinstance(C, LogicalPort)
HERE = worlds.holder(A, VIP, turn=2, mac=VMAC)
THERE = worlds.holder(C, VIP)


def without(*names: str) -> list[Object]:
    return [it for it in worlds.SHARED if it.id not in names]


def flows(*objects: Object, app: str = "shared") -> list[Flow]:
    facts = compile_world(APPS, worlds.World.of(worlds.ME, *objects)).facts
    return [it for owner, its in facts.items() if owner.app == app for it in its if isinstance(it, Flow)]


def ways(*objects: Object) -> list[Flow]:
    return [it for it in flows(*objects) if it.table == L3.neighbours.number]


def way(holder: Holder, port: LogicalPort) -> Flow:
    """To the address in network ``net``. Security groups are asked where the port is."""
    asked = Ingress.track if port.chassis == worlds.ME.chassis else Delivery.delivery
    actions = (*set_field(eth_dst=holder.mac), load(DESTINATION, port.key))
    return L3.neighbours.flow(HELD, is_next(1, holder.address), *actions, goto=asked)


def place(*objects: Object) -> object:
    replica = Replica()
    worlds.load(replica, *objects)
    engine = Engine(APPS, replica, worlds.ME)
    engine.settle()
    return engine.locality("port-fv")


def test_routers_lead_to_who_has_it_and_so_does_a_floating_ip() -> None:
    six = worlds.holder(C, "fd00::99")
    assert sorted(ways(*worlds.SHARED), key=repr) == sorted((way(HERE, A), way(six, C)), key=repr)
    assert place(*worlds.SHARED) == Local(1)
    newer = replace(THERE, turn=3)
    assert way(newer, C) in ways(*without(THERE.id), newer)
    assert place(*without(THERE.id), newer) == Remote("there", 110)
    assert place(*without(THERE.id, HERE.id)) is None, "nobody is known to have it"


@pytest.mark.parametrize(
    "changed",
    [
        (replace(HERE, mac="02:00:00:00:00:99"),),
        (replace(HERE, network="other"),),
        (replace(A, address_pairs=()),),
        (replace(A, address_pairs=(AddressPair("10.0.0.98"), AddressPair(VIP))),),  # only with its own MAC
        (replace(A, chassis="there"),),
        (replace(A, admin_up=False),),
    ],
)
def test_what_does_not_count_gives_way_to_what_does(changed: Iterable[Object]) -> None:
    """Whatever its turn: the other port has the address then."""
    rows = [*without("a", HERE.id), A, HERE]
    for it in changed:
        rows = [row for row in rows if (type(row), row.id) != (type(it), it.id)] + [it]
    assert way(THERE, C) in ways(*rows)
    assert place(*rows) == Remote("there", 110)


def test_a_chassis_speaks_for_none_but_the_ports_that_are_bound_to_it_and_share_the_address() -> None:
    reserved = ROWS["vip"]
    assert isinstance(reserved, LogicalPort)
    for forged in (
        worlds.holder(A, VIP, turn=9, chassis="there"),
        worlds.holder(reserved, VIP, turn=9),
        worlds.holder(worlds.port("b", 12), VIP, turn=9),
    ):
        rows = *worlds.SHARED, worlds.port("b", 12), forged
        assert way(HERE, A) in ways(*rows)
        assert place(*rows) == Local(1)


def test_nobody_is_led_where_no_router_is_or_no_port() -> None:
    assert ways(*without("r-net")) == []
    assert [it.match for it in ways(*without("tap-a"))] == [is_next(1, "fd00::99")]


def test_the_address_of_a_bound_port_is_that_ports() -> None:
    """Its way comes before any holder's, and its floating IP is with it; one of the network itself isn't given away either."""
    bound = worlds.port("vip", 99, on="there", fixed_ips=(FixedIP("v4", VIP),))
    own = [it for it in flows(*without("vip"), bound, app="l3") if it.match == is_next(1, VIP)]
    assert [it.priority > HELD for it in own] == [True]
    assert place(*without("vip"), bound) == Remote("there", 110)
    assert place(*without("vip"), replace(bound, chassis=None, device_owner="network:dhcp")) is None
    assert place(*without("vip"), replace(bound, chassis=None, device_owner="Octavia")) == Local(1)


def test_those_who_share_it_and_all_their_floating_ips_agree_about_each_flow() -> None:
    """The two ports have the same pairs; the one that is here has a floating IP of its own, too."""
    own = worlds.floating("fa", 62, "203.0.113.62", router="r", fixed_port="a", fixed_ip=A.ips[0])
    ledger = Ledger(lambda: 0.0)
    for owner, facts in compile_world(APPS, worlds.World.of(worlds.ME, *worlds.SHARED, *own)).facts.items():
        ledger.set(owner, facts)
    assert (ledger.clashes, dict(ledger.refused)) == ((), {})


def test_a_port_may_hold_what_its_pairs_say_and_that_is_not_its_own() -> None:
    port = worlds.port("a", 11, address_pairs=(AddressPair("10.0.0.0/24"), AddressPair("fd00::99", VMAC)))
    for address, mac, may in (
        ("10.0.0.99", port.mac, True),
        ("10.0.0.99", VMAC, False),
        ("10.0.0.11", port.mac, False),
        ("10.0.1.99", port.mac, False),
        ("fd00::99", VMAC, True),
        ("fd00::99", port.mac, False),
        ("fd00::98", VMAC, False),
    ):
        assert may_hold(port, ip_address(address), mac) == may, (address, mac)


def test_a_port_that_is_here_is_heard_within_its_pairs_and_subnets_and_nowhere_else() -> None:
    def heard(*pairs: str) -> set[str]:
        port = replace(A, address_pairs=tuple(map(AddressPair, pairs)))
        found = set()
        for flow in flows(*without("a", HERE.id, THERE.id), port):
            if flow.table != Shared.heard.number or not flow.priority:
                continue
            kind = "hear" if any(isinstance(it, Clone) for it in flow.actions) else "pass"
            values = {
                field.name: value for (field, _), value in zip(flow.match.shape.fields, flow.match.values, strict=True)
            }
            masks = {field.name: mask for field, mask in flow.match.shape.fields}
            name = "arp_spa" if "arp_spa" in values else "nd_target"
            found.add(f"{kind} {values[name]:x}/{masks[name].bit_count()}")
        return found

    assert heard("10.0.0.99", "10.0.0.11") == {"hear a000063/32"}
    assert heard("0.0.0.0/0") == {"hear a000000/24", "pass a00000b/32"}
    assert heard("10.0.0.128/25", "192.0.2.1") == {"hear a000080/25"}
    assert heard("fd00::99") == {f"hear {0xFD00 << 112 | 0x99:x}/128"}
    assert heard() == set()
    for gone in ("r-net", "tap-a"):
        assert not [it for it in flows(*without(gone)) if it.table == Shared.heard.number and it.priority], gone


def test_who_holds_as_many_as_one_may_is_told_of() -> None:
    replica = Replica()
    port = replace(A, address_pairs=(AddressPair("10.0.0.0/24"),))
    worlds.load(replica, *without("a", HERE.id), port)
    engine = Engine(APPS, replica, worlds.ME)
    for number in range(MOST):
        engine.settle()
        assert not [reason for owner, reason in engine.degraded.items() if owner.app == "shared"]
        worlds.load(replica, worlds.holder(port, f"10.0.0.{100 + number}"))
    engine.settle()
    (reason,) = [reason for owner, reason in engine.degraded.items() if owner.app == "shared"]
    assert f"holds {MOST} addresses" in reason
    assert holder_of("net", "10.0.0.100", replica) is not None
