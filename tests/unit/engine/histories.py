"""Random histories of a small world, for the tests that compare the engine with the oracle."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from dragonflow.apps import APPS
from dragonflow.apps.base import App
from dragonflow.apps.wiring import peer_name, remote_peer_name
from dragonflow.controller.engine import Engine, LocalityEvent, Settled
from dragonflow.controller.locality import kind_of
from dragonflow.controller.replica import Object, Replica
from dragonflow.controller.view import Me
from dragonflow.model import (
    DHCP_PORT,
    EVERY_PORT,
    AddressGroup,
    AddressPair,
    Alive,
    BandwidthLimit,
    Binding,
    DhcpOption,
    FixedIP,
    FloatingIp,
    GroupMember,
    Holder,
    LogicalPort,
    OvsPort,
    PortForwarding,
    QosPolicy,
    RemoteEnd,
    Route,
    RouterGateway,
    RouterInterface,
    Row,
    SecurityGroup,
    SecurityRule,
    Subnet,
    remote_chassis,
)
from dragonflow.pipeline import Fact, Locality, Owner
from dragonflow.testing import worlds
from dragonflow.testing.oracle import Compiled, Oracle
from dragonflow.testing.worlds import World

SCOPES = (
    "chassis",
    "alive",
    "net:n1",
    "net:n2",
    "net:ext",
    "router:r1",
    "qos:q1",
    "holds:here",
    "holds:b",
    "host:here",
    "secgroup:g1",
    "secgroup:g2",
    "members:g1",
    "addrgroup:x",
)
PORTS = ("p1", "p2", "p3", "p4")
HOSTS = ("here", "here", "here", "b")
NETWORKS = {"p1": "n1", "p2": "n1", "p3": "n2", "p4": "n1"}
ALIVE = (Alive(id="here", since=0.0), Alive(id="b", since=0.0))
TAPS = ("tap1", "tap2", "tap3", "tap4")
INTERFACES = (*TAPS, "df-geneve", "df-int-br-ex", peer_name("b"), remote_peer_name("geneve", "198.51.100.7"))

chassis_rows = st.builds(
    worlds.chassis,
    st.just("b"),
    st.sampled_from(("192.0.2.2", "192.0.2.9", "2001:db8::2", "not an address")),
    tunnel_types=st.sampled_from((("geneve",), ("geneve", "vxlan"), ("gre",))),
    bridge_mappings=st.sampled_from((worlds.MAPPINGS, ())),
    gateway=st.booleans(),
) | st.builds(worlds.chassis, st.just("c"), st.sampled_from(("192.0.2.3", "192.0.2.1")))

host_rows = chassis_rows | st.sampled_from(ALIVE)

network_rows = st.builds(
    lambda name, fields: worlds.network(name, int(name[1:]), **fields),
    st.sampled_from(("n1", "n2")),
    st.fixed_dictionaries(
        {},
        optional={
            "network_type": st.sampled_from(("geneve", "vxlan", "vlan", "flat")),
            "physical_network": st.sampled_from(("physnet1", "physnet1", "physnet2")),
            "segmentation_id": st.sampled_from((7, 8, None)),
            "admin_up": st.booleans(),
            "qos": st.sampled_from(("q1", "unheard-of")),
        },
    ),
)

policy_rows = st.builds(
    worlds.policy,
    st.just("q1"),
    egress=st.sampled_from((None, BandwidthLimit(1000, 100), BandwidthLimit(1, -1))),
    ingress=st.sampled_from((None, BandwidthLimit(2000, 200))),
    dscp=st.sampled_from((None, 46, 64)),
)

SUBNETS = {"s1": ("10.0.0.0/24", "n1"), "s2": ("fd00::/64", "n2"), "s3": ("fd01::/64", "n1")}

subnet_rows = st.builds(
    lambda name, fields: worlds.subnet(name, *SUBNETS[name], **fields),
    st.sampled_from(tuple(SUBNETS)),
    st.sampled_from(({}, {"enable_dhcp": False}, {"ipv6_address_mode": "slaac"})),
)

ANYTHING = (AddressPair("0.0.0.0/0"), AddressPair("fd01::/64"))

variations = st.sampled_from(
    (
        *({"on": on} for on in ("here", "b", "c", None)),
        *({"mac": mac} for mac in ("02:00:00:00:00:aa", "02:00:00:00:00:bb", "no mac")),
        *(
            {"address_pairs": (pair,)}
            for pair in (AddressPair("10.0.0.9", "02:00:00:00:00:cc"), AddressPair("10.0.0.1"))
        ),
        {"address_pairs": (AddressPair("0.0.0.0/0"),)},
        *(
            {"on": on, "address_pairs": (*ANYTHING, AddressPair("10.0.0.9", "02:00:00:00:00:cc"))}
            for on in ("here", "b")
        ),
        {"on": "b", "standby": ("here",)},
        {"on": "b", "standby": ("c", "here"), "port_security": False},
        {"on": "here", "standby": ("b",)},
        {"on": None, "standby": ("here",)},
        {"on": "b", "standby": ("here",), "admin_up": False},
        {"admin_up": False},
        {"port_security": False},
        {"fixed_ips": ()},
        {"on": None, "device_owner": DHCP_PORT},
        {"dhcp_options": (DhcpOption("mtu", "many"),)},
        {"generation": 2},
        *({"device_id": "i"}, {"device_id": "i", "fixed_ips": (FixedIP("s1", "10.0.0.1"), FixedIP("s1", "10.0.0.2"))}),
        {"security_groups": ("g1",)},
        {"security_groups": ("g1", "g2")},
        {"security_groups": ("unheard-of",)},
        {"security_groups": ()},
        {"qos": "q1"},
        {"qos": "q1", "trunk": "t"},
        {"trunk": "t"},
        {"on": "b", "standby": ("here",), "trunk": "t"},
        {"parent": "p1", "vlan": 7},
        {"parent": "p2", "vlan": 7, "on": "b", "standby": ("here",)},
        {"parent": "p4", "vlan": 8},
        {"parent": "unheard-of", "vlan": 8},
        {"on": remote_chassis("198.51.100.7"), "remote": RemoteEnd("far", vni=9)},
        {"on": remote_chassis("198.51.100.7"), "remote": RemoteEnd("far", "vxlan", 9), "port_security": False},
        *({"on": remote_chassis(vtep)} for vtep in ("198.51.100.7", "198.51.100.8", "not an address")),
        {},
        {},
    )
)
port_rows = st.builds(
    lambda name, fields: worlds.port(name, int(name[1:]), **{"net": NETWORKS[name], **fields}),
    st.sampled_from(PORTS),
    variations,
)

ovs_ports = (
    st.builds(
        lambda name, of, ofport, mac: OvsPort(id=name, ofport=ofport, iface_id=of, attached_mac=mac),
        st.sampled_from(TAPS),
        st.sampled_from((*PORTS, "unheard-of")),
        st.sampled_from((None, -1, 1, 2, 3, 4)),
        st.sampled_from((None, "02:00:00:00:00:01")),
    )
    | st.builds(worlds.tunnel_port, st.sampled_from(("geneve", "vxlan")), st.sampled_from((None, 100, 101)))
    | st.just(OvsPort(id="df-geneve", ofport=102))
    | st.builds(worlds.patch_port, ofport=st.sampled_from((None, 110, 111)))
    | st.builds(worlds.peer_port, st.just("b"), bfd=st.sampled_from((None, "up", "down")))
    | st.builds(
        worlds.remote_peer_port,
        st.just("198.51.100.7"),
        st.sampled_from((None, 130)),
        bfd=st.sampled_from((None, "up", "down")),
    )
    | st.builds(worlds.metadata_port, st.sampled_from((None, 103, 104)))
)


GATEWAYS = {"n1": (FixedIP("s1", "10.0.0.1"), FixedIP("s3", "fd01::1")), "n2": (FixedIP("s2", "fd00::1"),)}
ROUTES = (Route("10.9.0.0/16", "10.0.0.8"), Route("10.9.0.0/16", "10.0.0.9"), Route("::/0", "fd00::9"))


def interface(net: str, **fields: Any) -> LogicalPort:
    """The router's interface in one of the networks."""
    return worlds.interface("r1", 20 + int(net[1:]), *GATEWAYS[net], net=net, **fields)


