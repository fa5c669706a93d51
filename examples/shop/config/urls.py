"""The addresses of the shop."""

from django.contrib import admin
from django.urls import include, path
from rest_framework.routers import DefaultRouter

from catalog import api, views

router = DefaultRouter()
router.register("items", api.Items, basename="item")
router.register("orders", api.Orders, basename="order")

urlpatterns = [
    path("", views.items, name="items"),
    path("search/", views.search),
    path("reports/", views.Report.as_view()),
    path("account/", views.account),
    path("login/", views.Login.as_view(), name="login"),
    path("health/", views.health),
    path("api/", include(router.urls)),
    path("admin/", admin.site.urls),
]
