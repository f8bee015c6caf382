"""Who reaches whom, all the time: a probe every few milliseconds between VMs, and the intervals in which none came back.

One thread holds a socket in each VM's namespace and sends and receives for all pairs, so 600 probes a second cost a few per cent
of a core; ``ping`` would need a process a pair. The sockets are the kernel's own for pings (icmp(7), ``IPPROTO_ICMP``): it fills
in identifier and checksum, and which probe an answer belongs to stands in its payload. What is lost on either way is lost.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from dragonflow.lab import system
from dragonflow.lab.state import Vm
from dragonflow.lab.system import LabError
from dragonflow.lab.uplink import entered

INTERVAL = 0.01
"""Seconds between two probes of a pair."""

START_TIMEOUT = 20.0
PATIENCE = 1.0
"""Seconds after which a probe without an answer counts as lost."""

_ECHO = {socket.AF_INET: 8, socket.AF_INET6: 128}
_HEADER = struct.Struct("!BBHHH")  # type, code, checksum and identifier (the kernel's to fill in), sequence number
_NUMBER = struct.Struct("!Q")
_FULL = 1024


class Pair(NamedTuple):
    """One VM that probes an address of another."""

    source: str
    target: str
    address: str

    def __str__(self) -> str:
        return f"{self.source} → {self.target} ({self.address})"


class Loss(NamedTuple):
    """Probes of a pair in a row without an answer; ``first`` and ``last`` were sent at these times of the monotonic clock."""

    pair: Pair
    first: float
    last: float
    probes: int

    @property
    def seconds(self) -> float:
        """For how long nothing came through, to within a probe's interval."""
        return self.last - self.first

    def __str__(self) -> str:
        return f"{self.pair}: {self.probes} probes lost in {self.seconds:.2f} s"


class _Probes:
    """What one pair sent, and which of it was answered."""

    def __init__(self, pair: Pair, vm: Vm) -> None:
        self.pair = pair
        family = socket.AF_INET6 if ":" in pair.address else socket.AF_INET
        protocol = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
        with entered(str(system.NETNS_DIR / vm.netns)):
            self.socket = socket.socket(family, socket.SOCK_DGRAM, protocol)
        self.socket.setblocking(False)
        self.socket.connect((pair.address, 0))
        self._kind = _ECHO[family]
        self.sent = array("d")
        self.answered = bytearray()

    def send(self) -> None:
        """Send the next probe; one that can't even be sent counts as lost."""
        number = len(self.sent)
        self.answered.append(0)
        self.sent.append(time.monotonic())  # last: whoever reads counts by it
        try:
            self.socket.send(_HEADER.pack(self._kind, 0, 0, 0, number & 0xFFFF) + _NUMBER.pack(number))
        except OSError:  # no route, no neighbour, or the queue is full
            return

    def receive(self) -> None:
        """Take all answers that are there."""
        while True:
            try:
                data = self.socket.recv(_FULL)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error, about a probe that stays without an answer
                continue
            if len(data) >= _HEADER.size + _NUMBER.size:
                (number,) = _NUMBER.unpack_from(data, _HEADER.size)
                if number < len(self.answered):
                    self.answered[number] = 1

    def losses(self, since: float, until: float) -> list[Loss]:
        """The intervals without an answer among what was sent in between."""
        found: list[Loss] = []
        first = -1
        for number in range(bisect_left(self.sent, since), bisect_right(self.sent, until)):
            if self.answered[number]:
                first = -1
                continue
            if first < 0:
                first = number
                found.append(Loss(self.pair, 0, 0, 0))
            found[-1] = Loss(self.pair, self.sent[first], self.sent[number], number - first + 1)
        return found


