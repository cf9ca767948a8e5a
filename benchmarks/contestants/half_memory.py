"""Peak memory of a client's half under stock PEFT, measured alone in a process as atlas measures its own clients.

``peft_half`` starts ``python half_memory.py BLOCKS BATCH TOKENS DROPOUT``, which prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2Model

from atlas_cli.planning.memory.saved_trace import LiveBytes

# as atlas_cli.experiment.allocation.measured_client: glibc would keep freed blocks as if they were still in use
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1"}
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peft_half(blocks: int, batch: int, tokens: int, dropout: float) -> dict[str, int]:
    """Bytes of a GPT-2 client: "frozen" weights, "peak" of all tensors, "resident" beyond the interpreter (Linux).

    Args:
        dropout: of the frozen base while it trains: 0.1 in GPT-2's own config, 0 in atlas.
    """
    command = [sys.executable, __file__, *map(str, (blocks, batch, tokens, dropout))]
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, **_ALLOCATOR, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(config: GPT2Config, batch: int, tokens: int) -> dict[str, int]:
    """Two steps of forward, backward from the cut and AdamW, one text with one token of padding."""
    if _CLEAR.exists():
        _CLEAR.write_text("5", encoding="utf-8")
    before = _status("VmRSS")
    half = GPT2Model(config)
    half.ln_f = nn.Identity()
    model: PeftModel = get_peft_model(half, LoraConfig(r=8, target_modules=["c_attn"], fan_in_fan_out=True))
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    owned = sum(p.numel() * p.element_size() for p in model.parameters())
    frozen = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)
    with LiveBytes([*model.parameters(), *model.buffers()]) as live:
        for _ in range(2):
            ids = torch.randint(0, config.vocab_size, (batch, tokens))
            mask = torch.ones_like(ids)
            mask[0, -1] = 0
            sent = model(input_ids=ids, attention_mask=mask).last_hidden_state
            sent.backward(torch.randn_like(sent))
            optimizer.step()
            optimizer.zero_grad()
            del sent
    return {"frozen": frozen, "peak": owned + live.peak, "resident": _status("VmHWM") - before}


def _status(key: str) -> int:
    if not _STATUS.exists():
        return 0
    line = next(line for line in _STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    blocks, batch, tokens = map(int, sys.argv[1:4])
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), float(sys.argv[4]))
    torch.set_num_threads(1)
    measured(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=32), 2, 4)  # so that torch's code is in memory
    print(json.dumps(measured(GPT2Config(n_layer=blocks, **rates), batch, tokens)))
