"""Neutron's own tests of its ``trunk`` plugin, with our driver below and registered with the plugin."""

from __future__ import annotations

import df_ml2
from neutron.tests.unit.services.trunk import test_plugin, test_rules


class TestDfTrunkPlugin(df_ml2.DfMl2Mixin, test_plugin.TrunkPluginTestCase):
    _mechanism_drivers = ("df", "logger", "test")


class TestDfTrunkPorts(df_ml2.DfMl2Mixin, test_rules.TrunkPortValidatorTestCase):
    _mechanism_drivers = ("df", "logger", "test")

    # It has every driver say that the port is its own, and takes its fake for the only one.
    test_can_be_trunked_or_untrunked_returns_true = None


class TestDfTrunkMtus(df_ml2.DfMl2Mixin, test_rules.SubPortsValidatorMtuSanityTestCase):
    _mechanism_drivers = ("df", "logger", "test")
