"""Gateway nodes: two hosts without VMs lead the guests of a third, which has no way to the external network, outside."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from dragonflow.cli.main import app
from dragonflow.lab import Lab
from dragonflow.lab.system import wait_until

from .conftest import HOSTS, Cloud
from .test_faults import in_sync
from .test_floating_ips import EXTERNAL
from .test_provider_networks import peer  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("audited")


@pytest.fixture
def play(lab: Lab) -> Iterator[Callable[..., None]]:
    """``play(host=line, …)``: start the hosts' controllers anew, each with this line in place of its bridge mappings."""
    before = {name: lab.host(name).config.read_text() for name in HOSTS}
    mappings = next(line for line in before[HOSTS[0]].splitlines() if line.startswith("bridge_mappings"))

    def run(**lines: str) -> None:
        for name, line in lines.items():
            lab.process(f"controller-{name}").kill()
            lab.host(name).config.write_text(before[name].replace(mappings, line.format(mappings=mappings)))
            lab.process(f"controller-{name}").start()
        for name in lines:
            wait_until(lambda name=name: in_sync(lab, name), f"{name} in sync", 20)

    yield run
    run(**dict.fromkeys(HOSTS, mappings))


COMPUTE, NODE, MAPPED = "", "{mappings}\ngateway = true", "{mappings}"


def test_gateway_nodes_lead_outside_take_over_and_serve_routers_without_vms(
    lab: Lab,
    cloud: Cloud,
    ping: Callable[..., bool],
    peer: Callable[..., Callable[[str], bool]],  # noqa: F811
    play: Callable[..., None],
) -> None:
    play(host1=COMPUTE, host2=NODE, host3=NODE)
    inner, outer = (
        cloud.network("10.1.0.0/24", gateways=True),
        cloud.network("203.0.113.0/24", gateways=True, **EXTERNAL),
    )
    outside = peer("gateway", "203.0.113.1/24", vlan=150)
    one = cloud.port(inner, "host1")
    guest = cloud.plug(one)
    edge, lonely = (
        cloud.router(*joined, external_gateway_info={"network_id": outer["id"]}) for joined in ((inner,), ())
    )

    def serving(router: dict[str, Any]) -> str | None:
        done = CliRunner().invoke(app, ["show", "routers", "--store-url", lab.region().store.url, "--json"])
        ((found,),) = ([it["gateway_chassis"] for it in json.loads(done.stdout) if it["id"] == router["id"]],)
        return found

    wait_until(lambda: cloud.active(one), "ACTIVE", 20)
    wait_until(lambda: all(cloud.gateway(it)["status"] == "ACTIVE" for it in (edge, lonely)), "gateways ACTIVE", 10)
    assert ping(guest, "203.0.113.1")
    for router in (edge, lonely):
        assert outside(cloud.gateway(router)["fixed_ips"][0]["ip_address"])
    first = serving(edge)
    other = {"host2": "host3", "host3": "host2"}[first or ""]
    play(**{str(first): MAPPED})
    wait_until(lambda: serving(edge) == other, f"{other} to serve", 10)
    wait_until(lambda: ping(guest, "203.0.113.1"), "the way by the other node", 5)
    assert {cloud.gateway(it)["status"] for it in (edge, lonely)} == {"ACTIVE"}
    assert serving(lonely) == other
