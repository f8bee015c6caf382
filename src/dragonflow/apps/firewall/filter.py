"""What both directions of the firewall have in common. Stateful by Open vSwitch's connection tracking, each port in its own zone.

::

    track ─► state ─► allowed ─┬───────────────────────► on its way
       │       └─► rules,      └─► passed (commit) ─┘
       │           and back
       └ what must never be missing

Closed by default: a packet passes only if a flow says so, also where the port's own flows aren't there (yet).

Every packet is judged by the rules, not only a connection's first: data-path flows make that free. It is judged as its
connection began, by the rules of the direction in which that was (``ct_mark`` remembers it). So what the rules allow no more
is cut with its next packet, whichever side sends it, what they still allow stays, and nobody has to find and end connections.

Of a fragment that isn't the first, Open vSwitch in user space doesn't tell the ports (``miniflow_extract``). But it lets
fragments out of a ``ct`` only with all the others of their packet. So fragments pass a second one, on their way to ``passed``:
first ones if the rules allow them, later ones as they are. They get no further than their first. What Open vSwitch gives up to
wait for comes out as invalid, with the next packet of whomever, and is dropped there: therefore nothing goes on from a ``ct``
without a look at it.

A TCP connection's answer, its SYN with ACK, is remembered too (``_ANSWERED``), so that one can be helped which never gets it.
Open vSwitch in user space takes the other side's first packet for the answer, whatever that is (``tcp_conn_update``). If it is a
straggler of a connection before, between the same ports, the answer itself is out of its window, and so are those to all
repetitions of the question, for a quarter of an hour. Such an answer ends what is known of the connection; the next repetition
begins it anew. Once answered none can be ended so: who doesn't see a connection, but forges its addresses, can't cut it. And no
connection begins with a reset: what follows one would be measured by its numbers.

Two ports of one host don't share a zone: a connection that one may begin but the other may not get is known to the first alone.
Which zone it is, is known to the packet (``ZONE``).

Flows: of a port 2 in each direction, without port security 1; the rest is the same for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from dragonflow.apps.base import App, renders
from dragonflow.apps.firewall.rules import INV, IP, TRK, VALID, Rules
from dragonflow.apps.wiring import is_here, is_secured, wired
from dragonflow.controller.view import Me, View
from dragonflow.model import LogicalPort, SecurityGroup, Zone
from dragonflow.pipeline import Bits, Fact, Resubmit, Stage, Table, Trouble, load, match
from dragonflow.pipeline.action import Track, Untrack
from dragonflow.pipeline.registers import ALLOWED, WHOSE, ZONE

_NEW, _REL, _ANSWER = TRK | 0x01, TRK | 0x04, TRK | 0x0A
"""``ct_state`` of what belongs to no connection yet, of what another one announced (or is an error about it), and of answers."""

_FIRST, _LATER = 1, 3
"""``ip_frag`` of a first fragment, and of those that follow."""

SENT, GOT = 1, 2
"""``ct_mark`` of a connection, and of all that is related to it: whether the port began it or the other side."""

_BEGUN, _ANSWERED = SENT | GOT, 4
"""Bits of ``ct_mark``: who began it, and that the other side has answered (of TCP alone)."""

_SYN_ACK: dict[str, Any] = {"ip_proto": 6, "tcp_flags": (0x12, 0x12)}
_RST: dict[str, Any] = {"ip_proto": 6, "tcp_flags": (0x04, 0x04)}

_ASKED: dict[int, Table] = {SENT: Rules.sends, GOT: Rules.gets}

_HELPERS = ((6, "tcp_dst", 21), (17, "udp_dst", 69))
"""Protocols whose connections announce others (FTP, TFTP), which Open vSwitch finds in them (``alg`` in ovs-actions(7))."""

_STATE = ("ct_state", "ct_mark", "eth_type", "ip_proto", "tcp_flags")


def chain(
    name: str, stage: Stage, *, first: int, whose: Bits, who: str, onward: Table, refused: Table
) -> tuple[Table, Table, Table, Table]:
    """A direction's ``track``, ``state``, ``allowed`` and ``passed``, in the stage's slots from ``first`` on.

    The port is in ``whose``, and in words it is ``who``. What may pass goes ``onward``, what no flow lets pass is ``refused``.
    """
    passed = Table(
        f"{name}_passed",
        stage,
        first + 3,
        purpose="Drop what connection tracking gave up.",
        matches=("ct_state",),
        next=(onward,),
        miss=refused,
    )
    allowed = Table(
        f"{name}_allowed",
        stage,
        first + 2,
        purpose="Drop what no rule allows; remember a new connection. Fragments wait for all of their packet.",
        matches=(ALLOWED, *_STATE, "ip_frag", "tcp_dst", "udp_dst"),
        next=(passed, onward),
        miss=refused,
    )
    state = Table(
        f"{name}_state",
        stage,
        first + 1,
        purpose="Ask the rules by which the packet's connection began, or may begin.",
        matches=_STATE,
        next=(allowed, Rules.sends, Rules.gets),
        miss=refused,
    )
    track = Table(
        name,
        stage,
        first,
        purpose=f"Find the packet's connection, as {who} knows it.",
        matches=(whose, "eth_type", "ip_proto", "udp_src", "udp_dst", "icmpv6_type", "icmpv6_code"),
        next=(state, allowed, onward),
        miss=refused,
    )
    return track, state, allowed, passed


class Filter(App):
    """One direction. A subclass names it, has its ``chain`` of tables, and says by which bits it knows the port."""

    begins: ClassVar[int]
    """The mark of connections that begin in this direction."""

    whose: ClassVar[Bits]
    neighbour_discovery: ClassVar[tuple[int, ...]]
    """ICMPv6 types that pass whatever the rules say, as in Neutron, and the reports of listeners that
    switches outside snoop (RFC 4890 §4.4)."""

    dhcp: ClassVar[tuple[tuple[int, int, int], ...]]
    """IP version, source and destination port of DHCP, which no rule need allow either."""

    track: ClassVar[Table]
    state: ClassVar[Table]
    allowed: ClassVar[Table]
    passed: ClassVar[Table]

    @property
    def onward(self) -> Table:
        """Where packets go that may pass."""
        return self.passed.next[0]

    @renders(Me)
    def host(self, me: Me, view: View) -> Iterator[Fact]:
        """What holds for all ports and connections."""
        yield from super().host(me, view)
        for kind in self.neighbour_discovery:
            found = match(eth_type=IP[6], ip_proto=58, icmpv6_type=kind, icmpv6_code=0)
            yield self.track.flow(30, found, goto=self.onward)
        for version, source, destination in self.dhcp:
            leases = match(eth_type=IP[version], ip_proto=17, udp_src=source, udp_dst=destination)
            yield self.track.flow(30, leases, goto=self.onward)
        for eth_type in IP.values():
            yield from self._questions(eth_type)
            yield from self._begun(eth_type)
        yield self.allowed.flow(10, match((ALLOWED, 1)), goto=self.onward)
        yield self.passed.flow(10, match(ct_state=VALID), goto=self.onward)

    def _questions(self, eth_type: int) -> Iterator[Fact]:
        """Which rules are asked; nothing that belongs to no connection and can't begin one passes.

        That goes for an answer that was ``lost``, too: it is invalid also when what was known is forgotten.
        """
        for mark, rules in _ASKED.items():
            known = match(ct_state=VALID, ct_mark=(mark, _BEGUN), eth_type=eth_type)
            yield self.state.flow(20, known, Resubmit(rules.number), goto=self.allowed)
            lost = match(ct_state=(TRK, TRK), ct_mark=mark, eth_type=eth_type, **_SYN_ACK)  # no +inv may be committed
            yield self.state.flow(10, lost, Track(ZONE, self.passed.number, commit=True, force=True))
        unknown = match(ct_state=(_NEW, _NEW | INV), ct_mark=0, eth_type=eth_type)
        yield self.state.flow(20, unknown, Resubmit(_ASKED[self.begins].number), goto=self.allowed)

    def _begun(self, eth_type: int) -> Iterator[Fact]:
        """What is allowed and new is remembered; what another connection announced, as begun as that one was."""
        passed = self.passed.number
        new: dict[str, Any] = {"ct_state": (_NEW, _NEW), "eth_type": eth_type}
        begin = Track(ZONE, passed, commit=True, mark=self.begins)
        yield self.allowed.flow(30, match((ALLOWED, 1), ct_mark=0, **new), begin)
        yield self.allowed.flow(30, match(ct_mark=0, ip_frag=_LATER, **new), begin)
        known: dict[str, Any] = {"ct_state": (TRK, TRK), "eth_type": eth_type}
        yield self.allowed.flow(20, match((ALLOWED, 1), ip_frag=_FIRST, **known), Track(ZONE, passed))
        yield self.allowed.flow(20, match(ip_frag=_LATER, **known), Track(ZONE, passed))
        yield self.allowed.flow(40, match((ALLOWED, 1), ct_mark=0, **new, **_RST), goto=self.onward)
        for protocol, field, port in _HELPERS:
            helped = match((ALLOWED, 1), ct_mark=0, **new, ip_proto=protocol, **{field: port})
            yield self.allowed.flow(35, helped, Track(ZONE, passed, commit=True, mark=self.begins, helper=port))
        for mark in _ASKED:
            announced = match(
                (ALLOWED, 1), ct_state=(_NEW | _REL, _NEW | _REL), ct_mark=(mark, _BEGUN), eth_type=eth_type
            )
            yield self.allowed.flow(30, announced, Track(ZONE, passed, commit=True, mark=mark))
            answer = match((ALLOWED, 1), ct_state=(_ANSWER, _ANSWER), ct_mark=mark, eth_type=eth_type, **_SYN_ACK)
            yield self.allowed.flow(25, answer, Track(ZONE, passed, commit=True, mark=mark | _ANSWERED))

    @renders(LogicalPort, only=is_here)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        """The port's own way through the tables: its connections are looked up, unless its groups know none.

        Then it is forgotten what the sender's zone may have known.
        """
        if wired(port, view.me.chassis, view) is None:
            return
        if not is_secured(port):
            yield self.track.flow(40, match((self.whose, port.key)), goto=self.onward)
            return
        groups = [view.get(SecurityGroup, name) for name in port.security_groups]
        stateless = bool(groups) and all(it is not None and not it.stateful for it in groups)
        zone = view.get(Zone, port.id)
        if zone is None and not stateless:
            yield Trouble("nothing may pass until the port's binding to this chassis is known")
            return
        asks = load(ALLOWED, 0), load(WHOSE, port.key)
        for eth_type in IP.values():
            whose = match((self.whose, port.key), eth_type=eth_type)
            if zone is None or stateless:
                rules = _ASKED[self.begins]
                yield self.track.flow(20, whose, Untrack(), *asks, Resubmit(rules.number), goto=self.allowed)
            else:
                yield self.track.flow(20, whose, *asks, load(ZONE, zone.number), Track(zone.number, self.state.number))
