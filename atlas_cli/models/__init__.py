"""Hugging Face models, cut at a layer, with LoRA adapters attached from outside."""
