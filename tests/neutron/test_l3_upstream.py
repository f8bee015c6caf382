"""Neutron's own tests of its ``router`` plugin, with us as the provider of routers and our driver below.

By default those run that add and remove interfaces, where our hooks do most; ``DRAGONFLOW_ML2=all`` adds the others.
"""

from __future__ import annotations

import os

import df_l3
from neutron.tests.unit.extensions import test_extraroute, test_l3

ALL = os.environ.get("DRAGONFLOW_ML2") == "all"


class TestDfRouters(df_l3.RouterTestCase, test_l3.L3NatTestCaseBase):
    pass


class TestDfExtraRoutes(df_l3.RouterTestCase, test_extraroute.ExtraRouteDBTestCaseBase):
    pass


if not ALL:
    for _name in dir(TestDfRouters):
        if _name.startswith("test_") and not _name.startswith(
            ("test_router_add_interface", "test_router_remove_interface")
        ):
            setattr(TestDfRouters, _name, None)
