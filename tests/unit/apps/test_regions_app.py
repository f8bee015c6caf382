"""What a chassis wants of its switch for ports of other regions; tests/dataplane has the packets."""

from __future__ import annotations

from hashlib import blake2b
from itertools import combinations
from typing import Any

import pytest
from msgspec.structs import replace

from dragonflow.apps import APPS
from dragonflow.apps.tunnel import chassis_bucket, send
from dragonflow.apps.wiring import is_remote_server, remote_peer_name, remote_server
from dragonflow.controller.announce import announcement
from dragonflow.controller.engine import Engine
from dragonflow.controller.replica import Object, Replica
from dragonflow.controller.report import claims
from dragonflow.controller.view import Me, View
from dragonflow.model import Alive, FixedIP, Ipsec, LogicalPort, OvsPort, remote_chassis
from dragonflow.pipeline import Bucket, Flow, Match, Owner, PeerPort, Remote, Serve, TunnelPort, match
from dragonflow.pipeline.groups import GroupKind, group_id
from dragonflow.testing import worlds
from dragonflow.testing.oracle import Compiled, compile_world
from dragonflow.testing.worlds import World

ME = Me(chassis="here", tunnel_ip="192.0.2.1", tunnel_types=("geneve", "vxlan"))
FAR, OTHER = "198.51.100.7", "198.51.100.8"
BASE: tuple[Object, ...] = (
    *(worlds.network(), worlds.port("a", 11), worlds.tap("a", 1), Alive(id="here", since=0.0)),
    *(worlds.tunnel_port("geneve", 100), worlds.tunnel_port("vxlan", 101)),
)
PORT, CHASSIS = Owner("regions", "LogicalPort", "s"), Owner("regions", "RemoteChassis", remote_chassis(FAR))
SENT = send(6001, FAR, 100)


def far(vtep: str = FAR, **fields: Any) -> LogicalPort:
    return worlds.remote("s", 61, vtep, **{"vni": 6001, **fields})


def compiled(*objects: Object, me: Me = ME) -> Compiled:
    return compile_world(APPS, World.of(me, *BASE, *objects))


def facts_of(kind: type[Any], *objects: Object, me: Me = ME) -> list[Any]:
    """Those that the app wants."""
    by_owner = compiled(*objects, me=me).facts
    return [it for owner, facts in by_owner.items() if owner.app == "regions" for it in facts if isinstance(it, kind)]


def let_in(*objects: Object, me: Me = ME) -> set[Match]:
    """The matches of what comes from other regions."""
    return {flow.match for flow in facts_of(Flow, *objects, me=me) if flow.table == 0}


def entry(vni: int, vtep: str = FAR) -> Match:
    """What comes by the flow-based port of Geneve."""
    return match(in_port=100, tunnel_id=vni, tun_ipv4_src=vtep)


def test_a_port_is_placed_sent_to_and_flooded_to_by_the_receivers_vni() -> None:
    found = compiled(far())
    assert found.places["s"] == Remote(remote_chassis(FAR), 100, FAR)
    facts = found.facts[PORT]
    (delivery,) = [it for it in facts if isinstance(it, Flow)]
    assert delivery.actions == SENT
    bucket = chassis_bucket(remote_chassis(FAR))
    assert [it for it in facts if isinstance(it, Bucket)] == [Bucket(group_id(GroupKind.FLOOD, 1), bucket, SENT)]
    unknown = Bucket(group_id(GroupKind.UNKNOWN, 1), bucket, SENT)
    assert unknown in compiled(far(port_security=False)).facts[PORT], "who may have any MAC may have that of nobody"


def test_what_the_row_does_not_say_is_as_here() -> None:
    assert compiled(replace(far(), remote=None)).facts[PORT][0] == compiled(far(vni=5001)).facts[PORT][0]


def test_each_remote_chassis_has_one_tunnel_however_many_ports() -> None:
    ports = [worlds.remote(f"s{number}", 70 + number, FAR) for number in range(3)]
    wanted = PeerPort(remote_peer_name("geneve", FAR), "geneve", "192.0.2.1", FAR)
    assert facts_of(PeerPort, *ports) == [wanted]
    assert len(facts_of(PeerPort, *ports, far(OTHER))) == 2
    assert len(remote_peer_name("geneve", FAR)) <= 15


def test_where_encapsulations_differ_there_is_a_tunnel_of_either_and_only_ours_is_let_in() -> None:
    other = far(encapsulation="vxlan")
    assert [it.type for it in facts_of(PeerPort, other)] == ["geneve", "vxlan"]
    assert compiled(other).places["s"] == Remote(remote_chassis(FAR), 101, FAR)
    assert let_in(other) == {entry(5001)}
    also = worlds.remote("s2", 62, FAR)
    assert len(facts_of(PeerPort, other, also)) == 2, "the second port needs none more"


def test_packets_go_by_the_flow_based_port_until_the_tunnel_is_there() -> None:
    for interface in (worlds.remote_peer_port(FAR, None), replace(worlds.remote_peer_port(FAR), tunnel=None)):
        assert compiled(far(), interface).places["s"] == Remote(remote_chassis(FAR), 100, FAR)
    assert compiled(far(), worlds.remote_peer_port(FAR, 130)).places["s"] == Remote(remote_chassis(FAR), 130, FAR)


