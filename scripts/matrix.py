"""Run the smoke suite of the Django door under each Django and Python that Tollway promises.

Each pair has a virtual environment in .make/matrix. The Python of .venv uses what `make build` has
built; for the others the native module is built only when `--build` is given, and what was left
out is said in the last lines.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
HOME = TOP / ".make" / "matrix"
WHEELS = HOME / "wheels"

DJANGOS = {"4.2": "Django>=4.2,<5", "5.2": "Django>=5.2,<6", "newest": "Django>=6"}
"""The oldest, the one with long support, and whatever came out last."""

PAIRS = [
    *(("3.11", "4.2"), ("3.11", "5.2")),
    *(("3.12", "4.2"), ("3.12", "5.2"), ("3.12", "newest")),
    *(("3.13", "5.2"), ("3.13", "newest")),
]
"""What goes together: Django 4.2 ends with Python 3.12, and Django 6 begins there."""

SUITE = [
    f"tests/django/test_{name}.py"
    for name in (
        *("django_decorator", "django_middleware", "django_rates", "django_rules"),
        *("django_settings", "django_throttles", "django_testing", "compat_django_ratelimit"),
    )
]
TOOLS = ["httpx", "uvicorn", "PyJWT", "pytest", "pytest-asyncio", "pytest-timeout"]


def own() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def interpreter(version: str) -> Path | None:
    """A Python of that version: this one, one on PATH, or one of pyenv's."""
    if version == own():
        return Path(sys.executable)
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    pyenv = Path.home() / ".pyenv" / "versions"
    found = [folder / f"python{version}" for folder in folders if folder.parent.name != "shims"]
    found += [folder / "bin" / "python" for folder in sorted(pyenv.glob(f"{version}.*"))]
    for python in found:
        asked = [str(python), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        if python.exists():
            told = subprocess.run(asked, capture_output=True, text=True)
            if told.stdout.strip() == version:
                return python
    return None


def wheel(version: str, python: Path, *, build: bool) -> Path | None:
    """The wheel for a Python, built when it is wanted and not there."""
    tag = f"cp{version.replace('.', '')}"
    if build:
        command = [sys.executable, "-m", "maturin", "build", "--release", "--interpreter"]
        subprocess.run([*command, str(python), "--out", str(WHEELS)], cwd=TOP, check=True)
    found = [path for path in WHEELS.glob(f"tollway-*-{tag}-*.whl") if newer(path)]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def newer(wheel: Path) -> bool:
    """Whether a wheel is newer than all that it is built from."""
    sources = [*TOP.glob("python/**/*.py"), *TOP.glob("crates/**/*.rs"), TOP / "Cargo.lock"]
    return wheel.stat().st_mtime > max(path.stat().st_mtime for path in sources)


def pins() -> list[str]:
    """The tools at the versions of requirements/test.txt."""
    text = (TOP / "requirements" / "test.txt").read_text()
    known = {line.split("==")[0].lower(): line for line in text.splitlines() if "==" in line}
    return [known.get(tool.lower(), tool) for tool in TOOLS]


def environment(version: str, django: str, python: Path, package: Path | None) -> Path:
    """The Python of a pair's virtual environment, made when it is not there."""
    home = HOME / f"python{version}-django{django}"
    bin_ = home / "bin" / "python"
    pip = [str(bin_), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if not (home / "ready").exists():
        print(f"matrix: making {home.relative_to(TOP)}", flush=True)
        subprocess.run([str(python), "-m", "venv", "--clear", str(home)], check=True)
        wanted = [DJANGOS[django], "djangorestframework", *([] if package is None else pins())]
        subprocess.run([*pip, *wanted], check=True)
        (home / "ready").touch()
    if package is None:
        # After its own packages: this Python's, with Tollway and the tools, but another Django.
        (site,) = (home / "lib").glob("python*/site-packages")
        (site / "others.pth").write_text("\n".join(path for path in sys.path if path) + "\n")
    else:
        subprocess.run([*pip, "--force-reinstall", "--no-deps", str(package)], check=True)
    return bin_


def passed(text: str, word: str) -> int:
    found = re.findall(rf"(\d+) {word}", text.splitlines()[-1] if text else "")
    return sum(map(int, found))


def run(version: str, django: str, python: Path) -> tuple[int, int]:
    """Run the suite in an environment; how many passed, and how many did not."""
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *SUITE]
    environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=TOP, env=environ, capture_output=True, text=True)
    asked = [str(python), "-c", "import django; print(django.__version__)"]
    exact = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    good, bad = passed(done.stdout, "passed"), passed(done.stdout, "(?:failed|error)")
    print(f"matrix: Python {version}, Django {exact or django}: {good} passed, {bad} failed")
    if done.returncode != 0:
        print(done.stdout[-6000:] + done.stderr[-2000:], flush=True)
        bad = max(bad, 1)
    return good, bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", action="store_true", help="build for the other Pythons too")
    parser.add_argument("--python", action="append", help="only this one, such as 3.12")
    options = parser.parse_args()
    began, good, bad = time.monotonic(), 0, 0
    left_out: dict[str, str] = {}
    packages: dict[str, Path | None] = {}
    for version, django in PAIRS:
        if options.python and version not in options.python:
            continue
        python = interpreter(version)
        if python is None:
            left_out[version] = "there is no such Python here"
            continue
        if version != own() and version not in packages:
            packages[version] = wheel(version, python, build=options.build)
        package = packages.get(version)
        if version != own() and package is None:
            left_out[version] = "nothing built for it is as new as the source: run make matrix"
            continue
        try:
            prepared = environment(version, django, python, package)
        except subprocess.CalledProcessError as error:
            left_out[f"{version} with Django {django}"] = f"it cannot be set up: {error}"
            continue
        some = run(version, django, prepared)
        good, bad = good + some[0], bad + some[1]
    for version, why in left_out.items():
        print(f"matrix: NOT TESTED: Python {version}: {why}")
    print(f"matrix: {good} passed, {bad} failed in {time.monotonic() - began:.1f}s")
    return 1 if bad or not good else 0


if __name__ == "__main__":
    sys.exit(main())
