"""QoS policies under Neutron's API: what each call leaves in the DF DB, and what is refused.

Neutron's own tests of its plugin have a mock in place of the plugin's drivers, so they could say nothing of ours.
"""

from __future__ import annotations

from typing import Any

import df_ml2
import pytest
from msgspec.structs import replace
from neutron.db.qos import models
from neutron.objects.qos import rule as rules
from neutron_lib import exceptions
from neutron_lib.context import get_admin_context
from neutron_lib.db import api as db_api
from neutron_lib.exceptions import qos as qos_exc
from neutron_lib.plugins import constants, directory

from dragonflow.model import BandwidthLimit, LogicalSwitch, QosPolicy
from dragonflow.neutron import db
from dragonflow.neutron.repair import Repair
from dragonflow.neutron.source import Plugin
from dragonflow.neutron.survey import Survey
from dragonflow.store.protocol import Delete, Key, Txn
from dragonflow.testing import founding

LIMIT, DSCP = rules.QosBandwidthLimitRule, rules.QosDscpMarkingRule


class QosTestCase(df_ml2.DfMl2TestCase):
    _extension_drivers = ("port_security", "qos")

    def get_additional_service_plugins(self) -> dict[str, str]:
        return {**super().get_additional_service_plugins(), "qos": "qos"}

    @property
    def admin(self) -> Any:
        """A context for one call, as each request has its own."""
        return get_admin_context()

    def setUp(self) -> None:
        super().setUp()
        self.core = directory.get_plugin()
        self.plugin = directory.get_plugin(constants.QOS)

    def give(self, policy: str, network: dict, port: dict | None = None) -> None:
        """Give the policy to a port or network, as Neutron's API does; tests/lab does it by the API itself.

        Neutron reads with a second context on its way, and on the one connection that SQLite has here the end of that undoes what
        the first has written.
        """
        kind, found = ("network", network) if port is None else ("port", port)
        binding = models.QosNetworkPolicyBinding if port is None else models.QosPortPolicyBinding
        with db_api.CONTEXT_WRITER.using(context := self.admin):
            for old in context.session.query(binding).filter_by(**{f"{kind}_id": found["id"]}):
                context.session.delete(old)
            context.session.flush()
            context.session.add(binding(policy_id=policy, **{f"{kind}_id": found["id"]}))
            db.record(context, kind, found["id"], network["id"])

    def policy(self, **fields: object) -> str:
        body = {"name": "gold", "project_id": "p", "shared": False, "is_default": False, "description": "", **fields}
        return self.plugin.create_policy(self.admin, {"policy": body})["id"]

    def limit(self, policy: str, rate: int, burst: int = 0, direction: str = "egress") -> str:
        rule = {"max_kbps": rate, "max_burst_kbps": burst, "direction": direction}
        return self.plugin.create_policy_rule(self.admin, LIMIT, policy, {"bandwidth_limit_rule": rule})["id"]

    def mark(self, policy: str, dscp: int) -> str:
        body = {"dscp_marking_rule": {"dscp_mark": dscp}}
        return self.plugin.create_policy_rule(self.admin, DSCP, policy, body)["id"]

    def policy_row(self, policy: str) -> QosPolicy | None:
        return self.row(QosPolicy, policy, f"qos:{policy}")


