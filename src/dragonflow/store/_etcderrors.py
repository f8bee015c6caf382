"""What went wrong with a request to etcd, told apart by what can be done about it, in words that name the fix.

etcd's status codes say little (a wrong password and a full transaction are both ``INVALID_ARGUMENT``); its texts are part of its
API (``api/v3rpc/rpctypes/error.go``) and the same in 3.4 to 3.6.
"""

from __future__ import annotations

from enum import Enum, auto

from dragonflow.store._etcdrpc import grpc

MANUAL = "see docs/operate/dfdb.md"


class Kind(Enum):
    """What can be done about it."""

    FINAL = auto()
    """Nothing, until somebody mends the configuration or the server."""
    TOKEN = auto()
    """Refused for want of a valid token: authenticate anew and ask again."""
    REFUSED = auto()
    """Surely not carried out, but another server may do it."""
    BUSY = auto()
    """Surely not carried out, and later this server may do it."""
    UNKNOWN = auto()
    """It may have been carried out. Another server may answer."""
    COMPACTED = auto()
    """The revision is no longer kept, or is not there yet."""
    NO_LEASE = auto()
    """The lease is gone."""
    OPERATIONS = auto()
    """The transaction has too many operations."""
    SIZE = auto()
    """The request has too many bytes."""


class Trouble(Exception):
    """A request that failed: ``kind`` for the machine, the text for people."""

    def __init__(self, kind: Kind, text: str) -> None:
        super().__init__(text)
        self.kind = kind


_LIMITS = (
    (
        "too many operations in txn request",
        Kind.OPERATIONS,
        "the transaction has more operations than --max-txn-ops (128 by default)",
    ),
    ("request is too large", Kind.SIZE, "the request has more bytes than --max-request-bytes (1.5 MiB by default)"),
    (
        "received message larger than max",
        Kind.SIZE,
        "the request has more bytes than --max-request-bytes (1.5 MiB by default)",
    ),
)

_STATES = (
    ("required revision has been compacted", Kind.COMPACTED, "the revision is no longer kept"),
    ("required revision is a future revision", Kind.COMPACTED, "the revision is not there yet"),
    ("requested lease not found", Kind.NO_LEASE, "the lease is gone"),
    (
        "database space exceeded",
        Kind.FINAL,
        "its database is full (alarm NOSPACE), so it takes no writes: compact and defragment it, then `etcdctl alarm disarm`, "
        + MANUAL,
    ),
    (
        "corrupt cluster",
        Kind.FINAL,
        "it found its members' data to differ (alarm CORRUPT) and serves nothing: `etcdctl alarm list`, then replace the odd "
        f"member, {MANUAL}",
    ),
    ("no leader", Kind.REFUSED, "it sees no leader: too few members of its cluster are up, or it is cut off from them"),
    ("raft proposal dropped", Kind.REFUSED, "its cluster is just electing a leader"),
    ("too many requests", Kind.BUSY, "it has more requests than it can handle"),
    ("leader changed", Kind.UNKNOWN, "its cluster changed its leader meanwhile"),
    ("request timed out", Kind.UNKNOWN, "its cluster did not agree in time: a leader was lost, or its disks are slow"),
    ("server stopped", Kind.UNKNOWN, "it was stopped meanwhile"),
)

_RIGHTS = (
    ("permission denied", Kind.FINAL, f"{{who}} has no right to it; grant it to one of the user's roles, {MANUAL}"),
    ("authentication failed", Kind.FINAL, "it doesn't know {who} with the password in the password_file"),
    ("invalid auth token", Kind.TOKEN, "it did not accept the token it gave to {who}"),
    ("revision of auth store is old", Kind.TOKEN, "users or roles were changed just now"),
    (
        "user name is empty",
        Kind.TOKEN,
        "it wants a user and a password; write USER@… and password_file=FILE into the URL",
    ),
)

_CONNECT = "failed to connect to all addresses; last error: "
"""What gRPC begins with when nothing was sent."""

_CONNECTING = (
    ("Connection refused", Kind.REFUSED, "nobody listens there"),
    (
        "CERTIFICATE_VERIFY_FAILED",
        Kind.REFUSED,
        "its certificate was not signed by the ca of the URL, has expired or is for another name",
    ),
    ("certificate signature failure", Kind.REFUSED, "its certificate was not signed by the ca of the URL"),
    ("Hostname Verification Check failed", Kind.REFUSED, "its certificate is for another name or address"),
    (
        "CERTIFICATE_REQUIRED",
        Kind.REFUSED,
        "it wants a client's certificate; write cert=FILE and key=FILE into the URL",
    ),
    (
        "Unwrap failed",  # with TLS 1.3 the server looks at the client's certificate after the client is done
        Kind.REFUSED,
        "it wants a client's certificate, or another one; write cert=FILE and key=FILE into the URL",
    ),
    ("BAD_CERTIFICATE", Kind.REFUSED, "it did not accept the certificate of the URL's cert and key"),
    (
        "Handshake read failed",
        Kind.REFUSED,
        "it broke off the TLS handshake: it speaks no TLS (then write etcd://), or wants another certificate",
    ),
    ("andshake failed", Kind.REFUSED, "the TLS handshake failed; check ca, cert and key"),
    (
        "Failed to create security handshaker",
        Kind.REFUSED,
        "the files cert and key hold no certificate and its key in PEM",
    ),
    ("errors resolving", Kind.REFUSED, "its name can't be resolved"),
    (
        f"{_CONNECT}UNAVAILABLE",
        Kind.REFUSED,
        "it broke off the connection; a server with TLS does that (then write etcd+tls://), and one that wants cert and key",
    ),
    (_CONNECT, Kind.REFUSED, "it can't be reached"),
    ("failed to connect to all addresses", Kind.REFUSED, "it can't be reached"),
)

_SAID: tuple[tuple[str, Kind, str], ...] = _LIMITS + _STATES + _RIGHTS + _CONNECTING


def understand(error: grpc.aio.AioRpcError, endpoint: str, user: str | None, what: str) -> Trouble:
    """Tell what a failed call means. ``what`` was asked, such as "commit of …"; ``user`` asked it."""
    return explain(error.code(), error.details() or "", endpoint, user, what)


def explain(code: grpc.StatusCode, said: str, endpoint: str, user: str | None, what: str) -> Trouble:
    """As ``understand``, for an error that came inside an answer."""
    who = f"user {user!r}" if user else "a client without a user"
    for text, kind, meaning in _SAID:
        if text in said:
            if kind is Kind.TOKEN and user is None:
                kind = Kind.FINAL  # noqa: PLW2901 - there is nothing to authenticate with
            return Trouble(
                kind, f"etcd at {endpoint}, {what}: {meaning.format(who=who)} ({said.removeprefix(_CONNECT)})"
            )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Trouble(Kind.UNKNOWN, f"etcd at {endpoint}, {what}: no answer in time")
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN):
        return Trouble(Kind.UNKNOWN, f"etcd at {endpoint}, {what}: the connection was lost ({said})")
    return Trouble(Kind.FINAL, f"etcd at {endpoint}, {what}: {said} ({code.name})")
