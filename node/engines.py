"""Which engine serves an offer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from inference.engine import Engine
from inference.llamacpp.engine import open_llamacpp
from inference.model_store import DEFAULT_MODEL, open_cache, pull
from inference.synthetic import SyntheticEngine
from node.config import ModelOffer
from node.errors import ConfigInvalid
from node.progress import in_log

_log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(__name__)


@asynccontextmanager
async def open_engine(offer: ModelOffer, data_dir: Path) -> AsyncIterator[Engine]:
    """The offer's engine, loaded; without a path the default model is fetched into ``data_dir``.

    Raises :class:`~inference.errors.InferenceError`, or :class:`ConfigInvalid` for an engine that can't be had.
    """
    match offer.engine:
        case "llamacpp":
            store = data_dir / "models"
            path = offer.path
            if path is None:
                if offer.model != DEFAULT_MODEL.name:
                    raise ConfigInvalid("node.toml", "models.path", f"is needed for {offer.model!r}")
                path = await pull(store, _log.info, report=in_log(_log))
            async with open_llamacpp(
                path,
                slots=offer.slots,
                context=offer.context,
                threads=offer.threads,
                log_path=data_dir / f"engine-{offer.model}.log",
                name=offer.model,
                hash_cache=open_cache(store),
                report=in_log(_log),
            ) as engine:
                yield engine
        case "synthetic":
            interval_s = offer.token_ms / 1_000
            yield SyntheticEngine(offer.model, interval_s=interval_s, slots=offer.slots, context=offer.context)
        case _:
            raise ConfigInvalid("node.toml", "models.engine", f"engine {offer.engine!r} is not served yet")
