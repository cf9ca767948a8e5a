"""Corpora that packages carry, one file each: ``sms_spam.py`` is ``data: {corpus: sms-spam}``."""
