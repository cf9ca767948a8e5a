"""Runs the code of model cards, as their reader would, in a process that cannot import atlas.

``python load_by_card.py TEXTS FOLDER...``: the texts as JSON; each folder gets a file ``NAME.logits`` beside it.
"""

import json
import os
import re
import sys
import warnings
from pathlib import Path

sys.modules["atlas_cli"] = None


def main(texts, folders, library):
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    for folder in map(Path, folders):
        blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
        wanted = [block for block in blocks if ("sentence_transformers" in block) == (library == "sentences")]
        if not wanted:
            continue
        given = texts[:1] if "ForCausalLM" in wanted[0] else texts
        code, count = re.subn(r"^texts = .*$", lambda found, given=given: f"texts = {given!r}", wanted[0], flags=re.M)
        assert count == 1, folder
        os.chdir(folder)
        names = {}
        exec(code, names)
        save_file({"logits": names["logits"].float().contiguous()}, folder.with_suffix(f".{library}"))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(json.loads(sys.argv[1]), sys.argv[3:], sys.argv[2])
