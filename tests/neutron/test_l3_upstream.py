"""Neutron's own tests of its ``router`` and ``port_forwarding`` plugins, with us as the provider of routers and our driver below.

By default those run that add and remove interfaces or move floating IPs, where our hooks do most; ``DRAGONFLOW_ML2=all`` adds
the others.
"""

from __future__ import annotations

import os

import df_l3
from neutron.objects.qos import policy
from neutron.tests.unit.api import test_extensions
from neutron.tests.unit.extensions import (
    test_expose_port_forwarding_in_fip,
    test_extraroute,
    test_fip_port_details,
    test_floating_ip_port_forwarding,
    test_l3,
    test_qos_fip,
)
from neutron_lib.context import get_admin_context
from neutron_lib.plugins import constants, directory
from oslo_utils import uuidutils

ALL = os.environ.get("DRAGONFLOW_ML2") == "all"

USUAL = (
    "test_router_add_interface",
    "test_router_remove_interface",
    "test_floatingip_update_different",
    "test_floatingip_port_delete",
    "test_floatingip_disassociate",
)
"""What the names begin with of those that always run."""


class TestDfRouters(df_l3.RouterTestCase, test_l3.L3NatTestCaseBase):
    # It calls ML2 within a transaction, which ML2 itself refuses whoever its drivers are (``transaction_guard``).
    test_router_add_interface_by_port_fails_nested = None
    # They expect that a floating IP is born ACTIVE, as with plugins that ask nobody; the ``router`` plugin has them DOWN.
    test_create_floatingip_with_assoc = None
    test_floatingip_update = None
    test_floatingip_update_subnet_gateway_disabled = None
    test_floatingip_update_to_same_port_id_twice = None
    # It has the core plugin of Neutron's own tests fail, which isn't there.
    test_floatingip_with_invalid_create_port = None


class TestDfExtraRoutes(df_l3.RouterTestCase, test_extraroute.ExtraRouteDBTestCaseBase):
    pass


class TestDfPortForwardings(df_l3.RouterTestCase):
    """The tests of Neutron's class, whose own ``setUp`` would put other plugins in place."""

    _further_plugins = df_l3.FORWARDING

    def setUp(self) -> None:
        super().setUp()
        manager = test_expose_port_forwarding_in_fip.ExtendFipPortForwardingExtensionManager()
        self.ext_api = test_extensions.setup_extensions_middleware(manager)


for _name, _it in vars(test_floating_ip_port_forwarding.FloatingIPPorForwardingTestCase).items():
    if _name.startswith(("test_", "_create_fip", "_update_fip")):
        setattr(TestDfPortForwardings, _name, _it)


if ALL:

    class TestDfFloatingIpPolicies(df_l3.RouterTestCase, test_qos_fip.FloatingIPQoSDBTestCaseBase):
        _further_plugins, _extension_drivers = df_l3.POLICIES, ("port_security", "qos")

        def setUp(self) -> None:
            super().setUp()
            manager = test_qos_fip.FloatingIPQoSTestExtensionManager()
            self.ext_api = test_extensions.setup_extensions_middleware(manager)

    class TestDfForwardingsShown(df_l3.RouterTestCase):
        """Likewise tests of a class with a ``setUp`` of its own."""

        _further_plugins, _extension_drivers = df_l3.FORWARDING | df_l3.POLICIES, ("port_security", "qos")

        def setUp(self) -> None:
            super().setUp()
            manager = test_expose_port_forwarding_in_fip.ExtendFipPortForwardingExtensionManager()
            self.ext_api = test_extensions.setup_extensions_middleware(manager)
            self.l3_plugin = directory.get_plugin(constants.L3)
            self.pf_plugin = directory.get_plugin(constants.PORTFORWARDING)
            self.policy_1, self.policy_2 = [
                policy.QosPolicy(get_admin_context(), id=uuidutils.generate_uuid(), project_id="tenant", name=name)
                for name in ("pol1", "pol2")
            ]
            self.policy_1.create()
            self.policy_2.create()

    for _name, _it in vars(test_expose_port_forwarding_in_fip.TestExtendFipPortForwardingExtension).items():
        if _name.startswith("test_"):
            setattr(TestDfForwardingsShown, _name, _it)

    class TestDfFloatingIpDetails(df_l3.RouterTestCase, test_fip_port_details.FloatingIPPortDetailsDBTestCaseBase):
        def setUp(self) -> None:
            super().setUp()
            manager = test_fip_port_details.FloatingIPPortDetailsTestExtensionManager()
            self.ext_api = test_extensions.setup_extensions_middleware(manager)


if not ALL:
    for _name in dir(TestDfRouters):
        if _name.startswith("test_") and not _name.startswith(USUAL):
            setattr(TestDfRouters, _name, None)
