"""Keys of a bus of ZeroMQ: who may listen to a process, and to whom it listens (CURVE: ZeroMQ RFC 25 and 26; ZAP: RFC 27).

Each host has a pair of keys. ``NAME.key_secret`` stays there, ``NAME.key`` goes into the directory of peers of every other. Who
is in that directory hears and is heard, nobody else; messages are encrypted. Files are read when they are needed: a new host's
key counts from its next attempt on, and one that is taken away counts no more from the next connection on.

The files are those of czmq and pyzmq (``zmq.auth``): keys of 32 bytes in Z85, between quotation marks.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl

import zmq
import zmq.asyncio

from dragonflow import secrecy

PUBLIC, SECRET = ".key", ".key_secret"
"""How names of files end that hold a public key, and both."""

DOMAIN = b"dragonflow"
"""Not empty, so that ZeroMQ turns everybody away as long as nobody judges who comes."""

_KEY = re.compile(rb'^\s*(public|secret)-key\s*=\s*"([^"\s]{40})"\s*$', re.MULTILINE)
_PUBLIC_TEXT = (
    "#   ZeroMQ CURVE public certificate of {}: it goes into the peers directory of all others\n\n"
    'curve\n    public-key = "{}"\n'
)
_SECRET_TEXT = (
    "#   ZeroMQ CURVE *secret* certificate of {}: keep it where it is\n\n"
    'curve\n    public-key = "{}"\n    secret-key = "{}"\n'
)


class KeyTrouble(Exception):
    """A key can't be used. The message names the file and the fix, and tells nothing of a secret."""


class Pair(NamedTuple):
    """The keys of a host, in Z85."""

    public: bytes
    secret: bytes


def create(directory: Path, name: str) -> tuple[Path, Path]:
    """Make a pair of keys: the files of the public one, and of both.

    :raises KeyTrouble: there is one of that name, or it can't be written.
    """
    if not name or name.startswith(".") or "/" in name or not name.isprintable():
        raise KeyTrouble(f"{name!r} is no name of a file; take the host's name")
    public, secret = (key.decode() for key in zmq.curve_keypair())
    files = directory / f"{name}{PUBLIC}", directory / f"{name}{SECRET}"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        secrecy.write(files[1], _SECRET_TEXT.format(name, public, secret).encode(), fresh=True)
        files[0].write_text(_PUBLIC_TEXT.format(name, public))
    except FileExistsError as error:
        raise KeyTrouble(f"{files[1]} is there already; remove it first if {name} shall have new keys") from error
    except OSError as error:
        raise KeyTrouble(f"{error.filename}: {error.strerror}") from error
    return files


class Curve:
    """The keys of one end of the bus: its own, from the file ``key``, and those of others, from the directory ``peers``."""

    def __init__(self, key: Path, peers: Path) -> None:
        self.key, self.peers = key, peers
        self._looked: object = None
        self._known: frozenset[bytes] = frozenset()

    @classmethod
    def of(cls, query: str) -> Curve | None:
        """From the options of a URL, ``key=FILE&peers=DIRECTORY``; None if there are none. Reads no file.

        :raises ValueError: with the fix.
        """
        if not query:
            return None
        options = dict(parse_qsl(query, keep_blank_values=True))
        if options.keys() != {"key", "peers"} or not all(value.startswith("/") for value in options.values()):
            raise ValueError("behind the ? stand key=FILE and peers=DIRECTORY, both absolute paths, and nothing else")
        if not zmq.has("curve"):
            raise ValueError("this machine's ZeroMQ can't encrypt: it was built without CURVE")
        return cls(Path(options["key"]), Path(options["peers"]))

    def pair(self) -> Pair:
        """Our own keys. :raises KeyTrouble: there are none."""
        try:
            found = dict(_KEY.findall(secrecy.read(self.key)))
        except secrecy.NotSecret as error:
            raise KeyTrouble(str(error)) from error
        if found.keys() != {b"public", b"secret"}:
            raise KeyTrouble(f"{self.key} holds no pair of keys; `dragonflow keys create` makes one")
        return Pair(found[b"public"], found[b"secret"])

    def knows(self, public: bytes) -> bool:
        """Whether a key is a peer's, or our own. :raises KeyTrouble: that can't be told."""
        return public in self._peers() or public == self.pair().public

    def guard(self, pub: zmq.Socket[bytes]) -> str:
        """Have a socket that is going to be bound let in only whom somebody judges (see ``DOMAIN``); returns its public key.

        :raises KeyTrouble: there are no keys.
        """
        mine = self.pair()
        pub.setsockopt(zmq.CURVE_SERVER, 1)
        pub.setsockopt(zmq.CURVE_SECRETKEY, mine.secret)
        pub.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
        pub.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        return mine.public.decode()

    def introduce(self, sub: zmq.Socket[bytes] | zmq.asyncio.Socket, server: str) -> None:
        """Have the next connection of a socket be made with our keys, to nobody but the peer who has the key ``server``.

        :raises KeyTrouble: it is no peer's.
        """
        if not self.knows(server.encode()):
            raise KeyTrouble(f"its key {server} is none of those in {self.peers}")
        mine = self.pair()
        sub.setsockopt(zmq.CURVE_PUBLICKEY, mine.public)
        sub.setsockopt(zmq.CURVE_SECRETKEY, mine.secret)
        sub.setsockopt(zmq.CURVE_SERVERKEY, server.encode())

    def _peers(self) -> frozenset[bytes]:
        """The public keys in the directory, read anew when one of its files was changed."""
        try:
            if stat.S_IMODE(self.peers.stat().st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
                raise KeyTrouble(f"{self.peers} may be written by others than its owner; chmod go-w {self.peers}")
            with os.scandir(self.peers) as entries:
                files = {it.path: it.stat() for it in entries if it.name.endswith(PUBLIC)}
            looked = {path: (it.st_ino, it.st_size, it.st_mtime_ns) for path, it in files.items()}
            if looked != self._looked:
                texts = [Path(path).read_bytes() for path in files]
                self._known = frozenset(key for text in texts for kind, key in _KEY.findall(text) if kind == b"public")
                self._looked = looked
        except OSError as error:
            raise KeyTrouble(f"{error.filename}: {error.strerror}") from error
        return self._known
