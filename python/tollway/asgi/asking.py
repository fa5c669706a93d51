"""What a request costs, and how functions of the project are asked."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final

from tollway import ConfigError

Cost = int | Callable[..., Any]


def read_cost(cost: Cost) -> Cost:
    """A cost as it was written, checked."""
    if not callable(cost) and (isinstance(cost, bool) or cost < 1):
        raise ConfigError(f"cost={cost!r}: a cost is a whole number from 1, or a function of it")
    return cost


async def cost_of(cost: Cost, argument: object) -> int:
    """What a request costs: a number, or what a function of it says. 0 is free."""
    if not callable(cost):
        return cost
    value = await answered(cost(argument))
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"the cost function {cost!r} returned {value!r}, not a whole number")
    return value


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
