"""The routes on django-bolt; `stacked` is behind Django's middleware."""

from django.conf import settings
from django_bolt import BoltAPI, IsAuthenticated, JWTAuthentication
from django_bolt.middleware import rate_limit
from stock.routes import add_routes

AUTHENTICATED = {
    "auth": [JWTAuthentication(secret=settings.SECRET_KEY)],
    "guards": [IsAuthenticated()],
}
LIMITED = rate_limit(rps=1_000_000_000, key="ip")
REFUSED = rate_limit(rps=1, burst=1, key="ip")
INLINE: dict[str, object] = {}  # It decides by the handler's source, for every handler.

# Ours neither logs each request nor compresses, so these must not either.
api = BoltAPI(enable_logging=False, compression=False)
stacked = BoltAPI(enable_logging=False, compression=False, django_middleware=True)
for one in (api, stacked):
    add_routes(one, AUTHENTICATED, LIMITED, REFUSED, INLINE)
