"""The leader's work, in threads against real stores: whose word counts, what a lost message costs, who leads."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from unittest import mock

import msgspec
import pytest
from oslo_db.exception import DBConnectionError

from dragonflow.model import Alive, Chassis, PortStatus, TunnelState, encode
from dragonflow.neutron.agenda import Agenda
from dragonflow.neutron.agents import AgentKeeper
from dragonflow.neutron.binding import HostNow
from dragonflow.neutron.db import FloatingNow, PortNow, StaleTurn, StandbyNow
from dragonflow.neutron.dfdb import DfDb
from dragonflow.neutron.hosts import Hosts
from dragonflow.neutron.leader import DOES, KEY
from dragonflow.neutron.status import StatusKeeper, turn
from dragonflow.store.election import Election
from dragonflow.store.feed import ScopeReset
from dragonflow.store.protocol import Delete, Key, LeaseExpired, Put, Txn, Unavailable


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.005)


def key(row) -> Key:
    return Key(row.scope, type(row).__name__, row.id)


def put(dfdb: DfDb, *rows, lease: str | None = None) -> None:
    dfdb.store.commit(Txn(tuple(Put(key(row), encode(row), lease) for row in rows)))


def said(status: str, port: str = "p1", host: str = "h1", generation: int = 1) -> PortStatus:
    return PortStatus(id=port, chassis=host, generation=generation, status=status, revision=1, at=0.0)


PORT = PortNow(id="p1", status="DOWN", admin_up=True, host="h1", vif_type="ovs", generation=1, ours=True)
UP = PORT._replace(status="ACTIVE")


@pytest.mark.parametrize(
    ("port", "row", "expected"),
    [
        (PORT, said("ACTIVE"), "ACTIVE"),
        (PORT, said("DOWN"), None),
        (UP, said("DOWN"), "DOWN"),
        (UP, said("ACTIVE"), None),
        (PORT._replace(status="BUILD"), said("DOWN"), None),
        (PORT, None, None),
        (UP, None, None),
        (PORT, said("ACTIVE", generation=0), None),
        (PORT, said("ACTIVE", generation=2), None),
        (UP, said("DOWN", generation=0), None),
        (PORT, said("ACTIVE", host="h2"), None),
        (PORT._replace(vif_type="unbound"), said("ACTIVE"), None),
        (PORT._replace(vif_type="binding_failed"), said("ACTIVE"), None),
        (PORT._replace(ours=False), said("ACTIVE"), None),
        (UP._replace(admin_up=False, ours=False), None, None),
        (UP._replace(admin_up=False), said("ACTIVE"), "DOWN"),
        (PORT._replace(admin_up=False), said("ACTIVE"), None),
    ],
)
def test_only_the_present_host_speaks_and_only_of_the_present_binding(port, row, expected):
    assert turn(port, row) == expected


class Neutron:
    """Ports in a dict, and all turns that were asked for."""

    def __init__(self, *ports: PortNow) -> None:
        self.now = {port.id: port for port in ports}
        self.turns: list[tuple[str, str]] = []
        self.compared = 0
        self.prepared: set[StandbyNow] = set()
        self.told: list[str] = []
        self.broken = ""
        self.still: object = None
        self.fail = False
        self.floats: dict[str, FloatingNow] = {}

    def ports(self, ids=None):
        self.compared += ids is None
        return [port for port in list(self.now.values()) if ids is None or port.id in ids]

    def turn(self, ports, status: str) -> list[str]:
        for port in ports:
            if self.fail:
                raise DBConnectionError("the SQL database is away")
            if port.id == self.broken:
                raise RuntimeError("this port alone can't be turned")
            if self.now[port.id].generation != port.generation:
                raise StaleTurn(port.id)
            if self.now[port.id].status != status:
                self.turns.append((port.id, status))
                self.now[port.id] = self.now[port.id]._replace(status=status)
        return [port.id for port in ports]

    def mark(self) -> object:
        return self.still or object()

    def floating(self, ports=None):
        return [it for it in list(self.floats.values()) if ports is None or it.port in ports]

    def turn_floating(self, floating: FloatingNow, status: str) -> None:
        self.floats[floating.id] = floating._replace(status=status)

    def standby(self, ids=None):
        return [other for other in list(self.prepared) if ids is None or other.id in ids]

    def plugged(self, id: str) -> None:
        self.told.append(id)

    def status(self, id: str = "p1") -> str:
        return self.now[id].status


@pytest.fixture
def keep(dfdb) -> Iterator[Callable[..., StatusKeeper]]:
    keepers = []

    def start(neutron: Neutron, period: float = 600.0, threads: int = 1) -> StatusKeeper:
        keepers.append(StatusKeeper(dfdb, period, neutron, threads=threads))
        keepers[-1].start()
        return keepers[-1]

    yield start
    for keeper in keepers:
        keeper.stop()


def test_what_stood_before_the_leader_came_counts(dfdb, keep):
    neutron = Neutron(PORT, UP._replace(id="p2"))
    put(dfdb, said("ACTIVE"), said("DOWN", "p2"))
    keep(neutron)
    until(lambda: (neutron.status(), neutron.status("p2")) == ("ACTIVE", "DOWN"))


def test_a_status_is_followed_and_one_that_stands_right_is_not_written_again(dfdb, keep):
    neutron = Neutron(PORT)
    keep(neutron, period=0.05)
    put(dfdb, said("ACTIVE"))
    until(lambda: neutron.status() == "ACTIVE")
    put(dfdb, said("DOWN"))
    until(lambda: neutron.status() == "DOWN")
    compared = neutron.compared
    until(lambda: neutron.compared > compared + 3)
    assert neutron.turns == [("p1", "ACTIVE"), ("p1", "DOWN")]


def test_a_status_that_comes_before_neutron_shows_the_binding_is_not_lost(dfdb, keep):
    neutron = Neutron()
    keep(neutron, period=0.05)
    put(dfdb, said("ACTIVE"))
    compared = neutron.compared
    until(lambda: neutron.compared > compared + 1)
    assert neutron.turns == []
    neutron.now["p1"] = PORT
    until(lambda: neutron.status() == "ACTIVE")


def test_a_floating_ip_is_active_while_the_host_of_its_fixed_port_says_so(dfdb, keep):
    neutron = Neutron(UP, UP._replace(id="pf", vif_type="unbound", ours=False))
    free = FloatingNow(id="f1", port="pf", status="ACTIVE", host="", generation=0)
    neutron.floats["f1"] = free
    keep(neutron, period=0.05)
    until(lambda: neutron.floats["f1"].status == "DOWN")
    neutron.floats["f1"] = free._replace(status="DOWN", host="h1", generation=1)
    put(dfdb, said("ACTIVE", "pf"))
    until(lambda: neutron.floats["f1"].status == "ACTIVE")
    put(dfdb, said("ACTIVE", "pf", "h2"))
    neutron.floats["f1"] = neutron.floats["f1"]._replace(host="h2")
    dfdb.store.commit(Txn((Delete(key(said("ACTIVE", "pf"))),)))
    assert neutron.floats["f1"].status == "ACTIVE", "it moved"
    dfdb.store.commit(Txn((Delete(key(said("ACTIVE", "pf", "h2"))),)))
    until(lambda: neutron.floats["f1"].status == "DOWN")


def test_what_is_bound_nowhere_is_active_while_any_chassis_says_so(dfdb, keep):
    unbound = UP._replace(host="", vif_type="unbound", ours=False)
    neutron = Neutron(unbound._replace(id="pg", gateway=True), unbound._replace(id="pr", remote=True), PORT)
    neutron.floats["f1"] = FloatingNow(id="f1", port="pf", status="ACTIVE", host="", generation=0, anywhere=True)
    keep(neutron, period=0.05)

    def are(expected: str) -> bool:
        return {neutron.status("pg"), neutron.status("pr"), neutron.floats["f1"].status} == {expected}

    until(lambda: are("DOWN"))
    one, other = ([said("ACTIVE", port, host, 0) for port in ("pg", "pr", "pf")] for host in ("h1", "h2"))
    put(dfdb, *one)
    until(lambda: are("ACTIVE"))
    turns = len(neutron.turns)
    put(dfdb, *other)
    dfdb.store.commit(Txn(tuple(Delete(key(row)) for row in one)))
    put(dfdb, said("ACTIVE"))
    until(lambda: neutron.status() == "ACTIVE")
    assert are("ACTIVE"), "another took over"
    assert len(neutron.turns) == turns + 1
    dfdb.store.commit(Txn(tuple(Delete(key(row)) for row in other)))
    until(lambda: are("DOWN"))


def test_of_a_gateway_nothing_is_said_before_all_rows_are_told(dfdb, keep):
    neutron = Neutron(UP._replace(id="pg", host="", vif_type="unbound", ours=False, gateway=True))
    put(dfdb, said("ACTIVE", "pg", generation=0))
    keeper = StatusKeeper(dfdb, 600.0, neutron)
    keeper._examine(["pg"])
    assert neutron.turns == []
    keep(neutron, period=0.05)
    compared = neutron.compared
    until(lambda: neutron.compared > compared + 1)
    assert neutron.turns == []


def test_what_neutron_refuses_is_tried_again(dfdb, keep):
    neutron = Neutron(PORT)
    neutron.fail = True
    keep(neutron, period=0.05)
    put(dfdb, said("ACTIVE"))
    compared = neutron.compared
    until(lambda: neutron.compared > compared + 2)
    neutron.fail = False
    until(lambda: neutron.status() == "ACTIVE")


def test_a_row_that_cannot_be_read_harms_no_other(dfdb, keep):
    neutron = Neutron(PORT)
    keep(neutron)
    dfdb.store.commit(Txn((Put(Key("status:h1", "PortStatus", "px"), b"\xff"),)))
    put(dfdb, said("ACTIVE"))
    until(lambda: neutron.status() == "ACTIVE")


def test_a_row_that_is_gone_says_nothing(dfdb, keep):
    neutron = Neutron(PORT)
    keep(neutron, period=0.05)
    put(dfdb, said("ACTIVE"))
    until(lambda: neutron.status() == "ACTIVE")
    dfdb.store.commit(Txn((Delete(key(said("ACTIVE"))),)))
    neutron.now["p1"] = PORT._replace(generation=2)
    compared = neutron.compared
    until(lambda: neutron.compared > compared + 1)
    assert neutron.status() == "DOWN"


def test_a_row_of_an_old_binding_that_is_decided_too_late_is_not_written(dfdb, keep):
    neutron = Neutron(PORT)
    fresh = PORT._replace(generation=2)
    ports = neutron.ports

    def rebound_after_reading(ids=None):
        found = ports(ids)
        neutron.now["p1"] = fresh
        return found

    neutron.ports = rebound_after_reading
    keep(neutron, period=0.05)
    put(dfdb, said("ACTIVE"))
    compared = neutron.compared
    until(lambda: neutron.compared > compared + 2)
    assert neutron.turns == []
    put(dfdb, said("ACTIVE", generation=2))
    until(lambda: neutron.turns == [("p1", "ACTIVE")])


def test_what_neutron_holds_up_holds_up_nothing_else(dfdb, keep):
    """Neutron itself waits long where its database was away: as many threads as are held up are replaced."""
    ports = [PORT._replace(id=f"p{number}") for number in range(9)]
    neutron = Neutron(*ports)
    held = threading.Event()
    turn_ports = neutron.turn

    def turn_slowly(ports, status: str) -> list[str]:
        if {port.id for port in ports} & {"p0", "p1", "p2"} and not held.is_set():
            held.wait(60)
        return turn_ports(ports, status)

    neutron.turn = turn_slowly
    keeper = keep(neutron, threads=2)
    try:
        put(dfdb, *(said("ACTIVE", port.id) for port in ports))
        until(lambda: {neutron.status(f"p{number}") for number in range(3, 9)} == {"ACTIVE"})
        assert neutron.status("p0") == "DOWN"
        assert keeper.stuck() == 0.0, "the leader gets on"
    finally:
        held.set()
    until(lambda: {port.status for port in neutron.now.values()} == {"ACTIVE"})


def test_where_nothing_changed_nothing_is_compared_until_something_does(dfdb, keep):
    neutron = Neutron(PORT)
    neutron.still = "mark"
    put(dfdb, said("ACTIVE"))
    keep(neutron, period=0.02)
    until(lambda: neutron.status() == "ACTIVE")
    until(lambda: neutron.compared >= 2)  # once more after something was found wrong
    time.sleep(0.3)
    compared = neutron.compared
    time.sleep(0.3)
    assert neutron.compared == compared
    neutron.now["p1"] = PORT  # set back behind our back, without a message
    neutron.still = "another mark"
    until(lambda: neutron.status() == "ACTIVE")


def test_a_port_that_can_not_be_turned_holds_up_no_other(dfdb, keep):
    ports = [PORT._replace(id=f"p{number}") for number in range(5)]
    neutron = Neutron(*ports)
    neutron.broken = "p2"
    keep(neutron)
    put(dfdb, *(said("ACTIVE", port.id) for port in ports))
    until(lambda: [port.id for port in neutron.now.values() if port.status != "ACTIVE"] == ["p2"])


def test_a_leader_whose_comparing_hangs_is_stuck(dfdb, keep):
    neutron = Neutron(PORT)
    held = threading.Event()
    neutron.ports = lambda ids=None: held.wait(60) and []
    keeper = keep(neutron)
    try:
        until(lambda: keeper.stuck() > 0.3)
    finally:
        held.set()


def test_nova_is_told_once_that_the_target_of_a_migration_is_wired(dfdb, keep):
    neutron = Neutron(UP._replace(migrating=True))
    neutron.prepared = {StandbyNow("p1", "h2", 1)}
    keep(neutron, period=0.05)
    put(dfdb, said("ACTIVE"), said("ACTIVE", host="h3"), said("ACTIVE", host="h2", generation=0))
    compared = neutron.compared
    until(lambda: neutron.compared > compared + 2)
    assert neutron.told == [], "no word of h2 of this generation"
    put(dfdb, said("ACTIVE", host="h2"))
    until(lambda: neutron.told == ["p1"])
    compared = neutron.compared
    until(lambda: neutron.compared > compared + 2)
    assert neutron.told == ["p1"]
    keep(neutron, period=0.05)
    until(lambda: neutron.told == ["p1", "p1"])  # another leader can't know
    assert neutron.turns == [], "the port's status is its present host's"


def test_what_is_told_comes_before_what_was_found_and_nothing_is_in_two_hands():
    now = [0.0]
    agenda = Agenda(clock=lambda: now[0])
    agenda.found(["a", "b"])
    agenda.told(["c", "b"])
    assert agenda.take(2, 0.0) == ["c", "b"]
    agenda.told(["b"])
    assert agenda.take(5, 0.0) == ["a"], "b is in somebody's hands"
    agenda.done(["b"])
    assert agenda.take(5, 0.0) == ["b"], "but what was told meanwhile is not lost"
    agenda.told(["a"])
    now[0] += 4.0
    assert agenda.take(5, 0.0) == ["a"], "who hangs doesn't keep others from it"
    agenda.told(["a"])
    now[0] += 4.0
    assert agenda.take(5, 0.0) == [], "but two who hang are enough"


class Duty:
    """Knows how many of its kind are at work."""

    at_work = 0
    hangs = 0.0
    lock = threading.Lock()

    def stuck(self) -> tuple[float, str]:
        return Duty.hangs, "test"

    def start(self) -> None:
        with Duty.lock:
            Duty.at_work += 1

    def stop(self) -> None:
        with Duty.lock:
            Duty.at_work -= 1


@pytest.fixture
def stand(dfdb) -> Iterator[Callable[[], Election]]:
    running: list[tuple[Election, threading.Thread]] = []
    Duty.at_work, Duty.hangs = 0, 0.0

    def start() -> Election:
        election = Election(dfdb.store, Duty, 1.0, key=KEY, name=f"server{len(running)}", does=DOES, patience=2.0)
        running.append((election, threading.Thread(target=election.run)))
        running[-1][1].start()
        return election

    yield start
    for election, thread in running:
        election.stop()
        thread.join()
    assert Duty.at_work == 0


def test_one_leads_and_another_takes_over_when_it_stops(stand):
    elections = [stand(), stand(), stand()]
    until(lambda: Duty.at_work == 1)
    first = next(election for election in elections if election.leads.is_set())
    first.stop()
    until(lambda: any(election.leads.is_set() for election in elections if election is not first), 5.0)
    assert Duty.at_work == 1


def test_a_leader_that_died_is_replaced_when_its_lease_ends(dfdb, stand):
    lease = dfdb.store.grant_lease(1.0)
    dfdb.store.commit(Txn((Put(KEY, b"{}", lease),)))
    election = stand()
    assert not election.leads.wait(0.3), "the dead one's lease still stands"
    assert election.leads.wait(5.0)


def test_a_leader_whose_lease_is_gone_stands_down(dfdb, stand):
    first = stand()
    assert first.leads.wait(5.0)
    dfdb.store.commit(Txn((Put(KEY, b"another"),)))
    first._store = _Expired(dfdb.store)
    until(lambda: not first.leads.is_set(), 5.0)
    until(lambda: Duty.at_work == 0)
    assert dfdb.store.get(KEY).data == b"another", "who stands down takes nobody's office away"


def test_a_leader_that_hangs_leaves_it_to_another(stand, caplog):
    caplog.set_level(logging.INFO)
    first = stand()
    assert first.leads.wait(5.0)
    second = stand()
    Duty.hangs = 3.0
    until(lambda: not first.leads.is_set(), 5.0)
    Duty.hangs = 0.0
    assert second.leads.wait(5.0)
    until(lambda: "server1 keeps port statuses" in caplog.text)
    assert "standing down: keeping the test has hung for 3 s" in caplog.text


class _Expired:
    """A store in which the leader's lease is gone."""

    def __init__(self, store) -> None:
        self._store = store

    def __getattr__(self, name: str):
        return getattr(self._store, name)

    def keep_alive(self, lease: str) -> None:
        raise LeaseExpired(lease)


