"""Who calls the lab's Neutron: a paste filter in the place where keystone's stands elsewhere.

A request without identity headers comes from an administrator who, like Nova, may also set ``binding:profile``. ``X-Project-Id``,
``X-User-Id`` and ``X-Roles`` (comma-separated) name another caller, to whom Neutron's policy applies as it is shipped. It trusts
whoever asks, so it belongs on a loopback address and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

ADMIN_PROJECT = "00000000000000000000000000000ad0"
ADMIN_USER = "00000000000000000000000000000ad1"
ADMIN_ROLES = "admin,manager,member,reader,service"
MEMBER_ROLES = "member,reader"

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


class Callers:
    """WSGI middleware that fills in what the caller left out of the identity headers."""

    def __init__(self, application: Application) -> None:
        self._application = application

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve one request."""
        project, user, roles = (environ.get(f"HTTP_X_{name}") for name in ("PROJECT_ID", "USER_ID", "ROLES"))
        if not (project or user or roles):
            roles = ADMIN_ROLES
        environ["HTTP_X_PROJECT_ID"] = project or ADMIN_PROJECT
        environ["HTTP_X_USER_ID"] = user or project or ADMIN_USER
        environ["HTTP_X_ROLES"] = roles or MEMBER_ROLES
        environ["HTTP_X_IDENTITY_STATUS"] = "Confirmed"
        return self._application(environ, start_response)


def filter_factory(_global: dict[str, str], **_local: str) -> Callable[[Application], Callers]:
    """For paste.deploy."""
    return Callers
