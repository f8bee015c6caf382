"""Our driver alone under Neutron's API: what an API call leaves in the DF DB, and what a host's word does to a port."""

from __future__ import annotations

import logging
from unittest import mock

import df_ml2
from msgspec.structs import replace
from neutron.db import provisioning_blocks
from neutron.objects import provisioning_blocks as blocks_objects
from neutron_lib import constants
from neutron_lib.callbacks import events, registry, resources
from neutron_lib.context import get_admin_context
from neutron_lib.plugins import directory
from oslo_config import cfg

from dragonflow.model import Binding, BridgeMapping, Chassis, DhcpOption, LogicalSwitch, Subnet, encode
from dragonflow.neutron import agents, db
from dragonflow.neutron.binding import AGENT_TYPE, HostNow
from dragonflow.neutron.journal import RECENT
from dragonflow.neutron.mirror import Mirror
from dragonflow.neutron.repair import Repair
from dragonflow.neutron.source import Plugin
from dragonflow.neutron.status import Neutron
from dragonflow.neutron.survey import Survey
from dragonflow.neutron.tunnels import Tunnel
from dragonflow.store.protocol import Delete, Key, Put, StoreCorrupt, Txn
from dragonflow.testing import founding

MAC = "fa:16:3e:00:00:09"
HOST = {"arg_list": ("binding:host_id",), "binding:host_id": "h1"}
COMPUTE = {"arg_list": ("binding:host_id", "device_owner"), "binding:host_id": "h1", "device_owner": "compute:nova"}


