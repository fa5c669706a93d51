"""Bolt: an API server for Django whose HTTP, routing and limits run in Rust.

Write ``api.py`` in a Django project, add ``"tollway.bolt"`` to ``INSTALLED_APPS`` and run
``manage.py runbolt``::

    from tollway.bolt import BoltAPI, rate_limit

    api = BoltAPI()

    @api.get("/items/{item_id}")
    @rate_limit("100/m", key="ip")
    async def get_item(item_id: int, q: str | None = None):
        return {"item_id": item_id, "q": q}
"""

from tollway.bolt import status_codes as status
from tollway.bolt.api import BoltAPI
from tollway.bolt.auth import (
    AllowAny,
    APIKeyAuthentication,
    AuthContext,
    CurrentUser,
    IsAuthenticated,
    JWTAuthentication,
    OptionalCurrentUser,
    Requires,
    SessionAuthentication,
    Token,
    create_jwt_for_user,
    extract_user_id_from_context,
    get_auth_context,
    get_current_user,
)
from tollway.bolt.compiling.scope import no_compress, skip_middleware
from tollway.bolt.compression import CompressionConfig
from tollway.bolt.cookies import Cookie
from tollway.bolt.cors import CORSConfig, cors
from tollway.bolt.datastructures import UploadFile
from tollway.bolt.enums import FileSize, MediaType
from tollway.bolt.exceptions import (
    BadGateway,
    BadRequest,
    Conflict,
    Forbidden,
    GatewayTimeout,
    Gone,
    HTTPException,
    InternalServerError,
    MethodNotAllowed,
    NotAcceptable,
    NotFound,
    RequestValidationError,
    ResponseValidationError,
    ServiceUnavailable,
    TooManyRequests,
    Unauthorized,
    UnprocessableEntity,
)
from tollway.bolt.files import FileResponse
from tollway.bolt.limits import rate_limit
from tollway.bolt.logging import LoggingConfig
from tollway.bolt.middleware import (
    BaseMiddleware,
    DjangoMiddleware,
    DjangoMiddlewareStack,
    ErrorHandlerMiddleware,
    LoggingMiddleware,
    Middleware,
    MiddlewareProtocol,
    TimingMiddleware,
    middleware,
)
from tollway.bolt.params import Body, Depends, File, Form, Header, Path, Query
from tollway.bolt.request import Request
from tollway.bolt.responses import HTML, JSON, PlainText, Redirect, Response
from tollway.bolt.router import Router
from tollway.bolt.streaming import (
    EventSourceResponse,
    ServerSentEvent,
    StreamingResponse,
    format_sse_event,
)

__all__ = [
    "HTML",
    "JSON",
    "APIKeyAuthentication",
    "AllowAny",
    "AuthContext",
    "BadGateway",
    "BadRequest",
    "BaseMiddleware",
    "Body",
    "BoltAPI",
    "CORSConfig",
    "CompressionConfig",
    "Conflict",
    "Cookie",
    "CurrentUser",
    "Depends",
    "DjangoMiddleware",
    "DjangoMiddlewareStack",
    "ErrorHandlerMiddleware",
    "EventSourceResponse",
    "File",
    "FileResponse",
    "FileSize",
    "Forbidden",
    "Form",
    "GatewayTimeout",
    "Gone",
    "HTTPException",
    "Header",
    "InternalServerError",
    "IsAuthenticated",
    "JWTAuthentication",
    "LoggingConfig",
    "LoggingMiddleware",
    "MediaType",
    "MethodNotAllowed",
    "Middleware",
    "MiddlewareProtocol",
    "NotAcceptable",
    "NotFound",
    "OptionalCurrentUser",
    "Path",
    "PlainText",
    "Query",
    "Redirect",
    "Request",
    "RequestValidationError",
    "Requires",
    "Response",
    "ResponseValidationError",
    "Router",
    "ServerSentEvent",
    "ServiceUnavailable",
    "SessionAuthentication",
    "StreamingResponse",
    "TimingMiddleware",
    "Token",
    "TooManyRequests",
    "Unauthorized",
    "UnprocessableEntity",
    "UploadFile",
    "cors",
    "create_jwt_for_user",
    "extract_user_id_from_context",
    "format_sse_event",
    "get_auth_context",
    "get_current_user",
    "middleware",
    "no_compress",
    "rate_limit",
    "skip_middleware",
    "status",
]
