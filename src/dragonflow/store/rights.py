"""Who may write what in the DF DB: a user for each role, and how etcd and Redis are told.

Neutron's servers write nearly everything, a chassis only what it says of itself, so that a host that was broken into can't rewire
others. etcd enforces that for each record. Redis knows no rights to a row, only to a key, and a scope is one key: it keeps
a chassis from Neutron's rows and from what others say of their ports, not from other chassis' rows and leases. SQLite's file is
written by whoever may open it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from dragonflow.model import ALIVE_SCOPE, CHASSIS_SCOPE, LEADER_SCOPE, SERVER_SCOPE, holder_scope, status_scope
from dragonflow.model.rows import Alive, Chassis
from dragonflow.store._etcdkeys import Keys
from dragonflow.store.election import office
from dragonflow.store.protocol import EVERYTHING, Key

BUS_SCOPE = "pubsub"
"""Where processes meet that use a bus of ZeroMQ (``pubsub.zmq``)."""

COMMANDS = "-@all +@read +@write +@pubsub +@scripting +@connection +info +time +wait -keys -flushall -flushdb -swapdb"
"""What every user of Redis needs: the scripts run with the rights of whoever asks for them."""

_SHARED = ("store", "scopes", "graves", "leases", "ttls", "lease:*", "leased")
"""Keys of Redis that every commit, or every lease, changes (see ``redis_lua/head.lua``)."""

_LEASED = (ALIVE_SCOPE, SERVER_SCOPE, LEADER_SCOPE, BUS_SCOPE)
"""Scopes with rows on leases. In Redis whoever comes by ends the leases of the dead, be they whose they may."""


class Role(NamedTuple):
    """What a user may do. ``reads`` and ``writes`` are records, and scopes (with a star at the end, all that begin so)."""

    name: str
    reads: tuple[Key | str, ...]
    writes: tuple[Key | str, ...]


def server_role() -> Role:
    """Neutron's servers, ``dragonflow repair``."""
    return Role("server", (EVERYTHING,), (EVERYTHING,))


def reader_role() -> Role:
    """``dragonflow show`` and whoever else only looks."""
    return Role("reader", (EVERYTHING,), ())


def chassis_role(host: str, *, bus: bool = False) -> Role:
    """The controller of a host; with ``bus``, where messages go by ZeroMQ."""
    own: tuple[Key | str, ...] = (
        Key(CHASSIS_SCOPE, Chassis.__name__, host),
        Key(ALIVE_SCOPE, Alive.__name__, host),
        status_scope(host),
        holder_scope(host),
    )
    return Role(f"chassis-{host}", (EVERYTHING,), (*own, *((BUS_SCOPE,) if bus else ())))


def orchestrator_role(*, bus: bool = False) -> Role:
    """Orchestrators whose ``election`` or ``hints`` name this DF DB. Without these options they need none."""
    own = (office("orchestrator"), *((BUS_SCOPE,) if bus else ()))
    return Role("orchestrator", own, own)


class User(NamedTuple):
    """A role's user and where its password lies."""

    name: str
    password_file: Path
    role: Role


def etcd_commands(prefix: str, users: Iterable[User]) -> Iterator[str]:
    """Lines for a shell that make users and their roles, and may be run again. Passwords are read from their files."""
    for name, password_file, role in users:
        user = shlex.quote(name)
        yield f"etcdctl role get {user} >/dev/null 2>&1 || etcdctl role add {user}"
        for rights, of in _grants(role):
            yield f"etcdctl role grant-permission {user} {rights} {' '.join(map(shlex.quote, _range(prefix, of)))}"
        made = f"etcdctl user add {user} --interactive=false < {shlex.quote(str(password_file))}"
        yield f"etcdctl user get {user} >/dev/null 2>&1 || {made}"
        yield f"etcdctl user grant-role {user} {user}"


def _grants(role: Role) -> Iterator[tuple[str, Key | str]]:
    """For a range etcd keeps the right that was granted last, so both are granted at once."""
    for of in dict.fromkeys((*role.reads, *role.writes)):
        yield "read" * (of in role.reads) + "write" * (of in role.writes), of


def _range(prefix: str, of: Key | str) -> list[str]:
    keys = Keys(prefix)
    if isinstance(of, Key):
        return [keys.encode(of).decode()]
    return ["--prefix=true", keys.range(of)[0].decode()]


def redis_rules(prefix: str, role: Role) -> str:
    """The rules of ``ACL SETUSER`` for a role, but for its password."""
    keys = f"resetkeys ~{_literal(prefix)}*"
    if EVERYTHING not in role.writes:
        scopes = dict.fromkeys(it.scope if isinstance(it, Key) else it for it in role.writes)
        names = [] if not scopes else [*_SHARED, *_places(dict.fromkeys((*scopes, *_LEASED)))]
        read = f"%R~{_literal(prefix)}*"
        keys = " ".join(["resetkeys", read, f"~{_literal(prefix)}", *(f"~{_literal(prefix)}:{name}" for name in names)])
    return f"{keys} resetchannels &{_literal(prefix)}* {COMMANDS}"


def _places(scopes: dict[str, None]) -> Iterator[str]:
    for scope in scopes:
        yield f"rows:{_literal(scope)}"
        yield f"log:{_literal(scope)}"


def _literal(text: str) -> str:
    """A pattern that means nothing but this text."""
    return "".join(f"\\{char}" if char in "*?[]^\\" else char for char in text)
