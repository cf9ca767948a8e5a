"""Accounts for all rows of a source: for training, for testing, or unused."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True)
class Account:
    """Counts of one task group's rows, so that every row left out is counted.

    Attributes:
        read: training rows of the source, before a test part was held out.
        own_test: whether the source has a test part of its own.
        test_read: rows of that part, or of the part held out.
        repeats: of those, the rows that repeat a training row over the task's fields.
        duplicates: what was done with the repeats.
        train, test: rows that are used, after ``limit`` and ``test_limit``.
    """

    read: int
    own_test: bool
    test_read: int
    repeats: int
    duplicates: Literal["drop", "keep"]
    train: int
    test: int

    @property
    def available(self) -> tuple[int, int]:
        """Training and test rows before ``limit`` and ``test_limit`` took a sample."""
        train = self.read if self.own_test else self.read - self.test_read
        return train, self.test_read - (self.repeats if self.duplicates == "drop" else 0)

    def sentence(self) -> str:
        """``100 rows, 20 held out to test on, 6 of these repeat training rows and are left out: 80 training rows, 14
        test rows``."""
        if self.own_test:
            first = f"{self.read:,} training rows, {self.test_read:,} test rows of the source's own"
        else:
            first = f"{self.read:,} rows, {self.test_read:,} held out to test on"
        if self.repeats:
            done = "are left out" if self.duplicates == "drop" else "are kept"
            first += f", {self.repeats:,} of these repeat training rows and {done} (holdout.duplicates)"
        train, test = self.available
        for name, used, of in (("limit", self.train, train), ("test_limit", self.test, test)):
            if used < of:
                first += f", {name} takes {used:,} of {of:,}"
        return f"{first}: {self.train:,} to train on, {self.test:,} to test on"

    def record(self) -> dict[str, object]:
        """For the manifest."""
        return asdict(self)
