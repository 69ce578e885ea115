"""Moving a member to another machine: its signing history goes with its keys."""

from pathlib import Path

import trio

from contracts.signing import Key
from node import keys
from node.config import NodeFile, load_network
from node.roles.member import GUARD_FILE
from node.signing_guard import open_guard, read_history
from node.signing_history import Place


async def export_history(node: NodeFile, path: Path) -> tuple[int, Place]:
    """Write all that ``node``'s stopped member has signed to ``path``; how many signatures, and the highest place.

    From then on the member doesn't start here, until a history is imported here again.

    Raises what :func:`~node.signing_guard.open_guard` does: :class:`~node.errors.GuardInUse` while the member runs.
    """
    key, domain = await _key(node), load_network(node.network).terms().domain
    async with open_guard(node.data_dir / GUARD_FILE, key, domain, is_leaving=True) as guard:
        await guard.export_history(path)
    history = await trio.to_thread.run_sync(read_history, path, key.address, domain)
    return len(history.records), history.watermark


async def import_history(node: NodeFile, path: Path) -> tuple[int, Place]:
    """Take over what was signed elsewhere, as ``path`` has it; how many signatures, and the highest place now.

    Raises what :func:`~node.signing_guard.open_guard` does, :class:`~node.errors.HistoryInvalid` among it.
    """
    key, domain = await _key(node), load_network(node.network).terms().domain
    node.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    history = await trio.to_thread.run_sync(read_history, path, key.address, domain)
    async with open_guard(node.data_dir / GUARD_FILE, key, domain, restore=path) as guard:
        return len(history.records), await guard.watermark()


async def _key(node: NodeFile) -> Key:
    password = keys.find_password(node.keys.mor, node.keys.password_file)
    return await trio.to_thread.run_sync(keys.load_mor_key, node.keys.mor, password)
