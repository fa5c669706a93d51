"""What is read from the database."""

from django.db import models


class Item(models.Model):
    """A thing on a shelf."""

    name = models.CharField(max_length=40)
    price = models.IntegerField()
