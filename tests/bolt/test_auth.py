"""Authentication and guards of Bolt, asked over real HTTP."""

from __future__ import annotations

import http.client
import json
import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from tests.bolt import tokens
from tests.bolt.native import Answer, Running, running
from tollway import ConfigError
from tollway._tollway import SigningKey
from tollway.bolt import BoltAPI, Router, rate_limit
from tollway.bolt.auth import (
    AllowAny,
    APIKeyAuthentication,
    HasAllPermissions,
    HasAnyPermission,
    HasPermission,
    InMemoryRevocation,
    IsAdminUser,
    IsAuthenticated,
    IsStaff,
    JWTAuthentication,
    JWTAuthViews,
    Requires,
)
from tollway.bolt.compiling.assembly import assemble
from tollway.bolt.conf import BoltSettings

BY_TOKEN = JWTAuthentication(tokens.SECRET)
KEYS = {"key-of-a-reader-1234": ["read"], "key-of-a-writer-1234": ["read", "write"]}
LOGGED_IN = (IsAuthenticated(),)
BY_KEY = APIKeyAuthentication(KEYS, key_permissions=KEYS, key_tiers={"key-of-a-writer-1234": "pro"})


async def whoami(request: Any) -> Any:
    return request.context


def limited(*limits: Any) -> Any:
    """A handler with limits of its own."""

    async def handler(request: Any) -> Any:
        return request.context

    for limit in limits:
        handler = limit(handler)
    return handler


@contextmanager
def serving(*apis: BoltAPI, **settings: Any) -> Iterator[Running]:
    made = assemble(apis, BoltSettings(**settings))
    with running(*made.routes, **made.settings) as served:
        yield served


def api_with(auth: Any = (BY_TOKEN,), guards: Any = LOGGED_IN, **more: Any) -> BoltAPI:
    api = BoltAPI(auth=list(auth), guards=list(guards), **more)
    api.get("/me")(whoami)
    return api


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    with serving(api_with()) as found:
        yield found


@pytest.mark.parametrize("algorithm", tokens.SHARED)
def test_a_token_signed_with_a_secret(algorithm: str) -> None:
    with serving(api_with([JWTAuthentication(tokens.SECRET, algorithms=[algorithm])])) as served:
        answer = served.get("/me", **bearer(tokens.token(algorithm, role="x")))
        assert (answer.status, answer.json()["auth_claims"]["role"]) == (200, "x")


@pytest.mark.parametrize("algorithm", tokens.PUBLIC)
def test_a_token_signed_with_a_private_key(algorithm: str) -> None:
    by = JWTAuthentication(public_key=tokens.public_pem(algorithm), algorithms=[algorithm])
    with serving(api_with([by])) as served:
        assert served.get("/me", **bearer(tokens.token(algorithm))).status == 200
        assert served.get("/me", **bearer(tokens.token(algorithm, number=1))).status == 401


def test_what_a_handler_knows(served: Running) -> None:
    token = tokens.token(is_staff=True, permissions=["a", "b"], big=2**63, deep={"x": [None, 1.5]})
    context = served.get("/me", **bearer(token)).json()
    told = context.pop("auth_claims")
    assert context == {
        "user_id": "7",
        "is_staff": True,
        "is_superuser": False,
        "auth_backend": "jwt",
        "permissions": ["a", "b"],
    }
    assert (told["big"], told["deep"]) == (2**63, {"x": [None, 1.5]})


def refused(answer: Answer) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == answer.status
    return answer.status, document["detail"]


def test_without_a_token_the_answer_says_what_is_needed(served: Running) -> None:
    answer = served.get("/me")
    assert refused(answer) == (401, "credentials are needed here")
    assert answer.headers["www-authenticate"] == "Bearer"


