"""A language model loaded on this machine; kept apart because importing it imports torch and transformers."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from contrapose.backbones.networks import read_network
from contrapose.errors import UserError
from contrapose.ranges import AtLeast0, Tokens, checked
from contrapose.seeds import prompt_seed

TOO_LONG = "(not answered: the prompt is longer than the model reads)"


@dataclass(frozen=True)
@checked
class LocalWriter:
    """A causal language model from a folder or the hub, through transformers; loaded at the first call.

    Tokens are drawn as argmax(logits / temperature - log E), E ~ Exp(1) (the Gumbel trick) with one generator per
    message, because transformers' own sampling shares one generator among the whole batch and everything before it.
    """

    model: str
    temperature: AtLeast0 = 0.7
    max_new_tokens: Tokens = 256

    def write(self, prompts: list[str], seed: int) -> list[str]:
        """Return the model's continuations, generated as one batch; UserError where the model cannot be loaded."""
        tokenizer, model = self._loaded
        chats = tokenizer.chat_template is not None
        texts = prompts
        if chats:
            turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
            texts = [tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) for turn in turns]
        # a chat template writes the special tokens itself
        lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=not chats)["input_ids"]]
        limit = getattr(model.config, "max_position_embeddings", None) or float("inf")
        places = [place for place, length in enumerate(lengths) if 0 < length <= limit - self.max_new_tokens]
        answers = [TOO_LONG] * len(prompts)
        if places:
            fitting = [texts[place] for place in places]
            batch = tokenizer(fitting, add_special_tokens=not chats, padding=True, return_tensors="pt")
            written = self._generate(batch.to(model.device), [prompt_seed(seed, text) for text in fitting])
            for place, answer in zip(places, written, strict=True):
                answers[place] = answer
        return answers

    def _generate(self, batch: Any, seeds: list[int]) -> list[str]:
        tokenizer, model = self._loaded
        draw = [_Draw(self.temperature, seeds, model.device)] if self.temperature > 0 else []
        with torch.inference_mode():
            tokens = model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                do_sample=False,
                max_new_tokens=self.max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
                logits_processor=draw,
            )
        # padding is on the left, so that every row's continuation begins at the same place
        num_read = batch["input_ids"].shape[1]
        answers: list[str] = tokenizer.batch_decode(tokens[:, num_read:], skip_special_tokens=True)
        return answers

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.model, padding_side="left", trust_remote_code=False)
            model = read_network(
                AutoModelForCausalLM, self.model, dtype="auto", with_leftovers=True, local_files_only=False
            )
        except UserError as error:
            raise UserError(f"language model {error}") from None
        except Exception as error:  # a broken file makes these libraries raise anything at all
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"language model {self.model}: cannot be loaded ({reason}); check the path or name"
            ) from None
        if tokenizer.pad_token_id is None:
            # any token will do, as padding is masked out
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
        return tokenizer, model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


class _Draw:
    """A logits processor after which greedy decoding samples, each row from its own generator."""

    def __init__(self, temperature: float, seeds: list[int], device: Any) -> None:
        self._temperature = temperature
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        noise = torch.empty_like(scores, dtype=torch.float32)
        for row, generator in zip(noise, self._generators, strict=True):
            row.exponential_(generator=generator)
        return scores.float() / self._temperature - noise.log()
