"""How a refusal is worded: problem+json, HTML or plain text by ``Accept``, and the headers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from django.http import HttpResponse, HttpResponseBase
from django.template.loader import render_to_string
from django.utils.cache import patch_vary_headers
from django.utils.html import escape

from tollway import Decision
from tollway.answer import (
    PROBLEM_JSON,
    UNAVAILABLE_SECONDS,
    unavailable_problem,
    unavailable_text,
)
from tollway.django import conf
from tollway.django.settings import Settings

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:15vh auto;padding:0 1rem}}
</style>
</head>
<body><h1>{title}</h1><p>{text}</p></body>
</html>
"""

_ACCEPT_MAX: Final = 2048
"""How much of an ``Accept`` header is read."""

_OFFERS: Final = (PROBLEM_JSON, "application/json", "text/html", "text/plain")


def callback_for(request: Any) -> Callable[..., Any] | None:
    """The function of ``RATELIMIT_RESPONSE_CALLBACK`` for what the client prefers, if any."""
    callbacks = conf.current().settings.response_callback
    if not callbacks:
        return None
    anything = callbacks.get("*/*")
    offers = (*_OFFERS, *(media for media in callbacks if media not in (*_OFFERS, "*/*")))
    return callbacks.get(preferred(request.META.get("HTTP_ACCEPT", ""), offers), anything)


def refusal(request: Any, decision: Decision) -> HttpResponse:
    """A 429 in the form the client prefers; the headers are written by :func:`write_headers`.

    A client that the rules deny gets a 403.
    """
    status = decision.status
    title = "Too many requests" if status == 429 else "Forbidden"
    return _answer(request, status, title, decision.text(), decision.problem(), decision)


def unavailable(request: Any) -> HttpResponse:
    """A 503 with ``Retry-After``: the store is away and the fail mode is "closed"."""
    response = _answer(
        request, 503, "Service unavailable", unavailable_text(), unavailable_problem(), None
    )
    response.headers["Retry-After"] = str(UNAVAILABLE_SECONDS)
    return response


def _answer(
    request: Any, status: int, title: str, text: str, problem: bytes, decision: Decision | None
) -> HttpResponse:
    match preferred(request.META.get("HTTP_ACCEPT", "")):
        case "text/html":
            template = conf.current().settings.template
            if template is None:
                page = _PAGE.format(title=escape(title), text=escape(text))
            else:
                context = {"status": status, "title": title, "text": text, "decision": decision}
                page = render_to_string(template, context, getattr(request, "_request", request))
            response = HttpResponse(page, status=status, content_type="text/html; charset=utf-8")
        case "text/plain":
            response = HttpResponse(
                text + "\n", status=status, content_type="text/plain; charset=utf-8"
            )
        case _:
            response = HttpResponse(problem, status=status, content_type=PROBLEM_JSON)
    patch_vary_headers(response, ["Accept"])
    return response


def write_headers(response: HttpResponseBase, decision: Decision, settings: Settings) -> None:
    """Write a decision's headers, replacing those of an earlier one.

    ``Retry-After`` goes on error answers only: a view under ``block=False`` may well answer 200
    although its limit is used up.
    """
    headers, draft = response.headers, settings.ietf_headers
    waits = response.status_code >= 400
    store = getattr(headers, "_store", None)
    if store is not None and (draft is None or draft == "draft-10"):
        # What the engine writes is ASCII: there is nothing to convert, and this is every request.
        decision.write_headers(store, settings.x_headers, draft is not None, waits)
        return
    for name, value in fields(decision, settings.x_headers, draft):
        if name != "Retry-After" or waits:
            headers[name] = value


def fields(
    decision: Decision, x_ratelimit: bool = True, draft: str | None = "draft-10"
) -> list[tuple[str, str]]:
    """The header fields of a decision, in the words of a draft of the IETF's; ``None`` for none."""
    if draft is None or draft == "draft-10":
        return decision.headers(x_ratelimit, draft is not None)
    found = decision.headers(x_ratelimit, True)
    policies = _ITEM.sub(r"\1;w=\2", dict(found)["RateLimit-Policy"])
    limit, left = decision.limit, decision.remaining
    reset = -(-decision.reset_after_ns // 1_000_000_000)
    written = [pair for pair in found if pair[0] not in ("RateLimit", "RateLimit-Policy")]
    written.append(("RateLimit-Policy", policies))
    if draft == "draft-07":
        written.append(("RateLimit", f"limit={limit}, remaining={left}, reset={reset}"))
    else:
        for name, value in (("Limit", limit), ("Remaining", left), ("Reset", reset)):
            written.append((f"RateLimit-{name}", str(value)))
    return written


_ITEM: Final = re.compile(r'"[^"]*";q=(\d+);w=(\d+)')


def preferred(accept: str, offers: tuple[str, ...] = _OFFERS) -> str:
    """The offered media type a client likes best; the first one when it does not care."""
    best, best_weight = offers[0], 0.0
    ranges = [_media_range(item) for item in accept[:_ACCEPT_MAX].split(",") if item.strip()]
    if not ranges:
        return best
    for offer in offers:
        weight = _weight(offer, ranges)
        if weight > best_weight:
            best, best_weight = offer, weight
    return best


def _weight(offer: str, ranges: list[tuple[str, float]]) -> float:
    """The weight of the most exact range that covers the offer (RFC 9110, 12.5.1)."""
    kind = offer.partition("/")[0]
    weights = dict(reversed(ranges))
    for covering in (offer, f"{kind}/*", "*/*"):
        if covering in weights:
            return weights[covering]
    return 0.0


def _media_range(item: str) -> tuple[str, float]:
    media, *parameters = (part.strip().lower() for part in item.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return media, min(1.0, max(0.0, float(value)))
            except ValueError:
                return media, 0.0
    return media, 1.0