def forged() -> dict[str, str]:
    """Texts that are no good tokens, each for a reason of its own."""
    good = tokens.token()
    head, body, signature = good.split(".")
    public = tokens.public_pem("RS256")
    return {
        "none": tokens.unsigned({"alg": "none"}),
        "None": tokens.unsigned({"alg": "None"}),
        "empty signature": f"{head}.{body}.",
        "no signature": f"{head}.{body}",
        "truncated": good[:-1],
        "another body": f"{head}.{tokens.token(sub='8').split('.')[1]}.{signature}",
        "another secret": tokens.jwt.encode(tokens.claims(), "another " * 8),
        "confusion": tokens.unsigned({"alg": "RS256"}, public.encode()),
        "another hash": tokens.token("HS512"),
        "padding": good + "=",
        "bad base64": f"{head}.{body}.!!!!",
        "wide": good.replace(".", ". "),
        "100 kB": "a" * 7000 + "." + "b" * 7000 + "." + "c" * 7000,
        "dots": "." * 500,
        "expired": tokens.token(exp=int(time.time()) - 61),
        "not yet": tokens.token(nbf=int(time.time()) + 3600),
        "no exp": tokens.jwt.encode({"sub": "7"}, tokens.SECRET),
        "exp as text": tokens.unsigned({"alg": "HS256"}, exp="9999999999"),
        "refresh": tokens.token(typ="refresh"),
    }


@pytest.mark.parametrize("name", forged())
def test_a_forged_token_opens_nothing(served: Running, name: str) -> None:
    answer = served.get("/me", **bearer(forged()[name]))
    status, detail = refused(answer)
    assert status == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert detail == {
        "expired": "the token has expired",
        "not yet": "the token is not valid yet",
        "refresh": "the token is of another type than the one that is needed here",
    }.get(name, "the token is not valid")


def test_a_public_key_is_no_secret() -> None:
    """Algorithm confusion: the public key, which all know, used as the secret of HS256."""
    public = tokens.public_pem("RS256")
    by = JWTAuthentication(public_key=public, algorithms=["RS256"])
    import hashlib
    import hmac

    message = tokens.unsigned({"alg": "HS256"}).rsplit(".", 1)[0]
    tag = hmac.digest(public.encode(), message.encode(), hashlib.sha256)
    coded = tokens.base64.urlsafe_b64encode(tag).rstrip(b"=").decode()
    with serving(api_with([by])) as served:
        assert served.get("/me", **bearer(f"{message}.{coded}")).status == 401
    for secret in (public, tokens.private_pem("RS256")):
        with pytest.raises(ConfigError, match="is a public key"):
            JWTAuthentication(secret, algorithms=["HS256"]).native()


def raw(served: Running, head: bytes) -> bytes:
    client = served.open()
    with closing(client):
        client.recv(65_536)
        client.sendall(head)
        return client.recv(65_536)


def test_two_headers_or_cookies_are_not_one(served: Running) -> None:
    good = tokens.token()
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    with closing(connection):
        connection.putrequest("GET", "/me")
        connection.putheader("Authorization", f"Bearer {good}")
        connection.putheader("Authorization", "Bearer other")
        connection.endheaders()
        response = connection.getresponse()
        assert (response.status, json.load(response)["detail"]) == (
            401,
            "there is more than one token",
        )
    with serving(api_with([JWTAuthentication(tokens.SECRET, cookie="t")])) as by_cookie:
        assert by_cookie.get("/me", cookie=f"t={good}").status == 200
        assert by_cookie.get("/me", cookie=f"t=x; t={good}").status == 401
        assert by_cookie.get("/me", cookie=f"t={good}; t={good}").status == 401
        assert by_cookie.get("/me", **bearer(good)).status == 401


def test_a_header_that_is_no_text(served: Running) -> None:
    head = b"GET /me HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\x80\r\n\r\n"
    assert raw(served, head).startswith(b"HTTP/1.1 401 ")


