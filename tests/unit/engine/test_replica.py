"""The replica: revisions decide, not arrival."""

from __future__ import annotations

import pytest

from dragonflow.controller import replica as module
from dragonflow.controller.replica import Replica
from dragonflow.model import (
    AddressPair,
    Binding,
    LogicalPort,
    OvsPort,
    Presence,
    RemoteChassis,
    Sharing,
    Stretched,
    remote_chassis,
)
from dragonflow.testing import worlds

SCOPE = "net:net"


@pytest.fixture
def replica() -> Replica:
    made = Replica()
    made.reset_scope(SCOPE, [(worlds.port("p", 1), 10)], 20)
    made.take_changes()
    return made


def changed(replica: Replica) -> list[tuple[str, bool, bool]]:
    return [(change.id, change.old is not None, change.new is not None) for change in replica.take_changes()]


def test_newer_news_counts_and_older_or_the_same_does_not(replica: Replica) -> None:
    newer = worlds.port("p", 2)
    assert replica.upsert(newer, 21)
    for revision in (21, 20, 15):
        assert not replica.upsert(worlds.port("p", 3), revision)
        assert not replica.remove(LogicalPort, "p", revision)
    assert replica.get(LogicalPort, "p") == newer
    assert replica.revision(LogicalPort, "p") == 21
    assert changed(replica) == [("p", True, True)]


def test_a_late_update_does_not_bring_a_deleted_row_back(replica: Replica) -> None:
    assert replica.remove(LogicalPort, "p", 30)
    assert not replica.upsert(worlds.port("p", 1), 29)
    assert replica.get(LogicalPort, "p") is None
    assert replica.revision(LogicalPort, "p") == 0
    assert replica.upsert(worlds.port("p", 1), 31)


def test_a_deletion_that_overtakes_its_row_counts(replica: Replica) -> None:
    assert not replica.remove(LogicalPort, "q", 40)
    assert not replica.upsert(worlds.port("q", 2), 39)
    assert replica.get(LogicalPort, "q") is None