GATEWAY = RouterGateway("r1-ext", "ext")
NEIGHBOURS = (("ext", "203.0.113.1"), ("n1", "fd01::9"))


def floating(**fields: Any) -> tuple[FloatingIp, LogicalPort]:
    """A floating IP of the router's external network, which stands for port p1 unless told otherwise."""
    return worlds.floating(
        "f1", 61, "203.0.113.61", **{"router": "r1", "fixed_port": "p1", "fixed_ip": "10.0.0.1", **fields}
    )


floating_rows = (
    st.builds(
        lambda fixed, qos: floating(**dict(zip(("router", "fixed_port", "fixed_ip"), fixed, strict=True)), qos=qos)[0],
        st.sampled_from(
            (("r1", "p1", "10.0.0.1"), ("r1", "p2", "10.0.0.2"), ("r1", "p4", "10.0.0.4"), (None, None, None))
        ),
        st.sampled_from((None, "q1")),
    )
    | st.builds(
        lambda forwarding: floating(fixed_port=None, fixed_ip=None, forwardings=(forwarding,))[0],
        st.sampled_from(
            (
                PortForwarding("tcp", 8080, 8080, "p1", "10.0.0.1", 80, 80),
                PortForwarding("udp", 5000, 5002, "p2", "10.0.0.2", 6000, 6002),
            )
        ),
    )
    | st.builds(lambda up: msgspec.structs.replace(floating()[1], admin_up=up), st.booleans())
    | st.builds(lambda up: worlds.external(admin_up=up), st.booleans())
)

