"""From a verified caller to a user of Django's."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Final

from tollway._tollway import Request, challenge
from tollway.bolt.exceptions import Unauthorized
from tollway.bolt.params import Depends

__all__ = [
    "AuthContext",
    "CurrentUser",
    "OptionalCurrentUser",
    "auser",
    "extract_user_id_from_context",
    "find_user",
    "get_auth_context",
    "get_current_user",
    "get_current_user_sync",
    "get_registered_backend",
    "lazy_user",
    "load_user",
    "register_auth_backend",
    "require_current_user",
    "require_current_user_sync",
]

AuthContext = dict[str, Any]
"""``request.context``: ``user_id``, ``is_staff``, ``is_superuser``, ``auth_backend``,
``permissions`` and ``auth_claims``; for an API key ``api_key`` (its hash), ``owner``, ``tier``."""

WAIT: Final = 30.0
"""Seconds that ``request.user`` waits for the database inside an async handler."""

_backends: dict[str, Any] = {}
_threads = ThreadPoolExecutor(2, thread_name_prefix="tollway-user")


def register_auth_backend(scheme: str, backend: Any) -> None:
    """Have ``backend.get_user(user_id, context)`` load the users of a scheme: ``jwt``,
    ``api_key`` or ``session``."""
    _backends[scheme] = backend


def get_registered_backend(scheme: str) -> Any:
    """The backend that loads the users of a scheme, or None where the default does."""
    return _backends.get(scheme)


def _anonymous() -> Any:
    from django.contrib.auth.models import AnonymousUser

    return AnonymousUser()


def find_user(user_id: str) -> Any:
    """The active user with an id, by one query; None where there is none."""
    from django.contrib.auth import get_user_model
    from django.core.exceptions import ValidationError

    model = get_user_model()
    try:
        user = model._default_manager.filter(pk=user_id).first()
    except (ValueError, TypeError, ValidationError):  # no user of this model can have such an id
        return None
    return user if user is not None and user.is_active else None


def _found(user_id: str, context: Mapping[str, Any]) -> Any:
    """What the backend of a context says; for an async one, something to await."""
    backend = _backends.get(context.get("auth_backend", ""))
    return find_user(user_id) if backend is None else backend.get_user(user_id, context)


def _load(context: Mapping[str, Any]) -> Any:
    """The user of a context, in a thread where the database may be asked."""
    user_id = context.get("user_id")
    found: Any = None if user_id is None else _found(user_id, context)
    if inspect.isawaitable(found):

        async def wait() -> Any:
            return await found

        found = asyncio.run(wait())
    return _anonymous() if found is None else found


def _load_apart(context: Mapping[str, Any]) -> Any:
    from tollway.bolt.server.databases import closing_old_connections

    return closing_old_connections(_load)(context)


def _load_now(context: Mapping[str, Any]) -> Any:
    """The user, wherever this is called. Inside an event loop a thread asks, and the loop waits."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _load(context)
    return _threads.submit(_load_apart, context).result(WAIT)


def lazy_user(request: Any) -> Any:
    """``request.user``: AnonymousUser, or a user that is loaded when it is looked at."""
    from django.utils.functional import SimpleLazyObject

    context = request.context
    if context is None or context.get("user_id") is None:
        return _anonymous()
    return SimpleLazyObject(lambda: _load_now(context))


async def load_user(user_id: str, context: Mapping[str, Any] | None = None) -> Any:
    """The user with an id as the registered backend finds them, or None."""
    from asgiref.sync import sync_to_async

    found = await sync_to_async(_found, thread_sensitive=True)(user_id, context or {})
    return await found if inspect.isawaitable(found) else found


async def auser(request: Any) -> Any:
    """``await request.auser()``: the user, by one query, without holding the loop up."""
    context = request.context
    if context is None or context.get("user_id") is None:
        return request.user
    user = request.user
    from django.utils.functional import SimpleLazyObject, empty

    if type(user) is SimpleLazyObject and user.__dict__["_wrapped"] is empty:
        user = await load_user(context["user_id"], context) or _anonymous()
        request.user = user
    return user


def get_auth_context(request: Any) -> AuthContext | None:
    """``request.context``: what is known of the caller, or None."""
    context: AuthContext | None = request.context
    return context


def extract_user_id_from_context(request: Any) -> str | None:
    """The caller's user id, or None."""
    context = request.context if hasattr(request, "context") else request
    return None if context is None else context.get("user_id")


async def get_current_user(request: Request) -> Any:
    """The user who asks, or None: ``Depends(get_current_user)``."""
    user = await request.auser()
    return user if user.is_authenticated else None


async def require_current_user(request: Request) -> Any:
    """The user who asks; 401 when there is none: ``Depends(require_current_user)``."""
    return _required(request, await get_current_user(request))


def get_current_user_sync(request: Request) -> Any:
    """The user who asks, or None, for ``def`` handlers."""
    return request.user if request.user.is_authenticated else None


def require_current_user_sync(request: Request) -> Any:
    """The user who asks, for ``def`` handlers; 401 when there is none."""
    return _required(request, get_current_user_sync(request))


def _required(request: Any, user: Any) -> Any:
    if user is None:
        shown = challenge(request)
        raise Unauthorized(
            "this is for users who are logged in",
            headers={"WWW-Authenticate": shown} if shown else None,
        )
    return user


CurrentUser = Annotated[Any, Depends(require_current_user)]
"""A parameter that is the user who asks; without one the answer is 401."""

OptionalCurrentUser = Annotated[Any, Depends(get_current_user)]
"""A parameter that is the user who asks, or None."""
