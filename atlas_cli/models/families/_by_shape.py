"""The family of a model that has no file here: found by the shape of transformers' own modules, without weights.

What is found is a guess until the run's own comparison of the split with the unsplit model has shown it to be right, on
real weights and texts, before anything is trained.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NoReturn

from torch import nn
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING
from transformers.pytorch_utils import Conv1D

from atlas_cli.errors import ConfigError
from atlas_cli.models.block_config import shortened
from atlas_cli.models.families._refused import TWO_STACKS
from atlas_cli.models.families._shape_run import Call, ShapeRun, above, base_on_meta, is_causal, run_on_meta
from atlas_cli.models.families.contract import BaseFamily, NoPositions, PassEmbeddings
from atlas_cli.notes import say
from atlas_cli.printable import on_one_line

# ends of the names of layers that make queries and values, as models have them; those that make all in one go as well
_QUERIES = re.compile(r"(^|[._])(q|query|wq|q_lin|q_proj|query_proj)$")
_VALUES = re.compile(r"(^|[._])(v|value|wv|v_lin|v_proj|value_proj)$")
_TOGETHER = re.compile(r"(^|[._])(qkv|wqkv|Wqkv|qkv_proj|query_key_value|c_attn|W_pack|in_proj)$")
# of config.json, which older models have by the same names and no longer compute
_COMPUTED = ("partial_rotary_factor", "rotary_pct", "alibi", "position_embedding_type", "use_bidirectional_attention")
_OF_NO_SHAPE = ("dtype", "architectures", "_name_or_path", "use_cache")
_found: dict[str, BaseFamily] = {}  # by config, so that what is kept for a family is found again


class FamilyByShape(BaseFamily):
    """Whatever the modules show; texts are never put in one row, as nothing says that these models allow it."""

    packs = False
    buffers = ("rotary_emb.inv_freq", "position_ids")
    first_position = 0
    beside = False
    fused = False

    def parallel(self, config: PreTrainedConfig) -> bool:
        """As the modules ran."""
        return self.beside

    def fused_attention(self, config: PreTrainedConfig) -> bool:
        """Whether transformers gives its class one operation for it."""
        return self.fused

    def positions(self, config: PreTrainedConfig) -> int | None:
        """Those of the config, without the ones that positions counted from the padding token leave out."""
        found = super().positions(config)
        return None if found is None else found - self.first_position


def by_shape(config: PreTrainedConfig) -> BaseFamily:
    """The family of a model, from its modules; said once on standard error.

    Raises:
        ConfigError: it has no list of blocks, or something around them that is not understood; says what was found.
    """
    fields = {name: value for name, value in config.to_dict().items() if name not in _OF_NO_SHAPE}
    key = json.dumps(fields, sort_keys=True, default=str)
    if key not in _found:
        family = _found[key] = _of_modules(config)
        say(
            f"note: {config.model_type} has no family file; found by its shape: {family.by_shape}; the split is "
            "compared with the unsplit model before training, and clients are computed one by one, padded"
        )
    return _found[key]


@cache
def computed_by(model_type: object) -> tuple[str, ...]:
    """The options that a model without a family file computes: those that the source of its class names."""
    try:
        found = MODEL_MAPPING[CONFIG_MAPPING[str(model_type)]]
        source = inspect.getsource(sys.modules[(found[0] if isinstance(found, tuple) else found).__module__])
    except (KeyError, ImportError, OSError, TypeError):
        return ()
    return tuple(name for name in _COMPUTED if name in source)


def nearest(config: PreTrainedConfig, families: Sequence[tuple[str, BaseFamily]]) -> str | None:
    """The family whose blocks share most names of linear layers with this model's; None: none shares half of them."""
    try:
        base = base_on_meta(shortened(config, 1), bool(is_causal(config.model_type)))
        block = next(m for m in base.modules() if isinstance(m, nn.ModuleList) and len(m) == 1)[0]
    except Exception:  # transformers answers what it cannot build with exceptions of many kinds
        return None
    linear = {name for name, module in block.named_modules() if isinstance(module, nn.Linear)}

    def share(family: BaseFamily) -> float:
        named = {name for stage in family.stages for name in stage}
        return len(named & linear) / max(1, len(named | linear))

    # of those that are equally near, the one that covers most models
    name, best = max(families, key=lambda each: (share(each[1]), len(each[1].model_types)))
    return name if share(best) >= 0.5 else None


