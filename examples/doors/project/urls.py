"""The addresses of the Django door."""

from django.urls import path

from shop import views

urlpatterns = [
    path("ping", views.ping),
    path("items", views.items),
]
