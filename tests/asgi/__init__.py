"""Tests of the ASGI and FastAPI doors."""
