"""Numbers of sets in plain lines, as a terminal shows them."""

from __future__ import annotations

from collections.abc import Iterator

from contrapose.evaluate.sets.numbers import SetNumber, SetNumbers


def set_lines(numbers: SetNumbers, base: str | None) -> Iterator[str]:
    """By metric, each model's number and its difference from the base."""
    against = f" against {numbers.num_reference:,}" if numbers.num_reference else ""
    for metric, is_better in numbers.higher_is_better.items():
        direction = "higher" if is_better else "lower"
        yield f"{metric} by {numbers.extractor}, {numbers.num_images:,} images{against}; {direction} is better"
        for model, by_metric in numbers.models.items():
            line = f"{model:<16} {_written(by_metric[metric])}"
            if model in numbers.differences:
                line += f"   {_written(numbers.differences[model][metric], sign='+')} against {base}"
            yield line


def _written(number: SetNumber, sign: str = "") -> str:
    if number.interval is None:
        return f"{number.value:{sign}.4g}"
    return f"{number.value:{sign}.4g}  [{number.interval.low:{sign}.4g}, {number.interval.high:{sign}.4g}]"
