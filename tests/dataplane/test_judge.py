"""Random security groups, compiled by the apps into a real Open vSwitch, against Neutron's semantics in plain Python.

The judge is ``dragonflow.testing.firewall``. Open vSwitch is asked by ``ofproto/trace-packet-out``. A trace doesn't fill in how
a connection began (it clears the fields when it tracks), so it is asked twice: up to the connection tracking, and from there on
with the registers that it had, in the state that the test says. ``test_firewall`` shows with real packets that the states
are true.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from random import Random
from typing import Any, NamedTuple

from chassis import BRIDGE, TestChassis, chassis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from dragonflow.apps.firewall.egress import Egress
from dragonflow.apps.firewall.filter import GOT, SENT
from dragonflow.apps.firewall.ingress import Ingress
from dragonflow.lab.vswitch import VSwitch
from dragonflow.model import (
    AddressGroup,
    AddressPair,
    GroupMember,
    LogicalPort,
    SecurityGroup,
    SecurityRule,
)
from dragonflow.switch.trace import parse
from dragonflow.switch.unixctl import CommandFailed, Unixctl
from dragonflow.testing import worlds
from dragonflow.testing.firewall import Judge, Packet

PAIRS = 10_000
EXAMPLES, PACKETS = 90, 120
"""So many worlds, and packets in each."""

NET = worlds.network()
HERE, ELSEWHERE = ("a", "b", "c", "d", "e"), ("m", "n")
STATEFUL, STATELESS = ("g", "h"), ("k", "l")
ADDRESS_PAIRS = (
    AddressPair("10.0.0.99"),
    AddressPair("10.0.7.9/24"),
    AddressPair("fd00:7::/64"),
    AddressPair("0.0.0.0/0"),
    AddressPair("fd00::99", "02:00:00:00:00:99"),
)
PREFIXES = {
    4: ("10.0.0.0/24", "10.0.0.12/32", "10.0.0.8/29", "192.0.2.0/25", "0.0.0.0/0"),
    6: ("fd00::/64", "fd00::c/128", "fd00:7::/80", "2001:db8::/32", "::/0"),
}
STRANGERS = {
    4: ("10.0.0.99", "10.0.7.200", "10.0.8.1", "192.0.2.5", "192.0.2.200", "203.0.113.9"),
    6: ("fd00::99", "fd00:7::5", "fd00:7::1:0:0:5", "fd00:8::1", "2001:db8::9", "2001:db9::9"),
}
PORTS = (1, 2, 20, 21, 22, 67, 68, 80, 443, 1023, 1024, 8080, 32768, 65534, 65535)
WITH_PORTS = {6: "tcp", 17: "udp", 132: "sctp"}
ICMP = {4: 1, 6: 58}
OTHERS = (2, 33, 47, 50, 89, 103, 112, 136, 255)


@st.composite
def rules(draw: st.DrawFn) -> SecurityRule:
    version = draw(st.sampled_from((4, 6)))
    protocol = draw(st.sampled_from((None, 6, 6, 17, 17, 132, ICMP[version], ICMP[version], *OTHERS)))
    first = last = None
    if protocol in (6, 17, 33, 132, 136) and draw(st.booleans()):
        first, last = sorted((draw(st.sampled_from(PORTS)), draw(st.sampled_from(PORTS))))
    elif protocol == ICMP[version] and draw(st.booleans()):
        first, last = draw(st.sampled_from((0, 3, 8, 128, 129, 255))), draw(st.sampled_from((None, 0, 4)))
    remote: dict[str, Any] = draw(
        st.sampled_from(
            (
                {},
                *({"remote_group": name} for name in (*STATEFUL, "k", "unheard-of")),
                *({"address_group": name} for name in ("x", "unheard-of")),
                *({"prefix": prefix} for prefix in PREFIXES[version]),
            )
        )
    )
    return SecurityRule(draw(st.sampled_from(("egress", "ingress"))), version, protocol, first, last, **remote)


def groups(name: str) -> st.SearchStrategy[SecurityGroup]:
    def make(found: list[SecurityRule]) -> SecurityGroup:
        return SecurityGroup(id=name, rules=tuple(dict.fromkeys(found)), stateful=name in STATEFUL, revision=1)

    return st.lists(rules(), max_size=7).map(make)


def memberships() -> st.SearchStrategy[tuple[str, ...]]:
    """Neutron lets no port have groups of both kinds."""
    return st.sampled_from((("g",), ("g", "h"), ("h",), ("k",), ("k", "l"), (), ("g", "unheard-of")))


def ports(number: int, name: str) -> st.SearchStrategy[LogicalPort]:
    return st.builds(
        lambda groups, pairs, secured: worlds.port(
            name,
            11 + number,
            on="here" if name in HERE else None,
            security_groups=groups,
            address_pairs=pairs,
            port_security=secured,
        ),
        memberships(),
        st.lists(st.sampled_from(ADDRESS_PAIRS), max_size=2, unique=True).map(tuple),
        st.sampled_from((True, True, True, True, False)),
    )


class Case(NamedTuple):
    """What of a connection is tried on one port; ``packet`` is the one that began it, in ``direction``."""

    port: LogicalPort
    direction: str
    packet: Packet
    variant: str


VARIANTS = ("new", "more", "answer", "error")
"""Of what has states; later fragments wait for their first there, which no trace shows."""


class Made(NamedTuple):
    groups: tuple[SecurityGroup, ...]
    ports: tuple[LogicalPort, ...]
    address_groups: tuple[AddressGroup, ...]
    seed: int

    def cases(self) -> Iterator[Case]:
        """Mostly on the edges of what a rule of the port says, else anything."""
        chance = Random(self.seed)
        by_name = {group.id: group for group in self.groups}
        local = [port for port in self.ports if port.id in HERE]
        for _ in range(PACKETS):
            port = chance.choice(local)
            its = [rule for name in port.security_groups if name in by_name for rule in by_name[name].rules]
            rule = chance.choice(its) if its and chance.random() < 0.9 else None
            direction = rule.direction if rule else chance.choice(("egress", "ingress"))
            version = rule.ip_version if rule else chance.choice((4, 6))
            protocol = rule.protocol if rule and rule.protocol is not None and chance.random() < 0.9 else None
            if protocol is None:
                protocol = chance.choice((6, 6, 6, 17, 17, 17, 132, 132, ICMP[version], *OTHERS))
            own = port.ips[version == 6]
            others = [it.ips[version == 6] for it in self.ports]
            remote = chance.choice((*others, *STRANGERS[version]))
            first, last = self._numbers(chance, rule, protocol)
            source, destination = (own, remote) if direction == "egress" else (remote, own)
            variants = ("new", "later fragment") if "k" in port.security_groups else VARIANTS
            variant = chance.choice(variants)
            if protocol not in WITH_PORTS and protocol != ICMP[version]:
                variant = chance.choice(("new", "more") if variants is VARIANTS else ("new",))
            exempt = protocol == 17 and {first, last} <= {67, 68}
            if exempt or (protocol == ICMP[version] and variant != "later fragment"):
                variant = "new"
            yield Case(port, direction, Packet(source, destination, protocol, first, last), variant)

    @staticmethod
    def _numbers(chance: Random, rule: SecurityRule | None, protocol: int) -> tuple[int, int]:
        rule = rule if rule and rule.protocol == protocol else None
        if protocol in (1, 58):
            types = (0, 3, 8, 128, 129, 134, 135, 255)
            first = rule.first if rule and rule.first is not None and chance.random() < 0.7 else chance.choice(types)
            last = (
                rule.last if rule and rule.last is not None and chance.random() < 0.7 else chance.choice((0, 0, 1, 4))
            )
            return first, last
        if protocol not in WITH_PORTS:
            return 0, 0
        edges = PORTS
        if rule and rule.first is not None and rule.last is not None:
            edges = (rule.first - 1, rule.first, rule.last, rule.last + 1, (rule.first + rule.last) // 2)
        return chance.choice((1024, 40000, 68, 67)), min(max(chance.choice(edges), 1), 65535)


made = st.builds(
    Made,
    st.tuples(*(groups(name) for name in (*STATEFUL, *STATELESS))),
    st.tuples(*(ports(number, name) for number, name in enumerate((*HERE, *ELSEWHERE)))),
    st.lists(st.sampled_from([it for some in PREFIXES.values() for it in some]), max_size=3, unique=True).map(
        lambda found: (AddressGroup(id="x", addresses=tuple(sorted(found)), revision=1),)
    ),
    st.integers(0, 1 << 32),
)


def spelled(packet: Packet, variant: str) -> str:
    """The packet's own fields, as traces take them."""
    source, destination = packet.source, packet.destination
    first, last, protocol = packet.first, packet.last, packet.protocol
    if variant in ("answer", "error"):
        source, destination, first, last = destination, source, last, first
    four = packet.version == 4
    words = ["dl_type=0x0800" if four else "dl_type=0x86dd"]
    words += (
        (f"nw_src={source}", f"nw_dst={destination}") if four else (f"ipv6_src={source}", f"ipv6_dst={destination}")
    )
    if variant == "error":
        protocol, first, last = (1, 3, 3) if four else (58, 1, 4)
    words.append(f"nw_proto={protocol}")
    if variant == "later fragment":
        return ",".join((*words, "nw_frag=later"))
    if protocol in WITH_PORTS:
        name = WITH_PORTS[protocol]
        words += (f"{name}_src={first}", f"{name}_dst={last}")
    elif protocol == ICMP[packet.version]:
        name = "icmp" if four else "icmpv6"
        words += (f"{name}_type={first}", f"{name}_code={last}")
    return ",".join(words)