CHASSIS = Chassis(id="h1", tunnel_ip="192.0.2.1")


class Agents:
    """An agents table that remembers what it was told."""

    def __init__(self) -> None:
        self.alive: dict[str, bool] = {}
        self.reported: list[Chassis] = []
        self.beats = 0
        self.tunnels: dict[str, object] = {}

    def report(self, chassis: Chassis, tunnels: object) -> None:
        self.reported.append(chassis)
        self.tunnels[chassis.id] = tunnels
        self.alive[chassis.id] = True

    def beat(self, hosts) -> int:
        self.beats += 1
        return sum(host in self.alive for host in hosts)

    def bury(self, hosts) -> None:
        for host in hosts:
            if host in self.alive:
                self.alive[host] = False


def test_agents_follow_the_chassis_and_their_leases(dfdb):
    agents = Agents()
    keeper = AgentKeeper(dfdb, 0.05, agents)
    keeper.start()
    try:
        lease = dfdb.store.grant_lease(30.0)
        put(dfdb, CHASSIS)
        until(lambda: agents.alive == {"h1": False})
        put(dfdb, Alive(id="h1", since=1.0), lease=lease)
        until(lambda: agents.alive == {"h1": True})
        reported, beats = len(agents.reported), agents.beats
        until(lambda: agents.beats > beats + 2)
        assert len(agents.reported) == reported, "a heartbeat is no report"
        dfdb.store.revoke(lease)
        until(lambda: agents.alive == {"h1": False})
        put(dfdb, Alive(id="h1", since=2.0))
        until(lambda: agents.alive == {"h1": True})
        del agents.alive["h1"]  # an operator deletes the agent of a host that lives
        until(lambda: agents.alive == {"h1": True})
    finally:
        keeper.stop()


