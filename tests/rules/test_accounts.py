"""One account has one count, however its name is spelled."""

from __future__ import annotations

import string
from collections.abc import Iterator
from urllib.parse import urlsplit

import pymysql
import pytest

from tollway import Limiter
from tollway.rules import Lockout, account

COLLATIONS = ("utf8mb4_general_ci", "utf8mb4_unicode_ci", "utf8mb4_unicode_520_ci")
TYPED = [*string.ascii_lowercase, *string.digits, *"@.+-_", "ae", "oe", "ss", "th", "dz", "ij"]


@pytest.fixture(scope="module")
def letters(mysql_url: str) -> Iterator[pymysql.cursors.Cursor]:
    """A table of every character of the basic plane, in a column for each way to compare."""
    place = urlsplit(mysql_url)
    connection = pymysql.connect(
        host=place.hostname,
        port=place.port or 0,
        user=place.username,
        database=place.path.strip("/"),
    )
    columns = [f"{name} varchar(4) character set utf8mb4 collate {name}" for name in COLLATIONS]
    every = [(chr(n),) * 3 for n in range(0x80, 0x10000) if not 0xD800 <= n < 0xE000]
    with connection, connection.cursor() as cursor:
        cursor.execute(f"create temporary table letters ({', '.join(columns)})")
        cursor.executemany("insert into letters values (%s, %s, %s)", every)
        yield cursor


@pytest.mark.parametrize("collation", COLLATIONS)
def test_what_a_database_takes_for_the_same_is_counted_as_the_same(
    letters: pymysql.cursors.Cursor, collation: str
) -> None:
    """MySQL finds an account by other spellings, too: each would have tries of its own."""
    for text in TYPED:
        letters.execute(f"select {collation} from letters where {collation} = %s", [text])
        found = [char for (char,) in letters.fetchall()]
        assert {account(char) for char in found} <= {account(text)}, text
    letters.execute(f"select {collation} from letters where concat('a', {collation}, 'b') = 'ab'")
    unseen = [char for (char,) in letters.fetchall()]
    assert {account(f"a{char}b") for char in unseen} <= {account("ab")}
    names = ["ann", "bob", "ann2", "jo", "жж", "жж2", "王", "李", "a.b", "a_b", "a@b"]
    assert len(set(map(account, names))) == len(names)


def test_a_name_longer_than_any_account_has_costs_nothing_and_wins_no_tries() -> None:
    """To fold a megabyte of ligatures would hold up every other request for seconds."""
    long = [account("\ufdfa" * 2_000), account("a" * 2_000), account("\u200b" * 2_000 + "dan")]
    assert set(long) == {account("")}
    assert account("\u200b" * 1_000 + "dan") == account("dan")


def test_a_lock_out_by_account_is_one_for_all_spellings() -> None:
    lockout = Lockout(Limiter(), "login", {"username": "5/h"})
    names = ["ada", "Ada", " ada", "\uff41da", "\u00e1da", "ad\u200ba", "ada\t"]
    assert [bool(lockout.attempt(username=account(name))) for name in names] == [True] * 5 + [
        False
    ] * 2
