"""What a request costs, and how functions of the project are asked."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final

from tollway import ConfigError
from tollway.counter import COUNT_MAX

Cost = int | Callable[..., Any]


def read_cost(cost: Cost) -> Cost:
    """A cost as it was written, checked."""
    if callable(cost) or (type(cost) is int and 1 <= cost <= COUNT_MAX):
        return cost
    raise ConfigError(
        f"cost={cost!r}: a cost is a whole number from 1 to {COUNT_MAX}, or a function of it"
    )


async def cost_of(cost: Cost, argument: object) -> int:
    """What a request costs: a number, or what a function of it says. 0 is free."""
    if not callable(cost):
        return cost
    return read_answer(cost, await answered(cost(argument)))


def read_answer(cost: Callable[..., Any], value: Any) -> int:
    """What a function of the cost returned, checked.

    Clients have their say in such a function: one that asks for more than can be counted is
    refused like any that asks for more than its limit holds.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"the cost function {cost!r} returned {value!r}, not a whole number")
    return min(value, COUNT_MAX)


async def answered(value: Any) -> Any:
    """What a function of the project returned, awaited when it is async."""
    return await value if inspect.isawaitable(value) else value


_USER_NAMES: Final = ("pk", "id", "identity", "username", "display_name")


def user_id(user: Any) -> str:
    """What tells a user from others."""
    for name in _USER_NAMES:
        try:
            value = getattr(user, name, None)
        except NotImplementedError:  # what Starlette's BaseUser says of a name it does not have
            continue
        if value not in (None, ""):
            return str(value)
    raise ConfigError(
        f"the user {type(user).__name__} has none of {', '.join(_USER_NAMES)}: "
        "pass a function as key="
    )
