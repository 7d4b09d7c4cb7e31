"""Numbers of sets in plain lines, as a terminal shows them."""

from __future__ import annotations

from collections.abc import Iterator

from contrapose.evaluate.sets.numbers import SetNumber, SetNumbers


def set_lines(numbers: SetNumbers, base: str | None) -> Iterator[str]:
    """By metric, each model's number and its difference from the base, each method's runs beneath it."""
    against = f" against {numbers.num_reference:,}" if numbers.num_reference else ""
    for metric, is_better in numbers.higher_is_better.items():
        direction = "higher" if is_better else "lower"
        yield f"{metric} by {numbers.extractor}, {numbers.num_images:,} images{against}; {direction} is better"
        runs = {run for method in numbers.methods.values() for run in method.runs}
        for model, by_metric in numbers.models.items():
            if model not in runs:
                yield _line(model, by_metric[metric], numbers.differences.get(model, {}).get(metric), base)
        for method, combined in numbers.methods.items():
            line = _line(method, combined.metrics[metric], combined.differences[metric], base)
            yield f"{line}   ({len(combined.runs)} training seeds)"
            for run in combined.runs:
                yield _line(f"  {run}", numbers.models[run][metric], numbers.differences[run][metric], base)


def _line(name: str, number: SetNumber, difference: SetNumber | None, base: str | None) -> str:
    line = f"{name:<16} {_written(number)}"
    return line if difference is None else f"{line}   {_written(difference, sign='+')} against {base}"


def _written(number: SetNumber, sign: str = "") -> str:
    if number.interval is None:
        return f"{number.value:{sign}.4g}"
    return f"{number.value:{sign}.4g}  [{number.interval.low:{sign}.4g}, {number.interval.high:{sign}.4g}]"
