"""Embeddings by the row: the rows of some tokens are held, and the rest of the table stays in a file.

A client's texts have a few thousand tokens of a vocabulary of up to a quarter of a million. Their rows are copied once;
those of other tokens, which come in evaluation or in generated text, are read from the file for the batch that has
them, and are not kept. So what a client holds follows from its own texts alone, and results are those of the table, bit
for bit. The file is a client's own: if rows were asked of a server, it would see which tokens a client has.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from atlas_cli.errors import ResourceError
from atlas_cli.models.frozen.load import FrozenBase, current_sha256
from atlas_cli.models.halves.split import with_modules

_COUNTING = threading.Lock()


class TableFile(NamedTuple):
    """A table of embeddings in a file.

    Attributes:
        tensor: its name in the safetensors file at ``path``.
        dtype: in which the model has it.
        mark: size and time of the file when the table was last compared.
    """

    path: Path
    tensor: str
    dtype: torch.dtype
    mark: tuple[int, int]

    @classmethod
    def at(cls, path: Path, tensor: str, dtype: torch.dtype) -> Self:
        """The table in a file as it is now."""
        return cls(path, tensor, dtype, _mark(path))

    def rows(self, tokens: Tensor) -> Tensor:
        """Copies of the rows of tokens (N,): (N, D).

        The file is mapped meanwhile, and not held open, so that little but these rows comes into memory, and the file
        can be removed on any system.

        Raises:
            ResourceError: the file is gone or was changed.
        """
        try:
            if _mark(self.path) != self.mark:
                raise OSError("it was changed")
            with safe_open(self.path, "pt") as opened:
                rows: Tensor = opened.get_tensor(self.tensor)[tokens.cpu()]
        except (OSError, SafetensorError) as error:
            raise ResourceError(
                f"{self.path}, from which rows of the token embedding are read (embedding: rows), cannot be used: "
                f"{getattr(error, 'strerror', None) or error}; leave a model's files as they are while it is used"
            ) from None
        return rows.to(self.dtype)


def _mark(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


class RowEmbedding(nn.Module):
    """Stands for an ``nn.Embedding``, or for one of its subclasses, whose own forward it runs on the rows it holds.

    Args:
        whole: with all rows; it stays as it is.
        tokens: (N,) int64, sorted, each once: those whose rows are held.
        table: where the other rows are; None if no other token comes.

    Attributes:
        read: how often a token had to be looked up in ``table``.
    """

    tokens: Tensor

    def __init__(self, whole: nn.Embedding, tokens: Tensor, table: TableFile | None) -> None:
        super().__init__()
        tokens = tokens.to(whole.weight.device)
        self.held = copy.copy(whole)
        self.held._parameters = {"weight": nn.Parameter(whole.weight.detach()[tokens], requires_grad=False)}
        self.held.padding_idx = None  # a number of the whole table's, and of use in training only
        self.held.num_embeddings = len(tokens)
        self.register_buffer("tokens", tokens, persistent=False)
        self.table, self.read = table, 0

    def forward(self, tokens: Tensor) -> Any:
        """The embeddings of tokens of any shape."""
        places = torch.searchsorted(self.tokens, tokens).clamp_(max=len(self.tokens) - 1)
        known = self.tokens[places] == tokens
        if known.all():
            return self.held(places)
        assert self.table is not None, "a token whose row is not held"
        with _COUNTING:  # threads that compute side by side look tokens up in one embedding
            self.read += int((~known).sum())
        distinct, places = tokens.unique(return_inverse=True)
        rows = self.table.rows(distinct).to(self.held.weight)
        return torch.func.functional_call(self.held, {"weight": rows}, (places,))

    def only(self, tokens: Tensor) -> list[Tensor]:
        """The tensors of an embedding that holds the rows of these tokens, all of which this one holds, and no other.

        They are what a client holds that shares this embedding with others in a process.
        """
        tokens = tokens.to(self.tokens.device)
        rows = self.held.weight[torch.searchsorted(self.tokens, tokens)]
        return [rows, tokens, *self.held.buffers()]


def by_rows(base: FrozenBase, tokens: Tensor, table: TableFile | None) -> FrozenBase:
    """The base with the rows of some tokens in place of its table of embeddings; all else is shared.

    An output embedding that is tied to the table does not come along.
    """
    whole = base.model.get_input_embeddings()  # type: ignore[operator]
    rows = RowEmbedding(whole, tokens, table)
    tied = base.lm_head is not None and any(p is whole.weight for p in base.lm_head.parameters())
    model = with_modules(base.model, {path_of_embedding(base.model): rows})
    made = replace(base, model=model, lm_head=None if tied else base.lm_head, embedding="rows")
    return made if base.held_sha256 is None else replace(made, held_sha256=current_sha256(made))


def path_of_embedding(model: nn.Module) -> str:
    """Where the token embedding of a base model is."""
    whole = model.get_input_embeddings()  # type: ignore[operator]
    return next(path for path, module in model.named_modules() if module is whole)


def row_embeddings(module: nn.Module) -> Iterator[RowEmbedding]:
    """The embedding by the row in a module, where it has one."""
    return (each for each in module.modules() if isinstance(each, RowEmbedding))
