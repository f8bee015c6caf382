"""What is wrong with stretched networks, and what to do about it: a pure function of what the regions said.

Each finding names one cause, where it is seen, and a remedy. What follows from a cause that was found is not told again: ports
of a region that doesn't answer are not called missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from dragonflow.regions import claims
from dragonflow.regions.agreement import Standing, State
from dragonflow.regions.cloud import CloudError, Misconfigured, Port, Unauthorized
from dragonflow.regions.consent import Pair
from dragonflow.regions.plan import SetMtu, UpdatePort
from dragonflow.regions.reading import Reading
from dragonflow.regions.tunnels import Tunnel, tunnels


class Finding(NamedTuple):
    """One cause. ``where`` names regions, networks, ports and chassis; ``remedy`` is what an operator can do."""

    cause: str
    where: str
    detail: str
    remedy: str


_BEHIND = (
    "see that an orchestrator runs and reaches both regions: it mends this by itself (`dragonflow stretch status`)"
)


def diagnose(reading: Reading) -> list[Finding]:
    """All that is found wrong, the causes that explain most first."""
    findings = [*_regions(reading), *_chassis(reading)]
    for pair, standing in sorted(reading.agreement.pairs.items()):
        findings += _pair(reading, pair, standing)
    for region in reading.plans:
        findings += _plan(reading, region)
    return [*findings, *(found for tunnel in tunnels(reading) for found in _tunnel(tunnel))]


def _regions(reading: Reading) -> Iterator[Finding]:
    for region in reading.regions.values():
        match region.error:
            case Unauthorized() as error:
                remedy = (
                    f"mend the credentials of cloud {region.name} in clouds.yaml: they must be an administrator's; try "
                    f"`openstack --os-cloud {region.name} network agent list`"
                )
                yield Finding("credentials-refused", region.name, str(error), remedy)
            case Misconfigured() as error:
                yield Finding("misconfigured", region.name, str(error), f"mend the entry {region.name} of clouds.yaml")
            case CloudError() as error:
                remedy = (
                    f"see that Neutron's API in {region.name} can be reached from here and answers; until then guests go on "
                    "as they are, but nothing new gets there"
                )
                yield Finding("region-api-down", region.name, str(error), remedy)


def _chassis(reading: Reading) -> Iterator[Finding]:
    """Chassis that are not alive, and have ports of stretched networks."""
    for region in reading.regions.values():
        hosts = (
            set() if region.view is None else {port.host for port in region.view.ports if not claims.ours_alone(port)}
        )
        for agent in region.agents:
            if not agent.alive and agent.host in hosts:
                yield Finding(
                    "controller-dead",
                    f"{region.name} {agent.host}",
                    "its controller gives no sign of life: its guests go on as they are, but nothing new reaches them",
                    f"on {agent.host}: `dragonflow status`, `systemctl status dragonflow-controller`",
                )


def _pair(reading: Reading, pair: Pair, standing: Standing) -> Iterator[Finding]:
    match standing.state:
        case State.WAITING:
            yield Finding("one-side-not-joined", str(pair), "; ".join(standing.reasons), _join(reading, pair))
        case State.REFUSED | State.DEGRADED:
            for reason in standing.reasons:
                remedy = "make both networks alike there, or let one side leave"
                yield Finding(standing.state.value, str(pair), reason, remedy)


def _join(reading: Reading, pair: Pair) -> str:
    """What the side that has not joined would have to say."""
    here, there = (pair.one, pair.other) if pair.one in reading.marked else (pair.other, pair.one)
    return f"`dragonflow stretch join {there} --with {here}`, by who may tag that network"


def _plan(reading: Reading, region: str) -> Iterator[Finding]:
    """What a region lacks: it is an orchestrator's to mend; so what stays is the fault of one that is dead or kept from it."""
    plan, view = reading.plans[region], reading.regions[region].view
    assert view is not None  # or there would be no plan
    for trouble in plan.troubles:
        lost = trouble.home in reading.losers
        yield Finding(
            "address-overlap" if lost else "not-announced",
            f"port {trouble.home} in {trouble.place}",
            trouble.reason,
            "give one of both ports another address, and each side of the network an allocation pool of its own"
            if lost
            else "mend what is said here; an orchestrator does the rest",
        )
    for step in plan.networks:
        if isinstance(step, SetMtu):
            there = view.networks[step.network]
            yield Finding(
                "mtu-mismatch",
                f"{region}:{step.network}",
                f"its MTU is {there.mtu} and should be {step.mtu}: {step.why}",
                _BEHIND,
            )
    ports = {port.id: port for port in view.announced}
    for update in plan.updates:
        yield _outdated(region, ports[update.port], update)
    for deletion in plan.deletions:
        yield Finding("stale-announcement", f"{region} port {deletion.port}", deletion.why, _BEHIND)
    missing = Counter(str(creation.port["network_id"]) for creation in plan.creations)
    for network, count in missing.items():
        yield Finding(
            "not-announced", f"{region}:{network}", f"{count} ports of other regions are not known there", _BEHIND
        )


def _outdated(region: str, port: Port, update: UpdatePort) -> Finding:
    """What stands for a port does not say what is so at its home."""
    where = f"{region} port {port.id}"
    wanted = update.changes.get("binding:profile", port.profile)
    for cause, keys, meaning in _PROFILE:
        now, then = ([each.get(key) for key in keys] for each in (port.profile, wanted))
        if now != then:
            stated, right = (" ".join("as here" if it is None else str(it) for it in each) for each in (now, then))
            return Finding(
                cause, where, f"it says of port {port.device_id}: {stated}, but it is: {right}; {meaning}", _BEHIND
            )
    return Finding("outdated-announcement", where, update.why, _BEHIND)


_PROFILE = (
    ("segmentation-mismatch", ("network_type", "segmentation_id"), "packets there are dropped"),
    ("wrong-chassis", ("host_ip",), "packets go to the wrong one"),
)
"""The keys of binding:profile that lead packets astray if they are wrong."""


def _tunnel(tunnel: Tunnel) -> Iterator[Finding]:
    if tunnel.up is False or (tunnel.up is None and tunnel.rtt_ms is not None):
        if tunnel.rtt_ms is not None:
            yield Finding(
                "underlay-filtered",
                str(tunnel),
                f"pings pass ({tunnel.rtt_ms:.1f} ms), the tunnel's own packets (BFD) don't",
                "have firewalls between the regions let through UDP 6081 (Geneve) and 4789 (VXLAN), or IP protocol 47 (GRE), "
                "both ways",
            )
        else:
            yield Finding(
                "tunnel-down",
                str(tunnel),
                "nothing comes back, neither pings nor the tunnel's own packets (BFD)",
                f"see that {tunnel.remote_ip} is up, and that {tunnel.host} has a route there and it has one back: "
                f"`ping {tunnel.remote_ip}` on {tunnel.host}",
            )
    if tunnel.mtu is not None and tunnel.needs > tunnel.mtu:
        yield Finding(
            "mtu-mismatch",
            str(tunnel),
            f"the path carries packets of {tunnel.mtu} bytes, the networks on it need {tunnel.needs}",
            f"give the path room, or the networks an MTU that is {tunnel.needs - tunnel.mtu} smaller",
        )
