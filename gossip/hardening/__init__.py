"""What py-libp2p 0.8.1 breaks, and the fixes: one idea per module. Nothing outside this package imports libp2p.

The fixes replace or override parts of exactly this version, hence the check. A module names its fault in its
docstring; it goes when a release of the library has fixed it and the module's regression test passes without it.
"""

import warnings
from importlib.metadata import version

SUPPORTED = "0.8.1"
"""The version that the fixes were written for."""

if (_found := version("libp2p")) != SUPPORTED:
    raise ImportError(f"gossip needs libp2p {SUPPORTED}, found {_found}: its fixes fit no other version")

with warnings.catch_warnings():
    # it imports a deprecated websocket module, for a transport that isn't used here
    warnings.simplefilter("ignore", DeprecationWarning)
    import libp2p  # noqa: F401  # everything below finds it imported
