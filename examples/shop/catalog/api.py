"""The shop's API: REST framework, throttled by its settings, with a limit on ordering."""

from typing import Any

from rest_framework import mixins, permissions, serializers, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from catalog.models import Item, Order
from tollway.django import rate_limit


class ItemSerializer(serializers.ModelSerializer):
    """An item as clients see it."""

    class Meta:
        model = Item
        fields = ["id", "name", "price_cents"]


class OrderSerializer(serializers.ModelSerializer):
    """An order as clients see and make it."""

    class Meta:
        model = Order
        fields = ["id", "item", "quantity", "placed"]
        read_only_fields = ["placed"]


class Items(viewsets.ReadOnlyModelViewSet):
    """Everything for sale: throttled by `DEFAULT_THROTTLE_CLASSES`."""

    queryset = Item.objects.all()
    serializer_class = ItemSerializer


class Orders(mixins.CreateModelMixin, mixins.ListModelMixin, viewsets.GenericViewSet):
    """A customer's own orders."""

    serializer_class = OrderSerializer
    permission_classes = [permissions.IsAuthenticated]

    def get_queryset(self) -> Any:
        """Those of whoever asks."""
        return Order.objects.filter(customer=self.request.user)

    @rate_limit(key="user", rate="10/h")
    def create(self, request: Request, *arguments: Any, **named: Any) -> Response:
        """Buy something: ten times in an hour."""
        return super().create(request, *arguments, **named)

    def perform_create(self, serializer: serializers.BaseSerializer) -> None:
        """The order is that of whoever asks."""
        serializer.save(customer=self.request.user)
