"""Tests here look below the surface: this import quietens the library's own."""

import gossip.hardening  # noqa: F401
