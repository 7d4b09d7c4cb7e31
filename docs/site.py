"""What the documents' site needs beside docs/: pages that lie elsewhere or come from docstrings, and links to them.

mkdocs calls the two functions `on_files` and `on_page_markdown` (mkdocs.yml names this file among its hooks).
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

ELSEWHERE = {
    "index.md": "README.md",
    "recipes.md": "recipes/README.md",
    "shipped-studies.md": "studies/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
"""Pages of the site that lie outside of docs/, by their names in the site."""

_TITLES = {
    "backbones": "Models",
    "draw": "Pairs that the model draws",
    "degrade": "Prompts made worse",
    "exchange": "Other people's pairs",
    "photographs": "Photographs",
    "labels": "Scores and labels by judges",
    "store": "Stored pairs and prompts",
    "methods": "Methods",
    "core": "Links, and guidances at inference",
    "train": "Training",
    "runs": "Runs",
    "guiding": "Guidance and images",
    "judges": "Judges",
    "evaluate": "Evidence",
    "report": "Pages",
    "studies": "Studies",
    "estimate": "What a run would cost",
    "publish": "Sharing",
    "worlds": "Worlds with known answers",
    "errors": "Errors",
}
"""What each room is called on the page, in the page's order."""

_SHOWN_AMONG = {
    "worlds.evaluation": "evaluate",
    "worlds.settings": "evaluate",
    "studies.sweeping": "guiding",
    "cli.study_lines": "studies",
    "report.sweep": "guiding",
}
"""Modules whose names a reader looks for in another room."""

BY_COMMAND = {
    "quickstart": "Quickstart run_study",
    "estimate": "Setup estimate_run fit_card stage_times",
    "prompts check": "read_prompts describe_prompts shared_prompts",
    "prompts split": "Splitting split_prompts",
    "pairs draw": "Draw plan_pairs draw_pairs",
    "pairs real": "Real make_pairs",
    "pairs import": "Import read_listing plan_import import_pairs",
    "pairs score": "Scoring Decoder score_groups",
    "pairs label": "Labelling plan_labels label_groups",
    "pairs show": "GroupStore Decoder write_pairs_page",
    "pairs check": "GroupStore prompt_reader check_pairs",
    "pairs export": "Export is_exported export_pairs",
    "align": "Run align finish_run",
    "sample": "Sampling named_prompts load_backbone hasten sample_images write_contact_sheet",
    "sweep": "Sweeping plan_sweep sample_sweep judge_sweep read_sweep write_sweep_page",
    "play": "Play Player",
    "evaluate": "Judging evaluate_models lay_out_images summary_lines",
    "report": "read_evidence Report write_report",
    "tables": "read_evidence write_tables",
    "merge": "Merge merge",
    "export": "export_kohya",
    "push": "push",
    "study run": "read_study run_study",
    "study plan": "read_study plan_study",
    "study choice": "read_study DevChoices",
    "study report": "read_study write_study_report",
    "ray": "",
    "toy": "Toy run_toy",
    "shapes prompts": "write_shapes_prompts",
    "shapes photos": "write_shapes_photos",
    "shapes pretrain": "Pretraining pretrain_shapes",
}
"""The names that do what each command does, in the order in which they are used."""

_INTRODUCTION = """\
# Python

Everything on this page is imported from `contrapose` itself (`import contrapose as cp`; `cp.align`), typed, and loads
its libraries when it is first used. The commands are thin shells over these names: what a command's `--help` says of a
setting holds for the setting of the same name here. The [front page](index.md) has an example.

A `UserError` is raised for what a user can fix, with one line that says how.
"""

_LINK = re.compile(r"(?P<mark>!?)\[(?P<text>[^\]]*)\]\((?P<address>[^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```[^\n]*$", re.MULTILINE | re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages of `ELSEWHERE` and that of the Python names to those of docs/."""
    from mkdocs.structure.files import File

    for name, source in ELSEWHERE.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, "api.md", content=python_page()))
    return files


def python_page() -> str:
    """Every public name of `contrapose` with its docstring, by the room that it lives in."""
    import contrapose

    rooms: dict[str, list[str]] = {room: [] for room in _TITLES}
    for name, home in contrapose._HOMES.items():
        rooms[_SHOWN_AMONG.get(home, home.partition(".")[0])].append(name)
    sections = [_INTRODUCTION, _by_command()]
    for room, names in rooms.items():
        if names:
            entries = "\n\n".join(f"::: contrapose.{name}" for name in names)
            sections.append(f"## {_TITLES[room]}\n\n{entries}\n")
    return "\n".join(sections)


def _by_command() -> str:
    """A table of the commands, each with its names."""
    lines = ["| command | in Python |", "|---|---|"]
    for command, names in BY_COMMAND.items():
        links = ", ".join(f"[`{name}`](#contrapose.{name})" for name in names.split())
        lines.append(f"| `{command}` | {links} |")
    return "\n".join(lines) + "\n"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Leads each relative link to the site's own page, to the repository, or nowhere where that has no address."""
    return with_links(markdown, page.file.src_uri, config.repo_url or "")


def with_links(markdown: str, name: str, repository: str) -> str:
    """The text of the page `name` with links as the site needs them; code blocks stay as they are."""
    folder = posixpath.dirname(ELSEWHERE.get(name, f"docs/{name}"))
    pieces = []
    end = 0
    for fence in _FENCE.finditer(markdown):
        prose = markdown[end : fence.start()]
        pieces += [_LINK.sub(lambda link: _led(link, folder, repository), prose), fence[0]]
        end = fence.end()
    pieces.append(_LINK.sub(lambda link: _led(link, folder, repository), markdown[end:]))
    return "".join(pieces)


def _led(link: re.Match[str], folder: str, repository: str) -> str:
    address = link["address"]
    if re.match(r"[a-z]+:|#", address):
        return link[0]
    path, hash_sign, anchor = address.partition("#")
    target = posixpath.normpath(posixpath.join(folder, path))
    names = {source: name for name, source in ELSEWHERE.items()}
    if target in names:
        new = names[target]
    elif target.startswith("docs/"):
        new = target.removeprefix("docs/")
    elif repository:
        new = f"{repository.rstrip('/')}/blob/main/{target}"
    else:
        return link["text"]  # a file of the sources, which the site does not hold
    return f"{link['mark']}[{link['text']}]({new}{hash_sign}{anchor})"
