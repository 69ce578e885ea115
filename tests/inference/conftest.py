"""Fixtures shared by the session tests."""

from tests.inference.market import side

__all__ = ["side"]
