"""Fixtures of the Bolt tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bolt.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh Django project without an `api.py`."""
    return Project(tmp_path)
