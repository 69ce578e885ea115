"""Errors of the inference side.

::

    InferenceError
    ├── EngineError           the engine failed; costs one session
    │   ├── EngineUnavailable the worker is gone or restarting
    │   ├── PromptTooLong     more T than the engine or the bid takes
    │   └── PromptRefused     a prompt that no engine takes: control tokens in its text
    ├── AuditInvalid          scores that are none, or too few
    ├── ModelError            a model file is missing, or not to be had
    │   ├── ModelChanged      a model file is not any more what was hashed
    │   └── ProofInvalid      another node's blocks are not the model's
    └── SessionError          the other side broke the session protocol; carries a stable code
"""


class InferenceError(Exception):
    """Root of this folder's errors."""


class EngineError(InferenceError):
    """The engine failed; the session is lost, the node goes on."""


class EngineUnavailable(EngineError):
    """The engine's worker is gone or not ready."""


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


class AuditInvalid(InferenceError):
    """A scorer's answer cannot be read as scores, or there are too few of them."""


class ModelError(InferenceError):
    """A model file is missing, differs from its published hash, or could not be fetched."""


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
