"""What a session's early end is called in OpenAI's words."""

from inference.errors import SessionError
from inference.session.stream import Code
from node.api.openai_answers import error_headers
from node.roles.refusals import session_error


def test_a_prompt_that_crashed_an_engine_is_not_repeated() -> None:
    crashed = session_error(SessionError(str(Code.ENGINE_CRASHED), "it died"))
    assert (crashed.status, crashed.code) == (502, "engine_crashed")
    assert error_headers(crashed)["x-should-retry"] == "false"
    failed = session_error(SessionError(str(Code.ENGINE_FAILED), "no worker"))
    assert "x-should-retry" not in error_headers(failed)
