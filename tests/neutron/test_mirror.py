"""The mirror against stores of both kinds, with a Neutron made of a dict that changes under its feet."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec
import pytest

from dragonflow.model import Binding, ExternalNetwork, LogicalPort, LogicalSwitch, Subnet, decode, encode
from dragonflow.neutron.dfdb import DfDb
from dragonflow.neutron.mirror import Mirror
from dragonflow.store.protocol import Conflict, Key, Put, Txn


class Neutron:
    """A ``Source``; ``meanwhile`` is called once between a load and the commit that follows it."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], object] = {}
        self.meanwhile: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def set(self, kind: str, row) -> None:
        with self._lock:
            self.rows[kind, row.id] = row

    def delete(self, kind: str, id: str) -> None:
        with self._lock:
            del self.rows[kind, id]

    def load(self, kind, id):
        row = self.rows.get((kind, id))
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        if row is None:
            return None
        return lambda key: msgspec.structs.replace(row, key=key) if hasattr(row, "key") else row

    def revision(self, kind, id):
        row = self.rows.get((kind, id))
        return None if row is None else row.revision


def port(id: str = "p1", revision: int = 1, **fields) -> LogicalPort:
    return LogicalPort(id=id, key=0, network="n1", mac="fa:16:3e:00:00:01", revision=revision, **fields)


def switch(id: str = "n1", revision: int = 1, **fields) -> LogicalSwitch:
    values = {"network_type": "geneve", "segmentation_id": 1, "mtu": 1442, **fields}
    return LogicalSwitch(id=id, key=0, revision=revision, **values)


def stored(dfdb: DfDb, *scopes: str) -> dict[tuple[str, str, str], object]:
    records = dfdb.store.snapshot(scopes or ["net:*", "host:*"]).records
    return {tuple(record.key): decode(record.key.kind, record.key.id, record.data) for record in records}


@pytest.fixture
def neutron() -> Neutron:
    return Neutron()


@pytest.fixture
def mirror(dfdb, neutron) -> Mirror:
    return Mirror(dfdb, neutron)


def test_an_object_appears_changes_and_goes_with_its_key(dfdb, neutron, mirror):
    neutron.set("network", switch())
    assert mirror.sync("network", "n1", "n1") is not None
    assert stored(dfdb) == {("net:n1", "LogicalSwitch", "n1"): msgspec.structs.replace(switch(), key=1)}
    neutron.delete("network", "n1")
    mirror.sync("network", "n1", "n1")
    assert stored(dfdb) == {}
    assert Key("keys:network", "KeyOwner", "n1") not in {r.key for r in dfdb.store.snapshot(["keys:*"]).records}


def test_bindings_follow_the_port(dfdb, neutron, mirror):
    neutron.set("port", port(chassis="h1", generation=1))
    mirror.sync("port", "p1", "n1")
    neutron.set("port", port(chassis="h1", generation=1, standby=("h2",), revision=2))
    mirror.sync("port", "p1", "n1")
    hosts = {key[0]: row for key, row in stored(dfdb, "host:*").items()}
    assert hosts["host:h1"] == Binding(id="p1", host="h1", network="n1", generation=1)
    assert hosts["host:h2"] == Binding(id="p1", host="h2", network="n1", generation=1, active=False)
    neutron.set("port", port(chassis="h2", generation=2, revision=3))
    mirror.sync("port", "p1", "n1")
    assert stored(dfdb, "host:*") == {
        ("host:h2", "Binding", "p1"): Binding(id="p1", host="h2", network="n1", generation=2)
    }
    neutron.delete("port", "p1")
    mirror.sync("port", "p1", "n1")
    assert stored(dfdb) == {}


def test_an_external_network_is_found_where_gateway_nodes_look(dfdb, neutron, mirror):
    outside = {"network_type": "flat", "physical_network": "physnet1", "external": True}
    pointer = {("external", "ExternalNetwork", "n1"): ExternalNetwork(id="n1", physical_network="physnet1")}
    for revision, (fields, expected) in enumerate(
        (
            (outside, pointer),
            ({**outside, "external": False}, {}),
            (outside, pointer),
            ({**outside, "network_type": "geneve", "physical_network": None}, {}),
            (outside, pointer),
        ),
        1,
    ):
        neutron.set("network", switch(revision=revision, **fields))
        mirror.sync("network", "n1", "n1")
        assert stored(dfdb, "external") == expected
    dfdb.store.commit(Txn((Put(Key("net:n1", "LogicalSwitch", "n1"), b"?"),)))
    neutron.delete("network", "n1")
    mirror.sync("network", "n1", "n1")
    assert stored(dfdb, "net:*", "external") == {}


def test_what_stands_right_is_not_written_again(dfdb, neutron, mirror):
    neutron.set("port", port())
    mirror.sync("port", "p1", "n1")
    assert mirror.sync("port", "p1", "n1") is None
    neutron.set("port", port(revision=2))
    assert mirror.sync("port", "p1", "n1") is None, "a new revision alone is no news"


