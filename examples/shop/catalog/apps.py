"""The app of the shop."""

from django.apps import AppConfig


class CatalogConfig(AppConfig):
    """What is for sale, and what was sold."""

    name = "catalog"
