"""The DF DB of a region on real etcd servers: one, or a cluster, on loopback ports, with TLS and users where asked for.

Everything lies in one directory; a cluster that is built anew on it (by the next command) finds its ports, certificates,
passwords and data there. Ports are taken from below the range of outgoing connections, so that nobody gets a stopped member's.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from dragonflow import secrecy
from dragonflow.lab.certificates import Certificates
from dragonflow.lab.daemon import Daemon
from dragonflow.lab.process import Server
from dragonflow.lab.system import LabError, run, wait_until

ADDRESS = "127.0.0.1"
PREFIX = "dragonflow"
USER = "dragonflow"
"""The user in ``url`` where the cluster asks for one: it may read and write all below ``/PREFIX/``."""

START_TIMEOUT = 60.0
_PORTS = range(20_000, 32_000)


class EtcdMember(Server):
    """One etcd server of a cluster: a ``Process`` that can be killed, stopped and started again."""

    def __init__(self, cluster: EtcdCluster, name: str, home: Path, ports: tuple[int, int]) -> None:
        self._cluster = cluster
        self.name = name
        self.endpoint = f"{ADDRESS}:{ports[0]}"
        self.peer = f"{ADDRESS}:{ports[1]}"
        self.data = cluster.directory / name
        super().__init__(Daemon(name, home, cluster.directory, cluster._command(self)), self._start)

    def _start(self) -> None:
        """Start it on the data it had; returns when it serves, or at once while too few members run for that."""
        self.daemon.start()
        if self._cluster.has_quorum():
            wait_until(self.serves, f"{self.name} to serve", START_TIMEOUT, 0.05)

    def serves(self) -> bool:
        """Whether it answers, and knows a leader. :raises LabError: it has ended."""
        self.daemon.expect_alive()
        with contextlib.suppress(LabError):
            return bool(self.status().get("leader"))
        return False

    def status(self) -> dict[str, Any]:
        """What it says of itself. :raises LabError: it doesn't answer."""
        answer = self._cluster.ctl("endpoint", "status", "--write-out=json", endpoints=self.endpoint)
        status: dict[str, Any] = msgspec.json.decode(answer)[0]["Status"]
        return status


