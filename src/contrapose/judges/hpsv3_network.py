"""The network of HPSv3: Qwen2-VL's body and a head on the token <|Reward|>, and what it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL.Image import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Qwen2VLConfig, Qwen2VLModel

from contrapose.backbones.networks import check_finite, check_loading
from contrapose.backbones.settings import Precision
from contrapose.errors import UserError
from contrapose.judges.hpsv3_message import REWARD, message_of
from contrapose.judges.pretrained import SMALL_FILES, find, reading, ready
from contrapose.judges.vision_language import load_processor
from contrapose.runs.silence import silent_libraries

if TYPE_CHECKING:
    from jaxtyping import Float

PIXELS = 256 * 28 * 28  # of every image, but for sides being multiples of 28
_LONGEST = 200  # times its short side, of which Qwen2-VL's resizing sees no more
_BODY = {"visual": "visual", "model": "language_model"}  # the parts by the authors' names and by transformers 5's
_UNUSED = "lm_head"  # what writes words


class HPSv3Network(nn.Module):
    """(mu, sigma) = head(last hidden state of the body at the reward token); the head's numbers are always fp32."""

    def __init__(self, body: Any, width: int) -> None:
        super().__init__()
        self.body = body
        # Dropout stands at place 2 in the authors' layout, and does nothing once trained.
        self.head = nn.Sequential(
            nn.Linear(width, 1024), nn.ReLU(), nn.Identity(), nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 2)
        )

    def forward(self, inputs: Mapping[str, Tensor], reward_token: int) -> Float[Tensor, "b 2"]:
        tokens = inputs["input_ids"]
        num_rows, length = tokens.shape
        places = torch.arange(length, device=tokens.device)
        hidden = self.body(
            input_ids=tokens,
            attention_mask=inputs["attention_mask"],
            # one count for time, rows and columns alike; padding is on the right, so that it moves nothing
            position_ids=places.expand(3, num_rows, length),
            pixel_values=inputs["pixel_values"],
            image_grid_thw=inputs["image_grid_thw"],
            use_cache=False,
        ).last_hidden_state
        # the last one, since a prompt may spell the token too
        place = ((tokens == reward_token) * places).argmax(-1)
        scores: Tensor = self.head(hidden[torch.arange(num_rows, device=tokens.device), place].float())
        return scores


@dataclass(frozen=True)
class HPSv3Scorer:
    """The network with what prepares images and prompts for it."""

    network: HPSv3Network
    processor: Any
    reward_token: int

    def mu(self, images: Sequence[Image], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        """Of RGB images; raises `UserError` for one that is too long for its breadth."""
        texts = []
        for image, prompt in zip(images, prompts, strict=True):
            if max(image.size) > _LONGEST * min(image.size):
                raise UserError(
                    f"hpsv3: an image of {image.width}x{image.height} is more than {_LONGEST} times as long as broad; "
                    "leave it out"
                )
            turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": message_of(prompt)}]}
            texts.append(self.processor.apply_chat_template([turn], add_generation_prompt=True))
        inputs = self.processor(images=[[image] for image in images], text=texts, padding=True, return_tensors="pt")
        body = self.network.body
        return self.network(inputs.to(body.device, body.dtype), self.reward_token)[:, 0]


def load_hpsv3(user: str, weights: str, file: str, model: str, precision: Precision, device: str) -> HPSv3Scorer:
    """The scorer of the authors' file in a folder or hub id `weights`, with the small files of `model`.

    Raises `UserError` when one is missing or broken, or the weights are of another network than the small files.
    """
    small = find(user, model, SMALL_FILES)
    path = find(user, weights, f" {file}") / file
    if not path.is_file():
        raise UserError(f"{user}: {path}: no such file; get it by 'hf download {weights} {file}', or name its folder")
    with reading(user, small):
        processor = load_processor(user, small)
        processor.image_processor.size = {"shortest_edge": PIXELS, "longest_edge": PIXELS}
        processor.tokenizer.padding_side = "right"
        processor.tokenizer.add_special_tokens({"additional_special_tokens": [REWARD]})
        config = Qwen2VLConfig.from_pretrained(small, local_files_only=True)
    with reading(user, path, f"it must be {file} for the tokenizer of {model}; download both again"):
        network = _network_of(f"{user}: {path}", load_file(path), config, len(processor.tokenizer))
    ready(network.body, precision, device)
    ready(network.head, "fp32", device)
    return HPSv3Scorer(network, processor, processor.tokenizer.convert_tokens_to_ids(REWARD))


def _network_of(where: str, stored: Mapping[str, Tensor], config: Qwen2VLConfig, num_tokens: int) -> HPSv3Network:
    """The network of the authors' weights; raises for such as are missing, unknown, misshapen or not finite."""
    body: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    for name, value in stored.items():
        part, _, rest = name.partition(".")
        if part == "rm_head":
            head[rest] = value
        elif part != _UNUSED:
            body[f"{_BODY[part]}.{rest}"] = value
    text: Any = config.text_config  # declared as one that may be absent
    kind: Any = Qwen2VLModel  # whose `from_pretrained` is declared to return the network alone
    text.vocab_size = num_tokens  # the authors cut the vocabulary to what the tokenizer knows
    # without a folder of its own: the weights that are handed over are all that is loaded
    with silent_libraries():
        loaded, loading = kind.from_pretrained(
            None,
            config=config,
            state_dict=body,
            dtype=next(iter(body.values())).dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    check_loading(where, loading)
    network = HPSv3Network(loaded, text.hidden_size)
    network.head.load_state_dict(head)
    check_finite(where, network)
    return network