router_rows = st.builds(
    lambda fields: worlds.router("r1", 9, "n1", "n2", **{"gateway": GATEWAY, **fields}),
    st.fixed_dictionaries(
        {},
        optional={
            "admin_up": st.booleans(),
            "routes": st.sampled_from((ROUTES, ROUTES[:1], (Route("10.9.0.0/16", "192.0.2.1"),))),
            "interfaces": st.sampled_from(((), (RouterInterface("r1-n1", "n1"),))),
            "gateway": st.sampled_from((None, msgspec.structs.replace(GATEWAY, enable_snat=False, qos="q1"))),
        },
    ),
) | st.builds(
    interface,
    st.sampled_from(("n1", "n2")),
    admin_up=st.booleans(),
    mac=st.sampled_from(("02:00:00:00:00:dd", "02:00:00:00:00:ee")),
)


def holder(of: str, address: str, turn: int, on: str, **fields: Any) -> Holder:
    """What the chassis says of one of the ports."""
    return worlds.holder(worlds.port(of, int(of[1:]), on=on, net=NETWORKS[of]), address, turn, **fields)


holder_rows = st.builds(
    holder,
    st.sampled_from(("p1", "p2")),
    st.sampled_from(("10.0.0.9", "10.0.0.4", "fd01::7", "192.0.2.1")),
    st.sampled_from((1, 2)),
    st.sampled_from(("here", "b")),
    mac=st.sampled_from(("02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:cc")),
)


RULES = (
    SecurityRule("egress", 4),
    SecurityRule("ingress", 4, 6, 80, 83),
    SecurityRule("ingress", 4, 6, 22, 22, remote_group="g1"),
    SecurityRule("ingress", 6, 58, 128, 0, remote_group="g1"),
    SecurityRule("ingress", 4, 136, 7, 9, address_group="x"),
    SecurityRule("egress", 6, 17, prefix="2001:db8::/32"),
)

group_rows = (
    st.builds(
        lambda name, rules, stateful: SecurityGroup(id=name, rules=tuple(rules), stateful=stateful, revision=1),
        st.sampled_from(("g1", "g2")),
        st.lists(st.sampled_from(RULES), unique=True, max_size=4),
        st.booleans(),
    )
    | st.builds(
        lambda port, addresses: GroupMember(id=f"g1/{port}", group="g1", port=port, addresses=addresses),
        st.sampled_from(PORTS),
        st.sampled_from((("10.0.0.1", "fd01::1"), ("10.0.0.0/24",), ("0.0.0.0/0",), ())),
    )
    | st.builds(
        lambda addresses: AddressGroup(id="x", addresses=addresses, revision=1),
        st.sampled_from(((), ("192.0.2.0/24",), ("192.0.2.0/24", "2001:db8::/32"))),
    )
    | st.builds(
        lambda port: Binding(id=port, host="here", network=NETWORKS[port], generation=0), st.sampled_from(PORTS)
    )
)


class News(msgspec.Struct, frozen=True):
    """A record of the store's log; without a row it says that the object was deleted."""

    model: type[Row]
    id: str
    scope: str
    row: Row | None
    revision: int


