"""What stands before a handler, under the module name that other code imports."""

from tollway.bolt.cors import cors
from tollway.bolt.limits import rate_limit
from tollway.bolt.scope import skip_middleware

__all__ = ["cors", "rate_limit", "skip_middleware"]
