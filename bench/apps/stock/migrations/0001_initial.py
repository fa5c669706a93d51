"""The table, and ten rows in it."""

from django.db import migrations, models


def fill(apps, _schema):
    item = apps.get_model("stock", "Item")
    item.objects.bulk_create(item(name=f"lantern {n}", price=100 * n) for n in range(10))


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel(
            "Item",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("name", models.CharField(max_length=40)),
                ("price", models.IntegerField()),
            ],
        ),
        migrations.RunPython(fill, migrations.RunPython.noop),
    ]