class History(RuleBasedStateMachine):
    """Writes to a store that delivers late, twice, or as snapshots; interfaces come and go; the engine settles now and then."""

    oracle: ClassVar[Oracle]
    make_engine: ClassVar[Callable[[Sequence[App], Replica, Me], Engine]] = Engine
    make_replica: ClassVar[Callable[[], Replica]] = Replica
    apps: ClassVar[Sequence[App]] = APPS
    me = Me(
        chassis="here",
        tunnel_ip="192.0.2.1",
        tunnel_types=("geneve", "vxlan"),
        bridge_mappings=worlds.MAPPINGS,
        snat_addresses=("203.0.113.11",),
    )

    def __init__(self) -> None:
        super().__init__()
        self.replica = self.make_replica()
        self.engine = self.make_engine(self.apps, self.replica, self.me)
        self.log: list[News] = []
        self.stored: dict[tuple[type[Row], str], News] = {}
        self.told: dict[tuple[type[Row], str], int] = {}
        self.delivered = 0
        self.wanted: dict[Owner, tuple[Fact, ...]] = {}
        self.places: dict[str, Locality] = {}
        self.held: dict[tuple[type[Any], str], Object] = {}

    @initialize()
    def follow_all(self) -> None:
        for scope in SCOPES:
            self.replica.reset_scope(scope, (), 0)
        ports = [
            worlds.port(name, int(name[1:]), on=on, net=NETWORKS[name]) for name, on in zip(PORTS, HOSTS, strict=True)
        ]
        routed = (
            *(worlds.subnet(name, *subnet) for name, subnet in SUBNETS.items()),
            *(interface(net) for net in GATEWAYS),
            worlds.router("r1", 9, "n1", "n2", routes=ROUTES, gateway=GATEWAY),
            *worlds.OUTSIDE,
            worlds.gateway("r1", 26, FixedIP("ext4", "203.0.113.2")),
            *floating(),
        )
        there = worlds.chassis("b", "192.0.2.2", bridge_mappings=worlds.MAPPINGS)
        here = worlds.chassis("here", "192.0.2.1", bridge_mappings=worlds.MAPPINGS)
        guarded = (
            SecurityGroup(id="g1", rules=RULES, revision=1),
            *(Binding(id=name, host="here", network=NETWORKS[name], generation=0) for name in PORTS[:2]),
        )
        rows = (there, here, *ALIVE, worlds.network("n1", 1), worlds.network("n2", 2), *ports, *routed, *guarded)
        for row in rows:
            self.write(row)
        for ofport, (name, of) in enumerate(zip(TAPS[:2], PORTS[:2], strict=True), 1):
            self.plug(OvsPort(id=name, ofport=ofport, iface_id=of))
        self.plug(worlds.tunnel_port())
        self.plug(worlds.patch_port())
        self.deliver(len(self.log))
        self.settle()

    @rule(
        row=host_rows
        | network_rows
        | subnet_rows
        | port_rows
        | port_rows
        | router_rows
        | floating_rows
        | policy_rows
        | holder_rows
        | group_rows
        | group_rows
    )
    def write(self, row: Row) -> None:
        self._log(News(type(row), row.id, row.scope, row, len(self.log) + 1))

    @precondition(lambda self: any(news.row for news in self.stored.values()))
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        living = sorted((key for key, news in self.stored.items() if news.row), key=str)
        gone = self.stored[data.draw(st.sampled_from(living))]
        self._log(News(gone.model, gone.id, gone.scope, None, len(self.log) + 1))

    @rule(count=st.integers(1, 9))
    def deliver(self, count: int) -> None:
        for news in self.log[self.delivered : self.delivered + count]:
            self._tell(news)
        self.delivered = min(len(self.log), self.delivered + count)

    @precondition(lambda self: self.log)
    @rule(data=st.data())
    def overtake_or_repeat(self, data: st.DataObject) -> None:
        self._tell(self.log[data.draw(st.integers(0, len(self.log) - 1))])

    @rule(scope=st.sampled_from(SCOPES))
    def reset(self, scope: str) -> None:
        self._reset(scope, len(self.log))

    @precondition(lambda self: self.log)
    @rule(scope=st.sampled_from(SCOPES), data=st.data())
    def reset_late(self, scope: str, data: st.DataObject) -> None:
        if scope in self.replica.scopes:
            self._reset(scope, data.draw(st.integers(self.delivered, len(self.log))))

    @rule(scope=st.sampled_from(SCOPES))
    def drop(self, scope: str) -> None:
        self.replica.drop_scope(scope)
        self.told = {key: told for key, told in self.told.items() if self.log[told - 1].scope != scope}

    @rule(interface=ovs_ports)
    def plug(self, interface: OvsPort) -> None:
        self.replica.upsert_port(interface)

    @rule(name=st.sampled_from(INTERFACES))
    def unplug(self, name: str) -> None:
        self.replica.remove_port(name)

    @rule(watched=st.sets(st.sampled_from((EVERY_PORT, *PORTS[:2])), max_size=2))
    def watch(self, watched: set[str]) -> None:
        self.replica.set_watched(watched)

    @rule(mac=st.sampled_from(("02:ee:00:00:00:01", "02:ee:00:00:00:02")), whose=st.sampled_from(NEIGHBOURS))
    def hear(self, mac: str, whose: tuple[str, str] = NEIGHBOURS[0]) -> None:
        net, address = whose
        self.replica.upsert_neighbour(worlds.neighbour(address, mac, net))

    @rule(whose=st.sampled_from(NEIGHBOURS))
    def forget(self, whose: tuple[str, str] = NEIGHBOURS[0]) -> None:
        self.replica.remove_neighbour("/".join(whose))

    # Things that come back the same: the easiest to miss

    @rule(scope=st.sampled_from(SCOPES))
    def blink(self, scope: str) -> None:
        self.drop(scope)
        self.settle()
        self.reset(scope)

    @rule(name=st.sampled_from(INTERFACES))
    def replug(self, name: str) -> None:
        interface = self.replica.get(OvsPort, name)
        self.unplug(name)
        self.settle()
        if interface is not None:
            self.plug(interface)

    @precondition(lambda self: any(news.row for news in self.stored.values()))
    @rule(data=st.data())
    def recreate(self, data: st.DataObject) -> None:
        living = sorted((key for key, news in self.stored.items() if news.row), key=str)
        row = self.stored[data.draw(st.sampled_from(living))].row
        assert row is not None
        self._log(News(type(row), row.id, row.scope, None, len(self.log) + 1))
        self.deliver(len(self.log))
        self.settle()
        self.write(row)

    @rule(pace=st.integers(1, 3))
    def settle_while_news_comes_in(self, pace: int) -> None:
        """As the controller does, which gives way to others between the steps of a long settling."""
        self._check_replica()
        steps = self.engine.settling()
        for count in itertools.count():
            try:
                next(steps)
            except StopIteration as end:
                self._take(end.value)
                return
            if count % pace == 0:
                self.deliver(1)

    @rule()
    def settle(self) -> None:
        self._check_replica()
        self._take(self.engine.settle())

    def _take(self, settled: Settled) -> None:
        for owner, facts in settled.facts.items():
            if facts:
                self.wanted[owner] = facts
            else:
                self.wanted.pop(owner, None)
        for change in settled.changes:
            assert self.held.pop((change.model, change.id), None) == change.old
            if change.new is not None:
                self.held[change.model, change.id] = change.new
        assert self.held == {(type(it), it.id): it for it in World.held_by(self.replica, self.me).objects}
        for event in settled.events:
            self._follow(event)
        assert self.places == dict(self.engine.places)

    @rule()
    def compare(self) -> None:
        self.settle()
        world = World.held_by(self.replica, self.me)
        found = Compiled(self.wanted, self.places).text()
        assert found == self.oracle.ask(world)

    def teardown(self) -> None:
        """All news arrives at last; then the replica holds what the store holds, and facts are a function of that."""
        for scope in SCOPES:
            if scope not in self.replica.scopes:
                self._reset(scope, self.delivered)
        self.deliver(len(self.log))
        self.compare()
        assert {key: news.revision for key, news in self.stored.items()} == self.told

    def _check_replica(self) -> None:
        """For each object the newest of what was told counts, whatever the order of telling."""
        expected = {key: row for key, told in self.told.items() if (row := self.log[told - 1].row) is not None}
        held = {(type(row), row.id): row for row in World.held_by(self.replica, self.me).rows}
        assert held == expected
        assert all(self.replica.revision(*key) == self.told[key] for key in held)

    def _log(self, news: News) -> None:
        self.log.append(news)
        self.stored[news.model, news.id] = news

    def _tell(self, news: News) -> None:
        if news.scope not in self.replica.scopes:
            if news.row is not None:
                assert not self.replica.upsert(news.row, news.revision)
            return
        if news.row is not None:
            self.replica.upsert(news.row, news.revision)
        else:
            self.replica.remove(news.model, news.id, news.revision, news.scope)
        self._note(news)

    def _note(self, news: News) -> None:
        key = news.model, news.id
        self.told[key] = max(self.told.get(key, 0), news.revision)

    def _reset(self, scope: str, revision: int) -> None:
        then: dict[tuple[type[Any], str], News] = {}
        for news in self.log[:revision]:
            if news.scope == scope:
                then[news.model, news.id] = news
                self._note(news)
        rows = [(news.row, news.revision) for news in then.values() if news.row is not None]
        self.replica.reset_scope(scope, rows, revision)

    def _follow(self, event: LocalityEvent) -> None:
        """Keep places by events alone: they must balance."""
        assert kind_of(event.locality) == event.kind
        before = self.places.get(event.port)
        if event.change == "created":
            assert before is None
        else:
            assert before is not None
            assert kind_of(before) == event.kind
        if event.change == "updated":
            assert before == event.before != event.locality
        if event.change == "deleted":
            assert before == event.locality
            del self.places[event.port]
        else:
            self.places[event.port] = event.locality


