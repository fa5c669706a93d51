"""The markers of :mod:`tollway.bolt.params`, under the module name that other code imports."""

from tollway.bolt.params import Body, Cookie, Depends, File, Form, Header, Path, Query

__all__ = ["Body", "Cookie", "Depends", "File", "Form", "Header", "Path", "Query"]
