"""The part of the config that says what is trained: data, tasks and classes of each task group."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, create_model, model_validator

from atlas_cli import discovery
from atlas_cli.config.schema.section import Section, one_of


class _DataFields(Section):
    """Where a task group's examples come from (one source key), and which columns hold what."""

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    tokens: str | None = None
    tags: str | None = None
    question: str | None = None
    context: str | None = None
    answers: str | None = None
    prompt: str | None = None
    response: str | None = None
    subset: str | None = Field(None, description="configuration of a hub data set")
    split: str | None = Field(None, description="split of a hub data set to train on; default: train")
    test_split: str | None = Field(None, description="split of a hub data set to test on; default: a held-out part")
    test_files: str | list[str] | None = Field(None, description="files of the test part; default: a held-out part")
    test_fraction: float | None = Field(
        None, gt=0, lt=1, description="held-out part where the source has no official one; default: 0.2"
    )
    split_by: str | None = Field(None, description="keep rows that share this column on one side of the test split")
    limit: int | None = Field(None, ge=2, description="use at most this many training examples (seeded sample)")
    test_limit: int | None = Field(None, ge=1, description="use at most this many test examples (seeded sample)")

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


Location = str | list[str] | None
DataConfig: type[_DataFields] = create_model(  # type: ignore[call-overload]
    "DataConfig",
    __base__=_DataFields,
    __doc__=_DataFields.__doc__,
    **{
        source: (Annotated[Location, one_of("data.corpora")] if source == "corpus" else Location, None)
        for source in _sources()
    },
)


class TaskGroupConfig(Section):
    """Clients that train one task together."""

    task: Annotated[str, one_of("tasks")]
    data: DataConfig
    classes: list[str] | None = Field(
        None, min_length=2, description="class names; default: those in the training data"
    )
    pooling: Literal["auto", "mean", "first", "last"] = Field(
        "auto", description="auto: mean for encoders, last token for decoders"
    )
    adapter: str | None = Field(None, description="folder of a PEFT adapter to start from")
