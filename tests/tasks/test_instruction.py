import copy
import json

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from atlas_cli import tasks
from atlas_cli.config.schema.experiment import TaskGroupConfig
from atlas_cli.config.schema.partition import HoldoutConfig
from atlas_cli.data.read import read_group
from atlas_cli.errors import ConfigError

ROW = {"prompt": "What is the capital of France?", "response": "Paris is the capital."}


def encode(row, tokenizer, max_length=256):
    return tasks.build("instruction").encode(row, tokenizer, max_length)


def text_of(tokenizer, ids):
    return tokenizer.decode(ids)


def labelled(feature):
    return [label for label in feature["labels"] if label != -100]


def test_without_template(gpt):
    [feature] = encode(ROW, gpt)
    assert text_of(gpt, feature["input_ids"]) == f"{ROW['prompt']}\n{ROW['response']}<end>"
    assert text_of(gpt, labelled(feature)) == f"{ROW['response']}<end>"
    first = feature["labels"].index(labelled(feature)[0])
    assert feature["labels"][first:] == feature["input_ids"][first:]


def test_with_template(chat):
    [feature] = encode(ROW, chat)
    prompt = f"<s>user\n{ROW['prompt']}</s>\n<s>assistant\n"
    assert text_of(chat, feature["input_ids"]) == f"{prompt}{ROW['response']}</s>\n"
    assert text_of(chat, labelled(feature)) == f"{ROW['response']}</s>\n"


def test_template_writes_all_special_tokens_itself(chat):
    [plain] = encode(ROW, chat)
    chat.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", chat.bos_token_id)]
    )
    assert encode(ROW, chat) == [plain]
    chat.chat_template = None
    [feature] = encode(ROW, chat)
    assert text_of(chat, feature["input_ids"]) == f"<s>{ROW['prompt']}\n{ROW['response']}</s>"
    assert text_of(chat, labelled(feature)) == f"{ROW['response']}</s>"


def test_token_across_the_border_is_response(chat):
    chat.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    row = {"prompt": "a", "response": "\n\nb"}
    assert len(chat("\n\n")["input_ids"]) == 1  # the template's new line and the response's first are one token
    [feature] = encode(row, chat)
    assert text_of(chat, feature["input_ids"]) == "a\n\n\nb\n"
    assert text_of(chat, labelled(feature)) == "\n\n\nb\n"


def test_truncation(gpt):
    prompt_length = len(gpt(f"{ROW['prompt']}\n")["input_ids"])
    [cut] = encode(ROW, gpt, prompt_length + 2)
    assert cut["truncated"] is True and len(labelled(cut)) == 2
    assert encode(ROW, gpt, prompt_length) == []


def test_loss_counts_the_response_only(gpt):
    task = tasks.build("instruction")
    [feature] = encode(ROW, gpt)
    labels = task.label_tensor([feature], len(feature["input_ids"]) + 3)
    logits = torch.randn(1, labels.shape[1], 400, generator=torch.Generator().manual_seed(0))
    loss, count = task.loss(logits, labels)
    first = feature["labels"].index(labelled(feature)[0])
    expected = -logits[0].log_softmax(-1)[range(first - 1, first - 1 + count), labelled(feature)].mean()
    assert count == len(labelled(feature))
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% for m in messages %}{{ raise_exception('only system turns') }}{% endfor %}",
            "refuses .* only system turns",
        ),
        ("{{ messages | length }}", r"writes turn 2 \(assistant\), or what is before it, otherwise"),
        ("{% for m in messages %", "refuses"),
    ],
)
def test_bad_templates(chat, template, message):
    chat.chat_template = template
    with pytest.raises(ConfigError, match=message):
        encode(ROW, chat)


def test_bad_rows(gpt):
    with pytest.raises(ConfigError, match="no field 'response'"):
        encode({"prompt": "Who?"}, gpt)
    with pytest.raises(ConfigError, match="'prompt' must be text"):
        encode(ROW | {"prompt": None}, gpt)


def test_the_end_can_be_kept_so_that_the_response_stays(gpt):
    [whole] = encode(ROW, gpt)
    task = tasks.build("instruction", keep_end=True)
    [feature] = task.encode(ROW, gpt, len(whole["input_ids"]) - 2)
    assert feature["input_ids"] == whole["input_ids"][2:] and feature["labels"] == whole["labels"][2:]
    assert feature["truncated"]
    gpt = copy.deepcopy(gpt)
    gpt.bos_token = gpt.convert_ids_to_tokens(whole["input_ids"][0])
    [feature] = task.encode(ROW, gpt, len(whole["input_ids"]) - 2)
    assert feature["input_ids"] == whole["input_ids"][:1] + whole["input_ids"][3:]
    assert feature["labels"] == whole["labels"][:1] + whole["labels"][3:]


def test_what_is_generated_from_is_what_was_trained_with(gpt, chat):
    for tokenizer in (gpt, chat):
        task = tasks.build("instruction")
        [feature] = task.encode(ROW, tokenizer, 256)
        prompt = task.prompt({"prompt": ROW["prompt"]}, tokenizer)
        assert feature["input_ids"][: len(prompt)] == prompt
        assert feature["labels"][len(prompt) :] == feature["input_ids"][len(prompt) :]
        assert task.reference(ROW) == ROW["response"]
    with pytest.raises(ConfigError, match="no field 'prompt'"):
        task.prompt({"text": "x"}, gpt)


def test_a_text_ends_where_the_template_ends_a_response(gpt, chat):
    task = tasks.build("instruction")
    assert task.ends(gpt) == ([gpt.eos_token_id], [])
    chat.eos_token = "<s>"  # the template ends a turn with another token than the tokenizer ends a text with
    end = chat.convert_tokens_to_ids("</s>")
    assert end != chat.eos_token_id
    chat.add_special_tokens({"additional_special_tokens": ["</s>"]})
    assert task.ends(chat) == ([chat.eos_token_id, end], [])
    chat.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} ###\n{% endfor %}"
    chat.chat_template += "{% if add_generation_prompt %}assistant: {% endif %}"
    assert task.ends(chat) == ([chat.eos_token_id], ["###"])


def test_alpacas_columns(gpt, tmp_path):
    rows = [
        {"instruction": "Who is it?", "input": "John lives in Paris.", "output": "John."},
        {"instruction": "What is good?", "input": "", "output": "The city."},
    ]
    file = tmp_path / "alpaca.json"
    file.write_text(json.dumps(rows * 2), encoding="utf-8")
    data = read_group(
        "g", TaskGroupConfig(task="instruction", data={"files": str(file)}), 0, HoldoutConfig(duplicates="keep")
    )
    found = {text_of(gpt, encode(row, gpt)[0]["input_ids"]) for row in (*data.train, *data.test)}
    assert found == {"Who is it?\n\nJohn lives in Paris.\nJohn.<end>", "What is good?\nThe city.<end>"}
