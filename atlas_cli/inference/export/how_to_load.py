"""Code that loads an exported folder with stock tools and computes logits, for the model card."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from atlas_cli.inference.export.stock_heads import CAUSAL, TEXT

Tool = Literal["transformers", "sentence-transformers", "transformers and the head"]
_SPANS = "AutoModelForQuestionAnswering"
_POOLED = {
    "mean": "(hidden * mask).sum(1) / mask.sum(1)",
    "first": "hidden[:, 0]",
    "last": "hidden[torch.arange(len(hidden)), inputs['attention_mask'].sum(1) - 1]",
}


@dataclass(frozen=True)
class Loading:
    """What must be known to load a folder.

    Attributes:
        tool: what computes the logits.
        auto: the Auto class of the model.
        adapter: whether the folder is a PEFT adapter; ``base_inside``: with its base in the folder ``base``.
        options: further arguments of ``from_pretrained`` for an adapter's base, as source text.
        pooling: of a head behind ``AutoModel``; None where it reads every token.
        head_file, head: where its weights are, and the beginning of their names.
        max_length: tokens after which texts are cut.
        tokenizer: the class of the tokenizer.
        names_classes: whether the largest logit is a class.
    """

    tool: Tool
    auto: str
    max_length: int
    tokenizer: str = "AutoTokenizer"
    adapter: bool = False
    base_inside: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    pooling: str | None = None
    head_file: str = "head.safetensors"
    head: str = "classifier"
    names_classes: bool = False

    def code(self) -> str:
        """The code; it leaves ``logits``."""
        if self.tool == "sentence-transformers":
            return f"{self._sentences()}\n```\n\nWithout sentence-transformers:\n\n```python\n{self._behind()}"
        return self._stock() if self.tool == "transformers" else self._behind()

    def _model(self) -> tuple[list[str], list[str]]:
        """Imports, and the lines that make ``model``."""
        options = "".join(f", {name}={value}" for name, value in self.options.items())
        if not self.adapter:
            return (
                [self._import(self.auto)],
                [f"model = {self.auto}.from_pretrained(folder).eval()"],
            )
        peft = "AutoPeft" + self.auto.removeprefix("Auto")
        if self.tool == "transformers" and not self.base_inside:
            return (
                [f"from peft import {peft}", self._import()],
                [f"model = {peft}.from_pretrained(folder{options}).eval()"],
            )
        place = 'f"{folder}/base"' if self.base_inside else "PeftConfig.from_pretrained(folder).base_model_name_or_path"
        names = "PeftModel" if self.base_inside else "PeftConfig, PeftModel"
        return (
            [f"from peft import {names}", self._import(self.auto)],
            [
                f"base = {self.auto}.from_pretrained({place}{options})",
                "model = PeftModel.from_pretrained(base, folder).eval()",
            ],
        )

    def _import(self, *names: str) -> str:
        return f"from transformers import {', '.join([*names, self.tokenizer])}"

    def _begin(self, more: list[str]) -> list[str]:
        imports, model = self._model()
        texts = '["a text"]' if self.auto == CAUSAL else '["a text", "another, longer text"]'
        padding = "" if self.auto == CAUSAL else "padding=True, "
        return [
            "import torch",
            *sorted([*imports, *more]),
            "",
            'folder = "."  # where this file is',
            f"tokenizer = {self.tokenizer}.from_pretrained(folder)",
            *model,
            f"texts = {texts}",
            f'inputs = tokenizer(texts, {padding}truncation=True, max_length={self.max_length}, return_tensors="pt")',
            "with torch.no_grad():",
        ]

    def _stock(self) -> str:
        lines = self._begin([])
        if self.auto == _SPANS:
            return "\n".join(
                [
                    *lines,
                    "    output = model(**inputs)",
                    "logits = torch.stack([output.start_logits, output.end_logits], -1)",
                ]
            )
        lines.append("    logits = model(**inputs).logits")
        if self.auto == TEXT and self.names_classes:
            lines.append("print([model.config.id2label[number] for number in logits.argmax(-1).tolist()])")
        return "\n".join(lines)

    def _behind(self) -> str:
        lines = [
            *self._begin(["from safetensors.torch import load_file"]),
            "    hidden = model(**inputs).last_hidden_state.float()",
            f'head = load_file(f"{{folder}}/{self.head_file}")',
        ]
        if self.pooling is not None:
            lines += ['mask = inputs["attention_mask"].unsqueeze(-1)'] if self.pooling == "mean" else []
            lines.append(f"pooled = {_POOLED[self.pooling]}".replace("'", '"'))
        read = "hidden" if self.pooling is None else "pooled"
        lines.append(f'logits = {read} @ head["{self.head}.weight"].T + head["{self.head}.bias"]')
        return "\n".join(lines)

    def _sentences(self) -> str:
        lines = [
            "from sentence_transformers import SentenceTransformer",
            "",
            'folder = "."  # where this file is',
            "model = SentenceTransformer(folder)",
            'texts = ["a text", "another, longer text"]',
            "logits = model.encode(texts, convert_to_tensor=True)",
        ]
        return "\n".join(lines)
