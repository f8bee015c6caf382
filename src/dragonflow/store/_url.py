"""The URL of a DF DB or bus that lies on servers: taken apart, each part checked, and what is wrong said with the fix.

    SCHEME://[USER@]HOST:PORT[,HOST:PORT…]/PATH[?OPTION=VALUE[&…]]

Parts are percent-encoded. No URL holds a secret: passwords come from files.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from dragonflow import secrecy
from dragonflow.store.protocol import StoreError, Unavailable

FILES = ("password_file", "ca", "cert", "key")
"""The options that every driver with servers has; each is the absolute path of a file."""


class UnknownStore(StoreError):
    """The URL names no DF DB that this version knows."""


class ServerUrl(NamedTuple):
    """What a URL says. ``endpoints`` are HOST:PORT, an IPv6 address in brackets; ``path`` begins without a slash."""

    text: str
    scheme: str
    user: str | None
    endpoints: tuple[str, ...]
    path: str
    options: Mapping[str, str]

    @classmethod
    def parse(cls, text: str, *, form: str, tls: bool, more: Collection[str] = (), servers: bool = True) -> ServerUrl:
        """Take a URL apart whose scheme is known.

        ``form`` is how such a URL is written, for the errors; ``tls`` says whether the scheme means TLS; ``more`` are options
        of this driver beside ``FILES``. Without ``servers``, as for a Unix socket, there are no endpoints.

        :raises UnknownStore: naming the part that is wrong, and the fix.
        """
        refuse = _Refuse(text, form)
        scheme, _, rest = text.partition("://")
        rest, _, query = rest.partition("?")
        authority, _, path = rest.partition("/")
        user, at, hosts = authority.rpartition("@")
        if secrecy.holds_password(text):
            raise UnknownStore(
                f"a URL of scheme {scheme} holds a password; write it to a file instead, and USER@…?password_file=FILE"
            )
        if at and not user:
            raise refuse("there is no user before the @")
        options = _options(query, (*FILES, *more), refuse)
        if user and "password_file" not in options:
            raise refuse(f"it names the user {unquote(user)!r} but no password_file=FILE")
        if "password_file" in options and not user:
            raise refuse("it names a password_file but no USER@ before the servers")
        if not tls and (given := sorted({"ca", "cert", "key"} & options.keys())):
            raise refuse(f"{', '.join(given)} is for TLS; write the scheme as {scheme}+tls, or leave it away")
        if ("cert" in options) != ("key" in options):
            raise refuse("cert and key, the client's certificate and its key, are only of use together")
        if hosts and not servers:
            raise refuse(f"{hosts!r} stands where the path should begin")
        endpoints = tuple(hosts.split(",")) if servers else ()
        for endpoint in endpoints:
            _check_endpoint(endpoint, refuse)
        return cls(text, scheme, unquote(user) or None, endpoints, unquote(path), options)

    def refuse(self, form: str, why: str) -> UnknownStore:
        """The error for a part that only the driver can judge."""
        return _Refuse(self.text, form)(why)


class _Refuse:
    def __init__(self, text: str, form: str) -> None:
        self._text, self._form = text, form

    def __call__(self, why: str) -> UnknownStore:
        return UnknownStore(f"{secrecy.masked(self._text)!r} is no URL of a DF DB: {why}; write {self._form}")


def read_password(path: Path) -> str:
    """What a password file holds, without the end of its line.

    :raises Unavailable: it can't be read, is empty, or everybody may read it.
    """
    try:
        password = secrecy.read(path).decode().rstrip("\r\n")
    except secrecy.NotSecret as error:
        raise Unavailable(f"password_file {error}") from error
    except UnicodeDecodeError:
        raise Unavailable(f"password_file {path} is no text in UTF-8") from None  # the error quotes what it holds
    if not password:
        raise Unavailable(f"password_file {path} is empty; write the password into it")
    return password


def read_pem(option: str, path: Path) -> bytes:
    """What a file of certificates or of a ``key`` holds.

    :raises Unavailable: it can't be read, or it is a key and everybody may read it; the message names the option.
    """
    try:
        return secrecy.read(path) if option == "key" else path.read_bytes()
    except secrecy.NotSecret as error:
        raise Unavailable(f"{option}={error}") from error
    except OSError as error:
        raise Unavailable(f"{option}={path}: {error.strerror}") from error


def _options(query: str, known: Collection[str], refuse: _Refuse) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise refuse("what follows the ? is no list of OPTION=VALUE") from None
    options: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            raise refuse(f"there is no option {name!r} (there are: {', '.join(known)})")
        if name in options:
            raise refuse(f"the option {name} stands there twice")
        if name in FILES and not value.startswith("/"):
            raise refuse(f"{name} is no absolute path")
        options[name] = value
    return options


def _check_endpoint(endpoint: str, refuse: _Refuse) -> None:
    host, colon, port = endpoint.rpartition(":")
    if not colon or not host or (":" in host and not (host.startswith("[") and host.endswith("]"))):
        raise refuse(f"{endpoint!r} is no HOST:PORT (an IPv6 address stands in brackets)")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise refuse(f"{port!r} in {endpoint!r} is no port")
