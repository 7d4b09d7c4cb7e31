"""Drawn pairs depend on prompt and seed alone, share their starting noise, and survive kills and full disks."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.cli.main import main
from contrapose.draw.pairs import Draw, DrawPlan, draw_pairs, plan_pairs
from contrapose.errors import UserError
from contrapose.files import aside_of
from contrapose.seeds import generator, seed_of
from contrapose.store.groups import GroupStore, stack
from contrapose.store.records import GroupRecord
from contrapose.store.shard_files import shard_path

FIELDS = ("winner", "loser")
NO_PROCESS = 2**22 + 1  # beyond the largest number that Linux gives a process


@pytest.fixture(scope="module")
def backbone(tiny_model: Path) -> Backbone:
    return load_backbone(tiny_model)


@pytest.fixture
def draw(tiny_model: Path, prompts_file: Path) -> Draw:
    return Draw(str(tiny_model), (str(prompts_file),), steps=2, shard_size=5, batch_size=2)


def _drawn(draw: Draw, backbone: Backbone, out: Path, plan: DrawPlan | None = None) -> GroupStore:
    for _ in draw_pairs(draw, plan or plan_pairs(draw), backbone, out):
        pass
    return GroupStore(out)


def _all(store: GroupStore, field: str) -> torch.Tensor:
    return stack(store, field, range(len(store)))


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_pairs_do_not_depend_on_the_batch(
    draw: Draw, backbone: Backbone, tiny_pairs: Path, tmp_path: Path, batch_size: int
) -> None:
    ours, theirs = _drawn(replace(draw, batch_size=batch_size), backbone, tmp_path), GroupStore(tiny_pairs)
    assert ours.records == theirs.records
    for field in FIELDS:
        assert torch.allclose(_all(ours, field), _all(theirs, field), atol=1e-4)


def test_pairs_do_not_depend_on_other_prompts(draw: Draw, backbone: Backbone, tiny_pairs: Path, tmp_path: Path) -> None:
    lines = Path(draw.prompts[0]).read_text().splitlines()
    (tmp_path / "few.txt").write_text("\n".join(lines[7:3:-1]))
    ours, theirs = (
        _drawn(replace(draw, prompts=(str(tmp_path / "few.txt"),)), backbone, tmp_path / "out"),
        GroupStore(tiny_pairs),
    )
    assert ours.records == theirs.records[7:3:-1]
    assert torch.allclose(_all(ours, "loser"), _all(theirs, "loser")[[7, 6, 5, 4]], atol=1e-4)


def test_each_pair_of_a_prompt_has_noise_of_its_own(draw: Draw, backbone: Backbone, tmp_path: Path) -> None:
    store = _drawn(replace(draw, pairs_per_prompt=2), backbone, tmp_path)
    assert len({r.id for r in store.records}) == len({r.seed for r in store.records}) * 12 == 24
    assert store.records[0].prompt == store.records[1].prompt
    assert (store.latent("winner", 0) - store.latent("winner", 1)).abs().max() > 0.1


def test_another_seed_draws_other_pairs(draw: Draw, backbone: Backbone, tiny_pairs: Path, tmp_path: Path) -> None:
    other = _drawn(replace(draw, seed=1), backbone, tmp_path)
    assert (other.latent("winner", 0) - GroupStore(tiny_pairs).latent("winner", 0)).abs().max() > 0.1


def test_winner_and_loser_start_from_the_same_noise(draw: Draw, backbone: Backbone, tmp_path: Path) -> None:
    """With one prompt for both sides the two images must be one."""
    texts = ["a red circle", "two blue squares"]
    records = [GroupRecord.pair(f"id-{i}", text, text, i) for i, text in enumerate(texts)]
    store = _drawn(draw, backbone, tmp_path, DrawPlan(records, []))
    assert torch.allclose(_all(store, "winner"), _all(store, "loser"), atol=1e-5)
    assert (store.latent("winner", 0) - store.latent("winner", 1)).abs().max() > 0.1


def test_pairs_are_what_the_stock_pipeline_yields(tiny_model: Path, tiny_pairs: Path) -> None:
    store = GroupStore(tiny_pairs)
    stock = StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None)
    for index in (0, 6, 11):
        record = store.records[index]
        for field, prompt in zip(FIELDS, (record.prompt, record.degraded), strict=True):
            noise = torch.randn(1, 4, 8, 8, generator=generator(record.prompt, record.seed))
            expected = stock(prompt, latents=noise, num_inference_steps=2, output_type="latent").images[0]
            assert torch.allclose(store.latent(field, index), expected, atol=1e-4)
        assert (store.latent("winner", index) - store.latent("loser", index)).abs().max() > 1e-4


def test_latents_are_never_decoded_and_texts_are_read_once(
    draw: Draw, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTRAPOSE_CACHE", str(tmp_path / "cache"))  # an empty one
    backbone, read = load_backbone(tiny_model), []
    embed = backbone.text.embed

    def count(prompts: list[str]) -> object:
        read.extend(prompts)
        return embed(prompts)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the autoencoder was called")

    monkeypatch.setattr(backbone.text, "embed", count)
    monkeypatch.setattr(backbone.sampler.stock.vae, "decode", refuse)
    monkeypatch.setattr(backbone.sampler.stock.vae, "encode", refuse)
    store = _drawn(replace(draw, pairs_per_prompt=3), backbone, tmp_path / "pairs")
    texts = {text for r in store.records for text in (r.prompt, r.degraded)}
    assert sorted(read) == sorted(texts)
    _drawn(replace(draw, pairs_per_prompt=3), backbone, tmp_path / "again")
    assert len(read) == len(texts)


def _interrupt(pairs: Iterator[int], after: int) -> None:
    for _ in range(after):
        next(pairs)
    pairs.close()


@pytest.mark.parametrize("after", [1, 3, 4, 5, 8])
def test_killed_and_resumed_is_uninterrupted(draw: Draw, backbone: Backbone, tmp_path: Path, after: int) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    _drawn(draw, backbone, whole)
    _interrupt(draw_pairs(draw, plan_pairs(draw), backbone, cut), after)
    missing = len(list(cut.glob("shard-*")))
    aside_of(cut / f"shard-{missing:05d}.safetensors", NO_PROCESS).write_bytes(b"cut short")
    _drawn(draw, backbone, cut)
    assert _bytes(cut) == _bytes(whole)


def test_a_finished_folder_is_left_alone(
    draw: Draw, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _drawn(draw, backbone, tmp_path)
    before = _bytes(tmp_path)
    monkeypatch.setattr("contrapose.draw.pairs._draw_batch", None)
    assert list(draw_pairs(draw, plan_pairs(draw), backbone, tmp_path)) == [5, 10, 12]
    assert _bytes(tmp_path) == before


@pytest.mark.parametrize("change", [{"steps": 3}, {"guidance_scale": 2.0}, {"seed": 1}, {"shard_size": 4}])
def test_changed_settings_are_refused(draw: Draw, backbone: Backbone, tmp_path: Path, change: dict[str, float]) -> None:
    _interrupt(draw_pairs(draw, plan_pairs(draw), backbone, tmp_path), 1)
    changed = replace(draw, **change)
    with pytest.raises(UserError, match=f"draw.{next(iter(change))}"):
        _drawn(changed, backbone, tmp_path)


def test_an_edited_prompt_file_is_refused(draw: Draw, backbone: Backbone, tmp_path: Path) -> None:
    """The path is the same and so is the count, but half of the pairs would be of other prompts."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(Path(draw.prompts[0]).read_text())
    mine = replace(draw, prompts=(str(prompts),))
    _interrupt(draw_pairs(mine, plan_pairs(mine), backbone, tmp_path / "out"), 4)
    prompts.write_text(Path(draw.prompts[0]).read_text().replace("three blue triangles", "three red triangles"))
    with pytest.raises(UserError, match=r"another content of draw\.prompts"):
        _drawn(mine, backbone, tmp_path / "out")


