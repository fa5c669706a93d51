"""Finds the APIs of a project: every ``api.py`` of the project and its apps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from tollway.bolt.api import BoltAPI
from tollway.errors import ConfigError

__all__ = ["find_apis", "places"]

EXAMPLE = """    from tollway.bolt import BoltAPI

    api = BoltAPI()

    @api.get("/ping")
    async def ping():
        return {"pong": True}"""


def places(settings: Any, apps: Iterable[str]) -> list[str]:
    """The modules where an API is looked for, in order: the project's, then each app's."""
    found: list[str] = []
    for dotted in (getattr(settings, "SETTINGS_MODULE", ""), getattr(settings, "ROOT_URLCONF", "")):
        # A project may keep its settings in a package: project.settings.production.
        package = dotted if isinstance(dotted, str) else ""
        while "." in package:
            package = package.rpartition(".")[0]
            if not package.endswith(".settings"):
                found.append(f"{package}.api")
    # What Django and Tollway bring along has no API for Bolt.
    found.extend(f"{app}.api" for app in apps if not app.startswith(("django.", "tollway.")))
    return list(dict.fromkeys(found))


def find_apis(settings: Any, apps: Iterable[str], named: Iterable[str] = ()) -> list[BoltAPI]:
    """The APIs to serve: those that ``BOLT_API`` names, or else all that are found.

    An API that is mounted or included in another of them is served there only.

    Raises ConfigError when there is none; it says where it looked and what to write.
    """
    named = tuple(named)
    found = [_named(item) for item in named] if named else _discovered(settings, apps)
    unique = list({id(api): api for api in found}.values())
    inner = {id(below) for api in unique for below in api.holders()}
    return [api for api in unique if id(api) not in inner]


def _named(item: str) -> BoltAPI:
    module_name, _, attribute = item.partition(":")
    if not _exists(module_name):
        raise ConfigError(f'setting BOLT_API: there is no module {module_name} for "{item}"')
    value = getattr(import_module(module_name), attribute, None)
    if not isinstance(value, BoltAPI):
        raise ConfigError(
            f'setting BOLT_API: "{item}" is no BoltAPI: write `{attribute} = BoltAPI()` in '
            f"{module_name}"
        )
    return value


def _discovered(settings: Any, apps: Iterable[str]) -> list[BoltAPI]:
    modules = places(settings, apps)
    without: list[str] = []
    found: list[BoltAPI] = []
    for name in modules:
        if not _exists(name):
            continue
        here = list(_apis_in(name))
        found.extend(here)
        if not here:
            without.append(name)
    if found:
        return found
    if without:
        raise ConfigError(
            f"{_listed(without)} has no BoltAPI under the name `api`. Write there, for example:\n\n"
            f"{EXAMPLE}"
        )
    looked = "".join(f"\n  {name.replace('.', '/')}.py" for name in modules)
    raise ConfigError(
        f"no api.py was found. These files would be read:{looked}\n"
        f"Write one of them, for example {_first(modules)}:\n\n{EXAMPLE}\n\n"
        'or name an API elsewhere: BOLT_API = ["package.module:api"] in the settings.'
    )


def _first(modules: list[str]) -> str:
    return f"{modules[0].replace('.', '/')}.py" if modules else "project/api.py"


def _listed(names: list[str]) -> str:
    return " and ".join(f"{name.replace('.', '/')}.py" for name in names)


def _apis_in(name: str) -> Iterator[BoltAPI]:
    try:
        module = import_module(name)
    except Exception as error:
        error.add_note(f"while importing {name.replace('.', '/')}.py, to look for a BoltAPI in it")
        raise
    value = getattr(module, "api", None)
    for item in value if isinstance(value, list | tuple) else (value,):
        if isinstance(item, BoltAPI):
            yield item


def _exists(name: str) -> bool:
    """Whether there is such a module. One that fails to import does exist."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError as error:
        # A parent package is missing. A failure inside of one is the user's to see.
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            return False
        raise
