"""The limiter, its decorators, and the answer to a refusal."""

from __future__ import annotations

import functools
import inspect
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from email.utils import formatdate
from typing import Any, Final, Literal, TypeVar

from starlette.config import Config
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response

from tollway import ConfigError, Decision, Policy
from tollway import Limiter as Engine
from tollway.answer import UNAVAILABLE_SECONDS, unavailable_text
from tollway.asgi.passage import Passage
from tollway.compat.slowapi.errors import RateLimitExceeded
from tollway.compat.slowapi.limits import (
    Limit,
    Value,
    Written,
    algorithm_of,
    charges,
)
from tollway.errors import StoreError

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
Charges = dict[tuple[Policy, str, int], Limit]

WRITTEN: Final = "_tollway_written"
"""The attribute of an endpoint that holds what decorators wrote of it."""

EXEMPT: Final = "_tollway_exempt"

_OPTIONS: Final = ("socket_connect_timeout", "socket_timeout")


class Limiter:
    """slowapi's ``Limiter``; the parameters are those of its documentation."""

    def __init__(
        self,
        key_func: Callable[..., Any],
        default_limits: Sequence[Value] = (),
        application_limits: Sequence[Value] = (),
        headers_enabled: bool = False,
        strategy: str | None = None,
        storage_uri: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        auto_check: bool = True,
        swallow_errors: bool = False,
        in_memory_fallback: Sequence[Value] = (),
        in_memory_fallback_enabled: bool = False,
        retry_after: str | None = None,
        key_prefix: str = "",
        enabled: bool = True,
        config_filename: str | None = None,
        key_style: Literal["endpoint", "url"] = "url",
    ) -> None:
        read = _config(config_filename)
        self.enabled = enabled and read("RATELIMIT_ENABLED", bool, True)
        self.auto_check = auto_check
        self._headers_enabled = headers_enabled or read("RATELIMIT_HEADERS_ENABLED", bool, False)
        self._retry_after = retry_after or read("RATELIMIT_HEADER_RETRY_AFTER_VALUE", str, "")
        self._algorithm = algorithm_of(strategy or read("RATELIMIT_STRATEGY", str, None))
        if key_style not in ("endpoint", "url"):
            raise ConfigError(f'key_style={key_style!r}: it is "url" or "endpoint"')
        self._by_endpoint = key_style == "endpoint"
        self._key_func = key_func
        self._defaults = self._all(default_limits or _stated(read("RATELIMIT_DEFAULT", str, "")))
        application = application_limits or _stated(read("RATELIMIT_APPLICATION", str, ""))
        self._application = self._all(application, scope="global")
        fallback = in_memory_fallback or _stated(read("RATELIMIT_IN_MEMORY_FALLBACK", str, ""))
        self._fallback = self._all(fallback)
        mode = "closed"
        if self._fallback:
            self._memory = Engine("memory://")
        elif in_memory_fallback_enabled or read(
            "RATELIMIT_IN_MEMORY_FALLBACK_ENABLED", bool, False
        ):
            mode = "local"
        elif swallow_errors or read("RATELIMIT_SWALLOW_ERRORS", bool, False):
            mode = "open"
        options = _options(storage_options or {})
        self.engine = Engine(
            storage_uri or read("RATELIMIT_STORAGE_URL", str, "") or "memory://",
            fail_mode=mode,
            prefix=key_prefix or read("RATELIMIT_KEY_PREFIX", str, "") or "slowapi",
            connect_timeout=options.get("socket_connect_timeout", 1.0),
            command_timeout=options.get("socket_timeout", 0.1),
        )
        """The limiter of this library that counts."""
        self._counted: set[Policy] = set()

    def _all(self, limits: Iterable[Value], scope: str | None = None) -> tuple[Written, ...]:
        return tuple(Written(value, self._key_func, scope) for value in limits)

    def limit(
        self,
        limit_value: Value,
        key_func: Callable[..., Any] | None = None,
        per_method: bool = False,
        methods: Sequence[str] | None = None,
        error_message: Value | None = None,
        exempt_when: Callable[..., bool] | None = None,
        cost: int | Callable[..., int] = 1,
        override_defaults: bool = True,
    ) -> Callable[[Endpoint], Endpoint]:
        """Limit an endpoint, which has a parameter ``request``, written below the route.

        Raises :class:`tollway.ConfigError` where it is written, on a limit that does not read.
        """
        return self._decorator(
            Written(
                limit_value,
                key_func or self._key_func,
                None,
                per_method,
                None if methods is None else frozenset(name.upper() for name in methods),
                error_message,
                exempt_when,
                cost,
                override_defaults,
            )
        )

    def shared_limit(
        self,
        limit_value: Value,
        scope: Value,
        key_func: Callable[..., Any] | None = None,
        error_message: Value | None = None,
        exempt_when: Callable[..., bool] | None = None,
        cost: int | Callable[..., int] = 1,
        override_defaults: bool = True,
    ) -> Callable[[Endpoint], Endpoint]:
        """One count for all endpoints with this scope: a text, or a function of the endpoint."""
        return self._decorator(
            Written(
                limit_value,
                key_func or self._key_func,
                scope,
                error_message=error_message,
                exempt_when=exempt_when,
                cost=cost,
                override_defaults=override_defaults,
            )
        )

    def exempt(self, obj: Endpoint) -> Endpoint:
        """An endpoint that the limits of the middleware do not concern."""
        setattr(obj, EXEMPT, True)
        return obj

    def reset(self) -> None:
        """Forget what this process has counted under its limits."""
        for policy in self._counted:
            self.engine.reset(policy, prefix="")

    def _decorator(self, written: Written) -> Callable[[Endpoint], Endpoint]:
        def decorate(endpoint: Any) -> Any:
            found: list[Written] | None = getattr(endpoint, WRITTEN, None)
            if found is None:
                return self._limited(endpoint, [written])
            found.insert(0, written)
            return endpoint

        return decorate

    def _limited(self, endpoint: Any, written: list[Written]) -> Any:
        if not {"request", "websocket"} & set(inspect.signature(endpoint).parameters):
            raise ConfigError(
                f"{endpoint.__qualname__} has no parameter named request or websocket, by which "
                "its limit could be asked: add one, or use tollway.fastapi.rate_limit"
            )
        if inspect.iscoroutinefunction(endpoint):

            @functools.wraps(endpoint)
            async def limited(*arguments: Any, **named: Any) -> Any:
                request = _request(arguments, named)
                if self.enabled and self.auto_check:
                    await self.acheck(request, self.charges(request, endpoint, written))
                return self._told(request, named, await endpoint(*arguments, **named))
        else:

            @functools.wraps(endpoint)
            def limited(*arguments: Any, **named: Any) -> Any:
                request = _request(arguments, named)
                if self.enabled and self.auto_check:
                    self.check(request, self.charges(request, endpoint, written))
                return self._told(request, named, endpoint(*arguments, **named))

        setattr(limited, WRITTEN, written)
        return limited

    def charges(
        self, request: HTTPConnection, endpoint: Any, written: Sequence[Written] = ()
    ) -> Charges:
        """What a request is charged: the limits of its endpoint and those of everything."""
        own_name = getattr(endpoint, "__name__", type(endpoint).__name__)  # a mount has objects
        name = f"{endpoint.__module__}.{own_name}"
        scope = name if self._by_endpoint else request.scope["path"]
        every = [*self._application, *written]
        if not written or not all(item.override_defaults for item in written):
            every += self._defaults
        found = charges(every, request, scope, self._algorithm)
        self._counted.update(policy for policy, _, _ in found)
        return found

    def check(self, request: HTTPConnection, asked: Charges) -> None:
        """Ask in this thread, all or nothing, in one round trip."""
        if asked:
            try:
                decision = self.engine.check_all(list(asked))
            except StoreError as error:
                decision = self._away(request, error)
            self._judge(request, asked, decision)

    async def acheck(self, request: HTTPConnection, asked: Charges) -> None:
        """Ask without blocking the event loop."""
        if asked:
            try:
                decision = await self.engine.acheck_all(list(asked))
            except StoreError as error:
                decision = self._away(request, error)
            self._judge(request, asked, decision)

    def _away(self, request: HTTPConnection, error: StoreError) -> Decision:
        """What holds while the store is away and its limits are not to be kept in memory."""
        if not self._fallback:
            seconds = {"Retry-After": str(UNAVAILABLE_SECONDS)}
            raise HTTPException(503, unavailable_text(), seconds) from error
        asked = charges(self._fallback, request, request.scope["path"], self._algorithm)
        decision = self._memory.check_all(list(asked))
        if not decision.allowed:
            self._judge(request, asked, decision)
        return decision

    def _judge(self, request: HTTPConnection, asked: Charges, decision: Decision) -> None:
        request.state.view_rate_limit = decision
        Passage.of(request.scope).note(decision)
        if not decision.allowed:
            named = {policy.name: limit for (policy, _, _), limit in asked.items()}
            raise RateLimitExceeded(named[decision.policy], decision)

    def _told(self, request: HTTPConnection, named: Mapping[str, Any], answer: Any) -> Any:
        """The answer, with headers on what is at hand: it, or a parameter ``response``."""
        response = answer if isinstance(answer, Response) else named.get("response")
        decision = getattr(request.state, "view_rate_limit", None)
        if isinstance(response, Response) and decision is not None:
            self._inject_headers(response, decision)
        return answer

    def _inject_headers(self, response: Response, decision: Decision | None) -> Response:
        """``headers_enabled``: what handlers of the project may call, too."""
        if self.enabled and self._headers_enabled and decision is not None:
            for name, value in self.headers(decision):
                response.headers[name] = value
        return response

    def headers(self, decision: Decision) -> list[tuple[str, str]]:
        """``X-RateLimit-*``, and on refusals ``Retry-After``; none unless they are enabled."""
        if not self._headers_enabled:
            return []
        found = dict(decision.headers(ietf=False))
        if decision.allowed:
            found.pop("Retry-After", None)
        elif self._retry_after == "http-date" and "Retry-After" in found:
            when = time.time() + decision.retry_after_seconds
            found["Retry-After"] = formatdate(when, usegmt=True)
        return list(found.items())


