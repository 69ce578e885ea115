"""``make testnet``: start a network, ask it a prompt, see that the provider was paid to the wei, stop it or keep it."""

import shlex
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import trio
from rich.console import Console
from rich.markup import escape

from contracts.errors import ContractsError
from gossip.errors import GossipError
from inference.errors import InferenceError
from node.errors import NodeError
from testnet.ask import gateway_base
from testnet.errors import OptionInvalid, TestnetError
from testnet.evidence import follow, gateway
from testnet.files import MODEL_NAME, open_folder
from testnet.network import Network, running
from testnet.plan import Plan, TestnetOptions, compute_plan
from testnet.progress import Progress
from testnet.summary import render

EXPECTED = (TestnetError, ContractsError, NodeError, GossipError, InferenceError, OSError)
"""What may go wrong on a person's machine: told in a line, without a traceback."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(slots=True)
class Verdict:
    """What the run has come to so far."""

    status: int = 1
    is_kept: bool = False
    """The prompt was paid, and the network stays up for its own sake."""


class Interruption:
    """Turns the first signal into an orderly stop and the second into a quick one."""

    def __init__(self, scope: trio.CancelScope, progress: Progress) -> None:
        self.received: int | None = None
        """The first signal's number."""
        self.hurry = trio.Event()
        """Set by the second signal: processes are killed rather than asked."""
        self._scope = scope
        self._progress = progress

    async def watch(self, signals: AsyncIterator[int]) -> None:
        """Act on each of ``signals``, for ever."""
        async for number in signals:
            if self.received is None:
                self.received = number
                self._progress.note("stopping; once more to kill everything at once")
                self._scope.cancel()
            else:
                self.hurry.set()


async def up(options: TestnetOptions, console: Console | None = None) -> int:
    """Run a network as ``options`` say.

    Returns the exit status: 0 only where the prompt was answered and exactly T × bid arrived, 1 where something did
    not happen, 2 for an option that makes no network, 130 and 143 after Ctrl-C and SIGTERM (0 where the network was
    only being kept).
    """
    progress = Progress(console or Console())
    try:
        plan = compute_plan(options)
    except OptionInvalid as error:
        _tell(progress, error)
        return 2
    scope = trio.CancelScope()
    interruption = Interruption(scope, progress)
    verdict = Verdict()
    with trio.open_signal_receiver(*SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(interruption.watch, signals)
            with scope:
                await _run(plan, progress, interruption.hurry, verdict)
            nursery.cancel_scope.cancel()
    if interruption.received is None or verdict.is_kept:
        return verdict.status
    return 128 + interruption.received


async def _run(plan: Plan, progress: Progress, hurry: trio.Event, verdict: Verdict) -> None:
    """The network from start to stop; what went wrong is told, not raised."""
    try:
        with open_folder(plan.options.directory) as folder:
            try:
                async with running(plan, folder, progress, hurry) as network:
                    verdict.status = await _ask_and_judge(network, plan, progress)
                    verdict.is_kept = plan.options.keep and verdict.status == 0
                    if verdict.is_kept:
                        _tell_how_to_use(network, progress)
                        await trio.sleep_forever()
            finally:
                progress.console.print(f"[dim]Logs: {escape(str(folder / 'logs'))}[/dim]", soft_wrap=True)
    except* EXPECTED as group:
        verdict.status = 1
        for leaf in leaves(group):
            _tell(progress, leaf)


async def _ask_and_judge(network: Network, plan: Plan, progress: Progress) -> int:
    outcome = await follow(network, plan.options, progress)
    progress.console.print(render(outcome))
    return 0 if outcome.is_exact else 1


def _tell(progress: Progress, error: BaseException) -> None:
    progress.console.print(
        f"\n[bold red]testnet failed:[/bold red] {escape(str(error))}", highlight=False, soft_wrap=True
    )


def leaves(error: BaseException) -> list[BaseException]:
    """The errors in a group of groups, in order."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


def _tell_how_to_use(network: Network, progress: Progress) -> None:
    """What a person can do with a network that is kept."""
    base = gateway_base(gateway(network))
    body = f'{{"model": "{MODEL_NAME}", "stream": true, "messages": [{{"role": "user", "content": "Who are you?"}}]}}'
    guest = network.genesis.folder / "guest"
    user = network.genesis.folder / "user" / "node.toml"
    lines = (
        "",
        f"The network stays up until Ctrl-C. Its OpenAI endpoint is {base} (any key will do):",
        "",
        f"  curl -N {base}/chat/completions -H 'content-type: application/json' -d '{body}'",
        "",
        "Any OpenAI client works:",
        "",
        f'  OpenAI(base_url="{base}", api_key="none").chat.completions.create(',
        f'      model="{MODEL_NAME}", messages=[{{"role": "user", "content": "Who are you?"}}])',
        "",
        "In another terminal, look into the user's node:",
        "",
        f"  {command_line('status', user)}",
        f"  {command_line('book', user)}",
        "",
        "Or join with a node of your own, as a full node or as a provider that asks less than the others:",
        "",
        f"  {command_line('run', guest / 'node.toml')}",
        f"  {command_line('run', guest / 'provider.toml')}",
        "",
    )
    progress.console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def command_line(command: str, config: Path) -> str:
    """A ``yellowstone`` command that works from any folder."""
    script = Path(sys.executable).with_name("yellowstone")
    program = [str(script)] if script.exists() else [sys.executable, "-m", "node.cli"]
    return shlex.join([*program, command, "--config", str(config)])
