"""LoRA adapters: which layers get one, how it is applied, and the PEFT format, out and in."""
