"""`examples/bolt_shop` as its customers meet it: two processes, SQLite and PostgreSQL."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from examples.bolt_shop.open import page
from tests.bolt.project import Project, Served
from tests.browser import browser
from tests.servers import free_port

SHOP = Path(__file__).resolve().parents[2] / "examples" / "bolt_shop"
PASSWORD = "open sesame"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
CLIENTS = 8
PATIENCE = 30.0


class Shop(Project):
    """The example, with a database and a folder for pictures of its own."""

    def __init__(self, folder: Path, database: str, page: str) -> None:
        self.folder = SHOP
        self.told = {"DATABASE_URL": database, "SHOP_MEDIA": str(folder), "SHOP_PAGE": page}

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | self.told | {"DJANGO_SETTINGS_MODULE": "config.settings"}


@dataclass
class Open:
    """A shop that serves, and its page at an origin of its own."""

    served: Served
    origin: str
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def api(self) -> str:
        return f"{self.served.url}/api"

    def client(self, name: str = "", address: str = "127.0.0.1") -> httpx.Client:
        """A client at an address; with a name it is logged in."""
        headers = {"Authorization": f"Bearer {self.token(name)}"} if name else {}
        return httpx.Client(
            base_url=self.api,
            headers=headers,
            transport=httpx.HTTPTransport(verify=False, local_address=address),
            timeout=PATIENCE,
        )

    def token(self, name: str) -> str:
        """What shows who somebody is. Each logs in at an address of their own."""
        if name not in self.tokens:
            who = {"username": name, "password": PASSWORD}
            with self.client(address=f"127.0.1.{len(self.tokens) + 1}") as client:
                told = client.post("/auth/login", json=who).raise_for_status().json()
            self.tokens[name] = told["access_token"]
        return self.tokens[name]

    def rush(self, client: httpx.Client, count: int, path: str) -> Counter[int]:
        """So many requests of one client over many connections at once; how they were answered."""

        def ask(_: int) -> int:
            # Each on a connection of its own, so that both processes get some.
            with self.client() as alone:
                return alone.get(path, headers=client.headers).status_code

        with ThreadPoolExecutor(CLIENTS) as pool:
            return Counter(pool.map(ask, range(count)))


def database(kind: str, folder: Path, request: pytest.FixtureRequest) -> str:
    """The URL of an empty database."""
    if kind == "sqlite":
        return f"sqlite:///{folder / 'shop.sqlite3'}"
    url: str = request.getfixturevalue("postgres_url")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create database bolt_shop")
    return f"{url.rpartition('/')[0]}/bolt_shop"


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Open]:
    """The shop, open, with the people and products of `manage.py fill`."""
    folder = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        window = page(0)
        stack.callback(window.server_close)
        stack.callback(window.shutdown)
        origin = f"http://127.0.0.1:{window.server_port}"
        project = Shop(folder, database(request.param, folder, request), origin)
        for command in (["migrate", "-v0"], ["fill"]):
            project.run(*command)
        yield Open(stack.enter_context(project.serve("--processes", "2")), origin)


def product(shop: Open, number: int) -> Any:
    with shop.client() as nobody:
        return nobody.get(f"/products/{number}").json()


def test_sellers_keep_their_own_products(shop: Open) -> None:
    new = {"name": "Kettle", "price_cents": 2500, "stock": 5}
    with shop.client("ada") as ada, shop.client("cleo") as cleo, shop.client("dan") as dan:
        with shop.client() as nobody:
            assert nobody.post("/products", json=new).status_code == 401
        assert dan.post("/products", json=new).status_code == 403
        made = ada.post("/products", json=new)
        assert made.status_code == 201
        path = f"/products/{made.json()['id']}"
        dearer = new | {"price_cents": 2900}
        refused = cleo.put(path, json=dearer)
        assert (refused.status_code, refused.json()["detail"]) == (
            *(403, "this is somebody else's product"),
        )
        assert ada.put(path, json=dearer).json()["price_cents"] == 2900
        wrong = ada.post("/products", json={"name": "", "price_cents": -1, "stock": "many"})
        assert wrong.status_code == 422
        assert [mistake["loc"] for mistake in wrong.json()["errors"]] == [
            *(["body", "name"], ["body", "price_cents"], ["body", "stock"]),
        ]
        assert cleo.delete(path).status_code == 403
        assert ada.delete(path).status_code == 204
        assert ada.get(path).status_code == 404


def test_a_picture_has_a_size_and_a_kind(shop: Open) -> None:
    with shop.client("ada") as ada:

        def send(content: bytes, kind: str = "image/png") -> httpx.Response:
            return ada.put("/products/1/picture", files={"picture": ("p.png", content, kind)})

        assert ada.get("/products/1/picture").status_code == 404
        assert send(PNG).json()["picture"] == "1.png"
        shown = ada.get("/products/1/picture")
        assert (shown.headers["content-type"], shown.content) == ("image/png", PNG)
        assert shown.headers["x-content-type-options"] == "nosniff"
        assert ada.get("/products/1/picture", headers={"Range": "bytes=0-7"}).content == PNG[:8]
        assert send(PNG + bytes(1024 * 1024)).status_code == 422
        assert send(PNG + bytes(3 * 1024 * 1024)).status_code == 413
        assert send(PNG, "text/html").status_code == 422
        assert send(b"<script>alert(1)</script>").status_code == 422
        assert ada.get("/products/1/picture").content == PNG


def test_orders_are_kept_and_exported_and_nothing_is_sold_twice(shop: Open) -> None:
    with shop.client("bob") as bob, ThreadPoolExecutor(CLIENTS) as pool:
        tent = product(shop, 3)
        assert (tent["name"], tent["stock"]) == ("Tent", 3)
        wanted = {"product": 3, "quantity": 1}
        answers = list(pool.map(lambda _: bob.post("/orders", json=wanted), range(6)))
        assert Counter(answer.status_code for answer in answers) == {201: 3, 409: 3}
        assert product(shop, 3)["stock"] == 0
        assert [one["product_id"] for one in bob.get("/orders").json()] == [3, 3, 3]
        with bob.stream("GET", "/orders.csv") as export:
            assert export.headers["content-type"] == "text/csv; charset=utf-8"
            assert "content-length" not in export.headers
            rows = list(csv.reader(export.iter_lines()))
        assert rows[0] == ["order", "product", "quantity", "cents"]
        assert [row[1:] for row in rows[1:]] == [["Tent", "1", "18900"]] * 3
    with shop.client("dan") as dan:
        assert dan.get("/orders").json() == []


def events(answer: httpx.Response) -> Iterator[tuple[int, int]]:
    for line in answer.iter_lines():
        if line.startswith("data:"):
            told = json.loads(line.removeprefix("data:"))
            yield told["product"], told["stock"]


def test_everybody_who_watches_sees_the_stock_change(shop: Open) -> None:
    before = product(shop, 2)["stock"]
    with ExitStack() as stack:
        watching = []
        for _ in range(4):  # some at each process
            client = stack.enter_context(shop.client())
            seen = events(stack.enter_context(client.stream("GET", "/stock")))
            assert (2, before) in [next(seen) for _ in range(3)]
            watching.append(seen)
        dan = stack.enter_context(shop.client("dan"))
        assert dan.post("/orders", json={"product": 2, "quantity": 7}).status_code == 201
        for seen in watching:
            # What others bought a moment ago may be told first.
            assert next(left for product, left in seen if product == 2) == before - 7


def test_each_tier_gets_its_searches_exactly_from_both_processes(shop: Open) -> None:
    path = "/search?q=lan"
    with shop.client("dan") as free, shop.client("bob") as paid, shop.client() as nobody:
        assert nobody.get(path).headers["x-ratelimit-limit"] == "20"
        assert shop.rush(nobody, 30, path) == {200: 19, 429: 11}
        assert shop.rush(free, 50, path) == {200: 40, 429: 10}
        assert shop.rush(paid, 90, path) == {200: 80, 429: 10}
        refused = nobody.get(path)
        assert int(refused.headers["retry-after"]) > 0
        assert refused.headers["content-type"] == "application/problem+json"
    with shop.client(address="127.0.0.9") as elsewhere:
        assert elsewhere.get(path).json()[0]["name"] == "Lantern"


def test_guessing_passwords_ends_soon(shop: Open) -> None:
    guess = {"username": "ada", "password": "guess"}
    with shop.client(address="127.0.0.7") as guesser:
        answers = [guesser.post("/auth/login", json=guess).status_code for _ in range(9)]
    assert answers[:5] == [401] * 5
    assert 429 in answers


def test_a_token_ends_with_its_login(shop: Open) -> None:
    with shop.client("dan") as dan:
        assert shop.rush(dan, CLIENTS, "/orders") == {200: CLIENTS}
        assert dan.post("/auth/logout").status_code == 204
        assert shop.rush(dan, CLIENTS, "/orders") == {401: CLIENTS}
    del shop.tokens["dan"]


def test_the_page_of_another_origin(shop: Open) -> None:
    with shop.client() as stranger:
        shown = stranger.get("/products", headers={"Origin": "http://127.0.0.1:1"})
        assert "access-control-allow-origin" not in shown.headers
    before = product(shop, 1)["stock"]
    with browser() as tab:
        tab.open(f"{shop.origin}/?api={shop.api}")
        left = "document.getElementById('left-1')?.textContent"
        said = "document.getElementById('said').textContent"
        tab.until(f"{left} == '{before}'")
        tab.click("#order button")
        tab.until(f"{said}.startsWith('401')")
        tab.fill("username", "bob")
        tab.fill("password", PASSWORD)
        tab.click("#login button")
        tab.until(f"{said} == 'Hello, bob.'")
        tab.click("#order button")
        tab.until(f"{said}.endsWith('is made.')")
        tab.until(f"{left} == '{before - 1}'")
        tab.click("#logout button")
        tab.until(f"{said}.startsWith('This token')")
        tab.click("#order button")
        tab.until(f"{said}.startsWith('401')")


def test_nothing_is_left_to_be_said_about_the_shop(tmp_path: Path) -> None:
    project = Shop(tmp_path, f"sqlite:///{tmp_path / 'db.sqlite3'}", "http://127.0.0.1:8001")
    project.run("check", "--fail-level", "WARNING")
    project.run("makemigrations", "--check")


def test_one_command_opens_the_shop(tmp_path: Path) -> None:
    api, window = free_port(), free_port()
    project = Shop(tmp_path, f"sqlite:///{tmp_path / 'db.sqlite3'}", "")
    command = [sys.executable, "open.py", "--port", str(api), "--page-port", str(window)]
    opened = subprocess.Popen(
        command, cwd=SHOP, env=project.environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert opened.stdout is not None
        lines = iter(opened.stdout.readline, "")
        said = next(line for line in lines if "window is" in line)
        assert next(line for line in lines if "Bolt listens on" in line)
        place = said.split()[-1]
        assert httpx.get(place).text == (SHOP / "page" / "index.html").read_text()
        origin, _, asked = place.partition("/?api=")
        shown = httpx.get(f"{asked}/products", headers={"Origin": origin})
        assert [one["name"] for one in shown.json()] == ["Lantern", "Rope", "Tent"]
        assert shown.headers["access-control-allow-origin"] == origin
        opened.terminate()
        assert opened.wait(30) == 0
    finally:
        opened.kill()
        opened.wait()
        assert opened.stdout is not None
        opened.stdout.close()
