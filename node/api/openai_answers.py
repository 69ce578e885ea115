"""Models, answers and errors as OpenAI's clients read them. Pure."""

from collections.abc import Sequence
from typing import Any

import msgspec

from node.api.backend import BackendError, ModelCard, RateLimit


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
        headers |= rate_limit_headers(error.limit)
    if error.paid or error.kind == "insufficient_quota":
        headers["x-should-retry"] = "false"
    return headers


def rate_limit_headers(limit: RateLimit) -> dict[str, str]:
    """OpenAI's ``x-ratelimit-*`` headers for T."""
    return {
        "x-ratelimit-limit-tokens": str(limit.limit_tokens),
        "x-ratelimit-remaining-tokens": str(limit.remaining_tokens),
        "x-ratelimit-reset-tokens": f"{limit.reset_s}s",
    }


def usage_object(prompt_tokens: int, tokens: int) -> dict[str, int]:
    """T of prompt and answer."""
    return {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}


class Envelope(msgspec.Struct, frozen=True):
    """What every object of one answer repeats."""

    id: str
    created: int
    """Unix seconds."""
    model: str

    def completion(self, text: str, finish: str, usage: dict[str, int]) -> dict[str, Any]:
        """A whole answer."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage}

    def chunk(self, delta: dict[str, str], finish: str | None, *, include_usage: bool) -> dict[str, Any]:
        """One piece of a streamed answer; ``usage`` is null until its own chunk, where it was asked for."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._chunk([choice]) | ({"usage": None} if include_usage else {})

    def usage_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        """The last chunk where ``stream_options.include_usage`` was asked for: no choices."""
        return self._chunk([]) | {"usage": usage}

    def _chunk(self, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head("chat.completion.chunk"), "choices": list(choices)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "system_fingerprint": None}
