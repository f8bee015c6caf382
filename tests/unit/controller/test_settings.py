"""What the controller reads from its options, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from dragonflow.apps.zones import MOST_ADDRESSES, address_zone, router_zone
from dragonflow.config import CONTROLLER_OPTS, GROUP, METADATA_OPTS, STORE_OPTS, ConfigError, load
from dragonflow.controller.settings import Settings
from dragonflow.lab.certificates import Certificates
from dragonflow.model import zones

OVS_FILES = ("ovs_ssl_key_file", "ovs_ssl_cert_file", "ovs_ssl_ca_cert_file")
OPEN_KEY = tuple(f"{it} = {{tls}}/{file}.pem" for it, file in zip(OVS_FILES, ("key", "cert", "ca"), strict=True))
MAPPED = "bridge_mappings = physnet1:br-ex"


def settings(directory: Path, *lines: str) -> Settings:
    file = directory / "dragonflow.conf"
    file.write_text("\n".join(("[df]", "tunnel_ip = 192.0.2.1", *lines)))
    return Settings.of(load([str(file)], STORE_OPTS, CONTROLLER_OPTS, METADATA_OPTS)[GROUP])


def test_a_chassis_tells_all_of_its_own_addresses(tmp_path: Path) -> None:
    found = settings(tmp_path, MAPPED, "snat_addresses = 203.0.113.11, 198.51.100.11")
    assert found.chassis.snat_addresses == found.me.snat_addresses == ("203.0.113.11", "198.51.100.11")
    assert settings(tmp_path).me.snat_addresses == ()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("snat_addresses = 203.0.113.11",), "bridge_mappings"),
        *(
            ((MAPPED, f"snat_addresses = {text}"), said)
            for text, said in (
                ("203.0.113", "must be an IPv4 address"),
                ("2001:db8::1", "must be an IPv4 address"),
                ("203.0.113.0/24", "must be an IPv4 address"),
                ("240.0.0.1", "no address that a host may have"),
                ("224.0.0.1", "no address that a host may have"),
                ("127.0.0.1", "no address that a host may have"),
                ("169.254.0.1", "no address that a host may have"),
                ("0.0.0.0", "no address that a host may have"),
                ("203.0.113.11, 203.0.113.11", "each address once"),
                (", ".join(f"10.0.{it >> 8}.{it & 255}" for it in range(257)), "at most 256"),
            )
        ),
    ],
)
def test_addresses_that_no_host_may_have_are_refused(tmp_path: Path, lines: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settings(tmp_path, *lines)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("ovsdb_connection = tcp:192.0.2.7:6640",), "ovsdb_connection: tcp:192.0.2.7:6640: .*write ssl:"),
        (("openflow_connection = tcp:switch:6653",), "openflow_connection: .*write ssl:"),
        (("openflow_connection = unix:",), "openflow_connection: .*neither"),
        (("ovsdb_connection = ssl:192.0.2.7:6640",), "ovs_ssl_key_file, ovs_ssl_cert_file, ovs_ssl_ca_cert_file: "),
        (("ovsdb_connection = ssl:192.0.2.7:6640", *(f"{it} = {{tls}}/none" for it in OVS_FILES)), "No such file"),
        (("ovsdb_connection = ssl:192.0.2.7:6640", *OPEN_KEY), r"key.pem is open to every user .*chmod o="),
        (("ovsdb_connection = ssl:192.0.2.7:6640", *(f"{it} = {{tls}}/ca.pem" for it in OVS_FILES)), "in PEM"),
    ],
)
def test_a_switch_elsewhere_is_spoken_to_by_tls_or_not_at_all(
    tmp_path: Path, lines: tuple[str, ...], said: str
) -> None:
    made = Certificates.make(tmp_path / "tls")
    made.key.chmod(0o644)
    made.ca.chmod(0o600)
    with pytest.raises(ConfigError, match=said):
        settings(tmp_path, *(line.format(tls=tmp_path / "tls") for line in lines))


def test_files_for_a_switch_elsewhere_are_found_good(tmp_path: Path) -> None:
    assert settings(tmp_path, "openflow_connection = tcp:[::1]:6653").ovs_tls is None
    made = Certificates.make(tmp_path / "tls")
    files = dict(zip(OVS_FILES, (made.key, made.cert, made.ca), strict=True))
    found = settings(tmp_path, "ovsdb_connection = ssl:192.0.2.7:6640", *(f"{k} = {v}" for k, v in files.items()))
    assert found.ovs_tls == (made.key, made.cert, made.ca)


def test_routers_ports_and_own_addresses_share_no_conntrack_zone() -> None:
    own = {address_zone(number) for number in range(MOST_ADDRESSES)}
    routers = {router_zone(key) for key in range(1, 1 << 17)}
    first, last = zones.NUMBERS
    ports = set(range(first, last + 1))
    assert len(own) + len(routers) + len(ports) == len(own | routers | ports)
    assert own | routers | ports == set(range(1, 1 << 16))
