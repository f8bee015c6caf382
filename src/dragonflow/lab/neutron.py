"""One region's Neutron: its configuration files and its API servers, each under a gunicorn of its own.

One worker process with threads a server: Neutron's own work is bound by the processor, and a second one costs 200 MB and as long
a start again. Configuration is as a deployment would write it; only the identity filter (``callers``), the message bus that
nobody is on, and the paths are the lab's.
"""

from __future__ import annotations

import configparser
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx

from dragonflow.lab.daemon import Daemon
from dragonflow.lab.process import Process, Server
from dragonflow.lab.system import LabError, TimedOut, wait_until

START_TIMEOUT = 120.0
REQUEST_TIMEOUT = 60.0

_PIPELINE = (
    "cors http_proxy_to_wsgi request_id callers catch_errors osprofiler keystonecontext extensions neutronapiapp_v2_0"
)

_GUNICORN = """\
# gunicorn takes this file from its working directory: Neutron would take gunicorn's command line for its own.
wsgi_app = "neutron.wsgi.api:application"
bind = "127.0.0.1:{port}"
workers = 1
worker_class = "gthread"
threads = 8
timeout = 120
graceful_timeout = 5
keepalive = 300  # a client's idle connection isn't closed just when it sends again
proc_name = "neutron-api"
"""


