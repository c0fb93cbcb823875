"""The amount of measuring: full, or just enough to check that measuring works."""

from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scale:
    """The scale of a run. ``small`` takes seconds and its figures mean nothing; it is for checks."""

    small: bool = False

    def pick(self, full: T, small: T) -> T:
        """Return the first value, or the second one at a small scale."""
        return small if self.small else full

    @property
    def rounds(self) -> range:
        """The rounds of one figure."""
        return range(self.pick(5, 2))
