"""Locks a login after failed tries, by account and by address."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

from tollway import ClientAddress, Limiter, Rate, hash_identity
from tollway.accounts import account
from tollway.answer import UNAVAILABLE_SECONDS, unavailable_text
from tollway.bolt.exceptions import ServiceUnavailable, TooManyRequests
from tollway.bolt.limits import Counting
from tollway.bolt.request import Request
from tollway.errors import ConfigError, StoreError
from tollway.rules import Attempt, Lockout

__all__ = ["LOGIN_LIMITS", "LoginLockout", "LoginTries"]

LOGIN_LIMITS: Final[Mapping[str, str | Rate]] = {
    "username+ip": "5/15m",
    "username": "100/h",
    "ip": "100/h",
}
"""Failed tries that nobody needs who merely mistypes a password."""

_FIELDS: Final = frozenset(("username", "ip"))


class LoginLockout(Counting):
    """Locks a login after failed tries, wherever the limits of the server are counted.

    ``limits`` are as those of :class:`tollway.rules.Lockout`, by ``username``, ``ip`` or
    ``username+ip``; None counts nothing. A login that succeeds forgets the failures of its
    account. Logins with the same limits share their counts, others have counts of their own::

        lockout = LoginLockout({"username+ip": "5/15m", "username": "100/h"})

        @api.post("/login", auth=[])
        def login(shown: Shown, tries: Annotated[LoginTries, Depends(lockout)]):
            with tries.attempt(shown.username) as succeeded:
                user = authenticate(username=shown.username, password=shown.password)
                if user is None:
                    raise Unauthorized("the user name or the password is wrong")
                succeeded()
            ...

    Raises ConfigError where it is made, on a field or a rate that cannot be.
    """

    def __init__(self, limits: Mapping[str, str | Rate] | None = LOGIN_LIMITS) -> None:
        self.limits: dict[str, str | Rate] | None = None if limits is None else dict(limits)
        spelled = "; ".join(f"{text} {rate}" for text, rate in (limits or {}).items())
        # What one login counts as too many need not be too many for another.
        self.name = f"bolt.login~{hash_identity(spelled)[:8]}"
        for text in self.limits or ():
            for field in text.split("+"):
                if field.strip() not in _FIELDS:
                    raise ConfigError(
                        f"lockout: a login is not counted by {text!r}: "
                        'write "username", "ip" or "username+ip"'
                    )
        self._counted_at(Limiter())

    def counted_by(
        self, limiter: Limiter | None, address: ClientAddress
    ) -> Callable[[Request], LoginTries]:
        lockout = self._counted_at(limiter) if limiter else None

        def tries(request: Request) -> LoginTries:
            return LoginTries(lockout, address.key(request.client))

        return tries

    def _counted_at(self, limiter: Limiter) -> Lockout | None:
        if self.limits is None:
            return None
        clears = [text for text in self.limits if "username" in text]
        return Lockout(limiter, self.name, self.limits, clears=clears)


class LoginTries:
    """The tries of one address: what ``Depends(lockout)`` gives a handler."""

    def __init__(self, lockout: Lockout | None, ip: str) -> None:
        self._lockout = lockout
        self._ip = ip

    @contextmanager
    def attempt(self, username: str) -> Iterator[Callable[[], None]]:
        """One try. It has failed when the block ends before what it gives was called.

        Raises TooManyRequests, the same for every account, when there were too many; no more
        failures than the limit pass, however many tries come at once. Where the database was away
        during the block, nothing is counted. One round trip to the store and one more for each
        limit after a success; it waits for them, so call it in a ``def`` handler.
        """
        if self._lockout is None:
            yield _nothing
            return
        try:
            attempt = self._lockout.attempt(username=account(username), ip=self._ip)
            if not attempt:
                raise TooManyRequests(
                    "too many failed tries to log in: come back later",
                    headers={"Retry-After": str(attempt.decision.retry_after_seconds)},
                )
            with attempt, _not_when_away(attempt):
                yield attempt.succeeded
        except StoreError as error:
            wait = {"Retry-After": str(UNAVAILABLE_SECONDS)}
            raise ServiceUnavailable(unavailable_text(), headers=wait) from error


@contextmanager
def _not_when_away(attempt: Attempt) -> Iterator[None]:
    """Gives the try back when nobody could look at the password."""
    from django.db import OperationalError

    try:
        yield
    except OperationalError:
        with suppress(ConfigError):  # its outcome may be told already
            attempt.cancel()
        raise


def _nothing() -> None:
    """Limits are off: nothing is counted."""
