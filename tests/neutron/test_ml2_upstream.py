"""Neutron's own ML2 tests with our driver in place, before the drivers that those tests bring along and bind with.

By default the tests of ports, their bindings and their address pairs run: what our hooks do most in. ``DRAGONFLOW_ML2=all``
adds those of networks, subnets and segments (220 tests, twice the time): there our hooks only write a line to the journal.
"""

from __future__ import annotations

import os

import df_ml2
from neutron.tests.unit.plugins.ml2 import test_plugin

DRIVERS = ["df", "logger", "test"]
ALL = os.environ.get("DRAGONFLOW_ML2") == "all"


class TestDfPorts(df_ml2.DfMl2Mixin, test_plugin.TestMl2PortsV2):
    _mechanism_drivers = DRIVERS

    # It says that no provisioning block at all is made when a port moves to another host; ours is one.
    test_dhcp_provisioning_blocks_not_inserted_on_no_addr_change = None


class TestDfPortBinding(df_ml2.DfMl2Mixin, test_plugin.TestMl2PortBinding):
    _mechanism_drivers = DRIVERS


class TestDfAllowedAddressPairs(df_ml2.DfMl2Mixin, test_plugin.TestMl2AllowedAddressPairs):
    _mechanism_drivers = DRIVERS


if ALL:

    class TestDfNetworks(df_ml2.DfMl2Mixin, test_plugin.TestMl2NetworksV2):
        _mechanism_drivers = DRIVERS

    class TestDfSubnets(df_ml2.DfMl2Mixin, test_plugin.TestMl2SubnetsV2):
        _mechanism_drivers = DRIVERS

    class TestDfSegments(df_ml2.DfMl2Mixin, test_plugin.TestMultiSegmentNetworks):
        _mechanism_drivers = DRIVERS
