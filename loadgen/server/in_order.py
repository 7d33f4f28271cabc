from loadgen.server.job import FinishedBatch


class InOrder:
    """Give batches back in the order in which they left the queue: Triton's `preserve_ordering`. Pure.

    With several instances a batch may overtake one that left before it; it is then held until that one is there.
    """

    def __init__(self) -> None:
        self._next = 0
        self._held: dict[int, FinishedBatch] = {}

    def add(self, number: int, batch: FinishedBatch) -> list[FinishedBatch]:
        """Add the batch that left the queue as number `number`, from 0; return those that may go on, in order."""
        self._held[number] = batch
        released = []
        while self._next in self._held:
            released.append(self._held.pop(self._next))
            self._next += 1
        return released
