"""Conversations: all turns of the assistant are learned, and nothing else, whatever template renders them."""

import pytest

from atlas_cli import tasks
from atlas_cli.errors import ConfigError
from atlas_cli.tasks import chat as chat_task
from atlas_cli.testing.tasks import conformance

TURNS = [
    ("system", "Paris is good."),
    ("user", "Who is in France?"),
    ("assistant", "John, in Paris."),
    ("user", "And\nin Berlin?"),
    ("assistant", "a\n\nBerlin is in Germany."),
    ("assistant", "the city"),
    ("user", "good"),
]
ROW = {"messages": [{"role": role, "content": content} for role, content in TURNS]}
SHORT = [*"abcd"]
TestChat = conformance(
    chat_task.Task,
    [{"messages": [{"role": "user", "content": f"who is {x}"}, {"role": "assistant", "content": x}]} for x in SHORT],
)

PROMPT = "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
MARKED = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<s>assistant\n"
    "{% generation %}{{ m['content'] }}</s>{% endgeneration %}{{ '\n' }}"
    "{% else %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endif %}{% endfor %}" + PROMPT
)
INST = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }} </s>"
    "{% else %}<s>[{{ m['role'] }}] {{ m['content'] }} [/{{ m['role'] }}]{% endif %}{% endfor %}"
)
# only the last turn keeps its mark, as templates do that drop the reasoning of earlier turns
FORGETS = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{% if loop.last and m['role'] == 'assistant' %}(thinks) {% endif %}"
    "{{ m['content'] }}</s>\n{% endfor %}" + PROMPT
)


def lines(role, content):
    """What the template of the fixture makes of a turn: text that is given, and text that is learned."""
    said = f"{content}</s>\n"
    return (f"<s>{role}\n", said) if role == "assistant" else (f"<s>{role}\n{said}", "")


def marked(role, content):
    given, said = lines(role, content)
    return [(given, said[:-1]), ("\n", "")] if said else [(given, "")]


def inst(role, content):
    return ("", f" {content} </s>") if role == "assistant" else (f"<s>[{role}] {content} [/{role}]", "")


def encode(row, tokenizer, max_length=512, **options):
    return tasks.build("chat", **options).encode(row, tokenizer, max_length)


def pieces(tokenizer, feature):
    """Text of each run of tokens that are given, and of the tokens that are learned after them."""
    runs = []
    for token, label in zip(feature["input_ids"], feature["labels"], strict=True):
        assert label in (-100, token)
        if not runs or runs[-1][0] != (label != -100):
            runs.append((label != -100, []))
        runs[-1][1].append(token)
    return [(learned, tokenizer.decode(tokens)) for learned, tokens in runs]


def joined(parts):
    """Neighbours of one kind as one piece; none that is empty."""
    found = []
    for learned, text in ((learned, text) for part in parts for learned, text in zip((False, True), part, strict=True)):
        if text and found and found[-1][0] == learned:
            found[-1] = (learned, found[-1][1] + text)
        elif text:
            found.append((learned, text))
    return found


@pytest.mark.parametrize("template", [None, MARKED, INST], ids=["lines", "marks", "inst"])
def test_the_turns_of_the_assistant_are_learned_and_nothing_else(chat, template):
    chat.chat_template = template or chat.chat_template
    [feature] = encode(ROW, chat)
    if template == MARKED:
        expected = joined(part for turn in TURNS[:-1] for part in marked(*turn))
    else:
        expected = joined((inst if template else lines)(*turn) for turn in TURNS[:-1])
    assert pieces(chat, feature) == expected and sum(learned for learned, _ in expected) >= 2
    assert chat.decode(feature["input_ids"]) == chat.apply_chat_template(ROW["messages"][:-1], tokenize=False)
    assert feature["truncated"] is False


def test_without_a_template_each_turn_is_a_line(gpt):
    [feature] = encode(ROW, gpt)
    assert pieces(gpt, feature) == [
        (False, "Paris is good.\nWho is in France?\n"),
        (True, "John, in Paris.<end>"),
        (False, "And\nin Berlin?\n"),
        (True, "a\n\nBerlin is in Germany.<end>the city<end>"),
    ]


@pytest.mark.parametrize("template", [None, MARKED])
def test_one_question_and_answer_is_an_instruction(chat, gpt, template):
    row = {"messages": [{"from": "human", "value": "Who is good?"}, {"from": "gpt", "value": "John is."}]}
    instruction = {"prompt": "Who is good?", "response": "John is."}
    chat.chat_template = template or chat.chat_template
    for tokenizer in (chat, gpt):
        assert encode(row, tokenizer) == tasks.build("instruction").encode(instruction, tokenizer, 512)


def test_what_is_generated_from_is_what_was_trained_with(gpt, chat):
    for tokenizer in (gpt, chat):
        task, turns = tasks.build("chat"), ROW["messages"]
        [feature] = encode({"messages": turns[:5]}, tokenizer)
        prompt = task.prompt({"messages": turns[:4]}, tokenizer)
        assert feature["input_ids"][: len(prompt)] == prompt == task.prompt({"messages": turns[:5]}, tokenizer)
        assert feature["labels"][len(prompt) :] == feature["input_ids"][len(prompt) :]
        assert tokenizer.decode(task.prompt(ROW, tokenizer)).rstrip().endswith(("good", "<s>assistant"))
    assert task.reference({"messages": turns[:5]}) == "a\n\nBerlin is in Germany." and task.reference(ROW) is None


def test_what_is_cut(chat):
    [whole] = encode(ROW, chat)
    [cut] = encode(ROW, chat, 40)
    assert cut["input_ids"] == whole["input_ids"][:40] and cut["labels"] == whole["labels"][:40] and cut["truncated"]
    [end] = encode(ROW, chat, 40, keep_end=True)
    assert end["input_ids"][1:] == whole["input_ids"][-39:] and end["labels"][1:] == whole["labels"][-39:]
    assert encode(ROW, chat, 6) == []


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (FORGETS, r"writes turn 3 \(assistant\), or what is before it, otherwise where other turns follow"),
        ("{{ raise_exception('roles must alternate') }}", "refuses turns of system, user, assistant.*: roles must alt"),
    ],
)
def test_a_template_that_does_not_keep_turns_apart_is_refused(chat, template, message):
    chat.chat_template = template
    with pytest.raises(ConfigError, match=message):
        encode(ROW, chat)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("user: hi", "must be a list of turns, not str; use JSONL or Parquet"),
        (["hi"], "turn 1 is str, not"),
        ([{"role": "asistant", "content": "a"}], "turn 1 has the role 'asistant'; did you mean assistant?"),
        ([{"content": "a"}], "turn 1 has the role None; expected one of: system, user"),
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}],
            r"turn 2 \(assistant\) has no text",
        ),
        ([{"role": "user", "content": "a"}], "no turn is the assistant's"),
        ([{"role": "assistant", "content": "a"}], "the first turn is the assistant's, and answers nothing"),
        ([], "there is no turn"),
    ],
)
def test_bad_turns(messages, message):
    with pytest.raises(ConfigError, match=message):
        chat_task.Task.check({"messages": messages})
