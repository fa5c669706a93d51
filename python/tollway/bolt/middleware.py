"""What stands before a handler, under the module name that other code imports."""

from tollway.bolt.limits import rate_limit

__all__ = ["rate_limit"]
