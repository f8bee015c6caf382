"""Neutron's ``router`` plugin with us as its provider, over our mechanism driver."""

from __future__ import annotations

import df_ml2
from neutron.tests.unit.api import test_extensions
from neutron.tests.unit.extensions import test_l3
from oslo_config import cfg

from dragonflow.model import LogicalRouter

PROVIDER = "L3_ROUTER_NAT:df:dragonflow.neutron.l3.DragonflowRouters:default"


class RouterTestCase(df_ml2.DfMl2TestCase, test_l3.L3NatTestCaseMixin):
    """A base for tests of routers."""

    def get_additional_service_plugins(self) -> dict[str, str]:
        return {**super().get_additional_service_plugins(), "l3_plugin_name": "router", "flavors": "flavors"}

    def setUp(self) -> None:
        cfg.CONF.set_override("service_provider", [PROVIDER], group="service_providers")
        super().setUp()
        self.ext_api = test_extensions.setup_extensions_middleware(test_l3.L3TestExtensionManager())

    def router_row(self, router: dict) -> LogicalRouter | None:
        return self.row(LogicalRouter, router["id"], f"router:{router['id']}")
