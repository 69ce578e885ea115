"""The Compute Contract's side of the protocol: Vyper sources, pure twins of their rules, and the only web3 user."""

import os
from importlib.util import find_spec

if find_spec("_pysha3") is not None:
    # eth-hash takes pycryptodome wherever it is there, and that needs 10 µs for a short keccak; this one needs 1 µs.
    os.environ.setdefault("ETH_HASH_BACKEND", "pysha3")