class TestRows(df_ml2.DfMl2TestCase):
    def test_a_network_a_subnet_and_a_port_appear_and_go(self):
        self.chassis()
        with self.network() as net, self.subnet(net) as sub, self.port(sub, is_admin=True, **HOST) as made:
            network, subnet, port = net["network"], sub["subnet"], made["port"]
            self.work()
            scope = f"net:{network['id']}"
            switch = self.row(LogicalSwitch, network["id"], scope)
            assert (switch.key, switch.network_type) == (1, "local")
            assert self.row(Subnet, subnet["id"], scope).cidr == "10.0.0.0/24"
            row = self.port_row(port)
            assert (row.mac, row.chassis, row.vif_type) == (port["mac_address"], "h1", "ovs")
            binding = Binding(id=port["id"], host="h1", network=network["id"], generation=row.generation)
            assert self.row(Binding, port["id"], "host:h1") == binding
            self._delete("ports", port["id"], as_admin=True)
            self._delete("networks", network["id"])
        self.work()
        assert self.ids("net:*", "host:*") == set()
        assert db.pending(get_admin_context()) == 0
        assert "KeyOwner" not in {kind for kind, _ in self.ids("keys:*")}

    def test_a_failed_transaction_leaves_no_entry(self):
        manager = directory.get_plugin().mechanism_manager
        hook = manager.create_network_precommit

        def fail(context):
            hook(context)
            raise RuntimeError("after the entry was written")

        with mock.patch.object(manager, "create_network_precommit", side_effect=fail):
            assert self._create_network(self.fmt, "n", True).status_int == 500
        kinds = {kind for kind, _ in db.waiting(get_admin_context())}
        assert kinds == {"secgroup"}, "the project's default group, which Neutron makes first"

    def test_api_calls_succeed_while_the_df_db_is_away_and_all_arrives_after(self):
        self.chassis()
        with self.away():
            with self.port(is_admin=True, **HOST) as port:
                assert self.journal.work() > 0, "a pause, not an exception"
                assert port["port"]["binding:vif_type"] == "binding_failed", "nothing was ever known of h1"
            assert db.pending(get_admin_context()) >= 3
        self.work()
        assert self.port_row(port["port"]) is not None
        assert db.pending(get_admin_context()) == 0

    def test_a_worker_killed_before_the_write_is_finished_by_another(self):
        with self.network() as network:
            context = get_admin_context()
            claimed = {entry.kind for entry in db.claim(context, 60.0)}
            assert claimed == {"network", "secgroup"}, "by the one who is killed now"
            self.work()
            assert set() == self.ids("net:*"), "the claim holds"
            seqs = [entry.seq for entry in context.session.query(db.JournalEntry)]
            db.postpone(context, seqs, -1.0)
            self.work()
            assert {("LogicalSwitch", network["network"]["id"])} == self.ids("net:*")

    def test_an_object_that_cannot_be_written_does_not_hold_up_the_others(self):
        with self.network() as first, self.network() as second:
            broken, load = first["network"]["id"], Plugin.load

            def fail(source, kind, id):
                if id == broken:
                    raise RuntimeError("no row can be made of this")
                return load(source, kind, id)

            with mock.patch.object(Plugin, "load", autospec=True, side_effect=fail):
                self.work()
            assert {("LogicalSwitch", second["network"]["id"])} == self.ids("net:*")
            assert {("network", broken)} == db.waiting(get_admin_context())

    def test_entries_of_one_object_are_written_once(self):
        with self.network() as network:
            for name in ("a", "b", "c"):
                self._update("networks", network["network"]["id"], {"network": {"name": name}})
            with mock.patch.object(Plugin, "load", autospec=True, side_effect=Plugin.load) as load:
                self.work()
            assert sorted(call.args[1] for call in load.call_args_list) == ["network", "secgroup"]
            assert self.row(LogicalSwitch, network["network"]["id"], f"net:{network['network']['id']}").name == "c"

    def test_what_the_df_db_may_have_lost_after_it_was_acknowledged_is_written_again(self):
        with self.network() as kept, self.network() as gone, self.network() as old:
            now = [0.0]
            self.journal._clock = lambda: now[0]
            self.work()
            keys = [
                Key(f"net:{each}", "LogicalSwitch", each)
                for each in (net["network"]["id"] for net in (kept, gone, old))
            ]
            now[0] += RECENT + 1
            self._update("networks", keys[0].id, {"network": {"name": "new"}})
            self._delete("networks", keys[1].id)
            lost = self.store.get(keys[1])
            self.work()
        # A fail-over to a replica that had none of these three: a change, a deletion, and one that is long past.
        self.store.commit(Txn((Delete(keys[0]), Put(keys[1], lost.data), Delete(keys[2]))))
        self.work()
        assert ("LogicalSwitch", keys[0].id) not in self.ids("net:*"), "nobody has said anything"
        self.journal.doubt()
        self.work()
        assert self.row(LogicalSwitch, keys[0].id, keys[0].scope).name == "new"
        assert self.ids("net:*") == {("LogicalSwitch", keys[0].id)}, "what is long past is the mender's"
        with mock.patch.object(db, "claim", return_value=[]) as claim:
            self.work()
        assert claim.call_count == 1
        assert db.pending(get_admin_context()) == 0, "once is enough"

    def test_what_a_port_tells_its_dhcp_client_arrives_and_changes(self):
        options = [{"opt_name": "mtu", "opt_value": "1300"}, {"opt_name": "router", "opt_value": ""}]
        with self.port(arg_list=("extra_dhcp_opts",), extra_dhcp_opts=options) as port:
            self.work()
            assert self.port_row(port["port"]).dhcp_options == (DhcpOption("mtu", "1300"), DhcpOption("router", ""))
            network = self.row(LogicalSwitch, port["port"]["network_id"], f"net:{port['port']['network_id']}")
            assert network.dns_domain == cfg.CONF.dns_domain == "openstacklocal"
            change = {"extra_dhcp_opts": [{"opt_name": "mtu", "opt_value": None}]}
            self._update("ports", port["port"]["id"], {"port": change})
            self.work()
            assert self.port_row(port["port"]).dhcp_options == (DhcpOption("router", ""),)


