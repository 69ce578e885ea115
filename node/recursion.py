"""Keep Python's recursion limit where it is while a library is imported that raises it.

py_ecc, which eth_account and so web3 import, sets the limit to 100,000 for the whole process. At that depth C code
(json's, msgspec's) overruns the stack and the process dies where otherwise it would raise RecursionError: deeply
nested input from anybody could kill the node.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_recursion_limit() -> Iterator[None]:
    """Whatever is imported inside, the limit afterwards is as before."""
    limit = sys.getrecursionlimit()
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)
