"""The Django door: plain views behind a decorator."""

from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_GET

from shop.models import Item
from tollway.django import rate_limit


@require_GET
@rate_limit(key="ip", rate="5/10s")
def ping(request: HttpRequest) -> JsonResponse:
    """Five times in ten seconds for each client."""
    return JsonResponse({"door": "django", "remaining": request.rate_limit.remaining})


@require_GET
def items(request: HttpRequest) -> JsonResponse:
    """Everything for sale, from the database."""
    return JsonResponse({"items": list(Item.objects.values("id", "name", "price_cents"))})