def test_audience_issuer_and_type() -> None:
    by = JWTAuthentication(
        tokens.SECRET, audience=["api", "web"], issuer="us", leeway=0, token_type="access"
    )
    good = {"aud": ["x", "web"], "iss": "us", "typ": "access"}
    with serving(api_with([by])) as served:

        def status(**more: Any) -> int:
            made = json.dumps(tokens.claims(**(good | more))).encode()
            return served.get("/me", **bearer(SigningKey("HS256", tokens.SECRET).sign(made))).status

        assert status() == 200
        assert status(aud="api") == 200
        for wrong in (
            {"aud": "other"},
            {"aud": None},
            {"aud": {"api": 1}},
            {"iss": "them"},
            {"iss": ["us"]},
            {"typ": "refresh"},
            {"typ": 1},
            {"exp": int(time.time()) - 1},
        ):
            assert status(**wrong) == 401, wrong


def test_auth_alone_lets_everybody_pass() -> None:
    with serving(api_with(guards=())) as served:
        assert served.get("/me").json() is None
        assert served.get("/me", **bearer("nonsense")).json() is None
        assert served.get("/me", **bearer(tokens.token())).json()["user_id"] == "7"


def test_a_cookie_is_not_believed_when_another_site_sends_it() -> None:
    api = BoltAPI(auth=[JWTAuthentication(tokens.SECRET, cookie="t")], guards=[IsAuthenticated()])
    api.post("/me")(whoami)
    cookie = {"cookie": f"t={tokens.token()}", "host": "shop.example"}
    with serving(api, trusted_origins=("https://app.example",)) as served:

        def status(**more: str) -> int:
            return served.get("/me", "POST", **(cookie | more)).status

        assert status() == 200
        assert status(origin="https://shop.example") == 200
        assert status(origin="https://app.example") == 200
        assert status(origin="https://evil.example") == 403
        assert status(origin="null") == 403
        assert status(sec_fetch_site="cross-site") == 403
        assert status(referer="https://evil.example/") == 403


def test_api_keys_and_what_they_may_do() -> None:
    api = api_with([BY_TOKEN, BY_KEY])
    api.post("/me", guards=[HasPermission("write")])(whoami)
    with serving(api) as served:
        reader, writer = ({"x-api-key": key} for key in KEYS)
        answer = served.get("/me", **reader)
        assert answer.json()["auth_backend"] == "api_key"
        assert answer.json()["permissions"] == ["read"]
        assert "key-of" not in answer.body.decode()
        assert served.get("/me", **writer).json()["tier"] == "pro"
        assert refused(served.get("/me", "POST", **reader)) == (
            403,
            "this needs the permission: write",
        )
        assert served.get("/me", "POST", **writer).status == 200
        wrong = served.get("/me", **{"x-api-key": "key-of-a-reader-1235"})
        assert refused(wrong) == (401, "the API key is not known")
        assert 'ApiKey header="x-api-key"' in wrong.headers["www-authenticate"]
        # A hash that leaked is no key.
        shown = served.get("/me", **reader).json()["api_key"]
        assert served.get("/me", **{"x-api-key": shown}).status == 401