class Matrix:
    """Probes between pairs of VMs, from ``start`` to ``stop``, or as a context."""

    def __init__(self, pairs: Iterable[tuple[Vm, Vm, str]], interval: float = INTERVAL) -> None:
        """``pairs`` are who probes whom at which of its addresses. A VM is called by its interface and host."""
        self._wanted = list(pairs)
        self._interval = interval
        self._probes: list[_Probes] = []
        self._end = threading.Event()
        self._ready = threading.Event()
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="matrix", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self, patience: float | None = START_TIMEOUT) -> None:
        """Begin to probe; returns when every pair has answered once, so what is lost later was lost by a fault.

        Without ``patience`` nobody needs to answer.

        :raises LabError: a pair doesn't answer at all, for so many seconds.
        """
        for netns in {vm.netns for vm, _, _ in self._wanted}:
            system.sysctl(netns, {"net/ipv4/ping_group_range": "0 0"})
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise LabError(f"the matrix can't enter the VMs: {self._failure}") from self._failure
        if patience is None:
            return
        try:
            system.wait_until(self._all_answered, "each pair to answer", patience)
        except LabError as error:
            silent = [str(probes.pair) for probes in self._probes if not any(probes.answered)]
            self.stop()
            raise LabError(f"{error}: {', '.join(silent)}") from None

    def stop(self) -> None:
        """End it; what was seen stays."""
        self._end.set()
        self._thread.join()

    def lost(self, since: float, until: float | None = None) -> list[Loss]:
        """What was lost of the probes sent between two times of the monotonic clock; ``until`` is now by default.

        Waits until the last of them has had its time to be answered.
        """
        until = time.monotonic() if until is None else until
        rest = until + PATIENCE - time.monotonic()
        if rest > 0 and self._thread.is_alive():
            self._end.wait(rest)
        return [loss for probes in self._probes for loss in probes.losses(since, until)]

    def answered(self) -> dict[Pair, int]:
        """How many probes of each pair were answered, where any was: of those who must not reach each other, see ``start``."""
        return {probes.pair: count for probes in self._probes if (count := sum(probes.answered))}

    def sent(self, since: float) -> int:
        """How many probes were sent from a time on."""
        return sum(len(probes.sent) - bisect_left(probes.sent, since) for probes in self._probes)

    def _all_answered(self) -> bool:
        return all(any(probes.answered) for probes in self._probes)

    def _run(self) -> None:
        try:
            self._probes = [
                _Probes(Pair(_name(source), _name(target), address), source) for source, target, address in self._wanted
            ]
        except OSError as error:
            self._failure = error
            return
        finally:
            self._ready.set()
        try:
            with selectors.DefaultSelector() as selector:
                for probes in self._probes:
                    selector.register(probes.socket, selectors.EVENT_READ, probes)
                self._probe(selector)
        finally:
            for probes in self._probes:
                probes.socket.close()

    def _probe(self, selector: selectors.BaseSelector) -> None:
        due = time.monotonic()
        while not self._end.is_set():
            for probes in self._probes:
                probes.send()
            # A loop that was held up doesn't make good for it with a burst: what counts is when a probe was really sent.
            due = max(due + self._interval, time.monotonic())
            while (rest := due - time.monotonic()) > 0:
                for key, _ in selector.select(rest):
                    key.data.receive()


def _name(vm: Vm) -> str:
    return f"{vm.host}/{vm.interface}"


def covering(vms: Sequence[Vm]) -> list[tuple[Vm, Vm, str]]:
    """Pairs by which every two of the VMs' hosts, and every host within itself, are covered; each answer is the way back.

    Of each pair of hosts two VMs are probed by IPv4 and, where they have it, two others (if there are others) by IPv6.
    """
    by_host: dict[str, list[Vm]] = {}
    for vm in vms:
        by_host.setdefault(vm.host, []).append(vm)
    hosts = list(by_host)
    found = []
    for number, one in enumerate(hosts):
        for other in hosts[number + 1 :]:
            near, far = by_host[one], by_host[other]
            found.append((near[0], far[-1], _address(far[-1], 4)))
            if (v6 := _address(near[0], 6)) and (number, other) == (0, hosts[-1]):
                found.append((far[0], near[0], v6))
        if len(by_host[one]) > 1:
            found.append((by_host[one][0], by_host[one][1], _address(by_host[one][1], 4)))
    return found


def _address(vm: Vm, version: int) -> str:
    return next((ip for ip in vm.ips if (":" in ip) == (version == 6)), "")