def test_an_agent_tells_of_its_tunnels_what_is_news(dfdb):
    agents = Agents()
    keeper = AgentKeeper(dfdb, 600.0, agents)
    keeper.start()
    tunnel = TunnelState(id="h1/203.0.113.9", chassis="h1", remote_ip="203.0.113.9", up=True, rtt_ms=5.0, at=1.0)

    def told(state: TunnelState) -> bool:
        return agents.tunnels.get("h1") == {"203.0.113.9": (state.up, state.rtt_ms, state.mtu)}

    try:
        put(dfdb, CHASSIS, Alive(id="h1", since=1.0), tunnel)
        until(lambda: told(tunnel))
        reported = len(agents.reported)
        put(dfdb, msgspec.structs.replace(tunnel, rtt_ms=5.1, at=31.0))
        put(dfdb, *(said("ACTIVE", f"p{number}") for number in range(5)))
        down = msgspec.structs.replace(tunnel, up=False, rtt_ms=None, at=40.0)
        put(dfdb, down)
        until(lambda: told(down))
        assert len(agents.reported) <= reported + 2, "the time alone is no news"
        dfdb.store.commit(Txn((Delete(key(down)),)))
        until(lambda: agents.tunnels["h1"] == {})
    finally:
        keeper.stop()


def test_hosts_are_known_from_the_feed_and_asked_for_when_in_doubt(dfdb):
    fallback = HostNow(None, True)
    hosts = Hosts(dfdb, lambda _host: fallback)
    put(dfdb, CHASSIS)
    assert hosts.look("h1") == HostNow(CHASSIS, False), "asked, for nothing was told yet"
    thread = threading.Thread(target=hosts.run)
    thread.start()
    try:
        put(dfdb, Alive(id="h1", since=1.0))
        assert hosts.look("h1") == HostNow(CHASSIS, True), "at once, though the feed may lag"
        until(lambda: hosts._ready.is_set() and hosts.look("h1").alive)
        assert hosts.look("h2") == HostNow(None, False)
    finally:
        hosts.stop()
        thread.join()


def test_a_df_db_that_must_be_read_anew_is_doubted(dfdb, monkeypatch):
    doubts = []
    hosts = Hosts(dfdb, lambda _host: HostNow(None, True), lambda: doubts.append(len(news)))
    news = [ScopeReset(scope, revision, ()) for revision in (1, 9) for scope in ("chassis", "alive")]

    def following(_timeout):
        if not news:
            hosts.stop()
        return news.pop(0) if news else None

    monkeypatch.setattr(dfdb.store, "feed", lambda _scopes: mock.Mock(next=following))
    hosts.run()
    assert doubts == [1, 0], "not the first time"


def test_an_api_call_waits_for_a_df_db_that_is_away_once_and_not_long(dfdb, monkeypatch):
    asked = []

    def glance(scopes, timeout):
        asked.append(timeout)
        raise Unavailable("gone")

    monkeypatch.setattr(dfdb, "glance", glance)
    now = [100.0]
    hosts = Hosts(dfdb, lambda _host: HostNow(CHASSIS, True), clock=lambda: now[0])
    for _ in range(10):
        assert hosts.look("h1") == HostNow(CHASSIS, True)
    assert asked == [2.0]
    now[0] += 6.0
    hosts.look("h1")
    assert len(asked) == 2