def _of_modules(config: PreTrainedConfig) -> FamilyByShape:
    causal = is_causal(config.model_type)
    if getattr(config, "is_encoder_decoder", False):
        _refuse(config, TWO_STACKS)
    if causal is None:
        _refuse(config, "transformers has no class of it that reads text")
    layers = int(config.num_hidden_layers)
    with _refused(config, "its modules cannot be built"):
        blocks = _blocks(config, base_on_meta(config, bool(causal)), layers)
    with _refused(config, "its blocks cannot be taken apart"):
        few = base_on_meta(shortened(config, min(2, layers)), bool(causal))
    with _refused(config, f"its modules do not run on embeddings of {config.hidden_size} numbers alone"):
        run = run_on_meta(few, blocks)
    stages = [tuple(call.path for call in stage) for stage in _stages(run.inside)]
    if stages and (others := _other_matrices(few.get_submodule(blocks)[0])):
        stages.append(others)
    norms = [call for call in run.after if _leads_to(call, run.output) and run.reads_hidden(call)]
    if len(norms) > 1:
        _refuse(config, f"{' and '.join(call.path for call in norms)} run after the last block, and one norm may")
    if not stages:
        _refuse(config, f"a block ({type(few.get_submodule(blocks)[0]).__name__}) runs no linear layer")
    embeddings = getattr(few, "embeddings", None)
    counted = hasattr(embeddings, "create_position_ids_from_input_ids")
    attributes: dict[str, Any] = {
        "__module__": __name__,
        "model_types": (config.model_type,),
        "blocks": blocks,
        "final_norm": norms[0].path if norms else None,
        "input_side": _input_side(few, run),
        "targets": _targets(stages),
        "stages": tuple(stages),
        "causal": causal,
        "ends_in_norm": run.keeps_last,
        "unused": tuple(_unused(few, run, blocks)),
        "options": computed_by(config.model_type),
        "beside": _beside(run.inside),
        "fused": bool(few._supports_sdpa),
        "first_position": int(embeddings.padding_idx) + 1 if counted and embeddings is not None else 0,
    }
    attributes["by_shape"] = (
        f"blocks {blocks}, final norm {attributes['final_norm'] or 'none'}, before the blocks "
        f"{', '.join(attributes['input_side']) or 'nothing'}, adapters on {', '.join(attributes['targets'])}, "
        f"{'a decoder' if causal else 'an encoder'}"
    )
    family: FamilyByShape = type("Family", (FamilyByShape,), attributes)()
    return family


def _refuse(config: PreTrainedConfig, why: str) -> NoReturn:
    raise ConfigError(
        f"no family of {config.model_type} is found by its shape: {why}; write a family file, or take another model",
        key="model.family",
    )


@contextmanager
def _refused(config: PreTrainedConfig, what: str) -> Iterator[None]:
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # transformers answers what it cannot build or run with exceptions of many kinds
        _refuse(config, f"{what} ({on_one_line(f'{type(error).__name__}: {error}')[:200]})")


def _blocks(config: PreTrainedConfig, base: nn.Module, layers: int) -> str:
    """The path of the list of blocks: as many as the model has layers, of one class; of several, the largest."""
    lists = {path: m for path, m in base.named_modules() if isinstance(m, nn.ModuleList) and len(m)}
    fitting = {
        path: sum(p.numel() for p in found.parameters())
        for path, found in lists.items()
        if len(found) == layers and len({type(block) for block in found}) == 1
    }
    if not fitting:
        seen = [f"{path} ({len(m)} of {len({type(b) for b in m})} class(es))" for path, m in list(lists.items())[:4]]
        _refuse(config, f"no list of {layers} blocks of one class; it has {', '.join(seen) or 'no list'}")
    return max(fitting, key=lambda path: fitting[path])


def _leads_to(call: Call, tensor: Any) -> bool:
    behind = above(tensor)
    return any(given is tensor or given.grad_fn in behind for given in call.gave)


def _input_side(base: Any, run: ShapeRun) -> Mapping[str, Callable[[], nn.Module]]:
    """All that changes the hidden states before the first block, with the token embedding."""
    tokens = base.get_input_embeddings()
    found: dict[str, Callable[[], nn.Module]] = {
        path: nn.Identity for path, module in base.named_modules() if module is tokens
    }
    for call in run.before:
        table = [given.shape[-1] for given in call.gave] == [base.config.hidden_size] and call.gave[0].grad_fn is None
        if not _leads_to(call, run.entered) and not table:
            continue  # rotary positions, say, which every block reads
        if not run.reads_hidden(call):
            found[call.path] = NoPositions
        else:
            found[call.path] = PassEmbeddings if call.by_name else nn.Identity
    outer = [path for path in found if any(other.startswith(f"{path}.") for other in found)]
    return {path: make for path, make in found.items() if not any(path.startswith(f"{o}.") for o in outer)}


def _unused(base: nn.Module, run: ShapeRun, blocks: str) -> Iterator[str]:
    """Attributes of the base that the last hidden state does not need and the base runs without, such as a pooler."""
    for call in run.after:
        if "." in call.path or _leads_to(call, run.output):
            continue
        setattr(base, call.path, None)
        try:
            run_on_meta(base, blocks)
        except Exception:  # it needs it to run
            setattr(base, call.path, call.module)
        else:
            yield call.path


def _stages(calls: Sequence[Call]) -> list[list[Call]]:
    """Linear layers in the order in which they ran; neighbours that read the same are of one stage."""
    found: list[list[Call]] = []
    for call in calls:
        if found and found[-1][-1].read[0] is call.read[0]:
            found[-1].append(call)
        else:
            found.append([call])
    return found


def _other_matrices(block: nn.Module) -> tuple[str, ...]:
    """The weights of routers and experts, which are no linear layers, and run when attention is over."""
    return tuple(
        name
        for path, module in block.named_modules()
        if not isinstance(module, nn.Linear | Conv1D | nn.Embedding)
        for name, weight in module.named_parameters(path, recurse=False)
        if weight.dim() in (2, 3)
    )


def _beside(calls: Sequence[Call]) -> bool:
    """Whether the feed-forward, the third stage, reads nothing that comes from the attention's output."""
    stages = _stages(calls)
    if len(stages) < 3:
        return False
    output, behind = stages[1][0].gave[0], above(stages[2][0].read[0])
    return output.grad_fn is not None and output.grad_fn not in behind


def _targets(stages: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The layers of queries and values by their names; else all of the first stage."""
    names = [name for stage in stages for name in stage]
    if together := tuple(name for name in stages[0] if _TOGETHER.search(name)):
        return together
    separate = [[name for name in names if wanted.search(name)] for wanted in (_QUERIES, _VALUES)]
    return tuple(name for name in names if any(name in found for found in separate)) if all(separate) else stages[0]
