"""Packets that flows hand to the controller, all together: no more than it has time for.

Who asks the controller something, and how often each port may, stands in ``pipeline.punt`` (``LIMITS``); flows apply these meters
themselves. They are fair, but there may be any number of ports. So one more meter bounds what all of them have punted.

Cost: a meter a chassis.
"""

from __future__ import annotations

from collections.abc import Iterator

from dragonflow.apps.base import App, renders
from dragonflow.controller.view import Me, View
from dragonflow.pipeline import Fact
from dragonflow.pipeline.punt import ALL


class Punts(App):
    """Bounds what the controller is asked."""

    name = "punts"

    @renders(Me)
    def host(self, me: Me, view: View) -> Iterator[Fact]:
        """The meter that Open vSwitch applies to every packet for a controller."""
        yield from super().host(me, view)
        yield ALL
