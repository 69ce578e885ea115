"""Errors of the inference side.

::

    InferenceError
    ├── EngineError           the engine failed; costs one session
    │   ├── EngineUnavailable the worker is gone or restarting
    │   │   ├── EngineBusy    all its slots are taken
    │   │   └── EngineCrashed it died of, or during, this very request: do not send it to the next one
    │   ├── EngineMisconfigured an upstream refuses our key or does not know the model: its operator must act
    │   ├── AnswerInvalid     an engine's answer is none, has no end, or says too much
    │   ├── PromptTooLong     more T than the engine or the bid takes
    │   └── PromptRefused     a prompt that no engine takes: control tokens in its text
    ├── ModelError            a model file is missing, changed or not to be had
    └── SessionError          the other side broke the session protocol; carries a stable code
"""


class InferenceError(Exception):
    """Root of this folder's errors."""


class EngineError(InferenceError):
    """The engine failed; the session is lost, the node goes on."""


class EngineUnavailable(EngineError):
    """The engine's worker is gone or not ready."""


class EngineBusy(EngineUnavailable):
    """The engine has no free slot; ``retry_after`` is in seconds, None where it did not say."""

    def __init__(self, detail: str, retry_after: int | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(detail)


class EngineCrashed(EngineUnavailable):
    """The worker ended while it computed this answer: the prompt may be why, and must not be tried elsewhere."""


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


class ModelError(InferenceError):
    """A model file is missing, differs from its published hash, or could not be fetched."""


class SessionError(InferenceError):
    """The other side broke the session protocol, or ended it. ``code`` is a stable word."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(f"{code}: {detail}")
