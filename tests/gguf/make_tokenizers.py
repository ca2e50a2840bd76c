#!/usr/bin/env python3
"""Makes `tokenizers/` beside this file: GGUF files of tiny models whose tokenizers are of the kinds that published ones
are, and the ids that the tokenizers themselves give.

    pip install torch transformers==5.23.0 tokenizers sentencepiece protobuf
    python tests/gguf/make_tokenizers.py LLAMA_CPP

LLAMA_CPP is the source directory of llama.cpp, whose converter writes the files (see ../families/to_gguf.py).

tokenizers/NAME.gguf   the model, with the tokenizer inside
tokenizers/NAME.json   {"texts": [...], "ids": [[...], ...], "decoded": [...]}: by the `tokenizers` library or by
                       SentencePiece, with the tokens that are added to a prompt; and the texts of those ids
"""
import contextlib
import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent

GPT4 = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
QWEN2 = GPT4.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK_V3 = [
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
]

# name in tokenizer.ggml.pre: patterns, whether ByteLevel's own pattern follows, NFC, ignore_merges, bos
BYTE_LEVEL = {
    "gpt-2": ([], True, False, False, False),
    "refact": ([r"\p{N}"], True, False, False, False),
    "llama-bpe": ([GPT4], False, False, True, True),
    "dbrx": ([GPT4], False, False, False, False),
    "qwen2": ([QWEN2], False, True, False, False),
    "tekken": ([TEKKEN], False, False, True, True),
    "deepseek-v3": (DEEPSEEK_V3, False, False, False, True),
}

TEXTS = [
    "",
    "Hello",
    " Hello, world!  Two spaces,   three.",
    "I'm sure they'LL say it's what WE'D done, 'tisn't?",
    "0 12 345 6789 12345678 3.14 1,000,000 v2.0-rc1",
    "line one\nline two\r\n\r\n\tindented\n\n\n   \n end ",
    "def f(x: int) -> str:\n    return f\"{x!r}\"  # ok\n",
    "naïve café, cafe\u0301 Ångström, Straße, ĲSSEL",
    "Привет, мир! Ελληνικά, עברית, العربية",
    "東京タワーは高い。中文字符，一二三。 한국어 텍스트",
    "🙂👍🏽 family 👨‍👩‍👧 and flags 🇩🇪",
    "a<|im_end|>b<|endoftext|> c",
    "CamelCaseAndHTTPServer snake_case_name kebab-case ALLCAPS",
    "…“quoted”—dash–dash ‘single’ © ™ § ¶ ½ ²",
    "x = [1, 2, 3]; y = {'a': 1}; z = a && b || !c ?? d",
    "   leading and trailing   ",
    "http://example.com/a/b?c=d&e=f#g user@example.org",
]

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def corpus() -> list[str]:
    text = (HERE.parent.parent / "src/nano/MODEL_CARD.md").read_text()
    return text.split("\n\n") + TEXTS * 3


def byte_level(pre: str, folder: Path) -> tuple[list[list[int]], list[str]]:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    patterns, use_regex, nfc, ignore_merges, bos = BYTE_LEVEL[pre]
    tokenizer = Tokenizer(models.BPE())
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.model.ignore_merges = ignore_merges
    tokenizer.add_special_tokens(SPECIAL)
    first = SPECIAL[0]
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", special_tokens=[(first, tokenizer.token_to_id(first))]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": first, "eos_token": "<|im_end|>",
              "chat_template": "{{ messages[0]['content'] }}", "add_bos_token": bos}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    ids = [tokenizer.encode(text).ids for text in TEXTS]
    return ids, [tokenizer.decode(row) for row in ids]


def sentence_piece(folder: Path) -> tuple[list[list[int]], list[str]]:
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in corpus() for line in text.splitlines() if line),
        model_prefix=str(folder / "tokenizer"), model_type="bpe", vocab_size=700, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True, character_coverage=0.99, minloglevel=2,
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    ids = [[pieces.bos_id(), *pieces.encode(text)] for text in TEXTS]
    return ids, [pieces.decode(row) for row in ids]


def model(folder: Path, vocab_size: int):
    """A llama of one layer; what it says means nothing."""
    import torch
    from safetensors.torch import save_file

    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=8, intermediate_size=8,
                  num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, rms_norm_eps=1e-5, rope_theta=1e4,
                  max_position_embeddings=512, vocab_size=vocab_size, tie_word_embeddings=True, hidden_act="silu")
    (folder / "config.json").write_text(json.dumps(config))
    layer = {"input_layernorm": (8,), "post_attention_layernorm": (8,)}
    layer |= {f"self_attn.{name}_proj": (8, 8) for name in "qkvo"}
    layer |= {f"mlp.{name}_proj": (8, 8) for name in ("gate", "up", "down")}
    shapes = {f"model.layers.0.{name}.weight": shape for name, shape in layer.items()}
    shapes |= {"model.embed_tokens.weight": (vocab_size, 8), "model.norm.weight": (8,)}
    save_file({name: torch.ones(shape) for name, shape in shapes.items()}, folder / "model.safetensors")


def write(name: str, folder: Path):
    import gguf
    import torch
    from conversion import get_model_class

    converter = get_model_class("LlamaForCausalLM")
    converter.get_vocab_base_pre = lambda self, tokenizer: name  # which knows the published ones by their hashes
    converter._set_vocab_llama_hf = lambda self: (_ for _ in ()).throw(FileNotFoundError())
    with torch.inference_mode():
        converter(folder, gguf.LlamaFileType.MOSTLY_F16, HERE / "tokenizers" / f"{name}.gguf").write()


def main():
    sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]
    for name in [*BYTE_LEVEL, "llama"]:
        with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stdout(sys.stderr):
            folder = Path(temporary) / name
            folder.mkdir()
            ids, decoded = sentence_piece(folder) if name == "llama" else byte_level(name, folder)
            model(folder, 704)
            write(name, folder)
        answers = {"texts": TEXTS, "ids": ids, "decoded": decoded}
        (HERE / "tokenizers" / f"{name}.json").write_text(json.dumps(answers, ensure_ascii=False) + "\n")
        print(f"{name}: written", flush=True)


if __name__ == "__main__":
    main()