class TestBinding(df_ml2.DfMl2TestCase):
    def bound(self, host: str = "h1", **fields: object) -> dict:
        arguments = {"binding:host_id": host, **fields}
        with self.port(is_admin=True, arg_list=tuple(arguments), **arguments) as port:
            return port["port"]

    def test_a_host_without_a_live_chassis_is_refused_once_and_clearly(self):
        self.chassis("dead", alive=False)
        for host, reason in (("unknown", "has no chassis"), ("dead", "is not alive")):
            with self.assertLogs("dragonflow.neutron.mech_driver", logging.WARNING) as logs:
                assert self.bound(host)["binding:vif_type"] == "binding_failed"
            assert len(logs.output) == 1, logs.output
            assert host in logs.output[0]
            assert reason in logs.output[0]

    def test_vhost_user(self):
        self.chassis(vhostuser_socket_dir="/run/vhost")
        port = self.bound()
        assert port["binding:vif_type"] == "vhostuser"
        assert f"/run/vhost/vhu{port['id'][:11]}" == port["binding:vif_details"]["vhostuser_socket"]

    def test_while_the_df_db_is_away_what_neutrons_agents_say_counts(self):
        chassis = self.chassis()
        agents.AgentTable().report(chassis)
        with self.away():
            assert self.bound()["binding:vif_type"] == "ovs"

    def test_a_provider_network_needs_its_bridge(self):
        self.chassis(bridge_mappings=(BridgeMapping("physnet1", "br-ex"),))
        self.chassis("h2")
        provider = {
            "provider:network_type": "vlan",
            "provider:physical_network": "physnet1",
            "provider:segmentation_id": 7,
        }
        with (
            self.network(as_admin=True, arg_list=tuple(provider), **provider) as network,
            self.subnet(network) as subnet,
        ):
            for host, vif_type in (("h1", "ovs"), ("h2", "binding_failed")):
                with self.port(
                    subnet, is_admin=True, arg_list=("binding:host_id",), **{"binding:host_id": host}
                ) as port:
                    assert vif_type == port["port"]["binding:vif_type"]

    def test_each_change_of_the_binding_is_a_new_generation(self):
        self.chassis("h1")
        self.chassis("h2")
        port = self.bound()
        context = get_admin_context()
        seen = [db.generation(context, port["id"])]
        for change in (
            {"binding:host_id": "h2"},
            {"binding:profile": {"a": "b"}},
            {"name": "not a binding"},
            {"admin_state_up": False},
        ):
            directory.get_plugin().update_port(context, port["id"], {"port": change})
            seen.append(db.generation(context, port["id"]))
        first, rebound, profiled, renamed, off = seen
        assert 0 < first < rebound < profiled == renamed == off, seen

    def test_a_live_migration_is_on_both_hosts_and_its_activation_is_a_new_generation(self):
        self.chassis("h1")
        self.chassis("h2")
        port = self.bound(device_owner="compute:nova")
        plugin, context = directory.get_plugin(), get_admin_context()
        self.work()
        before = self.port_row(port)
        plugin.create_port_binding(
            context, port["id"], {"binding": {"host": "h2", "vnic_type": "normal", "profile": {}}}
        )
        self.work()
        assert (self.port_row(port).chassis, self.port_row(port).standby) == ("h1", ("h2",))
        assert not self.row(Binding, port["id"], "host:h2").active
        plugin.activate(context, "h2", port["id"])
        self.work()
        after = self.port_row(port)
        assert (after.chassis, after.standby) == ("h2", ()), "the old host's binding is unbound"
        assert after.generation > before.generation
        plugin.delete_port_binding(context, "h1", port["id"])
        self.work()
        assert {("Binding", port["id"])} == self.ids("host:*")

    def test_a_host_that_comes_to_life_gets_its_failed_ports(self):
        plugin = directory.get_plugin()
        plugin._rebind_on_revive_agent_types = [AGENT_TYPE]
        chassis = self.chassis(alive=False)
        agents.AgentTable().report(chassis)
        agents.AgentTable().bury(["h1"])
        port = self.bound()
        self.chassis()
        agents.AgentTable().report(chassis)
        assert self._show("ports", port["id"], as_admin=True)["port"]["binding:vif_type"] == "ovs"


