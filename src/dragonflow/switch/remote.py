"""Where Open vSwitch's database and bridges are: a Unix socket, or TCP on this machine, or TLS from anywhere.

Who can write to either rules the host's network, so nothing but loopback is spoken to in clear. TLS is as Open vSwitch has it
(ovs-vswitchd(8), "SSL"): both ends show a certificate, and whoever has one of the CA is believed, whatever name it is for. So
that CA must sign nobody but switches and their controllers.
"""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import NamedTuple

from dragonflow import secrecy

FORM = "unix:PATH, tcp:ADDRESS:PORT (loopback alone) or ssl:ADDRESS:PORT"

_INET = re.compile(r"(?P<kind>tcp|ssl):(\[(?P<v6>[^]]+)\]|(?P<v4>[^:\[\]]+)):(?P<port>\d+)")


class Remote(NamedTuple):
    """One of them. ``host`` is empty for a Unix socket, which is at ``path``."""

    text: str
    path: str = ""
    host: str = ""
    port: int = 0
    tls: bool = False

    @classmethod
    def parse(cls, text: str) -> Remote:
        """:raises ValueError: it is none, or leads in clear to another machine."""
        if text.startswith("unix:") and len(text) > len("unix:"):
            return cls(text, path=text[5:])
        found = _INET.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r}: neither of {FORM}")
        host, tls = found["v6"] or found["v4"], found["kind"] == "ssl"
        if not tls and not secrecy.is_loopback(host):
            raise ValueError(
                f"{text}: who is on the way could rule the switch; write ssl:, and see [df] ovs_ssl_key_file"
            )
        return cls(text, host=host, port=int(found["port"]), tls=tls)


class Tls(NamedTuple):
    """PEM files: our key and certificate, and the CA of the switch's."""

    key: Path
    cert: Path
    ca: Path

    def context(self) -> ssl.SSLContext:
        """From the files as they are now. :raises OSError: one can't be used; the message names it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            secrecy.read(self.key)  # ssl reads it whatever its mode
            self.cert.read_bytes()
            self.ca.read_bytes()
        except secrecy.NotSecret as error:
            raise OSError(str(error)) from error
        try:
            context.load_verify_locations(self.ca)
            context.load_cert_chain(self.cert, self.key, password="")  # one with a passphrase is refused, not asked for
        except ssl.SSLError as error:
            raise OSError(
                f"{self.key}, {self.cert} and {self.ca} are no key, certificate and CA in PEM: {error}"
            ) from error
        return context
