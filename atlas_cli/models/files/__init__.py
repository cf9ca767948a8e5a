"""From ``model.name`` to checked files: configuration, weights, tokenizer."""
