"""What has to be agreed with Nova, as the options of ``[df]`` have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from dragonflow.config import ConfigError


class Settings(msgspec.Struct, frozen=True):
    """Where Nova's metadata API is and what is agreed with it. The secret is never shown."""

    url: str
    secret: str
    verify: bool = True
    ca_file: str | None = None

    @classmethod
    def of(cls, options: Any) -> Settings:
        """Read the option group. :raises ConfigError: names the option and the fix."""
        if not options.metadata_proxy_shared_secret:
            raise ConfigError("[df] metadata_proxy_shared_secret: set it to the one in Nova's group [neutron]")
        ca_file = options.auth_ca_cert
        if ca_file is not None and not Path(ca_file).is_file():
            raise ConfigError(f"[df] auth_ca_cert: there is no file {ca_file}")
        host = options.nova_metadata_host
        host = f"[{host}]" if ":" in host else host
        return cls(
            url=f"{options.nova_metadata_protocol}://{host}:{options.nova_metadata_port}",
            secret=options.metadata_proxy_shared_secret,
            verify=not options.nova_metadata_insecure,
            ca_file=ca_file,
        )

    def __repr__(self) -> str:
        return f"Settings({self.url!r})"
