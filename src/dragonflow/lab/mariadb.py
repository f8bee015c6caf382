"""The SQL database of one region's Neutron: a private MariaDB, reached by a Unix socket alone.

Making the schema takes a quarter of a minute, so a finished data directory is kept in /var/cache and copied. Its name holds a
digest of all it depends on: Neutron, MariaDB, our own migrations and this file.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from dragonflow.lab.daemon import Daemon, end_all, marked
from dragonflow.lab.system import LabError, run, wait_until

CACHE = Path("/var/cache/dragonflow-lab")
DATABASE = "neutron"
USER = "mysql"

# A lab's data outlives a killed server (log written at commit), but not the machine (never flushed to disk).
_OPTIONS = (
    "--no-defaults",
    f"--user={USER}",
    "--skip-networking",
    "--skip-log-bin",
    "--skip-name-resolve",
    "--max-connections=300",
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-flush-method=nosync",
    "--innodb-doublewrite=0",
    "--innodb-log-file-size=16M",
    "--innodb-buffer-pool-size=64M",
    "--innodb-autoextend-increment=4",
    "--character-set-server=utf8mb3",
    "--collation-server=utf8mb3_general_ci",
)


class MariaDB:
    """mariadbd in a directory; its account root needs no password, and the socket lies in the data directory."""

    def __init__(self, name: str, home: Path, directory: Path) -> None:
        self.data = directory / "mariadb"
        self.socket = self.data / "sock"
        command = ("mariadbd", *_OPTIONS, f"--datadir={self.data}", f"--socket={self.socket}")
        self.daemon = Daemon(name, home, directory, [*command, f"--pid-file={self.data / 'pid'}"])

    @property
    def url(self) -> str:
        """For SQLAlchemy."""
        return f"mysql+pymysql://root@localhost/{DATABASE}?unix_socket={self.socket}&charset=utf8mb4"

    def start(self) -> None:
        """Start it on the data that are there, or on a fresh Neutron schema; returns when it answers."""
        if not self.data.exists():
            _copy_template(self.data)
        self._serve()

    def _serve(self) -> None:
        self.daemon.start()
        wait_until(self._answers, f"{self.daemon.name} to answer", 60)

    def _answers(self) -> bool:
        self.daemon.expect_alive()
        try:
            self.execute("SELECT 1")
        except LabError:
            return False
        return True

    def execute(self, sql: str) -> str:
        """Run SQL as root; returns tab-separated lines without a head."""
        return run(["mariadb", "--no-defaults", "-uroot", f"--socket={self.socket}", "-BN", "-e", sql])


def _copy_template(target: Path) -> None:
    """Copy the data directory of a fresh Neutron; it is made if this machine has none for these versions."""
    CACHE.mkdir(parents=True, exist_ok=True)
    wanted = CACHE / f"mariadb-{_digest()}"
    with _locked(CACHE / "lock"):
        if not wanted.exists():
            work = CACHE / "making"
            end_all(marked(work))  # one that was killed at this left its server running
            for stale in (work, *CACHE.glob("mariadb-*")):
                shutil.rmtree(stale, ignore_errors=True)
            work.mkdir()
            _make(work).rename(wanted)
            shutil.rmtree(work)
        shutil.copytree(wanted, target, copy_function=shutil.copyfile)
    run(["chown", "-R", f"{USER}:", str(target)])


def _make(work: Path) -> Path:
    run(["chown", f"{USER}:", str(work)])
    server = MariaDB("mariadb", work, work)
    options = ("--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve")
    run(["mariadb-install-db", "--no-defaults", f"--user={USER}", f"--datadir={server.data}", *options], timeout=120)
    try:
        server._serve()
        server.execute(f"CREATE DATABASE {DATABASE}")
        config = work / "neutron.conf"
        config.write_text(f"[database]\nconnection = {server.url}\n")
        migrate = Path(sys.executable).with_name("neutron-db-manage")
        run([str(migrate), "--config-file", str(config), "upgrade", "heads"], timeout=300)
    finally:
        server.daemon.stop()
    return server.data


def _digest() -> str:
    digest = hashlib.sha256()
    digest.update(f"{version('neutron')} {sys.version} {run(['mariadbd', '--version'])}".encode())
    digest.update(Path(__file__).read_bytes())
    for file in sorted(_migrations().rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _migrations() -> Path:
    spec = find_spec("dragonflow.neutron")
    if spec is None or not spec.submodule_search_locations:
        raise LabError("the package dragonflow.neutron is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / "db"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that ends with the process."""
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
