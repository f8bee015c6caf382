"""A server that comes up among hundreds of ports of which one in a hundred has a wrong status (`bench/status.py`: of 10,000)."""

from __future__ import annotations

import sqlalchemy as sa
from many import many_ports, say
from region import Region, region, until

from dragonflow.neutron.db import JournalEntry
from dragonflow.neutron.leader import KEY

PORTS = 500
WRONG = PORTS // 100


def catch_up(made: Region, ports: list[str]) -> float:
    """Ports change while the DF DB is away; returns how many a second arrive when it is back."""
    here, away = made.home / "dfdb", made.home / "away"
    network = next(iter({record.key.scope for record in made.records("net:*")})).removeprefix("net:")
    here.rename(away)
    with made.engine.begin() as connection:
        connection.execute(
            sa.update(sa.table("ports", sa.column("id"), sa.column("name")))
            .where(sa.column("id").in_(ports))
            .values(name="changed")
        )
        entries = [{"kind": "port", "object_id": port, "parent": network, "created_at": 0.0} for port in ports]
        connection.execute(sa.insert(JournalEntry.__table__), entries)
    (server,) = [server for server in made.servers if server.process.poll() is None]
    until(lambda: "changes wait in the journal" in server.log.read_text(), what="the outage to be noticed")
    away.rename(here)
    seconds = until(lambda: made.count("df_journal") == 0)
    names = {
        record.key.id: record.data for record in made.records(f"net:{network}") if record.key.kind == "LogicalPort"
    }
    assert all(b'"name":"changed"' in names[port] for port in ports)
    assert server.log.read_text().count("changes wait in the journal") == 1, "an outage is one line"
    return len(ports) / seconds


def test_a_restarted_server_brings_hundreds_of_statuses_in_line_and_writes_only_those_that_are_wrong():
    with region() as made:
        made.start_nova()
        made.chassis("h1", "h2", "h3")
        (server,) = made.start_servers(1)
        ports = many_ports(made, server, PORTS, ["h1", "h2", "h3"], "ACTIVE")
        server.end()
        wrong, right = ports[:WRONG], ports[WRONG:]
        say(made, "DOWN", wrong)
        say(made, "ACTIVE", right)
        with made.engine.begin() as connection:
            connection.exec_driver_sql("SET GLOBAL userstat = 1")
            connection.exec_driver_sql("FLUSH TABLE_STATISTICS")
        until(lambda: made.dfdb.store.get(KEY) is None, 10, "the old leader's lease to end")
        made.start_servers(1)
        until(lambda: made.leader() is not None, 10, "a leader")
        seconds = until(lambda: set(made.statuses(wrong).values()) == {"DOWN"}, 60, "the wrong ones to be right")
        with made.engine.begin() as connection:
            changed = connection.exec_driver_sql(
                "SELECT ROWS_CHANGED FROM information_schema.TABLE_STATISTICS WHERE TABLE_NAME = 'ports'"
            ).scalar_one()
        print(f"{WRONG} of {PORTS} put right {seconds:.1f} s after there was a leader")
        assert changed == WRONG, "each that was wrong was written once, and no other"
        assert seconds < 60.0  # what it takes on a machine of its own, `bench/status.py` measures
        assert set(made.statuses(right).values()) == {"ACTIVE"}
        print(f"after an outage of the DF DB {catch_up(made, right[:300]):.0f} changes a second arrive")