@pytest.mark.parametrize(
    ("guard", "claims", "status"),
    [
        (IsStaff(), {"is_staff": True}, 200),
        (IsStaff(), {"is_staff": "true"}, 403),
        (IsStaff(), {}, 403),
        (IsAdminUser(), {"is_superuser": True}, 200),
        (IsAdminUser(), {"is_staff": True}, 403),
        (HasPermission("a"), {"permissions": ["b", "a"]}, 200),
        (HasPermission("a"), {"permissions": "ab"}, 403),
        (HasAnyPermission("a", "b"), {"permissions": ["b"]}, 200),
        (HasAnyPermission(["a", "b"]), {"permissions": []}, 403),
        (HasAllPermissions("a", "b"), {"permissions": ["b", "a", "c"]}, 200),
        (HasAllPermissions("a", "b"), {"permissions": ["b"]}, 403),
        (Requires("org"), {"org": "acme"}, 200),
        (Requires("org"), {"org": None}, 403),
        (Requires("role", "x", "y"), {"role": "y"}, 200),
        (Requires("role", any_of=["x"]), {"role": ["y"]}, 403),
        (Requires("role", none_of=["x"]), {}, 200),
        (Requires("role", none_of=["x"]), {"role": "x"}, 403),
        (Requires("level", 3), {"level": 3}, 200),
        (Requires("level", 3), {"level": "3"}, 403),
    ],
    ids=repr,
)
def test_guards(guard: Any, claims: dict[str, Any], status: int) -> None:
    with serving(api_with(guards=[guard])) as served:
        assert served.get("/me", **bearer(tokens.token(**claims))).status == status
        assert served.get("/me").status == 401


def test_a_guard_may_say_it_in_its_own_words() -> None:
    with serving(api_with(guards=[Requires("role", "x", message="Members only")])) as served:
        assert refused(served.get("/me", **bearer(tokens.token()))) == (403, "Members only")


def test_the_nearest_word_holds() -> None:
    api = api_with()
    api.get("/open", guards=[AllowAny()])(whoami)
    api.get("/staff", guards=[IsStaff()])(whoami)
    router = Router("/keys", auth=[BY_KEY])
    router.get("/me")(whoami)
    api.include_router(router)
    with serving(api) as served:
        token = bearer(tokens.token())
        assert [served.get(path, **token).status for path in ("/me", "/open", "/staff")] == [
            *(200, 200),
            403,
        ]
        assert served.get("/open").status == 200
        assert served.get("/keys/me", **token).status == 401
        assert served.get("/keys/me", **{"x-api-key": next(iter(KEYS))}).status == 200


def test_settings_are_the_last_word() -> None:
    api = BoltAPI()
    api.get("/me")(whoami)
    api.get("/open", guards=[])(whoami)
    with serving(api, auth=(BY_TOKEN,), guards=(IsAuthenticated(),)) as served:
        assert served.get("/me").status == 401
        assert served.get("/me", **bearer(tokens.token())).status == 200
        assert served.get("/open").status == 200


def test_guards_come_before_parameters_and_handlers() -> None:
    api = BoltAPI(auth=[BY_TOKEN], guards=[IsAuthenticated()])
    called = []

    @api.get("/items/{item_id}")
    def item(item_id: int) -> int:
        called.append(item_id)
        return item_id

    with serving(api) as served:
        assert served.get("/items/x").status == 401
        assert served.get("/items/x", **bearer(tokens.token())).status == 422
        assert served.get("/items/5", **bearer(tokens.token())).json() == 5
    assert called == [5]


def test_limits_count_the_verified_user_and_nobody_else() -> None:
    api = BoltAPI(auth=[BY_TOKEN, BY_KEY])
    api.get("/user")(limited(rate_limit("2/h", key="user")))

    api.get("/claim")(limited(rate_limit("2/h", key="jwt:team")))
    with serving(api) as served:
        ada, bob = (bearer(tokens.token(sub=sub)) for sub in ("ada", "bob"))
        assert [served.get("/user", **ada).status for _ in range(3)] == [200, 200, 429]
        assert served.get("/user", **bob).status == 200
        # Another token of hers is still her.
        assert served.get("/user", **bearer(tokens.token(sub="ada", x=1))).status == 429
        reader, writer = ({"x-api-key": key} for key in KEYS)
        assert [served.get("/user", **reader).status for _ in range(3)] == [200, 200, 429]
        assert served.get("/user", **writer).status == 200
        # Whoever makes tokens up is one address, under however many names.
        forged = [bearer(tokens.jwt.encode(tokens.claims(sub=str(n)), "x" * 64)) for n in range(3)]
        assert [served.get("/user", **one).status for one in forged] == [200, 200, 429]
        red, blue = (bearer(tokens.token(team=team)) for team in ("red", "blue"))
        assert [served.get("/claim", **red).status for _ in range(3)] == [200, 200, 429]
        assert served.get("/claim", **blue).status == 200


