"""What is answered: headers of every decision, and the body of a refusal."""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Iterable
from math import isinf
from typing import TYPE_CHECKING, Any, Final, Literal

from tollway import ConfigError, Decision
from tollway.answer import PROBLEM_JSON, UNAVAILABLE_SECONDS, unavailable_problem
from tollway.asgi.wire import Headers, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from tollway.asgi.passage import Passage

_STARTS: Final = ("http.response.start", "websocket.accept", "websocket.http.response.start")

Answer = tuple[int, Headers, bytes]
"""Status, headers and body."""

Body = Literal["problem", "pacer"] | Callable[[Decision, Scope], Any]
"""How a refusal is worded: ``"problem"`` (RFC 9457), ``"pacer"`` (as fastapi-pacer does), or a
function of the decision and the ASGI scope. What it returns is sent as text (``str``), bytes, or
JSON (anything else); a pair is a media type and one of these. Status and headers stay."""


def decision_headers(
    decision: Decision,
    status: int = 429,
    among: Iterable[tuple[bytes, bytes]] = (),
    *,
    x_headers: bool = True,
    ietf: bool = True,
) -> Headers:
    """A decision's headers as ASGI wants them, for an answer of that status: how long to wait is
    for refusals. They take the place of those so named ``among`` the answer's others."""
    return decision.asgi_headers(x_headers, ietf, status >= 400, among)


def with_headers(
    passage: Passage,
    send: Send,
    headers: Callable[[Decision, int, Iterable[tuple[bytes, bytes]]], Headers],
) -> Send:
    """``send`` with headers of the decision that speaks by then.

    ``headers`` is given the decision, the status that is sent, and the headers that are, and
    answers with those to send.
    """

    def send_with_headers(message: Message) -> Awaitable[None]:
        decision = passage.decision
        if decision is not None and message["type"] in _STARTS:
            told = headers(decision, message.get("status", 101), message.get("headers", ()))
            message = {**message, "headers": told}
        return send(message)

    return send_with_headers


def refusal(decision: Decision, scope: Scope, body: Body) -> Answer:
    """Status, headers and body of a refusal: 429, or 403 when rules deny."""
    media_type, content = worded(decision, scope, body)
    return (
        decision.status,
        [*_content(media_type, content), *decision_headers(decision)],
        content,
    )


def read_body(body: Body) -> Body:
    """A body as it was written, checked."""
    if callable(body) or body in ("problem", "pacer"):
        return body
    raise ConfigError(
        f'body={body!r}: it is "problem", "pacer" or a function of the decision and the scope'
    )


def pacer_detail(decision: Decision) -> dict[str, Any]:
    """What fastapi-pacer says of a refusal."""
    told = {"detail": "rate_limited"}
    if isinf(decision.retry_after):  # waiting does not help
        return told
    return {**told, "retry_after_ms": -(-decision.retry_after_ns // 1_000_000)}


def worded(decision: Decision, scope: Scope, body: Body) -> tuple[str, bytes]:
    """Media type and bytes of a refusal's body."""
    if callable(body):
        return _written(body(decision, scope), body)
    if body == "pacer" and decision.status == 429:
        return _written({"detail": pacer_detail(decision)}, body)
    return PROBLEM_JSON, decision.problem()


def _written(value: Any, by: object) -> tuple[str, bytes]:
    media_type: str | None = None
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        media_type, value = value
    match value:
        case bytes():
            return media_type or "application/octet-stream", value
        case str():
            return media_type or "text/plain; charset=utf-8", value.encode()
    if inspect.isawaitable(value):
        raise ConfigError(f"body={by!r} is async: a body is made of the decision, without waiting")
    return media_type or "application/json", json.dumps(value, separators=(",", ":")).encode()


def unavailable() -> Answer:
    """Status, headers and body of a 503: the store is away and the fail mode is "closed"."""
    body = unavailable_problem()
    retry = (b"retry-after", str(UNAVAILABLE_SECONDS).encode())
    return 503, [*_content(PROBLEM_JSON, body), retry], body


def written(decision: Decision, status: int) -> list[tuple[str, str]]:
    """A decision's headers for an answer of that status: how long to wait is for refusals."""
    return [
        (name, value)
        for name, value in decision.headers()
        if status >= 400 or name != "Retry-After"
    ]


def _content(media_type: str, body: bytes) -> Headers:
    return [
        (b"content-type", media_type.encode("latin-1")),
        (b"content-length", str(len(body)).encode()),
    ]


async def refuse(scope: Scope, receive: Receive, send: Send, answer: Answer) -> None:
    """Send an answer in place of the application's: on a WebSocket, instead of the accept."""
    status, headers, body = answer
    prefix = ""
    if scope["type"] == "websocket":
        await receive()  # websocket.connect: nothing may be sent before it
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            # The server turns a close before the accept into a 403.
            await send({"type": "websocket.close", "code": 1008, "reason": "rate limited"})
            return
        prefix = "websocket."
    await send({"type": f"{prefix}http.response.start", "status": status, "headers": headers})
    await send({"type": f"{prefix}http.response.body", "body": body})
