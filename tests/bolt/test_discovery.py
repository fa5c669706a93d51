"""Where APIs are looked for, and what is said when there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tollway import ConfigError
from tollway.bolt.compiling.discovery import find_apis, places

API = "from tollway.bolt import BoltAPI\napi = BoltAPI(prefix={prefix!r})\n"
SETTINGS: Any = SimpleNamespace(
    SETTINGS_MODULE="found_project.settings.production", ROOT_URLCONF="found_project.urls"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of packages that Python can import."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path, "found_project/settings/production.py", "")
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("found_"):
            del sys.modules[name]


def write(folder: Path, path: str, text: str) -> None:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    for package in file.parents:
        if package == folder:
            break
        (package / "__init__.py").touch()
    file.write_text(text)


def prefixes(folder: Path, *apps: str, named: tuple[str, ...] = ()) -> list[str]:
    return [api.prefix for api in find_apis(SETTINGS, apps, named)]


def test_places() -> None:
    apps = ["shop", "django.contrib.auth", "tollway.bolt"]
    assert places(SETTINGS, apps) == ["found_project.api", "shop.api"]


def test_the_project_first_then_the_apps(folder: Path) -> None:
    write(folder, "found_project/api.py", API.format(prefix="/p"))
    write(folder, "found_shop/api.py", API.format(prefix="/s"))
    write(folder, "found_plain/models.py", "")
    assert prefixes(folder, "found_shop", "found_plain", "found_absent") == ["/p", "/s"]


def test_several_apis_in_one_file(folder: Path) -> None:
    write(
        folder,
        "found_shop/api.py",
        "from tollway.bolt import BoltAPI\napi = [BoltAPI('/a'), BoltAPI('/b')]\n",
    )
    assert prefixes(folder, "found_shop") == ["/a", "/b"]


def test_a_mounted_api_is_served_where_it_is_mounted_only(folder: Path) -> None:
    write(folder, "found_shop/api.py", API.format(prefix="/s"))
    write(
        folder,
        "found_project/api.py",
        API.format(prefix="/p") + "from found_shop.api import api as s\napi.mount('/v1', s)\n",
    )
    assert prefixes(folder, "found_shop") == ["/p"]


def test_named_apis_replace_the_search(folder: Path) -> None:
    write(folder, "found_project/api.py", API.format(prefix="/p"))
    write(folder, "found_else/where.py", "from tollway.bolt import BoltAPI\nmine = BoltAPI('/m')\n")
    assert prefixes(folder, named=("found_else.where:mine",)) == ["/m"]
    with pytest.raises(ConfigError, match=r"there is no module found_else\.nowhere"):
        prefixes(folder, named=("found_else.nowhere:mine",))
    with pytest.raises(ConfigError, match=r"write `api = BoltAPI\(\)` in found_else"):
        prefixes(folder, named=("found_else.where:api",))


def test_none_at_all(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        prefixes(folder, "found_shop")
    told = str(caught.value)
    assert "\n  found_project/api.py\n  found_shop/api.py\n" in told
    assert "api = BoltAPI()" in told


def test_an_api_file_without_an_api(folder: Path) -> None:
    write(folder, "found_shop/api.py", "application = 1\n")
    with pytest.raises(ConfigError, match=r"found_shop/api\.py has no BoltAPI under the name"):
        prefixes(folder, "found_shop")


def test_a_broken_api_file_is_not_a_missing_one(folder: Path) -> None:
    write(folder, "found_shop/api.py", "import a_module_that_is_not_there\n")
    with pytest.raises(ModuleNotFoundError) as caught:
        prefixes(folder, "found_shop")
    assert "while importing found_shop/api.py" in caught.value.__notes__[0]
