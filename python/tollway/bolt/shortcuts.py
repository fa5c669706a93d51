"""Django's templates in handlers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tollway.bolt.responses import HTML, Headers

__all__ = ["render"]


def render(
    request: Any,
    template_name: str | list[str] | tuple[str, ...],
    context: Mapping[str, Any] | None = None,
    content_type: str | None = None,
    status: int = 200,
    using: str | None = None,
    headers: Headers | None = None,
) -> HTML:
    """A template of Django's as a response, with the parameters of ``django.shortcuts.render``.

    ``request`` is in the context of the template. A Bolt request is not one of Django's: context
    processors run where ``request`` is a ``django.http.HttpRequest``. Queries that the template
    makes run on this thread, so handlers whose templates ask the database are plain functions.
    """
    from django.http import HttpRequest
    from django.template import loader

    known = request if isinstance(request, HttpRequest) else None
    values = {"request": request, **(context or {})}
    text = loader.render_to_string(template_name, values, known, using)
    return HTML(text, status, headers, content_type)
