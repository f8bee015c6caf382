"""``dragonflow db`` has the servers of the DF DB let each role do its own, and no more."""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import shlex
from pathlib import Path
from typing import Annotated

import typer

from dragonflow import secrecy
from dragonflow.cli.common import ConfigFiles, StoreUrl, fail, store_url
from dragonflow.store import open_store
from dragonflow.store._url import ServerUrl, read_password
from dragonflow.store.protocol import StoreError
from dragonflow.store.redis_client import RedisUrl
from dragonflow.store.rights import (
    Role,
    User,
    chassis_role,
    etcd_commands,
    orchestrator_role,
    reader_role,
    redis_rules,
    server_role,
)

app = typer.Typer(no_args_is_help=True, help="Users and rights in the DF DB.")


@app.callback()
def _db() -> None:
    pass


@app.command("roles")
def roles(
    passwords: Annotated[
        Path, typer.Option(help="Directory for the users' passwords; files that are missing are made (mode 0600).")
    ],
    *,
    chassis: Annotated[list[str] | None, typer.Option(help="A host (its [df] host). May be repeated.")] = None,
    server: Annotated[bool, typer.Option("--server", help="Neutron's servers.")] = False,
    reader: Annotated[bool, typer.Option("--reader", help="One who only looks.")] = False,
    orchestrator: Annotated[
        bool, typer.Option("--orchestrator", help="Orchestrators whose election or hints name this DF DB.")
    ] = False,
    bus: Annotated[bool, typer.Option("--bus", help="They meet here for a bus of ZeroMQ, too.")] = False,
    config_file: ConfigFiles = None,
    store: StoreUrl = None,
) -> None:
    """Print what makes a user for each role. It holds no password, and may be run again.

    As the servers' administrator, with etcd: dragonflow db roles … | sh, with Redis: dragonflow db roles … | redis-cli
    """
    wanted = [chassis_role(host, bus=bus) for host in chassis or ()]
    wanted += [server_role()] * server + [reader_role()] * reader + [orchestrator_role(bus=bus)] * orchestrator
    if not wanted:
        raise fail("say for whom: --server, --chassis HOST, --reader, --orchestrator")
    url = store_url(config_file, store)
    try:
        servers, prefix = _where(url)
        users = [_user(role, prefix, passwords.absolute()) for role in wanted]
        lines = etcd_commands(prefix, users) if servers == "etcd" else (_set_user(user, prefix) for user in users)
        said = "\n".join(lines)
    except (StoreError, ValueError) as error:
        raise fail(str(error)) from error
    except OSError as error:
        raise fail(f"{error.filename}: {error.strerror}") from error
    typer.echo(said)


def _where(url: str) -> tuple[str, str]:
    """Whose servers the DF DB is on, and with what all its keys begin. :raises ValueError, UnknownStore: it is on none."""
    open_store(url)  # refuses what is no URL
    match url.partition("://")[0].partition("+")[0]:
        case "etcd":
            return "etcd", ServerUrl.parse(url, form="", tls=True).path
        case "redis":
            return "redis", RedisUrl.parse(url).prefix
    raise ValueError(f"{secrecy.masked(url)} has no users: whoever may open it may write it")


def _user(role: Role, prefix: str, passwords: Path) -> User:
    """The role's user; its password is made if there is none. :raises OSError, Unavailable: it can't be, or can't be read."""
    name = f"{re.sub(r'[^a-zA-Z0-9_.-]', '', prefix) or 'dragonflow'}-{role.name}"
    file = passwords / f"{name.replace('/', '%2F')}.password"
    passwords.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        secrecy.write(file, f"{secrets.token_urlsafe(24)}\n".encode(), fresh=True)
    read_password(file)
    return User(name, file, role)


def _set_user(user: User, prefix: str) -> str:
    proof = hashlib.sha256(read_password(user.password_file).encode()).hexdigest()
    rules = ["reset", "on", f"#{proof}", *redis_rules(prefix, user.role).split()]
    return " ".join(["ACL SETUSER", *map(shlex.quote, (user.name, *rules))])
