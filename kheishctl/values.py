"""Immutable values of the client, without the costly import of dataclasses or msgspec."""

from typing import Any, Self, dataclass_transform


@dataclass_transform(frozen_default=True)
class ClientValue:
    """An immutable value: its fields are the annotations of its class, and it equals others of its class."""

    __match_args__: tuple[str, ...] = ()

    def __init_subclass__(cls) -> None:
        cls.__match_args__ = tuple(cls.__annotations__)  # type: ignore[misc]

    def __init__(self, *values: Any, **fields: Any) -> None:
        names = self.__match_args__
        fields |= zip(names, values, strict=False)
        unknown = fields.keys() - set(names)
        missing = [name for name in names if name not in fields and not hasattr(type(self), name)]
        if unknown or missing or len(values) > len(names):
            raise TypeError(f"{type(self).__name__} has the fields {', '.join(names)}")
        vars(self).update(fields)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__match_args__)
        return f"{type(self).__name__}({fields})"

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__match_args__)

    def replace(self, **fields: Any) -> Self:
        """Return a copy with other values of some fields."""
        return type(self)(**vars(self) | fields)
