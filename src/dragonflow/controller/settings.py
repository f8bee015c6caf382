"""What a controller has to be told: the options of ``[df]``, read and checked."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

import msgspec

from dragonflow import __version__
from dragonflow.apps.zones import MOST_ADDRESSES
from dragonflow.config import ConfigError
from dragonflow.controller.ipsec import Mode as IpsecMode
from dragonflow.controller.ipsec import read_psk
from dragonflow.controller.probe import Mode
from dragonflow.controller.view import Me
from dragonflow.metadata.settings import Settings as Nova
from dragonflow.model import BridgeMapping, Chassis
from dragonflow.switch.remote import Remote, Tls

_FILTERED = (0x0800, 0x86DD, 0x0806, 0x8100, 0x88A8)
"""EtherTypes of which security groups and port security decide, and those of tags."""


class Settings(msgspec.Struct, frozen=True):
    """What a controller has to be told; see the options of ``[df]`` in ``dragonflow.config``."""

    chassis: Chassis
    store_url: str
    pubsub_url: str
    ovsdb: str
    openflow: str
    control_socket: str
    lease_ttl: float
    probe: Mode = "tunnelled"
    vswitchd_control: str | None = None
    metrics_address: tuple[str, int] | None = None
    dhcp_lease_time: int = 86400
    dhcp_dns_servers: tuple[str, ...] = ()
    metadata: bool = False
    permitted_ethertypes: tuple[int, ...] = ()
    connections_per_router: int = 0
    connections_per_port: int = 0
    region_ipsec: IpsecMode | None = None
    region_ipsec_psk_file: str | None = None
    ovs_tls: Tls | None = None

    @classmethod
    def of(cls, options: Any) -> Settings:
        """Read the option group. :raises ConfigError: names the option and the fix."""
        if options.gateway and not options.bridge_mappings:
            raise ConfigError("[df] gateway: name the way to the external networks in [df] bridge_mappings")
        if options.snat_addresses and not options.bridge_mappings:
            raise ConfigError("[df] snat_addresses: name the way to the external networks in [df] bridge_mappings")
        chassis = Chassis(
            id=options.host,
            tunnel_ip=_address(options.tunnel_ip),
            tunnel_types=tuple(options.tunnel_types),
            bridge_mappings=_mappings(options.bridge_mappings),
            bridge=options.integration_bridge,
            datapath_type=options.datapath_type,
            vhostuser_socket_dir=options.vhostuser_socket_dir,
            gateway=options.gateway,
            snat_addresses=_own_addresses(options.snat_addresses),
            version=__version__,
        )
        return cls(
            chassis=chassis,
            store_url=options.store_url,
            pubsub_url=options.pubsub_url,
            ovsdb=options.ovsdb_connection,
            openflow=options.openflow_connection,
            control_socket=options.control_socket,
            lease_ttl=options.lease_ttl,
            probe=options.probe,
            vswitchd_control=options.vswitchd_control,
            metrics_address=_listening(options.metrics_address) if options.metrics_address else None,
            dhcp_lease_time=options.dhcp_lease_time,
            dhcp_dns_servers=tuple(map(_dns_server, options.dhcp_dns_servers)),
            metadata=_serves_metadata(options),
            permitted_ethertypes=tuple(map(_ethertype, options.permitted_ethertypes)),
            connections_per_router=options.connections_per_router,
            connections_per_port=options.connections_per_port,
            region_ipsec=None if options.region_ipsec == "off" else options.region_ipsec,
            region_ipsec_psk_file=options.region_ipsec_psk_file,
            ovs_tls=_ovs_tls(options),
        )

    @property
    def me(self) -> Me:
        """The chassis as apps see it."""
        return Me.of(
            self.chassis,
            dhcp_lease_time=self.dhcp_lease_time,
            dhcp_dns_servers=self.dhcp_dns_servers,
            metadata=self.metadata,
            permitted_ethertypes=self.permitted_ethertypes,
            region_ipsec=self.region_ipsec,
        )

    def read_psk(self) -> str | None:
        """The key of tunnels to other regions, None if they need none. It stays out of the settings: those may be shown.

        :raises ConfigError: it can't be read, or isn't kept secret.
        """
        if self.region_ipsec != "psk":
            return None
        if self.region_ipsec_psk_file is None:
            raise ConfigError("[df] region_ipsec = psk needs [df] region_ipsec_psk_file")
        try:
            return read_psk(Path(self.region_ipsec_psk_file))
        except ValueError as error:
            raise ConfigError(f"[df] region_ipsec_psk_file: {error}") from None


def _address(text: str | None) -> str:
    try:
        return str(ip_address(text or ""))
    except ValueError:
        raise ConfigError(
            f"[df] tunnel_ip: {text!r} must be this host's IPv4 or IPv6 address in the tunnel network"
        ) from None


def _dns_server(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise ConfigError(f"[df] dhcp_dns_servers: {text!r} must be an IPv4 or IPv6 address") from None


def _ethertype(text: str) -> int:
    try:
        number = int(text, 16)
    except ValueError:
        number = 0
    if not 0x0600 <= number <= 0xFFFF or number in _FILTERED:
        raise ConfigError(
            f"[df] permitted_ethertypes: {text!r} must be a hexadecimal EtherType from 0x0600 on that isn't IP, ARP or a VLAN's"
        )
    return number


def _own_addresses(texts: Sequence[str]) -> tuple[str, ...]:
    for text in texts:
        try:
            address = IPv4Address(text)
        except ValueError:
            raise ConfigError(f"[df] snat_addresses: {text!r} must be an IPv4 address") from None
        if not 0x01000000 <= int(address) < 0xE0000000 or address.is_loopback or address.is_link_local:
            raise ConfigError(f"[df] snat_addresses: {text} is no address that a host may have in an external network")
    if len(set(texts)) < len(texts) or len(texts) > MOST_ADDRESSES:
        raise ConfigError(f"[df] snat_addresses: name each address once, and at most {MOST_ADDRESSES}")
    return tuple(texts)


def _serves_metadata(options: Any) -> bool:
    if options.metadata_proxy_shared_secret is None:
        return False
    Nova.of(options)  # the proxy, a process of its own, would refuse them too, but guests were led to it by then
    return True


def _mappings(texts: Sequence[str]) -> tuple[BridgeMapping, ...]:
    found: list[BridgeMapping] = []
    for text in texts:
        network, _, bridge = text.partition(":")
        if not network or not bridge:
            raise ConfigError(f"[df] bridge_mappings: {text!r} must be PHYSICAL_NETWORK:BRIDGE")
        for other in found:
            if network == other.physical_network or bridge == other.bridge:
                raise ConfigError(f"[df] bridge_mappings: {text!r}: each physical network needs a bridge of its own")
        found.append(BridgeMapping(network, bridge))
    return tuple(found)


def _ovs_tls(options: Any) -> Tls | None:
    """The files for the connections to Open vSwitch; None if neither needs any."""
    remotes = []
    for option in ("ovsdb_connection", "openflow_connection"):
        try:
            remotes.append(Remote.parse(options[option]))
        except ValueError as error:
            raise ConfigError(f"[df] {option}: {error}") from None
    if not any(remote.tls for remote in remotes):
        return None
    names = ("ovs_ssl_key_file", "ovs_ssl_cert_file", "ovs_ssl_ca_cert_file")
    if missing := [name for name in names if options[name] is None]:
        raise ConfigError(f"[df] {', '.join(missing)}: ssl: in ovsdb_connection or openflow_connection needs them")
    tls = Tls(*(Path(options[name]) for name in names))
    try:
        tls.context()
    except OSError as error:
        raise ConfigError(f"[df] {', '.join(names)}: {error}") from None
    return tls


def _listening(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"[df] metrics_address: {text!r} must be HOST:PORT, such as 127.0.0.1:9797")
    return host.strip("[]"), int(port)
