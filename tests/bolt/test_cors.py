"""CORS: answered before Python, judged by a real browser."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.bolt.project import Project
from tests.browser import browser
from tollway import ConfigError
from tollway.bolt import BoltAPI, CORSConfig, Router, cors, skip_middleware
from tollway.bolt.compiling.answers import AnswerSettings, read_answers
from tollway.bolt.compiling.assembly import assemble
from tollway.bolt.conf import BoltSettings

SHOP = "https://shop.example"

API = """
from tollway.bolt import BoltAPI, HTTPException, Router, cors, rate_limit, skip_middleware

api = BoltAPI()


@api.get("/items")
async def items():
    return {"items": []}


@api.put("/items")
async def replace_items(body: dict[str, int]):
    return body


@api.get("/fails")
async def fails():
    raise RuntimeError("inside")


@api.get("/limited")
@rate_limit("1/h", key="global")
async def limited():
    return {}


@api.get("/own")
@cors(origins=["https://partner.example"], methods=["GET"], max_age=60)
def own():
    return {}


@api.get("/open")
@cors(origins=["*"])
def everybody():
    return {}


@api.get("/closed")
@skip_middleware("cors")
def closed():
    return {}
"""

SETTINGS = f"""
CORS_ALLOWED_ORIGINS = ["{SHOP}"]
CORS_ALLOWED_ORIGIN_REGEXES = [r"https://\\w+\\.shop\\.example"]
CORS_ALLOW_CREDENTIALS = True
CORS_EXPOSE_HEADERS = ["x-total"]
CORS_PREFLIGHT_MAX_AGE = 600
"""


def ask(url: str, path: str, method: str = "GET", origin: str = SHOP) -> httpx.Response:
    """A preflight."""
    headers = {"origin": origin, "access-control-request-method": method}
    return httpx.options(url + path, headers=headers)


def granted(answer: httpx.Response) -> str | None:
    return answer.headers.get("access-control-allow-origin")


def test_what_a_server_answers_to_other_origins(project: Project) -> None:
    project.settings(SETTINGS)
    project.write("shop/api.py", API)
    with project.serve() as served:
        url = served.url
        told = httpx.get(f"{url}/items", headers={"origin": SHOP})
        assert granted(told) == SHOP
        assert told.headers["access-control-allow-credentials"] == "true"
        assert told.headers["access-control-expose-headers"] == "x-total"
        assert told.headers["vary"] == "origin"
        below = httpx.get(f"{url}/items", headers={"origin": "https://eu.shop.example"})
        assert granted(below) == "https://eu.shop.example"
        stranger = httpx.get(f"{url}/items", headers={"origin": "https://evil.example"})
        assert (stranger.status_code, granted(stranger)) == (200, None)
        assert stranger.headers["vary"] == "origin"
        assert httpx.get(f"{url}/items").headers["vary"] == "origin"

        # Answers that are not the handler's are read by pages too.
        for path, status in [("/fails", 500), ("/nowhere", 404), ("/items?", 200)]:
            answer = httpx.get(url + path, headers={"origin": SHOP})
            assert (answer.status_code, granted(answer)) == (status, SHOP), path
        wrong = httpx.put(f"{url}/items", content=b"{", headers={"origin": SHOP})
        assert (wrong.status_code, granted(wrong)) == (422, SHOP)
        posted = httpx.post(f"{url}/items", headers={"origin": SHOP})
        assert (posted.status_code, granted(posted)) == (405, SHOP)
        statuses = [
            httpx.get(f"{url}/limited", headers={"origin": SHOP}).status_code for _ in range(2)
        ]
        assert statuses == [200, 429]
        refused = httpx.get(f"{url}/limited", headers={"origin": SHOP})
        assert (refused.status_code, granted(refused)) == (429, SHOP)

        # A preflight is not counted, even where everything else is refused.
        before = ask(url, "/limited")
        assert (before.status_code, granted(before)) == (204, SHOP)
        assert before.content == b""
        assert before.headers["access-control-max-age"] == "600"
        assert "PUT" in before.headers["access-control-allow-methods"]
        assert "content-type" in before.headers["access-control-allow-headers"]
        assert "origin" in before.headers["vary"]
        assert granted(ask(url, "/items", "PUT", "https://evil.example")) is None

        # Each route by its own rules, the method asked for deciding which route it is.
        own = ask(url, "/own", origin="https://partner.example")
        assert (granted(own), own.headers["access-control-max-age"]) == (
            "https://partner.example",
            "60",
        )
        assert "access-control-allow-credentials" not in own.headers
        assert granted(ask(url, "/own")) is None
        everybody = httpx.get(f"{url}/open", headers={"origin": "https://evil.example"})
        assert (granted(everybody), "vary" in everybody.headers) == ("*", False)
        closed = httpx.get(f"{url}/closed", headers={"origin": SHOP})
        assert (granted(closed), "vary" in closed.headers) == (None, False)
        plain = ask(url, "/closed")
        assert (plain.status_code, plain.headers["allow"]) == (204, "GET, HEAD, OPTIONS")


def finish(api: BoltAPI, path: str, settings: AnswerSettings | None = None) -> object:
    routes = assemble([api], BoltSettings(answers=settings or AnswerSettings())).routes
    return next(route["finish"]["cors"] for route in routes if route["path"] == path)


def test_the_nearest_rules_win() -> None:
    router = Router(prefix="/inner", cors={"origins": ["https://router.example"], "max_age": 5})

    @router.get("/plain")
    @router.get("/named")
    async def plain() -> None: ...

    @router.get("/own")
    @cors(expose_headers=["x-own"])
    async def own() -> None: ...

    @router.get("/none")
    @skip_middleware("*")
    async def none() -> None: ...

    api = BoltAPI(cors=CORSConfig(origins=["https://api.example"]))
    api.get("/outer")(plain)
    api.include_router(router)
    settings = AnswerSettings(cors=CORSConfig(origins=["https://settings.example"]))
    assert finish(api, "/outer", settings)["origins"] == ["https://api.example"]
    assert finish(api, "/inner/plain", settings)["origins"] == ["https://router.example"]
    told = finish(api, "/inner/own", settings)
    assert (told["origins"], told["max_age"], told["expose_headers"]) == (
        ["https://router.example"],
        5,
        ["x-own"],
    )
    assert finish(api, "/inner/none", settings) is None
    off = BoltAPI(cors=False)
    off.get("/x")(plain)
    assert finish(off, "/x", settings) is None
    # Routes with the same rules share them.
    first, second = (
        route["finish"]
        for route in assemble([api], BoltSettings(answers=settings)).routes
        if route["path"] in ("/inner/plain", "/inner/named")
    )
    assert first is second


def test_naming_an_origin_takes_back_the_credentials_of_others() -> None:
    config = CORSConfig(origins=[SHOP], credentials=True)
    assert config.but({"max_age": 1}).credentials
    assert not config.but({"origins": ["https://partner.example"]}).credentials
    assert config.but({"origins": ["https://b.example"], "credentials": True}).credentials


def test_settings_hold_for_some_paths_only() -> None:
    class Source:
        CORS_ALLOWED_ORIGINS = (SHOP,)
        CORS_URLS_REGEX = r"^/api/.*$"

    api = BoltAPI()
    api.get("/api/x")(lambda: None)
    api.get("/x")(lambda: None)
    settings = read_answers(Source)
    assert finish(api, "/api/x", settings)["origins"] == [SHOP]
    assert finish(api, "/x", settings) is None


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ("CORS_ALLOW_ALL_ORIGINS = CORS_ALLOW_CREDENTIALS = True", "together with credentials"),
        ('CORS_ALLOWED_ORIGINS = ["shop.example"]', 'write "https://shop.example"'),
        ('CORS_ALLOWED_ORIGINS = "https://shop.example"', "is not a list"),
        ('CORS_ALLOWED_ORIGIN_REGEXES = ["(?<=x)y"]', "no look-around"),
        ('CORS_ALLOWED_ORIGINS = ["https://a.example"]; CORS_PREFLIGHT_MAX_AGE = -1', "max_age=-1"),
    ],
)
def test_rules_that_cannot_hold_stop_the_start(project: Project, settings: str, part: str) -> None:
    project.settings(settings)
    project.write("shop/api.py", "from tollway.bolt import BoltAPI\n\napi = BoltAPI()\n")
    told = project.manage("runbolt", "--check")
    assert told.returncode == 1
    assert part in told.stderr


def test_mistakes_of_a_route_name_it(project: Project) -> None:
    project.write("shop/api.py", API.replace('origins=["*"]', 'origins=["*"], credentials=True'))
    told = project.manage("runbolt", "--check")
    assert "route GET /open (shop.api.everybody): CORS: origins are" in told.stderr
    with pytest.raises(ConfigError, match="CORS has no 'origin'"):
        BoltAPI(cors={"origin": SHOP})
    with pytest.raises(ConfigError, match="middleware_config has no 'rate_limit'"):
        BoltAPI(middleware_config={"rate_limit": {}})


PAGE = b"<!doctype html><title>page</title>"


class Pages(http.server.BaseHTTPRequestHandler):
    """A page of another origin."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def page_server() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