class EtcdCluster:
    """etcd servers in ``directory``; nothing runs before ``start``, and nothing is written before ``make``.

    ``name`` begins the members' names: ``etcd1`` to ``etcd<size>``. ``ports`` are two for each member, for clients and for its
    peers; without them free ones are found. ``options`` are further ones of etcd's command line, without their dashes.
    """

    def __init__(
        self,
        home: Path,
        directory: Path,
        size: int = 3,
        *,
        ports: Sequence[int] | None = None,
        tls: bool = False,
        auth: bool = False,
        name: str = "etcd",
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.directory, self.tls, self.auth = directory, tls, auth
        self.certificates = Certificates.at(directory / "tls")
        self._options = dict(options or {})
        found = self._ports(2 * size, ports)
        names = [f"{name}{number}" for number in range(1, size + 1)]
        self._peers = dict(zip(names, found[size:], strict=True))
        self.members = {
            each: EtcdMember(self, each, home, (port, self._peers[each]))
            for each, port in zip(names, found, strict=False)
        }
        self.processes: dict[str, EtcdMember] = self.members

    # -- life ----------------------------------------------------------------------------------------------------------

    def make(self) -> None:
        """Write what the servers need before their first start. What is there stays."""
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "ports.json").write_bytes(msgspec.json.encode(self._found))
        if self.tls:
            Certificates.make(self.certificates.ca.parent)
        if self.auth:
            for user in ("root", USER):
                if not self.password_file(user).exists():
                    secrecy.write(self.password_file(user), secrets.token_urlsafe(18).encode())

    def start(self) -> None:
        """Start all members on the data they had; returns when each serves. The first time, users and roles are made."""
        for member in self.members.values():
            member.daemon.start()
        for member in self.members.values():
            wait_until(member.serves, f"{member.name} to serve", START_TIMEOUT, 0.05)
        if self.auth and not self._users_made.exists():
            self._make_users()

    def stop(self) -> None:
        """SIGTERM to all."""
        for member in self.members.values():
            member.stop()

    def kill(self) -> None:
        """SIGKILL to all."""
        for member in self.members.values():
            member.kill()

    def wipe(self) -> None:
        """Kill all, and forget all data; ports, certificates and passwords stay."""
        self.kill()
        for member in self.members.values():
            shutil.rmtree(member.data, ignore_errors=True)

    # -- what tests and the lab ask ------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """For ``[df] store_url``."""
        return self.url_of(USER)

    def url_of(self, user: str, prefix: str = PREFIX) -> str:
        """The URL for one of its users (ignored where it has none) and a prefix of keys."""
        endpoints = ",".join(member.endpoint for member in self.members.values())
        query = {}
        if self.auth:
            query["password_file"] = str(self.password_file(user))
        if self.tls:
            query["ca"] = str(self.certificates.ca)
        at = f"{quote(user, safe='')}@" if self.auth else ""
        options = f"?{urlencode(query, safe='/')}" if query else ""
        return f"etcd{'+tls' if self.tls else ''}://{at}{endpoints}/{quote(prefix, safe='')}{options}"

    def password_file(self, user: str) -> Path:
        """Where the password of a user lies."""
        return self.directory / f"{user}.password"

    def has_quorum(self) -> bool:
        """Whether enough members run to elect a leader."""
        return sum(member.pid is not None for member in self.members.values()) > len(self.members) // 2

    def leader(self) -> EtcdMember:
        """The member that leads now. :raises LabError: none does, or the cluster does not answer."""
        for member in self.members.values():
            if member.pid is None:
                continue
            with contextlib.suppress(LabError):
                status = member.status()
                if status.get("leader") == status["header"]["member_id"]:
                    return member
        raise LabError(f"no member of the etcd cluster in {self.directory} leads")

    def ctl(self, *command: str, endpoints: str | None = None, stdin: str | None = None, timeout: float = 5.0) -> str:
        """Run etcdctl as root on these endpoints, or on those of all members that run. :raises LabError: as it says."""
        options = [f"--command-timeout={timeout:g}s", f"--dial-timeout={timeout:g}s"]
        return run(["etcdctl", *options, *command], env=self.environment(endpoints), stdin=stdin, timeout=timeout + 10)

    def environment(self, endpoints: str | None = None) -> dict[str, str]:
        """With which etcdctl is root on these endpoints, or on those of all members that run."""
        running = [member.endpoint for member in self.members.values() if member.pid is not None]
        env = {"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": endpoints or ",".join(running)}
        if self.tls:
            env["ETCDCTL_CACERT"] = str(self.certificates.ca)
            env |= {"ETCDCTL_CERT": str(self.certificates.cert), "ETCDCTL_KEY": str(self.certificates.key)}
        if self.auth and self._users_made.exists():
            env["ETCDCTL_USER"] = f"root:{self.password_file('root').read_text()}"
        return env

    def add_user(self, user: str, *grants: tuple[str, str, str]) -> str:
        """A user whose role of the same name has these grants (``read``, ``write`` or ``readwrite``; key; end, or '' for the key
        alone); returns its URL. :raises LabError: as etcdctl says.
        """
        path = secrecy.write(self.password_file(user), secrets.token_urlsafe(18).encode())
        self.ctl("role", "add", user)
        for rights, key, end in grants:
            self.ctl("role", "grant-permission", user, rights, key, *([end] if end else []))
        self.ctl("user", "add", user, "--interactive=false", stdin=path.read_text() + "\n")
        self.ctl("user", "grant-role", user, user)
        return self.url_of(user)

    # -- within --------------------------------------------------------------------------------------------------------

    @property
    def _users_made(self) -> Path:
        return self.directory / "users.made"

    def _make_users(self) -> None:
        root = self.password_file("root").read_text()
        self.ctl("user", "add", "root", "--interactive=false", stdin=root + "\n")
        self.ctl("user", "grant-role", "root", "root")
        self.add_user(USER, ("readwrite", f"/{PREFIX}", f"/{PREFIX}0"))  # 0 comes after /: also /PREFIX-test/…
        self.ctl("auth", "enable")
        self._users_made.touch()

    def _ports(self, count: int, given: Sequence[int] | None) -> list[int]:
        with contextlib.suppress(FileNotFoundError):
            kept = msgspec.json.decode((self.directory / "ports.json").read_bytes(), type=list[int])
            if given is None or list(given) == kept:
                self._found = kept
                return kept
        self._found = list(given) if given is not None else free_ports(count)
        if len(self._found) != count:
            raise LabError(f"etcd: {count // 2} members need {count} ports, not {len(self._found)}")
        return self._found

    def _command(self, member: EtcdMember) -> list[str]:
        scheme = "https" if self.tls else "http"
        options = {
            "name": member.name,
            "data-dir": str(member.data),
            "listen-client-urls": f"{scheme}://{member.endpoint}",
            "advertise-client-urls": f"{scheme}://{member.endpoint}",
            "listen-peer-urls": f"{scheme}://{member.peer}",
            "initial-advertise-peer-urls": f"{scheme}://{member.peer}",
            "initial-cluster": ",".join(f"{name}={scheme}://{ADDRESS}:{port}" for name, port in self._peers.items()),
            "initial-cluster-token": str(self.directory),
            "auto-compaction-mode": "revision",
            "auto-compaction-retention": "20000",
            "bcrypt-cost": "4",  # a lab's passwords are random; each check would cost 60 ms
            "logger": "zap",
            "log-outputs": "stderr",
            "log-level": "warn",
        }
        if self.tls:
            tls = self.certificates
            files = {"cert-file": str(tls.cert), "key-file": str(tls.key)}
            options |= files | {f"peer-{option}": path for option, path in files.items()}
            options |= {"peer-trusted-ca-file": str(tls.ca), "peer-client-cert-auth": "true"}
        return ["etcd", *(f"--{option}={value}" for option, value in (options | self._options).items())]


def free_ports(count: int) -> list[int]:
    """Loopback TCP ports that nobody has now, from below the range of outgoing connections."""
    with contextlib.ExitStack() as held:
        found: list[int] = []
        for port in random.sample(_PORTS, len(_PORTS)):
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind((ADDRESS, port))
                found.append(port)
            if len(found) == count:
                return found
    raise LabError(f"no {count} free TCP ports from {_PORTS.start} to {_PORTS.stop}")
