"""Live migration as Nova does it: further bindings of a port by Neutron's API, and what each step leaves in the DF DB."""

from __future__ import annotations

import time
from unittest import mock

import df_ml2
import pytest
from neutron_lib.context import get_admin_context
from neutron_lib.db import api as db_api
from neutron_lib.plugins import directory
from oslo_config import cfg

from dragonflow.model import Binding
from dragonflow.neutron import db
from dragonflow.neutron.nova import NovaKeeper
from dragonflow.neutron.status import Neutron, turn

COMPUTE = {
    "binding:host_id": "h1",
    "device_owner": "compute:nova",
    "device_id": "6ec1b1c3-4d6b-4a3b-9f06-3e2d4f3a8f11",
}


class TestMigration(df_ml2.DfMl2TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.chassis("h1")
        self.chassis("h2")
        with self.port(is_admin=True, arg_list=tuple(COMPUTE), **COMPUTE) as port:
            self.port_ = port["port"]
        self.id = self.port_["id"]
        self.plugin, self.admin = directory.get_plugin(), get_admin_context()
        self.work()
        Neutron().set(self.id, "ACTIVE")

    def prepare(self, host: str = "h2", **profile: str) -> dict:
        binding = {"binding": {"host": host, "vnic_type": "normal", "profile": profile}}
        return self.plugin.create_port_binding(self.admin, self.id, binding)

    def now(self) -> db.PortNow:
        (now,) = Neutron().ports([self.id])
        return now

    def test_each_step_reaches_the_df_db_and_wakes_the_journal(self):
        with mock.patch.object(self.df.workers, "wake", side_effect=self.journal.work) as wake:
            assert self.prepare()["vif_type"] == "ovs"
            row = self.port_row(self.port_)
            assert (row.chassis, row.standby, wake.call_count) == ("h1", ("h2",), 1)
            assert not self.row(Binding, self.id, "host:h2").active
            self.plugin.delete_port_binding(self.admin, "h2", self.id)
            assert (self.port_row(self.port_).standby, wake.call_count) == ((), 2)
            assert self.ids("host:*") == {("Binding", self.id)}
            self.prepare()
            commits = []
            commit = self.store.call

            def spy(work):
                before = self.store.portal.run(lambda: self.store.underlying().snapshot(["net:*"])).revision
                done = commit(work)
                after = self.store.portal.run(lambda: self.store.underlying().snapshot(["net:*"])).revision
                if after != before:
                    commits.append((self.port_row_quietly(), self.hosts_quietly()))
                return done

            with mock.patch.object(self.store, "call", side_effect=spy):
                self.plugin.activate(self.admin, "h2", self.id)
            assert {("h2", ("h2",))} == {(row.chassis, hosts) for row, hosts in commits}, (
                "host and bindings in one commit"
            )
        assert len({row.generation for row, _ in commits}) == 1

    def port_row_quietly(self):
        from dragonflow.model import LogicalPort, decode

        scope = f"net:{self.port_['network_id']}"
        records = self.store.portal.run(lambda: self.store.underlying().snapshot([scope])).records
        (record,) = [record for record in records if record.key.kind == "LogicalPort"]
        row = decode(record.key.kind, record.key.id, record.data)
        assert isinstance(row, LogicalPort)
        return row

    def hosts_quietly(self) -> tuple[str, ...]:
        records = self.store.portal.run(lambda: self.store.underlying().snapshot(["host:*"])).records
        return tuple(sorted(record.key.scope.removeprefix("host:") for record in records))

    def test_a_host_that_can_not_take_the_port_is_refused(self):
        with pytest.raises(Exception, match="h9"):
            self.prepare("h9")
        self.work()
        assert self.port_row(self.port_).standby == ()

    def test_the_targets_word_counts_from_the_activation_on_and_the_sources_no_more(self):
        from test_status import said

        self.prepare()
        before = self.now()
        assert before.migrating
        assert [db.StandbyNow(self.id, "h2", before.generation)] == Neutron().standby()
        word = {host: said("ACTIVE", self.id, host, before.generation) for host in ("h1", "h2")}
        self.plugin.activate(self.admin, "h2", self.id)
        after = self.now()
        assert (after.host, after.status, after.migrating) == ("h2", "DOWN", True), "ML2 says DOWN itself"
        assert turn(after, word["h2"]) is None, "what it said of the old generation is no proof for the new"
        assert turn(after, said("ACTIVE", self.id, "h2", after.generation)) == "ACTIVE"
        Neutron().turn([after], "ACTIVE")
        assert self.now().status == "ACTIVE"
        assert turn(self.now(), said("DOWN", self.id, "h1", before.generation)) is None
        assert turn(self.now(), said("DOWN", self.id, "h1", after.generation)) is None
        assert Neutron().standby() == [], "the source is no longer prepared"

    def test_a_turn_that_was_decided_for_the_source_is_not_made_at_the_target(self):
        self.prepare()
        decided = self.now()
        self.plugin.activate(self.admin, "h2", self.id)
        for status in ("ACTIVE", "DOWN"):
            with pytest.raises(db.StaleTurn):
                Neutron().turn([decided], "ACTIVE")
            assert self.now().status == "DOWN", status
        Neutron().turn([self.now()], "ACTIVE")
        with pytest.raises(db.StaleTurn):
            Neutron().turn([decided], "DOWN")
        assert self.now().status == "ACTIVE"


class TestOwedEvents(df_ml2.DfMl2TestCase):
    def setUp(self) -> None:
        super().setUp()
        cfg.CONF.set_override("notify_nova_on_port_status_changes", True)
        self.chassis("h1")
        with self.port(is_admin=True, arg_list=tuple(COMPUTE), **COMPUTE) as port:
            self.id = port["port"]["id"]
        self.notifier = mock.Mock()
        directory.get_plugin().nova_notifier = self.notifier
        self.addCleanup(lambda: delattr(directory.get_plugin(), "nova_notifier"))

    def wait(self, seconds: float) -> None:
        """The clock is the database's: time passes by all that was noted growing older."""
        with db_api.CONTEXT_WRITER.using(get_admin_context()) as session:
            older = {"due": db.OwedEvent.due - seconds, "created_at": db.OwedEvent.created_at - seconds}
            session.query(db.OwedEvent).update(older)

    def look(self) -> list[str]:
        self.notifier.batch_notifier.queue_event.reset_mock()
        NovaKeeper().look()
        return [call.args[0]["tag"] for call in self.notifier.batch_notifier.queue_event.call_args_list]

    def test_an_event_is_sent_again_until_nova_takes_it(self):
        Neutron().set(self.id, "ACTIVE")
        assert self.look() == [], "Neutron's own try may still be on its way"
        self.wait(10)
        assert self.look() == [self.id]
        assert self.look() == [], "give it time"
        self.wait(10)
        assert self.look() == [self.id]
        db.accepted(get_admin_context(), [self.id], time.monotonic())
        self.wait(100)
        assert self.look() == []

    def test_what_no_longer_stands_is_not_sent(self):
        Neutron().set(self.id, "ACTIVE")
        Neutron().set(self.id, "DOWN")
        self.wait(10)
        assert self.look() == []
        assert get_admin_context().session.query(db.OwedEvent).count() == 0

    def test_what_nova_refuses_is_given_up_when_nova_no_longer_waits(self):
        Neutron().set(self.id, "ACTIVE")
        self.wait(10)
        db.refused(get_admin_context(), [self.id], 300.0, 30.0)
        assert self.look() == []
        self.wait(31)
        assert self.look() == [self.id]
        self.wait(300)
        db.refused(get_admin_context(), [self.id], 300.0, 30.0)
        self.wait(300)
        assert self.look() == []

    def test_ports_that_are_not_novas_owe_nothing(self):
        with self.port(is_admin=True, arg_list=("binding:host_id",), **{"binding:host_id": "h1"}) as port:
            Neutron().set(port["port"]["id"], "ACTIVE")
        self.wait(10)
        assert self.look() == []