def _delete(history: History, model: type[Row], id: str) -> None:
    scope = history.stored[model, id].scope
    history._log(News(model, id, scope, None, len(history.log) + 1))


def _deliver(history: History, *rows: Row) -> None:
    for row in rows:
        history.write(row)
    history.deliver(len(history.log))


def interfaces_come_back(history: History) -> None:
    for name in INTERFACES:
        history.replug(name)
        history.compare()


def interfaces_change(history: History) -> None:
    history.plug(OvsPort(id="tap1", ofport=4, iface_id="p1"))
    history.plug(worlds.tunnel_port(ofport=101))
    history.compare()
    history.plug(OvsPort(id="tap1", ofport=4, iface_id="p2"))
    history.compare()
    history.unplug("tap2")
    history.compare()


def scopes_come_back(history: History) -> None:
    for scope in SCOPES:
        history.blink(scope)
        history.compare()


def a_scope_is_dropped(history: History) -> None:
    for scope in SCOPES:
        history.drop(scope)
        history.compare()


def rows_come_back(history: History) -> None:
    for key in tuple(history.stored):
        row = history.stored[key].row
        assert row is not None
        _delete(history, *key)
        history.deliver(1)
        history.compare()
        _deliver(history, row)
        history.compare()


def rows_change(history: History) -> None:
    _deliver(history, worlds.network("n1", 1, segmentation_id=9))
    history.compare()
    _deliver(history, worlds.chassis("b", "192.0.2.9"))
    history.compare()
    _deliver(history, worlds.port("p1", 1, on="b", net="n1"), worlds.port("p4", 4, on="here", net="n1"))
    history.compare()


