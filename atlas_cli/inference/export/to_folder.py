"""Exports a trained model of a run to a new folder, and compares what stock tools make of it with the run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import transformers
from safetensors.torch import save_file

from atlas_cli.errors import AtlasError, ConfigError, OutputError
from atlas_cli.inference.export.base_of_adapter import BaseOfAdapter, base_of
from atlas_cli.inference.export.exported import Exported, Form
from atlas_cli.inference.export.how_to_load import Loading
from atlas_cli.inference.export.model_card import card_of, metrics_line
from atlas_cli.inference.export.model_files import (
    config_for,
    tokenizer_for,
    with_unused,
    write_model,
)
from atlas_cli.inference.export.same_logits import (
    Agreement,
    agreement,
    encoded,
    load_stock,
    logits_behind,
    run_logits,
    sample_texts,
    stock_logits,
    tokenizer_class,
)
from atlas_cli.inference.export.sentence_folder import write_pooling_and_head
from atlas_cli.inference.export.stock_heads import CAUSAL, TEXT, NoStockClassError, StockClass, stock_class
from atlas_cli.inference.loaded_model import LoadedModel
from atlas_cli.inference.merged import merged_weights
from atlas_cli.models.adapters.peft_format import HEAD, lora_files
from atlas_cli.storage.whole_folder import folder_aside
from atlas_cli.tasks._heads import PooledHead

CARD, FACTS, BASE = "README.md", "export.json", "base"
_PEFT_TASKS = {
    CAUSAL: "CAUSAL_LM",
    TEXT: "SEQ_CLS",
    "AutoModelForTokenClassification": "TOKEN_CLS",
    "AutoModelForQuestionAnswering": "QUESTION_ANS",
    "AutoModel": "FEATURE_EXTRACTION",
}
_CHAT, _PLAIN = "the chat template of the tokenizer, with one user turn", "the prompt, then a new line"


def export(loaded: LoadedModel, to: str | Path, form: Form = "merged") -> Exported:
    """Write a model to a folder that stock tools load, and compare its logits with the run's.

    Args:
        to: a folder that does not exist yet, or is empty.
        form: "merged", a whole model; or "peft", an adapter.

    Raises:
        OutputError: there is something in the folder, or it cannot be written.
        ConfigError: the model has a bottleneck or a denoiser at the cut.
        AtlasError: stock tools do not give the run's logits.
    """
    for key, part in {"mid": "bottleneck", "denoise": "denoiser"}.items():
        if getattr(loaded.config.privacy, key) is not None:
            raise ConfigError(
                f"{loaded.run.path}: the model has a trained {part} at its cut, which stock tools have no place for; "
                f"use atlas predict and atlas evaluate, or train without privacy.{key}",
                key=f"privacy.{key}",
            )
    folder = new_folder(to)
    with folder_aside(folder) as aside:
        try:
            aside.mkdir(parents=True)
        except OSError as error:
            raise OutputError(f"--to: {to} cannot be written: {error.strerror}; name another folder") from None
        tokenizer_for(loaded).save_pretrained(aside)
        plain = loaded.unquantized()
        work = _Work(plain, aside, folder, base_of(plain))
        found = work.merged() if form == "merged" else work.adapter()
        if plain is not loaded:
            found = replace(found, quantized=_between(loaded, plain))
        _write(aside / FACTS, json.dumps(_facts(loaded, found), indent=2, ensure_ascii=False) + "\n")
        _write(aside / CARD, card_of(loaded, found))
    return found


def new_folder(to: str | Path) -> Path:
    """The folder to write to.

    Raises:
        OutputError: there is something in it, or it is none.
    """
    try:
        folder = Path(to).expanduser().resolve()
        filled = folder.is_dir() and any(folder.iterdir())
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"--to: {to} is a file; name a new folder")
    except (OSError, RuntimeError) as error:
        raise OutputError(f"--to: {to} cannot be written: {error}; name a new folder") from None
    if filled:
        raise OutputError(f"--to: {to} is not empty, and nothing is overwritten; name a new folder")
    return folder


@dataclass(frozen=True)
class _Work:
    loaded: LoadedModel
    aside: Path
    folder: Path
    base: BaseOfAdapter

    def merged(self) -> Exported:
        """A whole model: of a stock class where one has the head, else with the head behind ``AutoModel``."""
        loaded, weights, config = self.loaded, merged_weights(self.loaded), config_for(self.loaded)
        reason = ""
        try:
            stock = stock_class(loaded, config)
        except NoStockClassError as error:
            reason = str(error)
        else:
            inner = {f"{stock.within}.{name}": tensor for name, tensor in weights.items()}
            write_model(self.aside, config, stock.name, {**inner, **stock.tensors})
            if stock.auto == CAUSAL and self.base.generation:
                _write(self.aside / "generation_config.json", json.dumps(dict(self.base.generation), indent=2) + "\n")
            model = load_stock(stock.auto, self.aside)
            same = self._compare(stock.auto, model)
            if same.holds:
                return self._exported("merged", self._loading(stock.auto), same, how=stock.how)
            reason = _too_far(stock.name, same)
            for file in [*self.aside.glob("model*.safetensors*"), self.aside / "config.json"]:
                file.unlink()
        write_model(self.aside, config, type(loaded.base.model).__name__, with_unused(loaded.base, weights))
        loading = self._behind()
        if loading.tool == "sentence-transformers":
            assert isinstance(loaded.model.head, PooledHead)
            write_pooling_and_head(self.aside, loaded.model.head, loaded.config.training.max_length)
        else:
            self._save_head()
        same = self._compare("AutoModel", load_stock("AutoModel", self.aside))
        return self._exported("merged", loading, _require(same, "AutoModel"), reason=reason)

    def adapter(self) -> Exported:
        """An adapter for PEFT: on a stock class with the head among its saved modules, or on ``AutoModel``."""
        config, reason = config_for(self.loaded), ""
        try:
            stock = stock_class(self.loaded, config)
        except NoStockClassError as error:
            stock, reason = self._behind_auto_model(), str(error)
        if self.base.name is None:
            self._save_base(config, stock)
        model, missing = self._load_base(stock, config)
        if missing and not reason:
            reason = f"{stock.name} does not find {missing[0]} in the files of the base"
            stock = self._behind_auto_model()
            model, missing = self._load_base(stock, config)
        self._save_adapter(stock)
        if reason:
            self._save_head()
        same = self._compare_adapter(stock, model)
        loading = self._behind(adapter=True) if reason else self._loading(stock.auto, adapter=True)
        return self._exported("peft", loading, _require(same, stock.name), reason=reason, how=stock.how)

    def _behind_auto_model(self) -> StockClass:
        return StockClass("AutoModel", type(self.loaded.base.model).__name__, "", {})

    def _save_base(self, config: Any, stock: StockClass) -> None:
        base, weights = self.loaded.base, dict(self.loaded.base.model.state_dict())
        if stock.auto == CAUSAL:
            named = {f"{stock.within}.{name}": tensor for name, tensor in weights.items()}
            write_model(self.aside / BASE, config, stock.name, {**named, **stock.tensors})
        else:
            write_model(self.aside / BASE, config, type(base.model).__name__, with_unused(base, weights))

    def _save_adapter(self, stock: StockClass) -> None:
        loaded, lora = self.loaded, self.loaded.config.lora
        files = lora_files(
            loaded.base,
            loaded.model.adapters,
            within=stock.within,
            task_type=_PEFT_TASKS[stock.auto],
            base_name=self.base.name or str(self.folder / BASE),
            revision=self.base.revision,
            alpha=lora.alpha,
            dropout=lora.dropout,
            rslora=lora.rslora,
            saved=stock.tensors if stock.modules else {},
            saved_modules=stock.modules,
        )
        for name, content in files.items():
            (self.aside / name).write_bytes(content)

    def _save_head(self) -> None:
        tensors = {name: tensor.detach().cpu() for name, tensor in self.loaded.model.head.named_parameters()}
        save_file(tensors, self.aside / HEAD, metadata={"format": "pt"})

    def _compare(self, auto: str, model: Any) -> Agreement:
        inputs = encoded(self.loaded, sample_texts(self.loaded))
        mine = run_logits(self.loaded, inputs)
        theirs = logits_behind(self.loaded, model, inputs) if auto == "AutoModel" else stock_logits(model, inputs)
        return agreement(self.loaded, mine, theirs, inputs["attention_mask"])

    def _load_base(self, stock: StockClass, config: Any) -> tuple[Any, list[str]]:
        """The base in a stock class as PEFT loads it, and the weights of the base that the class does not find."""
        options: dict[str, Any] = {"dtype": self.loaded.base.dtype, "trust_remote_code": False}
        options |= {"use_safetensors": True, "revision": self.base.revision or "main", "output_loading_info": True}
        if stock.auto not in (CAUSAL, "AutoModel"):
            options |= {name: getattr(config, name) for name in ("num_labels", "pad_token_id")}
        place = self.base.name or self.aside / BASE
        model, found = getattr(transformers, stock.auto).from_pretrained(place, **options)
        given = {*stock.tensors, *(f"{stock.within}." * bool(stock.within) + name for name in self._unread())}
        return model, sorted(set(found["missing_keys"]) - given)

    def _unread(self) -> set[str]:
        base = self.loaded.base
        return with_unused(base, base.model.state_dict()).keys() - base.model.state_dict().keys()

    def _compare_adapter(self, stock: StockClass, base: Any) -> Agreement | None:
        """What stock PEFT makes of it, where that is installed."""
        if find_spec("peft") is None:
            return None
        import peft

        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # peft's, of names in transformers
            return self._compare(stock.auto, peft.PeftModel.from_pretrained(base, str(self.aside)))

    def _loading(self, auto: str, adapter: bool = False) -> Loading:
        task = self.loaded.task
        return Loading(
            "transformers",
            auto,
            self.loaded.config.training.max_length,
            tokenizer_class(self.loaded, self.aside),
            names_classes=task.has_classes and task.one_class,
            **self._options(auto, adapter),
        )

    def _behind(self, adapter: bool = False) -> Loading:
        """With the head behind ``AutoModel``."""
        head, longest = self.loaded.model.head, self.loaded.config.training.max_length
        tokenizer, options = tokenizer_class(self.loaded, self.aside), self._options("AutoModel", adapter)
        if isinstance(head, PooledHead):
            options["pooling"] = head.pool.pooling
            if not adapter and tokenizer == "AutoTokenizer":  # which sentence-transformers takes
                options |= {"head_file": "2_Dense/model.safetensors", "head": "linear"}
                return Loading("sentence-transformers", "AutoModel", longest, tokenizer, **options)
        return Loading("transformers and the head", "AutoModel", longest, tokenizer, **options)

    def _options(self, auto: str, adapter: bool) -> dict[str, Any]:
        if not adapter:
            return {}
        given: dict[str, Any] = {"dtype": repr(str(self.loaded.base.dtype).removeprefix("torch.")).replace("'", '"')}
        config = config_for(self.loaded)
        if auto not in (CAUSAL, "AutoModel") and self.base.name is not None:
            given["num_labels"] = config.num_labels
            if self.loaded.base.family.causal:
                given["pad_token_id"] = config.pad_token_id
        return {"adapter": True, "base_inside": self.base.name is None, "options": given}

    def _exported(
        self, form: Form, loading: Loading, same: Agreement | None, reason: str = "", how: str = ""
    ) -> Exported:
        loaded, head = self.loaded, self.loaded.model.head
        tokenizer, prompt = tokenizer_for(loaded), ""
        if loaded.origin.task == "instruction":
            prompt = _CHAT if getattr(tokenizer, "chat_template", None) else _PLAIN
        return Exported(
            self.folder,
            form,
            loading,
            same,
            self.base,
            reason,
            how,
            pooling=head.pool.pooling if isinstance(head, PooledHead) else None,
            prompt=prompt,
            pads_with=tokenizer.pad_token if tokenizer.pad_token_id != loaded.tokenizer.pad_token_id else "",
        )


def _between(loaded: LoadedModel, plain: LoadedModel) -> Agreement:
    """How far the run's logits are from those of the same adapters on weights that are not quantised."""
    inputs = encoded(loaded, sample_texts(loaded))
    return agreement(plain, run_logits(loaded, inputs), run_logits(plain, inputs), inputs["attention_mask"])