class TestRows(QosTestCase):
    def test_a_policy_and_its_rules_appear_change_and_go(self):
        policy = self.policy()
        self.work()
        row = self.policy_row(policy)
        assert (row.name, row.egress, row.ingress, row.dscp) == ("gold", None, None, None)
        egress = self.limit(policy, 1000)
        self.limit(policy, 2000, 300, "ingress")
        dscp = self.mark(policy, 46)
        self.work()
        row = self.policy_row(policy)
        assert row.egress == BandwidthLimit(1000, 800), "80 % is what Neutron means by no burst"
        assert (row.ingress, row.dscp) == (BandwidthLimit(2000, 300), 46)
        changed = {"bandwidth_limit_rule": {"max_kbps": 5000, "max_burst_kbps": 50}}
        self.plugin.update_policy_rule(self.admin, LIMIT, egress, policy, changed)
        self.plugin.delete_policy_rule(self.admin, DSCP, dscp, policy)
        self.plugin.update_policy(self.admin, policy, {"policy": {"name": "silver"}})
        self.work()
        row = self.policy_row(policy)
        assert (row.name, row.egress, row.dscp) == ("silver", BandwidthLimit(5000, 50), None)
        self.plugin.delete_policy(self.admin, policy)
        self.work()
        assert self.ids("qos:*") == set()
        assert db.pending(self.admin) == 0

    def test_ports_and_networks_name_their_policies(self):
        gold, silver = self.policy(), self.policy(name="silver")
        with self.network() as net, self.subnet(net) as subnet, self.port(subnet) as made:
            port, network = made["port"], net["network"]
            self.give(gold, network, port)
            self.give(silver, network)
            self.work()
            assert self.port_row(port).qos == gold
            assert self.row(LogicalSwitch, network["id"], f"net:{network['id']}").qos == silver
            self.give(silver, network, port)
            self.work()
            assert self.port_row(port).qos == silver

    def test_a_change_of_a_policy_costs_one_row_however_many_ports_have_it(self):
        policy = self.policy()
        rule = self.limit(policy, 1000)
        with self.network() as net, self.subnet(net) as subnet, self.port(subnet) as one, self.port(subnet) as two:
            for port in (one, two):
                self.give(policy, net["network"], port["port"])
            self.work()
            changed = {"bandwidth_limit_rule": {"max_kbps": 5000}}
            self.plugin.update_policy_rule(self.admin, LIMIT, rule, policy, changed)
            assert db.waiting(self.admin) == {("qos", policy)}
            self.work()
            assert self.policy_row(policy).egress.rate == 5000

    def test_the_entry_stands_in_the_transaction_of_the_change(self):
        policy = self.policy()
        self.work()
        body = {"bandwidth_limit_rule": {"max_kbps": 1000, "max_burst_kbps": 0, "direction": "egress"}}
        drivers = self.plugin.driver_manager
        seen = []

        def refuse(method, context, *_args):
            if method.endswith("_precommit"):
                context.session.flush()
                seen.append({tuple(row) for row in context.session.query(db.JournalEntry.kind).all()})
                raise exceptions.BadRequest(resource="qos", msg="refused")

        drivers.call, call = refuse, drivers.call
        with pytest.raises(exceptions.BadRequest):
            self.plugin.create_policy_rule(self.admin, LIMIT, policy, body)
        drivers.call = call
        assert ("qos",) in seen[0]
        assert db.pending(get_admin_context()) == 0

    def test_repair_finds_what_was_lost_spoilt_and_left_over(self):
        policy = self.policy()
        self.limit(policy, 1000)
        with self.network() as net, self.subnet(net) as subnet, self.port(subnet) as port:
            self.give(policy, net["network"], port["port"])
            self.work()
            self.store.call(founding.found)
            row, lport = self.policy_row(policy), self.port_row(port["port"])
            spoils = {
                row.id: (lambda: self.store.commit(Txn((Delete(Key(row.scope, "QosPolicy", row.id)),)))),
                "gone": lambda: self.put(replace(row, id="gone")),
                lport.id: lambda: self.put(replace(lport, qos=None)),
            }
            for source in (Plugin, Survey):
                for name, spoil in spoils.items():
                    spoil()
                    report = Repair(self.df.workers.dfdb, source()).run(fix=True)
                    assert [it.id for it in report.findings] == [name]
                    assert report.clean
                    assert Repair(self.df.workers.dfdb, source()).run(fix=False).findings == ()
                assert (self.policy_row(policy), self.port_row(port["port"]).qos) == (row, policy)


class TestRefusals(QosTestCase):
    """What nobody here could keep is refused when it would touch a port that we have bound."""

    def bound(self):
        self.chassis("h1")
        return self.port(is_admin=True, arg_list=("binding:host_id",), **{"binding:host_id": "h1"})

    def test_a_port_gets_no_policy_with_a_rule_that_is_not_supported(self):
        for rule, name, figures in (
            (rules.QosMinimumBandwidthRule, "minimum_bandwidth_rule", {"min_kbps": 10, "direction": "egress"}),
            (rules.QosMinimumPacketRateRule, "minimum_packet_rate_rule", {"min_kpps": 10, "direction": "egress"}),
        ):
            policy = self.policy()
            self.plugin.create_policy_rule(self.admin, rule, policy, {name: figures})
            with self.bound() as port:
                body = {"port": {"qos_policy_id": policy}}
                refused = self._update("ports", port["port"]["id"], body, expected_code=409, as_admin=True)
                assert "is not supported by port" in refused["NeutronError"]["message"]
                assert self.core.get_port(self.admin, port["port"]["id"])["qos_policy_id"] is None

    def test_a_policy_of_a_port_gets_no_rule_that_is_not_supported(self):
        policy = self.policy()
        self.limit(policy, 1000)
        with self.bound() as port:
            self.give(policy, {"id": port["port"]["network_id"]}, port["port"])
            body = {"packet_rate_limit_rule": {"max_kpps": 10, "max_burst_kpps": 10, "direction": "egress"}}
            with pytest.raises(qos_exc.QosRuleNotSupported):
                self.plugin.create_policy_rule(self.admin, rules.QosPacketRateLimitRule, policy, body)

    def test_the_api_tells_what_is_supported(self):
        types = {it["type"] for it in self.plugin.get_rule_types(self.admin)}
        assert types == {"bandwidth_limit", "dscp_marking"}
