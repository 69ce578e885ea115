"""Which engine serves an offer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from inference.engine import Engine
from inference.exllamav2.engine import open_exllamav2
from inference.llamacpp.engine import open_llamacpp
from inference.model_files import DescribedModel, ModelIdentity, identify
from inference.model_store import DEFAULT_MODEL, open_cache, pull
from inference.synthetic import SyntheticEngine
from inference.upstream.engine import UpstreamOptions, open_upstream
from node.config import ModelOffer
from node.errors import ConfigInvalid
from node.files import read_private
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
        case "exllamav2":
            if offer.path is None:
                raise ConfigInvalid("node.toml", "models.path", f"is needed for {offer.model!r}")
            async with open_exllamav2(
                offer.path,
                slots=offer.slots,
                context=offer.context,
                log_path=data_dir / f"engine-{offer.model}.log",
                name=offer.model,
                cache_tokens=offer.exl2.cache_tokens,
                cache_mode=offer.exl2.cache,
                chunk=offer.exl2.chunk,
                gpu_split=offer.exl2.gpu_split,
                hash_cache=open_cache(data_dir / "models"),
                report=in_log(_log),
            ) as exl2_engine:
                yield exl2_engine
        case "synthetic":
            yield SyntheticEngine(
                offer.model,
                answer_tokens=offer.context,  # as much as a request allows
                interval_s=offer.token_ms / 1_000,
                slots=offer.slots,
                context=offer.context,
            )
        case "openai":
            identity = await _upstream_identity(offer, data_dir)
            async with open_upstream(_upstream(offer), identity=identity, name=offer.model) as up:
                yield up


def _upstream(offer: ModelOffer) -> UpstreamOptions:
    """Where an upstream is. Raises :class:`~node.errors.KeystoreError` for a key file that is missing or exposed."""
    key = None if offer.api_key_file is None else read_private(offer.api_key_file).decode(errors="replace").strip()
    if key is not None and (not key.isascii() or not key.isprintable() or not key):
        raise ConfigInvalid("node.toml", "models.api_key_file", f"{offer.api_key_file} holds no API key")
    model = offer.upstream_model or offer.model
    return UpstreamOptions(offer.url, model, offer.upstream, offer.slots, offer.context, key)


async def _upstream_identity(offer: ModelOffer, data_dir: Path) -> ModelIdentity:
    """The file that the upstream serves, where it is here too; else what the model is called, which proves nothing.

    The engine family is the server's kind; its build is not known before it is asked, and may differ from day to day.
    """
    if offer.path is None:
        return DescribedModel(f"{offer.upstream}: {offer.upstream_model or offer.model}", offer.upstream, "any")
    return await identify(offer.path, offer.upstream, "any", open_cache(data_dir / "models"), in_log(_log))
