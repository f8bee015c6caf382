"""One region's Neutron, by its REST API and nothing else: typed reads and writes, and typed errors.

Where the API is and who asks comes from ``clouds.yaml``, as every OpenStack client reads it. It is read anew after each
failure, so mended credentials need no restart. Calls block, are bounded in time, and are not repeated here: that is the
caller's, who knows what else there is to do.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import msgspec

AGENT_TYPE = "Dragonflow controller"
"""The ``agent_type`` of chassis in Neutron's agent list."""

TIMEOUT = 20.0
"""Seconds that a server may let one wait for the next byte of its answer."""

PAGE = 1000
"""Objects asked for at once."""

_IDS = 100
"""Values of one filter in one question: servers and proxies take URLs of some KB only."""


_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises of what isn't JSON, or not what it should be; the last of brackets within brackets within brackets."""


class CloudError(Exception):
    """A region's API did not do what was asked; ``region`` says whose."""

    def __init__(self, region: str, message: str) -> None:
        super().__init__(f"region {region}: {message}")
        self.region = region


class Unreachable(CloudError):
    """Nobody answered in time, or what answered is out of order (HTTP 429, 5xx)."""


class Unauthorized(CloudError):
    """The credentials are refused (HTTP 401, 403), by Keystone or by Neutron's policy."""


class Misconfigured(CloudError):
    """``clouds.yaml`` has no such cloud, or lacks something that is needed to find its Neutron."""


class Rejected(CloudError):
    """Neutron understood and says no. ``kind`` is its own name for the reason (``IpAddressInUse``, ``OverQuota``, …)."""

    def __init__(self, region: str, message: str, kind: str = "") -> None:
        super().__init__(region, message)
        self.kind = kind


class NotFound(Rejected):
    """There is no such object (HTTP 404)."""


class Conflict(Rejected):
    """The object doesn't get along with others that are there (HTTP 409)."""


