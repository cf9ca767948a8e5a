"""Mechanisms by the name of their section under ``privacy``. One file each.

A mechanism file defines

    CHANNEL         what it acts on: "updates", "activations", "labels", "fingerprints"; None: it bounds no epsilon
    UNIT            whose presence or value its epsilon is about, as neighbouring data sets differ
    PROTECTS        in a sentence: what, from whom
"""
