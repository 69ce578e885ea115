"""The keys of a test network's nodes, sealed as any node's keys are."""

import secrets
from dataclasses import dataclass
from pathlib import Path

from contracts.signing import Key
from node.config import KeyFiles
from node.files import write_atomic
from node.keys import create_mor_key, create_node_seed
from testnet.plan import NodePlan


@dataclass(frozen=True, slots=True)
class Identity:
    """A planned node, its folder and its MOR key."""

    node: NodePlan
    folder: Path
    key: Key
    files: KeyFiles

    @property
    def name(self) -> str:
        """The node's name, which is its folder's and its log's too."""
        return self.node.name

    @property
    def address(self) -> str:
        """The MOR address as people read it."""
        return "0x" + self.key.address.hex()

    @property
    def data_dir(self) -> Path:
        """Where the node keeps its database, ready file and control token."""
        return self.folder / "data"


def create_identity(node: NodePlan, folder: Path) -> Identity:
    """New keystores for ``node`` under ``folder``, opened by a random password in a file beside them (0600)."""
    home = folder / node.name
    password_file = home / "keys" / "password"
    password = secrets.token_hex(16)
    write_atomic(password_file, password.encode(), overwrite=False)
    files = KeyFiles(home / "keys" / "mor.json", home / "keys" / "node.json", password_file)
    key = create_mor_key(files.mor, password)
    create_node_seed(files.node, password)
    return Identity(node, home, key, files)
