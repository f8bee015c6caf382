"""What a port's ``binding:profile`` says of another region. Pure.

::

    {"port_key": "remote_port", "host_ip": "198.51.100.7",
     "region": "west", "network_type": "vxlan", "segmentation_id": 77, "status": "ACTIVE"}

makes a Neutron port one of another region: the VM is there, on the chassis with the VTEP ``host_ip``. All but the first two keys
may be left out. ``network_type`` and ``segmentation_id`` are those of the network over there, if they aren't the same as here;
``status`` is the port's status over there. Other drivers write profiles, too: those without ``port_key`` are none of ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, NamedTuple

from dragonflow.model import TUNNEL_TYPES, RemoteEnd, remote_chassis

PORT_KEY, REMOTE_PORT = "port_key", "remote_port"

KNOWN = (PORT_KEY, "host_ip", "region", "network_type", "segmentation_id", "status")

VNIS = range(1, 1 << 24)
"""What fits into the headers of Geneve (RFC 8926 §3.4) and VXLAN (RFC 7348 §5); 0 is no network's."""

REGION_LENGTH = 255


class ProfileError(ValueError):
    """No sense can be made of the profile, though it has a ``port_key``; says which key is wrong, and what it should be."""


class RemotePort(NamedTuple):
    """Where a port of another region is: its chassis's VTEP, canonically written, and how that is spoken to."""

    host_ip: str
    end: RemoteEnd

    @property
    def chassis(self) -> str:
        """The name of its chassis here."""
        return remote_chassis(self.host_ip)


def read(profile: object) -> RemotePort | None:
    """What a profile says; None if it is nothing of ours.

    :raises ProfileError: no sense can be made of it.
    """
    if not isinstance(profile, Mapping) or PORT_KEY not in profile:
        return None
    if profile[PORT_KEY] != REMOTE_PORT:
        raise ProfileError(f"port_key is {profile[PORT_KEY]!r}: the only one known is {REMOTE_PORT!r}")
    unknown = sorted(str(key) for key in profile if key not in KNOWN)
    if unknown:
        raise ProfileError(f"unknown keys {', '.join(unknown)}: those of a remote port are {', '.join(KNOWN)}")
    if "host_ip" not in profile:
        raise ProfileError("host_ip is missing: give the tunnel address of the chassis in the other region")
    status = profile.get("status", "ACTIVE")
    if status not in ("ACTIVE", "DOWN"):
        raise ProfileError(f"status is {status!r}: give ACTIVE or DOWN")
    encapsulation = profile.get("network_type")
    if encapsulation is not None and encapsulation not in TUNNEL_TYPES:
        raise ProfileError(f"network_type is {encapsulation!r}: give one of {', '.join(TUNNEL_TYPES)}")
    end = RemoteEnd(
        _region(profile.get("region")), encapsulation, _vni(profile.get("segmentation_id")), status == "ACTIVE"
    )
    return RemotePort(_vtep(profile["host_ip"]), end)


def remote(profile: object, host: str | None) -> RemotePort | None:
    """The port of another region that a binding with this profile means, if any.

    It is none while it is on a ``host`` of ours, or if no sense can be made of the profile. Neither comes through the door (see
    ``dragonflow.neutron.remote``), but may have been there before it.
    """
    if host:
        return None
    try:
        return read(profile)
    except ProfileError:
        return None


def decoded(text: str | None) -> dict[str, Any]:
    """A profile as ML2 keeps it in its table."""
    if not text or text == "{}":
        return {}
    try:
        profile = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return profile if isinstance(profile, dict) else {}


def _vtep(value: object) -> str:
    try:
        ip = ip_address(value) if isinstance(value, str) else None
    except ValueError:
        ip = None
    if ip is None:
        raise ProfileError(f"host_ip is {value!r}: give an IPv4 or IPv6 address")
    if not _can_be_a_vtep(ip):
        raise ProfileError(f"host_ip is {value!r}: give a routable unicast address, that of a chassis's tunnels")
    return str(ip)


def _can_be_a_vtep(ip: IPv4Address | IPv6Address) -> bool:
    elsewhere = ip.is_multicast or ip.is_unspecified or ip.is_loopback or ip.is_link_local or ip.is_reserved
    return not elsewhere and getattr(ip, "scope_id", None) is None


def _region(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or not 0 < len(value) <= REGION_LENGTH or not value.isprintable():
        raise ProfileError(
            f"region is {value!r}: give the name of the port's region, of 1 to {REGION_LENGTH} printable characters"
        )
    return value


def _vni(value: object) -> int | None:
    """A number, or its digits: ``openstack port set --binding-profile segmentation_id=77`` sends text."""
    if value is None:
        return None
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() else value
    if not isinstance(number, int) or isinstance(number, bool) or number not in VNIS:
        raise ProfileError(f"segmentation_id is {value!r}: give a whole number from {VNIS[0]} to {VNIS[-1]}")
    return number
