"""The numbers of :mod:`tollway.observe` for StatsD, and for agents that read tags.

    from tollway.observe import statsd

    statsd.start("127.0.0.1", 8125)

From then on each process sends what came in since it sent last.
"""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Iterable, Iterator

from tollway import observe
from tollway.errors import ConfigError
from tollway.observe import StoreNumbers
from tollway.observe.beat import Beat, growth

__all__ = ["start"]

#: What one packet may hold: more would be cut in two on the usual network.
_PACKET = 1432
_BREAKER = {"closed": 0, "half_open": 1, "open": 2}
_NO_SEGMENT = re.compile(r"[^A-Za-z0-9_-]")
_NO_TAG = re.compile(r"[^A-Za-z0-9_./:~-]")


def start(
    host: str = "127.0.0.1",
    port: int = 8125,
    *,
    every: float = 10.0,
    prefix: str = "tollway",
    tags: bool = False,
) -> Beat:
    """Send the counts every so many seconds by UDP, until ``stop()``.

    Costs a request nothing but its count. Counters are ``PREFIX.checks.POLICY.OUTCOME``, and
    ``PREFIX.store.calls.STORE``, ``.milliseconds``, ``.skipped`` and ``.errors.STORE.KIND``; gauges
    ``PREFIX.store.waiting.STORE`` and ``PREFIX.breaker.state.STORE``. With ``tags=True`` what is
    written in capitals are tags, as DogStatsD reads them. In names what is no letter, digit, ``-``
    or ``_`` becomes ``_``.
    """
    if not 0 < port < 65_536:
        raise ConfigError(f"port is between 1 and 65535, not {port}")
    if not all(part and not _NO_SEGMENT.search(part) for part in prefix.split(".")):
        raise ConfigError(
            f"prefix is made of letters, digits, '-', '_' and single dots, not {prefix!r}"
        )
    observe.start()
    sender = _Sender((host, port), prefix, tags)
    return Beat(sender.tell, every, sender.anew)


class _Sender:
    """What was sent last, to send what is new."""

    def __init__(self, address: tuple[str, int], prefix: str, tags: bool) -> None:
        self._address = address
        self._prefix = prefix
        self._tags = tags
        self._before = self._counters()

    def anew(self) -> None:
        self._before = Counter()

    def tell(self) -> None:
        found = self._counters()
        new = growth(found, self._before)
        lines = [f"{name}:{count}|c{tags}" for (name, tags), count in new.items() if count]
        lines += [f"{name}:{value}|g{tags}" for (name, tags), value in self._gauges()]
        self._send(lines)
        self._before = found

    def _named(self, metric: str, **labels: str) -> tuple[str, str]:
        """A metric's name, and its tags with what leads them in."""
        if self._tags:
            told = ",".join(f"{name}:{_NO_TAG.sub('_', label)}" for name, label in labels.items())
            return f"{self._prefix}.{metric}", f"|#{told}"
        segments = [_NO_SEGMENT.sub("_", label) for label in labels.values()]
        return ".".join([self._prefix, metric, *segments]), ""

    def _counters(self) -> Counter[tuple[str, str]]:
        """Added up where two names are one in StatsD."""
        found: Counter[tuple[str, str]] = Counter()
        for policy, counts in observe.checks().items():
            for outcome, count in counts.items():
                found[self._named("checks", policy=policy, outcome=outcome)] += count
        for store in observe.stores():
            name = store["store"]
            found[self._named("store.calls", store=name)] += store["calls"]
            found[self._named("store.milliseconds", store=name)] += round(store["seconds"] * 1000)
            found[self._named("store.skipped", store=name)] += store["skipped"]
            for kind, count in store["errors"].items():
                found[self._named("store.errors", store=name, kind=kind)] += count
        return found

    def _gauges(self) -> Iterator[tuple[tuple[str, str], int]]:
        def state(store: StoreNumbers) -> int:
            return _BREAKER[store["breaker"] or "closed"]

        for store in observe.stores():
            yield self._named("store.waiting", store=store["store"]), store["waiting"]
            yield self._named("breaker.state", store=store["store"]), state(store)

    def _send(self, lines: Iterable[str]) -> None:
        family, kind, protocol, _, address = socket.getaddrinfo(
            *self._address, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind, protocol) as agent:
            packet = b""
            for line in lines:
                told = line.encode()
                if packet and len(packet) + 1 + len(told) > _PACKET:
                    agent.sendto(packet, address)
                    packet = b""
                packet = packet + b"\n" + told if packet else told
            if packet:
                agent.sendto(packet, address)