def test_a_subnet_needs_no_key(dfdb, neutron, mirror):
    neutron.set("subnet", Subnet(id="s1", network="n1", cidr="10.0.0.0/24", revision=1))
    mirror.sync("subnet", "s1", "n1")
    assert list(stored(dfdb)) == [("net:n1", "Subnet", "s1")]


def test_a_row_that_cannot_be_read_is_written_anew_with_its_bindings(dfdb, neutron, mirror):
    neutron.set("port", port(chassis="h1"))
    mirror.sync("port", "p1", "n1")
    dfdb.store.commit(Txn((Put(Key("net:n1", "LogicalPort", "p1"), b"\xff"),)))
    neutron.set("port", port(chassis="h2", revision=2))
    mirror.sync("port", "p1", "n1")
    assert {key[0] for key in stored(dfdb)} == {"net:n1", "host:h2"}


def test_a_newer_state_written_meanwhile_is_not_overwritten(dfdb, neutron, mirror):
    neutron.set("port", port(name="old"))
    mirror.sync("port", "p1", "n1")

    def another() -> None:
        neutron.set("port", port(name="newest", revision=3))
        Mirror(dfdb, neutron).sync("port", "p1", "n1")

    neutron.set("port", port(name="newer", revision=2))
    neutron.meanwhile = another
    mirror.sync("port", "p1", "n1")
    assert stored(dfdb)["net:n1", "LogicalPort", "p1"].name == "newest"


def test_a_port_deleted_while_its_row_is_being_made_leaves_nothing(dfdb, neutron, mirror):
    def another() -> None:
        neutron.delete("port", "p1")
        assert Mirror(dfdb, neutron).sync("port", "p1", "n1") is None, "there is nothing to delete yet"

    neutron.set("port", port(chassis="h1"))
    neutron.meanwhile = another
    mirror.sync("port", "p1", "n1")
    assert stored(dfdb) == {}


def test_a_state_that_turned_back_meanwhile_is_not_overwritten(dfdb, neutron, mirror):
    neutron.set("port", port(name="a"))
    mirror.sync("port", "p1", "n1")

    def another() -> None:
        neutron.set("port", port(name="a", revision=3))
        assert Mirror(dfdb, neutron).sync("port", "p1", "n1") is None, "the row says so already"

    neutron.set("port", port(name="b", revision=2))
    neutron.meanwhile = another
    mirror.sync("port", "p1", "n1")
    assert stored(dfdb)["net:n1", "LogicalPort", "p1"].name == "a"


def test_one_that_is_always_overtaken_gives_up_and_says_so(dfdb, neutron, mirror):
    neutron.set("port", port())

    def another() -> None:
        neutron.set("port", port(name=str(len(stored(dfdb))), revision=neutron.revision("port", "p1") + 1))
        key = Key("net:n1", "LogicalPort", "p1")
        dfdb.store.commit(Txn((Put(key, encode(msgspec.structs.replace(port(), key=1, name="x"))),)))
        neutron.meanwhile = another

    neutron.meanwhile = another
    with pytest.raises(Conflict):
        mirror.sync("port", "p1", "n1")


def test_workers_that_race_leave_what_neutron_says_and_no_key_twice(dfdb, neutron):
    ids = [f"p{number}" for number in range(6)]

    def work(seed: int) -> None:
        mine = Mirror(dfdb, neutron)
        for turn in range(25):
            name = ids[(seed * 5 + turn * 7) % len(ids)]
            with neutron._lock:
                revision = seed * 1000 + turn + 1
                if (seed + turn) % 3:
                    neutron.rows["port", name] = port(name, revision, chassis=f"h{turn % 3}", generation=revision)
                else:
                    neutron.rows.pop(("port", name), None)
            try:
                mine.sync("port", name, "n1")
            except Conflict:
                pending.add(name)
            except Exception as error:
                failed.append(error)

    pending: set[str] = set()
    failed: list[Exception] = []
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    for name in pending:  # as the journal would
        Mirror(dfdb, neutron).sync("port", name, "n1")
    rows = stored(dfdb)
    ports = {key[2]: row for key, row in rows.items() if key[1] == "LogicalPort"}
    wanted = {name: row.revision for (_, name), row in neutron.rows.items()}
    assert {name: row.revision for name, row in ports.items()} == wanted
    assert len({row.key for row in ports.values()}) == len(ports)
    bindings = {key[2]: row.host for key, row in rows.items() if key[1] == "Binding"}
    assert bindings == {name: row.chassis for name, row in ports.items()}
    owners = {r.key.id for r in dfdb.store.snapshot(["keys:port"]).records if r.key.kind == "KeyOwner"}
    assert owners == set(ports)
