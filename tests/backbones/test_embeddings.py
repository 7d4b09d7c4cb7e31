"""The cache gives what the backbone gives, bit for bit, and asks it once per distinct prompt; memory has its limit."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
from encoders import PROMPTS, Backbone, Fixed, Ragged, same, shards

from contrapose.backbones import embeddings as module
from contrapose.backbones.embeddings import Embeddings, cache_folder
from contrapose.errors import UserError


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", [Fixed, Ragged])
def test_cached_is_live_bit_for_bit(tmp_path: Path, family: type[Backbone], dtype: torch.dtype) -> None:
    live = family(dtype=dtype)
    fresh, again = family(dtype=dtype), family(dtype=dtype)
    for chosen in (PROMPTS, PROMPTS[:1], PROMPTS[::-1], (*PROMPTS[:3], *PROMPTS[:3], PROMPTS[0])):
        assert same(Embeddings(fresh, folder=tmp_path)(chosen), live.read(chosen))
        assert same(Embeddings(again, folder=tmp_path)(chosen), live.read(chosen))
    assert sorted(fresh.read_in) == sorted(PROMPTS), "each prompt once, over four caches"
    assert again.asked == []


def test_padding_reaches_to_the_longest_of_the_batch(tmp_path: Path) -> None:
    cached = Embeddings(Ragged(room=77), folder=tmp_path)
    for chosen in (PROMPTS, ("a cat", "")):  # computed, then read
        assert cached(chosen)["text"].shape[1] == max(map(len, chosen))
    assert cached([""])["text"].shape == (1, 0, 6), "a row may be empty"
    kept = sum(map(len, PROMPTS)) * 6 * 4
    assert kept < sum(p.stat().st_size for p in shards(tmp_path)) < len(PROMPTS) * 77 * 6 * 4


def test_what_comes_out_is_the_callers_own(tmp_path: Path) -> None:
    backbone = Fixed()
    for limit in (50.0, 0.0):
        cached = Embeddings(backbone, limit, tmp_path / str(limit))
        for ask in (lambda c=cached: c(["a"]), cached.unconditional):
            before = {name: value.clone() for name, value in ask().items()}
            for value in ask().values():
                value.zero_()
            assert same(ask(), before)


def test_prompts_go_through_the_encoder_in_batches(tmp_path: Path) -> None:
    backbone = Fixed()
    prompts = [f"prompt {i}" for i in range(150)]
    assert same(Embeddings(backbone, folder=tmp_path)(prompts), backbone.read(prompts))
    assert [len(batch) for batch in backbone.asked] == [64, 64, 22]
    assert len(shards(tmp_path)) == 3


def test_unconditional_is_cached_and_is_no_prompt(tmp_path: Path) -> None:
    backbone = Ragged()
    cached = Embeddings(backbone, folder=tmp_path)
    for prompt in ("", "unconditional"):
        cached([prompt])
    expected = backbone.unconditional()
    for again in (cached, Embeddings(backbone, folder=tmp_path)):
        assert same(again.unconditional(), expected)
    assert backbone.unconditional_asked == 2, "once here, once by the cache"
    assert same(cached(["", "unconditional"]), backbone.read(["", "unconditional"]))


def test_settings_do_not_mix_and_can_be_read(tmp_path: Path) -> None:
    one, other = Fixed("one"), Fixed("other", dtype=torch.float16)
    assert Embeddings(one, folder=tmp_path)(["a"])["text"].dtype == torch.float32
    assert Embeddings(other, folder=tmp_path)(["a"])["text"].dtype == torch.float16
    assert one.read_in == other.read_in == ["a"]
    notes = {path.parent.name: path.read_text() for path in tmp_path.glob("*/settings.txt")}
    assert notes == {hashlib.sha256(s.encode()).hexdigest()[:16]: f"{s}\n" for s in ("one", "other")}


@pytest.mark.parametrize("left", [0, 4, 100, -1], ids=["nothing", "half a length", "half a header", "less a byte"])
def test_a_broken_shard_is_mended(tmp_path: Path, left: int) -> None:
    backbone = Fixed()
    Embeddings(backbone, folder=tmp_path)(["a"])
    (shard,) = shards(tmp_path)
    shard.write_bytes(shard.read_bytes()[:left])
    for _ in range(2):
        assert same(Embeddings(backbone, folder=tmp_path)(["a"]), backbone.read(["a"]))
    assert backbone.read_in == ["a", "a"], "computed again, once"


def test_rubbish_in_the_folder_is_passed_over(tmp_path: Path) -> None:
    backbone = Fixed()
    Embeddings(backbone, folder=tmp_path)(["a"])
    home = shards(tmp_path)[0].parent
    (home / "b.safetensors").write_bytes(b"\xff" * 500)
    (home / "c.safetensors").mkdir()
    (home / ".d.safetensors.partial").write_bytes(b"killed")
    assert Embeddings(backbone, folder=tmp_path).settle(["a"]).num_new == 0


def test_a_shard_deleted_while_in_use_is_computed_again(tmp_path: Path) -> None:
    backbone = Fixed()
    early = Embeddings(backbone, folder=tmp_path)
    late = Embeddings(backbone, folder=tmp_path)
    early(["a"])
    late.settle(["a"])
    for shard in shards(tmp_path):
        shard.unlink()
    backbone.encoder_bytes = 0  # released
    with pytest.raises(UserError, match="run the same command again"):
        late(["a"])
    backbone.encoder_bytes = 1
    assert same(late(["a"]), backbone.read(["a"]))
    assert same(early(["a"]), backbone.read(["a"])), "it looks before it asks"
    assert backbone.read_in == ["a", "a"]
    for shard in shards(tmp_path):
        shard.unlink()
    assert early.settle(["a"]).num_new == 1, "settling looks, however recently it was there"


def test_two_caches_at_once_see_each_others_rows(tmp_path: Path) -> None:
    one, other = Fixed(), Fixed()
    first, second = Embeddings(one, folder=tmp_path), Embeddings(other, folder=tmp_path)
    first(["a", "b"])
    assert same(second(["b", "c", "a"]), one.read(["b", "c", "a"]))
    assert other.read_in == ["c"]


def test_two_writers_at_once(tmp_path: Path) -> None:
    """Both write all rows, into one folder, while the other reads it."""
    code = (
        f"import sys, pathlib; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from encoders import PROMPTS, Ragged\n"
        "from contrapose.backbones.embeddings import Embeddings\n"
        "cached = Embeddings(Ragged(), folder=pathlib.Path(sys.argv[1]))\n"
        "sys.stdin.readline()\n"
        "for i in range(40): cached([f'{i} {p}' for p in PROMPTS])\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    writers = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in range(2)]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [writer.wait(120) for writer in writers] == [0, 0]
    backbone, prompts = Ragged(), [f"{i} {p}" for i in range(40) for p in PROMPTS]
    assert same(Embeddings(backbone, folder=tmp_path)(prompts), backbone.read(prompts))
    assert backbone.asked == []
    assert not list(tmp_path.rglob("*.partial"))


def test_settle_reads_everything_in_and_lets_the_encoders_go(tmp_path: Path) -> None:
    backbone = Ragged()
    prompts = [f"{'long ' * (i // 50)}prompt {i}" for i in range(200)]
    Embeddings(backbone, folder=tmp_path)(prompts[:10])
    titles: list[str] = []
    told: list[tuple[int, int]] = []

    def progress(title: str) -> AbstractContextManager[Callable[[int, int], None]]:
        titles.append(title)
        return nullcontext(lambda done, total: told.append((done, total)))

    cached = Embeddings(backbone, folder=tmp_path)
    settled = cached.settle(iter(prompts * 2), progress)
    assert settled[:2] == (200, 190) and not settled.encoders_needed
    assert titles == ["reading prompts"] and told[-1] == (190, 190) and told == sorted(told)
    assert sorted(backbone.read_in) == sorted(prompts)
    size = sum(path.stat().st_size for path in shards(tmp_path)) / 1e9
    assert 0.98 * size < settled.gigabytes < size, "all but the unconditional row"
    assert settled.line == ("200 prompts: embeddings in the cache (under 0.01 GB, 190 new); text encoders leave memory")
    backbone.encoder_bytes, backbone.asked, before = 0, [], backbone.unconditional_asked
    assert same(cached(prompts), backbone.read(prompts))
    cached.unconditional()
    assert backbone.asked == [] and backbone.unconditional_asked == before
    assert Embeddings(backbone, folder=tmp_path).settle(prompts, progress).num_new == 0
    assert titles == ["reading prompts"], "nothing was left to be told of"


def test_settling_nothing(tmp_path: Path) -> None:
    assert Embeddings(Fixed(), folder=tmp_path).settle([])[:4] == (0, 0, 0.0, False)


ROW = 5 * 6 * 4 + 6 * 8  # bytes of one prompt of Fixed


def test_beyond_the_limit_small_encoders_stay(tmp_path: Path) -> None:
    backbone = Fixed(encoder_bytes=250_000_000)
    prompts = [f"prompt {i}" for i in range(300)]
    cached = Embeddings(backbone, 299 * ROW / 1e9, tmp_path)
    settled = cached.settle(prompts)
    assert settled.encoders_needed and settled.num_new == 0
    assert settled.gigabytes == pytest.approx(300 * ROW / 1e9)
    assert settled.line.endswith("GB: the text encoders (0.25 GB) stay in memory instead")
    assert len(backbone.read_in) <= 64, "a sample tells"
    for _ in range(2):
        assert same(cached(prompts), backbone.read(prompts))
    assert sorted(backbone.read_in) == sorted(prompts), "memory serves what was read before"
    cached.unconditional()
    assert not list(tmp_path.iterdir())


def test_within_the_limit_they_leave(tmp_path: Path) -> None:
    backbone = Fixed()
    assert not Embeddings(backbone, 301 * ROW / 1e9, tmp_path).settle(f"prompt {i}" for i in range(300)).encoders_needed


def test_beyond_the_limit_large_encoders_are_an_error(tmp_path: Path) -> None:
    cached = Embeddings(Fixed(encoder_bytes=9_500_000_000), 10 * ROW / 1e9, tmp_path)
    with pytest.raises(
        UserError, match=r"300 prompts.*over the limit.*9\.50 GB.*--cache-limit.*--text-length"
    ) as error:
        cached.settle(f"prompt {i}" for i in range(300))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_the_estimate_is_not_fooled_by_a_sorted_file(tmp_path: Path) -> None:
    prompts = sorted(("x" * (i % 100) + str(i) for i in range(1000)), key=len)
    exact = sum(6 * 4 * len(prompt) + 8 for prompt in prompts) / 1e9
    assert Embeddings(Ragged(), 0.0, tmp_path).settle(prompts).gigabytes == pytest.approx(exact, rel=0.05)


def test_other_runs_embeddings_count_and_stay(tmp_path: Path) -> None:
    backbone = Fixed()
    Embeddings(backbone, folder=tmp_path)([f"other {i}" for i in range(100)])
    before, limit = shards(tmp_path), 100 * ROW / 1e9
    settled = Embeddings(backbone, limit, tmp_path).settle(["a", "b"])
    assert settled.encoders_needed and "2 prompts: embeddings would take" in settled.line
    assert f"of others in {before[0].parent}" in settled.line
    assert shards(tmp_path) == before
    there = Embeddings(backbone, limit, tmp_path).settle([f"other {i}" for i in range(50)])
    assert not there.encoders_needed, "what is there need not be written"


def test_without_settling_the_limit_holds_too(tmp_path: Path) -> None:
    backbone = Fixed(encoder_bytes=9_500_000_000)
    prompts = [f"prompt {i}" for i in range(192)]
    cached = Embeddings(backbone, 130 * ROW / 1e9, tmp_path)
    for _ in range(2):
        assert same(cached(prompts), backbone.read(prompts))
    assert len(shards(tmp_path)) == 1, "a second one, with its header, would be too much"
    assert len(backbone.read_in) == 192


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IN_MEMORY", 3 * ROW)
    backbone = Fixed()
    cached = Embeddings(backbone, 0.0, tmp_path)
    for prompt in ("a", "b", "c", "a", "d", "a", "b"):
        assert same(cached([prompt]), backbone.read([prompt]))
    assert backbone.read_in == ["a", "b", "c", "d", "b"], "the one used longest ago makes room"
    assert same(cached(list("abcdefgh")), backbone.read(list("abcdefgh"))), "more at once than memory holds"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"\$CONTRAPOSE_CACHE") as error:
        Embeddings(Fixed(), folder=tmp_path / "file" / "cache")(["a"])
    assert "\n" not in str(error.value)


def test_others_may_read_what_is_written(tmp_path: Path) -> None:
    Embeddings(Fixed(), folder=tmp_path)(["a"])
    (tmp_path / "plain").touch()
    assert {path.stat().st_mode for path in shards(tmp_path)} == {(tmp_path / "plain").stat().st_mode}


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CONTRAPOSE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "contrapose" / "embeddings"
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "contrapose" / "embeddings"
    monkeypatch.setenv("CONTRAPOSE_CACHE", os.fspath(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own" / "embeddings"
    Embeddings(Fixed())(["a"])
    assert len(shards(tmp_path / "own" / "embeddings")) == 1
