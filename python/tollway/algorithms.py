"""Algorithms of your own: one pure function from state to verdict.

>>> from tollway import Limiter, Policy
>>> class Trial(Algorithm):
...     '''So many permits for ever: a trial that ends when it is used up.'''
...
...     name = "trial"
...
...     def decide(self, rate, state, now, cost):
...         used = int.from_bytes(state or b"")
...         allowed = used + cost <= rate.permits
...         used += cost if allowed else 0
...         left = rate.permits - used
...         return Verdict(allowed, remaining=left, retry_after=None), used.to_bytes(4)
>>> limiter = Limiter("memory://")
>>> trial = Policy("trial", "2/365d", algorithm=Trial)
>>> [bool(limiter.check(trial, "203.0.113.7")) for _ in range(3)]
[True, True, False]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple

if TYPE_CHECKING:
    from tollway import Rate

__all__ = ["Algorithm", "Verdict"]


class Verdict(NamedTuple):
    """One limit's answer. Times are whole nanoseconds."""

    #: Whether the cost fits.
    allowed: bool
    #: Permits left: after the cost when allowed, as they stand when refused.
    remaining: int
    #: Until nothing is spent any more.
    reset_after: int = 0
    #: Until the same cost fits; ``None`` when it never will. Not read when allowed.
    retry_after: int | None = 0


class Algorithm(ABC):
    """A pure function: the same arguments give the same answer, wherever the state is kept.

    Give the class, an instance, or its dotted path as ``Policy(algorithm=...)``. It is registered
    under its name for the life of the process, 64 at most. A refusal must return the state as it
    was, and time that goes backwards must neither free nor lock a key. An exception refuses the
    request for a second and goes to ``sys.unraisablehook``.

    It works on every backend that keeps whole values: memory, Redis, SQL, and your own.
    ``shm://`` refuses it by name.
    """

    #: What policies and states call it: lower-case letters, digits and underscores.
    name: ClassVar[str]

    @abstractmethod
    def decide(self, rate: Rate, state: bytes | None, now: int, cost: int) -> tuple[Verdict, bytes]:
        """The verdict on ``cost`` at ``now``, in nanoseconds since the epoch, and the next state.

        ``state`` of ``None`` stands for a key never seen.
        """

    def lifetime(self, rate: Rate) -> int:
        """How long a state can matter, in nanoseconds: the period, unless you say otherwise."""
        return int((rate.period or 366 * 86_400) * 1_000_000_000)


# Define ``adjust(rate, state, now, delta) -> bytes`` as well, and refunds and reservations work.

_registered: dict[str, type] = {}


def _note(name: str, cls: type) -> None:
    """Remember which class a name was registered for."""
    _registered[name] = cls


def _is_registered(name: str, cls: type) -> bool:
    """Whether ``name`` stands for this very class."""
    return _registered.get(name) is cls
