"""Rate limits for Flask: ``@rate_limit("5/10s")`` below the route, :func:`limit_app` for all.

A route is counted by its rule (``/items/<int:item>``). Decorators that are stacked are one check,
one round trip and one set of headers. The thread of a request waits without the GIL.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final

from flask import Flask, Response, after_this_request, current_app, request

from tollway import ConfigError, Decision, Limiter
from tollway.answer import policy_name
from tollway.asgi import (
    Body,
    Cost,
    Key,
    Policies,
    Scope,
    compose,
    get_limiter,
    rate_limit_of,
    set_limiter,
)
from tollway.asgi import client_ip as _client_ip
from tollway.asgi.answering import Answer, written
from tollway.asgi.limits import STACK, Charge, Decorator, RouteLimit, Stack
from tollway.asgi.middleware import Excludes
from tollway.asgi.passage import rules_of, subject_of

__all__ = [
    "client_ip",
    "compose",
    "decision",
    "get_limiter",
    "limit_app",
    "rate_limit",
    "set_limiter",
]


_SCOPE: Final = "tollway.scope"


def limit_app(
    app: Flask,
    policy: Policies | Sequence[Policies] | None = None,
    limiter: Limiter | None = None,
    cost: Cost = 1,
    key: Key | None = None,
    *,
    exclude_paths: Iterable[str] = (),
    exclude_methods: Iterable[str] = ("OPTIONS",),
    body: Body | None = None,
    skip_if: Callable[..., Any] | None = None,
) -> None:
    """Limit every request of an application, before its view and those of its blueprints.

    ``exclude_paths`` are globs, ``exclude_methods`` methods that are never limited;
    ``skip_if`` is a function of the request that says so of one.
    """
    stack = Stack([RouteLimit(policy, limiter, cost, key, "policy", body, skip_if)])
    excludes = Excludes(exclude_paths, exclude_methods)

    def before() -> Response | None:
        return None if excludes.holds(_scope()) else _turned_away(stack, "")

    app.before_request(before)


def decision() -> Decision | None:
    """The decision that speaks for the request so far; ``None`` when no limit was checked."""
    return rate_limit_of(_scope())


def client_ip() -> str:
    """The client's address: the peer, or what a trusted proxy says about it."""
    return _client_ip(_scope())


def _limited(view: Any, stack: Stack) -> Any:
    @functools.wraps(view)
    def limited(*arguments: Any, **named: Any) -> Any:
        rule = request.url_rule
        methods = set(getattr(rule, "methods", None) or ()) - {"HEAD", "OPTIONS"}
        name = policy_name("+".join(sorted(methods)), getattr(rule, "rule", view.__qualname__))
        answer = _turned_away(stack, name)
        if answer is not None:
            return answer
        return current_app.ensure_sync(view)(*arguments, **named)

    setattr(limited, STACK, stack)
    return limited


rate_limit = Decorator(_limited)
"""Limits a view, sync or async. Functions for ``key`` and ``cost`` are sync here."""


def _turned_away(stack: Stack, route: str) -> Response | None:
    scope = _scope()
    asked = request._get_current_object()  # type: ignore[attr-defined]
    answer = _at_once(stack.turned_away(scope, asked, route, _ask))
    if answer is not None:
        return _response(answer)
    after_this_request(_write_headers)
    return None


async def _ask(limiter: Limiter, charges: Sequence[Charge], scope: Scope) -> Decision:
    """Asks in the thread of the request; it is ``async`` by its type only."""
    rules = rules_of(scope)
    if rules is not None:
        return rules.check(limiter, charges, await subject_of(scope))
    return limiter.check_all(charges)


def _at_once(work: Coroutine[Any, Any, Answer | None]) -> Answer | None:
    """What a coroutine returns that has nothing to wait for."""
    try:
        work.send(None)
    except StopIteration as done:
        answer: Answer | None = done.value
        return answer
    finally:
        work.close()
    raise ConfigError("a function for key=, cost= or facts= is async, and Flask has no event loop")


def _write_headers(response: Response) -> Response:
    found = decision()
    if found is not None:
        for name, value in written(found, response.status_code):
            response.headers[name] = value
    return response


def _response(answer: Answer) -> Response:
    status, headers, body = answer
    pairs = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
    return Response(body, status, pairs)


def _scope() -> Scope:
    """The request as the rest of the package reads it."""
    environ = request.environ
    found: Scope | None = environ.get(_SCOPE)
    if found is None:
        root = environ.get("SCRIPT_NAME", "")
        address = environ.get("REMOTE_ADDR")
        found = environ[_SCOPE] = {
            "type": "http",
            "method": environ["REQUEST_METHOD"],
            "root_path": root,
            "path": root + request.path,
            "query_string": environ.get("QUERY_STRING", "").encode("latin-1"),
            "client": (address, 0) if address else None,
            "headers": [
                (name[5:].replace("_", "-").lower().encode("latin-1"), value.encode("latin-1"))
                for name, value in environ.items()
                if name.startswith("HTTP_")
            ],
        }
    return found
