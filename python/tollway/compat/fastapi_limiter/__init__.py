"""fastapi-limiter's names on this engine: a project switches by changing its imports.

Both forms are carried: ``RateLimiter(times=2, seconds=5)`` with ``FastAPILimiter.init()``, and
``RateLimiter(limiter=Limiter(Rate(2, Duration.SECOND * 5)))``, whose ``Limiter``, ``Rate`` and
``Duration`` are here. What is not, is in the manual: "From fastapi-limiter".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar
from urllib.parse import quote

from tollway import ConfigError
from tollway import Limiter as Engine
from tollway.compat.fastapi_limiter.callback import default_callback, ws_default_callback
from tollway.compat.fastapi_limiter.identifier import default_identifier
from tollway.compat.fastapi_limiter.rates import Duration, Limiter, Rate

__all__ = ["Duration", "FastAPILimiter", "Limiter", "Rate", "default_identifier"]


class FastAPILimiter:
    """Where requests are counted, and the defaults of every ``RateLimiter``."""

    engine: ClassVar[Engine | None] = None
    prefix: ClassVar[str] = "fastapi-limiter"
    identifier: ClassVar[Callable[..., Any]] = staticmethod(default_identifier)
    http_callback: ClassVar[Callable[..., Any]] = staticmethod(default_callback)
    ws_callback: ClassVar[Callable[..., Any]] = staticmethod(ws_default_callback)

    @classmethod
    async def init(
        cls,
        redis: Any,
        prefix: str = "fastapi-limiter",
        identifier: Callable[..., Any] = default_identifier,
        http_callback: Callable[..., Any] = default_callback,
        ws_callback: Callable[..., Any] = ws_default_callback,
        **options: Any,
    ) -> None:
        """Count in this Redis: a client of redis-py, whose address is read, a URL of any store,
        or a :class:`tollway.Limiter`. ``options`` are those of :class:`tollway.Limiter`."""
        if not isinstance(redis, Engine):
            url = redis if isinstance(redis, str) else _url_of(redis)
            redis = Engine(url, prefix=prefix, **options)
        cls.engine, cls.prefix = redis, prefix
        cls.identifier = staticmethod(identifier)
        cls.http_callback = staticmethod(http_callback)
        cls.ws_callback = staticmethod(ws_callback)

    @classmethod
    async def close(cls) -> None:
        """Close the connections."""
        if cls.engine is not None:
            cls.engine.close()
            cls.engine = None


def _url_of(client: Any) -> str:
    """The address of a client of redis-py."""
    told = getattr(getattr(client, "connection_pool", None), "connection_kwargs", None)
    if told is None:
        raise ConfigError(
            f"{type(client).__name__} is no client of redis-py whose address could be read: pass "
            'FastAPILimiter.init() a URL such as "redis://127.0.0.1:6379/0"'
        )
    user, password = told.get("username") or "", told.get("password")
    secret = f"{quote(user, safe='')}:{quote(password, safe='')}@" if password else ""
    if told.get("path"):
        return f"redis+unix://{secret}{told['path']}?db={told.get('db') or 0}"
    kind = getattr(client.connection_pool, "connection_class", object).__name__
    scheme = "rediss" if "SSL" in kind else "redis"
    host = told.get("host") or "localhost"
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{secret}{host}:{told.get('port') or 6379}/{told.get('db') or 0}"
