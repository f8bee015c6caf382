"""Neutron's own tests of security groups, address groups and port security, with our driver below.

After each test the journal's work is done, and the DF DB must be what Neutron's tables say. By default those tests run that
change the groups of ports, or delete groups; ``DRAGONFLOW_ML2=all`` adds the others (130, most of them about what the API refuses
and shows).
"""

from __future__ import annotations

import os

import df_ml2
from neutron.tests.unit.extensions import test_address_group, test_portsecurity
from neutron.tests.unit.plugins.ml2 import test_security_group
from oslo_config import cfg

from dragonflow.neutron.repair import Repair
from dragonflow.neutron.survey import Survey
from dragonflow.testing import founding

ALL = os.environ.get("DRAGONFLOW_ML2") == "all"

USUAL = (
    "test_create_delete_security_group_port",
    "test_create_security_group_rule_remote_address_group_id",
    "test_delete_",
    "test_normalize_and_deduplicate",
    "test_update_port_",
)
"""What the names begin with of those that always run."""


class Mirrored(df_ml2.DfMl2Mixin):
    """Ends each test with a comparison of the DF DB and Neutron."""

    _mechanism_drivers = ("df", "logger", "test")

    def setUp(self) -> None:
        cfg.CONF.set_override("extension_drivers", ["port_security"], group="ml2")
        super().setUp()
        self.df.workers.dfdb.store.call(founding.found)
        self.addCleanup(self._compare)

    def _compare(self) -> None:
        self.df.workers.journal.work()
        assert Repair(self.df.workers.dfdb, Survey()).run(fix=False).findings == ()


class TestDfSecurityGroups(Mirrored, test_security_group.TestMl2SecurityGroups):
    pass


class TestDfAddressGroups(Mirrored, test_security_group.Ml2SecurityGroupsTestCase):
    """The tests of Neutron's class, whose own ``setUp`` would put another plugin in place."""


for _name, _it in vars(test_address_group.TestAddressGroup).items():
    if _name.startswith("test_"):
        setattr(TestDfAddressGroups, _name, _it)


class _Ml2:
    """Neutron's class would take a plugin of its own for its tests if none is named."""

    def setUp(self) -> None:
        super().setUp("ml2")  # type: ignore[call-arg]  # Neutron's class comes next


class TestDfPortSecurity(Mirrored, _Ml2, test_portsecurity.TestPortSecurity):
    pass


if not ALL:
    for _case in (TestDfSecurityGroups, TestDfAddressGroups, TestDfPortSecurity):
        for _name in dir(_case):
            if _name.startswith("test_") and not _name.startswith(USUAL):
                setattr(_case, _name, None)