def news_comes_in_while_settling(history: History) -> None:
    for pace in (1, 2, 3):
        for name, on in (("p1", "b"), ("p4", "here"), ("p2", None), ("p3", "b")):
            history.write(worlds.port(name, int(name[1:]), on=on, net=NETWORKS[name]))
            history.write(worlds.network("n1", 1, segmentation_id=pace))
            history.write(worlds.port(name, int(name[1:]), net=NETWORKS[name]))
        history.drop("chassis")
        history.reset("chassis")
        history.settle_while_news_comes_in(pace)
        history.compare()


def a_port_migrates(history: History) -> None:
    """There and back, with the interface plugged before the binding moves and unplugged after it has."""
    for on, standby in (
        ("b", ("here",)),
        ("here", ("b",)),
        ("here", ()),
        ("here", ("b",)),
        ("b", ("here",)),
        ("b", ()),
    ):
        _deliver(history, worlds.port("p1", 1, on=on, net="n1", standby=standby))
        history.compare()
        history.replug("tap1")
        history.compare()


def a_network_lies_on_a_physical_one(history: History) -> None:
    for number in (100, 101):
        _deliver(history, worlds.vlan("n1", 1, number))
        history.compare()
    history.hear("02:ee:00:00:00:01", NEIGHBOURS[1])
    history.compare()
    history.plug(worlds.patch_port(ofport=111))
    history.compare()
    history.replug("df-int-br-ex")
    history.compare()
    for alive in ALIVE:
        _delete(history, Alive, alive.id)
        history.deliver(1)
        history.compare()
    _deliver(history, *ALIVE)
    for mappings in ((), worlds.MAPPINGS):
        _deliver(history, worlds.chassis("b", "192.0.2.2", bridge_mappings=mappings))
        history.compare()
    _deliver(history, worlds.vlan("n1", 1, 0, network_type="flat", segmentation_id=None))
    history.compare()
    _deliver(history, worlds.network("n1", 1))
    history.compare()


