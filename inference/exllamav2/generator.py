"""The only module that touches exllamav2 and PyTorch: a loaded model and its dynamic generator, on one thread.

Written to exllamav2 0.3.2. What it relies on is bound to that release's sources by a test that needs neither it nor a
GPU. Three things about the package shape this file: it must not run inside ``torch.inference_mode()`` of our own, its
default sampling settings are not neutral, and it reserves cache pages for all of ``max_new_tokens`` at the start.
"""

import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import exllamav2
import exllamav2.attn
import exllamav2.generator
import torch

from inference.engine import Prompt
from inference.exllamav2.counting import Counting
from inference.exllamav2.devices import (
    CannotStart,
    Gpu,
    compute_cache_bytes,
    is_out_of_memory,
    memory_advice,
    require_memory,
    weight_bytes,
)
from inference.exllamav2.protocol import Event, Load, PromptRead, Refused, Said, Start, WorkerConfig
from inference.exllamav2.template import ChatTemplate, TemplateRefused

_CACHES = {
    "fp16": exllamav2.ExLlamaV2Cache,
    "q8": exllamav2.ExLlamaV2Cache_Q8,
    "q6": exllamav2.ExLlamaV2Cache_Q6,
    "q4": exllamav2.ExLlamaV2Cache_Q4,
}
_SELF_TEST_PROMPT = "Once upon a time,"
_SELF_TEST_TOKENS = 32


class LoadedModel:
    """Everything but :meth:`count` and :meth:`read_prompt` is for the one thread that made it."""

    def __init__(self, settings: WorkerConfig, gpus: tuple[Gpu, ...], on_loading: Callable[[int, int], None]) -> None:
        """Load. Raises :class:`~inference.exllamav2.devices.CannotStart` for what an operator can mend."""
        self._config = _read_config(settings)
        self.paged = bool(exllamav2.attn.has_flash_attn_with_paged) and not self._config.no_flash_attn
        self.slots = settings.slots if self.paged else 1
        self._chunk = self._config.max_input_len
        self._tokenizer = exllamav2.ExLlamaV2Tokenizer(self._config)
        self._model = exllamav2.ExLlamaV2(self._config)
        self._cache = _load(self._model, self._config, settings, gpus, on_loading)
        self._generator = self._make_generator()
        self._pieces: list[str] = self._tokenizer.get_id_to_piece_list(False)
        self._stop_ids = _stop_ids(self._config, self._tokenizer)
        self._template = ChatTemplate(Path(settings.folder), self._tokenizer.bos_token, self._tokenizer.eos_token)
        special = self._tokenizer.extended_piece_to_id
        self._control_texts = tuple(text for text in special if text)
        self._control_ids = frozenset(special.values()) - {self._tokenizer.unk_token_id}
        self._jobs: dict[int, tuple[Any, Counting]] = {}

    # For any thread: the tokenizer alone.

    def count(self, text: str) -> int:
        """T of plain text."""
        return len(self._tokenizer.encode_unspecial(text))

    def read_prompt(self, request: int, conversation: Prompt) -> PromptRead | Refused:
        """The conversation as ids. Control tokens in its text are refused: the tokenizer would take them for real."""
        for index, text in enumerate(conversation.texts()):
            found = next((control for control in self._control_texts if control in text), None)
            if found is not None or self._control_ids.intersection(self._tokenizer.encode_unspecial(text)):
                return Refused(request, index, "control tokens in the text")
        try:
            prompt = self._template.render(conversation)
        except TemplateRefused as error:
            return Refused(request, None, str(error)[:300])
        ids = self._tokenizer.encode_special(prompt)
        return PromptRead(request, tuple(ids)) if ids else Refused(request, None, "the prompt is empty")

    # For the generator's thread.

    @property
    def busy(self) -> bool:
        """Whether there is an answer to compute."""
        return bool(self._jobs)

    def start(self, request: Start) -> None:
        """Queue an answer. Raises AssertionError or ValueError where the package does not take it."""
        job = exllamav2.generator.ExLlamaV2DynamicJob(
            input_ids=torch.tensor([request.prompt], dtype=torch.long),
            max_new_tokens=request.max_tokens,
            seed=request.seed,
            gen_settings=_sampling(request),
            stop_conditions=[*self._stop_ids, *request.stop],
            identifier=request.id,
        )
        self._generator.enqueue(job)
        self._jobs[request.id] = (job, Counting(self._pieces, self._decode, request.stop))

    def cancel(self, request: int) -> None:
        """Forget an answer; its pages are free again."""
        job, _ = self._jobs.pop(request, (None, None))
        if job is not None:
            self._generator.cancel(job)

    def step(self) -> list[Event]:
        """One step of every answer. Raises whatever the package raises: the generator is then unusable."""
        events: list[Event] = []
        for result in self._generator.iterate():
            if result["stage"] != "streaming":
                continue
            request = result["identifier"]
            _, counting = self._jobs[request]
            piece = counting.take(result)
            if result["eos"]:
                del self._jobs[request]
            if piece is not None:
                cached = result["cached_tokens"] if result["eos"] else 0
                events.append(Said(request, piece.text, piece.token_ids, piece.finish, cached))
        return events

    def load(self, request: int) -> Load:
        """What it is busy with."""
        active, waiting = self._generator.active_jobs, self._generator.pending_jobs
        return Load(request, len(active), len(waiting), len(self._generator.unreferenced_pages))

    def lost(self) -> list[int]:
        """The answers that are being computed, all forgotten."""
        lost = list(self._jobs)
        self._jobs.clear()
        return lost

    def recover(self) -> list[int]:
        """A new generator after :meth:`step` has raised; the answers that are lost."""
        lost = self.lost()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._generator = self._make_generator()
        return lost

    def test_itself(self) -> float:
        """Generate a little, which also lets kernels tune themselves; T per second of the generated ones."""
        prompt = tuple(self._tokenizer.encode_unspecial(_SELF_TEST_PROMPT))
        self._stop_ids, stop_ids = [], self._stop_ids
        self.start(Start(0, prompt, _SELF_TEST_TOKENS, 0.0, 1.0, None, ()))
        self._stop_ids = stop_ids
        began = time.perf_counter()
        while self.busy:
            self.step()
        elapsed = time.perf_counter() - began
        self._generator.reset_page_table()
        return _SELF_TEST_TOKENS / elapsed

    def _make_generator(self) -> Any:
        return exllamav2.generator.ExLlamaV2DynamicGenerator(
            model=self._model,
            cache=self._cache,
            tokenizer=self._tokenizer,
            max_batch_size=self.slots,
            max_chunk_size=self._chunk,
            paged=self.paged,
        )

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(torch.tensor(ids, dtype=torch.long))
        return text