def test_only_networks_with_ports_there_and_those_joined_to_them_are_let_in() -> None:
    networks = worlds.network("far", 2), worlds.network("apart", 3)
    assert let_in(far(), *networks) == {entry(5001)}
    router = (
        worlds.router("r", 1, "net", "far"),
        *(worlds.interface("r", 20 + n, net=it) for n, it in ((1, "net"), (2, "far"))),
    )
    assert let_in(far(), *networks, *router) == {entry(5001), entry(5002)}
    assert let_in(far(OTHER), *networks) == {entry(5001, OTHER)}


@pytest.mark.parametrize(
    "objects",
    [
        (far(admin_up=False),),
        (far("2001:db8::7"),),
        (far(ME.tunnel_ip),),
        (far("not an address"),),
        (far(encapsulation="gre"),),
        (far(), worlds.network(admin_up=False)),
        (far(), worlds.network(network_type="vlan", segmentation_id=7)),
        (far(), worlds.network(network_type="gre")),
        (far(), worlds.network(segmentation_id=None), replace(far(), remote=None)),
        (far(), worlds.tunnel_port(ofport=None)),
        (far(), worlds.remote_peer_port(FAR, bfd="down")),
    ],
)
def test_a_port_that_no_tunnel_reaches_is_not_there(objects: tuple[Object, ...]) -> None:
    world = {(type(it), it.id): it for it in (*BASE, *objects)}
    assert "s" not in compile_world(APPS, World.of(ME, *world.values())).places


def test_only_silence_after_speech_withdraws_ports_and_what_comes_is_still_let_in() -> None:
    for bfd in (None, "up"):
        assert "s" in compiled(far(), worlds.remote_peer_port(FAR, bfd=bfd)).places
    down = worlds.remote_peer_port(FAR, bfd="down")
    others = far(OTHER), worlds.remote("s2", 62, FAR)
    assert compiled(*others, down).places.keys() & {"s", "s2"} == {"s"}
    assert let_in(far(), down) == {entry(5001)}
    assert facts_of(PeerPort, far(), down) == facts_of(PeerPort, far()), "it goes on asking"


def test_a_network_of_other_regions_alone_has_no_tunnel_where_nobody_follows_it() -> None:
    assert not compile_world(APPS, World.of(ME, Alive(id="here", since=0.0))).facts.get(CHASSIS)
    assert facts_of(TunnelPort) == []


def test_one_living_chassis_of_those_with_ports_of_the_network_vouches_for_the_port() -> None:
    there = worlds.port("c", 13, on="there"), worlds.chassis("there", "192.0.2.2")
    names = [f"p{number}" for number in range(24)]
    ports = [worlds.remote(name, 70 + number, FAR) for number, name in enumerate(names)]
    both = (*BASE, *there, *ports, Alive(id="there", since=0.0))
    serving = {}
    for name, address in (("here", "192.0.2.1"), ("there", "192.0.2.2")):
        me = replace(ME, chassis=name, tunnel_ip=address)
        facts = compile_world(APPS, World.of(me, *both)).facts.values()
        serving[name] = {it.port for each in facts for it in each if isinstance(it, Serve)}
    assert serving["here"] | serving["there"] == set(names)
    assert not serving["here"] & serving["there"]
    assert serving["here"]
    assert serving["there"]
    alone = facts_of(Serve, *there, *ports)
    assert {it.port for it in alone} == set(names), "the other is dead"


def test_all_agree_who_vouches_whoever_is_alive_and_each_rests_on_the_lives_that_decide() -> None:
    names = ("h0", "h1", "h2", "h3")
    all_lives = [frozenset(it) for size in range(5) for it in combinations(names, size)]
    for port in (worlds.remote(f"p{number}", 70 + number, FAR) for number in range(6)):
        ranked = sorted(names, key=lambda it: blake2b(f"{port.id}|{it}".encode()).digest(), reverse=True)
        says: dict[tuple[str, frozenset[str]], bool] = {}
        rests: dict[tuple[str, frozenset[str]], set[str]] = {}
        for alive in all_lives:
            replica = Replica()
            there = (worlds.port(f"on-{name}", 20 + number, on=name) for number, name in enumerate(names))
            worlds.load(replica, worlds.network(), *there, *(Alive(id=name, since=0.0) for name in alive))
            server = next((it for it in ranked if it in alive), ranked[0])
            assert remote_server(port, replica) == server
            for name in names:
                view = View(replica, {}, replace(ME, chassis=name))
                says[name, alive] = is_remote_server(name, port, view)
                assert says[name, alive] == (name == server)
                rests[name, alive] = {it[1] for it in view.reads if it[0] is Alive}
        for (name, alive), read in rests.items():
            for other in set(names) - read:
                assert says[name, alive ^ {other}] == says[name, alive], "nobody reads it, so it can't matter"


