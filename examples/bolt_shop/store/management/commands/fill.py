"""`manage.py fill`: people and products to try the shop with."""

from typing import Any

from django.contrib.auth.models import Group, Permission, User
from django.core.management.base import BaseCommand
from django.db import transaction

from store.accounts import PAID
from store.models import Product

PASSWORD = "open sesame"
SHELF = {"ada": [("Lantern", 2900, 12), ("Rope", 1500, 40)], "cleo": [("Tent", 18900, 3)]}


class Command(BaseCommand):
    """Does nothing where somebody is already."""

    help = "ada and cleo sell, bob buys and pays for his tier, dan buys; all with one password"

    @transaction.atomic
    def handle(self, *_: Any, **__: Any) -> None:
        if User.objects.exists():
            return
        sellers, _made = Group.objects.get_or_create(name="sellers")
        sellers.permissions.set(Permission.objects.filter(content_type__model="product"))
        paid, _made = Group.objects.get_or_create(name=PAID)
        people = {
            name: User.objects.create_user(name, password=PASSWORD)
            for name in ("ada", "bob", "cleo", "dan")
        }
        sellers.user_set.add(people["ada"], people["cleo"])
        paid.user_set.add(people["bob"])
        for seller, products in SHELF.items():
            for name, price, stock in products:
                Product.objects.create(
                    seller=people[seller], name=name, price_cents=price, stock=stock
                )
        self.stdout.write(f"ada, bob, cleo and dan may log in, each with {PASSWORD!r}.")
