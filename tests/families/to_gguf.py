#!/usr/bin/env python3
"""Writes the checkpoints of the folders beside this file as GGUF, with the converter of llama.cpp itself.

    pip install torch transformers==5.23.0
    python tests/families/to_gguf.py LLAMA_CPP OUT_DIR {f32,f16,bf16} [NAME ...]

LLAMA_CPP is the source directory of llama.cpp (as llama-cpp-python 0.3.36 vendors it), which has `conversion/` and
`gguf-py/`. The vocabulary is a stand-in of so many words. `tests/gguf` has what this wrote of some folders, in the type
that these have their weights in.
"""
import contextlib
import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def stand_in(model):
    """A vocabulary as large as the model's."""
    size, writer = model.hparams["vocab_size"], model.gguf_writer
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([b"<unk>", b"<s>", b"</s>"] + [f"t{i}".encode() for i in range(size - 3)])
    writer.add_token_scores([0.0] * size)
    writer.add_token_types([2, 3, 3] + [1] * (size - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def published_spelling(config: dict) -> dict:
    """The keys as published files have them, which are the only ones that the converter knows."""
    kinds = {"linear_attention": "mamba", "full_attention": "attention"}
    if config["model_type"] in ("granitemoehybrid", "nemotron_h"):
        for key in {"layer_types", "layers_block_type"} & config.keys():
            config[key] = [kinds.get(kind, kind) for kind in config[key]]
    if config.get("mamba_d_head") == "auto":
        config["mamba_d_head"] = config["mamba_expand"] * config["hidden_size"] // config["mamba_n_heads"]
    if config["model_type"] == "nemotron_h":
        config["mamba_d_head"] = config["mamba_head_dim"]
    if config["model_type"] == "falcon_h1":
        config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    if config["model_type"] == "bamba":  # published as the number of rotated elements
        config["attn_rotary_emb"] = config["hidden_size"] // config["num_attention_heads"] // 2
    return config


def each_expert(tensors: dict) -> dict:
    """Experts by themselves, where transformers 5 has all of a layer in one tensor."""
    each = {}
    for name, x in tensors.items():
        before, found, projection = name.partition(".experts.")
        if not found or x.ndim != 3:
            each[name] = x
            continue
        gate_up = projection.startswith("gate_up_proj")
        for expert, matrix in enumerate(x):
            parts = zip(("gate_proj", "up_proj"), matrix.chunk(2)) if gate_up else [(projection, matrix)]
            each |= {f"{before}.experts.{expert}.{part}.weight": part_of.clone() for part, part_of in parts}
    return each


def as_published(folder: Path, copy: Path):
    """The folder in the spelling and with the tensors that published checkpoints have."""
    from safetensors.torch import load_file, save_file

    config = json.loads((folder / "config.json").read_text().replace("Infinity", "1e999"))
    config.pop("time_step_limit", None)  # which no GGUF file has
    (copy / "config.json").write_text(json.dumps(published_spelling(config)))
    tensors = {name: x for file in folder.glob("*.safetensors") for name, x in load_file(file).items()}
    tensors = {name: x for name, x in each_expert(tensors).items() if not name.endswith("mup_vector")}
    save_file(tensors, copy / "model.safetensors")


def convert(folder: Path, out: Path, kind: str):
    import gguf
    import torch
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    kinds = {
        "f32": gguf.LlamaFileType.ALL_F32,
        "f16": gguf.LlamaFileType.MOSTLY_F16,
        "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    }
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / folder.name  # which the file has as its name
        copy.mkdir()
        as_published(folder, copy)
        architecture = get_model_architecture(ModelBase.load_hparams(copy, False), ModelType.TEXT)
        converter = get_model_class(architecture)
        converter.set_vocab = stand_in
        with torch.inference_mode():
            converter(copy, kinds[kind], out / f"{folder.name}.gguf").write()


def main():
    llama_cpp, out, kind, *names = sys.argv[1:]
    sys.path[:0] = [llama_cpp, llama_cpp + "/gguf-py"]
    folders = [HERE / name for name in names] or sorted(path for path in HERE.iterdir() if path.is_dir())
    for folder in folders:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                convert(folder, Path(out), kind)
            print(f"{folder.name}: written", flush=True)
        except Exception as error:  # the converter refuses some of what the families may say
            print(f"{folder.name}: {type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    main()
