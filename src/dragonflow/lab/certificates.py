"""Certificates for the lab's own servers: one authority, and one certificate it signed for servers and clients on loopback.

They are good from a day ago, so that a chassis whose clock is wrong by an hour still takes them, to ten years from now.
"""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dragonflow import secrecy


class Certificates(NamedTuple):
    """PEM files. ``key`` is readable by its owner alone."""

    ca: Path
    cert: Path
    key: Path

    @classmethod
    def at(cls, directory: Path) -> Certificates:
        """Where ``make`` puts them."""
        return cls(directory / "ca.pem", directory / "cert.pem", directory / "key.pem")

    @classmethod
    def make(
        cls, directory: Path, *, name: str = "dragonflow-lab", addresses: tuple[str, ...] = ("127.0.0.1",)
    ) -> Certificates:
        """Write a fresh authority and a certificate for ``localhost`` and the IP addresses, unless they are there."""
        made = cls.at(directory)
        if all(path.exists() for path in made):
            return made
        directory.mkdir(parents=True, exist_ok=True)
        ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        ca_name = _name(f"{name} authority")
        authority = (
            _builder(ca_name, ca_name, ca_key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(ca_key, hashes.SHA256())
        )
        hosts = [x509.DNSName("localhost"), *(x509.IPAddress(ipaddress.ip_address(each)) for each in addresses)]
        certificate = (
            _builder(_name(name), ca_name, key.public_key())
            .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .sign(ca_key, hashes.SHA256())
        )
        made.ca.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
        made.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        secrecy.write(
            made.key,
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )
        return made


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=3650))
    )
