"""Something to sell from the first minute."""

from django.db import migrations

ITEMS = [("Lantern", 1900), ("Rope, 20 m", 2450), ("Road map", 990), ("Toll token", 150)]


def stock(apps, schema_editor):
    apps.get_model("shop", "Item").objects.bulk_create(
        apps.get_model("shop", "Item")(name=name, price_cents=price) for name, price in ITEMS
    )


def clear(apps, schema_editor):
    apps.get_model("shop", "Item").objects.filter(name__in=[name for name, _ in ITEMS]).delete()


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [migrations.RunPython(stock, clear)]
