"""Neutron's ``router`` plugin with us as its provider, over our mechanism driver."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import df_ml2
from neutron.tests.unit.api import test_extensions
from neutron.tests.unit.extensions import test_l3
from oslo_config import cfg

from dragonflow.model import FloatingIp, LogicalRouter

PROVIDER = "L3_ROUTER_NAT:df:dragonflow.neutron.l3.DragonflowRouters:default"


FORWARDING = MappingProxyType({"forwarding": "port_forwarding"})
POLICIES = MappingProxyType({"qos": "qos"})


class RouterTestCase(df_ml2.DfMl2TestCase, test_l3.L3NatTestCaseMixin):
    """A base for tests of routers."""

    _further_plugins: Mapping[str, str] = MappingProxyType({})

    def get_additional_service_plugins(self) -> dict[str, str]:
        plugins = {"l3_plugin_name": "router", "flavors": "flavors", **self._further_plugins}
        return {**super().get_additional_service_plugins(), **plugins}

    def setUp(self) -> None:
        cfg.CONF.set_override("service_provider", [PROVIDER], group="service_providers")
        super().setUp()
        self.ext_api = test_extensions.setup_extensions_middleware(test_l3.L3TestExtensionManager())

    @contextlib.contextmanager
    def outside(self, subnet: dict) -> Iterator[tuple[dict, dict]]:
        """A router with an interface in ``subnet`` and a gateway to an external network, whose subnet is yielded too."""
        with self.router(as_admin=True) as made, self.subnet(cidr="203.0.113.0/24") as outside:
            router, network = made["router"], outside["subnet"]["network_id"]
            self._set_net_external(network)
            self._add_external_gateway_to_router(router["id"], network, as_admin=True)
            self._router_interface_action("add", router["id"], subnet["subnet"]["id"], None)
            yield router, outside["subnet"]

    def floating_row(self, floating: dict) -> FloatingIp | None:
        return self.row(FloatingIp, floating["id"], f"net:{floating['floating_network_id']}")

    def router_row(self, router: dict) -> LogicalRouter | None:
        return self.row(LogicalRouter, router["id"], f"router:{router['id']}")
