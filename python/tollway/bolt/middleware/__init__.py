"""What stands before a handler: limits, permissions for other origins, and code of yours."""

from tollway.bolt.compiling.scope import no_compress, skip_middleware
from tollway.bolt.compression import CompressionConfig
from tollway.bolt.cors import cors
from tollway.bolt.limits import rate_limit
from tollway.bolt.middleware.builtin import (
    ErrorHandlerMiddleware,
    LoggingMiddleware,
    TimingMiddleware,
)
from tollway.bolt.middleware.django_adapter import (
    DEFAULT_EXCLUDED_MIDDLEWARE,
    DjangoMiddleware,
    DjangoMiddlewareStack,
    get_django_middleware_setting,
    load_django_middleware,
)
from tollway.bolt.middleware.kinds import (
    BaseMiddleware,
    GetResponse,
    Middleware,
    MiddlewareProtocol,
    MiddlewareType,
    middleware,
)

__all__ = [
    "DEFAULT_EXCLUDED_MIDDLEWARE",
    "BaseMiddleware",
    "CompressionConfig",
    "DjangoMiddleware",
    "DjangoMiddlewareStack",
    "ErrorHandlerMiddleware",
    "GetResponse",
    "LoggingMiddleware",
    "Middleware",
    "MiddlewareProtocol",
    "MiddlewareType",
    "TimingMiddleware",
    "cors",
    "get_django_middleware_setting",
    "load_django_middleware",
    "middleware",
    "no_compress",
    "rate_limit",
    "skip_middleware",
]
