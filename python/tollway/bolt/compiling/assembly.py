"""From APIs to what the server is made of: routes as dicts, and its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from django.http.response import HttpResponseBase

from tollway.bolt.api import BoltAPI
from tollway.bolt.auth.plan import Plan, plan_of
from tollway.bolt.carrying import carried
from tollway.bolt.compiling import paths
from tollway.bolt.compiling.answers import Answers
from tollway.bolt.compiling.binding import BodyReader
from tollway.bolt.compiling.explain import MOST_PROBLEMS, code_of
from tollway.bolt.compiling.response_models import promised
from tollway.bolt.compiling.signature import (
    Around,
    Signature,
    compile_signature,
    describe,
    name_of,
    returns,
)
from tollway.bolt.conf import BoltSettings
from tollway.bolt.error_handlers import Answer, ErrorHandler, invalid
from tollway.bolt.exceptions import FieldProblem
from tollway.bolt.lifespan import lifespans
from tollway.bolt.limits import Limiters, limits_of
from tollway.bolt.middleware.chain import layers_of, response_of, wrapped
from tollway.bolt.middleware.signals import RequestSignals
from tollway.bolt.responses import Redirect, Response, encode_json
from tollway.bolt.router import Route
from tollway.bolt.server import bounds
from tollway.bolt.server.threads import Threads, Wrapper
from tollway.errors import ConfigError

__all__ = ["Assembly", "assemble"]


@dataclass(slots=True)
class Assembly:
    """Everything that ``tollway._tollway.Server`` is made of."""

    routes: list[dict[str, Any]]
    settings: dict[str, Any]
    errors: ErrorHandler
    limiters: Limiters
    lifespan: AbstractAsyncContextManager[None]
    """What the APIs want to be around the serving; to be entered once."""
    count: int
    """How many routes people wrote; the server's own redirects are not among them."""
    forgetful: tuple[str, ...] = ()
    """Stores of revocations that other processes know nothing of."""


def assemble(
    apis: Iterable[BoltAPI], settings: BoltSettings, around: Wrapper | None = None
) -> Assembly:
    """Compile every route of ``apis``. ``around`` is put around all plain functions.

    Raises one ConfigError that lists everything that is wrong: bad signatures, two handlers for
    one method and path, limits that cannot be.
    """
    apis = list(apis)
    errors = ErrorHandler(debug=settings.debug)
    builder = _Builder(settings, Threads(settings.threads, around), errors)
    for api in apis:
        for route in api.routes():
            builder.add(route)
    if builder.problems:
        count = len(builder.problems)
        head = f"{count} things are wrong with the routes:\n" if count > 1 else ""
        raise ConfigError(head + "\n".join(builder.problems))
    return Assembly(
        routes=[*builder.routes, *builder.redirects()],
        settings={
            **bounds.native(settings.bounds),
            "tls_cert": settings.tls_cert,
            "tls_key": settings.tls_key,
            "file_roots": settings.file_roots,
            "threads": settings.threads,
            "trusted_proxies": list(settings.trusted_proxies),
            "proxy_hops": settings.proxy_hops,
            "ipv6_prefix": settings.ipv6_prefix,
            "answers": builder.answers.native(),
            "on_error": errors,
            "on_validation": InvalidRequests(builder.bodies),
            "response_type": Response,
            "carried": (HttpResponseBase, carried),
        },
        errors=errors,
        limiters=builder.limiters,
        lifespan=lifespans(apis),
        count=len(builder.routes),
        forgetful=tuple(sorted(builder.forgetful)),
    )


