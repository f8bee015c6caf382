"""What must not become known: files of secrets, URLs as they may be shown, and which of them lead over a network in clear."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import re
import stat
from pathlib import Path

LOG = logging.getLogger(__name__)

HIDDEN = "***"
"""What stands in the place of a secret."""

_PASSWORD = re.compile(r"(://[^:/?#@\[]*):.*@", re.DOTALL)
"""A user, and what a URL says of it up to the last @: passwords that nobody encoded may hold anything."""

_OPTIONS = re.compile(r"\?(?=[a-z_]+=)")
"""Where a URL's options begin; any other question mark may be a password's."""

_SHOWN = frozenset(("ca", "cert", "db", "key", "peers", "prefix", "wait"))
"""The options of URLs whose values are no secrets, whatever they are; so isn't the path of a ``password_file``."""

_OPEN = ("sqlite", "memory", "store", "zmq+ipc")
"""Schemes that lead nowhere but into this machine."""


class NotSecret(Exception):
    """The file of a secret can't be used. The message names it and the fix, and tells nothing of what it holds."""


def read(path: Path) -> bytes:
    """What a file of a secret holds, such as a password or a private key.

    Its group may have rights to it, so that services can share it. Where every user of the machine has, it is no secret any more,
    and is refused, as ssh does.

    :raises NotSecret: it can't be read, or is open to everybody.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read()
    except OSError as error:
        raise NotSecret(f"{path}: {error.strerror}") from error
    if mode & stat.S_IRWXO:
        raise NotSecret(f"{path} is open to every user of this machine (mode {mode:o}); chmod o= {path}")
    return content


def write(path: Path, content: bytes, *, fresh: bool = False) -> Path:
    """Write a file that its owner alone may read and write, from its first byte on. A ``fresh`` one must not be there yet.

    :raises OSError: it can't be written; FileExistsError if it is there already and should not be.
    """
    how = os.O_CREAT | os.O_WRONLY | (os.O_EXCL if fresh else os.O_TRUNC)
    with open(os.open(path, how, 0o600), "wb") as file:
        os.fchmod(file.fileno(), 0o600)  # one that was there may have been open
        file.write(content)
    return path


def masked(url: str) -> str:
    """The URL as it may be shown: without a password that somebody wrote into it, although none is taken from there."""
    servers, options = _split(url)
    servers, mark, _ = _PASSWORD.sub(rf"\1:{HIDDEN}@", servers).partition("?")
    if mark:
        servers += f"?{HIDDEN}"
    return servers + ("?" + "&".join(map(_shown, options.split("&"))) if options else "")


def holds_password(url: str) -> bool:
    """Whether somebody wrote a password before the servers of a URL."""
    return _PASSWORD.search(_split(url)[0]) is not None


def in_clear(url: str) -> bool:
    """Whether what goes to the servers of a DF DB or a bus leaves this machine unencrypted."""
    scheme, _, rest = url.partition("://")
    servers, options = _split(rest)
    if scheme in _OPEN or {"tls", "unix"} & set(scheme.split("+")):
        return False
    if scheme == "zmq+tcp":
        return "key=" not in options and not is_loopback(servers)
    hosts = servers.partition("/")[0].rpartition("@")[2].split(",")
    return not all(is_loopback(host.rpartition(":")[0]) for host in hosts)


def warn_if_in_clear(option: str, url: str) -> None:
    """Say it in the log, as the URL of ``option``, if what goes there is not encrypted."""
    if in_clear(url):
        LOG.warning("%s = %s is not encrypted: whoever is on the way reads and changes it", option, masked(url))


def warn_if_open(file: Path, what: str) -> None:
    """Say it in the log if every user of the machine may read a file that holds ``what``, beside things that are no secrets."""
    with contextlib.suppress(OSError):
        if file.stat().st_mode & stat.S_IRWXO:
            LOG.warning("%s holds %s and every user of this machine may read it: chmod o= %s", file, what, file)


def is_loopback(host: str) -> bool:
    """Whether it is an address, or the name, by which a machine speaks to itself alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _split(url: str) -> tuple[str, str]:
    """What stands before the options, and the options."""
    found = _OPTIONS.search(url)
    return (url, "") if found is None else (url[: found.start()], url[found.end() :])


def _shown(option: str) -> str:
    name, _, value = option.partition("=")
    return option if name in _SHOWN or (name == "password_file" and value.startswith("/")) else f"{name}={HIDDEN}"
