"""Tests of the Django door."""
