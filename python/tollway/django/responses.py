"""How a refusal is worded: problem+json, HTML or plain text by ``Accept``, and the headers."""

from __future__ import annotations

from typing import Any

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

_OFFERS = (PROBLEM_JSON, "application/json", "text/html", "text/plain")


def refusal(request: Any, decision: Decision) -> HttpResponse:
    """A 429 in the form the client prefers; the headers are written by :func:`write_headers`."""
    return _answer(request, 429, "Too many requests", decision.text(), decision.problem(), decision)


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


def write_headers(response: HttpResponseBase, decision: Decision, settings: conf.Settings) -> None:
    """Write a decision's headers, replacing those of an earlier one.

    ``Retry-After`` goes on error answers only: a view under ``block=False`` may well answer 200
    although its limit is used up.
    """
    for name, value in decision.headers(settings.x_headers, settings.ietf_headers):
        if name != "Retry-After" or response.status_code >= 400:
            response.headers[name] = value


def preferred(accept: str) -> str:
    """The offered media type a client likes best; problem+json when it does not care."""
    best, best_weight = _OFFERS[0], 0.0
    ranges = [_media_range(item) for item in accept.split(",") if item.strip()]
    if not ranges:
        return best
    for offer in _OFFERS:
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