class _Object(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of an object of Neutron's: other fields are not even asked for. Absent ones keep their defaults."""

    id: str


class Network(_Object, frozen=True, kw_only=True):
    """A network. ``network_type`` and ``segmentation_id`` are shown to administrators only."""

    name: str = ""
    project_id: str = ""
    tags: tuple[str, ...] = ()
    mtu: int = 0
    network_type: str | None = msgspec.field(default=None, name="provider:network_type")
    segmentation_id: int | None = msgspec.field(default=None, name="provider:segmentation_id")


class Pool(msgspec.Struct, frozen=True):
    """A range of addresses from which Neutron allocates, both ends included."""

    start: str
    end: str


class Subnet(_Object, frozen=True, kw_only=True):
    """A subnet."""

    name: str = ""
    network_id: str
    cidr: str
    ip_version: int
    gateway_ip: str | None = None
    allocation_pools: tuple[Pool, ...] = ()
    ipv6_address_mode: str | None = None
    ipv6_ra_mode: str | None = None


class FixedIp(msgspec.Struct, frozen=True, order=True):
    """An address of a port."""

    subnet_id: str
    ip_address: str


class AddressPair(msgspec.Struct, frozen=True, order=True):
    """Another address (or CIDR) that a port may use."""

    ip_address: str
    mac_address: str


class Port(_Object, frozen=True, kw_only=True):
    """A port. ``host`` and ``profile`` are shown to administrators only.

    ``port_security_enabled`` is None where Neutron has no such extension.
    """

    network_id: str
    project_id: str = ""
    name: str = ""
    device_owner: str = ""
    device_id: str = ""
    mac_address: str
    fixed_ips: tuple[FixedIp, ...] = ()
    admin_state_up: bool = True
    port_security_enabled: bool | None = None
    security_groups: tuple[str, ...] = ()
    allowed_address_pairs: tuple[AddressPair, ...] = ()
    status: str = ""
    host: str = msgspec.field(default="", name="binding:host_id")
    profile: Mapping[str, Any] = msgspec.field(default_factory=dict, name="binding:profile")
    created_at: str = ""


class Agent(_Object, frozen=True, kw_only=True):
    """A chassis in the agent list."""

    host: str
    alive: bool = False
    configurations: Mapping[str, Any] = {}

    @property
    def tunnel_ip(self) -> str | None:
        """Its VTEP's address."""
        found = self.configurations.get("tunneling_ip")
        return found if isinstance(found, str) and found else None


class SecurityGroup(_Object, frozen=True, kw_only=True):
    """A security group, without its rules."""

    name: str = ""
    project_id: str = ""


class Extension(msgspec.Struct, frozen=True, kw_only=True):
    """Something that this Neutron can do beyond the core."""

    alias: str


Filter = str | bool | Collection[str]
_T = TypeVar("_T", bound=msgspec.Struct)


class RegionApi(Protocol):
    """What the orchestrator asks of a region. Any call may raise a ``CloudError``.

    Reads take filters as Neutron does: a value, or several of which one must match.
    """

    name: str

    def networks(self, **filters: Filter) -> list[Network]:
        """All networks that the credentials see."""
        ...

    def subnets(self, **filters: Filter) -> list[Subnet]:
        """All subnets."""
        ...

    def ports(self, **filters: Filter) -> list[Port]:
        """All ports."""
        ...

    def agents(self) -> list[Agent]:
        """All chassis."""
        ...

    def security_groups(self, **filters: Filter) -> list[SecurityGroup]:
        """All security groups."""
        ...

    def create_port(self, port: Mapping[str, Any]) -> Port:
        """Make a port of these attributes."""
        ...

    def update_port(self, port: str, changes: Mapping[str, Any]) -> Port:
        """Change these attributes of a port."""
        ...

    def delete_port(self, port: str) -> None:
        """Delete a port; one that is gone already is no error."""
        ...

    def set_mtu(self, network: str, mtu: int) -> None:
        """Set a network's MTU."""
        ...

    def add_tag(self, network: str, tag: str) -> None:
        """Tag a network; one that has the tag already is no error."""
        ...

    def remove_tag(self, network: str, tag: str) -> None:
        """Take a tag off a network; one that hasn't got it is no error."""
        ...


class Cloud:
    """A region's Neutron. Threads may share it. Nothing is read or asked before the first call.

    ``files`` are read instead of the usual places of ``clouds.yaml``. ``timeout`` is in seconds, see ``TIMEOUT``.
    """

    def __init__(self, name: str, *, files: Sequence[Path] = (), timeout: float = TIMEOUT) -> None:
        self.name = name
        self._files = [str(file) for file in files] or None
        self._timeout = timeout
        self._lock = threading.Lock()
        self._client: Any = None

    # -- reads -----------------------------------------------------------------------------------------------------------

    def networks(self, **filters: Filter) -> list[Network]:
        """See ``RegionApi``."""
        return self._list("networks", Network, filters)

    def subnets(self, **filters: Filter) -> list[Subnet]:
        """See ``RegionApi``."""
        return self._list("subnets", Subnet, filters)

    def ports(self, **filters: Filter) -> list[Port]:
        """See ``RegionApi``."""
        return self._list("ports", Port, filters)

    def agents(self) -> list[Agent]:
        """See ``RegionApi``."""
        return self._list("agents", Agent, {"agent_type": AGENT_TYPE})

    def security_groups(self, **filters: Filter) -> list[SecurityGroup]:
        """See ``RegionApi``."""
        return self._list("security-groups", SecurityGroup, filters)

    def extensions(self) -> set[str]:
        """The aliases of what this Neutron can do: the smallest question that needs credentials."""
        answer = self._ask("GET", "/extensions")
        return {each.alias for each in self._decode(answer, "extensions", list[Extension])}

    # -- writes ----------------------------------------------------------------------------------------------------------

    def create_port(self, port: Mapping[str, Any]) -> Port:
        """See ``RegionApi``."""
        made: Port = self._decode(self._ask("POST", "/ports", {"port": port}), "port", Port)
        return made

    def update_port(self, port: str, changes: Mapping[str, Any]) -> Port:
        """See ``RegionApi``."""
        changed: Port = self._decode(self._ask("PUT", f"/ports/{port}", {"port": changes}), "port", Port)
        return changed

    def delete_port(self, port: str) -> None:
        """See ``RegionApi``."""
        self._gone(f"/ports/{port}")

    def set_mtu(self, network: str, mtu: int) -> None:
        """See ``RegionApi``."""
        self._ask("PUT", f"/networks/{network}", {"network": {"mtu": mtu}})

    def add_tag(self, network: str, tag: str) -> None:
        """See ``RegionApi``."""
        self._ask("PUT", f"/networks/{network}/tags/{quote(tag, safe='')}")

    def remove_tag(self, network: str, tag: str) -> None:
        """See ``RegionApi``."""
        self._gone(f"/networks/{network}/tags/{quote(tag, safe='')}")

    # -- how -------------------------------------------------------------------------------------------------------------

    def _list(self, path: str, kind: type[_T], filters: Mapping[str, Filter]) -> list[_T]:
        collection = path.replace("-", "_")
        fields = [("fields", name) for name in kind.__struct_encode_fields__]
        found: dict[str, _T] = {}
        for query in _queries(filters):
            marker: list[tuple[str, str]] = []
            while True:
                answer = self._ask("GET", f"/{path}", query=[*fields, *query, ("limit", str(PAGE)), *marker])
                page = self._decode(answer, collection, list[kind])  # type: ignore[valid-type]
                found |= {each.id: each for each in page}
                links = self._decode(answer, f"{collection}_links", list[dict[str, str]], [])
                if not page or not any(link.get("rel") == "next" for link in links):
                    break
                marker = [("marker", page[-1].id)]
        return list(found.values())

    def _gone(self, path: str) -> None:
        with contextlib.suppress(NotFound):
            self._ask("DELETE", path)

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, query: Iterable[tuple[str, str]] = ()
    ) -> bytes:
        """One request. :raises CloudError: whatever kept it from being done."""
        from keystoneauth1 import exceptions as trouble  # noqa: PLC0415 - an optional dependency, as what follows
        from openstack import exceptions as sdk  # noqa: PLC0415

        try:
            answer = self._connected().request(
                path,
                method,
                params=list(query),
                headers={"Accept": "application/json"} | ({} if body is None else {"Content-Type": "application/json"}),
                data=None if body is None else msgspec.json.encode(body),
                raise_exc=False,
                connect_retries=0,
                status_code_retries=0,
            )
        except Exception as error:
            self._forget()
            match error:
                case CloudError():
                    raise
                case trouble.Unauthorized() | trouble.Forbidden() | trouble.AuthorizationFailure():
                    raise Unauthorized(self.name, f"Keystone refuses the credentials: {error}") from error
                case trouble.CatalogException() | trouble.AuthPluginException() | sdk.ConfigException():
                    raise Misconfigured(self.name, str(error)) from error
                case trouble.ClientException() | sdk.SDKException() | OSError():
                    raise Unreachable(self.name, str(error)) from error
            raise
        if answer.status_code < 300:
            return bytes(answer.content)
        if answer.status_code in {401, 429} or answer.status_code >= 500:
            self._forget()
        raise _error(self.name, f"{method} {path}", answer.status_code, bytes(answer.content))

    def _connected(self) -> Any:
        from keystoneauth1.adapter import Adapter  # noqa: PLC0415 - an optional dependency, as what follows
        from openstack.config import OpenStackConfig  # noqa: PLC0415
        from yaml import YAMLError  # noqa: PLC0415

        with self._lock:
            if self._client is None:
                try:
                    config = OpenStackConfig(config_files=self._files, load_envvars=False)
                    cloud = config.get_one(cloud=self.name, api_timeout=self._timeout)
                except (OSError, ValueError, YAMLError) as error:
                    raise Misconfigured(self.name, f"clouds.yaml: {error}") from error
                session = cloud.get_session()
                where = {
                    "service_type": cloud.get_service_type("network"),
                    "interface": cloud.get_interface("network"),
                    "region_name": cloud.get_region_name("network"),
                }
                url = cloud.get_endpoint("network") or session.get_endpoint(**where)
                if not url:
                    raise Misconfigured(self.name, "the catalogue has no endpoint of type network")
                root = url.rstrip("/").removesuffix("/v2.0")
                self._client = Adapter(session, endpoint_override=f"{root}/v2.0", **where)
            return self._client

    def _forget(self) -> None:
        """Have the next call read the configuration anew, and log in."""
        with self._lock:
            self._client = None

    def _decode(self, answer: bytes, name: str, kind: Any, default: Any = msgspec.UNSET) -> Any:
        try:
            fields = msgspec.json.decode(answer, type=dict[str, msgspec.Raw])
            if name not in fields and default is not msgspec.UNSET:
                return default
            return msgspec.json.decode(fields[name], type=kind)
        except (*_UNREADABLE, KeyError) as error:
            raise Unreachable(self.name, f"what answers is no Neutron: {error!r}") from error


