"""Things to buy, and who bought them."""

from django.conf import settings
from django.db import models


class Product(models.Model):
    """A thing on the shelf, put there by a seller."""

    seller = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE)
    name = models.CharField(max_length=80)
    price_cents = models.PositiveIntegerField()
    stock = models.PositiveIntegerField(default=0)
    picture = models.CharField(max_length=100, blank=True)

    def __str__(self) -> str:
        return self.name


class Order(models.Model):
    """So many of one thing for somebody."""

    customer = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE)
    product = models.ForeignKey(Product, models.PROTECT)
    quantity = models.PositiveIntegerField()
    made = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.quantity} of {self.product}"