class TestStatus(df_ml2.DfMl2TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.chassis()
        with self.port(is_admin=True, **COMPUTE) as port:
            self.id = port["port"]["id"]

    def status(self) -> str:
        return self._show("ports", self.id)["port"]["status"]

    def blocked(self) -> bool:
        return bool(blocks_objects.ProvisioningBlock.get_objects(get_admin_context()))

    def test_a_bound_port_waits_for_its_host(self):
        assert self.status() == "DOWN"
        assert self.blocked()
        Neutron().set(self.id, "ACTIVE")
        assert self.status() == "ACTIVE"
        Neutron().set(self.id, "DOWN")
        assert self.status() == "DOWN"
        assert self.blocked()

    def test_a_port_waits_for_others_too_and_all_hear_of_its_turn(self):
        """The way of many ports at once leaves nothing out: blocks of others, callbacks, the revision."""
        context = get_admin_context()
        provisioning_blocks.add_provisioning_component(context, self.id, resources.PORT, "DHCP")
        (now,) = Neutron().ports([self.id])
        assert list(Neutron().turn([now], "ACTIVE")) == []
        assert self.status() == "DOWN"
        before = self._show("ports", self.id)["port"]["revision_number"]
        heard = []
        hear = lambda resource, event, trigger, payload: heard.append((event, payload.resource_id))  # noqa: E731
        for event in (events.BEFORE_UPDATE, events.AFTER_UPDATE):
            registry.subscribe(hear, resources.PORT, event)
        provisioning_blocks.provisioning_complete(context, self.id, resources.PORT, "DHCP")
        assert self.status() == "ACTIVE"
        Neutron().set(self.id, "DOWN")
        heard.clear()
        assert list(Neutron().turn([now], "ACTIVE")) == [self.id]
        assert self.status() == "ACTIVE"
        assert heard == [(events.BEFORE_UPDATE, self.id), (events.AFTER_UPDATE, self.id)]
        assert self._show("ports", self.id)["port"]["revision_number"] > before

    def test_who_listens_for_provisioned_ports_goes_on_to_hear_of_them(self):
        heard = []
        hear = lambda resource, event, trigger, payload: heard.append(payload.resource_id)  # noqa: E731
        registry.subscribe(hear, resources.PORT, provisioning_blocks.PROVISIONING_COMPLETE)
        Neutron().turn(list(Neutron().ports([self.id])), "ACTIVE")
        assert (heard, self.status()) == ([self.id], "ACTIVE")

    def test_a_status_alone_is_nothing_for_the_journal(self):
        self.work()
        Neutron().set(self.id, "ACTIVE")
        Neutron().set(self.id, "DOWN")
        assert db.waiting(get_admin_context()) == set()
        self._update("ports", self.id, {"port": {"admin_state_up": False}})
        assert db.waiting(get_admin_context()) == {("port", self.id)}

    def test_a_port_that_is_switched_off_goes_down_at_once(self):
        Neutron().set(self.id, "ACTIVE")
        self._update("ports", self.id, {"port": {"admin_state_up": False}})
        assert self.status() == "DOWN"
        Neutron().set(self.id, "ACTIVE")
        assert self.status() == "DOWN", "Neutron refuses"

    def test_a_port_that_is_gone_is_no_error(self):
        self._delete("ports", self.id, as_admin=True)
        Neutron().set(self.id, "ACTIVE")
        Neutron().set(self.id, "DOWN")

    def test_every_change_of_a_port_or_a_binding_shows_in_the_mark(self):
        self.chassis("h2")
        plugin, context = directory.get_plugin(), get_admin_context()
        binding = {"binding": {"host": "h2", "vnic_type": "normal", "profile": {}}}
        marks = [Neutron().mark()]
        for change in (
            lambda: Neutron().set(self.id, "ACTIVE"),
            lambda: plugin.create_port_binding(context, self.id, binding),
            lambda: plugin.activate(context, "h2", self.id),
            lambda: plugin.update_port(context, self.id, {"port": {"admin_state_up": False}}),
            lambda: plugin.delete_port(context, self.id),
        ):
            change()
            marks.append(Neutron().mark())
            assert marks[-1] == Neutron().mark()
        assert len(set(marks)) == len(marks), marks

    def test_the_ports_as_they_are_now(self):
        self.chassis("h2")
        (now,) = Neutron().ports()
        generation = db.generation(get_admin_context(), self.id)
        assert now == db.PortNow(self.id, "DOWN", True, "h1", "ovs", generation, ours=True)
        assert [now] == list(Neutron().ports([self.id, "unknown"]))
        with mock.patch("dragonflow.neutron.db.ports.PAGE", 2):
            for _ in range(4):
                with self.port(is_admin=True):
                    pass
            assert len({port.id for port in Neutron().ports()}) == 5


class TestAgents(df_ml2.DfMl2TestCase):
    def agents(self) -> list[dict]:
        return directory.get_plugin().get_agents(get_admin_context())

    def test_a_chassis_is_an_agent_with_its_tunnel_address(self):
        table = agents.AgentTable()
        table.report(self.chassis(bridge_mappings=(BridgeMapping("physnet1", "br-ex"),)))
        (agent,) = self.agents()
        assert (agent["agent_type"], agent["host"], agent["alive"]) == ("Dragonflow controller", "h1", True)
        assert agent["configurations"]["tunneling_ip"] == "192.0.2.1"
        table.report(self.chassis(), {"203.0.113.9": Tunnel(True, 1.5, 1400)})
        (agent,) = self.agents()
        assert agent["configurations"]["remote_tunnels"] == {"203.0.113.9": {"up": True, "rtt_ms": 1.5, "mtu": 1400}}
        table.bury(["h1"])
        assert not self.agents()[0]["alive"]
        assert table.beat(["h1"]) == 1
        assert self.agents()[0]["alive"]
        assert table.beat(["h2"]) == 0

    def test_an_agent_tells_what_its_host_can_take(self):
        chassis = self.chassis()
        agents.AgentTable().report(chassis)
        assert HostNow(chassis, True) == agents.host_by_agent("h1")
        assert HostNow(None, False) == agents.host_by_agent("h2")
        segments = [
            {"network_type": "vxlan", "physical_network": None},
            {"network_type": "geneve", "physical_network": None},
        ]
        getter = directory.get_plugin().get_agents
        for wanted, hosts in ((segments, {"h1"}), (segments[:1], set())):
            context = get_admin_context()
            assert hosts == self.df.filter_hosts_with_segment_access(context, wanted, ["h1", "h2"], getter)

    def test_others_agents_are_none_of_ours(self):
        agent = {"agent_type": constants.AGENT_TYPE_OVS, "host": "h1", "configurations": {}}
        assert not self.df.check_segment_for_agent({"network_type": "local"}, agent)


class TestRepair(df_ml2.DfMl2TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.chassis()
        with self.network() as network, self.subnet(network) as subnet:
            self.net = network["network"]["id"]
            self.subnet_id = subnet["subnet"]["id"]
            self.ports = []
            for _ in range(3):
                with self.port(subnet, is_admin=True, **HOST) as port:
                    self.ports.append(port["port"])
        self.work()
        self.store.call(founding.found)
        self.right = self.records()

    def records(self) -> dict[Key, bytes]:
        return {record.key: record.data for record in self.store.snapshot(["net:*", "host:*"]).records}

    def repair(self, fix: bool) -> list[tuple[str, str, str]]:
        report = Repair(self.df.workers.dfdb, Plugin()).run(fix)
        assert (bool(report.findings) and not fix) == (not report.clean)
        return [(found.kind, found.id, found.difference.partition(":")[0]) for found in report.findings]

    def test_what_is_right_is_left_alone(self):
        assert self.repair(fix=True) == []

    def test_all_that_can_differ_is_found_and_mended(self):
        first, second, third = (Key(f"net:{self.net}", "LogicalPort", port["id"]) for port in self.ports)
        orphan = self.port_row(self.ports[0])
        self.store.commit(
            Txn(
                (
                    Delete(first),
                    Put(second, b"\x00"),
                    Put(third, encode(replace(self.port_row(self.ports[2]), mac="00:00:00:00:00:01"))),
                    Delete(Key(f"net:{self.net}", "Subnet", self.subnet_id)),
                    Delete(Key("host:h1", "Binding", self.ports[2]["id"])),
                    Put(Key("host:h9", "Binding", self.ports[2]["id"]), b"{}"),
                )
            )
        )
        self.put(replace(orphan, id="orphan", key=77))
        expected = {
            ("LogicalPort", first.id, "missing"),
            ("LogicalPort", second.id, "corrupt"),
            ("LogicalPort", third.id, "stale"),
            ("LogicalPort", "orphan", "orphan"),
            ("Subnet", self.subnet_id, "missing"),
            ("Binding", third.id, "missing on host"),
            ("Binding", third.id, "orphan"),
        }
        assert expected <= set(self.repair(fix=False))
        assert expected - {("Binding", third.id, "missing on host")} <= set(self.repair(fix=True))
        assert self.repair(fix=False) == []
        assert self.right.keys() == self.records().keys()

    def test_keys_that_are_leaked_or_given_twice(self):
        rows = [self.port_row(port) for port in self.ports]
        self.put(replace(rows[0], key=rows[1].key))
        self.store.commit(Txn((Put(Key("keys:port", "KeyOwner", "ghost"), b'{"schema":"KeyOwner/1","key":50}'),)))
        found = self.repair(fix=False)
        assert ("key:port", "ghost", "leaked") in found
        assert any(kind == "key:port" and "is also that of" in what for kind, _, what in found), found
        self.repair(fix=True)
        assert self.repair(fix=False) == []
        assert len({self.port_row(port).key for port in self.ports}) == 3
        with self.port(is_admin=True) as port:
            self.work()
            keys = {self.port_row(other).key for other in (*self.ports, port["port"])}
            assert len(keys) == 4

    def test_what_is_done_between_the_rows_and_the_keys_costs_nobody_its_key(self):
        """The next pass mends the rows, and finds the keys as they were."""
        keys = [Key(f"net:{self.net}", "LogicalPort", port["id"]) for port in self.ports]
        right = {record.key: record.data for record in self.store.snapshot(["*"]).records}
        stray = replace(self.port_row(self.ports[0]), id="stray", key=999)

        def damage(_objects: int) -> None:
            self.store.commit(Txn((Delete(keys[0]), Put(keys[1], b"?"))))
            self.put(stray)

        assert Repair(self.df.workers.dfdb, Plugin(), damage).run(fix=True).findings == ()
        self.repair(fix=True)
        assert {record.key: record.data for record in self.store.snapshot(["*"]).records} == right

    def test_of_two_rows_with_one_key_each_gets_the_key_that_the_pool_says(self):
        right = {record.key: record.data for record in self.store.snapshot(["*"]).records}
        rows = [self.port_row(port) for port in self.ports]
        for one, other in ((0, 1), (1, 0)):
            self.put(replace(rows[one], key=rows[other].key))
            self.repair(fix=True)
            assert {record.key: record.data for record in self.store.snapshot(["*"]).records} == right

    def test_a_pool_in_ruins_is_written_anew(self):
        self.store.commit(
            Txn((Put(Key("keys:port", "KeyPool", "port"), b"?"), Delete(Key("keys:port", "KeySlot", "1"))))
        )
        self.store.commit(Txn((Delete(Key(f"net:{self.net}", "LogicalPort", self.ports[0]["id"])),)))
        self.repair(fix=True)
        self.repair(fix=True)
        assert self.repair(fix=False) == []
        assert self.right.keys() == self.records().keys()

    def test_what_waits_in_the_journal_is_not_judged(self):
        self._update("ports", self.ports[0]["id"], {"port": {"name": "new"}})
        report = Repair(self.df.workers.dfdb, Plugin()).run(fix=False)
        assert (report.findings, report.pending) == ((), 1)

    def test_what_changes_between_two_looks_is_not_judged(self):
        """A user's change that comes after the DF DB was read and before Neutron is: it waits in the journal, or is written."""
        port, load = self.ports[0], Plugin.load
        for written in (False, True):
            self.put(replace(self.port_row(port), name="behind our back"))
            changed = []

            def change(source, kind, id, written=written, changed=changed):
                if not changed and id == port["id"]:
                    changed.append(id)
                    self._update("ports", id, {"port": {"name": f"new {written}"}})
                    if written:
                        self.work()
                return load(source, kind, id)

            with mock.patch.object(Plugin, "load", autospec=True, side_effect=change):
                report = Repair(self.df.workers.dfdb, Plugin()).run(fix=False)
            assert (changed, report.findings) == ([port["id"]], ())
            self.work()

    def test_the_quick_look_sees_what_the_thorough_one_sees(self):
        """Ports with all that a row tells; the columns must say the same as Neutron's API."""
        self.chassis("h2")
        plugin, context = directory.get_plugin(), get_admin_context()
        pairs = {
            "allowed_address_pairs": [{"ip_address": "10.1.0.0/16"}, {"ip_address": "10.0.0.9", "mac_address": MAC}]
        }
        plugin.update_port(context, self.ports[0]["id"], {"port": pairs})
        off = {"port_security_enabled": False, "security_groups": [], "admin_state_up": False}
        plugin.update_port(context, self.ports[1]["id"], {"port": off})
        plugin.update_port(context, self.ports[2]["id"], {"port": {"device_owner": "compute:nova", "name": "x"}})
        binding = {"binding": {"host": "h2", "vnic_type": "normal", "profile": {}}}
        plugin.create_port_binding(context, self.ports[2]["id"], binding)
        with self.port(), mock.patch("dragonflow.neutron.survey.PAGE", 2):
            thorough = {found.key: found.make(7) for found in Plugin().all()}
            assert thorough == {found.key: found.make(7) for found in Survey().all()}
        assert len(thorough) > 6

    def test_rows_of_a_newer_dragonflow_are_left_alone(self):
        newer = Key(f"net:{self.net}", "LogicalPort", self.ports[0]["id"])
        data = self.right[newer].replace(b"LogicalPort/1", b"LogicalPort/9")
        self.store.commit(Txn((Put(newer, data), Put(Key(f"net:{self.net}", "Wonder", "w"), b"{}"))))
        report = Repair(self.df.workers.dfdb, Plugin()).run(fix=True)
        left = {found.kind for found in report.findings if not found.fixed}
        assert {"LogicalPort", "Wonder"} <= left
        assert data == self.records()[newer]

    # -- a DF DB of which nobody has said that it is whole --------------------------------------------------------------

    NEW = ("Region", "region", "missing")

    def wipe(self) -> None:
        self.store.commit(Txn(tuple(Delete(record.key) for record in self.store.snapshot(["*"]).records)))

    def whole(self) -> bool:
        return self.store.get(founding.KEY) is not None

    def test_a_df_db_that_was_there_before_is_said_to_be_whole_and_nothing_else_is_done(self):
        self.store.commit(Txn((Delete(founding.KEY),)))
        assert self.repair(fix=False) == [self.NEW]
        assert not self.whole()
        assert self.repair(fix=True) == [self.NEW]
        assert self.whole()
        assert self.right == self.records()
        assert self.ids("region") == {("Region", "region")}

    def test_a_df_db_that_was_wiped_is_filled_and_then_said_to_be_whole(self):
        agents.AgentTable().report(self.chassis("h2"))
        chassis = self.row(Chassis, "h2", "chassis")
        self.wipe()
        found = self.repair(fix=True)
        assert found[-1] == self.NEW
        assert ("Chassis", "h2", "missing") in found
        assert self.whole()
        assert self.right.keys() == self.records().keys()
        assert self.row(Chassis, "h2", "chassis") == chassis
        assert self.repair(fix=False) == []

    def test_it_is_not_said_of_a_df_db_that_was_wiped_meanwhile(self):
        self.store.commit(Txn((Delete(founding.KEY),)))
        strays = Repair._strays

        def wiped(repair, fix):
            self.wipe()
            return strays(repair, fix)

        with mock.patch.object(Repair, "_strays", autospec=True, side_effect=wiped):
            report = Repair(self.df.workers.dfdb, Plugin()).run(fix=True)
        assert not report.clean
        assert not self.whole()
        assert self.NEW in self.repair(fix=True)
        assert self.right.keys() == self.records().keys()

    def test_it_is_not_said_while_something_is_missing(self):
        self.wipe()
        with mock.patch.object(Mirror, "sync", side_effect=StoreCorrupt("no")):
            report = Repair(self.df.workers.dfdb, Plugin()).run(fix=True)
        assert not report.clean
        assert not self.whole()

    def test_what_waits_in_the_journal_is_there_before_it_is_said(self):
        self.wipe()
        self._update("ports", self.ports[0]["id"], {"port": {"name": "new"}})
        self.repair(fix=True)
        assert self.whole()
        assert self.right.keys() == self.records().keys()
        assert self.port_row(self.ports[0]).name == "new"
