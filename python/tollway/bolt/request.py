"""The request object that a handler may ask for: by the name ``request`` or by this type."""

from tollway._tollway import Request

__all__ = ["Request"]
