"""The tables of ``tollway.bolt``."""

from __future__ import annotations

from typing import Any

from django.db import models

__all__ = ["RevokedToken"]


class RevokedToken(models.Model):
    """A token, or all tokens of a login, that :class:`DjangoORMRevocation` knows as revoked."""

    jti: Any = models.CharField(max_length=150, unique=True)
    expires_at: Any = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"{self.jti} until {self.expires_at:%Y-%m-%d %H:%M}"
