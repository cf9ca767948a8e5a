"""Attacks on recorded messages, one file each: ``nearest_embedding.py`` is ``atlas audit --attack nearest-embedding``.

A file defines ``CHANNEL`` (what is listened to), ``KNOWS`` (the adversary's knowledge besides it) and
``attack(evidence)``, which returns a ``Figure`` or raises ``Inapplicable`` with the reason. It is adaptive: it may use
the frozen model, what the server delivered, and the defence in force, and makes its own training material with them.
"""
