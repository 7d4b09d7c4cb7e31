"""From a folder, a hub id or one checkpoint file to a pipeline, with one clear line when something is missing."""

from __future__ import annotations

import gc
import importlib.util
import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    SingleFileComponentError,
    fetch_diffusers_config,
    load_single_file_checkpoint,
)
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError
from torch import nn

from contrapose.backbones.coherence import check_tokenizers
from contrapose.backbones.folders import INDEX, check_parts, class_of, is_absent, networks_of, read_index, variant_of
from contrapose.backbones.networks import check_finite, network_without_values, read_network
from contrapose.backbones.single_file import pipeline_of_checkpoint
from contrapose.errors import UserError, one_line
from contrapose.runs.silence import silent_libraries

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_NEEDED_BY: dict[str, str] = {"nf4": "bitsandbytes", "int8": "bitsandbytes", "torchao-int8": "torchao"}
_SMALL_FILES = "".join(f' --include "{files}"' for files in ("*.json", "*.txt", "*.model"))

# What diffusers, transformers and peft raise for files that are missing, broken or do not fit.
UNREADABLE = (
    OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError, ImportError, SafetensorError,
    SingleFileComponentError,
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Where a model is: a pipeline folder or one checkpoint file, and its pipeline's class by name."""

    model: str
    path: Path
    pipeline: str
    variant: str | None = None


def best_device(number: int = 0) -> str:
    """The fastest device of this machine: cuda, then mps, then cpu; of several GPUs the one of this turn."""
    if torch.cuda.is_available():
        turn = number % torch.cuda.device_count()
        return f"cuda:{turn}" if turn else "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(device: str | torch.device) -> None:
    """Raise `UserError` for a device that cannot compute: one that is unknown, or not in this machine."""
    try:
        # computed and read back: a device that cannot compute may say so only then
        (torch.ones(1, device=device) + 1).item()
    except Exception as error:  # each device has its own way of not being there
        usable = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            usable.append("mps")
        raise UserError(f"device {str(device)!r}: cannot be used here (there are: {', '.join(usable)})") from error


def find(model: str | Path, families: Mapping[str, Any], variant: str | None = None) -> Source:
    """Where the model is and of which family, `families` being those known by the names of their pipelines.

    A hub id is downloaded into the hub's own cache. Raises `UserError` for a model that is missing, broken or unknown.
    """
    path = Path(model)
    if path.is_file():
        if variant is not None:
            raise UserError(f"variant: {model} is one file and has no variants; leave the setting out")
        return Source(str(model), path, pipeline_of_checkpoint(path, families), None)
    folder = path if path.is_dir() else located(model, variant, families)
    name = str(read_index(folder).get("_class_name"))
    check_family(model, name, families)
    family = families[name]
    pipeline = next(p for p in family.pipelines if p.__name__ == name)
    check_parts(folder, pipeline, family.unused_parts, family.optional_parts)
    return Source(str(model), folder, name, variant)


def located(model: str | Path, variant: str | None = None, families: Mapping[str, Any] | None = None) -> Path:
    """The folder of a model that is named by its path or hub id; the hub's is downloaded into its own cache.

    Raises `UserError` when there is none, or when it is of none of the `families`, before its weights are fetched.
    """
    path = Path(model)
    if path.is_dir():
        return path
    if path.exists() or looks_like_path(str(model)):
        raise UserError(f"{model}: no such model folder or file")
    with told_of_hub(str(model)):
        name = _pipeline_on_hub(model)
        if families is not None:
            check_family(model, name, families)
        return Path(DiffusionPipeline.download(str(model), variant=variant, use_safetensors=True))


def check_model(model: str, families: Mapping[str, Any]) -> None:
    """Raise `UserError` as `find` does, without the weights of a hub id, of which only the index is fetched."""
    if Path(model).exists() or looks_like_path(model):
        find(model, families)
        return
    with told_of_hub(model):
        check_family(model, _pipeline_on_hub(model), families)


def _pipeline_on_hub(model: str | Path) -> Any:
    """What the index of a hub id says is its pipeline."""
    return read_index(Path(hf_hub_download(str(model), INDEX)).parent).get("_class_name")


def looks_like_path(model: str) -> bool:
    """Whether what names no file was meant as one, and not as a hub id."""
    return model.startswith((".", "/", "~")) or model.count("/") > 1 or model.endswith(".safetensors")


@contextmanager
def told_of_hub(model: str) -> Iterator[None]:
    """Say in one line why a model cannot be downloaded from the hub."""
    try:
        yield
    except UserError:
        raise
    except HFValidationError:
        raise UserError(f"{model}: no such model folder or file, nor the id of a model in the hub") from None
    except GatedRepoError:
        raise UserError(
            f"{model}: its owners want to be asked; accept its terms on https://huggingface.co/{model} and log in with "
            "'hf auth login'"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{model}: no such model, neither a folder here nor in the hub (private ones need a login)"
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError):
        raise UserError(
            f"{model}: no such folder, not in the hub's cache on this machine, and the hub cannot be reached; name a "
            f"model folder, or run 'hf download {model}' where there is a network"
        ) from None
    except EntryNotFoundError:
        raise UserError(f"{model}: has no {INDEX} in the hub, so this is no diffusers pipeline") from None
    except Exception as error:  # the hub's client raises what the libraries below it do
        raise UserError(f"{model}: cannot be downloaded from the hub: {one_line(error)}") from error


def check_family(model: str | Path, name: Any, families: Mapping[str, Any]) -> None:
    """Raise `UserError` when this is no pipeline that Contrapose knows."""
    if not isinstance(name, str) or name not in families:
        raise UserError(f"{model}: a {one_line(name)} is not supported (known: {', '.join(families)})")


def open_pipeline(
    source: Source,
    pipeline: type[DiffusionPipeline],
    dtypes: Mapping[str, torch.dtype] | torch.dtype = torch.float32,
    leave_out: Iterable[str] = (),
    quantized: Mapping[str, Any] | None = None,
    without_values: Collection[str] = (),
) -> DiffusionPipeline:
    """The pipeline of a model on the CPU, without the parts that are left out.

    Networks `without_values` have parameters on the meta device, which take no memory. Raises `UserError` when a part
    is missing or broken, or its weights are not those of its network.
    """
    wanted = {"default": dtypes} if isinstance(dtypes, torch.dtype) else dtypes
    options: dict[str, Any] = dict.fromkeys((*leave_out, *absent_parts(source)))
    if "safety_checker" in options:
        options["requires_safety_checker"] = False
    try:
        if source.path.is_file():
            for name in without_values:
                # of the file nothing is read for it but what kind of model it is
                folder = _configuration(source.path, INDEX, f"{name}/config.json")
                kind = class_of(folder, name, read_index(folder)[name])
                options[name] = network_without_values(kind, folder / name, wanted.get(name, wanted["default"]))
            pipe = _open_file(source.path, pipeline, wanted, options)
        else:
            networks = read_networks(source, wanted, tuple(options), quantized or {}, without_values)
            with silent_libraries():
                pipe = pipeline.from_pretrained(
                    str(source.path), use_safetensors=True, local_files_only=True, **networks, **options
                )
    except UserError:
        raise
    except Exception as error:  # a broken file makes these libraries raise anything at all
        reason = why_unreadable(source.path, error)
        raise UserError(f"{source.model}: cannot be loaded as a diffusers pipeline: {reason}") from error
    check_tokenizers(source.model, pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def read_networks(
    source: Source,
    dtypes: Mapping[str, torch.dtype],
    leave_out: Collection[str],
    quantized: Mapping[str, Any] = {},
    without_values: Collection[str] = (),
) -> dict[str, nn.Module]:
    """The networks of a pipeline folder by their parts' names, on the CPU; `quantized` has settings of some of them.

    Of those `without_values` the files are not read.

    Raises `UserError` for one that is missing, broken or not whole, naming its folder.
    """
    parts = networks_of(source.path, leave_out)
    variants = {part.name: variant_of(part.folder, source.variant) for part in parts}
    if source.variant is not None and source.variant not in variants.values():
        raise UserError(f"variant {source.variant}: {source.model} has no weights of it; leave the setting out")
    networks = {}
    for part in parts:
        dtype = dtypes.get(part.name, dtypes["default"])
        options = {"quantization_config": quantized[part.name]} if part.name in quantized else {}
        try:
            if part.name in without_values:
                networks[part.name] = network_without_values(part.kind, part.folder, dtype)
                continue
            networks[part.name] = read_network(part.kind, part.folder, variants[part.name], dtype, **options)
        except UserError:
            raise
        except Exception as error:  # as above
            raise UserError(f"{part.folder}: cannot be loaded as a {part.kind.__name__}: {one_line(error)}") from error
    return networks


def _open_file(path: Path, pipeline: Any, dtypes: Mapping[str, torch.dtype], options: Any) -> DiffusionPipeline:
    """diffusers reads a checkpoint file in one precision: the widest that is asked for, before parts are cast.

    Parts that the options hold are taken as they are.
    """
    widest = max(dtypes.values(), key=lambda dtype: dtype.itemsize)
    try:
        with silent_libraries():
            pipe = pipeline.from_single_file(str(path), torch_dtype=widest, **options)
    except NotImplementedError:  # from casting a tensor that has no values
        raise UserError(f"{path}: tensors of its network or autoencoder are missing; download it again") from None
    for name, part in pipe.components.items():
        if not isinstance(part, nn.Module) or part is options.get(name):
            continue
        dtype = dtypes.get(name, dtypes["default"])
        if part.dtype != dtype:
            part.to(dtype)
        check_finite(f"{path}: {name}", part)
    return pipe


def configuration_of(path: Path) -> str:
    """The hub id whose configuration and tokenizers go with a checkpoint file, which has none itself."""
    return fetch_diffusers_config(load_single_file_checkpoint(str(path)))["pretrained_model_name_or_path"]


def _configuration(path: Path, *patterns: str) -> Path:
    """The folder of a checkpoint file's configuration in the hub's cache, with the files of these names."""
    return Path(snapshot_download(configuration_of(path), allow_patterns=list(patterns)))


def why_unreadable(path: Path, error: Exception) -> str:
    """What the libraries say of a model, or, for a checkpoint file without a network, how to get what it lacks."""
    causes = (error, error.__cause__, error.__context__)
    offline = any(isinstance(cause, (LocalEntryNotFoundError, OfflineModeIsEnabled)) for cause in causes)
    if not (offline and path.is_file()):
        return one_line(error)
    repository = configuration_of(path)
    return (
        f"a checkpoint file has no configuration, and that of {repository} is not in the hub's cache on this machine; "
        f"run 'hf download {repository}{_SMALL_FILES}' where there is a network, or name a model folder"
    )


def tokenizer_folder(source: Source, pipeline: type[DiffusionPipeline]) -> Path:
    """The tokenizer of the largest text encoder; that of a checkpoint file is in the hub, with its configuration."""
    if not source.path.is_file():
        return max(source.path.glob("tokenizer*"))
    name = max(n for n in inspect.signature(pipeline.__init__).parameters if n.startswith("tokenizer"))
    return _configuration(source.path, f"{name}/*") / name


def absent_parts(source: Source) -> list[str]:
    """Parts that the folder says it has not, such as SD3's T5: diffusers wants to be told so."""
    if source.path.is_file():
        return []
    return [name for name, kind in read_index(source.path).items() if is_absent(kind)]


def quantization(kind: str, dtype: torch.dtype) -> Any:
    """diffusers' own settings for a quantised network; `UserError` when the library for it is not installed."""
    library = _NEEDED_BY[kind]
    if importlib.util.find_spec(library) is None:
        raise UserError(f"quantize {kind} needs {library}; run 'pip install {library}' or leave the setting out")
    from diffusers import BitsAndBytesConfig, TorchAoConfig

    if kind == "nf4":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def free_memory() -> None:
    """Give back the memory of what nobody holds any more; looking through all objects for it takes a while."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
