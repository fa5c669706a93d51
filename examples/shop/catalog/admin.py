"""The shop's pages in the admin; those of the limits are there by themselves."""

from django.contrib import admin

from catalog.models import Item, Order


@admin.register(Item)
class ItemAdmin(admin.ModelAdmin):
    """Things for sale."""

    list_display = ("name", "price_cents")
    search_fields = ("name",)


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    """What was sold."""

    list_display = ("item", "quantity", "customer", "placed")
    list_select_related = ("item", "customer")
