"""What a Redis server, or the way to it, may answer but what was asked for, as one sentence that names the server and the fix."""

from __future__ import annotations

import ssl

MANUAL = "docs/operate/dfdb.md"


class ReplyError(Exception):
    """An error reply of Redis. ``code`` is its first word, such as ``NOAUTH``."""

    @property
    def code(self) -> str:
        """Its first word; NOPERM, too, of what a script may not do, which Redis tells in other words."""
        text = str(self)
        return "NOPERM" if text.startswith("ERR The user executing the script") else text.partition(" ")[0]


_FIXES = {
    "NOAUTH": "it asks for a password: name USER@ and password_file=FILE in the URL (the user is 'default' where only "
    "requirepass is set)",
    "WRONGPASS": "it refuses the user or the password: compare the user in the URL and what the password_file holds with "
    "ACL GETUSER",
    "NOPERM": "the user may not do this: see `dragonflow db roles`, and ACL LOG",
    "DENIED": "it runs in protected mode: give it a password, or bind it to the address that others are to reach",
    "READONLY": "it is a replica, which takes no writes: name its master in the URL, or use redis+sentinel://",
    "NOREPLICAS": "too few replicas follow it (min-replicas-to-write): bring them back",
    "MISCONF": "it can't write to its disk: make room there, and see its log",
    "OOM": "its memory is used up: raise maxmemory",
    "DFLATE": "it got to a write too late, twice, and left it: see its slow log, the load of its machine, and NTP",
    "LOADING": "it is still loading its data: wait",
    "MASTERDOWN": "it is a replica that has lost its master: wait for the Sentinels, or see their logs",
    "CLUSTERDOWN": "it is a node of a Redis Cluster: use a single server, or a master with replicas under Sentinels",
    "MOVED": "it is a node of a Redis Cluster: use a single server, or a master with replicas under Sentinels",
    "BUSY": "a script of somebody else keeps it busy: SCRIPT KILL, and see its slow log",
    "UNKILLABLE": "a script of somebody else keeps it busy: wait, or SHUTDOWN NOSAVE",
}


def explain(where: str, error: BaseException) -> str:
    """The sentence for ``Unavailable``."""
    match error:
        case ReplyError():
            fix = _FIXES.get(error.code)
            why = f": {error}" if fix is None else f": {fix} ({error})"
        case TimeoutError():
            why = " did not answer in time: see whether it runs, is stopped, is out of reach, or speaks no TLS on this port"
        case ssl.SSLCertVerificationError():
            why = f": its certificate is not good: {error.verify_message}; see ca=FILE in the URL"
        case ssl.SSLError():
            why = (
                f": TLS failed ({error.reason or error}): see whether it speaks TLS on this port (tls-port), and cert= and key= "
                "in the URL if it asks for a certificate"
            )
        case ConnectionResetError() | BrokenPipeError():
            why = " closed the connection: see its log, and whether it speaks TLS on this port (redis+tls://)"
        case OSError():
            why = f" can't be reached: {error.strerror or error}"
        case _:
            why = f": {error}"
    return f"Redis at {where}{why}"
