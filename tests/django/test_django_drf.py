"""The decorator on views and view-sets of Django REST framework."""

from __future__ import annotations

from typing import Any

from django.test import RequestFactory, override_settings
from django.utils.decorators import method_decorator
from rest_framework.authentication import BaseAuthentication
from rest_framework.decorators import api_view
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from tests.django.conftest import User, codes
from tollway.django import rate_limit


class TokenAuthentication(BaseAuthentication):
    def authenticate(self, request: Any) -> tuple[User, None] | None:
        token = request.META.get("HTTP_X_TOKEN")
        return (User(int(token)), None) if token else None


@method_decorator(rate_limit(rate="3/h"), name="dispatch")
class Items(APIView):
    authentication_classes = [TokenAuthentication]

    @rate_limit(key="user", rate="1/h")
    def post(self, request: Any) -> Response:
        return Response({"left": request.rate_limit.remaining})

    def get(self, request: Any) -> Response:
        return Response({"left": request.rate_limit.remaining})


class Orders(ViewSet):
    authentication_classes: list[Any] = []

    @method_decorator(rate_limit(rate="2/h"))
    def list(self, request: Any) -> Response:
        return Response([])

    def create(self, request: Any) -> Response:
        return Response({}, status=201)


@api_view(["GET"])
@rate_limit(rate="1/h")
def inner(request: Any) -> Response:
    return Response({"exceeded": request.rate_limit_exceeded})


@rate_limit(rate="1/h")
@api_view(["GET"])
def outer(request: Any) -> Response:
    return Response({})


SETTINGS = {"UNAUTHENTICATED_USER": None, "DEFAULT_AUTHENTICATION_CLASSES": []}


@override_settings(REST_FRAMEWORK=SETTINGS)
def test_api_views(rf: RequestFactory) -> None:
    view = Items.as_view()
    answers = [view(rf.get("/")) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer.data["left"] for answer in answers[:3]] == [2, 1, 0]
    assert answers[3]["Content-Type"] == "application/problem+json"


@override_settings(REST_FRAMEWORK=SETTINGS)
def test_a_method_knows_the_user_that_rest_framework_found(rf: RequestFactory) -> None:
    view = Items.as_view()
    tokens = ["1", "1", "2", "2"]
    answers = [view(rf.post("/", headers={"X-Token": token})) for token in tokens]
    assert [answer.status_code for answer in answers] == [200, 429, 200, 429]
    assert "Items.post/user/1/h" in answers[1]["RateLimit"]
    assert "Items/ip/3/h" in answers[3]["RateLimit"]


@override_settings(REST_FRAMEWORK=SETTINGS)
def test_view_sets(rf: RequestFactory) -> None:
    view = Orders.as_view({"get": "list", "post": "create"})
    assert codes(view, [rf.get("/") for _ in range(3)]) == [200, 200, 429]
    assert codes(view, [rf.post("/") for _ in range(3)]) == [201] * 3


@override_settings(REST_FRAMEWORK=SETTINGS)
def test_function_views(rf: RequestFactory) -> None:
    for view in (inner, outer):
        assert codes(view, [rf.get("/"), rf.get("/")]) == [200, 429]
