"""Neutron's own ML2 tests with our driver in place, before the drivers that those tests bring along and bind with."""

from __future__ import annotations

import df_ml2
from neutron.tests.unit.plugins.ml2 import test_plugin

DRIVERS = ["df", "logger", "test"]


class TestDfNetworks(df_ml2.DfMl2Mixin, test_plugin.TestMl2NetworksV2):
    _mechanism_drivers = DRIVERS


class TestDfSubnets(df_ml2.DfMl2Mixin, test_plugin.TestMl2SubnetsV2):
    _mechanism_drivers = DRIVERS


class TestDfPorts(df_ml2.DfMl2Mixin, test_plugin.TestMl2PortsV2):
    _mechanism_drivers = DRIVERS


class TestDfPortBinding(df_ml2.DfMl2Mixin, test_plugin.TestMl2PortBinding):
    _mechanism_drivers = DRIVERS


class TestDfAllowedAddressPairs(df_ml2.DfMl2Mixin, test_plugin.TestMl2AllowedAddressPairs):
    _mechanism_drivers = DRIVERS


class TestDfSegments(df_ml2.DfMl2Mixin, test_plugin.TestMultiSegmentNetworks):
    _mechanism_drivers = DRIVERS
