"""The body of a query: JSON that only the provider reads (S13), and how it becomes a request to an engine. Pure.

Defaults are left out, so that a query which asks for nothing new is one that older nodes read.
"""

from typing import Annotated

import msgspec

from inference.engine import TOP_LOGPROBS_MAX, ChatMessage, Generation, Sampling
from inference.errors import SessionError
from inference.metering import TOKEN_ID_LIMIT
from inference.session.stream import Code
from inference.tools import ToolUse, compute_tools_bound

BYTES_PER_TOKEN_MAX = 128
"""More bytes a T than this are refused before anything is tokenised."""

SEED_LIMIT = 2**32 - 1
"""Seeds are below this, which every engine takes."""

PAD_BYTES = 1024
"""A padded body is a multiple of this long."""

_BODY_OVERHEAD = 4096
_TURN_TOKENS = 8
_TEMPLATE_TOKENS = 64

_Stop = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_TokenId = Annotated[int, msgspec.Meta(ge=0, lt=TOKEN_ID_LIMIT)]


class QueryBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a user asks. ``max_tokens`` is T; None leaves it to the ticket's TokenMax, which caps it anyway."""

    messages: Annotated[tuple[ChatMessage, ...], msgspec.Meta(min_length=1, max_length=1024)]
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 0.0
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    seed: Annotated[int, msgspec.Meta(ge=0, lt=SEED_LIMIT)] | None = None
    stop: Annotated[tuple[_Stop, ...], msgspec.Meta(max_length=4)] = ()
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    score: Annotated[tuple[_TokenId, ...], msgspec.Meta(min_length=1, max_length=65_536)] | None = None
    """Token ids of an answer to these messages: not another answer is asked for, but a score of each of them."""
    tools: ToolUse | None = None
    """What the answer may call."""
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=TOP_LOGPROBS_MAX)] | None = None
    """How many of the likeliest T to name with each T."""
    padded: bool = False
    """The answer is to come in frames of one size, at even times (:mod:`inference.session.padding`)."""

    prefix: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    """How another provider began this answer before it vanished: to be continued, not repeated."""

    def token_limit(self, token_max: int) -> int:
        """T of the answer at most, under a ticket's TokenMax (S21)."""
        wanted = self.max_tokens if self.score is None else len(self.score)
        return token_max if wanted is None else min(wanted, token_max)

    def generation(self, token_max: int) -> Generation:
        """The request to an engine under a ticket's TokenMax."""
        sampling = Sampling(self.temperature, self.top_p, self.seed, self.stop)
        return Generation(
            self.messages, self.token_limit(token_max), sampling, self.tools, self.logprobs, self.prefix or ""
        )


def encode_body(body: QueryBody) -> bytes:
    """The JSON that is signed and sent; a padded one ends in spaces."""
    data = msgspec.json.encode(body)
    return data + b" " * (-len(data) % PAD_BYTES) if body.padded else data


def decode_body(data: bytes, prompt_bound: int) -> QueryBody:
    """Read a body. Raises :class:`SessionError`: ``prompt_over_limit`` by its size alone, or ``bad_query``."""
    limit = prompt_bound * BYTES_PER_TOKEN_MAX + _BODY_OVERHEAD
    if len(data) > limit:
        detail = f"the query has {len(data)} bytes; a prompt of {prompt_bound} T has at most {limit}"
        raise SessionError(Code.PROMPT_OVER_LIMIT, detail)
    try:
        body = msgspec.json.decode(data, type=QueryBody)
        _check_schemas(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise SessionError(Code.BAD_QUERY, f"the query's body is not valid: {error}") from error
    return body


def _check_schemas(body: QueryBody) -> None:
    """A tool's schema is JSON text within JSON; it is given to templates and servers decoded."""
    for tool in () if body.tools is None else body.tools.tools:
        if tool.parameters and not isinstance(msgspec.json.decode(tool.parameters), dict):
            raise ValueError(f"the parameters of tool {tool.name!r} are no JSON object")


def compute_prompt_bytes(messages: tuple[ChatMessage, ...], tools: ToolUse | None = None) -> int:
    """Bytes of a prompt's text, its tools and calls among them, before a template is put around it."""
    text = sum(len(message.content.encode()) for message in messages)
    calls = tuple(call for message in messages for call in message.tool_calls)
    return text + compute_tools_bound(tools, calls)


def compute_prompt_bound(messages: tuple[ChatMessage, ...], tools: ToolUse | None = None) -> int:
    """T that a prompt has at most, for a user without the model's tokenizer: no T is shorter than a byte."""
    return compute_prompt_bytes(messages, tools) + _TURN_TOKENS * len(messages) + _TEMPLATE_TOKENS
