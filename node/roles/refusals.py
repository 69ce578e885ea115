"""What a router's or provider's refusal is called in OpenAI's words."""

from gossip.errors import GossipError, RemoteError
from inference.errors import SessionError
from inference.session.stream import Code
from node.api.backend import BackendError, QueuePlace, RateLimit
from node.roles.access import AccessRefused

PASS_IS_DEAD = frozenset({"wrong_router", "wrong_day", "index_used", "no_router", "no_quorum"})
"""Refusals after which another pass helps; ``no_router`` is the agent's own word for a router out of reach."""

HELD = frozenset({"allowance_held", "budget_held", "pair_held"})
"""Refusals for want of what other RFCs hold for the moment: the same RFC may be served once these have ended."""

_BY_CODE: dict[str, tuple[int, str, str]] = {
    "unknown_model": (404, "model_not_found", "invalid_request_error"),
    "model_not_listed": (404, "model_not_listed", "invalid_request_error"),
    "token_max_over_allowance": (429, "token_max_over_allowance", "insufficient_quota"),
    "allowance_held": (429, "allowance_held", "tokens"),
    "allowance_used": (429, "allowance_used", "insufficient_quota"),
    "budget_held": (429, "budget_held", "tokens"),
    "budget_spent": (429, "budget_spent", "insufficient_quota"),
    "no_balance": (403, "no_balance", "insufficient_quota"),
    "prompt_over_limit": (400, "context_length_exceeded", "invalid_request_error"),
    "unit_unsupported": (400, "unit_unsupported", "invalid_request_error"),
    "pair_held": (429, "pair_held", "tokens"),
    "pair_capped": (429, "pair_capped", "insufficient_quota"),
    "too_few_providers": (503, "too_few_providers", "server_error"),
    "no_provider": (503, "no_provider", "server_error"),
    "no_router": (503, "no_router", "server_error"),
    "no_quorum": (503, "no_router", "server_error"),
    "busy": (503, "busy", "server_error"),
    "expired": (503, "expired", "server_error"),
}

_BY_SESSION_CODE: dict[str, tuple[int, str, str]] = {
    "prompt_over_limit": (400, "context_length_exceeded", "invalid_request_error"),
    "bad_query": (400, "bad_query", "invalid_request_error"),
    "unsupported": (400, "unsupported_parameter", "invalid_request_error"),
    "busy": (503, "busy", "server_error"),
    "engine_unavailable": (503, "engine_unavailable", "server_error"),
}


ANOTHER_MAY_SERVE = frozenset(
    {
        Code.BUSY,
        Code.ENGINE_UNAVAILABLE,
        Code.PROVIDER_VANISHED,
        "provider_unreachable",
    }
)
"""Ends before the first T after which another provider is asked; the prompt itself is in none of them the reason."""


_RETRY_S = {
    "allowance_held": 1,
    "budget_held": 1,
    "pair_held": 1,
    "busy": 1,
    "no_quorum": 1,
    "expired": 1,
    "no_router": 1,
    "no_provider": 5,
    "too_few_providers": 5,
}


ANOTHER_MAY_GO_ON = frozenset(
    {
        Code.BUSY,
        Code.ENGINE_FAILED,
        Code.ENGINE_UNAVAILABLE,
        Code.INTERNAL,
        Code.PROTOCOL_ERROR,
        Code.PROVIDER_VANISHED,
        Code.SESSION_TIMEOUT,
    }
)
"""Ends within an answer after which another provider may go on; a crash is none: the answer may have caused it."""


def refusal_error(refused: AccessRefused, reset_s: int, day: RateLimit | None) -> BackendError:
    """A router's signed refusal as the client gets it; ``reset_s`` seconds are left of the day.

    ``day`` is what the user may use on it, None where that is not known.
    """
    status, code, kind = _BY_CODE.get(refused.code, (502, refused.code, "server_error"))
    detail = f"{refused.detail} ({refused.allowance_left} T of the pass left)"
    retry = _RETRY_S.get(refused.code, reset_s if status == 429 else None)
    limit = day if status == 429 else None
    queued = refused.queued
    if queued is None:
        return BackendError(status, code, detail, kind=kind, retry_after=retry, limit=limit)
    place = QueuePlace(queued.position, queued.waiting, queued.expected_ms)
    if status == 503:
        retry = max(retry or 1, -(-queued.expected_ms // 1_000))
    detail = f"{detail}; it was number {queued.position + 1} of {queued.waiting} in the queue"
    return BackendError(status, code, detail, kind=kind, retry_after=retry, limit=limit, queue=place)


def session_error(error: SessionError | GossipError) -> BackendError:
    """A session that failed before its first token."""
    code = error.code if isinstance(error, SessionError | RemoteError) else "provider_failed"
    status, code, kind = _BY_SESSION_CODE.get(code, (502, code, "server_error"))
    retry = 1 if status == 503 else None
    text = f"the provider did not answer: {error}"
    param = None
    if isinstance(error, SessionError | RemoteError) and code == "unsupported_parameter":
        param = error.detail.split(":")[0]
    final = code == Code.ENGINE_CRASHED
    return BackendError(status, code, text, kind=kind, param=param, retry_after=retry, final=final)


def break_error(error: SessionError | GossipError) -> BackendError:
    """A session that broke off within the answer."""
    crashed = isinstance(error, SessionError) and error.code == Code.ENGINE_CRASHED
    code = str(Code.ENGINE_CRASHED) if crashed else "provider_failed"
    return BackendError(502, code, f"the provider broke off: {error}", final=crashed)
