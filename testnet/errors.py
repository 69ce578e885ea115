"""Errors of the test networks.

::

    TestnetError
    ├── OptionInvalid    an option's value makes no network; names the option and the value
    ├── FolderTaken      the network's folder holds something else, or a network that runs
    ├── ProcessDied      a process that the run needs has ended; carries the end of its log
    ├── StepOverdue      something did not happen before its deadline; says what was waited for
    ├── AnswerRefused    the user's endpoint refused the prompt or broke off its answer
    ├── NodeUnreadable   a node's control endpoint answered with something that is no answer
    └── NamespacesImpossible  this machine lacks what network namespaces need; says what
"""

from pathlib import Path


class TestnetError(Exception):
    """Root of this folder's errors."""

    __test__ = False  # a name that pytest would take for a test's


class OptionInvalid(TestnetError):
    """An option has a value that makes no network."""

    def __init__(self, option: str, value: object, reason: str) -> None:
        self.option = option
        self.value = value
        super().__init__(f"--{option} {value}: {reason}")


class FolderTaken(TestnetError):
    """``folder`` can't be used for a network."""

    def __init__(self, folder: Path, reason: str) -> None:
        self.folder = folder
        super().__init__(f"{folder}: {reason}")


class ProcessDied(TestnetError):
    """``name`` ended with ``code`` (negative: the signal that killed it) while it was needed."""

    def __init__(self, name: str, code: int, log: Path, tail: str) -> None:
        self.name = name
        self.code = code
        self.log = log
        how = f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
        detail = f"\n{tail}" if tail else ""
        super().__init__(f"{name} {how}; its log is {log}{detail}")


class StepOverdue(TestnetError):
    """``what`` did not happen within ``seconds``."""

    def __init__(self, what: str, seconds: float, seen: str = "") -> None:
        self.what = what
        self.seconds = seconds
        detail = f" (last seen: {seen})" if seen else ""
        super().__init__(f"{what} did not happen within {seconds:.0f} s{detail}")


class AnswerRefused(TestnetError):
    """The user's endpoint answered ``status`` instead of 200, or broke off a stream."""

    def __init__(self, status: int, detail: str) -> None:
        self.status = status
        super().__init__(f"the prompt was not answered ({status}): {detail}")


class NodeUnreadable(TestnetError):
    """A node's control endpoint at ``url`` gave no readable answer."""

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        super().__init__(f"{url}: {reason}")


class NamespacesImpossible(TestnetError):
    """Network namespaces can't be had on this machine; the message says what is missing."""
