"""Who is who: tokens, what they say, and where those that were withdrawn are remembered."""

from typing import Annotated, Any

from tollway.bolt import Depends, JWTAuthentication, Request
from tollway.bolt.auth import DjangoORMRevocation, JWTAuthViews

PAID = "paid"
"""The group of those who pay: its members are in the tier of the same name."""


def claims(user: Any) -> dict[str, Any]:
    """What a token says of a user. Guards and limits read it in Rust, without a query."""
    paid = user.groups.filter(name=PAID).exists()
    return {
        "tier": PAID if paid else "free",
        "permissions": sorted(user.get_all_permissions()),
    }


withdrawn = DjangoORMRevocation()
token = JWTAuthentication(revocation_store=withdrawn)
views = JWTAuthViews("/auth", store=withdrawn, claims=claims, login_rate="5/m")


def user_id(request: Request) -> int:
    """The id of a caller whom a guard let pass."""
    return int(request.context["user_id"])


Me = Annotated[int, Depends(user_id, inline=True)]
