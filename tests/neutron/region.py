"""One region's server side out of real processes: MariaDB, a DF DB in SQLite, Nova's stand-in, and as many Neutrons as wanted."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from dragonflow.lab.daemon import Daemon
from dragonflow.lab.mariadb import MariaDB
from dragonflow.model import Alive, Chassis, Leader, PortStatus, Row, decode, encode, status_scope
from dragonflow.neutron.dfdb import DfDb
from dragonflow.neutron.leader import KEY
from dragonflow.store.protocol import Key, Put, Record, Txn
from dragonflow.testing import founding

SERVER = Path(__file__).with_name("server.py")
PROJECT = "00000000000000000000000000000001"


def until(condition: Callable[[], object], seconds: float = 90.0, what: str = "it") -> float:
    """Wait; returns how many seconds it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"{what} did not come true within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - began


class Server:
    """A Neutron process. Calls may come from several threads."""

    def __init__(self, conf: Path, log: Path, environment: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self.log = log
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(SERVER), str(conf)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env={**os.environ, "PYTHONWARNINGS": "ignore", **environment},
            )

    @property
    def name(self) -> str:
        """As its row ``Server`` is called."""
        return f"{socket.gethostname()}:{self.process.pid}"

    def wait(self) -> None:
        """Until its threads run."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == '"ready"\n', self.log.read_text()[-3000:]

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the core plugin."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with self._lock:
            self.process.stdin.write(json.dumps([method, *arguments]) + "\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def signal(self, which: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(which)

    def end(self) -> None:
        """SIGKILL, and wait."""
        self.process.kill()
        self.process.wait()


class Region:
    """Made and ended by ``region``."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.mariadb = MariaDB("mariadb", home, home)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.nova_port = free.getsockname()[1]
        self.nova_file = home / "nova.jsonl"
        self.nova_auth: dict[str, str] = {"auth_type": "none", "endpoint": f"http://127.0.0.1:{self.nova_port}/v2.1"}
        self.nova_arguments: list[str] = []
        self.store_url = f"sqlite://{home}/dfdb/dfdb.sqlite"
        (home / "dfdb").mkdir()
        self.options = {"reconcile_period": "2", "repair_rate": "0", "journal_period": "0.5"}
        self.environment: dict[str, str] = {}
        self.places: dict[str, str] = {}  # of many ports: port → host, and the generation of them all
        self.generation = 0
        self.servers: list[Server] = []

    def start(self) -> None:
        self.mariadb.start()
        self.engine = sa.create_engine(self.mariadb.url, pool_pre_ping=True)
        self.dfdb = DfDb(self.store_url, "store")
        self.dfdb.store.call(founding.found)

    # -- processes -----------------------------------------------------------------------------------------------------

    @property
    def nova(self) -> Daemon:
        command = [sys.executable, "-m", "dragonflow.lab.nova", str(self.nova_port), str(self.nova_file)]
        return Daemon("nova", self.home, self.home, [*command, *self.nova_arguments])

    def start_nova(self) -> None:
        self.nova.start()
        until(lambda: self.nova.pid is not None and _listens(self.nova_port), what="Nova's stand-in")

    def start_servers(self, number: int) -> list[Server]:
        """So many more servers, at once."""
        conf = self.home / "neutron.conf"
        sections = {
            "DEFAULT": {
                "core_plugin": "ml2",
                "service_plugins": "",
                "transport_url": "fake://",
                "rpc_workers": "0",
                "enable_traditional_dhcp": "false",
                "state_path": str(self.home),
                "notify_nova_on_port_data_changes": "false",
                "send_events_interval": "1",
                "debug": "false",
            },
            "oslo_concurrency": {"lock_path": str(self.home / "lock")},
            "database": {"connection": self.mariadb.url, "max_pool_size": "20", "max_overflow": "50"},
            "nova": self.nova_auth,
            "ml2": {
                "type_drivers": "geneve",
                "project_network_types": "geneve",
                "mechanism_drivers": "df",
                "extension_drivers": "port_security",
            },
            "ml2_type_geneve": {"vni_ranges": "1:65535", "max_header_size": "38"},
            "quotas": {"quota_port": "-1", "quota_network": "-1"},
            "df": {"store_url": self.store_url, "pubsub_url": f"zmq+ipc://{self.home}/pubsub", **self.options},
        }
        lines = [
            line
            for section, options in sections.items()
            for line in (f"[{section}]", *(f"{name} = {value}" for name, value in options.items()))
        ]
        conf.write_text("\n".join(lines))
        (self.home / "pubsub").mkdir(exist_ok=True)
        new = [Server(conf, self.home / f"server{len(self.servers) + n}.log", self.environment) for n in range(number)]
        self.servers += new
        for server in new:
            server.wait()
        return new

    def leader(self) -> Server | None:
        """Who leads, by the record in the DF DB."""
        record = self.dfdb.store.get(KEY)
        if record is None:
            return None
        row = decode(record.key.kind, record.key.id, record.data or b"")
        assert isinstance(row, Leader)
        return next((server for server in self.servers if server.name == row.server), None)

    def end(self) -> None:
        """Everything that was started."""
        for server in self.servers:
            server.end()
        self.nova.kill()
        if hasattr(self, "dfdb"):
            self.dfdb.close()
            self.engine.dispose()
        self.mariadb.daemon.kill()

    # -- what hosts do -------------------------------------------------------------------------------------------------

    def put(self, *rows: Row, lease: str | None = None) -> None:
        """Write rows, as controllers do, in commits of a hundred."""
        for start in range(0, len(rows), 100):
            some = rows[start : start + 100]
            self.dfdb.store.commit(
                Txn(tuple(Put(Key(row.scope, type(row).__name__, row.id), encode(row), lease) for row in some))
            )

    def chassis(self, *hosts: str, ttl: float | None = None) -> str | None:
        """Live chassis; returns the lease, if they are to stand on one."""
        lease = None if ttl is None else self.dfdb.store.grant_lease(ttl)
        self.put(*(Chassis(id=host, tunnel_ip=f"192.0.2.{number}") for number, host in enumerate(hosts, 1)))
        self.put(*(Alive(id=host, since=time.time()) for host in hosts), lease=lease)
        return lease

    def say(self, status: str, ports: Collection[str], host: str = "h1", *, only_bound: bool = False) -> None:
        """The host says so of these ports, for the generation that its bindings tell.

        With ``only_bound`` it has nothing to say of those that aren't bound to it just now.
        """
        generations = {
            record.key.id: decode(record.key.kind, record.key.id, record.data or b"").generation  # type: ignore[attr-defined]
            for record in self.dfdb.store.snapshot([f"host:{host}"]).records
        }
        if only_bound:
            ports = [port for port in ports if port in generations]
        self.put(
            *(
                PortStatus(
                    id=port, chassis=host, generation=generations[port], status=status, revision=1, at=time.time()
                )
                for port in ports
            )
        )

    def obey(self) -> None:
        """Say of each port that is bound anywhere that it works there."""
        bound: dict[str, list[str]] = {}
        for record in self.dfdb.store.snapshot(["host:*"]).records:
            bound.setdefault(record.key.scope.removeprefix("host:"), []).append(record.key.id)
        for host, ports in bound.items():
            said = {record.key.id for record in self.dfdb.store.snapshot([status_scope(host)]).records}
            self.say("ACTIVE", [port for port in ports if port not in said], host)

    # -- what users see ------------------------------------------------------------------------------------------------

    def network(self, server: Server) -> str:
        network = {"name": "n", "tenant_id": PROJECT, "admin_state_up": True, "shared": False}
        return server.call("create_network", {"network": network})["id"]

    def ports(self, server: Server, network: str, number: int, host: str = "h1") -> list[str]:
        """Ports of VMs, bound, by the core plugin's own method, and in the DF DB."""
        made = []
        for _ in range(number):
            port = server.call(
                "create_port",
                {
                    "port": {
                        "network_id": network,
                        "tenant_id": PROJECT,
                        "admin_state_up": True,
                        "device_id": str(uuid.uuid4()),
                        "device_owner": "compute:nova",
                        "binding:host_id": host,
                        "port_security_enabled": False,
                    }
                },
            )
            assert port["binding:vif_type"] == "ovs", port
            made.append(port["id"])
        wanted = set(made)
        until(
            lambda: wanted <= {record.key.id for record in self.records(f"host:{host}")}, what="bindings in the DF DB"
        )
        return made

    def records(self, *scopes: str) -> tuple[Record, ...]:
        """What the DF DB holds."""
        return self.dfdb.store.snapshot(scopes).records

    def statuses(self, ports: Collection[str] | None = None) -> dict[str, str]:
        """As they stand in Neutron's database."""
        with self.engine.connect() as connection:
            found = dict(connection.execute(sa.text("SELECT id, status FROM ports")).all())
        return found if ports is None else {port: found[port] for port in ports}

    def count(self, table: str) -> int:
        """How many lines a table of Neutron's database has."""
        with self.engine.connect() as connection:
            return int(connection.scalar(sa.select(sa.func.count()).select_from(sa.table(table))) or 0)

    def all_are(self, status: str, ports: Collection[str]) -> bool:
        """Whether these ports have this status."""
        return set(self.statuses(ports).values()) == {status}

    def plugged(self) -> list[str]:
        """The ports of which Nova was told that they are plugged."""
        if not self.nova_file.exists():
            return []
        events = [json.loads(line) for line in self.nova_file.read_text().splitlines()]
        assert all(event["checked"] for event in events), "Nova's schema was not at hand"
        return [event["tag"] for event in events if event["name"] == "network-vif-plugged"]

    def refused(self) -> list[dict[str, Any]]:
        """What Nova refused."""
        file = self.nova_file.with_name(self.nova_file.name + ".refused")
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def region() -> Iterator[Region]:
    """A region that runs its databases, and nothing else yet."""
    home = Path(tempfile.mkdtemp(prefix="df-region-"))
    home.chmod(0o755)
    made = Region(home)
    try:
        made.start()
        yield made
    finally:
        made.end()
        if "DRAGONFLOW_KEEP" not in os.environ:
            shutil.rmtree(home, ignore_errors=True)
