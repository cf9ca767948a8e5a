"""LoRA adapters: which layers get one, how it is applied, and reading and writing the PEFT format."""
