"""README.md of an exported folder: what the model is, how good it was, what it cost in privacy, how to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from atlas_cli.inference.export.exported import Exported
from atlas_cli.inference.loaded_model import LoadedModel

_MOST_CLASSES = 20


def card_of(loaded: LoadedModel, found: Exported) -> str:
    """The model card."""
    sections = (
        _front_matter(loaded, found),
        f"# {loaded.config.name}: {loaded.owner}\n\n{_what(loaded, found)}",
        f"## How to load it\n\n```python\n{found.loading.code()}\n```\n\n{_agreement(found)}",
        f"## What differs from the run\n\n{_differences(loaded, found)}",
        f"## The base\n\n{_base(loaded, found)}",
        f"## Data\n\n{_data(loaded)}",
        f"## Figures\n\n{_figures(loaded)}",
        f"## Training\n\n{_training(loaded)}",
        f"## Privacy\n\n{_privacy(loaded)}",
    )
    return "\n".join(f"{section.rstrip()}\n" for section in sections)


def metrics_line(loaded: LoadedModel) -> Mapping[str, Any] | None:
    """What the run recorded of the task group in the round of the model."""
    lines = loaded.run.read_lines("metrics.jsonl")
    group = (line for line in lines if line["task_group"] == loaded.owner.group and line["round"] == loaded.round)
    return next(group, None)


def _front_matter(loaded: LoadedModel, found: Exported) -> str:
    library = {"merged": "transformers", "peft": "peft"}[found.form]
    if found.loading.tool == "sentence-transformers":
        library = "sentence-transformers"
    name = found.base.name if found.base.name and not found.base.name.startswith(("/", "\\")) else None
    lines = ["---", f"library_name: {library}", *([f"base_model: {json.dumps(name)}"] if name else [])]
    return "\n".join([*lines, "tags: [atlas, lora, federated-learning, split-learning]", "---"])


def _what(loaded: LoadedModel, found: Exported) -> str:
    task, origin = loaded.task, loaded.origin
    kind = "an adapter for PEFT" if found.form == "peft" else "a whole model, with the adapters merged into its weights"
    lines = [
        f"The model of {loaded.owner} after round {loaded.round} of the atlas run {loaded.run.path.name}: {kind}.",
        "",
        f"- task: {origin.task}",
    ]
    if task.classes:
        shown = task.classes[:_MOST_CLASSES]
        more = f", and {len(task.classes) - len(shown)} more (config.json)" if len(task.classes) > len(shown) else ""
        lines.append(f"- classes, in the order of the logits: {', '.join(map(_code, shown))}{more}")
    if found.pooling is not None:
        lines.append(f"- the head reads: {found.pooling if found.pooling == 'mean' else f'the {found.pooling} token'}")
    if found.prompt:
        lines.append(f"- prompt: {found.prompt}")
    return "\n".join(lines)


def _code(text: str) -> str:
    return f"`{text}`" if "`" not in text else json.dumps(text, ensure_ascii=False)


def _agreement(found: Exported) -> str:
    same = found.agreement
    if same is None:
        return "Logits were not compared with the run's, since the package peft is not installed where it was exported."
    whose = "the run's logits" if found.quantized is None else "the logits of the run's adapters on this base"
    return (
        f"On export this gave {whose} on {same.texts} texts of random tokens: the largest difference is "
        f"{same.difference:.1e}, of logits up to {same.largest:.3g} (tolerance {same.tolerance:g} of the largest)."
    )


def _differences(loaded: LoadedModel, found: Exported) -> str:
    lines = [
        f"- The run cut texts after {loaded.config.training.max_length} tokens"
        + (", and kept their end." if loaded.task.keep_end else ".")
    ]
    if found.reason:
        lines.append(f"- No class of transformers has this head, since {found.reason}.")
    if found.how:
        lines.append(f"- {found.how}")
    if found.loading.tokenizer != "AutoTokenizer":
        lines.append(
            f"- AutoTokenizer makes another tokenizer of these files; {found.loading.tokenizer} takes them as they "
            "are. A pipeline is given it: pipeline(..., tokenizer=tokenizer)."
        )
    if found.pads_with:
        lines.append(
            f"- The tokenizer of the base pads no texts; here {found.pads_with} does. A text that ends in it is read "
            "as if it did not."
        )
    if (words := loaded.config.privacy.replaces_tokens()) is not None:
        lines.append(f"- In the run, privacy.{words} replaced tokens of texts before they were read; here none are.")
    elif loaded.noise_at_the_cut:
        lines.append("- In the run, activations were changed at the cut by a privacy mechanism; here nothing is cut.")
    lower, upper, _ = loaded.halves
    if lower.dtype != upper.dtype:
        lines.append(
            f"- The client computed its blocks in {_dtype(lower.dtype)}; here all are in {_dtype(upper.dtype)}."
        )
    if (apart := found.quantized) is not None:
        below, above = (each.quantization.replace("none", "not quantised") for each in (lower, upper))
        lines.append(
            f"- The run computed with quantised weights (below the cut {below}, above {above}); here are those of the "
            f"base itself. On {apart.texts} texts of random tokens logits differ from the run's by up to "
            f"{apart.difference:.2g}, of up to {apart.largest:.3g}, and figures of the run are not those of this model."
        )
    if upper.dtype != lower.dtype or _dtype(upper.dtype) != "float32":
        lines.append("- A sum of weight and update is rounded to the dtype of the base; the run kept the two apart.")
    return "\n".join(lines)


def _dtype(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _base(loaded: LoadedModel, found: Exported) -> str:
    origin, base = loaded.origin, found.base
    drawn = "" if origin.seed is None else ", which are not those of the published model of that name"
    lines = [
        f"- name in the run: {origin.base}",
        f"- weights: {origin.weights}{drawn}",
        f"- revision: {base.revision or 'none'}",
        f"- dtype: {origin.dtype}",
        f"- sha256 of all weights: {origin.sha256}",
        *([f"- quantization in training: {origin.quantization}"] if origin.quantization != "none" else []),
        f"- licence: {base.licence}",
    ]
    if found.form == "peft":
        where = base.name or "the folder base beside this file, since no stock tool loads it by a name"
        lines.append(f"- the adapter is for: {where}")
    if found.form == "peft" and base.name is None:
        lines.append(
            "- adapter_config.json names that folder by its absolute path; after a move, give the path as above"
        )
    return "\n".join(lines)


def _data(loaded: LoadedModel) -> str:
    data = loaded.manifest["data"].get(loaded.owner.group, {})
    names = {
        "origin": "source",
        "sha256": "sha256 of training rows",
        "train": "training examples",
        "test": "test examples",
        "validation": "validation examples",
        "local_test": "test examples of clients",
        "test_sha256": "sha256 of test rows",
    }
    return "\n".join(f"- {name}: {data[key]}" for key, name in names.items() if data.get(key) is not None)


def _figures(loaded: LoadedModel) -> str:
    line = metrics_line(loaded)
    if line is None or not line["test"]:
        return f"Round {loaded.round} was not evaluated."
    whose = f"the model of task group {loaded.owner.group}"
    if (line.get("models") or 1) > 1:
        whose = f"the mean over {line['models']} models of the group's clients"
    elif loaded.owner.client:
        whose += f", and not of {loaded.owner} alone"
    parts = ["test", *(["validation"] if line.get("validation") else [])]
    rows = [[name, *(_number(line[part].get(name)) for part in parts)] for name in line["test"]]
    table = [["figure", *(f"{part} part" for part in parts)], ["---"] * (1 + len(parts)), *rows]
    return f"After round {loaded.round}, of {whose}:\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in table)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.6g}"


def _training(loaded: LoadedModel) -> str:
    config = loaded.config
    clients = config.group_sizes().get(loaded.owner.group, 0)
    ranks = sorted({adapter.rank for adapter in loaded.model.adapters.adapters.values()})
    lines = [
        f"- mode: {config.mode}, {clients} clients, {loaded.round} of {config.training.rounds} rounds, "
        f"{config.training.local_steps} local steps a round",
        f"- merging: {config.aggregation.method}",
        f"- LoRA on {len(loaded.model.adapters.adapters)} layers, ranks {', '.join(map(str, ranks))}, alpha "
        f"{config.lora.alpha:g}{' by the square root of the rank' if config.lora.rslora else ''}",
        f"- seed: {config.seed}",
        f"- state of the run: {loaded.manifest['status']}",
        f"- versions: {', '.join(f'{name} {version}' for name, version in loaded.manifest['versions'].items())}",
    ]
    return "\n".join(lines)


def _privacy(loaded: LoadedModel) -> str:
    privacy, line = loaded.manifest["privacy"], metrics_line(loaded)
    spent = (line or {}).get("epsilon") or privacy["epsilon"].get(loaded.owner.group, {})
    if not spent:
        return "Nothing is recorded."
    rows = "\n".join(f"| {channel} | {_epsilon(value)} |" for channel, value in spent.items())
    return f"At delta {privacy['delta']:g}, after round {loaded.round}:\n\n| channel | epsilon |\n|---|---|\n{rows}"


def _epsilon(value: float | str | None) -> str:
    if value is None or value == "infinite":
        return "infinite: no bound"
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)
