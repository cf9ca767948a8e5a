"""The part of the config that says what is trained: data, tasks and classes of each task group."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, create_model, model_validator

from atlas_cli import discovery
from atlas_cli.config.schema.section import Section, one_of


class _DataFields(Section):
    """Where a task group's examples come from (one source key), and which columns hold what."""

    text: str | None = Field(
        None,
        description="The column that holds the text of `sequence-classification`, `regression`, `multi-label` and "
        "`causal-lm`; without it, the column `text`, as with all fields below.",
        examples=["message"],
    )
    text_pair: str | None = Field(
        None,
        description="The column that holds the second text of a pair, which `sequence-classification`, `regression` "
        "and `multi-label` take too.",
        examples=["hypothesis"],
    )
    label: str | list[str] | None = Field(
        None,
        min_length=1,
        description="The column that holds the class of `sequence-classification` (text or a whole number), the number "
        "of `regression`, with a decimal point, or the classes of `multi-label`; or, of these, the columns that hold 1 "
        "where a row is of their class and 0 elsewhere.",
        examples=["kind"],
    )
    label_separator: str | None = Field(
        None,
        min_length=1,
        description="What stands between the classes in a cell of `multi-label`; without it, a bar.",
        examples=[";"],
    )
    tokens: str | None = Field(
        None,
        description="The column that holds a sentence of `token-classification`: a list of words, or words with spaces "
        "between.",
        examples=["words"],
    )
    tags: str | None = Field(
        None,
        description="The column that holds a tag for each word of `token-classification`, in the same form.",
        examples=["ner_tags"],
    )
    question: str | None = Field(
        None,
        description="The column that holds the question of `question-answering` or `multiple-choice`.",
        examples=["question"],
    )
    context: str | None = Field(
        None,
        description="The column that holds the text of `question-answering`, in which the answer stands, or of "
        "`multiple-choice`, where a question has one.",
        examples=["context"],
    )
    choices: str | list[str] | None = Field(
        None,
        min_length=1,
        description="The column that holds the choices of a `multiple-choice` question as a list; or the columns that "
        "hold one each.",
        examples=["options"],
    )
    answer: str | None = Field(
        None,
        description="The column that holds the right choice of `multiple-choice`: its number from 0, or its text.",
        examples=["gold"],
    )
    answers: str | None = Field(
        None,
        description="The column that holds the answers of `question-answering`: SQuAD's `{text, answer_start}`, a list "
        "of such or of texts, or one text; an empty list where there is none.",
        examples=["answers"],
    )
    prompt: str | None = Field(
        None, description="The column that holds what is asked, for `instruction`.", examples=["instruction"]
    )
    input: str | None = Field(
        None,
        description="The column that holds what an `instruction` is about, where there is any.",
        examples=["input"],
    )
    response: str | None = Field(
        None, description="The column that holds the response to learn, for `instruction`.", examples=["output"]
    )
    messages: str | None = Field(
        None,
        description="The column that holds the turns of a `chat`: a list of objects with `role` and `content`.",
        examples=["conversation"],
    )
    subset: str | None = Field(None, description="The configuration of a hub data set.", examples=["sst2"])
    split: str | None = Field(
        None, description="The split of a hub data set to train on; without it, `train`.", examples=["train"]
    )
    test_split: str | None = Field(
        None,
        description="The split of a hub data set to test on; without it, a part is held out.",
        examples=["validation"],
    )
    test_files: str | list[str] | None = Field(
        None, description="Files of the test part; without them, a part is held out.", examples=["test.csv"]
    )
    validation_split: str | None = Field(
        None,
        description="The split of a hub data set to validate on; without it, what `holdout.validation` says is held "
        "out.",
        examples=["validation"],
    )
    validation_files: str | list[str] | None = Field(
        None,
        description="Files of the validation part; without them, what `holdout.validation` says is held out.",
        examples=["validation.csv"],
    )
    separator: str | None = Field(
        None,
        pattern=r"^([^A-Za-z0-9\"'\r\n]|tab)$",
        description="What stands between the fields of .csv and .tsv files: one character, or `tab`. Without it, it is "
        "found among commas, semicolons, tabs and bars.",
        examples=[";"],
    )
    test_fraction: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="The share of rows that is held out where the source has no test part; without it, what "
        "`holdout.test` says.",
        examples=[0.1],
    )
    split_by: str | None = Field(
        None,
        description="Rows that share this column stay in one part, where a part is held out.",
        examples=["document"],
    )
    limit: int | None = Field(
        None,
        ge=2,
        description="Use at most this many training examples, a seeded sample.",
        examples=[1000],
        json_schema_extra={"unit": "examples"},
    )
    test_limit: int | None = Field(
        None,
        ge=1,
        description="Use at most this many test examples, a seeded sample.",
        examples=[500],
        json_schema_extra={"unit": "examples"},
    )

    validation_limit: int | None = Field(
        None,
        ge=1,
        description="Use at most this many validation examples, a seeded sample.",
        examples=[500],
        json_schema_extra={"unit": "examples"},
    )

    @model_validator(mode="after")
    def _one_source(self) -> _DataFields:
        sources = _sources()
        given = [s for s in sources if getattr(self, s) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of: {', '.join(sources)}" + (f" (given: {', '.join(given)})" if given else "")
            )
        return self

    @property
    def source(self) -> str:
        """Name of the data source: a file in ``data/sources/``."""
        return next(s for s in _sources() if getattr(self, s) is not None)

    @property
    def location(self) -> list[str]:
        """What the source key says, always as a list."""
        value = getattr(self, self.source)
        return [value] if isinstance(value, str) else list(value)