class Neutron:
    """One API server of a region; ``url`` is its root, without /v2.0."""

    def __init__(self, name: str, home: Path, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        config = {
            "OS_NEUTRON_CONFIG_DIR": str(directory),
            "OS_NEUTRON_CONFIG_FILES": "neutron.conf;ml2_conf.ini",
            "TMPDIR": str(
                directory / "tmp"
            ),  # Neutron's worker election leaves files there that outlive a killed server
            "PYTHONWARNINGS": "ignore",
        }
        self.daemon = Daemon(name, home, directory, [sys.executable, "-m", "gunicorn"], env=config)

    def configure(self, *, sql_url: str, nova_port: int, driver: Mapping[str, str]) -> None:
        """Write the configuration; ``driver`` is the group [df] of the mechanism driver."""
        for name in ("tmp", "state", "lock"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        self._write("neutron.conf", self._neutron(sql_url, nova_port))
        self._write("ml2_conf.ini", self._ml2(driver))
        (self.directory / "gunicorn.conf.py").write_text(_GUNICORN.format(port=self.port))
        (self.directory / "api-paste.ini").write_text(_paste())

    def _neutron(self, sql_url: str, nova_port: int) -> dict[str, dict[str, str]]:
        unlimited = "1000000"  # -1 would do, but some of Neutron's API tests dislike it
        quotas = ("network", "subnet", "port", "router", "floatingip", "security_group", "security_group_rule")
        return {
            "DEFAULT": {
                "core_plugin": "ml2",
                "service_plugins": "router,port_forwarding,trunk,qos",
                "enable_dvr": "false",  # that is the way of Neutron's own agents
                "auth_strategy": "noauth",  # the pipeline of that name in our api-paste.ini
                "transport_url": "fake://",
                "rpc_workers": "0",
                "rpc_state_report_workers": "0",
                "enable_traditional_dhcp": "false",
                "api_paste_config": str(self.directory / "api-paste.ini"),
                "state_path": str(self.directory / "state"),
                "notify_nova_on_port_status_changes": "true",
                "send_events_interval": "1",  # seconds between two batches of events to Nova: the least that Neutron takes
            },
            "service_providers": {
                "service_provider": "L3_ROUTER_NAT:df:dragonflow.neutron.l3.DragonflowRouters:default"
            },
            "oslo_concurrency": {"lock_path": str(self.directory / "lock")},
            "database": {"connection": sql_url, "max_pool_size": "20", "max_overflow": "50"},
            "nova": {"auth_type": "none", "endpoint": f"http://127.0.0.1:{nova_port}/v2.1"},
            "quotas": {f"quota_{name}": unlimited for name in quotas},
        }

    @staticmethod
    def _ml2(driver: Mapping[str, str]) -> dict[str, dict[str, str]]:
        return {
            "ml2": {
                "type_drivers": "local,flat,vlan,geneve,vxlan,gre",
                "project_network_types": "geneve",
                "mechanism_drivers": "df",
                "extension_drivers": "port_security,qos",
            },
            "ml2_type_flat": {"flat_networks": "*"},
            "ml2_type_vlan": {"network_vlan_ranges": "physnet1:100:199"},
            "ml2_type_geneve": {"vni_ranges": "1:65535", "max_header_size": "38"},
            "ml2_type_vxlan": {"vni_ranges": "65536:131071"},
            "ml2_type_gre": {"tunnel_id_ranges": "131072:196607"},
            "df": dict(driver),
        }

    def _write(self, name: str, sections: Mapping[str, Mapping[str, str]]) -> None:
        lines = [
            line
            for section, options in sections.items()
            for line in (f"[{section}]", *(f"{key} = {value}" for key, value in options.items()), "")
        ]
        (self.directory / name).write_text("\n".join(lines))

    def start(self, *, wait: bool = True) -> None:
        """Start it; returns when it answers, unless told not to wait."""
        self.daemon.start()
        if wait:
            self.wait()

    def wait(self) -> None:
        """Wait until it answers.

        :raises LabError: it ended, or doesn't answer in time; the message ends with the last lines of its log.
        """
        try:
            wait_until(self._answers, f"{self.daemon.name} to answer", START_TIMEOUT, 0.1)
        except TimedOut as error:
            raise LabError(f"{error}; {self.daemon.log} says:\n{self.daemon.last_words()}") from None

    def _answers(self) -> bool:
        self.daemon.expect_alive()
        if re.search("Worker failed to boot|App failed to load", self.daemon.last_words(5)):
            raise LabError(f"{self.daemon.name} failed to start; {self.daemon.log} says:\n{self.daemon.last_words()}")
        try:
            return httpx.get(self.url, timeout=10).is_success
        except httpx.HTTPError:
            return False

    def client(self, project: str | None = None, roles: str | None = None) -> httpx.Client:
        """A client of ``/v2.0``: of the administrator, or of a project's member. Close it, or use it as a context.

        Answers that are no success raise ``httpx.HTTPStatusError``.
        """
        headers = {"X-Project-Id": project, "X-Roles": roles}
        return httpx.Client(
            base_url=f"{self.url}/v2.0",
            headers={name: value for name, value in headers.items() if value is not None},
            timeout=REQUEST_TIMEOUT,
            event_hooks={"response": [_raise]},
        )


class Neutrons:
    """All API servers of a region, which share its SQL database. One alone is called ``name``, several ``name``-1 and so on."""

    def __init__(self, name: str, home: Path, directory: Path, ports: Sequence[int]) -> None:
        self.name = name
        self._all = [
            Neutron(
                name if len(ports) == 1 else f"{name}-{number}",
                home,
                directory if number == 1 else directory / f"neutron-{number}",
                port,
            )
            for number, port in enumerate(ports, 1)
        ]

    def __iter__(self) -> Iterator[Neutron]:
        return iter(self._all)

    @property
    def first(self) -> Neutron:
        """The one that clients are sent to."""
        return self._all[0]

    @property
    def processes(self) -> Mapping[str, Process]:
        """Each server by name."""
        return {server.daemon.name: Server(server.daemon, server.start) for server in self}

    def start(self) -> None:
        """Start those that don't run; returns when all answer."""
        for server in self:
            server.start(wait=False)
        for server in self:
            server.wait()


def _raise(response: httpx.Response) -> None:
    if response.is_error:
        response.read()
        raise httpx.HTTPStatusError(
            f"{response.request.method} {response.request.url}: {response.status_code} {response.text}",
            request=response.request,
            response=response,
        )


def _paste() -> str:
    """Neutron's own api-paste.ini with our identity filter in its pipeline."""
    installed = Path(sys.prefix) / "etc" / "neutron" / "api-paste.ini"
    if not installed.exists():
        installed = Path("/etc/neutron/api-paste.ini")
    text, count = re.subn(
        r"(?m)^(\[composite:neutronapi_v2_0\]\n(?:.*\n)*?noauth = ).*$", rf"\g<1>{_PIPELINE}", installed.read_text()
    )
    check = configparser.ConfigParser(interpolation=None)
    check.read_string(text)
    if count != 1 or check["composite:neutronapi_v2_0"]["noauth"] != _PIPELINE:
        raise LabError(f"{installed}: no pipeline 'noauth' where Neutron 29 has it")
    return f"{text}\n[filter:callers]\npaste.filter_factory = dragonflow.lab.callers:filter_factory\n"
