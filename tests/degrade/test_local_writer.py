"""The local language model, on a tiny random Llama: an answer depends on its message and seed alone."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from contrapose.asking import Asking
from contrapose.degrade.llm import LanguageModel, LlmAlignment
from contrapose.degrade.local_writer import TOO_LONG, LocalWriter
from contrapose.errors import UserError

CHAT = "{% for m in messages %}<u>{{ m['content'] }}</u>{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random Llama over bytes, with room for a whole template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: place for place, letter in enumerate(["</s>", *alphabet])}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.7,  # large enough that what was read decides, not the noise alone
        bos_token_id=None,
        eos_token_id=0,
    )
    path = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_local_answers_depend_on_message_and_seed_alone(folder):
    local = LocalWriter(str(folder), max_new_tokens=12)
    messages = ["a red dog", "two cats under a rather long table", "猫"]
    together = local.write(messages, 5)
    assert local.write(messages[::-1], 5) == together[::-1]
    torch.manual_seed(99)
    assert [LocalWriter(str(folder), max_new_tokens=12).write([message], 5)[0] for message in messages] == together
    assert local.write(messages, 6) != together
    assert len(set(together)) == 3


def test_local_drawing_follows_the_temperature(folder):
    """Against softmax(logits / temperature) of the model itself, on one token drawn many times."""
    local = LocalWriter(str(folder), temperature=2.0, max_new_tokens=1)
    tokenizer, model = local._loaded
    with torch.no_grad():
        logits = model(**tokenizer(["dog"], return_tensors="pt")).logits[0, -1]
    expected = torch.softmax(logits / 2.0, 0)
    batch = tokenizer(["dog"] * 2000, return_tensors="pt")
    drawn = Counter(local._generate(batch, list(range(2000))))
    by_text = Counter()  # several tokens are bytes that are no character alone, and all read as U+FFFD
    for token, share in enumerate(expected.tolist()):
        by_text[tokenizer.decode([token])] += share
    for text, share in by_text.most_common(4):
        assert abs(drawn[text] / 2000 - share) < 0.03
    assert by_text.most_common(2)[1][1] > 0.05  # not one token alone
    assert LocalWriter(str(folder), temperature=0, max_new_tokens=1).write(["dog"], 0) == [
        tokenizer.decode([logits.argmax()])
    ]


def test_local_chat_template_is_used_where_there_is_one(folder, monkeypatch):
    local = LocalWriter(str(folder), max_new_tokens=8)
    plain = local.write(["<u>dog</u><a>"], 1)
    monkeypatch.setattr(local._loaded[0], "chat_template", CHAT)
    assert local.write(["dog"], 1) == plain


def test_local_message_beyond_the_models_reach_is_not_answered(folder):
    local = LocalWriter(str(folder), max_new_tokens=8)
    short, long = local.write(["dog", "x" * 10_000], 1)
    assert long == TOO_LONG and local.write(["dog"], 1) == [short]


def test_local_degrader_skips_what_a_random_model_says(folder, tmp_path):
    llm = LanguageModel(str(folder), max_new_tokens=4, num_retries=1, asking=Asking(cache=tmp_path / "answers.sqlite"))
    prompts = ["a red dog", "", "a cat\0"]
    got = LlmAlignment(llm).variants(prompts, 3)
    assert [entry.name for entry in got] == prompts and "no JSON object" in got[0].reason
    asked_anew = replace(llm, batch_size=1, asking=Asking(cache=tmp_path / "others.sqlite"))
    assert LlmAlignment(asked_anew).variants(["a red dog"], 3) == got[:1]


def test_no_model_is_told(tmp_path):
    with pytest.raises(UserError, match=r"empty.*cannot be loaded"):
        (tmp_path / "empty").mkdir()
        LlmAlignment(LanguageModel(str(tmp_path / "empty"))).variants(["a dog"], 0)
