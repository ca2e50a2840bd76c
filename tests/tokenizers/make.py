"""Tokenizers with every kind of tokenizer_config.json, and the ids that transformers gives: `python make.py`.

Writes cases.json beside itself: small byte-level and SentencePiece-like tokenizers, and for each configuration the ids of
all texts with and without what is added around them, and the texts of these ids without special tokens.

transformers 5 ignores add_bos_token and add_eos_token of the configuration where there is a tokenizer.json. The models'
authors meant them, transformers 4 honoured them, and so does blazr: here they are given to transformers as arguments. One
that is left out means what the tokenizer.json does.
"""

import json
import tempfile
from pathlib import Path

import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

VOCAB_SIZE = 420  # the model's: some more than the tokenizers have

CORPUS = [
    "Once upon a time there was a fox who lived by the river. The fox liked the river, and the river liked the fox.",
    "def total(numbers):\n    return sum(numbers)  # 12 + 345 = 357\n",
    "It's the owner's; they'll say so, won't they? <s> Élan, naïve, 日本語 and 🙂.",
] * 3

TEXTS = [
    "",
    "the fox",
    " the  fox\n\nliked it ",
    "<s>the fox</s>",
    "the <|extra|> fox <mask> x",
    "a<|pad|>b<unk>c<|im_end|> d",
    "don't 123 é 日本 🙂 ok",
    "river <s> river",
]


def byte_level(post_processor):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = post_processor
    return tokenizer


def sentencepiece():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    )
    file = json.loads(tokenizer.to_str())
    file["added_tokens"] = [token for token in file["added_tokens"] if token["content"] in ("<unk>", "<s>", "</s>")]
    tokenizer = Tokenizer.from_str(json.dumps(file))
    tokenizer.post_processor = template("<s> $A", [("<s>", 1)])
    return tokenizer


def template(single, special_tokens):
    return processors.TemplateProcessing(single=single, pair=single + " $B", special_tokens=special_tokens)


def without_added(tokenizer):
    """The special tokens are ordinary words of the vocabulary."""
    file = json.loads(tokenizer.to_str())
    return Tokenizer.from_str(json.dumps({**file, "added_tokens": []}))


def token(content, **flags):
    usual = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    return {"content": content, **usual, **flags}


def named(content):
    return {"__type": "AddedToken", **token(content)}


NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

CONFIGS = {
    "none": {},
    "names alone": NAMES,
    "bos": {**NAMES, "add_bos_token": True},
    "bos and eos": {**NAMES, "add_bos_token": True, "add_eos_token": True},
    "neither": {**NAMES, "add_bos_token": False, "add_eos_token": False},
    "eos alone": {**NAMES, "add_eos_token": True},
    "bos that is none": {"bos_token": None, "eos_token": "</s>", "add_bos_token": True},
    "objects": {"bos_token": named("<s>"), "eos_token": named("</s>"), "add_bos_token": True},
    "further ones": {**NAMES, "additional_special_tokens": ["<|im_end|>", "<|extra|>"]},
    "extra ones": {**NAMES, "extra_special_tokens": ["<|extra|>"], "additional_special_tokens": ["<|im_end|>"]},
    "names of its own": {**NAMES, "extra_special_tokens": {"image_token": "<|extra|>"}, "end_token": "<|im_end|>"},
    "a mask that strips": {**NAMES, "mask_token": {**named("<mask>"), "lstrip": True}},
    "a pad that is new": {**NAMES, "pad_token": "<|pad|>", "add_bos_token": False},
    "added ones": {
        **NAMES,
        "added_tokens_decoder": {
            "0": token("<unk>"),
            "1": token("<s>"),
            "2": token("</s>"),
            "400": token("<|extra|>"),
            "401": token("<mask>", lstrip=True, rstrip=True),
            "402": token("<|im_end|>", special=False),
            "403": token("ok", special=False, normalized=True, single_word=True),
        },
        "mask_token": "<mask>",
    },
}


def flags(tokenizer, config):
    asked = {key: config[key] for key in ("add_bos_token", "add_eos_token") if key in config}
    around = tokenizer.encode("").ids
    usual = {"add_bos_token": 1 in around, "add_eos_token": 2 in around}
    return {**usual, **asked} if asked else {}


def main():
    byte_template = template("<s> $A", [("<s>", 1)])
    tokenizers = {
        "byte-level": byte_level(processors.ByteLevel(trim_offsets=False)),
        "byte-level without anything around": byte_level(None),
        "byte-level with bos around": byte_level(byte_template),
        "byte-level without added tokens": without_added(byte_level(byte_template)),
        "sentencepiece": sentencepiece(),
    }
    cases = []
    for name, tokenizer in tokenizers.items():
        for said, config in CONFIGS.items():
            with tempfile.TemporaryDirectory() as directory:
                directory = Path(directory)
                tokenizer.save(str(directory / "tokenizer.json"))
                config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **config}
                (directory / "tokenizer_config.json").write_text(json.dumps(config))
                loaded = PreTrainedTokenizerFast.from_pretrained(directory, **flags(tokenizer, config))
            ids = lambda text, special: loaded(text, add_special_tokens=special)["input_ids"]
            texts = [
                {
                    "text": text,
                    "with": ids(text, True),
                    "without": ids(text, False),
                    "decoded": loaded.decode(ids(text, True), skip_special_tokens=True),
                }
                for text in TEXTS
            ]
            cases.append({"tokenizer": name, "said": said, "config": config, "texts": texts})
    files = {name: json.loads(tokenizer.to_str()) for name, tokenizer in tokenizers.items()}
    out = {"transformers": transformers.__version__, "vocab_size": VOCAB_SIZE, "tokenizers": files, "cases": cases}
    path = Path(__file__).parent / "cases.json"
    path.write_text(json.dumps(out, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(f"{len(cases)} configurations, {path.stat().st_size} bytes")


main()