def gateway_nodes_come_and_go(history: History) -> None:
    """This chassis is one, then the other alone, then none; the leases of both end meanwhile."""
    for nodes in (("here",), ("here", "b"), ("b",), ()):
        for name, ip in (("here", "192.0.2.1"), ("b", "192.0.2.2")):
            _deliver(history, worlds.chassis(name, ip, bridge_mappings=worlds.MAPPINGS, gateway=name in nodes))
            history.compare()
        for alive in ALIVE:
            _delete(history, Alive, alive.id)
            history.deliver(1)
            history.compare()
        _deliver(history, *ALIVE)


def a_child_comes_moves_and_goes(history: History) -> None:
    """Rows of parent and child arrive in either order, the parent's interface in between."""
    parent = {"trunk": "t", "net": "n1"}
    child = {"parent": "p1", "vlan": 7, "net": "n2"}
    for on, standby in (("here", ()), ("here", ("b",)), ("b", ("here",)), ("here", ())):
        _deliver(history, worlds.port("p1", 1, on=on, standby=standby, **parent))
        history.compare()
        _deliver(history, worlds.port("p3", 3, on=on, standby=standby, **child))
        history.compare()
        history.replug("tap1")
        history.compare()
    _deliver(history, worlds.port("p3", 3, parent="p1", vlan=8, net="n2"))
    history.compare()
    _deliver(history, worlds.port("p1", 1, net="n1", admin_up=False, trunk="t"))
    history.compare()
    _deliver(history, worlds.port("p3", 3, net="n2"), worlds.port("p1", 1, net="n1"))
    history.compare()


def a_policy_changes(history: History) -> None:
    gold = {"egress": BandwidthLimit(1000, 100), "ingress": BandwidthLimit(2000, 200), "dscp": 10}
    _deliver(history, worlds.network("n1", 1, qos="q1"))
    history.compare()
    for fields in (gold, {**gold, "dscp": 20}, {**gold, "egress": None}, {}, gold):
        _deliver(history, worlds.policy("q1", **fields))
        history.compare()
    _deliver(history, worlds.port("p1", 1, net="n1", qos="unheard-of"))
    history.compare()
    _deliver(history, worlds.port("p1", 1, net="n1", qos="q1"), worlds.network("n1", 1))
    history.compare()
    _delete(history, QosPolicy, "q1")
    history.deliver(1)
    history.compare()


def a_router_changes(history: History) -> None:
    for fields in ({"admin_up": False}, {"routes": ROUTES[:1]}, {"interfaces": ()}, {"routes": ROUTES}):
        _deliver(history, worlds.router("r1", 9, "n1", "n2", **fields))
        history.compare()
    for changed in (interface("n1", admin_up=False), interface("n1", mac="02:00:00:00:00:dd"), interface("n1")):
        _deliver(history, changed)
        history.compare()
    _delete(history, Subnet, "s1")
    history.deliver(1)
    history.compare()
    _deliver(history, worlds.subnet("s1", "10.0.0.0/25", "n1"))
    history.compare()


def a_floating_ip_moves(history: History) -> None:
    """Between ports of this chassis and another, with its port, its router's gateway and its neighbour coming and going."""
    history.hear("02:ee:00:00:00:01")
    history.compare()
    for fixed, ip in (("p4", "10.0.0.4"), ("p2", "10.0.0.2"), ("p1", "10.0.0.1")):
        _deliver(history, *floating(fixed_port=fixed, fixed_ip=ip))
        history.compare()
    _deliver(history, floating(router=None, fixed_port=None, fixed_ip=None)[0])
    history.compare()
    _deliver(history, floating()[0], worlds.router("r1", 9, "n1", "n2"))
    history.compare()
    _deliver(history, worlds.router("r1", 9, "n1", "n2", gateway=GATEWAY))
    history.hear("02:ee:00:00:00:02")
    history.compare()
    _deliver(history, worlds.port("p1", 1, on="b", net="n1"))
    history.forget()
    history.compare()
    _deliver(history, worlds.port("p1", 1, net="n1"))
    history.blink("net:ext")
    history.compare()


