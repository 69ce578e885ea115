"""What is wrong with a model's folder is found before anything is loaded, and said with a remedy."""

import json
from pathlib import Path
from typing import Any

import pytest

from inference.errors import ModelUnusable
from inference.exllamav2.devices import GIB, CannotStart, Gpu, compute_cache_bytes, require_memory
from inference.exllamav2.folder import check_folder

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 2048,
    "rope_theta": 10000.0,
    "quantization_config": {"quant_method": "exl2", "bits": 4.25},
}


def write_weights(path: Path, *names: str) -> None:
    header = {
        name: {"dtype": "I32", "shape": [4], "data_offsets": [16 * i, 16 * i + 16]} for i, name in enumerate(names)
    }
    data = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(len(data).to_bytes(8, "little") + data + bytes(16 * len(names)))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    write_weights(folder / "output.safetensors", "model.layers.0.mlp.up_proj.q_weight")
    return folder


def change(model: Path, **changes: Any) -> None:
    (model / "config.json").write_text(json.dumps({k: v for k, v in {**CONFIG, **changes}.items() if v is not None}))


def refuse(model: Path) -> str:
    with pytest.raises(ModelUnusable) as caught:
        check_folder(model)
    assert str(caught.value.path) in str(caught.value)
    return str(caught.value)


def test_exl2_and_gptq_are_found_in_order(model: Path) -> None:
    found = check_folder(model)
    assert (found.quantisation, found.context) == ("exl2 4.25 bit", 2048)
    assert found.weight_bytes == (model / "output.safetensors").stat().st_size
    change(model, quantization_config=None)
    assert check_folder(model).quantisation == "exl2", "older files do not say so"
    write_weights(model / "output.safetensors", "model.layers.0.mlp.up_proj.qweight")
    change(model, quantization_config={"quant_method": "gptq", "bits": 4})
    assert check_folder(model).quantisation == "gptq 4 bit"


@pytest.mark.parametrize(
    ("quantisation", "tensor", "why"),
    [
        (None, "weight", "is not quantised; ExLlamaV2 serves EXL2 or 4-bit GPTQ"),
        ({"quant_method": "awq", "bits": 4}, "qweight", "is quantised as awq"),
        ({"quant_method": "gptq", "bits": 8}, "qweight", "is GPTQ with 8 bits"),
        ({"quant_method": "exl3"}, "trellis", "is EXL3, which is ExLlamaV3's format"),
    ],
)
def test_other_formats_are_named(model: Path, quantisation: Any, tensor: str, why: str) -> None:
    change(model, quantization_config=quantisation)
    write_weights(model / "output.safetensors", f"model.layers.0.mlp.up_proj.{tensor}")
    assert why in refuse(model)


@pytest.mark.parametrize("kept", [0, 7, 20, -1])
def test_a_file_cut_short_is_named_with_its_sizes(model: Path, kept: int) -> None:
    file = model / "output.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:kept])
    assert f"output.safetensors: has {len(whole[:kept])} bytes" in refuse(model)
    file.write_bytes(whole + b"x")
    assert f"has {len(whole) + 1} bytes where its header needs {len(whole)}" in refuse(model)


@pytest.mark.parametrize(
    "header", [b"{}x", b'{"a": 1}', b'{"a": {}}', b'{"a": {"data_offsets": []}}', b"[]", b"\xff", b"[" * 100_000]
)
def test_headers_that_are_none_are_named(model: Path, header: bytes) -> None:
    (model / "output.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert "no readable safetensors header" in refuse(model)


def test_missing_parts_are_named(model: Path) -> None:
    assert "is not a folder" in refuse(model / "config.json")
    index = {"weight_map": {"a": "output.safetensors", "b": "gone.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "gone.safetensors: is missing, though the folder's index names it" in refuse(model)
    (model / "model.safetensors.index.json").unlink()
    (model / "tokenizer_config.json").write_text("{}")
    assert "has no chat_template" in refuse(model)
    (model / "chat_template.jinja").write_text("{{ messages }}")
    check_folder(model)
    (model / "tokenizer.json").unlink()
    assert "tokenizer.json: is missing" in refuse(model)
    (model / "output.safetensors").rename(model / "model.gguf")
    assert "has no *.safetensors (there is model.gguf" in refuse(model)
    (model / "config.json").write_text("[1]")
    assert "is not a JSON object" in refuse(model)
    (model / "config.json").write_text("{")
    assert "is not valid JSON" in refuse(model)


def test_a_base_of_positions_that_would_be_missed_is_refused(model: Path) -> None:
    change(model, rope_theta=None, rope_parameters={"rope_theta": 500000.0})
    assert "has rope_parameters but no rope_theta" in refuse(model)
    change(model, rope_parameters={"rope_theta": 10000.0})
    check_folder(model)


def test_too_little_memory_is_told_in_figures() -> None:
    class Config:
        num_hidden_layers, num_key_value_heads, head_dim = 32, 8, 128

    cache = compute_cache_bytes(Config, 16_384, "fp16")
    assert cache == 2 * GIB
    assert compute_cache_bytes(Config, 16_384, "q4") < cache / 3
    gpus = (Gpu("small", 3 * GIB, 4 * GIB), Gpu("smaller", 1 * GIB, 2 * GIB))
    require_memory(gpus, GIB // 2, cache)
    with pytest.raises(
        CannotStart, match=r"needs 6\.2 GiB \(weights 3\.0, cache 2\.0\).*small: 3\.0 of 4\.0 GiB"
    ) as caught:
        require_memory(gpus, 3 * GIB, cache)
    assert caught.value.kind == "out_of_memory"