def _rate_limit_exceeded_handler(request: Request, exc: RateLimitExceeded) -> Response:
    """``{"error": "Rate limit exceeded: 5 per 1 minute"}`` with 429."""
    response = JSONResponse({"error": f"Rate limit exceeded: {exc.detail}"}, exc.status_code)
    limiter = getattr(request.app.state, "limiter", None)
    if isinstance(limiter, Limiter):
        limiter._inject_headers(response, exc.decision)
    return response


def _request(arguments: Sequence[Any], named: Mapping[str, Any]) -> HTTPConnection:
    for item in (*named.values(), *arguments):
        if isinstance(item, HTTPConnection):
            return item
    raise ConfigError("an endpoint with a limit was called without its request")


def _config(filename: str | None) -> Callable[[str, Any, Any], Any]:
    """Reads a setting from the environment, else from the file."""
    name = filename or ".env"
    if filename is not None and not os.path.isfile(filename):
        raise ConfigError(f"config_filename={filename!r}: there is no such file")
    config = Config(name if os.path.isfile(name) else None)
    return lambda key, cast, default: config(key, cast=cast, default=default)


def _stated(setting: str) -> tuple[str, ...]:
    return (setting,) if setting else ()


def _options(given: Mapping[str, Any]) -> dict[str, float]:
    unknown = sorted(set(given) - set(_OPTIONS))
    if unknown:
        raise ConfigError(
            f"storage_options has {', '.join(unknown)}: known here are {', '.join(_OPTIONS)}; "
            "write the others in the URL, see the page of the store"
        )
    return {name: float(value) for name, value in given.items()}
