"""slowapi's names on this engine: a project switches by changing its imports.

What is carried, and what is not, is in the manual: "From slowapi".
"""

from tollway.compat.slowapi.extension import Limiter, _rate_limit_exceeded_handler

__all__ = ["Limiter", "_rate_limit_exceeded_handler"]
