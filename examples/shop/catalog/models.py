"""What the shop sells, and to whom."""

from django.conf import settings
from django.db import models


class Item(models.Model):
    """One thing for sale."""

    name = models.CharField(max_length=100, unique=True)
    price_cents = models.PositiveIntegerField()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Order(models.Model):
    """So many of an item, bought by somebody."""

    item = models.ForeignKey(Item, models.PROTECT, related_name="orders")
    customer = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="orders")
    quantity = models.PositiveIntegerField(default=1)
    placed = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-placed"]

    def __str__(self) -> str:
        return f"{self.quantity} x {self.item}"