def test_tombstones_are_few(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOMBSTONES", 3)
    for number in range(9):
        replica.remove(LogicalPort, f"q{number}", 50 + number)
    assert not replica.upsert(worlds.port("q8", 8), 21)
    assert replica.upsert(worlds.port("q0", 1), 21)


def test_a_snapshot_replaces_the_scope_but_nothing_newer(replica: Replica) -> None:
    replica.upsert(worlds.port("new", 2), 31)
    replica.upsert(worlds.port("kept", 3), 25)
    replica.remove(LogicalPort, "p", 32)
    assert replica.reset_scope(SCOPE, [(worlds.port("p", 1), 10), (worlds.port("q", 4), 28)], 30)
    assert [port.id for port in replica.all(LogicalPort)] == ["new", "q"]


def test_an_older_snapshot_says_nothing(replica: Replica) -> None:
    assert not replica.reset_scope(SCOPE, [], 19)
    assert replica.get(LogicalPort, "p") is not None


def test_a_dropped_scope_is_forgotten_whole_even_if_revisions_went_back(replica: Replica) -> None:
    replica.remove(LogicalPort, "p", 30)
    replica.drop_scope(SCOPE)
    assert replica.scopes == frozenset()
    assert not replica.upsert(worlds.port("p", 1), 99)
    assert replica.reset_scope(SCOPE, [(worlds.port("p", 1), 2)], 3)
    assert replica.upsert(worlds.port("p", 5), 4)


def test_a_row_of_another_scope_is_refused_in_a_snapshot(replica: Replica) -> None:
    with pytest.raises(ValueError, match="lies in scope net:other, not in net:net"):
        replica.reset_scope(SCOPE, [(worlds.port("p", 1, net="other"), 40)], 41)


def test_indices_follow_every_change(replica: Replica) -> None:
    replica.reset_scope("host:here", [(Binding(id="p", host="here", network="net", generation=1), 1)], 1)
    assert [row.id for row in replica.where(Binding, host="here")] == ["p"]
    replica.upsert(worlds.port("b", 2), 21)
    replica.upsert(worlds.port("a", 3), 22)
    assert [port.id for port in replica.where(LogicalPort, chassis="here")] == ["a", "b", "p"]
    replica.upsert(worlds.port("a", 3, on=None), 23)
    replica.remove(LogicalPort, "b", 24)
    assert [port.id for port in replica.where(LogicalPort, chassis="here")] == ["p"]
    assert [port.id for port in replica.where(LogicalPort, network="net")] == ["a", "p"]
    replica.drop_scope(SCOPE)
    assert replica.where(LogicalPort, network="net") == ()
    with pytest.raises(KeyError):
        replica.where(LogicalPort, mac="02:00:00:00:00:01")


def test_changes_are_differences(replica: Replica) -> None:
    replica.upsert(worlds.port("p", 2), 21)
    replica.upsert(worlds.port("p", 1), 22)
    replica.upsert(worlds.port("q", 4), 23)
    replica.remove(LogicalPort, "q", 24)
    assert changed(replica) == []
    assert replica.revision(LogicalPort, "p") == 22


def test_interfaces_speak_for_themselves(replica: Replica) -> None:
    replica.upsert_port(worlds.tap("p", 1))
    replica.upsert_port(worlds.tap("q", 2))
    assert [port.id for port in replica.where(OvsPort, iface_id="p")] == ["tap-p"]
    replica.reset_ports([worlds.tap("p", 3)])
    assert [(port.id, port.ofport) for port in replica.all(OvsPort)] == [("tap-p", 3)]
    replica.remove_port("tap-p")
    replica.remove_port("tap-p")
    assert replica.all(OvsPort) == ()


@pytest.mark.parametrize("lost", ["a change", "a deletion"])
def test_a_snapshot_undoes_what_a_fail_over_lost(replica: Replica, lost: str) -> None:
    """What was acknowledged at 30 the store at 2000 knows nothing of: the row stands as it was written at 10."""
    if lost == "a change":
        assert replica.upsert(worlds.port("p", 2), 30)
    else:
        assert replica.remove(LogicalPort, "p", 30)
    assert replica.reset_scope(SCOPE, [(worlds.port("p", 1), 10)], 2000)
    assert replica.get(LogicalPort, "p") == worlds.port("p", 1)
    assert replica.revision(LogicalPort, "p") == 10


def test_where_a_network_is_follows_from_its_ports_and_changes_with_the_first_and_the_last_on_a_chassis() -> None:
    replica = Replica()

    def there() -> set[str]:
        found = replica.get(Presence, "net")
        return set() if found is None else set(found.chassis)

    def news() -> list[str]:
        return [change.id for change in replica.take_changes() if change.model is Presence]

    worlds.load(replica, worlds.port("p", 1), worlds.port("q", 2, on="b"), worlds.port("r", 3, on=None))
    assert (there(), news()) == ({"here", "b"}, ["net"])
    worlds.load(replica, worlds.port("r", 3, on="b"), worlds.port("p", 1, admin_up=False), revision=2)
    assert (there(), news()) == ({"here", "b"}, []), "a second one, and another field"
    worlds.load(replica, worlds.port("q", 2, on="here"), worlds.port("p", 1, on="b"), revision=3)
    assert (there(), news()) == ({"here", "b"}, []), "they changed places"
    replica.remove(LogicalPort, "q", 4)
    assert (there(), news()) == ({"b"}, ["net"])
    replica.drop_scope(SCOPE)
    assert (there(), news()) == (set(), ["net"])


def test_chassis_of_other_regions_follow_from_the_ports_there_and_count_as_none_of_ours() -> None:
    replica = Replica()

    def there(vtep: str) -> set[Stretched]:
        found = replica.get(RemoteChassis, remote_chassis(vtep))
        return set() if found is None else set(found.members)

    worlds.load(replica, worlds.remote("s", 1, "::1"), worlds.remote("t", 2, "::1"), worlds.network("n2", 2))
    assert there("::1") == {Stretched("net", None)}
    assert replica.get(Presence, "net") is None
    assert [change.id for change in replica.take_changes() if change.model is RemoteChassis] == [remote_chassis("::1")]
    worlds.load(replica, worlds.remote("t", 2, "::1", encapsulation="gre", vni=7), revision=2)
    assert there("::1") == {Stretched("net", None), Stretched("net", "gre")}
    worlds.load(replica, worlds.remote("s", 1, "::2"), worlds.remote("t", 2, "::1", vni=8, up=False), revision=3)
    assert (there("::1"), there("::2")) == ({Stretched("net", None)}, {Stretched("net", None)})
    replica.take_changes()
    worlds.load(replica, worlds.remote("t", 2, "::1", vni=9), revision=4)
    assert [change.model for change in replica.take_changes()] == [LogicalPort], "its VNI is the port's own affair"
    replica.drop_scope(SCOPE)
    assert replica.all(RemoteChassis) == ()


def test_who_may_hear_of_shared_addresses_follows_from_ports_with_pairs_where_they_are_and_may_be_next() -> None:
    replica = Replica()

    def hearing() -> set[str]:
        found = replica.get(Sharing, "net")
        return set() if found is None else set(found.members)

    pairs = {"address_pairs": (AddressPair("10.0.0.99"),)}
    worlds.load(replica, worlds.port("p", 1), worlds.port("q", 2, on=None, **pairs))
    assert hearing() == set()
    worlds.load(replica, worlds.port("p", 1, **pairs), worlds.port("q", 2, on="b", standby=("c",), **pairs), revision=2)
    assert hearing() == {"here", "b", "c"}
    worlds.load(replica, worlds.port("q", 2, on="c", **pairs), revision=3)
    assert hearing() == {"here", "c"}
    worlds.load(replica, worlds.port("q", 2, on=remote_chassis("192.0.2.9"), **pairs), revision=4)
    assert hearing() == {"here"}
    replica.remove(LogicalPort, "p", 5)
    assert hearing() == set()