STATES = {"new": "new|trk", "more": "est|trk", "answer": "est|rpl|trk", "error": "rel|rpl|trk"}


def tracked(case: Case) -> str:
    """What connection tracking says of the packet."""
    packet, four = case.packet, case.packet.version == 4
    mark = 0 if case.variant == "new" else SENT if case.direction == "egress" else GOT
    names = ("ct_nw_src", "ct_nw_dst") if four else ("ct_ipv6_src", "ct_ipv6_dst")
    addresses = zip(names, (packet.source, packet.destination), strict=True)
    words = [f"{name}={address}" for name, address in addresses]
    known = packet.protocol in WITH_PORTS or packet.protocol in ICMP.values()
    ports = f",ct_tp_src={packet.first},ct_tp_dst={packet.last}" if known else ""
    return f"ct_state={STATES[case.variant]},ct_mark={mark},{','.join(words)},ct_nw_proto={packet.protocol}{ports}"


class Asker:
    """Asks Open vSwitch what becomes of packets in the firewall's tables."""

    def __init__(self, vswitch: VSwitch) -> None:
        self._control = Unixctl(f"unix:{vswitch.db_sock}", str(vswitch.directory / "ovs-vswitchd.ctl"), patience=20)

    async def passes(self, cases: Sequence[Case]) -> list[bool]:
        """Of each packet, whether it gets out of the tables, or to where connections are committed: there such a trace ends."""
        tables = [
            _TABLES[_AGAINST[it.direction] if it.variant in ("answer", "error") else it.direction] for it in cases
        ]
        starts = [
            f"{table.whose.field}={case.port.key},{spelled(case.packet, case.variant)}"
            for case, table in zip(cases, tables, strict=True)
        ]
        entered = await self._trace(zip(starts, (table.track.number for table in tables), strict=True))
        again = [number for number, text in enumerate(entered) if "ct(" in text]
        questions = []
        for number in again:
            case, table = cases[number], tables[number]
            registers = re.findall(r"\b(reg\d+=0x[0-9a-f]+)", entered[number].partition("\nFlow: recirc_id")[2])
            packet = f"{','.join(dict.fromkeys(registers))},{spelled(case.packet, case.variant)},{tracked(case)}"
            questions.append((packet, table.state.number))
        resumed = dict(zip(again, await self._trace(questions), strict=True))
        found = (resumed.get(number, text) for number, text in enumerate(entered))
        return [
            table.onward.number in parse(text).tables or f"resumed at table {table.passed.number}." in text
            for table, text in zip(tables, found, strict=True)
        ]

    async def _trace(self, questions: Iterable[tuple[str, int]]) -> list[str]:
        asked = [(BRIDGE, f"in_port=1,{packet}", f"resubmit(,{table})") for packet, table in questions]
        answers = await self._control.ask("ofproto/trace-packet-out", asked)
        for question, answer in zip(asked, answers, strict=True):
            assert not isinstance(answer, CommandFailed), (question, answer)
        return [str(answer) for answer in answers]

    def close(self) -> None:
        self._control.close()