def test_a_prompt_more_is_told_as_another_content(draw: Draw, backbone: Backbone, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(Path(draw.prompts[0]).read_text())
    mine = replace(draw, prompts=(str(prompts),))
    _drawn(mine, backbone, tmp_path / "out")
    prompts.write_text(Path(draw.prompts[0]).read_text() + "a red star above a blue star\n")
    with pytest.raises(UserError, match=r"another content of draw\.prompts"):
        _drawn(mine, backbone, tmp_path / "out")


@pytest.mark.parametrize("num", ["13", "11", "'12'", "null"])
def test_another_number_in_the_manifest_is_told(
    draw: Draw, backbone: Backbone, tiny_pairs: Path, tmp_path: Path, num: str
) -> None:
    shutil.copytree(tiny_pairs, tmp_path / "pairs")
    manifest = tmp_path / "pairs" / "pairs.yaml"
    manifest.write_text(manifest.read_text().replace("num_groups: 12", f"num_groups: {num}"))
    with pytest.raises(UserError, match=r"pairs\.yaml: num_groups is"):
        _drawn(draw, backbone, tmp_path / "pairs")


def test_the_same_prompts_by_another_path_carry_on(
    draw: Draw, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts.txt").write_bytes(Path(draw.prompts[0]).read_bytes())
    _interrupt(draw_pairs(draw, plan_pairs(draw), backbone, tmp_path / "cut"), 4)
    monkeypatch.chdir(tmp_path)
    mine = replace(draw, prompts=("prompts.txt",))
    assert list(draw_pairs(mine, plan_pairs(mine), backbone, Path("cut")))[-1] == 12


def test_another_model_is_refused(draw: Draw, backbone: Backbone, tiny_v_model: Path, tmp_path: Path) -> None:
    _interrupt(draw_pairs(draw, plan_pairs(draw), backbone, tmp_path), 1)
    with pytest.raises(UserError, match="fingerprint"):
        _drawn(draw, load_backbone(tiny_v_model), tmp_path)


def test_the_batch_size_may_change(draw: Draw, backbone: Backbone, tmp_path: Path) -> None:
    _interrupt(draw_pairs(draw, plan_pairs(draw), backbone, tmp_path), 4)
    assert len(_drawn(replace(draw, batch_size=5), backbone, tmp_path)) == 12


def test_a_full_disk_leaves_whole_files_and_carries_on(
    draw: Draw, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contrapose import tensors as module

    save, saved = module.save_file, []

    def fill(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        save(tensors, path, metadata=metadata)
        saved.extend([path] if "shard-" in path.name else [])  # others are embeddings
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "save_file", fill)
    with pytest.raises(UserError, match=r"shard-00001\.safetensors: the disk is full"):
        _drawn(draw, backbone, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "inputs.yaml",
        "pairs.yaml",
        "shard-00000.safetensors",
        "skipped.jsonl",
    ]
    assert len(_drawn(draw, backbone, tmp_path)) == 12


def test_a_shard_that_was_cut_or_exchanged_is_named(
    draw: Draw, backbone: Backbone, tiny_pairs: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_pairs, tmp_path / "pairs")
    first, second = (shard_path(tmp_path / "pairs", index) for index in (0, 1))
    shutil.copy(second, first)
    with pytest.raises(UserError, match=r"shard-00000\.safetensors: holds other groups than were planned; delete it"):
        _drawn(draw, backbone, tmp_path / "pairs")
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"shard-00000\.safetensors: truncated or broken.*; delete it"):
        _drawn(draw, backbone, tmp_path / "pairs")
    first.unlink()
    third = shard_path(tmp_path / "pairs", 3)
    shutil.copy(second, third)
    with pytest.raises(UserError, match=r"shard-00003\.safetensors: holds other groups than were planned; take it out"):
        _drawn(draw, backbone, tmp_path / "pairs")
    for path in (first, third):
        path.unlink()
    _drawn(replace(draw, batch_size=16), backbone, tmp_path / "pairs")  # as these were drawn, to the last bit
    assert _bytes(tmp_path / "pairs") == _bytes(tiny_pairs)


def test_prompts_that_cannot_be_degraded_are_told(draw: Draw, backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("cat\na red circle\na red circle\n猫 と 犬\n")
    store = _drawn(replace(draw, prompts=(str(tmp_path / "p.txt"),)), backbone, tmp_path / "out")
    assert [r.prompt for r in store.records] == ["a red circle", "猫 と 犬"]
    assert '"name": "cat"' in (tmp_path / "out" / "skipped.jsonl").read_text()


def test_prompts_that_are_not_drawn_are_counted(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.csv").write_text("prompt,tag\ncat,x\na red circle,x\n,x\na red circle,x\n")
    words = ["--model", tiny_model, "--prompts", tmp_path / "p.csv", "--steps", 1, "--out", tmp_path / "out"]
    assert main(["pairs", "draw", *map(str, words)]) == 0
    assert "left out 1 repeated prompts and 1 that cannot be degraded" in capsys.readouterr().out
    skipped = (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in skipped] == ["no prompt", "not degraded"]


def test_the_plan_keeps_the_prompts_as_they_were_read(draw: Draw, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("cat\na red circle\na red circle\n")
    plan = plan_pairs(replace(draw, prompts=(str(tmp_path / "p.txt"),)))
    assert [(prompt.text, prompt.place) for prompt in plan.prompts] == [
        ("cat", "line 1"),
        ("a red circle", "line 2"),
        ("a red circle", "line 3"),
    ]


def test_nothing_to_draw(draw: Draw, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("cat\ndog\n")
    with pytest.raises(UserError, match="none of its 2 prompts could be degraded"):
        plan_pairs(replace(draw, prompts=(str(tmp_path / "p.txt"),)))


def test_several_sizes(draw: Draw, backbone: Backbone, tmp_path: Path) -> None:
    """Each pair has one of the sizes, by its seed; winner and loser the same; a killed draw carries on."""
    mixed = replace(draw, sizes=("16x16", "24x16"))
    store = _drawn(mixed, backbone, tmp_path / "whole")
    assert store.shapes == [(4, 8, 8), (4, 8, 12)]
    assert sorted(r.id for r in store.records) == sorted(r.id for r in plan_pairs(draw).records)
    for index in range(len(store)):
        assert store.latent("winner", index).shape == store.latent("loser", index).shape == store.shape(index)
    cut = draw_pairs(mixed, plan_pairs(mixed), backbone, tmp_path / "cut")
    for _ in range(4):
        next(cut)
    cut.close()
    _drawn(mixed, backbone, tmp_path / "cut")
    assert _bytes(tmp_path / "cut") == _bytes(tmp_path / "whole")


@pytest.mark.parametrize(("size", "told"), [("17x16", "multiples of 2"), ("16", "WIDTHxHEIGHT"), ("0x16", "side 0")])
def test_a_size_that_cannot_be(draw: Draw, backbone: Backbone, tmp_path: Path, size: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        _drawn(replace(draw, sizes=(size,)), backbone, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_left_to_the_model_is_written_down(draw: Draw, backbone: Backbone, tmp_path: Path) -> None:
    told = _drawn(replace(draw, steps=None), backbone, tmp_path).manifest["draw"]
    assert (told["steps"], told["guidance_scale"]) == (25, 7.5)


def test_groups_are_samples_of_the_prompt_itself_each_from_noise_of_its_own(
    draw: Draw, backbone: Backbone, tiny_model: Path, tmp_path: Path
) -> None:
    of_three = replace(draw, samples_per_prompt=3)
    store = _drawn(of_three, backbone, tmp_path / "a")
    assert store.kind == "groups" and {record.labels for record in store.records} == {(0.5, 0.5, 0.5)}
    assert not any(record.degraded for record in store.records)
    stock = StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None)
    record = store.records[7]
    for place in range(3):
        noise = torch.randn(1, 4, 8, 8, generator=generator(record.prompt, seed_of(record.seed, place)))
        expected = stock(record.prompt, latents=noise, num_inference_steps=2, output_type="latent").images[0]
        assert torch.allclose(store.latent(place, 7), expected, atol=1e-4)
    # a larger group begins with the same samples, and a killed run ends with the same files
    more = _drawn(replace(of_three, samples_per_prompt=4, batch_size=1), backbone, tmp_path / "b")
    assert torch.allclose(more.latent(2, 7), store.latent(2, 7), atol=1e-4)
    whole = _bytes(tmp_path / "a")
    shard_path(tmp_path / "a", 1).unlink()
    _drawn(of_three, backbone, tmp_path / "a")
    assert _bytes(tmp_path / "a") == whole


def test_groups_need_no_prompt_that_can_be_degraded(draw: Draw, tmp_path: Path) -> None:
    plan = plan_pairs(replace(draw, prompts=("cat",), samples_per_prompt=2, pairs_per_prompt=2))
    assert [record.labels for record in plan.records] == [(0.5, 0.5)] * 2 and not plan.left_out
    assert plan.records[0].seed != plan.records[1].seed
    with pytest.raises(UserError, match="samples_per_prompt"):
        replace(draw, samples_per_prompt=1)
