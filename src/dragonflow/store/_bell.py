"""Rings when a file of a directory is written: inotify(7) in a thread of its own.

It only makes things quicker. Where the kernel has no more watches to give, or the directory is gone, nothing rings.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from inotify_simple import INotify, flags

from dragonflow.store.pace import Pace

LOG = logging.getLogger(__name__)

_WRITTEN = flags.MODIFY | flags.MOVED_TO

_CLOSING = 2.0
"""Seconds to wait for the listener to end."""


def rings() -> bool:
    """Whether bells ring here: the kernel has something to listen with, and a watch left."""
    try:
        with INotify() as inotify:
            inotify.add_watch(Path("/"), _WRITTEN)
    except OSError:
        return False
    return True


class Bell:
    """Calls ``ring`` after writes below ``directory``, from its own thread, once for many that come together."""

    def __init__(self, directory: Path, ring: Callable[[], None]) -> None:
        self._directory = directory
        self._ring = ring
        self._inotify: INotify | None = None
        self._thread: threading.Thread | None = None
        self._watch: int | None = None

    def hang(self) -> None:
        """Make sure that it hangs at the directory that is there now; costs microseconds if it does."""
        try:
            if self._inotify is None:
                self._inotify = INotify()
                self._thread = threading.Thread(target=self._listen, args=(self._inotify,), daemon=True)
                self._thread.start()
            watch = self._inotify.add_watch(self._directory, _WRITTEN)
        except OSError as error:
            LOG.debug("no inotify on %s: %s", self._directory, error)
            return
        if self._watch is not None and watch != self._watch:
            with contextlib.suppress(OSError):  # it went with its directory
                self._inotify.rm_watch(self._watch)
        self._watch = watch

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        inotify, self._inotify = self._inotify, None
        if inotify is not None and self._watch is not None:
            with contextlib.suppress(OSError):
                inotify.rm_watch(self._watch)  # which the listener is told
        if inotify is not None and self._thread is not None:
            self._thread.join(_CLOSING)
            inotify.close()

    def _listen(self, inotify: INotify) -> None:
        pace = Pace()
        while True:
            try:
                events = inotify.read()
            except (OSError, ValueError):
                return
            if self._inotify is not inotify:
                return
            if any(event.mask & _WRITTEN for event in events):
                self._ring()
                time.sleep(pace.found(time.monotonic()))  # the kernel remembers what is written meanwhile