_TABLES = {"egress": Egress(), "ingress": Ingress()}
_AGAINST = {"egress": "ingress", "ingress": "egress"}


def expected(judge: Judge, case: Case) -> bool:
    """Of a later fragment nobody knows the ports."""
    packet = case.packet
    if case.variant == "later fragment":
        packet = replace(packet, first=None, last=None)
    return judge.allows(case.port, case.direction, packet)


def plug(vswitch: VSwitch) -> None:
    for number, name in enumerate(HERE, 1):
        vswitch.vsctl(
            *("add-port", BRIDGE, f"tap-{name}", "--", "set", "Interface", f"tap-{name}", "type=internal"),
            *(f"ofport_request={number}", f"external_ids:iface-id={name}"),
        )


async def become(here: TestChassis, world: Made) -> None:
    """From what was before to this world, in one step."""
    come = {it.id: it for port in world.ports for it in worlds.members(port)}
    gone = tuple(it for it in here.replica.all(GroupMember) if it.id not in come)
    await here.now(*world.groups, *world.address_groups, *world.ports, *come.values(), gone=gone)


def test_flows_decide_as_neutron_says(vswitch: VSwitch) -> None:
    seen: Counter[tuple[str, bool]] = Counter()
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        here = runner.run(stack.enter_async_context(chassis(vswitch)))
        asker = Asker(vswitch)
        try:
            plug(vswitch)
            runner.run(here.now(NET, *(worlds.port(name, 11 + number) for number, name in enumerate(HERE))))
            runner.run(here.until(lambda: len(here.engine.places) == len(HERE)))

            @settings(
                max_examples=EXAMPLES,
                phases=[Phase.generate],
                derandomize=True,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(made)
            def judged(world: Made) -> None:
                runner.run(become(here, world))
                judge = Judge(world.groups, world.ports, world.address_groups)
                cases = list(world.cases())
                for case, passes in zip(cases, runner.run(asker.passes(cases)), strict=True):
                    allowed = expected(judge, case)
                    seen[case.variant, allowed] += 1
                    assert passes == allowed, case

            judged()
        finally:
            asker.close()
            runner.run(stack.aclose())
    assert sum(seen.values()) >= PAIRS
    for variant in (*VARIANTS, "later fragment"):
        assert min(seen[variant, True], seen[variant, False]) > PAIRS // 200, seen
