"""Access tokens and passwords stay out of everything that a run writes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

_WORD = r"(?:[\w.-]*[._-])?(?:token|password|passwd|secret|api[_-]?key)"
_FLAG = re.compile(rf"-{{1,2}}{_WORD}", re.IGNORECASE)
_ASSIGNED = re.compile(rf"(?<![\w.-])(-{{0,2}}{_WORD}=).+", re.IGNORECASE)
_HUB_TOKEN = re.compile(r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{8,}")
_IN_URL = re.compile(r"(://)[^/@\s]+@")
_VARIABLES = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
    *("WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD"),
)


def mask(text: str) -> str:
    """Text with hub tokens, secrets of this process's environment, and passwords in URLs replaced by ``***``."""
    for name in _VARIABLES:
        if len(value := os.environ.get(name, "").strip()) >= 8:  # shorter is no token, and may be part of a word
            text = text.replace(value, "***")
    return _IN_URL.sub(r"\1***@", _HUB_TOKEN.sub("***", text))


def mask_command(command: Sequence[str]) -> list[str]:
    """argv after ``mask``, and with ``token=...``, ``--token X`` and the like replaced as well."""
    masked, hide_next = [], False
    for word in command:
        if hide_next and not word.startswith("--"):
            masked.append("***")
            hide_next = False
            continue
        hide_next = _FLAG.fullmatch(word) is not None
        masked.append(_ASSIGNED.sub(r"\1***", mask(word)))
    return masked
