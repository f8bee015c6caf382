import asyncio
import json
from pathlib import Path

from typer.testing import CliRunner

from dragonflow.cli.main import app
from dragonflow.model import Leader, Row, Server, encode
from dragonflow.store import open_store
from dragonflow.store.protocol import Key, Put, Txn

ROWS: list[Row] = [
    Server(id="net1:100", host="net1", pid=100, since=0.0, version="1"),
    Server(id="net2:200", host="net2", pid=200, since=60.0, version="1"),
    Leader(id="neutron", server="net2:200", since=120.0),
]


def test_the_servers_and_who_leads(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/dfdb.sqlite"

    async def fill() -> None:
        store = open_store(url)
        await store.commit(Txn(tuple(Put(Key(row.scope, type(row).__name__, row.id), encode(row)) for row in ROWS)))
        await store.close()

    asyncio.run(fill())
    result = CliRunner().invoke(app, ["show", "servers", "--store-url", url, "--json"])
    assert result.exit_code == 0, result.output
    first, second = json.loads(result.output)
    assert first == {
        "name": "net1:100",
        "host": "net1",
        "pid": 100,
        "since": "1970-01-01 00:00:00Z",
        "leads": False,
        "leads_since": None,
        "version": "1",
    }
    assert (second["name"], second["leads"], second["leads_since"]) == ("net2:200", True, "1970-01-01 00:02:00Z")
    table = CliRunner().invoke(app, ["show", "servers", "--store-url", url])
    assert "2 servers at revision" in table.output
