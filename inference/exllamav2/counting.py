"""From a generator's results to T: which ids count, and what text they are. Pure.

T are the ids whose text came out. A generator's last result may hold back ids (the end-of-answer token, those of a stop
string) or give out half a character; ids without text wait for the next text and are dropped where none follows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from inference.engine import Finish, Piece

UNFINISHED = "�"
"""What a tokenizer shows for bytes that are no whole character yet."""

Decode = Callable[[Sequence[int]], str]
"""Token ids to text, control tokens left out."""


class Counting:
    """One answer: :meth:`take` each streaming result of its job, in order."""

    __slots__ = ("_decode", "_pieces", "_stop", "_waiting")

    def __init__(self, pieces: Sequence[str], decode: Decode, stop: Sequence[str]) -> None:
        self._pieces = pieces
        self._decode = decode
        self._stop = tuple(stop)
        self._waiting: tuple[int, ...] = ()

    def take(self, result: Mapping[str, Any]) -> Piece | None:
        """The piece that a result comes to, None for one without text. The last result always has a piece."""
        text: str = result.get("text", "")
        ids = token_ids(result)
        finish: Finish | None = None
        if result["eos"]:
            text, ids, finish = self._last(result, text, ids)
        if not text:
            self._waiting += ids
            return None if finish is None else Piece("", (), finish)
        ids, self._waiting = self._waiting + ids, ()
        return Piece(text, ids, finish)

    def _last(self, result: Mapping[str, Any], text: str, ids: tuple[int, ...]) -> tuple[str, tuple[int, ...], Finish]:
        match result["eos_reason"]:
            case "stop_token":
                # what waited for a stop string that never came is in "held", with the stop token as its last id
                held = token_ids(result.get("held", {}))[:-1]
                text, ids = self._whole_characters(held)
                return text, ids, "stop"
            case "stop_string":
                return text, self._covering(ids, text), "stop"
            case _:
                # the limit is looked at before stop strings and characters are
                text, ids = self._whole_characters(ids)
                found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
                if not found:
                    return text, ids, "length"
                text = text[: min(found)]
                return text, self._covering(ids, text), "stop"

    def _whole_characters(self, ids: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
        """The longest beginning of ``ids`` that ends with a whole character, and its text."""
        for count in range(len(ids), 0, -1):
            text = self._text(ids[:count])
            if not text.endswith(UNFINISHED):
                return text, ids[:count]
        return "", ()

    def _covering(self, ids: tuple[int, ...], text: str) -> tuple[int, ...]:
        """The fewest of ``ids`` that all of ``text`` comes from."""
        for count in range(len(ids) + 1):
            said = self._text(ids[:count])
            if len(said) >= len(text) and not (len(said) == len(text) and said.endswith(UNFINISHED)):
                return ids[:count]
        return ids

    def _text(self, ids: tuple[int, ...]) -> str:
        """Piece by piece as the generator does it: a decoder may drop the first space of what it takes for a text."""
        text = "".join(self._pieces[token] for token in ids)
        return self._decode(ids) if UNFINISHED in text else text


def token_ids(result: Mapping[str, Any]) -> tuple[int, ...]:
    """The ids of a result: a tensor of shape (1, n), or nothing."""
    tensor = result.get("token_ids")
    return () if tensor is None else tuple(tensor.reshape(-1).tolist())