FETCHES = """
(async () => {
  const out = {};
  const tell = async (name, path, init) => {
    try {
      const answer = await fetch(API + path, init);
      out[name] = [answer.status, await answer.json(), answer.headers.get("x-total")];
    } catch (error) { out[name] = "blocked"; }
  };
  await tell("login", "/login", {credentials: "include"});
  await tell("own", "/me", {credentials: "include"});
  const headers = {"content-type": "application/json"};
  const init = {method: "PUT", credentials: "include", headers, body: '{"n": 1}'};
  await tell("put", "/me", init);
  await tell("header", "/me", {headers: {"x-strange": "1"}});
  await tell("missing", "/nowhere", {credentials: "include"});
  await tell("closed", "/closed", {});
  window.OUT = JSON.stringify(out);
})()
"""

BROWSER_API = """
from tollway.bolt import JSON, BoltAPI, Request, skip_middleware

api = BoltAPI()


@api.get("/login")
async def login():
    return JSON({}, headers={"x-total": "7"}).set_cookie("who", "ada")


@api.get("/me")
async def me(request: Request):
    return {"who": request.cookies.get("who")}


@api.put("/me")
def put(body: dict[str, int], request: Request):
    return {"who": request.cookies.get("who"), **body}


@api.get("/closed")
@skip_middleware("cors")
async def closed():
    return {}
"""


def test_a_browser_agrees(project: Project) -> None:
    project.write("shop/api.py", BROWSER_API)
    with page_server() as origin:
        project.settings(
            f'CORS_ALLOWED_ORIGINS = ["{origin}"]\n'
            'CORS_ALLOW_CREDENTIALS = True\nCORS_EXPOSE_HEADERS = ["x-total"]\n'
        )
        with project.serve() as served, browser() as page:
            page.open(origin)
            page.evaluate(FETCHES.replace("API", json.dumps(served.url)))
            out = json.loads(page.until("window.OUT"))
    missing = out.pop("missing")
    assert (missing[0], missing[1]["status"]) == (404, 404)
    assert out == {
        "login": [200, {}, "7"],
        "own": [200, {"who": "ada"}, None],
        "put": [200, {"who": "ada", "n": 1}, None],
        "header": "blocked",
        "closed": "blocked",
    }