def test_addresses_are_counted_before_tokens_are_verified() -> None:
    api = BoltAPI(auth=[BY_TOKEN], guards=[IsAuthenticated()])
    api.get("/me")(limited(rate_limit("2/h"), rate_limit("100/h", key="user")))
    with serving(api) as served:
        wrong = [served.get("/me", **bearer("forged")).status for _ in range(3)]
        assert wrong == [401, 401, 429]
        answer = served.get("/me", **bearer(tokens.token()))
        assert answer.status == 429


def test_the_tighter_limit_is_told() -> None:
    api = BoltAPI(auth=[BY_TOKEN])
    api.get("/me")(limited(rate_limit("100/h"), rate_limit("5/h", key="user")))
    with serving(api) as served:
        answer = served.get("/me", **bearer(tokens.token()))
        assert answer.headers["x-ratelimit-remaining"] == "4"


def test_tiers_by_claim_and_by_key() -> None:
    api = BoltAPI(auth=[BY_TOKEN, BY_KEY])
    api.get("/me")(limited(rate_limit("1/h", key="user", tiers={"pro": "3/h"})))
    with serving(api) as served:

        def passed(headers: dict[str, str]) -> int:
            return sum(served.get("/me", **headers).status == 200 for _ in range(5))

        assert passed(bearer(tokens.token(sub="1"))) == 1
        assert passed(bearer(tokens.token(sub="2", tier="pro"))) == 3
        assert passed(bearer(tokens.token(sub="3", tier="gold"))) == 1
        reader, writer = ({"x-api-key": key} for key in KEYS)
        assert (passed(reader), passed(writer)) == (1, 3)


def test_a_revoked_token_is_refused_at_once() -> None:
    store = InMemoryRevocation(capacity=10)
    api = api_with([JWTAuthentication(tokens.SECRET, revocation_store=store)])

    @api.post("/logout")
    async def logout(request: Any) -> None:
        await store.revoke(request.auth["jti"], exp=request.auth["exp"])

    with serving(api) as served:
        one, two = (bearer(tokens.token(jti=jti, fam="f")) for jti in ("1", "2"))
        assert served.get("/logout", "POST", **one).status == 200
        assert refused(served.get("/me", **one)) == (401, "the token was revoked")
        assert served.get("/me", **two).status == 200
        served.on_loop(lambda: store.native.add("fam:f", time.time() + 60))
        assert served.get("/me", **two).status == 401
        assert served.get("/me", **bearer(tokens.token())).status == 401


def test_many_forged_tokens_leave_nothing_behind(served: Running) -> None:
    import resource

    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)

    def flood(count: int) -> int:
        with closing(connection):
            for number in range(count):
                name = tokens.unsigned({"alg": "HS256", "kid": str(number)}, sub=f"{number}" * 50)
                connection.request("GET", "/me", headers=bearer(name))
                connection.getresponse().read()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = flood(1_000)
    after = flood(10_000)
    assert after - before < 4_096, f"{after - before} KB more"


