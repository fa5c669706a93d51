"""Names for numbers and texts that are written often."""

from __future__ import annotations

from enum import IntEnum, StrEnum

__all__ = ["FileSize", "MediaType"]


class FileSize(IntEnum):
    """Sizes in bytes, for ``File(max_size=...)`` and ``max_body=``."""

    KB_1 = 1024
    KB_10 = 10 * 1024
    KB_100 = 100 * 1024
    KB_500 = 500 * 1024
    MB_1 = 1024**2
    MB_2 = 2 * 1024**2
    MB_5 = 5 * 1024**2
    MB_10 = 10 * 1024**2
    MB_20 = 20 * 1024**2
    MB_50 = 50 * 1024**2
    MB_100 = 100 * 1024**2
    MB_500 = 500 * 1024**2
    GB_1 = 1024**3


class MediaType(StrEnum):
    """Media types, for ``File(allowed_types=[...])`` and responses."""

    JSON = "application/json"
    HTML = "text/html"
    TEXT = "text/plain"
    CSV = "text/csv"
    XML = "application/xml"
    PDF = "application/pdf"
    ZIP = "application/zip"
    OCTET_STREAM = "application/octet-stream"
    FORM = "application/x-www-form-urlencoded"
    MULTIPART = "multipart/form-data"
    EVENT_STREAM = "text/event-stream"
    PNG = "image/png"
    JPEG = "image/jpeg"
    WEBP = "image/webp"
    IMAGE = "image/*"
    AUDIO = "audio/*"
    VIDEO = "video/*"