def _too_far(name: str, same: Agreement) -> str:
    return (
        f"{name} gives logits that differ by {same.difference:.1e} from the run's of up to {same.largest:.3g} "
        f"(tolerance {same.tolerance:g} of the largest)"
    )


def _require(same: Agreement | None, name: str) -> Agreement | None:
    if same is not None and not same.holds:
        raise AtlasError(f"nothing was exported: {_too_far(name, same)}")
    return same


def _facts(loaded: LoadedModel, found: Exported) -> Mapping[str, Any]:
    """export.json: what the model card says, for programs."""
    line = metrics_line(loaded)
    base = {name: getattr(found.base, name) for name in ("name", "revision", "licence")}
    return {
        "format": 1,
        "form": found.form,
        "loads_with": found.loading.tool,
        "class": found.loading.auto,
        "task": loaded.origin.task,
        "classes": loaded.task.classes,
        "pooling": found.pooling,
        "prompt": found.prompt or None,
        "max_length": loaded.config.training.max_length,
        "no_stock_class": found.reason or None,
        "base": {**base, "sha256": loaded.origin.sha256, "dtype": loaded.origin.dtype},
        "run": loaded.run.path.name,
        "owner": loaded.owner.name,
        "round": loaded.round,
        "test": line["test"] if line else None,
        "agreement": asdict(found.agreement) if found.agreement else None,
        **({"quantization": _quantization(loaded, found.quantized)} if found.quantized else {}),
    }


def _quantization(loaded: LoadedModel, apart: Agreement) -> Mapping[str, Any]:
    lower, upper, _ = loaded.halves
    differs = {"difference": apart.difference, "largest": apart.largest, "texts": apart.texts}
    return {"below_the_cut": lower.quantization, "above_the_cut": upper.quantization, **differs}


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", newline="\n")
