"""A side (one network that the ladder compares), and the decorator of the functions that measure it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, get_args, get_type_hints

if TYPE_CHECKING:
    from resnet_xf.ladder.sides.live import Live

P = ParamSpec("P")
T = TypeVar("T")


class Side(Protocol):
    """One network under comparison: run here (:class:`Live`), or read from saved measurements (:class:`Captured`)."""

    name: str
    version: str
    device: str
    unbiased_variance: bool
    """See :class:`resnet_xf.backend.contract.Backend`."""
    tell: Callable[[float], object]
    """Called with the finished share of a long measurement, from 0 to 1."""

    def cannot(self, capability: str) -> str | None:
        """Return why the side lacks a capability (``numpy cannot train``), or None if it has it."""
        ...

    def release(self) -> None:
        """Free what takes much memory and can be measured again."""
        ...

    def take(self, key: str, kind: Any, measure: Callable[[Any], T], *, large: bool) -> T:
        """Return the measurement of a key, of type ``kind``: saved, remembered, or computed by ``measure(side)``.

        :func:`measured` calls this. ``large``: whether :meth:`release` may forget the measurement.
        """
        ...

    def take_each(self, keys: Sequence[str], kind: Any, measure: Callable[[Any], Iterable[T]]) -> Iterator[T]:
        """Yield a measurement of type ``kind`` for each key, one at a time, so that not all must fit into memory."""
        ...


def measured(
    key: str, *, large: bool = False
) -> Callable[[Callable[Concatenate[Live, P], T]], Callable[Concatenate[Side, P], T]]:
    """Decorate a function that measures a live side, so that it can be called with any side.

    A live side calls the function and remembers the result. A capture returns what it saved under ``key``, in which
    ``{precision}`` stands for the argument ``precision``. Both return the type that the function declares:
    ``@measured("output/{precision}")`` on ``def output(live: Live, precision: str) -> Array`` lets a rung call
    ``output(side, "float64")``.

    If the key has ``{each}``, the function measures several things. Its first argument after the side lists their
    names. It yields one result for each name, in that order. These are not remembered.

    Args:
        key: the name of the measurement in a capture.
        large: the result holds large arrays, so a live side forgets it on :meth:`Side.release`.
    """

    def decorate(measure: Callable[Concatenate[Live, P], T]) -> Callable[Concatenate[Side, P], T]:
        parameters, kind = signature(measure), get_type_hints(measure)["return"]

        @wraps(measure)
        def ask(side: Side, /, *args: P.args, **kwargs: P.kwargs) -> T:
            bound = parameters.bind(side, *args, **kwargs)
            bound.apply_defaults()

            def run(live: Live) -> Any:
                return measure(live, *args, **kwargs)

            found: Any
            if "{each}" in key:
                keys = [key.format_map(bound.arguments | {"each": name}) for name in bound.args[1]]
                found = side.take_each(keys, get_args(kind)[0], run)
            else:
                found = side.take(key.format_map(bound.arguments), kind, run, large=large)
            return found  # type: ignore[no-any-return]

        return ask

    return decorate