def test_no_secret_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key = next(iter(KEYS))
    made = assemble([api_with([BY_TOKEN, BY_KEY])], BoltSettings())
    shown = [repr(made.routes), repr(BY_TOKEN), repr(BY_KEY), repr(vars(BY_KEY))]
    shown += [repr(backend) for backend in made.routes[0]["auth"]["backends"]]
    with serving(api_with([BY_TOKEN, BY_KEY])) as served:
        token = tokens.token()
        answers = [served.get("/me", **{"x-api-key": key}), served.get("/me", **bearer(token[:-2]))]
        shown += [answer.body.decode() for answer in answers]
    for secret in (tokens.SECRET, key, token):
        assert secret not in "".join(shown) + caplog.text


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: JWTAuthentication("short"), "has 5 bytes"),
        (lambda: JWTAuthentication(""), "is empty"),
        (lambda: JWTAuthentication("ab" * 30), "repeats 2 characters"),
        (lambda: JWTAuthentication(tokens.SECRET, algorithms=["none"]), "is refused"),
        (lambda: JWTAuthentication(tokens.SECRET, algorithms=["HS255"]), "is not known here"),
        (lambda: JWTAuthentication(tokens.SECRET, algorithms=["RS256"]), "takes no secret"),
        (lambda: JWTAuthentication(tokens.SECRET, algorithms=["HS256", "RS256"]), "mix"),
        (lambda: JWTAuthentication(tokens.SECRET, leeway=-1), "leeway=-1"),
        (lambda: JWTAuthentication(public_key="x"), "is no PEM"),
        (
            lambda: JWTAuthentication(public_key=tokens.public_pem("ES256"), algorithms=["RS256"]),
            "is an EC key on P-256, and algorithm RS256 takes an RSA key",
        ),
        (
            lambda: JWTAuthentication(public_key=tokens.private_pem("RS256")),
            "is a private key",
        ),
        (lambda: JWTAuthentication(jwks={"keys": []}), "no key for RS256"),
        (lambda: JWTAuthentication(jwks_url="https://x/keys"), "give audience="),
        (lambda: JWTAuthentication(tokens.SECRET, public_key="x"), "are two keys"),
        (lambda: APIKeyAuthentication([]), "give api_keys"),
        (lambda: APIKeyAuthentication(["short"]), "less than 16"),
        (lambda: APIKeyAuthentication(KEYS, "x y"), "no legal header"),
        (lambda: APIKeyAuthentication(KEYS, key_permissions={"other": ["a"]}), "not in api_keys"),
        (lambda: IsAuthenticated, "no backend such as"),
        (lambda: JWTAuthentication, "write JWTAuthentication()"),
    ],
)
def test_mistakes_stop_the_start(make: Any, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        assemble([api_with([make()])], BoltSettings())
    assert part in str(caught.value)
    assert tokens.SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: Requires(""), "name is missing"),
        (lambda: Requires("a", all_of="bc"), "write a list"),
        (lambda: Requires("a", any_of=[]), "is empty"),
        (lambda: Requires("a", "b", none_of=["c"]), "two conditions"),
        (lambda: Requires("a", object()), "cannot be compared"),
        (lambda: Requires("a", message=""), "message is empty"),
        (lambda: IsAuthenticated, "write IsAuthenticated()"),
        (lambda: "staff", "is no guard"),
    ],
)
def test_guards_that_cannot_be_stop_the_start(make: Any, part: str) -> None:
    with pytest.raises(ConfigError, match=r".") as caught:
        assemble([api_with(guards=[make()])], BoltSettings())
    assert part in str(caught.value)


def test_a_guard_that_lets_nobody_pass_stops_the_start() -> None:
    with pytest.raises(ConfigError, match="BOLT_AUTHENTICATION_CLASSES"):
        assemble([api_with(auth=[])], BoltSettings())


@pytest.mark.parametrize("key", ["user", "api_key", "org", "jwt:team"])
def test_a_limit_by_caller_needs_callers(key: str) -> None:
    api = BoltAPI()
    api.get("/me")(limited(rate_limit("1/h", key=key)))
    with pytest.raises(ConfigError, match="nothing says who is asking"):
        assemble([api], BoltSettings())


def test_what_tokens_say_is_told_by_a_plain_function() -> None:
    async def claims(user: Any) -> dict[str, Any]:
        return {"tier": user.plan}

    with pytest.raises(ConfigError, match="claims runs on a thread: write it without async"):
        JWTAuthViews(store=InMemoryRevocation(), claims=claims)
