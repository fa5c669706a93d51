"""The files of docs/bolt.md are served as they stand there."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.bolt.project import Project
from tests.house.snippets import Snippet, parse

PAGE = Path(__file__).resolve().parents[2] / "docs" / "bolt.md"


def files() -> list[Snippet]:
    found = parse("docs/bolt.md", PAGE.read_text())
    return [snippet for snippet in found if "file" in snippet.words]


@pytest.mark.parametrize("snippet", files(), ids=lambda snippet: str(snippet.line))
def test_every_file_of_the_page_can_be_served(project: Project, snippet: Snippet) -> None:
    project.settings('INSTALLED_APPS += ["django.contrib.contenttypes"]')
    project.write("shop/api.py", snippet.text)
    told = project.manage("runbolt", "--check")
    assert (told.returncode, told.stderr) == (0, "")


def test_the_mistakes_that_the_page_shows(project: Project) -> None:
    [body] = [snippet for snippet in files() if "class NewItem" in snippet.text]
    project.write("shop/api.py", body.text)
    with project.serve() as served:
        answer = httpx.post(f"{served.url}/items", content=b'{"name": "x", "tags": [1]}')
    page = "".join(PAGE.read_text().split())
    assert "".join(answer.text.split()) in page
