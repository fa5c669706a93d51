"""No views of Django's own: every path is in `store/api.py`."""

urlpatterns: list[object] = []