def test_nobody_vouches_for_a_port_whose_region_says_it_is_down_or_whose_tunnel_is() -> None:
    assert facts_of(Serve, far()) == [Serve("s")]
    assert not facts_of(Serve, far(up=False))
    assert "s" in compiled(far(up=False)).places
    assert not facts_of(Serve, far(), worlds.remote_peer_port(FAR, bfd="down"))
    assert remote_server(far(), Replica()) is None


def test_its_status_is_claimed_and_nothing_is_announced() -> None:
    replica = Replica()
    worlds.load(replica, *BASE, far())
    engine = Engine(APPS, replica, ME)
    engine.settle()
    assert engine.serving == {"s"}
    said = claims(ME, replica, engine.locality, engine.serving)["s"]
    assert (said.status, said.generation, said.network, said.ofport) == ("ACTIVE", 0, "net", None)
    assert not list(announcement("s", View(replica, engine.places, ME, engine.serving)))


def test_a_port_more_on_the_same_remote_chassis_renders_no_tunnel_again() -> None:
    replica = Replica()
    engine = Engine(APPS, replica, ME)
    worlds.load(replica, *BASE, far())
    assert CHASSIS in engine.settle().facts
    worlds.load(replica, worlds.remote("s2", 62, FAR), worlds.port("b", 12), worlds.tap("b", 2), revision=2)
    assert CHASSIS not in engine.settle().facts
    worlds.load(replica, worlds.network("n2", 2), worlds.remote("s3", 63, FAR, net="n2"), revision=3)
    assert CHASSIS in engine.settle().facts
    for number, name in enumerate(("s", "s2", "s3")):
        replica.remove(LogicalPort, name, 10 + number)
    assert engine.settle().facts[CHASSIS] == ()


def test_its_places_are_told_as_those_of_any_port_elsewhere() -> None:
    replica = Replica()
    engine = Engine(APPS, replica, ME)
    worlds.load(replica, *BASE, far())
    told = [str(event) for event in engine.settle().events if event.port == "s"]
    worlds.load(replica, far(OTHER), revision=2)
    told += [str(event) for event in engine.settle().events if event.port == "s"]
    replica.remove(LogicalPort, "s", 3)
    told += [str(event) for event in engine.settle().events if event.port == "s"]
    assert told == ["remote_created s", "remote_updated s", "remote_deleted s"]


def test_other_apps_take_it_for_a_port_elsewhere() -> None:
    """Where it is reached differs; its MAC, the answers in its name, and the routes to it don't."""
    gateway = worlds.interface("r", 21, FixedIP("v4", "10.0.0.1"))
    common: tuple[Object, ...] = (worlds.router("r", 1, "net"), gateway, *worlds.SUBNETS[:2])
    within = compiled(*common, worlds.chassis("there", FAR), worlds.port("s", 61, on="there")).facts
    abroad = compiled(*common, far()).facts
    for app in ("l2", "resolution", "l3"):
        owner = Owner(app, "LogicalPort", "s")
        assert within[owner] == abroad[owner]


def test_interfaces_are_known_by_their_mark() -> None:
    foreign = OvsPort(id=remote_peer_name("geneve", FAR), ofport=130, bfd="down")
    assert compiled(far(), foreign).places["s"] == Remote(remote_chassis(FAR), 100, FAR)


SECRET = replace(ME, region_ipsec="psk")


def test_what_can_not_be_encrypted_is_not_sent_and_has_no_tunnel() -> None:
    heard = worlds.remote_peer_port(FAR, ipsec="psk", bfd="up")
    for unable in ((), (Ipsec(trouble="no kernel"),)):
        assert "s" not in compiled(far(), heard, *unable, me=SECRET).places
        assert not facts_of(PeerPort, far(), heard, *unable, me=SECRET)
        assert not let_in(far(), heard, *unable, me=SECRET)
    replica = Replica()
    engine = Engine(APPS, replica, SECRET)
    worlds.load(replica, *BASE, far(), Ipsec(trouble="no kernel"))
    engine.settle()
    assert engine.degraded[CHASSIS] == "no tunnel is made, for it can't be encrypted: no kernel"
    assert not engine.serving


@pytest.mark.parametrize("bfd", [None, "up", "down"])
def test_nothing_is_sent_or_let_in_before_the_other_end_is_heard_through_the_encryption(bfd: str | None) -> None:
    """What was heard in clear, by an interface of that kind, counts for nothing."""
    mine = worlds.remote_peer_port(FAR, 130, ipsec="psk", bfd=bfd)
    world = (far(), Ipsec(), worlds.remote_peer_port(FAR, 131, bfd="up"), mine)
    assert facts_of(PeerPort, *world, me=SECRET) == [PeerPort(mine.id, "geneve", "192.0.2.1", FAR, "psk")]
    assert compiled(*world, me=SECRET).places.get("s") == (
        Remote(remote_chassis(FAR), 130, FAR) if bfd == "up" else None
    )
    assert let_in(*world, me=SECRET) == ({entry(5001)} if bfd == "up" else set())


def test_what_must_be_encrypted_never_takes_the_flow_based_port() -> None:
    mine = worlds.remote_peer_port(FAR, None, ipsec="psk", bfd="up")
    assert "s" not in compiled(far(), Ipsec(), mine, me=SECRET).places
