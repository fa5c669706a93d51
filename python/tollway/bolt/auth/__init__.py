"""Who is asking, and may they? Verified and decided in Rust, before Python is entered.

::

    from tollway.bolt import BoltAPI
    from tollway.bolt.auth import HasPermission, IsAuthenticated, JWTAuthentication

    api = BoltAPI(auth=[JWTAuthentication()], guards=[IsAuthenticated()])

    @api.post("/items", guards=[HasPermission("shop.add_item")])
    async def add_item(request): ...
"""

from tollway.bolt.auth.backends import (
    APIKeyAuthentication,
    BaseAuthentication,
    JWTAuthentication,
    SessionAuthentication,
)
from tollway.bolt.auth.guards import (
    AllowAny,
    BaseGuard,
    HasAllPermissions,
    HasAnyPermission,
    HasPermission,
    IsAdminUser,
    IsAuthenticated,
    IsStaff,
    IsSuperuser,
    Requires,
)
from tollway.bolt.auth.lockout import LoginLockout, LoginTries
from tollway.bolt.auth.revocation import (
    DjangoCacheRevocation,
    DjangoORMRevocation,
    InMemoryRevocation,
    RevocationStore,
    create_revocation_handler,
)
from tollway.bolt.auth.tokens import (
    Token,
    TokenPair,
    TokenRotationError,
    create_jwt_for_user,
    create_token_pair,
    rotate_refresh_token,
    set_token_cookies,
)
from tollway.bolt.auth.users import (
    AuthContext,
    CurrentUser,
    OptionalCurrentUser,
    extract_user_id_from_context,
    get_auth_context,
    get_current_user,
    get_current_user_sync,
    get_registered_backend,
    load_user,
    register_auth_backend,
    require_current_user,
    require_current_user_sync,
)
from tollway.bolt.auth.views import JWTAuthViews, LoginCredentials

__all__ = [
    "APIKeyAuthentication",
    "AllowAny",
    "AuthContext",
    "BaseAuthentication",
    "BaseGuard",
    "CurrentUser",
    "DjangoCacheRevocation",
    "DjangoORMRevocation",
    "HasAllPermissions",
    "HasAnyPermission",
    "HasPermission",
    "InMemoryRevocation",
    "IsAdminUser",
    "IsAuthenticated",
    "IsStaff",
    "IsSuperuser",
    "JWTAuthViews",
    "JWTAuthentication",
    "LoginCredentials",
    "LoginLockout",
    "LoginTries",
    "OptionalCurrentUser",
    "Requires",
    "RevocationStore",
    "SessionAuthentication",
    "Token",
    "TokenPair",
    "TokenRotationError",
    "create_jwt_for_user",
    "create_revocation_handler",
    "create_token_pair",
    "extract_user_id_from_context",
    "get_auth_context",
    "get_current_user",
    "get_current_user_sync",
    "get_registered_backend",
    "load_user",
    "register_auth_backend",
    "require_current_user",
    "require_current_user_sync",
    "rotate_refresh_token",
    "set_token_cookies",
]
