"""The entry's queue: include/linux/ptr_ring.h, with its lazily returned slots."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")
POINTER_BYTES = 8


class PtrRing(Generic[T]):
    """A `struct ptr_ring` (5.10 to 7.3): a consumed slot may stay taken for a while.

    Args:
        size: slots, exactly: nothing is rounded up.
        cache_line: SMP_CACHE_BYTES.
    """

    def __init__(self, size: int, *, cache_line: int = 64) -> None:
        self.size = size
        # __ptr_ring_set_size: no batching where a batch would be most of the ring
        batch = cache_line * 2 // POINTER_BYTES
        self.batch = batch if batch and batch <= size // 2 else 1
        self._slots: list[T | None] = [None] * size
        self._taken = 0
        self._producer = self._head = self._tail = 0

    @property
    def capacity(self) -> int:
        """How many more entries it takes until one is consumed."""
        return self.size - self._taken

    def empty(self) -> bool:
        """Return whether there is nothing to consume (__ptr_ring_empty)."""
        return self.size == 0 or self._slots[self._head] is None

    def produce(self, item: T) -> bool:
        """Put an entry in, and return whether there was room (__ptr_ring_produce)."""
        if self.size == 0 or self._slots[self._producer] is not None:
            return False
        self._slots[self._producer] = item
        self._producer = (self._producer + 1) % self.size
        self._taken += 1
        return True

    def consume(self) -> T | None:
        """Take the oldest entry (__ptr_ring_consume)."""
        item = self._slots[self._head] if self.size else None
        if item is None:
            return None
        head = self._head + 1
        if head - self._tail >= self.batch or head >= self.size:
            # __ptr_ring_zero_tail: only now can a producer use what was consumed
            self._slots[self._tail : head] = [None] * (head - self._tail)
            self._taken -= head - self._tail
            self._tail = head
        if head >= self.size:
            head = self._tail = 0
        self._head = head
        return item

    def consume_batched(self, count: int) -> list[T]:
        """Take up to `count` entries (__ptr_ring_consume_batched)."""
        taken: list[T] = []
        while len(taken) < count and (item := self.consume()) is not None:
            taken.append(item)
        return taken
