"""Security groups and address groups under Neutron's API: what each call leaves in the DF DB."""

from __future__ import annotations

from typing import Any

import df_ml2
from neutron.tests.common.test_db_base_plugin_v2 import TEST_PROJECT_ID as PROJECT
from neutron_lib.context import get_admin_context
from neutron_lib.plugins import directory

from dragonflow.model import AddressGroup, GroupMember, SecurityGroup, SecurityRule
from dragonflow.neutron.repair import Repair
from dragonflow.neutron.source import Plugin
from dragonflow.neutron.survey import Survey
from dragonflow.store.protocol import Delete, Key, Txn
from dragonflow.testing import founding


class SecurityGroupsTestCase(df_ml2.DfMl2TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.core = directory.get_plugin()

    @property
    def admin(self) -> Any:
        return get_admin_context()

    def group(self, name: str = "web", **fields: Any) -> str:
        body = {
            "name": name,
            "description": "",
            "project_id": PROJECT,
            "tenant_id": PROJECT,
            "stateful": True,
            **fields,
        }
        return self.core.create_security_group(self.admin, {"security_group": body})["id"]

    def rule(self, group: str, **fields: Any) -> str:
        body = {
            "security_group_id": group,
            "direction": "ingress",
            "ethertype": "IPv4",
            "protocol": None,
            "port_range_min": None,
            "port_range_max": None,
            "remote_group_id": None,
            "remote_address_group_id": None,
            "remote_ip_prefix": None,
            "project_id": PROJECT,
            "tenant_id": PROJECT,
            "description": "",
            **fields,
        }
        return self.core.create_security_group_rule(self.admin, {"security_group_rule": body})["id"]

    def group_row(self, group: str) -> SecurityGroup | None:
        return self.row(SecurityGroup, group, f"secgroup:{group}")

    def rules(self, group: str) -> set[SecurityRule]:
        row = self.group_row(group)
        assert row is not None
        assert len(set(row.rules)) == len(row.rules)
        return set(row.rules)

    def members(self, group: str) -> dict[str, tuple[str, ...]]:
        records = self.store.snapshot([f"members:{group}"]).records
        rows = [self.row(GroupMember, record.key.id, f"members:{group}") for record in records]
        return {row.port: row.addresses for row in rows if row is not None}


class TestRows(SecurityGroupsTestCase):
    def test_a_group_and_its_rules_appear_change_and_go(self):
        group = self.group()
        self.work()
        row = self.group_row(group)
        assert (row.name, row.project, row.stateful) == ("web", PROJECT, True)
        assert row.rules == ()
        tcp = self.rule(group, protocol="tcp", port_range_min=80, port_range_max=90, remote_ip_prefix="10.0.0.0/8")
        self.rule(group, protocol="icmp", port_range_min=0, port_range_max=0)
        self.rule(group, protocol="icmp", ethertype="IPv6", port_range_min=128)
        self.rule(group, protocol="sctp", port_range_min=5, port_range_max=5, remote_group_id=group)
        self.rule(group, protocol="112")
        self.work()
        plain = {
            SecurityRule("ingress", 4, 1, 0, 0),
            SecurityRule("ingress", 6, 58, 128),
            SecurityRule("ingress", 4, 132, 5, 5, remote_group=group),
            SecurityRule("ingress", 4, 112),
        }
        assert self.rules(group) == {*plain, SecurityRule("ingress", 4, 6, 80, 90, prefix="10.0.0.0/8")}
        self.core.delete_security_group_rule(self.admin, tcp)
        self.core.update_security_group(self.admin, group, {"security_group": {"name": "shop"}})
        self.work()
        assert self.rules(group) == plain
        assert self.group_row(group).name == "shop"
        self.core.delete_security_group(self.admin, group)
        self.work()
        assert self.group_row(group) is None

    def test_the_rules_of_others_that_name_a_group_go_with_it(self):
        group, other = self.group(), self.group("db")
        self.rule(other, remote_group_id=group)
        self.work()
        assert self.rules(other)
        self.core.delete_security_group(self.admin, group)
        self.work()
        assert self.rules(other) == set()

    def test_members_follow_the_ports(self):
        group, other = self.group(), self.group("db")
        with self.network() as network, self.subnet(network, cidr="10.0.0.0/24") as subnet:
            fixed = [{"subnet_id": subnet["subnet"]["id"], "ip_address": "10.0.0.5"}]
            with self.port(subnet, fixed_ips=fixed, security_groups=[group, other]) as port:
                port_id = port["port"]["id"]
                self.work()
                assert self.members(group) == self.members(other) == {port_id: ("10.0.0.5",)}
                pair = [{"ip_address": "10.9.0.0/24"}]
                update = {"port": {"security_groups": [other], "allowed_address_pairs": pair}}
                self._update("ports", port_id, update)
                self.work()
                assert self.members(group) == {}
                assert self.members(other) == {port_id: ("10.0.0.5", "10.9.0.0/24")}
            self._delete("ports", port_id)
            self.work()
            assert self.members(other) == {}

    def test_address_groups_appear_change_and_go(self):
        body = {"name": "offices", "description": "", "project_id": PROJECT, "tenant_id": PROJECT}
        addresses = ["192.0.2.0/24", "2001:db8::1/128"]
        made = self.core.create_address_group(self.admin, {"address_group": {**body, "addresses": addresses}})["id"]
        group = self.group()
        self.rule(group, remote_address_group_id=made)
        self.work()
        assert self.rules(group) == {SecurityRule("ingress", 4, address_group=made)}
        assert self.row(AddressGroup, made, f"addrgroup:{made}").addresses == tuple(addresses)
        self.core.remove_addresses(self.admin, made, {"addresses": addresses[:1]})
        self.work()
        assert self.row(AddressGroup, made, f"addrgroup:{made}").addresses == ("2001:db8::1/128",)


class TestRepair(SecurityGroupsTestCase):
    def test_what_is_lost_or_put_there_is_found_and_mended(self):
        self.store.call(founding.found)
        group = self.group()
        self.rule(group, remote_group_id=group)
        with (
            self.network() as network,
            self.subnet(network, cidr="10.0.0.0/24") as subnet,
            self.port(subnet, security_groups=[group]) as port,
        ):
            self.work()
            for source in (Plugin(), Survey()):
                assert Repair(self.df.workers.dfdb, source).run(fix=False).findings == ()
            member = Key(f"members:{group}", "GroupMember", f"{group}/{port['port']['id']}")
            row = Key(f"secgroup:{group}", "SecurityGroup", group)
            self.store.commit(Txn((Delete(member), Delete(row))))
            for source in (Plugin(), Survey()):
                found = Repair(self.df.workers.dfdb, source).run(fix=False).findings
                assert {finding.kind for finding in found} == {"SecurityGroup", "GroupMember"}
            assert Repair(self.df.workers.dfdb, Survey()).run(fix=True).clean
            assert self.members(group)
            assert self.group_row(group)
