"""One bar for what several workers do together, drawn where all of them were started."""

from __future__ import annotations

from contrapose.cli.progress import Bar
from contrapose.on_ray import HowFar


class SharedBar:
    """The bars of what workers do together, one after another as the first worker comes to each."""

    def __init__(self, num_workers: int):
        self._num_workers = num_workers
        self._titles: list[str] = []
        self._bar: Bar | None = None
        self._done: dict[int, int] = {}
        self._shown = -1

    def __enter__(self) -> SharedBar:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(*error)

    def __call__(self, number: int, progress: HowFar) -> None:
        """Show what worker `number` tells, with what the others have told of the same."""
        if progress.title not in self._titles:
            self.__exit__(None, None, None)
            self._titles.append(progress.title)
            self._bar = Bar(progress.title, progress.total, memory=str).__enter__()  # that of workers is elsewhere
            self._done = {}
            self._shown = -1
        if progress.title == self._titles[-1] and self._bar is not None:
            self._done[number] = progress.done
            done = self._at_least(progress.total)
            if done > self._shown:
                self._bar(done, progress.total)
                self._shown = done

    def _at_least(self, total: int | None) -> int:
        """How much is done: what the furthest worker knows of, or what all have done of what each begins with."""
        furthest = max(self._done.values())
        if total is None:
            return furthest
        # what a worker sees beyond its share is of others' shares, which they tell of themselves
        share = -(-total // self._num_workers)
        return max(furthest, min(total, sum(min(done, share) for done in self._done.values())))