def _queries(filters: Mapping[str, Filter]) -> Iterator[list[tuple[str, str]]]:
    """The questions that together ask for what passes the filters; none if nothing can. One filter may have many values."""
    several = {name: sorted(value) for name, value in filters.items() if not isinstance(value, str | bool)}
    single = [(name, str(value)) for name, value in filters.items() if isinstance(value, str | bool)]
    if not several:
        yield single
        return
    (name, values), *others = sorted(several.items(), key=lambda each: -len(each[1]))
    if any(not rest for _, rest in others):
        return
    short = [(other, value) for other, rest in others for value in rest]
    for some in _batches(values):
        yield [*single, *short, *((name, value) for value in some)]


def _batches(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), _IDS):
        yield values[start : start + _IDS]


def _error(region: str, what: str, status: int, content: bytes) -> CloudError:
    """The error that an answer tells of."""
    try:
        said = msgspec.json.decode(content)["NeutronError"]
        kind, message = (
            (said.get("type") or "", said.get("message") or "") if isinstance(said, dict) else ("", str(said))
        )
    except (*_UNREADABLE, KeyError, TypeError):
        kind, message = "", content[:200].decode(errors="replace")
    text = f"{what}: {status} {message or kind}".rstrip()
    match status:
        case 401 | 403:
            return Unauthorized(region, text)
        case 404:
            return NotFound(region, text, kind)
        case 409:
            return Conflict(region, text, kind)
        case 429:
            return Unreachable(region, text)
        case _ if status < 500:
            return Rejected(region, text, kind)
    return Unreachable(region, text)
