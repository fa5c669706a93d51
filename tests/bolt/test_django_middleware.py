"""Django's default middleware before Bolt's handlers, over real HTTP."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import httpx
import pytest

from tests.bolt.project import Project
from tollway import ConfigError
from tollway.bolt import BoltAPI
from tollway.bolt.middleware import DjangoMiddlewareStack, load_django_middleware

SETTINGS = """
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
INSTALLED_APPS = [
    "django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions",
    "django.contrib.messages", "tollway.bolt", "shop",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
BOLT_SECURITY_HEADERS = False
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
"""

API = """
from django.contrib import auth, messages
from django.contrib.auth.models import User
from django.http import Http404
from django.middleware.csrf import get_token
from django.views.decorators.csrf import csrf_exempt

from tollway.bolt import JSON, BoltAPI, Request, skip_middleware

api = BoltAPI(django_middleware=True)


@api.get("/plain")
async def plain():
    return {"plain": True}


@api.get("/plain-sync/{item_id}")
def plain_sync(item_id: int):
    return {"item_id": item_id}


@api.get("/own-cookie")
def own_cookie(request: Request):
    request.session["seen"] = request.session.get("seen", 0) + 1
    return JSON({"seen": request.session["seen"]}).set_cookie("mine", "1").set_cookie("two", "2")


@api.get("/async-session")
async def async_session(request: Request):
    seen = await request.session.aget("seen", 0)
    await request.session.aset("seen", seen + 1)
    return {"seen": seen + 1}


@api.get("/token")
def token(request: Request):
    return {"token": get_token(request)}


@api.post("/login")
def login(request: Request, body: dict[str, str]):
    user = auth.authenticate(request, **body)
    if user is None:
        return JSON({}, status_code=401)
    auth.login(request, user)
    return {"user": request.user.username}


@api.post("/exempt")
@csrf_exempt
async def exempt(request: Request):
    return {"exempt": True}


@api.post("/unchecked")
@skip_middleware("CsrfViewMiddleware")
async def unchecked():
    return {"exempt": True}


@api.post("/guarded")
async def guarded():
    return {"guarded": True}


@api.get("/me")
def me(request: Request):
    return {"user": request.user.username}


@api.get("/ame")
async def ame(request: Request):
    user = await request.auser()
    return {"user": user.username}


@api.get("/say")
def say(request: Request):
    messages.success(request, "saved")
    return {}


@api.get("/said")
async def said(request: Request):
    return {"messages": [str(message) for message in messages.get_messages(request)]}


@api.get("/fails/{what}")
async def fails(what: str):
    raise Http404("nothing") if what == "404" else RuntimeError(what)


@api.get("/skipped")
@skip_middleware("django.middleware.clickjacking.XFrameOptionsMiddleware", "SecurityMiddleware")
async def skipped():
    return {}


@api.get("/none")
@skip_middleware("*")
async def none():
    return {}


@api.get("/facts")
def facts(request: Request):
    return {
        "host": request.get_host(), "path": request.get_full_path(), "get": request.GET.dict(),
        "cookies": request.COOKIES, "scheme": request.is_secure(),
        "agent": request.META["HTTP_USER_AGENT"],
        "type": request._django.content_type, "ip": request.META["REMOTE_ADDR"],
        "accept": request._django.headers["Accept"],
    }
"""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database with one user, to be copied."""
    project = Project(tmp_path_factory.mktemp("template"))
    project.settings(SETTINGS)
    project.run("migrate", "-v0")
    project.run(
        "shell",
        "--command",
        "from django.contrib.auth.models import User\n"
        "User.objects.create_user('ada', password='x')",
    )
    return project.folder / "db.sqlite3"


@pytest.fixture
def shop(project: Project, database: Path) -> Project:
    project.settings(SETTINGS)
    project.write("shop/api.py", API)
    shutil.copy(database, project.folder / "db.sqlite3")
    return project


def test_the_default_stack(shop: Project) -> None:
    with shop.serve() as served, httpx.Client(base_url=served.url) as client:
        for path, answer in [("/plain", {"plain": True}), ("/plain-sync/7", {"item_id": 7})]:
            told = client.get(path)
            assert (told.status_code, told.json()) == (200, answer)
            headers = told.headers
            assert headers["x-frame-options"] == "DENY"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["content-length"] == str(len(told.content))
            assert "set-cookie" not in headers
            assert "vary" not in headers

        # Cookies of the handler and of the session, side by side; the session is saved.
        first = client.get("/own-cookie")
        names = [line.split("=")[0] for line in first.headers.get_list("set-cookie")]
        assert sorted(names) == ["mine", "sessionid", "two"]
        assert first.headers["vary"] == "Cookie"
        assert client.get("/own-cookie").json() == {"seen": 2}
        assert client.get("/async-session").json() == {"seen": 3}
        assert client.get("/own-cookie").json() == {"seen": 4}

        # Messages are kept in a cookie until they are read.
        client.get("/say")
        assert client.get("/said").json() == {"messages": ["saved"]}
        assert client.get("/said").json() == {"messages": []}

        skipped = client.get("/skipped").headers
        assert "x-frame-options" not in skipped
        assert "x-content-type-options" not in skipped
        assert "x-frame-options" not in client.get("/none").headers


def test_forged_requests_are_refused_and_logins_work(shop: Project) -> None:
    with shop.serve() as served, httpx.Client(base_url=served.url) as client:
        assert client.get("/me").json() == {"user": ""}
        assert client.get("/ame").json() == {"user": ""}
        body = {"username": "ada", "password": "x"}
        refused = client.post("/login", json=body)
        assert (refused.status_code, "CSRF" in refused.text) == (403, True)
        assert client.post("/guarded").status_code == 403
        for path in ("/exempt", "/unchecked"):
            assert client.post(path).json() == {"exempt": True}

        token = client.get("/token").json()["token"]
        assert "csrftoken" in client.cookies
        headers = {"x-csrftoken": token}
        assert client.post("/guarded", headers=headers).json() == {"guarded": True}
        form = client.post("/guarded", data={"csrfmiddlewaretoken": token})
        assert form.json() == {"guarded": True}
        wrong = client.post("/login", json=body | {"password": "y"}, headers=headers)
        assert wrong.status_code == 401
        logged_in = client.post("/login", json=body, headers=headers)
        assert logged_in.json() == {"user": "ada"}
        assert client.get("/me").json() == {"user": "ada"}
        assert client.get("/ame").json() == {"user": "ada"}
        # Another client is another session.
        assert httpx.get(f"{served.url}/me").json() == {"user": ""}


def test_errors_and_facts(shop: Project) -> None:
    with shop.serve() as served, httpx.Client(base_url=served.url) as client:
        missing = client.get("/fails/404")
        assert (missing.status_code, missing.json()["detail"]) == (404, "nothing")
        failed = client.get("/fails/x")
        assert failed.status_code == 500
        assert failed.headers["content-type"] == "application/problem+json"
        for answer in (missing, failed):
            assert answer.headers["x-frame-options"] == "DENY"
        odd = client.get("/plain", headers={"host": "a b"})
        assert odd.status_code == 400
        facts = client.get("/facts?a=1&a=2", headers={"accept": "x/y", "cookie": "k=v"})
        host = served.url.removeprefix("http://")
        told = facts.json()
        assert told.pop("agent").startswith("python-httpx")
        assert told == {
            "host": host,
            "path": "/facts?a=1&a=2",
            "get": {"a": "2"},
            "cookies": {"k": "v"},
            "scheme": False,
            "type": "",
            "ip": "127.0.0.1",
            "accept": "x/y",
        }


OWN = """
import asyncio

from django.http import HttpResponse, JsonResponse
from django.utils.decorators import async_only_middleware, sync_and_async_middleware
from django.utils.deprecation import MiddlewareMixin


class Hooks(MiddlewareMixin):
    def process_request(self, request):
        request.trail = ["hooks"]
        if "stop" in request.GET:
            return HttpResponse("stopped", status=418)

    def process_view(self, request, view, args, kwargs):
        request.trail.append(view.__name__)

    def process_exception(self, request, error):
        if isinstance(error, (KeyError, LookupError)):
            return JsonResponse({"caught": type(error).__name__}, status=409)

    def process_response(self, request, response):
        response["X-Trail"] = " ".join([*getattr(request, "trail", []), "/hooks"])
        return response


class Classic:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        response = self.get_response(request)
        response["X-Classic"] = str(response.status_code)
        response.set_cookie("classic", "1")
        return response


@async_only_middleware
def modern(get_response):
    async def call(request):
        await asyncio.sleep(0)
        response = await get_response(request)
        response["X-Modern"] = str(response.status_code)
        return response
    return call


class Raises(MiddlewareMixin):
    def process_response(self, request, response):
        if "boom" in request.GET:
            raise RuntimeError("in a hook")
        return response


class Rewrites(MiddlewareMixin):
    def process_response(self, request, response):
        if "rewrite" in request.GET:
            response.content = response.content.upper()
        return response
"""

OWN_API = """
from tollway.bolt import BoltAPI, JSON, Request, TimingMiddleware

api = BoltAPI(
    django_middleware=[
        "shop.own.Hooks", "shop.own.Classic", "shop.own.Raises", "shop.own.Rewrites",
    ],
    middleware=[TimingMiddleware],
)
modern = BoltAPI(prefix="/modern", django_middleware=["shop.own.modern", "shop.own.Hooks"])


@api.get("/async/{what}")
@modern.get("/async/{what}")
async def on_loop(what: str):
    if what == "key":
        raise KeyError(what)
    if what == "value":
        raise ValueError(what)
    return {"what": what}


@api.get("/sync/{what}")
@modern.get("/sync/{what}")
def on_thread(what: str):
    if what == "key":
        raise KeyError(what)
    return JSON({"what": what}).set_cookie("own", "2")


api.mount("/", modern)
"""


def test_middleware_of_ones_own(project: Project) -> None:
    project.write("shop/own.py", OWN)
    project.write("shop/api.py", OWN_API)
    with project.serve() as served:
        for kind, handler in [("async", "on_loop"), ("sync", "on_thread")]:
            url = f"{served.url}/{kind}"
            fine = httpx.get(f"{url}/x")
            assert (fine.status_code, fine.json()) == (200, {"what": "x"})
            assert fine.headers["x-trail"] == f"hooks {handler} /hooks"
            assert fine.headers["x-classic"] == "200"
            assert "server-timing" in fine.headers
            names = {line.split("=")[0] for line in fine.headers.get_list("set-cookie")}
            assert names == ({"classic"} if kind == "async" else {"classic", "own"})
            caught = httpx.get(f"{url}/key")
            assert (caught.status_code, caught.json()) == (409, {"caught": "KeyError"})
            assert caught.headers["x-classic"] == "409"
            stopped = httpx.get(f"{url}/x?stop=1")
            assert (stopped.status_code, stopped.text) == (418, "stopped")
            assert stopped.headers["x-trail"] == "hooks /hooks"
            assert "x-classic" not in stopped.headers
            # An exception inside a middleware is an answer for those around it.
            boom = httpx.get(f"{url}/x?boom=1")
            assert (boom.status_code, boom.headers["x-classic"]) == (500, "500")
            assert boom.headers["x-trail"].endswith("/hooks")
            assert httpx.get(f"{url}/x?rewrite=1").text == '{"WHAT":"X"}'
            new = httpx.get(f"{served.url}/modern/{kind}/x")
            assert (new.status_code, new.headers["x-modern"]) == (200, "200"), new.text
            assert new.headers["x-trail"] == f"hooks {handler} /hooks"
        assert httpx.get(f"{served.url}/async/value").status_code == 500


def test_every_route_of_two_apis_is_found_with_the_stack(shop: Project) -> None:
    shop.write(
        "shop/api.py",
        API + "\n\nother = BoltAPI(prefix='/v2', django_middleware=True)\n"
        "@other.get('/items/{item_id}')\nasync def items(item_id: int):\n"
        "    return item_id\n\napi.mount('/mounted', other)\n",
    )
    with shop.serve() as served:
        for path in ("/plain", "/plain/", "/me", "/mounted/v2/items/3"):
            told = httpx.get(served.url + path, follow_redirects=True)
            assert told.status_code == 200, path
        assert httpx.get(f"{served.url}/nowhere").status_code == 404


def test_what_can_be_asked_for() -> None:
    path = "django.middleware.common.CommonMiddleware"
    stack = load_django_middleware([path])
    assert [kind.__name__ for kind in stack] == ["CommonMiddleware"]
    assert load_django_middleware(False) == []
    for config, part in [
        ({"only": []}, "there is no 'only'"),
        (["no.such.Thing"], "cannot be imported"),
        ("x", "is not True, False, a list"),
        ([7], "7 is no middleware"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(part)):
            load_django_middleware(config)
    with pytest.raises(ConfigError, match="the list is empty"):
        DjangoMiddlewareStack([])
    assert BoltAPI(django_middleware=True).scope.django is True