def a_peer_falls_silent(history: History) -> None:
    """A chassis that may serve the router's gateway: its session comes up, goes down, and comes again; its lease lapses."""
    for state in ("up", "down", None, "up"):
        history.plug(worlds.peer_port("b", bfd=state))
        history.compare()
    _delete(history, Alive, "b")
    history.deliver(1)
    history.compare()
    history.unplug(peer_name("b"))
    history.compare()
    for on in (None, "b"):
        _deliver(history, *(worlds.port(name, int(name[1:]), on=on, net=NETWORKS[name]) for name in ("p3", "p4")))
        history.compare()


def a_shared_address_moves(history: History) -> None:
    """Between two ports that may have it, here and elsewhere, with a floating IP that stands for the port that reserves it."""
    _deliver(history, *(worlds.port(name, int(name[1:]), net="n1", address_pairs=ANYTHING) for name in ("p1", "p2")))
    _deliver(history, worlds.port("p4", 4, on=None, net="n1"), *floating(fixed_port="p4", fixed_ip="10.0.0.4"))
    history.compare()
    for address in ("10.0.0.4", "10.0.0.9", "fd01::7"):
        for turn, of in enumerate(("p1", "p2", "p1"), 1):
            _deliver(history, holder(of, address, turn, "here"))
            history.compare()
    _deliver(history, holder("p2", "10.0.0.4", 4, "b"))
    history.compare()
    _deliver(history, worlds.port("p2", 2, net="n1", on="b", address_pairs=ANYTHING))
    history.compare()
    history.blink("holds:b")
    history.compare()
    _deliver(history, worlds.port("p2", 2, net="n1", on="b"))
    history.compare()
    history.replug("tap1")
    history.compare()
    _deliver(history, worlds.port("p4", 4, net="n1", on="b"))
    history.compare()
    _deliver(history, worlds.port("p4", 4, on=None, net="n1", device_owner="network:router_interface"))
    history.compare()
    _deliver(history, worlds.port("p4", 4, on=None, net="n1"))
    _delete(history, Holder, "here/p1/10.0.0.4")
    history.deliver(1)
    history.compare()
    _deliver(history, interface("n1", admin_up=False))
    _delete(history, LogicalPort, "r1-n1")
    history.deliver(1)
    history.compare()


def a_row_turns_bad_and_good(history: History) -> None:
    _deliver(history, worlds.port("p1", 1, net="n1", mac="no mac"))
    history.compare()
    _deliver(history, worlds.port("p1", 1, net="n1"))
    history.compare()


def old_news_comes_late(history: History) -> None:
    _deliver(history, worlds.port("p1", 1, on="b", net="n1"))
    _delete(history, LogicalPort, "p2")
    history.deliver(1)
    for news in tuple(history.log):
        history._tell(news)
        history.settle()


def a_snapshot_lacks_rows(history: History) -> None:
    _delete(history, LogicalPort, "p1")
    history.reset("net:n1")
    history.compare()


SCRIPTS = (
    *(interfaces_come_back, interfaces_change, scopes_come_back, a_scope_is_dropped, rows_come_back, rows_change),
    *(
        news_comes_in_while_settling,
        a_port_migrates,
        a_network_lies_on_a_physical_one,
        gateway_nodes_come_and_go,
        a_router_changes,
        a_child_comes_moves_and_goes,
        a_floating_ip_moves,
        a_shared_address_moves,
        a_policy_changes,
        a_peer_falls_silent,
        a_row_turns_bad_and_good,
        old_news_comes_late,
        a_snapshot_lacks_rows,
    ),
)
"""Histories that are known to be hard, each for a mistake that somebody could make."""


def play(script: Callable[[History], None], machine: type[History]) -> None:
    """Play a history from its usual beginning to its end, when all news has come."""
    history = machine()
    history.follow_all()
    script(history)
    history.teardown()
