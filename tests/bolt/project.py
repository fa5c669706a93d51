"""Real Django projects in temporary folders, served by `manage.py runbolt` in a process."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.waiting import wait

SETTINGS = """
from pathlib import Path

SECRET_KEY = "for tests"
DEBUG = False
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["tollway.bolt", "shop"]
ROOT_URLCONF = "site_of_tests.urls"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": Path(__file__).parent.parent / "db.sqlite3",
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
"""

MODELS = """
from django.db import models


class Item(models.Model):
    name = models.CharField(max_length=40)
"""

MIGRATION = """
from django.db import migrations, models


def seed(apps, schema):
    apps.get_model("shop", "Item").objects.create(name="lantern")


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            "Item",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("name", models.CharField(max_length=40)),
            ],
        ),
        migrations.RunPython(seed, migrations.RunPython.noop),
    ]
"""

LISTENS = re.compile(r"listens on (https?(?:\+unix)?://\S+)")


@dataclass
class Served:
    """A running server."""

    url: str
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    """What it printed so far, standard output and standard error in one."""

    def wait_for_line(self, part: str, count: int = 1) -> None:
        """Wait until so many lines that hold ``part`` were printed: they come by a pipe."""
        wait(
            f"{part!r} is printed",
            lambda: sum(part in line for line in self.lines) >= count,
            15,
            lambda: "\n".join(self.lines),
        )

    def memory(self) -> int:
        """Bytes of memory that it has in use."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * resource.getpagesize()

    def open_sockets(self) -> int:
        """Sockets that it has open, the listening one included."""
        found = 0
        for entry in os.scandir(f"/proc/{self.process.pid}/fd"):
            with suppress(OSError):  # it was closed meanwhile
                found += os.readlink(entry.path).startswith("socket:")
        return found

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=20)


class Project:
    """A Django project with one app, `shop`, and a SQLite database with one item."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("site_of_tests/__init__.py", "")
        self.write("site_of_tests/urls.py", "urlpatterns = []\n")
        self.write("site_of_tests/settings.py", SETTINGS)
        self.write("shop/__init__.py", "")
        self.write("shop/models.py", MODELS)
        self.write("shop/migrations/__init__.py", "")
        self.write("shop/migrations/0001_initial.py", MIGRATION)

    def write(self, path: str, text: str) -> None:
        """Write one of its files."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))

    def settings(self, text: str) -> None:
        """Add to the settings."""
        self.write("site_of_tests/settings.py", SETTINGS + textwrap.dedent(text))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "django", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        paths = [str(self.folder), os.environ.get("PYTHONPATH", "")]
        return {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "site_of_tests.settings",
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        }

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a management command to its end."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def run(self, *arguments: str) -> str:
        """The same, which must succeed; what it printed."""
        done = self.manage(*arguments)
        if done.returncode != 0:
            raise AssertionError(f"{' '.join(arguments)}:\n{done.stderr}")
        return done.stdout

    def wait_for_mark(self, name: str) -> None:
        """Wait until a handler of `shop` has made a file of that name beside itself."""
        wait(f"{name} is there", (self.folder / "shop" / name).exists)

    @contextmanager
    def serve(self, *arguments: str) -> Iterator[Served]:
        """Run `runbolt` on a free port until the block ends."""
        process = subprocess.Popen(
            self.command("runbolt", "--port", "0", *arguments),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        served = Served("", process)
        listening = threading.Event()
        reader = threading.Thread(target=_read, args=(served, listening), daemon=True)
        reader.start()
        try:
            if not listening.wait(30) or not served.url:
                raise AssertionError("the server did not start:\n" + "\n".join(served.lines))
            yield served
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            reader.join(timeout=10)
            if process.stdout is not None:
                process.stdout.close()


def _read(served: Served, listening: threading.Event) -> None:
    """Collect what the server prints, and notice the line that says where it listens."""
    if served.process.stdout is None:
        raise AssertionError("the server's output is not read")
    for line in served.process.stdout:
        served.lines.append(line.rstrip("\n"))
        found = LISTENS.search(line)
        if found:
            served.url = found[1]
            listening.set()
    listening.set()
