"""Neutron's own tests of its ``trunk`` plugin, with our driver below and registered with the plugin.

By default those run that add and remove subports, where our hooks do most; ``DRAGONFLOW_ML2=all`` adds the others.
"""

from __future__ import annotations

import os

import df_ml2
from neutron.tests.unit.services.trunk import test_plugin, test_rules

DRIVERS = ("df", "logger", "test")
ALL = os.environ.get("DRAGONFLOW_ML2") == "all"


class TestDfTrunkPlugin(df_ml2.DfMl2Mixin, test_plugin.TrunkPluginTestCase):
    _mechanism_drivers = DRIVERS

    if not ALL:
        locals().update(
            {
                name: None
                for name in dir(test_plugin.TrunkPluginTestCase)
                if name.startswith("test_") and not name.startswith(("test_add_subports", "test_remove_subports"))
            }
        )


if ALL:

    class TestDfTrunkPorts(df_ml2.DfMl2Mixin, test_rules.TrunkPortValidatorTestCase):
        _mechanism_drivers = DRIVERS

        # It has every driver say that the port is its own, and takes its fake for the only one.
        test_can_be_trunked_or_untrunked_returns_true = None

    class TestDfTrunkMtus(df_ml2.DfMl2Mixin, test_rules.SubPortsValidatorMtuSanityTestCase):
        _mechanism_drivers = DRIVERS
