"""The class of stock transformers that gives a run's logits, and the weights that its head must have for that.

A head of atlas is one linear layer with a bias, on every token or on one vector a text (pooling). Stock classes have
the same for tokens and for spans. For texts they differ by family:

    score                     decoders: no bias, on the last token. The bias goes into the bias of the final norm, where
                              that has one: W (h + d) = W h + b for W d = b.
    pooler, classifier        BERT: classifier(tanh(pooler(h))), on the first token
    dense, out_proj           RoBERTa, MPNet: out_proj(tanh(dense(h))), on the first token; ELECTRA: with a gelu
    pre_classifier            DistilBERT: classifier(relu(pre_classifier(h))), on the first token
    pooler, classifier        DeBERTa: classifier(gelu(pooler(h))), on the first token

A tanh is used where it is the identity to float32: on logits that are 2^-16 of what they are, which the layer after it
undoes. Of a relu f, z is f(z) - f(-z), and of a gelu, too: z P(z) + z P(-z). No stock class takes the mean over tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.activations import GELUActivation

from atlas_cli.inference.loaded_model import LoadedModel
from atlas_cli.tasks._heads import PooledHead

CAUSAL, TEXT = "AutoModelForCausalLM", "AutoModelForSequenceClassification"
_OF_TASK = {
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
}
_SMALL = 2.0**-16


@dataclass(frozen=True)
class StockClass:
    """A class of stock transformers with a run's head in it.

    Attributes:
        auto: its Auto class; ``name``: its own.
        within: the attribute that holds the base.
        tensors: by their names in the class, what it has besides the base's own weights.
        modules: paths of the modules that ``tensors`` are of.
        how: how it comes to the same logits, in one sentence; empty where it computes what atlas does.
    """

    auto: str
    name: str
    within: str
    tensors: Mapping[str, Tensor]
    modules: tuple[str, ...] = ()
    how: str = ""


class NoStockClassError(Exception):
    """Says why no class of stock transformers gives these logits."""


def stock_class(loaded: LoadedModel, config: Any) -> StockClass:
    """The class for a model's task and family.

    Args:
        config: a Hugging Face config with the model's classes.

    Raises:
        NoStockClassError: there is none; why, in words that follow "since".
    """
    head = loaded.model.head
    if loaded.task.causal_only:
        found = _skeleton(CAUSAL, config)
        return StockClass(CAUSAL, type(found).__name__, found.base_model_prefix, _output_embedding(loaded))
    if isinstance(head, PooledHead):
        return _for_texts(loaded, config, head)
    auto = _OF_TASK.get(loaded.origin.task)
    if auto is None:
        raise NoStockClassError(f"the head of {loaded.origin.task} is none that stock tools have")
    return _for_tokens(auto, config, head)


def _for_tokens(auto: str, config: Any, head: nn.Module) -> StockClass:
    model = _skeleton(auto, config)
    linear = [name for name, module in _outside(model).items() if isinstance(module, nn.Linear)]
    if len(linear) != 1 or model.get_submodule(linear[0]).bias is None:
        raise NoStockClassError(f"{type(model).__name__} has no linear layer with a bias on every token")
    weight, bias = (tensor.detach() for tensor in head.parameters())
    tensors = {f"{linear[0]}.weight": weight, f"{linear[0]}.bias": bias}
    return StockClass(auto, type(model).__name__, model.base_model_prefix, tensors, (linear[0],))


def _for_texts(loaded: LoadedModel, config: Any, head: PooledHead) -> StockClass:
    pooling = head.pool.pooling
    if pooling == "mean":
        raise NoStockClassError("the head reads the mean over all tokens, and every stock class reads one token")
    model = _skeleton(TEXT, config)
    name, within = type(model).__name__, model.base_model_prefix
    weight, bias = head.classifier.weight.detach(), head.classifier.bias.detach()
    layers = {path for path, module in _outside(model).items() if isinstance(module, nn.Linear)}
    reads = "last" if layers == {"score"} else "first"
    if reads != pooling:
        raise NoStockClassError(f"the head reads the {pooling} token, and {name} reads the {reads}")
    if layers == {"score"}:
        tensors, modules, how = _on_last_token(loaded, within, weight, bias)
    elif layers == {"classifier"} and isinstance(getattr(getattr(model, within), "pooler", None), nn.Module):
        tensors, modules, how = _behind_tanh(f"{within}.pooler.dense", "classifier", weight, bias)
        modules = (f"{within}.pooler", "classifier")
    elif layers == {"classifier.dense", "classifier.out_proj"}:
        gelu = isinstance(getattr(model.classifier, "activation", None), GELUActivation)
        behind = partial(_behind_difference, "gelu") if gelu else _behind_tanh
        tensors, modules, how = behind("classifier.dense", "classifier.out_proj", weight, bias)
    elif layers == {"pre_classifier", "classifier"}:
        tensors, modules, how = _behind_difference("relu", "pre_classifier", "classifier", weight, bias)
    elif layers == {"pooler.dense", "classifier"} and config.pooler_hidden_act == "gelu":
        tensors, modules, how = _behind_difference("gelu", "pooler.dense", "classifier", weight, bias)
    else:
        raise NoStockClassError(f"the layers of {name} before its logits are none that atlas knows")
    return StockClass(TEXT, name, within, tensors, modules, how)


_Weights = tuple[dict[str, Tensor], tuple[str, ...], str]


def _on_last_token(loaded: LoadedModel, within: str, weight: Tensor, bias: Tensor) -> _Weights:
    if not bias.any():
        return {"score.weight": weight}, ("score",), ""
    path = loaded.base.family.final_norm
    norm = loaded.base.model.get_submodule(path) if path else None
    shift = getattr(norm, "bias", None)
    if norm is None or shift is None:
        raise NoStockClassError(
            "the head has a bias, for which the stock class of this family has no place, and its final norm has none"
        )
    added = torch.linalg.pinv(weight.double()) @ bias.double()
    moved = (shift.detach().double() + added).to(shift.dtype)
    own = {f"{within}.{path}.{name}": tensor.detach() for name, tensor in norm.state_dict().items()}
    tensors = {**own, f"{within}.{path}.bias": moved, "score.weight": weight}
    how = f"The bias of the head is in the bias of the final norm, {within}.{path}."
    return tensors, (f"{within}.{path}", "score"), how


def _behind_tanh(first: str, second: str, weight: Tensor, bias: Tensor) -> _Weights:
    classes, size = _room(weight, 1)
    inner, outer = _empty(first, second, classes, size)
    inner[f"{first}.weight"][:classes], inner[f"{first}.bias"][:classes] = weight * _SMALL, bias * _SMALL
    outer[f"{second}.weight"][:, :classes] = torch.eye(classes) / _SMALL
    how = (
        f"{first} computes 2^-16 of the logits, of which the tanh after it is the identity to float32, and {second} "
        "undoes the factor; float16 has no room for that."
    )
    return {**inner, **outer}, (first.partition(".")[0],), how


def _behind_difference(activation: str, first: str, second: str, weight: Tensor, bias: Tensor) -> _Weights:
    classes, size = _room(weight, 2)
    inner, outer = _empty(first, second, classes, size)
    inner[f"{first}.weight"][: 2 * classes] = torch.cat([weight, -weight])
    inner[f"{first}.bias"][: 2 * classes] = torch.cat([bias, -bias])
    outer[f"{second}.weight"][:, : 2 * classes] = torch.cat([torch.eye(classes), -torch.eye(classes)], 1)
    how = f"{first} computes the logits and their negatives, and {second} takes the difference behind the {activation}."
    return {**inner, **outer}, tuple(dict.fromkeys(path.partition(".")[0] for path in (first, second))), how


def _room(weight: Tensor, rows: int) -> tuple[int, int]:
    classes, size = weight.shape
    if rows * classes > size:
        raise NoStockClassError(f"{classes} classes do not go through the {size} units before the stock class' logits")
    return classes, size


def _empty(first: str, second: str, classes: int, size: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    inner = {f"{first}.weight": torch.zeros(size, size), f"{first}.bias": torch.zeros(size)}
    return inner, {f"{second}.weight": torch.zeros(classes, size), f"{second}.bias": torch.zeros(classes)}


def _output_embedding(loaded: LoadedModel) -> dict[str, Tensor]:
    """The weights of the output embedding, unless the class ties them to the input embedding by itself."""
    lm_head = loaded.base.lm_head
    if lm_head is None or loaded.base.config.tie_word_embeddings:
        return {}
    return {f"lm_head.{name}": tensor for name, tensor in lm_head.state_dict().items()}


def _skeleton(auto: str, config: Any) -> Any:
    """A model of an Auto class without storage."""
    try:
        with torch.device("meta"):
            return getattr(transformers, auto).from_config(config)
    except ValueError:  # the type is not among those of the Auto class
        raise NoStockClassError(f"transformers has no {auto} for {config.model_type}") from None


def _outside(model: Any) -> dict[str, nn.Module]:
    """The modules that a class has besides the base, by path."""
    within = model.base_model_prefix
    return {name: module for name, module in model.named_modules() if name.partition(".")[0] not in ("", within)}
