"""Models, answers and errors as OpenAI's clients read them. Pure."""

from typing import Any

import msgspec

from inference.engine import Piece
from node.api.backend import BackendError, ModelCard
from node.api.openai_tools import delta_objects, logprob_objects, text_logprobs, whole_calls


def model_object(card: ModelCard) -> dict[str, Any]:
    """One entry of /v1/models; what OpenAI has no field for stands under ``yellowstone``."""
    return {
        "id": card.name,
        "object": "model",
        "created": 0,
        "owned_by": "yellowstone",
        "yellowstone": {
            "model_id": "0x" + card.model_id.hex(),
            "providers": card.providers,
            "lowest_price_wei": card.lowest_price_wei,
            "is_listed": card.is_listed,
            "tokens_per_second": None if not card.us_per_t else round(1_000_000 / card.us_per_t, 2),
        },
    }


def error_object(error: BackendError) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}


def error_headers(error: BackendError) -> dict[str, str]:
    """When to come back, what is left, and whether a client may repeat the request by itself."""
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if error.limit is not None:
        headers |= error.limit.headers()
    if error.queue is not None:
        headers |= error.queue.headers()
    if error.paid or error.final or error.kind == "insufficient_quota":
        headers["x-should-retry"] = "false"
    return headers


def usage_object(prompt_tokens: int, tokens: int) -> dict[str, int]:
    """T of prompt and answer."""
    return {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}


class Envelope(msgspec.Struct, frozen=True):
    """What every object of one answer repeats; its kinds know their form."""

    rfc: str
    """Hex of the RFC's id: the answer's id."""
    created: int
    """Unix seconds."""
    model: str
    include_usage: bool = False
    """Each piece has a null ``usage`` until the usage's own chunk."""
    with_logprobs: bool = False

    def whole(self, answer: Piece, finish: str, usage: dict[str, int]) -> dict[str, Any]:
        """A whole answer."""
        raise NotImplementedError

    def opening(self) -> dict[str, Any] | None:
        """What a stream begins with, if anything."""
        raise NotImplementedError

    def piece(self, piece: Piece) -> dict[str, Any]:
        """A piece of a streamed answer."""
        raise NotImplementedError

    def ending(self, finish: str) -> dict[str, Any]:
        """The end of a streamed answer."""
        raise NotImplementedError

    def usage_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        """The last chunk where ``stream_options.include_usage`` was asked for: no choices."""
        return self.object([]) | {"usage": usage}

    def object(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """One object of a stream."""
        raise NotImplementedError


class ChatEnvelope(Envelope, frozen=True):
    """The form of /v1/chat/completions."""

    def whole(self, answer: Piece, finish: str, usage: dict[str, int]) -> dict[str, Any]:
        """As :meth:`Envelope.whole`. A message that only calls has null for content."""
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
        if answer.calls:
            message |= {"content": answer.text or None, "tool_calls": whole_calls(answer.calls)}
        choice = {"index": 0, "message": message, "logprobs": self._logprobs(answer), "finish_reason": finish}
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage}

    def opening(self) -> dict[str, Any] | None:
        """The role."""
        return self._chunk({"role": "assistant", "content": ""}, None)

    def piece(self, piece: Piece) -> dict[str, Any]:
        """As :meth:`Envelope.piece`."""
        delta: dict[str, Any] = {"content": piece.text} if piece.text or not piece.calls else {}
        if piece.calls:
            delta["tool_calls"] = delta_objects(piece.calls)
        return self._chunk(delta, None, self._logprobs(piece))

    def ending(self, finish: str) -> dict[str, Any]:
        """As :meth:`Envelope.ending`."""
        return self._chunk({}, finish)

    def object(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """As :meth:`Envelope.object`."""
        return {**self._head("chat.completion.chunk"), "choices": choices}

    def _logprobs(self, piece: Piece) -> dict[str, Any] | None:
        return {"content": logprob_objects(piece.details), "refusal": None} if self.with_logprobs else None

    def _chunk(
        self, delta: dict[str, Any], finish: str | None, logprobs: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self.object([choice]) | ({"usage": None} if self.include_usage else {})

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self.rfc}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": None,
        }


class TextEnvelope(Envelope, frozen=True):
    """The form of /v1/completions, whose stream has objects of the same kind as its whole."""

    def whole(self, answer: Piece, finish: str, usage: dict[str, int]) -> dict[str, Any]:
        """As :meth:`Envelope.whole`."""
        return self.object([self._choice(answer, finish)]) | {"usage": usage}

    def opening(self) -> dict[str, Any] | None:
        """Nothing."""
        return None

    def piece(self, piece: Piece) -> dict[str, Any]:
        """As :meth:`Envelope.piece`."""
        return self.object([self._choice(piece, None)]) | ({"usage": None} if self.include_usage else {})

    def ending(self, finish: str) -> dict[str, Any]:
        """As :meth:`Envelope.ending`."""
        return self.object([self._choice(Piece("", ()), finish)]) | ({"usage": None} if self.include_usage else {})

    def object(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """As :meth:`Envelope.object`."""
        return {
            "id": f"cmpl-{self.rfc}",
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": None,
            "choices": choices,
        }

    def _choice(self, piece: Piece, finish: str | None) -> dict[str, Any]:
        logprobs = text_logprobs(piece.details) if self.with_logprobs else None
        return {"index": 0, "text": piece.text, "logprobs": logprobs, "finish_reason": finish}
