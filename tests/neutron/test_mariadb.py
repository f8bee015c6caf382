"""On the SQL database of production: the migrations, and workers that race for the journal and are killed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from dragonflow.lab.mariadb import MariaDB
from dragonflow.model import decode
from dragonflow.neutron.db import JournalEntry, PortGeneration
from dragonflow.neutron.db.clock import Now
from dragonflow.neutron.dfdb import DfDb

WORKER = Path(__file__).with_name("journal_worker.py")
OBJECTS = 100


@pytest.fixture(scope="module")
def engine() -> Iterator[sa.Engine]:
    home = Path(tempfile.mkdtemp(prefix="df-mariadb-"))
    home.chmod(0o755)
    server = MariaDB("mariadb", home, home)
    server.start()
    try:
        engine = sa.create_engine(server.url)
        yield engine
        engine.dispose()
    finally:
        server.daemon.stop()
        shutil.rmtree(home)


def test_the_migrations_make_the_tables_that_the_models_say(engine):
    found = sa.inspect(engine)
    for model in (JournalEntry, PortGeneration):
        table = model.__table__
        columns = {column["name"]: column for column in found.get_columns(table.name)}
        assert columns.keys() == {column.name for column in table.columns}
        for column in table.columns:
            made = columns[column.name]
            assert made["nullable"] == column.nullable, column
            assert made["type"]._type_affinity is column.type._type_affinity, column
            assert getattr(made["type"], "length", None) == getattr(column.type, "length", None), column
        assert found.get_pk_constraint(table.name)["constrained_columns"] == [c.name for c in table.primary_key]
    (key,) = found.get_foreign_keys("df_port_generations")
    assert (key["referred_table"], key["options"]) == ("ports", {"ondelete": "CASCADE"})


@pytest.mark.parametrize("time_zone", ["+00:00", "+05:30"])
def test_the_database_says_what_time_it_is(engine, time_zone):
    with engine.connect() as connection:
        connection.exec_driver_sql(f"SET time_zone = '{time_zone}'")
        before = time.time()
        now = connection.scalar(sa.select(Now()))
        assert before - 0.001 <= now <= time.time()


def test_workers_that_race_and_one_that_is_killed_write_everything_once(engine, tmp_path):
    """Three entries per object, three processes; one, whose clock is an hour ahead, is killed while it holds claims."""
    ids = [f"00000000-0000-0000-0000-{number:012d}" for number in range(OBJECTS)]
    entries = [{"kind": "network", "object_id": name, "parent": name, "created_at": 0.0} for name in ids * 3]
    with engine.begin() as connection:
        connection.execute(sa.insert(JournalEntry.__table__), entries)
    store = f"sqlite://{tmp_path}/dfdb.sqlite"
    sql = engine.url.render_as_string(hide_password=False)
    command = [sys.executable, str(WORKER), sql, store, "1.0"]
    workers = [
        subprocess.Popen([*command, clock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for clock in ("3600", "0", "0")
    ]
    dfdb = DfDb(store, "store")

    def begin(worker: subprocess.Popen[str]) -> None:
        print("go", file=worker.stdin, flush=True)

    def written(share: float) -> None:
        deadline = time.monotonic() + 60
        while len(dfdb.store.snapshot(["net:*"]).records) < OBJECTS * share:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        begin(workers[0])
        written(0.1)  # so it certainly has claims
        for worker in workers[1:]:
            begin(worker)
        written(0.3)
        workers[0].kill()
        for worker in workers[1:]:
            assert worker.wait(60) == 0
        records = dfdb.store.snapshot(["net:*"]).records
        rows = [decode(record.key.kind, record.key.id, record.data) for record in records]
        assert {row.id for row in rows} == set(ids)
        assert len({row.key for row in rows}) == OBJECTS
        with engine.connect() as connection:
            assert connection.scalar(sa.select(sa.func.count()).select_from(JournalEntry)) == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
        dfdb.close()
