"""What an engine's own honest answers score: measured by the provider or user who has the model, kept in the store."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from contracts.typed_data import Digest
from inference.audit import AuditLimits, Calibration, TokenScore, calibrate
from inference.engine import ChatMessage, Engine, Generation, Scorer
from inference.errors import ModelError
from inference.progress import Report, silent

PROMPTS = (
    "What is the capital of France?",
    "Tell me a story about a river.",
    "Explain why the sky is blue.",
    "Write a Python function that reverses a list.",
    "List five fruits and their colours.",
    "How do I boil an egg?",
    "Translate to Spanish: the house is near the sea.",
    "What is seventeen times twenty-three? Show your steps.",
)
"""Asked one after the other, greedily."""

ANSWER_T = 64


class ScoringEngine(Engine, Scorer, Protocol):
    """An engine that answers and scores."""


async def measure(engine: ScoringEngine, report: Report = silent) -> Calibration:
    """Let ``engine`` answer and score its answers. Raises EngineError, and AuditInvalid where it says too little."""
    answers: list[Sequence[TokenScore]] = []
    for number, prompt in enumerate(PROMPTS):
        report("calibrating", number, len(PROMPTS))
        messages = (ChatMessage("user", prompt),)
        ids: tuple[int, ...] = ()
        async with engine.generate(Generation(messages, ANSWER_T)) as pieces:
            async for piece in pieces:
                ids += piece.token_ids
        async with engine.score(messages, ids) as scores:
            answers.append([score async for score in scores])
    return calibrate("0x" + engine.model_id.hex(), answers)


def calibration_path(store_dir: Path, model_id: Digest) -> Path:
    """Where a model's calibration lies in a store, whether it is there or not."""
    return store_dir / ".calibration" / f"{model_id.hex()}.json"


def keep_calibration(store_dir: Path, calibration: Calibration) -> Path:
    """Write a calibration into the store, atomically. Raises :class:`ModelError`."""
    path = calibration_path(store_dir, Digest(bytes.fromhex(calibration.model_id.removeprefix("0x"))))
    scratch = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(msgspec.json.format(msgspec.json.encode(calibration)) + b"\n")
        scratch.replace(path)
    except OSError as error:
        raise ModelError(f"cannot write the calibration {path}: {error}") from error
    return path


def find_limits(store_dir: Path, model_id: Digest) -> AuditLimits:
    """The limits of a model, or the defaults. Raises :class:`ModelError` for a file that is no calibration of it."""
    path = calibration_path(store_dir, model_id)
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Calibration)
    except FileNotFoundError:
        return AuditLimits()
    except (OSError, msgspec.MsgspecError) as error:
        raise ModelError(f"the calibration {path} cannot be read: {error}") from error
    if found.model_id != "0x" + model_id.hex():
        raise ModelError(f"the calibration {path} is of model {found.model_id}")
    return found.limits
