"""Tiny tokenizers built in code: BERT-like (word pieces, [CLS], [SEP]) and GPT-like (byte-level BPE, end token)."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

torch.set_num_threads(1)

WORDS = [
    "who",
    "what",
    "is",
    "was",
    "the",
    "a",
    "capital",
    "of",
    "france",
    "paris",
    "berlin",
    "in",
    "germany",
    "john",
    "lives",
    "new",
    "york",
    "city",
    ".",
    ",",
    "?",
    "good",
    "bad",
]
TEXTS = [
    "Who is the capital of France?",
    "Paris is the capital of France. Berlin is in Germany.",
    "John lives in New York City.",
]
CHAT = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def bert():
    """Lower-cased word pieces; unknown words fall apart into letters."""
    letters = list("abcdefghijklmnopqrstuvwxyz")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *letters[1:], *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _byte_level(**special):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=list(special.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*TEXTS * 3, "a\n\n"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


@pytest.fixture(scope="session")
def gpt():
    """Byte-level BPE without special tokens around a text, with an end token."""
    return _byte_level(eos_token="<end>")


@pytest.fixture
def chat():
    """The same with a chat template."""
    tokenizer = _byte_level(bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = CHAT
    return tokenizer
