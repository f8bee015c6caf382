"""What is said to Nova's metadata API, and what it answers.

Sources: ``nova/api/metadata/handler.py`` (``_handle_instance_id_request``), ``neutron/agent/metadata``.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
from collections.abc import Iterable

import httpx

from dragonflow.metadata.settings import Settings
from dragonflow.metadata.whose import Instance

Headers = list[tuple[bytes, bytes]]

_OF_GUESTS = frozenset({b"accept", b"accept-encoding", b"content-type", b"user-agent"})
"""All that Nova hears of what a guest's headers say."""

_OF_CONNECTIONS = frozenset(
    {b"connection", b"keep-alive", b"proxy-authenticate", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)
"""Headers of Nova's that end here (RFC 9110 §7.6.1)."""

_CONNECT, _READ = 5.0, 30.0
"""Seconds to wait for Nova: to be connected, and for its next bytes."""

_CONNECTIONS = 64
"""To Nova at once; more requests wait."""


def headers(instance: Instance, secret: str, guests: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers of a request to Nova. Of the guest's own (lower case) only harmless ones stay."""
    signature = hmac.new(secret.encode(), instance.id.encode(), hashlib.sha256).hexdigest()
    return [
        *((name, value) for name, value in guests if name in _OF_GUESTS),
        (b"X-Forwarded-For", instance.address.encode()),
        (b"X-Instance-ID", instance.id.encode()),
        (b"X-Tenant-ID", instance.project.encode()),
        (b"X-Instance-ID-Signature", signature.encode()),
    ]


def answered(found: httpx.Headers) -> Headers:
    """The headers of Nova's answer that the guest gets."""
    return [(name, value) for name, value in found.raw if name.lower() not in _OF_CONNECTIONS]


class Nova:
    """Speaks to Nova; bounded in connections and time. :raises OSError: the CA's file can't be read."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._base = httpx.URL(settings.url)
        trust: ssl.SSLContext | bool = settings.verify
        if trust and settings.ca_file is not None:
            trust = ssl.create_default_context(cafile=settings.ca_file)
        self._client = httpx.AsyncClient(
            verify=trust,
            timeout=httpx.Timeout(_READ, connect=_CONNECT),
            limits=httpx.Limits(max_connections=_CONNECTIONS),
            follow_redirects=False,
            trust_env=False,  # a proxy in the environment is for other things
        )

    async def ask(
        self, method: str, target: bytes, guests: Iterable[tuple[bytes, bytes]], body: bytes, instance: Instance
    ) -> httpx.Response:
        """Pass a request on; whoever reads the answer's stream closes it.

        :raises httpx.HTTPError: Nova doesn't answer, or not in time.
        """
        request = httpx.Request(
            method,
            self._base.copy_with(raw_path=target),
            headers=headers(instance, self._settings.secret, guests),
            content=body or None,
        )
        return await self._client.send(request, stream=True)

    async def close(self) -> None:
        """End its connections."""
        await self._client.aclose()
