"""One piece of code for sync and async: what has to be waited for is a step, not a call.

A decision is written as a generator that yields steps. :func:`run` answers each on the spot,
:func:`arun` awaits it. So a sync view blocks on its reply, an async one never leaves the event
loop, and the rules stand in one place.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol, TypeVar

from django.conf import settings as django_settings
from django.http import HttpRequest

from tollway import ConfigError, Decision, Limiter, Policy
from tollway.rules import Rules, Subject

T = TypeVar("T")
Charge = tuple[Policy, str, int]


class Step(Protocol):
    """Something with an answer, now or later."""

    def now(self) -> Any:
        """The answer, blocking for it."""

    async def later(self) -> Any:
        """The answer, awaiting it."""


Steps = Generator[Step, Any, T]


class Check:
    """Ask a limiter whether the charges may pass, all or none, in one round trip.

    With rules it is they who ask.
    """

    __slots__ = ("charges", "limiter", "rules", "subject")

    def __init__(
        self,
        limiter: Limiter,
        charges: Sequence[Charge],
        rules: Rules | None = None,
        subject: Subject | None = None,
    ) -> None:
        self.limiter = limiter
        self.charges = charges
        self.rules = rules
        self.subject = subject

    def now(self) -> Decision:
        """Ask and wait."""
        if self.rules is not None:
            return self.rules.check(self.limiter, self.charges, self.subject)
        if len(self.charges) == 1:
            return self.limiter.check(*self.charges[0])
        return self.limiter.check_all(self.charges)

    async def later(self) -> Decision:
        """Ask and await."""
        if self.rules is not None:
            return await self.rules.acheck(self.limiter, self.charges, self.subject)
        if len(self.charges) == 1:
            return await self.limiter.acheck(*self.charges[0])
        return await self.limiter.acheck_all(self.charges)


class Settle:
    """Charge what a request cost in the end: less is given back, more is owed.

    One round trip for each charge that differs, and one more when it was more.
    """

    __slots__ = ("actual", "charge", "limiter")

    def __init__(self, limiter: Limiter, charge: Charge, actual: int) -> None:
        self.limiter = limiter
        self.charge = charge
        self.actual = actual

    def now(self) -> None:
        """Settle and wait."""
        policy, who, charged = self.charge
        if self.actual < charged:
            self.limiter.refund(policy, who, charged - self.actual)
        elif self.actual > charged:
            self.limiter.reserve(policy, who, 0).commit(self.actual - charged)

    async def later(self) -> None:
        """Settle and await."""
        policy, who, charged = self.charge
        if self.actual < charged:
            await self.limiter.arefund(policy, who, charged - self.actual)
        elif self.actual > charged:
            held = await self.limiter.areserve(policy, who, 0)
            await held.acommit(self.actual - charged)


class Call:
    """Call a function of the project: a key, a cost, a condition. Async in async views."""

    __slots__ = ("arguments", "function", "what")

    def __init__(self, what: str, function: Callable[..., Any], *arguments: object) -> None:
        self.what = what
        self.function = function
        self.arguments = arguments

    def now(self) -> Any:
        """Call it; an async one is a mistake here."""
        answer = self.function(*self.arguments)
        if inspect.isawaitable(answer):
            if inspect.iscoroutine(answer):
                answer.close()
            raise ConfigError(
                f"{self.what} {self.function!r} is async, but the view is not: "
                "make the view async or the function sync"
            )
        return answer

    async def later(self) -> Any:
        """Call it, and await it when it is async."""
        answer = self.function(*self.arguments)
        return await answer if inspect.isawaitable(answer) else answer


class User:
    """The user of a request; looked up without blocking the loop in async views."""

    __slots__ = ("request",)

    def __init__(self, request: HttpRequest) -> None:
        self.request = request

    def now(self) -> Any:
        """``request.user``."""
        if not hasattr(self.request, "user"):
            if any("Authentication" in name for name in django_settings.MIDDLEWARE):
                return None  # the request was answered before the middleware came to it
            raise ConfigError(
                f"a limit on {self.request.path} counts by user, but the request has no user yet: "
                "put django.contrib.auth.middleware.AuthenticationMiddleware into MIDDLEWARE"
            )
        return self.request.user

    async def later(self) -> Any:
        """``await request.auser()``."""
        auser = getattr(self.request, "auser", None)
        return self.now() if auser is None else await auser()


def run(steps: Steps[T]) -> T:
    """Drive the steps, answering each on the spot."""
    try:
        step = next(steps)
        while True:
            try:
                answer = step.now()
            except Exception as error:
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


async def arun(steps: Steps[T]) -> T:
    """Drive the steps, awaiting each."""
    try:
        step = next(steps)
        while True:
            try:
                answer = await step.later()
            except Exception as error:
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result
