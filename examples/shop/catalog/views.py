"""Pages of the shop: sync, async and class-based views, each with its limit."""

from functools import lru_cache
from typing import Any

from django.contrib.auth.views import LoginView
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.views import View

from catalog.models import Item
from tollway.django import add_rate_limit_headers, get_backend, get_client_ip, rate_limit
from tollway.rules import Lockout
from tollway.rules import account as counted_as


@rate_limit(key="ip", rate="20/h")
def items(request: HttpRequest) -> JsonResponse:
    """Everything for sale."""
    return JsonResponse({"items": list(Item.objects.values("id", "name", "price_cents"))})


@rate_limit(key="ip", rate="20/h")
async def search(request: HttpRequest) -> JsonResponse:
    """What is for sale under a name. Async: the limit is awaited, no thread is taken."""
    found = Item.objects.filter(name__icontains=request.GET.get("q", ""))
    return JsonResponse({"items": [item.name async for item in found]})


# Views with the same group, key and rate share one count.
team = rate_limit(key="header:X-Team", rate="60/d", group="team")


@team
def account(request: HttpRequest) -> JsonResponse:
    """What a team has left."""
    return JsonResponse({"left": request.rate_limit.remaining})


class Report(View):
    """Two limits in one check: when one refuses, none is charged."""

    @rate_limit(key="ip", rate="10/h")
    @team
    def get(self, request: HttpRequest) -> JsonResponse:
        """How many orders there are of each item."""
        counted = [(item.name, item.orders.count()) for item in Item.objects.all()]
        return JsonResponse({"orders": dict(counted)})


def health(request: HttpRequest) -> HttpResponse:
    """Not limited: see `SKIP_PATHS`."""
    return HttpResponse("well")


@lru_cache(maxsize=1)
def logins() -> Lockout:
    """Who may still try: five failures for a name from one address, fifty from an address."""
    failures = {"username+ip": "5/15m", "ip": "50/h"}
    return Lockout(get_backend().limiter, "login", failures)


class Login(LoginView):
    """Django's own, behind a lock-out: failures count, a success clears them."""

    template_name = "admin/login.html"

    def post(self, request: HttpRequest, *arguments: Any, **named: Any) -> HttpResponseBase:
        """Try to log in."""
        username = counted_as(request.POST.get("username", ""))
        who = {"username": username, "ip": get_client_ip(request)}
        with logins().attempt(**who) as self.attempt:
            if not self.attempt:
                refused = HttpResponse(self.attempt.decision.text(), status=429)
                return add_rate_limit_headers(refused, self.attempt.decision)
            return super().post(request, *arguments, **named)

    def form_valid(self, form: Any) -> HttpResponse:
        """Whoever is logged in already has not guessed right by that: only this is a success."""
        self.attempt.succeeded()
        return super().form_valid(form)
