"""Guards: may this caller pass? Decided in Rust, before Python is entered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from tollway.errors import ConfigError

__all__ = [
    "AllowAny",
    "BaseGuard",
    "HasAllPermissions",
    "HasAnyPermission",
    "HasPermission",
    "IsAdminUser",
    "IsAuthenticated",
    "IsStaff",
    "IsSuperuser",
    "Requires",
]

PERMISSIONS: Final = "permissions"


class BaseGuard:
    """What all guards share. There is nothing to override: combine the ones there are."""

    def native(self) -> tuple[Any, ...]:
        """The guard as the server reads it."""
        raise ConfigError(f"{type(self).__name__} is no guard: use IsAuthenticated() or Requires()")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class AllowAny(BaseGuard):
    """Everybody may pass: for a route that is open where others are not."""

    def native(self) -> tuple[Any, ...]:
        return ("any",)


class IsAuthenticated(BaseGuard):
    """Whoever was verified may pass; others get 401."""

    def native(self) -> tuple[Any, ...]:
        return ("authenticated",)


class Requires(BaseGuard):
    """Whoever was verified and has a claim may pass; others get 401 or 403::

        Requires("tenant")                                   # it is there, and not false
        Requires("role", "editor", "admin")                  # it is one of these
        Requires("permissions", all_of=["shop.view", "shop.sell"])
        Requires("role", none_of=["suspended"])

    A claim that is a list matches by its members. ``permissions`` stands for the claim of that
    name and for the permissions of an API key. ``message`` is what those who get 403 are told.
    """

    def __init__(
        self,
        claim: str,
        *values: Any,
        any_of: Iterable[Any] | None = None,
        all_of: Iterable[Any] | None = None,
        none_of: Iterable[Any] | None = None,
        message: str | None = None,
    ) -> None:
        named: Any = claim
        if not isinstance(named, str) or not named:
            raise ConfigError(f"Requires: the claim's name is missing, got {claim!r}")
        if message is not None and not message:
            raise ConfigError(f'Requires("{claim}"): message is empty: leave it out')
        ways = {"any_of": any_of, "all_of": all_of, "none_of": none_of}
        given = {name: _values(claim, name, way) for name, way in ways.items() if way is not None}
        if values:
            given["any_of"] = given.get("any_of", []) + _values(claim, "values", values)
        if len(given) > 1:
            raise ConfigError(
                f'Requires("{claim}"): {" and ".join(given)} are two conditions: write two guards'
            )
        self.claim = claim
        self.message = message
        self.mode, self.values = next(iter(given.items()), ("present", []))

    def native(self) -> tuple[Any, ...]:
        return ("requires", self.claim, self.mode, self.values, self.message)

    def __repr__(self) -> str:
        return f"Requires({self.claim!r}, {self.mode}={self.values!r})"


def _values(claim: str, name: str, given: Any) -> list[Any]:
    if isinstance(given, str):
        raise ConfigError(f'Requires("{claim}"): {name}={given!r}: write a list, [{given!r}]')
    values = list(given)
    if not values:
        raise ConfigError(f'Requires("{claim}"): {name} is empty')
    for value in values:
        if not isinstance(value, str | bool | int | float):
            raise ConfigError(
                f'Requires("{claim}"): {value!r} cannot be compared with a claim: '
                "use str, bool, int or float"
            )
    return values


class IsStaff(Requires):
    """The claim ``is_staff`` is true."""

    def __init__(self) -> None:
        super().__init__("is_staff", True, message="this is for staff")


class IsSuperuser(Requires):
    """The claim ``is_superuser`` is true."""

    def __init__(self) -> None:
        super().__init__("is_superuser", True, message="this is for superusers")


class IsAdminUser(IsSuperuser):
    """Another name of :class:`IsSuperuser`."""


class HasPermission(Requires):
    """One permission: ``HasPermission("shop.add_item")``."""

    def __init__(self, permission: str) -> None:
        super().__init__(PERMISSIONS, permission)


class HasAnyPermission(Requires):
    """One of several permissions: ``HasAnyPermission("shop.add_item", "shop.change_item")``."""

    def __init__(self, *permissions: str | Sequence[str]) -> None:
        super().__init__(PERMISSIONS, any_of=_flat(permissions))


class HasAllPermissions(Requires):
    """All of several permissions: ``HasAllPermissions("shop.add_item", "shop.change_item")``."""

    def __init__(self, *permissions: str | Sequence[str]) -> None:
        super().__init__(PERMISSIONS, all_of=_flat(permissions))


def _flat(permissions: Iterable[str | Sequence[str]]) -> list[str]:
    """Names that may have been given one by one, or as a list."""
    found: list[str] = []
    for item in permissions:
        found.extend([item] if isinstance(item, str) else item)
    return found