def _sources() -> list[str]:
    """Names of data sources; not one that another package calls like a key that all sources share."""
    return [name for name in discovery.names("data.sources") if not hasattr(_DataFields, name)]


_SAYS = {
    "corpus": "A corpus that comes as a package, by its name (`atlas corpora`).",
    "files": "A file, a list of files, or a pattern, beside the config or else in the working directory.",
    "glue": "A task of GLUE: a folder as GLUE publishes it, named after the task, or the task's name alone to read it "
    "from the hub.",
    "hub": "A data set of the Hugging Face hub.",
}
_EXAMPLES = {"corpus": "trec-questions", "files": "data/mails.csv", "glue": "glue_data/CoLA", "hub": "imdb"}
Location = str | list[str] | None
DataConfig: type[_DataFields] = create_model(  # type: ignore[call-overload]
    "DataConfig",
    __base__=_DataFields,
    __doc__=_DataFields.__doc__,
    **{
        source: (
            Annotated[Location, one_of("data.corpora")] if source == "corpus" else Location,
            Field(
                None, description=_SAYS.get(source, "What this source reads."), examples=[_EXAMPLES.get(source, "x")]
            ),
        )
        for source in _sources()
    },
)


class TaskGroupConfig(Section):
    """Clients that train one task together."""

    task: Annotated[str, one_of("tasks")] = Field(
        description="The task, by the name of its file.", examples=["sequence-classification"]
    )
    data: DataConfig
    classes: list[str] | None = Field(
        None,
        min_length=2,
        description="The class names, in the order of the head's outputs; without it, those of the training rows.",
        examples=[["bad", "fine", "great"]],
    )
    pooling: Literal["auto", "mean", "first", "last"] = Field(
        "auto",
        description="Which hidden state a head reads: the mean over tokens, the first or the last token. `auto` takes "
        "the mean for encoders and the last token for decoders.",
    )
    metric: str | None = Field(
        None,
        description="What the group is judged by, one of the figures of its task; without it, the task's primary one.",
        examples=["macro_f1"],
    )
    adapter: str | None = Field(
        None,
        description="The folder of a PEFT adapter that the group starts from.",
        examples=["runs/RUN/adapters/groups/mail"],
    )
