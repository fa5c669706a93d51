"""Something to sell."""

from django.db import migrations

ITEMS = {"Lantern": 3900, "Kettle": 2450, "Blanket": 5200, "Compass": 1875}


def fill(apps, schema_editor):
    item = apps.get_model("catalog", "Item")
    item.objects.bulk_create(item(name=name, price_cents=price) for name, price in ITEMS.items())


def clear(apps, schema_editor):
    apps.get_model("catalog", "Item").objects.filter(name__in=ITEMS).delete()


class Migration(migrations.Migration):
    dependencies = [("catalog", "0001_initial")]
    operations = [migrations.RunPython(fill, clear)]
