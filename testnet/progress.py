"""Tell a person what the launcher is doing: one line a step, with what came of it and how long it took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.status import Status


class Step:
    """A step in progress; ``detail`` is shown beside its title once it is done."""

    __slots__ = ("_status", "_title", "detail")

    def __init__(self, title: str, status: Status | None) -> None:
        self.detail = ""
        self._title = title
        self._status = status

    def say(self, text: str) -> None:
        """What is being done at the moment; shown while it lasts, where there is a terminal."""
        if self._status is not None:
            self._status.update(f"{escape(self._title)}: {escape(text)}")


class Progress:
    """Steps on a console: with a spinner where it is a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """One step; whatever it raises passes through, marked as the step that failed."""
        status = self.console.status(f"{escape(title)} …") if self.console.is_terminal else None
        step = Step(title, status)
        started = time.monotonic()
        if status is not None:
            status.start()
        mark = "[red]✗[/red]"
        try:
            yield step
            mark = "[green]✓[/green]"
        finally:
            if status is not None:
                status.stop()
            took = time.monotonic() - started
            detail = f"  [dim]{escape(step.detail)}[/dim]" if step.detail else ""
            self.console.print(
                f"{mark} {escape(title)}{detail}  [dim]{took:.1f} s[/dim]", highlight=False, soft_wrap=True
            )

    def note(self, text: str) -> None:
        """Something that happened meanwhile."""
        self.console.print(f"[yellow]![/yellow] {escape(text)}", highlight=False, soft_wrap=True)

    def stream(self, text: str) -> None:
        """A piece of text as it comes, without a line's end."""
        self.console.print(text, end="", markup=False, highlight=False, soft_wrap=True)
