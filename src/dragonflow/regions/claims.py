"""Who may have an address where several regions claim it. Pure.

Within a region Neutron sees to it that an address has one port. Over regions allocation pools keep addresses apart, but not
those that somebody asks for, and not while regions don't see each other. So every port is a claim to its MAC and its fixed IPs
in its own network and in all with which that is stretched. Where two claims meet, the older wins: by ``created_at``, then the
region's name, then the port's id, so that all come to the same. The younger is announced nowhere; in its own region it stays
what it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from dragonflow.regions.agreement import Agreement, Views
from dragonflow.regions.cloud import Port, Subnet
from dragonflow.regions.consent import Place
from dragonflow.regions.view import Home, View


class Address(NamedTuple):
    """A MAC (``of`` is empty) or an IP address of the subnet with the CIDR ``of``."""

    of: str
    text: str

    def __str__(self) -> str:
        return self.text


class Lost(NamedTuple):
    """Why a port is announced nowhere."""

    address: Address
    winner: Home

    def __str__(self) -> str:
        return f"{self.address} was claimed earlier by port {self.winner.port} of region {self.winner.region}"


class _Claim(NamedTuple):
    created_at: str
    home: Home
    place: Place


def ours_alone(port: Port) -> bool:
    """Whether the port is its region's own affair: routers' and DHCP servers' ports stand in each region for themselves."""
    return port.device_owner.startswith(("network:", "dragonflow:"))


def addresses(port: Port, subnets: Mapping[str, Subnet]) -> Iterator[Address]:
    """The addresses that a port claims; ``subnets`` are those of its region."""
    yield Address("", port.mac_address)
    for fixed in port.fixed_ips:
        if fixed.subnet_id in subnets:
            yield Address(subnets[fixed.subnet_id].cidr, fixed.ip_address)


def holders(ports: Iterable[Port], view: View) -> dict[tuple[str, Address], Port]:
    """Who of these ports has an address in a network of the region, by the network's id and the address."""
    return {(port.network_id, address): port for port in ports for address in addresses(port, view.subnets)}


def lost(views: Views, agreement: Agreement) -> dict[Home, Lost]:
    """The claims that lose."""
    claims: defaultdict[tuple[int, Address], list[_Claim]] = defaultdict(list)
    number_of = {place: number for number, places in enumerate(agreement.together) for place in places}
    for region, view in views.items():
        for port in () if view is None else view.ports:
            place = Place(region, port.network_id)
            if view is not None and place in number_of and not ours_alone(port):
                claim = _Claim(port.created_at, Home(region, port.id), place)
                for address in addresses(port, view.subnets):
                    claims[number_of[place], address].append(claim)
    found: dict[Home, Lost] = {}
    for (_, address), rivals in claims.items():
        if len(rivals) < 2:
            continue
        rivals.sort()
        for number, claim in enumerate(rivals):
            for older in rivals[:number]:
                if older.place != claim.place and _meet(agreement, older.place, claim.place):
                    found.setdefault(claim.home, Lost(address, older.home))
                    break
    return found


def _meet(agreement: Agreement, one: Place, other: Place) -> bool:
    """Whether ports of both networks would stand in one."""
    reach = agreement.partners.get(one, frozenset()) | {one}
    return not reach.isdisjoint(agreement.partners.get(other, frozenset()) | {other})
