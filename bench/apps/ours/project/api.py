"""The routes on Bolt; `stacked` is behind Django's middleware."""

from django.conf import settings
from stock.routes import add_routes

from tollway.bolt import BoltAPI, rate_limit
from tollway.bolt.auth import IsAuthenticated, JWTAuthentication

AUTHENTICATED = {
    "auth": [JWTAuthentication(secret=settings.SECRET_KEY)],
    "guards": [IsAuthenticated()],
}
LIMITED = rate_limit("1000000000/s", key="ip")
REFUSED = rate_limit("1/s", key="ip")
INLINE = {"inline": True}

api, stacked = BoltAPI(), BoltAPI(django_middleware=True)
for one in (api, stacked):
    add_routes(one, AUTHENTICATED, LIMITED, REFUSED, INLINE)
