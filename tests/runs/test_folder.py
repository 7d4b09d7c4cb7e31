"""A run by name: its kept steps as PATH@STEP wherever a run is named, and an interrupted one by its newest."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adapting import COMMANDS, use
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from contrapose.backbones.families.table import load_backbone
from contrapose.errors import UserError
from contrapose.methods import CHATS, DDSPO
from contrapose.runs.folder import RunFolder, _tell_unfinished
from contrapose.runs.names import LORA_FILE
from contrapose.runs.steps import kept_steps, prune, step_folder
from contrapose.train.align import align
from contrapose.train.settings import Optimisation, Run, Watching

pytestmark = pytest.mark.usefixtures("few_levels")

FAST = Optimisation(learning_rate=1e-2, train_steps=3, batch_size=2, micro_batch=2)
WATCH = Watching(holdout=2, evaluate_every=0, save_every=1, keep=2)


def _train(model: Path, pairs: Path, out: Path, until: int | None = None, **changes: object) -> Path:
    run = Run(str(model), pairs, DDSPO(beta=200.0), optimisation=FAST, watching=WATCH)
    states = align(replace(run, **changes), out)  # type: ignore[arg-type]
    for state in states:
        if state.step == until:
            break
    states.close()
    return out


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tiny_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs of LoRA and of the whole network, with their steps 2 and 3."""
    folder = tmp_path_factory.mktemp("runs")
    for kind in ("lora", "full"):
        _train(tiny_model, tiny_pairs, folder / kind, full=kind == "full")
    return folder


