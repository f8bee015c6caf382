"""Whatever changes, not one packet passes that neither the rules before nor those after allow: floods of real packets.

The guest under test may get and send TCP alone. From before it is plugged another sends it UDP, and it sends UDP to the other,
under its own addresses and others'. Every test ends by allowing UDP, so that it is known to be able to fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from chassis import BRIDGE, TestChassis, chassis
from frames import Flood, FloodCounter, advertisement, ethernet, ipv4, udp
from msgspec.structs import replace

from dragonflow.lab.vswitch import VSwitch
from dragonflow.model import LogicalPort, OvsPort, SecurityGroup, SecurityRule
from dragonflow.testing import worlds

NET, TAGS = worlds.network(), worlds.network("tags", 3)
TCP = tuple(SecurityRule(direction, version, 6) for direction in ("egress", "ingress") for version in (4, 6))
G = SecurityGroup(id="g", rules=TCP, revision=1)
H = SecurityGroup(id="h", rules=tuple(replace(rule, first=80, last=90) for rule in TCP), revision=1)
S = worlds.port("s", 31)
V, W = (worlds.port(name, key, security_groups=("g",)) for name, key in (("v", 41), ("w", 42)))
SELF = replace(G, rules=(*TCP, *(SecurityRule(it.direction, it.ip_version, 17) for it in TCP)), revision=9)
"""What allows the flood."""


def to(guest: LogicalPort) -> list[bytes]:
    four, six = guest.ips
    return [
        ethernet(S.mac, guest.mac, 0x0800, udp(S.ips[0], four, 9, 9, b"flood")),
        ethernet(S.mac, guest.mac, 0x86DD, udp(S.ips[1], six, 9, 9, b"flood")),
    ]


def of(guest: LogicalPort, *tags: tuple[int, int]) -> list[bytes]:
    """What a guest may not send: what its rules don't allow, and what isn't its own."""
    four, six = guest.ips
    return [
        ethernet(guest.mac, S.mac, 0x0800, udp(four, S.ips[0], 9, 9, b"flood"), *tags),
        ethernet(guest.mac, S.mac, 0x86DD, udp(six, S.ips[1], 9, 9, b"flood"), *tags),
        ethernet(guest.mac, S.mac, 0x0800, ipv4("10.0.0.1", S.ips[0], 6, b"flood" + bytes(20)), *tags),
        ethernet("02:00:00:00:00:99", S.mac, 0x0800, ipv4(four, S.ips[0], 6, b"flood" + bytes(20)), *tags),
        ethernet(guest.mac, S.mac, 0x86DD, advertisement("fd00::1", "fd00::1", b"\0\1flood."), *tags),
    ]


@contextmanager
def flooding(sender: str, receiver: str, *frames: bytes) -> Iterator[tuple[Flood, FloodCounter]]:
    with ExitStack() as stack:
        counter = stack.enter_context(FloodCounter(receiver))
        flood = stack.enter_context(Flood(sender))
        flood.send(*frames)
        yield flood, counter


def comes_through(flood: Flood, counter: FloodCounter) -> bool:
    """Whether any of it does, sooner or later."""
    for _ in range(30):
        flood.more()
        if counter.heard:
            return True
    return False


def plugged(here: TestChassis, port: str) -> OvsPort:
    (found,) = here.replica.where(OvsPort, iface_id=port)
    return found


def change(here: TestChassis, old: OvsPort, new: OvsPort) -> None:
    """In one step another interface gets the OpenFlow port of one that goes."""
    here.vswitch.vsctl(
        *("del-port", BRIDGE, old.id, "--", "add-port", BRIDGE, new.id, "--", "set", "Interface", new.id),
        *(f"external_ids:iface-id={new.iface_id}", f"ofport_request={old.ofport}"),
    )


async def test_from_plug_to_unplug(vswitch: VSwitch) -> None:
    async with chassis(vswitch) as here:
        await here.now(NET, S, V, W)
        s = await here.vm(S)
        v, w = await here.vm(V), await here.vm(W)  # their group isn't known yet
        one, other = plugged(here, "v"), plugged(here, "w")
        here.vswitch.vsctl("del-port", BRIDGE, other.id)
        await here.until(lambda: here.engine.locality("w") is None)
        with (
            flooding(s, v, *to(V), *to(W)) as (into, got),
            flooding(v, s, *of(V)) as (out, sent),
            FloodCounter(w) as at_w,
        ):

            def leaks() -> tuple[int, int, int]:
                into.more()
                out.more()
                return got.heard, sent.heard, at_w.heard

            assert leaks() == (0, 0, 0), "the group isn't known"
            await here.now(G)
            assert leaks() == (0, 0, 0)
            await here.now(H, replace(V, security_groups=("h", "missing"), revision=2))
            assert leaks() == (0, 0, 0), "another group"
            await here.now(replace(V, security_groups=(), revision=3))
            assert leaks() == (0, 0, 0), "none"
            await here.now(replace(V, revision=4), replace(G, rules=(), revision=2))
            assert leaks() == (0, 0, 0), "a group without rules"
            here.vswitch.vsctl("del-port", BRIDGE, one.id)
            await here.until(lambda: here.engine.locality("v") is None)
            set_id = ("--", "set", "Interface", one.id, "external_ids:iface-id=v")
            here.vswitch.vsctl("add-port", BRIDGE, one.id, *set_id)
            await here.until(lambda: here.engine.locality("v") is not None)
            assert leaks() == (0, 0, 0), "plugged again"
            one = plugged(here, "v")
            change(here, one, other)
            await here.until(lambda: here.engine.locality("w") is not None)
            assert plugged(here, "w").ofport == one.ofport
            assert leaks() == (0, 0, 0), "another at its OpenFlow port"
            change(here, plugged(here, "w"), one)
            await here.until(lambda: here.engine.locality("v") is not None)
            assert leaks() == (0, 0, 0)
            await here.now(replace(V, admin_up=False, revision=5))
            await here.now(replace(G, revision=3))
            await here.now(replace(V, revision=6))
            assert leaks() == (0, 0, 0), "switched off and on"
            await here.now(SELF)
            assert comes_through(into, got)
            assert comes_through(out, sent)


async def test_while_the_controller_is_replaced(vswitch: VSwitch) -> None:
    rows = NET, S, V, G
    async with chassis(vswitch) as before:
        await before.now(*rows)
        s, v = await before.vm(S), await before.vm(V)
        before.leave(s)
        before.leave(v)
    async with chassis(vswitch) as here:
        here._vms += [s, v]
        with flooding(s, v, *to(V)) as (into, got), flooding(v, s, *of(V)) as (out, sent):
            await here.now(NET, S, V)
            into.more()
            out.more()
            await here.until(lambda: {"s", "v"} <= here.engine.places.keys())
            into.more()
            out.more()
            await here.now(G)
            into.more()
            out.more()
            assert (got.heard, sent.heard) == (0, 0)
            await here.now(SELF)
            assert comes_through(into, got)
            assert comes_through(out, sent)


async def test_while_a_child_moves_from_trunk_to_trunk(vswitch: VSwitch) -> None:
    parents = [worlds.port(name, key, trunk=f"t{name}") for name, key in (("p", 51), ("q", 52))]
    child = worlds.child("c", 53, "p", 101, security_groups=("g",))
    async with chassis(vswitch) as here:
        await here.now(NET, S, *parents, child, G)
        s, p, q = await here.vm(S), await here.vm(parents[0]), await here.vm(parents[1])
        with ExitStack() as stack:
            into, at_p = stack.enter_context(flooding(s, p, *to(child)))
            out, sent = stack.enter_context(flooding(p, s, *of(child, (0x8100, 101))))
            others, _ = stack.enter_context(flooding(q, s, *of(child, (0x8100, 101))))
            at_q = stack.enter_context(FloodCounter(q))

            def leaks() -> tuple[int, int, int]:
                for it in (into, out, others):
                    it.more(500)
                return at_p.heard, at_q.heard, sent.heard

            for revision, parent in enumerate("qpqpq", 2):
                await here.now(replace(child, parent=parent, vlan=101, revision=revision))
                assert leaks() == (0, 0, 0), parent
            await here.now(replace(SELF, revision=9))
            assert comes_through(into, at_q)
            assert comes_through(others, sent)
            assert at_p.heard == 0
