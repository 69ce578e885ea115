"""Errors of the inference side.

::

    InferenceError
    ├── EngineError           the engine failed; costs one session
    │   ├── EngineUnavailable the worker is gone or restarting
    │   │   ├── EngineBusy       all its slots are taken
    │   │   ├── EngineCrashed    it went while this session was in it: the prompt may be why
    │   │   └── EngineNotStarted this machine cannot run the engine; says what to do
    │   │       ├── PackageMissing
    │   │       ├── NoGpu
    │   │       ├── WrongBuild
    │   │       └── TooLittleMemory
    │   ├── EngineMisconfigured an upstream refuses our key or does not know the model: its operator must act
    │   ├── AnswerInvalid     an engine's answer is none, has no end, or says too much
    │   ├── PromptTooLong     more T than the engine or the bid takes
    │   ├── PromptRefused     a prompt that no engine takes: control tokens in its text
    │   ├── RequestRefused    anything else that the engine does not take; names the value
    │   └── ScoresMissing     it was to score an answer and named no probabilities
    ├── AuditInvalid          scores that are none, or too few
    ├── VocabularyInvalid     a model's file holds no vocabulary that can be read
    ├── ModelError            a model file is missing, or not to be had
    │   ├── ModelChanged      a model file is not any more what was hashed
    │   ├── ProofInvalid      another node's blocks are not the model's
    │   └── ModelUnusable     a folder that the engine cannot serve; names file and remedy
    └── SessionError          the other side broke the session protocol; carries a stable code
"""

from pathlib import Path


class InferenceError(Exception):
    """Root of this folder's errors."""


class EngineError(InferenceError):
    """The engine failed; the session is lost, the node goes on."""


class EngineUnavailable(EngineError):
    """The engine's worker is gone or not ready."""


class EngineCrashed(EngineUnavailable):
    """The worker died, hung or ran out of memory with this session in it.

    The prompt may be the cause, so it must not be sent on to another provider by itself.
    """


class EngineNotStarted(EngineUnavailable):
    """The engine cannot run here; the message says why and what to do."""


class PackageMissing(EngineNotStarted):
    """The engine's package, or one that it needs, is not installed."""


class NoGpu(EngineNotStarted):
    """There is no GPU that the engine can use."""


class WrongBuild(EngineNotStarted):
    """A package is there but built for something else, or of a version that this program does not know."""


class TooLittleMemory(EngineNotStarted):
    """Model and cache do not fit into the GPUs' memory; the message has the figures."""


NOT_STARTED: dict[str, type[EngineNotStarted]] = {
    "package_missing": PackageMissing,
    "no_gpu": NoGpu,
    "wrong_build": WrongBuild,
    "out_of_memory": TooLittleMemory,
}
"""What a worker says, as an error; anything else is a plain :class:`EngineNotStarted`."""


class EngineBusy(EngineUnavailable):
    """The engine has no free slot; ``retry_after`` is in seconds, None where it did not say."""

    def __init__(self, detail: str, retry_after: int | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(detail)


class EngineMisconfigured(EngineError):
    """An upstream answered with ``status``, which only its operator or this node's can mend."""

    def __init__(self, status: int, detail: str) -> None:
        self.status = status
        super().__init__(detail)


class AnswerInvalid(EngineError):
    """What an engine sent is no answer, or has no end."""


class PromptTooLong(EngineError):
    """The prompt has ``tokens`` T where ``limit`` are taken."""

    def __init__(self, tokens: int, limit: int) -> None:
        self.tokens = tokens
        self.limit = limit
        super().__init__(f"the prompt has {tokens} tokens, at most {limit} are accepted")


class PromptRefused(EngineError):
    """The prompt's text holds control tokens of the model, which could forge another speaker's turn.

    ``index`` is the message's place in the conversation, from 0.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        super().__init__(f"message {index} contains control tokens of the model, which are not accepted in text")


class RequestRefused(EngineError):
    """The engine does not take this request: ``what`` of it, for ``reason``."""

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        self.reason = reason
        super().__init__(f"{what}: {reason}")


class ScoresMissing(EngineError):
    """The engine went through a transcript and named no probabilities for a T of it: a failing of its own."""


class AuditInvalid(InferenceError):
    """A scorer's answer cannot be read as scores, or there are too few of them."""


class VocabularyInvalid(InferenceError):
    """A file's bytes are no vocabulary, or one of a kind that is not known here."""


class ModelError(InferenceError):
    """A model file is missing, differs from its published hash, or could not be fetched."""


class ModelUnusable(ModelError):
    """The model at ``path`` cannot be served; ``reason`` says why and what to do."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}")


class ModelChanged(ModelError):
    """A model file changed after it was hashed: it is neither served nor proven until it is hashed again."""

    def __init__(self, path: object, reason: str) -> None:
        self.path = path
        super().__init__(f"the model file {path} changed after it was hashed: {reason}")


class ProofInvalid(ModelError):
    """A provider's answer to a challenge does not show the model's bytes."""


class SessionError(InferenceError):
    """The other side broke the session protocol, or ended it. ``code`` is a stable word."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(f"{code}: {detail}")
