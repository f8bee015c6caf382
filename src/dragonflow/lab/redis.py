"""The DF DB or the bus of a region on real Redis servers: one, or a master with replicas under Sentinels, on loopback ports.

Everything lies in one directory; servers that are built anew on it (by the next command) find their ports, certificates,
passwords and data there. Persistence is on (AOF). Who is master is written by Redis itself into the configuration files, so
a member that is started again comes back in the role it had, or as the replica that the Sentinels make of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self
from urllib.parse import quote, urlencode

import msgspec

from dragonflow import secrecy
from dragonflow.lab.certificates import Certificates
from dragonflow.lab.daemon import Daemon
from dragonflow.lab.etcd import ADDRESS, free_ports
from dragonflow.lab.process import Server
from dragonflow.lab.system import LabError, run, wait_until
from dragonflow.store.redis_client import PREFIX
from dragonflow.store.rights import redis_rules, server_role

MASTER = "dragonflow"
"""What the Sentinels call the group of servers."""

USER = "dragonflow"
"""The user in ``url`` where the servers ask for one: one of Neutron's servers, as ``store.rights`` has it."""

DOWN_AFTER = 0.5
"""Seconds of silence after which a Sentinel takes a server for dead. Production wants some seconds more."""

START_TIMEOUT = 60.0


class RedisMember(Server):
    """One server, or one Sentinel: a ``Process`` that can be killed, stopped and started again."""

    def __init__(self, servers: RedisServers, name: str, home: Path, port: int, sentinel: bool) -> None:
        self._servers = servers
        self.name, self.port, self.sentinel = name, port, sentinel
        self.endpoint = f"{ADDRESS}:{port}"
        self.data = servers.directory / name
        self.config = servers.directory / f"{name}.conf"
        mode = ["--sentinel"] if sentinel else []
        super().__init__(Daemon(name, home, servers.directory, ["redis-server", str(self.config), *mode]), self._start)

    def _start(self) -> None:
        """Start it on the data and in the role it had; returns when it answers, its data being loaded."""
        self.daemon.start()
        wait_until(self.answers, f"{self.name} to answer", START_TIMEOUT)

    def answers(self) -> bool:
        """Whether it answers and has loaded its data. :raises LabError: it has ended."""
        self.daemon.expect_alive()
        with contextlib.suppress(LabError):
            return self.ctl("PING").strip() == "PONG"
        return False

    def info(self, section: str) -> dict[str, str]:
        """A section of INFO. :raises LabError: it doesn't answer."""
        lines = (line.partition(":") for line in self.ctl("INFO", section).splitlines() if ":" in line)
        return {name: value.strip() for name, _, value in lines}

    def ctl(self, *command: str, timeout: float = 5.0) -> str:
        """Run a command as the server's own administrator. :raises LabError: as Redis says."""
        return self._servers.ctl(self, *command, timeout=timeout)


