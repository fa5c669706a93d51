"""What the shop sells."""

from django.db import models


class Item(models.Model):
    """One thing for sale."""

    name = models.CharField(max_length=100, unique=True)
    price_cents = models.PositiveIntegerField()

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return self.name
