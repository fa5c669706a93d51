"""Django's templates and responses in handlers."""

from __future__ import annotations

import httpx

from tests.bolt.project import Project

SETTINGS = """
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "DIRS": [],
    }
]
"""

API = """
import asyncio
import io

from django.http import FileResponse, HttpResponse, HttpResponseRedirect, JsonResponse
from django.http import StreamingHttpResponse
from django.template.response import SimpleTemplateResponse
from shop.models import Item
from tollway.bolt import BoltAPI, Depends
from tollway.bolt.shortcuts import render

api = BoltAPI(compression=False)
closed = []


@api.get("/page/{name}")
def page(request, name: str):
    response = render(request, "shop/page.html", {"name": name, "items": Item.objects.all()})
    return response.set_cookie("seen", "1")


@api.get("/missing")
def missing(request):
    return render(request, "shop/nowhere.html")


@api.get("/django")
async def django():
    response = HttpResponse("plain", status=202, headers={"X-A": "b"}, content_type="text/x")
    response.set_cookie("one", "1", httponly=True)
    response.set_cookie("two", "2")
    response.delete_cookie("three")
    return response


@api.get("/json")
def as_json(nothing=Depends(lambda: None)):
    return JsonResponse({"a": 1})


@api.get("/away")
async def away():
    return HttpResponseRedirect("/elsewhere")


@api.get("/template")
def template():
    return SimpleTemplateResponse("shop/page.html", {"name": "late"})


@api.get("/stream")
def stream():
    return StreamingHttpResponse(item.name for item in Item.objects.iterator())


@api.get("/async")
async def later():
    async def rows():
        yield "a"
        await asyncio.sleep(0)
        yield "b"

    return StreamingHttpResponse(rows(), content_type="text/csv")


class Watched(io.BytesIO):
    def close(self):
        closed.append(True)
        super().close()


@api.get("/file")
def file():
    return FileResponse(Watched(b"content"), as_attachment=True, filename="a.txt")


@api.get("/closed")
async def how_many():
    return len(closed)
"""


def test_templates_and_responses_of_django(project: Project) -> None:
    project.settings(SETTINGS)
    project.write("shop/templates/shop/page.html", "<p>{{ name }} at {{ request.path }}</p>")
    project.write("shop/api.py", API)
    project.run("migrate", "-v0")
    with project.serve() as served, httpx.Client(base_url=served.url) as client:
        page = client.get("/page/<b>")
        assert page.text == "<p>&lt;b&gt; at /page/&lt;b&gt;</p>"
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.cookies["seen"] == "1"
        assert client.get("/missing").status_code == 500
        plain = client.get("/django")
        assert (plain.status_code, plain.text) == (202, "plain")
        assert (plain.headers["x-a"], plain.headers["content-type"]) == ("b", "text/x")
        cookies = plain.headers.get_list("set-cookie")
        assert cookies[:2] == ["one=1; HttpOnly; Path=/", "two=2; Path=/"]
        assert cookies[2].startswith('three=""; expires=Thu, 01 Jan 1970')
        assert client.get("/json").json() == {"a": 1}
        away = client.get("/away")
        assert (away.status_code, away.headers["location"]) == (302, "/elsewhere")
        assert client.get("/template").text == "<p>late at </p>"
        assert client.get("/stream").text == "lantern"
        later = client.get("/async")
        assert (later.text, later.headers["content-type"]) == ("ab", "text/csv")
        file = client.get("/file")
        assert file.text == "content"
        assert file.headers["content-disposition"] == 'attachment; filename="a.txt"'
        assert client.get("/closed").json() == 1
