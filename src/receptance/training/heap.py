"""How far a heap grows: a C library that puts each block into the smallest gap which is large enough.

That is how glibc does it (malloc/malloc.c there: the best fit, neighbours that are free joined into one). A
tensor begins at a multiple of 64, for which glibc looks for a gap that is longer by that and by the smallest
block. So a tensor does not fit into the gap that one of its size has left, and a heap grows well beyond what
is in it at a time.
"""

from __future__ import annotations

from bisect import bisect

_ALIGNMENT = 64  # torch's, of the CPU
_HEADER = 16  # before each block
_SMALLEST = 32  # block


class Heap:
    """Blocks side by side, from address 0 on; only their places are kept, so they may be of any size."""

    def __init__(self) -> None:
        self.most = 0  # bytes that it ever had to the end of its last block
        self._end = 0
        self._sizes: dict[int, int] = {}  # of blocks, by address
        self._gaps: list[tuple[int, int]] = []  # (address, size), in this order

    def allocate(self, size: int) -> int:
        """Return the address of a new block."""
        size = -(-size // _ALIGNMENT) * _ALIGNMENT + _HEADER
        needed = size + _ALIGNMENT + _SMALLEST
        fits = [(room, address) for address, room in self._gaps if room >= needed]
        if fits:
            room, address = min(fits)
            self._gaps[bisect(self._gaps, (address, 0))] = address + size, room - size
        else:
            address, self._end = self._end, self._end + size
            self.most = max(self.most, self._end)
        self._sizes[address] = size
        return address

    def free(self, address: int) -> None:
        """Give back the block at an address."""
        end, number = address + self._sizes.pop(address), bisect(self._gaps, (address, 0))
        if number < len(self._gaps) and self._gaps[number][0] == end:
            end += self._gaps.pop(number)[1]
        if number and sum(self._gaps[number - 1]) == address:
            address, _ = self._gaps.pop(number - 1)
            number -= 1
        if end == self._end:
            self._end = address
        else:
            self._gaps.insert(number, (address, end - address))