def _read_config(settings: WorkerConfig) -> Any:
    try:
        config = exllamav2.ExLlamaV2Config(settings.folder)
    except (AssertionError, ValueError, TypeError, KeyError, OSError) as error:
        raise CannotStart("model", f"{settings.folder}: ExLlamaV2 cannot read this model: {error}") from error
    if settings.context > config.max_seq_len:
        detail = (
            f"{settings.folder}: a context of {settings.context} T, but the model was made for {config.max_seq_len}"
        )
        raise CannotStart("model", f"{detail}: lower models.context")
    config.max_seq_len = settings.context
    # the generator wants whole pages, and the model's buffers are as long as a chunk
    config.max_input_len = settings.chunk
    config.max_attention_size = settings.chunk**2
    config.arch_compat_overrides(quiet=True)
    return config


def _load(
    model: Any, config: Any, settings: WorkerConfig, gpus: tuple[Gpu, ...], on_loading: Callable[[int, int], None]
) -> Any:
    """Weights and cache into the GPUs; the cache."""
    weights = weight_bytes(config)
    needed = compute_cache_bytes(config, settings.cache_tokens, settings.cache_mode)
    require_memory(gpus, weights, needed)
    kind = _CACHES[settings.cache_mode]
    try:
        if settings.gpu_split:
            model.load(gpu_split=list(settings.gpu_split), callback=on_loading)
            return kind(model, max_seq_len=settings.cache_tokens)
        cache = kind(model, max_seq_len=settings.cache_tokens, lazy=True)
        model.load_autosplit(cache, callback=on_loading)
    except (RuntimeError, AssertionError) as error:
        if not is_out_of_memory(error) and "Insufficient space" not in str(error):
            raise
        names = ", ".join(gpu.name for gpu in gpus)
        raise CannotStart("out_of_memory", memory_advice(weights + needed, weights, needed, names)) from error
    return cache


def _stop_ids(config: Any, tokenizer: Any) -> list[int]:
    """Every id that ends an answer: a model's generation config may name several."""
    listed = getattr(config, "generation_config", {}).get("eos_token_id") or []
    return sorted({token for token in (*listed, config.eos_token_id, tokenizer.eos_token_id) if token is not None})


def _sampling(request: Start) -> Any:
    """Neutral settings but for temperature and top_p; a temperature of 0 is greedy, which the package's 0 is not."""
    if request.temperature <= 0:
        return exllamav2.generator.ExLlamaV2Sampler.Settings.greedy()
    return exllamav2.generator.ExLlamaV2Sampler.Settings(
        temperature=request.temperature,
        top_p=request.top_p if request.top_p < 1 else 0.0,
        top_k=0,
        token_repetition_penalty=1.0,
    )
