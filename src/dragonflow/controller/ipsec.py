"""Whether tunnels to other regions can be encrypted on this host, where that is switched on: else there are none, never in clear.

Open vSwitch's part is ``ovs-monitor-ipsec``, which has the kernel encrypt what tunnels send (OVS IPsec how-to). Before it has
agreed on keys with the other end, packets would leave in clear. So the kernel must drop those: they bear a mark
(``egress_pkt_mark``), for which ``other_config:ipsec_skb_mark`` forbids that, and that must be set before any tunnel is made.
"""

from __future__ import annotations

import asyncio
import logging
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from dragonflow.model import Ipsec
from dragonflow.switch.unixctl import Unixctl, Unreachable

LOG = logging.getLogger(__name__)

Mode = Literal["psk", "certificates"]

DAEMON = "ovs-monitor-ipsec"

MARK = "1/1"
"""What ``ipsec_skb_mark`` must be: packets with this mark never leave in clear."""

_CERTIFICATES = ("certificate", "private_key", "ca_cert")

_PERIOD = 5.0
"""Seconds between two looks."""


def read_psk(path: Path) -> str:
    """The key that the chassis of all regions share.

    :raises ValueError: the file can't be used; it says why, and nothing of the key.
    """
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ValueError(f"{path} can be read by others than its owner; its mode must be 0600")
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} can't be read: {type(error).__name__}") from None
    if len(key) < 16 or not key.isprintable() or '"' in key:
        raise ValueError(
            f"{path} must hold one line of at least 16 printable characters, none of them a quotation mark"
        )
    return key


def trouble(mode: Mode, datapath_type: str, other_config: Mapping[str, str], daemon: str | None) -> str | None:
    """Why nothing can be encrypted, in words for operators; None if it can.

    ``daemon`` is why ovs-monitor-ipsec doesn't answer; None if it does.
    """
    if datapath_type != "system":
        return f"datapath_type = {datapath_type}: only the kernel's data path can encrypt"
    if daemon is not None:
        return f"{DAEMON} doesn't run ({daemon}); install and start Open vSwitch's package for IPsec"
    if other_config.get("ipsec_skb_mark") != MARK:
        return f"packets could leave in clear; run: ovs-vsctl set Open_vSwitch . other_config:ipsec_skb_mark={MARK}"
    missing = [name for name in _CERTIFICATES if not other_config.get(name)] if mode == "certificates" else ()
    return f"set other_config:{', '.join(missing)} of Open_vSwitch to the files" if missing else None


class Watch:
    """Looks again and again, and tells ``on_found`` what differs from before."""

    def __init__(
        self,
        mode: Mode,
        datapath_type: str,
        ovsdb: str,
        other_config: Callable[[], Mapping[str, str]],
        on_found: Callable[[Ipsec], None],
    ) -> None:
        self._mode, self._datapath_type, self._other_config = mode, datapath_type, other_config
        self._daemon = Unixctl(ovsdb, daemon=DAEMON)
        self._on_found = on_found
        self._last: Ipsec | None = None

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_PERIOD)

    async def look(self) -> None:
        """Look once."""
        try:
            await self._daemon.ask("version", [()])
            silent = None
        except Unreachable as error:
            silent = str(error)
        found = Ipsec(trouble=trouble(self._mode, self._datapath_type, self._other_config(), silent))
        if found != self._last:
            LOG.log(
                logging.WARNING if found.trouble else logging.INFO,
                "tunnels to other regions are %s",
                f"not made, for they can't be encrypted: {found.trouble}" if found.trouble else "encrypted",
            )
            self._last = found
            self._on_found(found)
