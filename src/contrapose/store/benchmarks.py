"""What published lists of prompts have beyond a row a prompt: folders of files, and questions in rows of their own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, groupby
from typing import Any

from contrapose.containers.places import Place, entries
from contrapose.containers.readers import READERS, file_rows, metadata_of
from contrapose.containers.row import ContainerRow
from contrapose.errors import UserError

DPG = "dpg_bench.csv"
_DPG_COLUMNS = ("item_id", "text", "proposition_id", "dependency", "question_natural_language")
_LISTS = (".txt", ".json", ".jsonl", ".csv", ".tsv")
_QUESTIONS = "yn_question_list"  # TIIF's, with the answers in _ANSWERS
_ANSWERS = "yn_answer_list"


def prompt_files(folder: Place) -> list[Place]:
    """The files of a folder that list prompts, in the order of their names, numbers by size.

    None where a metadata file says what the folder holds, or where it holds Parquet files or tars.
    """
    if metadata_of(folder) is not None:
        return []
    files = [entry.place for entry in entries(folder) if not entry.is_folder and entry.name != DPG]
    listed = [path for path in files if path.suffix.lower() in _LISTS]
    if any(path.suffix.lower() in READERS and path.suffix.lower() not in _LISTS for path in files):
        return []
    return sorted(listed, key=_order)


def _order(path: Place) -> tuple[int, int, str]:
    stem = path.name.removesuffix(path.suffix)
    number = int(stem) if stem.isascii() and stem.isdigit() else -1
    return number < 0, number, path.name


def dpg_questions(folder: Place) -> dict[str, list[dict[str, Any]]]:
    """The questions of each item of DPG, from `dpg_bench.csv` in the folder of its prompts or in the one above.

    Raises `UserError` naming the row of a broken one.
    """
    for path in (folder / DPG, folder.parent / DPG):
        if path.is_file():
            rows = with_questions(file_rows(path, _DPG_COLUMNS))
            return {str(row.fields["item_id"]): row.fields["questions"] for row in rows}
    return {}


def with_questions(rows: Iterator[ContainerRow]) -> Iterator[ContainerRow]:
    """The rows, a prompt each: DPG's, one a question, are joined, and TIIF's lists of questions become `questions`."""
    first = next(rows, None)
    if first is None:
        return
    rows = chain([first], rows)
    if all(name in first.fields for name in _DPG_COLUMNS):
        for _, group in groupby(rows, key=lambda row: row.fields["item_id"]):
            yield _dpg_item(list(group))
        return
    for row in rows:
        yield _with_answers(row) if _QUESTIONS in row.fields else row


def _dpg_item(rows: list[ContainerRow]) -> ContainerRow:
    """One prompt with its questions, each after those that it depends on; the answer to all is yes."""
    rows_by_id = {_number(row, row.fields["proposition_id"]): row for row in rows}
    parents = {number: _parents(row, rows_by_id) for number, row in rows_by_id.items()}
    order: list[int] = []
    while len(order) < len(parents):
        ready = [number for number in parents if number not in order and set(parents[number]) <= set(order)]
        if not ready:
            raise UserError(f"{rows[0].where}: its item's questions depend on each other in a circle; fix `dependency`")
        order += ready
    questions: list[dict[str, Any]] = []
    for number in order:
        question = {"question": rows_by_id[number].fields["question_natural_language"]}
        needs = [order.index(parent) for parent in parents[number]]
        questions.append({**question, "needs": needs} if needs else question)
    first = rows[0]
    fields = {"prompt": first.fields["text"], "item_id": first.fields["item_id"], "questions": questions}
    return ContainerRow(first.source, first.place, fields)


def _parents(row: ContainerRow, rows_by_id: dict[int, ContainerRow]) -> list[int]:
    """The questions that one depends on, 0 being none."""
    numbers = [_number(row, text) for text in str(row.fields["dependency"]).split(",")]
    parents = [number for number in numbers if number != 0]
    unknown = [number for number in parents if number not in rows_by_id]
    if unknown:
        raise UserError(f"{row.where}: depends on question {unknown[0]}, which its item does not have; fix it")
    return parents


def _number(row: ContainerRow, text: Any) -> int:
    try:
        return int(text)
    except (TypeError, ValueError):
        raise UserError(f"{row.where}: {text!r} is not the number of a question; fix it") from None


def _with_answers(row: ContainerRow) -> ContainerRow:
    """A row of TIIF, whose questions are those that `questions` holds, with their answers."""
    questions = row.fields[_QUESTIONS]
    answers = row.fields.get(_ANSWERS)
    if not isinstance(questions, list) or not isinstance(answers, list) or len(questions) != len(answers):
        raise UserError(f"{row.where}: `{_QUESTIONS}` and `{_ANSWERS}` are not lists of one length; fix them")
    asked = [{"question": text, "answer": answer} for text, answer in zip(questions, answers, strict=True)]
    kept = {name: value for name, value in row.fields.items() if name not in (_QUESTIONS, _ANSWERS)}
    return ContainerRow(row.source, row.place, {**kept, "questions": asked})