class _Builder:
    """Collects compiled routes, and everything that is wrong with the others."""

    def __init__(self, settings: BoltSettings, threads: Threads, errors: ErrorHandler) -> None:
        self.limiters = Limiters(settings)
        self.threads = threads
        answers = settings.answers
        self.answers = Answers(replace(answers, secure="always") if settings.tls_cert else answers)
        self.errors = errors
        self.routes: list[dict[str, Any]] = []
        self.bodies: dict[tuple[str, str], BodyReader] = {}
        self.problems: list[str] = []
        self.forgetful: set[str] = set()
        self._taken: dict[tuple[str, str], Route] = {}

    def add(self, route: Route) -> None:
        try:
            path = route.normal()
            self._claim(route, path)
            self.routes.append(self._compiled(route, path))
        except ConfigError as error:
            self.problems.append(str(error))

    def _claim(self, route: Route, path: str) -> None:
        place = (route.method, paths.shape(path))
        other = self._taken.setdefault(place, route)
        if other is not route:
            raise ConfigError(
                f"{route.method} {path} has two handlers: {describe(other.handler)} and "
                f"{describe(route.handler)}. Give one of them another path"
            )

    def _compiled(self, route: Route, path: str) -> dict[str, Any]:
        handler = route.handler
        plan = self._plan(route)
        self.forgetful.update(plan.forgetful)
        promise = promised(
            describe(handler),
            route.status_code,
            route.response_model,
            returns(handler),
            route.validate_response is not False,
        )
        around = Around(
            (*plan.dependencies, *route.dependencies),
            route.overrides,
            self.threads,
            promise.built,
            promise.checked,
            self.limiters.bound,
        )
        names = paths.names(path)
        signature = compile_signature(handler, route.method, names, route.inline, around)
        if signature.body is not None:
            self.bodies[(route.method, path)] = signature.body
        name = name_of(handler)
        return {
            "method": route.method,
            "path": path,
            "name": route.name or name,
            **self._called(route, signature, promise.built),
            "status": route.status_code,
            "max_body": route.max_body,
            "encode": promise.encode,
            "finish": self.answers.of(handler, path, route.scopes),
            "auth": plan.native,
            "limits": self.limiters.charges(handler, describe(handler), name),
        }

    def _plan(self, route: Route) -> Plan:
        """Who may call a route: what it says itself, or else the settings."""
        settings, handler = self.limiters.settings, route.handler
        return plan_of(
            settings.auth if route.auth is None else route.auth,
            settings.guards if route.guards is None else route.guards,
            settings.trusted_origins,
            [limit.key for limit in limits_of(handler)],
            f"handler {describe(handler)}",
        )

    def _called(
        self, route: Route, signature: Signature, built: Callable[[Any], Any]
    ) -> dict[str, Any]:
        """What the server calls, with what, and where; middleware and the handler are one call."""
        call, mode, arguments = signature.call, signature.mode, signature.arguments
        layers = layers_of(route.handler, route.scopes)
        if self.limiters.settings.emit_signals:
            layers.insert(0, RequestSignals())
        if layers:
            mode, call = wrapped(
                call,
                mode=mode,
                handler=route.handler,
                layers=layers,
                finish=response_of(route.status_code, built),
                errors=self.errors,
                threads=self.threads,
            )
            arguments = [{"name": "request", "source": "request"}, *arguments]
        called = call if mode == "async" else self.threads.around(call)
        return {"handler": called, "mode": mode, "args": arguments}

    def redirects(self) -> list[dict[str, Any]]:
        """Routes that send the other spelling of a path to the one that is served."""
        found = []
        for (method, _), route in self._taken.items():
            other = paths.alternative(route.normal())
            if other is None or (method, paths.shape(other)) in self._taken:
                continue
            found.append(
                {
                    "method": method,
                    "path": other,
                    "name": f"redirect to {route.normal()}",
                    "handler": _redirect,
                    "mode": "inline",
                    "args": [{"name": "request", "source": "request"}],
                    "encode": encode_json,
                    "finish": self.answers.elsewhere,
                }
            )
        return found


def _redirect(request: Any) -> Redirect:
    """308 to the same path with its trailing slash the other way."""
    path: str = request.path
    # One slash in front: `//host/` would be another host.
    path = "/" + path.strip("/") + ("" if path.endswith("/") else "/")
    query = f"?{request.query_string}" if request.query_string else ""
    return Redirect(quote(path) + query, status_code=308)


class InvalidRequests:
    """Answers requests whose parameters could not be read: 422 that lists every mistake.

    The server stops before it reads the body; the mistakes in there are listed too.
    """

    def __init__(self, bodies: dict[tuple[str, str], BodyReader]) -> None:
        self.bodies = bodies

    def __call__(self, request: Any, errors: list[FieldProblem]) -> Answer:
        for entry in errors:
            if entry["type"] == "value_error":
                entry["type"] = code_of(entry["msg"])
        reader = self.bodies.get((request.method, request.route))
        if reader is not None:
            errors = [*errors, *reader.errors(request.body)]
        return invalid(errors[:MOST_PROBLEMS])
