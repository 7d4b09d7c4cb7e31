"""A family is one file and one line of the table: nothing else in the sources says its name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import families

from contrapose.backbones.families.table import FAMILIES

SOURCES = Path(__file__).parents[2] / "src" / "contrapose"
HOME = SOURCES / "backbones" / "families"
# The shapes world builds and trains a pipeline of its own.
ELSEWHERE = {SOURCES / "worlds" / "shapes" / "blueprint.py"}
NAMES = {f.name for f in FAMILIES} | {pipeline.__name__ for f in FAMILIES for pipeline in f.pipelines}
MODULES = {path.stem for path in HOME.glob("*.py")} - {"__init__", "table"}


def _named(path: Path) -> set[str]:
    """Names of families and of their pipelines in a source file, comments and strings too, and imports of their files.

    A file's bare name may be a word of something else, as of a data set whose images a model of that name drew.
    """
    text = path.read_text(encoding="utf-8")
    imported = set(re.findall(r"families\.(\w+)", text)) & MODULES
    return set(re.findall(r"\w+", text)) & NAMES | imported


def test_no_family_is_named_elsewhere() -> None:
    others = [path for path in sorted(SOURCES.rglob("*.py")) if path.parent != HOME and path not in ELSEWHERE]
    assert len(others) > 100
    assert {str(path): _named(path) for path in others if _named(path)} == {}


def test_a_family_has_a_line_of_the_table_and_knows_no_other() -> None:
    table = ast.parse((HOME / "table.py").read_text(encoding="utf-8"))
    lines = [node for node in table.body if isinstance(node, ast.AnnAssign) and node.target.id == "FAMILIES"]
    assert len(lines[0].value.elts) == len(FAMILIES)
    for module in MODULES:
        assert _named(HOME / f"{module}.py") & MODULES == set()


def test_every_family_has_a_row_that_drives_the_tests() -> None:
    pipelines = [type(families.of(name).build()) for name in families.DISTINCT]
    assert pipelines == [family.pipelines[0] for family in FAMILIES]


def test_the_rule_sees_names(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text('if type(pipe).__name__ == "FluxPipeline":\n    pass  # as ZImage\n')
    assert _named(source) == {"FluxPipeline", "ZImage"}


def _reached_for(path: Path) -> set[str]:
    """Expressions that take a stock pipeline off another object, or the one that a backbone's parts share."""
    reached = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            if (node.attr == "pipe" and owner != "self") or (node.attr == "pipeline" and owner.endswith("backbone")):
                reached.add(ast.unparse(node))
    return reached


def test_other_rooms_ask_a_part_of_a_backbone() -> None:
    others = [path for path in sorted(SOURCES.rglob("*.py")) if SOURCES / "backbones" not in path.parents]
    assert {str(path): _reached_for(path) for path in others if _reached_for(path)} == {}


def test_the_rule_sees_what_is_reached_for(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text("backbone.pipe.vae\nself.backbone.pipeline.stock\nself.pipe\nsource.pipeline\n")
    assert _reached_for(source) == {"backbone.pipe", "self.backbone.pipeline"}
