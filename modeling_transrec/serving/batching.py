"""Answers concurrent requests together: those that wait while one batch is computed are the next batch."""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


# What a value may make `compute` raise; others, such as a database that is gone, are the same for all values.
_OF_A_VALUE = (ValueError, TypeError, ArithmeticError, LookupError)


class Batcher:
    """
    Collects calls of many coroutines into calls of one function with a list, in a thread of its own.

    Nothing waits for a batch to fill up: a call that comes alone is computed at once, and those that come meanwhile go
    together. So one client waits for no other, and many have the throughput of batches.

    Args:
        compute: called with a key and the values that were given with it; returns a result for each value, where an
            exception stands for a value that failed.
        max_size: values of one call at most.
        max_waiting: values that wait at most; more are refused.
        observe: called with the size of each batch.

    Example:

    >>> async def main():
    ...     async with Batcher(lambda key, values: [key * value for value in values]) as batcher:
    ...         return await asyncio.gather(*(batcher.submit(10, value) for value in range(3)))
    >>> asyncio.run(main())
    [0, 10, 20]
    """

    def __init__(
        self,
        compute: Callable[[Any, list], Sequence],
        max_size: int = 256,
        max_waiting: int = 4096,
        observe: Callable[[int], None] | None = None,
    ):
        self.compute, self.max_size, self.max_waiting = compute, max_size, max_waiting
        self.observe = observe
        self._waiting: list[tuple[Any, Any, asyncio.Future]] = []
        self._has_come = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recommend")
        self._task: asyncio.Task | None = None

    async def __aenter__(self) -> "Batcher":
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for _, _, future in self._waiting:
            future.cancel()
        self._thread.shutdown()

    async def submit(self, key: Hashable, value: Any) -> Any:
        """Returns the result of one value; values with the same key are computed together.

        Raises:
            BusyError: if too many values wait already.
        """
        if len(self._waiting) >= self.max_waiting:
            raise BusyError(f"{self.max_waiting} requests wait already")
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((key, value, future))
        self._has_come.set()
        return await future

    async def _run(self) -> None:
        while True:
            await self._has_come.wait()
            key: Any = self._waiting[0][0]
            batch = [one for one in self._waiting if one[0] == key][: self.max_size]
            taken = set(map(id, batch))
            self._waiting = [one for one in self._waiting if id(one) not in taken]
            if not self._waiting:
                self._has_come.clear()
            batch = [one for one in batch if not one[2].done()]  # whose client has not gone
            if batch:
                await self._compute(key, batch)

    async def _compute(self, key: Any, batch: list) -> None:
        if self.observe is not None:
            self.observe(len(batch))
        values = [value for _, value, _ in batch]
        results = await asyncio.get_running_loop().run_in_executor(self._thread, self._results, key, values)
        for (_, _, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _results(self, key: Any, values: list) -> Sequence:
        """Returns a result or an exception for each value; what one value makes fail does not fail the others."""
        try:
            return self.compute(key, values)
        except Exception as error:
            if len(values) == 1 or not isinstance(error, _OF_A_VALUE):
                return [error] * len(values)
            return [result for value in values for result in self._results(key, [value])]


class BusyError(RuntimeError):
    """More requests wait than a service takes."""
