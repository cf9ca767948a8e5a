"""Who ``benchmarks/speed.py`` compares: atlas and other ways to do the same work.

A contestant has ``step()``, one step of training (of all its clients), which returns the ``Work`` that was in it. All
start from the same frozen weights, adapters, head and tokenized texts, and train the same parameters with AdamW.
"""