class RedisServers:
    """Redis in ``directory``: ``size`` servers, of which one is the master, under ``sentinels`` Sentinels.

    Nothing runs before ``start``, and nothing is written before ``make``. ``name`` begins the servers' names: ``redis-1`` and
    on. ``ports`` are those of the servers, then of the Sentinels; without them free ones are found. ``options`` are further
    lines of the servers' configuration.
    """

    def __init__(
        self,
        home: Path,
        directory: Path,
        size: int = 3,
        sentinels: int = 3,
        *,
        ports: Sequence[int] | None = None,
        tls: bool = False,
        auth: bool = False,
        name: str = "redis",
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.directory, self.tls, self.auth = directory, tls, auth
        self.certificates = Certificates.at(directory / "tls")
        self._options = dict(options or {})
        self.ports = self._find_ports(size + sentinels, ports)
        self.servers = [
            RedisMember(self, f"{name}-{number}", home, port, sentinel=False)
            for number, port in enumerate(self.ports[:size], 1)
        ]
        self.sentinels = [
            RedisMember(self, f"{name}-sentinel-{number}", home, port, sentinel=True)
            for number, port in enumerate(self.ports[size:], 1)
        ]
        self.processes: dict[str, RedisMember] = {each.name: each for each in (*self.servers, *self.sentinels)}

    # -- life ----------------------------------------------------------------------------------------------------------

    def make(self) -> None:
        """Write what the servers need before their first start. What is there stays, for Redis has written on it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "ports.json").write_bytes(msgspec.json.encode(self.ports))
        if self.tls:
            Certificates.make(self.certificates.ca.parent)
        if self.auth:
            for user in ("default", USER):
                if not self.password_file(user).exists():
                    secrecy.write(self.password_file(user), secrets.token_urlsafe(18).encode())
        for member in self.processes.values():
            member.data.mkdir(parents=True, exist_ok=True)
            if not member.config.exists():
                lines = self._sentinel_lines(member) if member.sentinel else self._server_lines(member)
                secrecy.write(member.config, "".join(f"{line}\n" for line in lines).encode())

    def start(self) -> None:
        """Start what doesn't run, on the data it had; returns when there is a master, and replicas and Sentinels follow it."""
        for member in self.processes.values():
            member.daemon.start()
        wait_until(self.is_whole, f"the Redis servers in {self.directory} to find each other", START_TIMEOUT, 0.05)

    def stop(self) -> None:
        """SIGTERM to all, the Sentinels first, for they would make another server the master."""
        for member in (*self.sentinels, *self.servers):
            member.stop()

    def kill(self) -> None:
        """SIGKILL to all."""
        for member in (*self.sentinels, *self.servers):
            member.kill()

    def __enter__(self) -> Self:
        """Make and start them."""
        self.make()
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        """Kill them."""
        self.kill()

    def wipe(self) -> None:
        """Kill all, and forget all data and roles; ports, certificates and passwords stay."""
        self.kill()
        for member in self.processes.values():
            shutil.rmtree(member.data, ignore_errors=True)
            member.config.unlink(missing_ok=True)
        self.make()

    # -- what tests and the lab ask ------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """For ``[df] store_url`` and ``[df] pubsub_url``."""
        return self.url_of(USER)

    def url_of(self, user: str, **options: str) -> str:
        """The URL for one of its users (ignored where it has none), with further options in its query."""
        query = dict(options)
        if self.auth:
            query["password_file"] = str(self.password_file(user))
        if self.tls:
            query |= {"ca": str(self.certificates.ca)}
        at = f"{quote(user, safe='')}@" if self.auth else ""
        tail = f"?{urlencode(query, safe='/')}" if query else ""
        if self.sentinels:
            endpoints = ",".join(member.endpoint for member in self.sentinels)
            return f"redis+sentinel{'+tls' if self.tls else ''}://{at}{endpoints}/{MASTER}{tail}"
        return f"redis{'+tls' if self.tls else ''}://{at}{self.servers[0].endpoint}{tail}"

    def password_file(self, user: str) -> Path:
        """Where the password of a user lies."""
        return self.directory / f"{user}.password"

    def master(self) -> RedisMember:
        """The server that is master now: for its replicas, if several say so. :raises LabError: none is."""
        found = self._masters(self.servers)
        if not found:
            raise LabError(f"none of the Redis servers in {self.directory} is master")
        return self.processes[max(found, key=lambda name: found[name])]

    def first(self) -> str | None:
        """The name of the master; None if there is none."""
        with contextlib.suppress(LabError):
            return self.master().name
        return None

    def is_whole(self) -> bool:
        """Whether every server and Sentinel answers, all replicas follow one master, and all Sentinels know of it.

        :raises LabError: one of them has ended.
        """
        if not all(member.answers() for member in self.processes.values()):
            return False
        with contextlib.suppress(LabError):
            infos = {member.endpoint: member.info("replication") for member in self.servers}
            masters = [endpoint for endpoint, info in infos.items() if info["role"] == "master"]
            replicas = [info for info in infos.values() if info["role"] != "master"]
            return (
                len(masters) == 1
                and all(info["master_link_status"] == "up" for info in replicas)
                and all(self._knows(sentinel, masters[0], len(replicas)) for sentinel in self.sentinels)
            )
        return False

    def wait_for_another_master(self, than: RedisMember, timeout: float = 30.0) -> RedisMember:
        """Wait until the Sentinels have made another server the master, and a replica, if there is a third, follows it.

        :raises TimedOut: they have not.
        """
        others = [
            member for member in self.servers if member is not than
        ]  # that one may hang, and so might who asks it
        found: dict[str, int] = {}

        def another() -> bool:
            found.update(self._masters(others))
            return any(found.values()) or (bool(found) and len(others) == 1)

        wait_until(another, f"another master than {than.name}", timeout, 0.05)
        return self.processes[max(found, key=lambda name: found[name])]

    def ctl(self, member: RedisMember, *command: str, timeout: float = 5.0) -> str:
        """Run redis-cli on a member as its administrator. :raises LabError: as Redis says."""
        options, env = ["-h", ADDRESS, "-p", str(member.port), "-e"], {}
        if self.tls:
            options += ["--tls", "--cacert", str(self.certificates.ca)]
        if self.auth and not member.sentinel:
            env["REDISCLI_AUTH"] = self.password_file("default").read_text()
        return run(["redis-cli", *options, *command], env=env, timeout=timeout)

    # -- within --------------------------------------------------------------------------------------------------------

    def _masters(self, members: Iterable[RedisMember]) -> dict[str, int]:
        """Those that say they are master, by name, and how many replicas follow each."""
        found: dict[str, int] = {}
        for member in members:
            if member.pid is not None:
                with contextlib.suppress(LabError):
                    info = member.info("replication")
                    if info["role"] == "master":
                        found[member.name] = int(info["connected_slaves"])
        return found

    def _knows(self, sentinel: RedisMember, master: str, replicas: int) -> bool:
        lines = sentinel.ctl("SENTINEL", "MASTER", MASTER).splitlines()
        facts = dict(zip(lines[::2], lines[1::2], strict=False))
        return (
            f"{facts['ip']}:{facts['port']}" == master
            and facts["flags"] == "master"
            and int(facts["num-slaves"]) == replicas
            and int(facts["num-other-sentinels"]) == len(self.sentinels) - 1
        )

    def _find_ports(self, count: int, given: Sequence[int] | None) -> list[int]:
        if given is not None:
            if len(given) != count:
                raise LabError(f"Redis: {count} servers and Sentinels need {count} ports, not {len(given)}")
            return list(given)
        with contextlib.suppress(FileNotFoundError):
            kept = msgspec.json.decode((self.directory / "ports.json").read_bytes(), type=list[int])
            if len(kept) == count:
                return kept
        return free_ports(count)

    def _listen_lines(self, member: RedisMember) -> list[str]:
        lines = [f"bind {ADDRESS}", f"dir {member.data}", "protected-mode no"]
        if not self.tls:
            return [*lines, f"port {member.port}"]
        tls = self.certificates
        return [
            *lines,
            "port 0",
            f"tls-port {member.port}",
            f"tls-ca-cert-file {tls.ca}",
            f"tls-cert-file {tls.cert}",
            f"tls-key-file {tls.key}",
            "tls-auth-clients optional",
            "tls-replication yes",
        ]

    def _server_lines(self, member: RedisMember) -> list[str]:
        first = self.servers[0]
        lines = [
            *self._listen_lines(member),
            "appendonly yes",
            'save ""',
            "maxmemory-policy noeviction",
            "repl-diskless-sync-delay 0",
            "repl-ping-replica-period 1",
            "repl-timeout 10",
            "replica-ignore-disk-write-errors yes",
        ]
        if len(self.servers) > 1:
            lines += ["min-replicas-to-write 1", "min-replicas-max-lag 3"]
        if member is not first:
            lines.append(f"replicaof {ADDRESS} {first.port}")
        if self.auth:
            administrator = self.password_file("default").read_text()
            lines += [
                f"requirepass {administrator}",
                f"masterauth {administrator}",
                f"user {USER} on >{self.password_file(USER).read_text()} {redis_rules(PREFIX, server_role())}",
            ]
        return [*lines, *(f"{name} {value}" for name, value in self._options.items())]

    def _sentinel_lines(self, member: RedisMember) -> list[str]:
        quorum = len(self.sentinels) // 2 + 1
        lines = [
            *self._listen_lines(member),
            f"sentinel monitor {MASTER} {ADDRESS} {self.servers[0].port} {quorum}",
            f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER * 1000:.0f}",
            f"sentinel failover-timeout {MASTER} 5000",
            # or a Sentinel finds them with its next INFO, after 10 s, and the other Sentinels by what they say every 2 s
            *(f"sentinel known-replica {MASTER} {ADDRESS} {replica.port}" for replica in self.servers[1:]),
            f"sentinel myid {_identity(member)}",
            *(
                f"sentinel known-sentinel {MASTER} {ADDRESS} {other.port} {_identity(other)}"
                for other in self.sentinels
                if other is not member
            ),
        ]
        if self.auth:
            lines.append(f"sentinel auth-pass {MASTER} {self.password_file('default').read_text()}")
        return lines


def _identity(sentinel: RedisMember) -> str:
    """By which Sentinels know each other: 40 hexadecimal digits."""
    return hashlib.sha1(str(sentinel.config).encode(), usedforsecurity=False).hexdigest()