@pytest.fixture(scope="module")
def cut(tiny_model: Path, tiny_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, stopped after step 2."""
    folder = tmp_path_factory.mktemp("cut")
    for kind in ("lora", "full"):
        _train(tiny_model, tiny_pairs, folder / kind, until=2, full=kind == "full")
    return folder


@pytest.fixture(autouse=True)
def told_anew() -> None:
    _tell_unfinished.cache_clear()


def answer(model: Path, adapter: Path | None) -> torch.Tensor:
    backbone = load_backbone(model, adapter=adapter)
    x_t = torch.randn(1, *backbone.images.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return backbone.denoiser.denoise(
            backbone.denoiser.network, x_t, torch.tensor([500]), backbone.text.embed(["a red circle"])
        )


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_every_kept_step_is_put_on(kind: str, trained: Path, cut: Path, tiny_model: Path) -> None:
    run = trained / kind
    assert RunFolder(run).steps == (2, 3)
    last, second = (answer(tiny_model, Path(f"{run}@{step}")) for step in (3, 2))
    assert torch.equal(last, answer(tiny_model, run))
    assert torch.equal(last, answer(tiny_model, Path(f"{run}@last")))
    assert (last - second).abs().max() > 1e-5
    assert torch.equal(second, answer(tiny_model, cut / kind))
    assert torch.equal(second, answer(tiny_model, Path(f"{cut / kind}@last")))


def test_stock_libraries_load_a_kept_step(trained: Path, tiny_model: Path) -> None:
    import stock

    pipe = stock.load("sd", tiny_model)
    pipe.load_lora_weights(str(step_folder(trained / "lora", 2)))
    assert pipe.get_active_adapters()
    folder = step_folder(trained / "full", 3) / "model" / "unet"
    network = UNet2DConditionModel.from_pretrained(str(folder))
    whole = load_file(trained / "full/model/unet/diffusion_pytorch_model.safetensors")
    assert all(torch.equal(value, whole[name]) for name, value in network.state_dict().items())
    config = (folder / "config.json").read_text()
    assert str(tiny_model.parent) not in config, "no folder of this machine"


def test_no_weight_is_written_twice(trained: Path) -> None:
    """Beside the weights the state has the moments alone."""
    for kind in ("lora", "full"):
        state = load_file(step_folder(trained / kind, 3) / "training.safetensors")
        assert {name.partition("/")[0] for name in state} == {"optimizer"}
    files = [path / LORA_FILE for path in (trained / "lora", step_folder(trained / "lora", 3))]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_step_is_named_wherever_a_run_is(command: str, trained: Path, tiny_model: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained / "lora", tmp_path / "run")
    use(command, Path(f"{run}@2"), tiny_model)
    with pytest.raises(UserError, match=r"run@1: step 1 is not kept \(those that are: 2, 3\)"):
        use(command, Path(f"{run}@1"), tiny_model)


def test_an_interrupted_run_is_told_of_once(cut: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        digests = [RunFolder(cut / "lora").digest for _ in range(2)]
        answer(tiny_model, cut / "lora")
    told = [record.message for record in caplog.records if "has not finished" in record.message]
    assert told == [f"{cut / 'lora'}: has not finished; its newest kept step, 2, is taken"]
    assert digests == [RunFolder(f"{cut / 'lora'}@2").digest] * 2


def test_the_model_is_known_by_each_step(trained: Path, cut: Path, tiny_model: Path, wider_model: Path) -> None:
    fingerprint = load_backbone(tiny_model).fingerprint
    for kind in ("lora", "full"):
        named = (trained / kind, f"{trained / kind}@2", cut / kind)
        assert [RunFolder(name).fingerprint for name in named] == [fingerprint] * 3
        with pytest.raises(UserError, match=r"@2: was trained on another model"):
            load_backbone(wider_model, adapter=Path(f"{trained / kind}@2"))


@pytest.mark.parametrize("full", [False, True])
def test_one_policy_of_several(full: bool, tiny_model: Path, tiny_pairs: Path, tmp_path: Path) -> None:
    run = _train(tiny_model, tiny_pairs, tmp_path / "run", until=2, method=CHATS(), full=full)
    assert RunFolder(run).policies == ("negative", "positive")
    interrupted = answer(tiny_model, run / "positive")
    with pytest.raises(UserError, match=r"trained several policies.*; name .*run/negative or .*run/positive"):
        load_backbone(tiny_model, adapter=run)
    _train(tiny_model, tiny_pairs, run, method=CHATS(), full=full)
    assert torch.equal(answer(tiny_model, Path(f"{run / 'positive'}@2")), interrupted)
    assert not torch.equal(answer(tiny_model, run / "positive"), interrupted)
    with pytest.raises(UserError, match="else: no such run"):
        load_backbone(tiny_model, adapter=run / "else")


NAMES: dict[str, Callable[[Path], object]] = {
    "none@2": lambda run: "no such run",
    "plain@2": lambda run: "is not a run of 'contrapose align', so it has no step 2",
    "run@two": lambda run: "no such run",
    "run@-1": lambda run: "no such run",
    "run@": lambda run: "no such run",
    "run@9999999999999999": lambda run: "no such run",
    "run@0": lambda run: "step 0 is not kept",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_nothing(name: str, trained: Path, tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "lora", tmp_path / "run")
    (tmp_path / "plain").mkdir()
    shutil.copy(trained / "lora" / LORA_FILE, tmp_path / "plain")
    with pytest.raises(UserError, match=str(NAMES[name](tmp_path))) as caught:
        load_backbone(tiny_model, adapter=tmp_path / name)
    assert str(tmp_path / name.partition("@")[0]) in str(caught.value)


def test_a_folder_with_such_a_name_is_itself(trained: Path, tiny_model: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained / "lora", tmp_path / "run@2")
    assert torch.equal(answer(tiny_model, run), answer(tiny_model, trained / "lora"))
    assert not torch.equal(answer(tiny_model, Path(f"{run}@2")), answer(tiny_model, run))


def test_the_last_step_is_there_without_checkpoints(trained: Path, tiny_model: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained / "lora", tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    assert torch.equal(answer(tiny_model, Path(f"{run}@3")), answer(tiny_model, run))
    with pytest.raises(UserError, match=r"step 2 is not kept \(those that are: none\)"):
        load_backbone(tiny_model, adapter=Path(f"{run}@2"))


def test_a_run_of_an_older_version_is_read(trained: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Its weights lie where they always did; its checkpoints were files."""
    run = shutil.copytree(trained / "lora", tmp_path / "run")
    for step in kept_steps(run).values():
        (step / "training.safetensors").rename(step.with_suffix(".safetensors"))
        shutil.rmtree(step)
    assert torch.equal(answer(tiny_model, run), answer(tiny_model, trained / "lora"))
    with pytest.raises(UserError, match=r"step 2 is not kept \(.*none\); its checkpoints are of an older Contrapose"):
        load_backbone(tiny_model, adapter=Path(f"{run}@2"))


def test_a_run_that_goes_on_is_unfinished(trained: Path, tmp_path: Path) -> None:
    """As a lengthened run lies when it is killed before it has cleared its old end away."""
    run = shutil.copytree(trained / "lora", tmp_path / "run")
    summary = json.loads((run / "finished.json").read_text())
    (run / "finished.json").write_text(json.dumps(summary | {"steps": 2}))
    assert not RunFolder(run).finished
    assert RunFolder(run).weights == step_folder(run, 3)


def test_pruning(tmp_path: Path) -> None:
    def left(keep: int, steps: list[int]) -> list[int]:
        for step in steps:
            step_folder(tmp_path, step).mkdir(parents=True, exist_ok=True)
        prune(tmp_path, keep, lambda step: step % 2 == 0)
        return list(kept_steps(tmp_path))

    assert left(3, [1, 2, 3, 4, 6, 7]) == [4, 6, 7]
    assert left(1, [8]) == [8]
