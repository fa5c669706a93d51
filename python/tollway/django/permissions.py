"""Permissions for Django REST framework: who may pass, where throttles say how often.

::

    from tollway.django.permissions import HasAPIKey

    class Orders(APIView):
        permission_classes = [HasAPIKey]
        api_key_scopes = ["orders:read"]
"""

from __future__ import annotations

from typing import Any

from rest_framework.exceptions import APIException
from rest_framework.permissions import BasePermission

from tollway.django.keys import api_key

__all__ = ["APIKeyRequired", "HasAPIKey"]


class APIKeyRequired(APIException):
    """401: the request shows no API key, or none that is good."""

    status_code = 401
    default_detail = "An API key is required"
    default_code = "api_key_required"
    auth_header = "ApiKey"
    """What ``WWW-Authenticate`` says; REST framework reads it from here."""


class HasAPIKey(BasePermission):
    """Let only those with a good API key pass, and only with all of the view's scopes.

    Keys are those that the project issues, so ``RATELIMIT_API_KEYS`` must be on. The scopes stand
    in ``api_key_scopes`` on the view; none are asked for without it. ``request.api_key`` is the
    :class:`tollway.django.keys.Key`. Others get 401, or 403 when a scope is missing. It asks no
    database.

    REST framework checks permissions before throttles. To limit wrong guesses as well, put
    ``@rate_limit`` on the view.
    """

    message: str

    def has_permission(self, request: Any, view: Any) -> bool:
        """Whether the request may pass; raises :class:`APIKeyRequired` without a good key."""
        key = request.api_key = api_key(request)
        if key is None:
            raise APIKeyRequired
        missing = sorted(set(getattr(view, "api_key_scopes", ())) - key.scopes)
        self.message = f"This API key lacks {', '.join(missing)}"
        return not missing
