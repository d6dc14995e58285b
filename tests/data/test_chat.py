"""Turns to tokens: one BOS, the boundary where the prompt's ids end, the end token only on finished
turns."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from align.data.chat import (
    decode_completion,
    encode,
    encode_headless,
    encode_pair,
    encode_prompt,
    end_ids,
    template_hash,
)
from align.errors import DataError
from align.models import load_tokenizer
from align.records import Prompt, Turn

THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last and '</think>' not in m.content %}"
    "<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def stories(shared: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(shared / "models" / "tinystories-llama-260k")


@pytest.fixture(scope="module")
def letters(shared: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(shared / "models" / "tinystories-llama-1m-char")


@pytest.fixture(scope="module")
def bytes_bpe(shared: Path) -> PreTrainedTokenizerFast:
    """A GPT-2-like byte-level BPE with chat tokens, trained on the spot."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [row["question"] for row in _rows(shared, "gsm8k.dev")] + ["\n\n\n\n"] * 50
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>", "<|im_end|>"],
    )


def _rows(shared: Path, name: str) -> list[dict[str, object]]:
    with gzip.open(shared / "data" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _turns(*contents: str) -> list[Turn]:
    roles = ["user", "assistant"]
    return [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]


def test_plain_text_keeps_the_space_and_one_bos(stories: PreTrainedTokenizerBase) -> None:
    prompt = Prompt.of("It had")
    assert encode_prompt(stories, prompt.messages, None) == [1, 359, 413, 381]
    assert encode_pair(stories, prompt.messages, " a big", None, finished=False) == (
        [1, 359, 413, 381],
        [261, 370],
    )
    assert encode_pair(stories, prompt.messages, " a big", None)[1] == [261, 370, 2]
    assert encode_pair(stories, prompt.messages, " a big", None, end_id=1)[1] == [261, 370, 1]
    assert decode_completion(stories, [1, 359, 413, 381], [261, 370, 1]) == " a big"


def test_character_tokenizer_adds_no_bos_and_ends_finished_turns(tiny_llama: Path) -> None:
    tokenizer = load_tokenizer(tiny_llama)
    prompt = Prompt.of("12+30=")
    assert encode_pair(tokenizer, prompt.messages, "42", None) == (
        [5, 6, 14, 7, 4, 20],
        [8, 6, 2],
    )
    assert encode_pair(tokenizer, prompt.messages, "42", None, finished=False)[1] == [8, 6]


def test_unknown_characters_are_no_end_of_turn(letters: PreTrainedTokenizerBase) -> None:
    """The 1m-char tokenizer's <unk> is the newline: a completion that ends with one still needs its
    end token."""
    encoded = encode(letters, Prompt.of("One").messages, " day\n", None)
    assert encoded.completion_ids[-2:] == (0, 2)


def test_seam_merge_keeps_the_prompt_and_is_counted(bytes_bpe: PreTrainedTokenizerFast) -> None:
    joint = bytes_bpe.encode("How many apples")
    assert "Ġmany" in bytes_bpe.convert_ids_to_tokens(joint)
    prompt = Prompt.of("How ").messages
    encoded = encode(bytes_bpe, prompt, "many apples", None, finished=False)
    assert list(encoded.prompt_ids) == encode_prompt(bytes_bpe, prompt, None)
    assert bytes_bpe.decode(encoded.prompt_ids + encoded.completion_ids) == "How many apples"
    assert bytes_bpe.decode(encoded.completion_ids) == "many apples"
    assert encoded.seam_merges == 1
    assert encode(bytes_bpe, Prompt.of("How").messages, " many", None).seam_merges == 0


def test_seam_merge_of_a_leading_space_mark(stories: PreTrainedTokenizerBase) -> None:
    """`was` is one token: spelled after the prompt `wa` without a space mark of its own."""
    prompt = Prompt.of("Lily wa").messages
    encoded = encode(stories, prompt, "s happy", None, finished=False)
    assert list(encoded.prompt_ids) == encode_prompt(stories, prompt, None)
    assert encoded.seam_merges == 1
    assert stories.decode(encoded.prompt_ids + encoded.completion_ids) == "<s> Lily was happy"


def test_chatml_ends_at_the_end_of_turn_token(bytes_bpe: PreTrainedTokenizerFast) -> None:
    prompt_ids, ids = encode_pair(bytes_bpe, _turns("Hi there"), "Hello", "chatml")
    assert (
        bytes_bpe.decode(prompt_ids)
        == "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n"
    )
    assert bytes_bpe.decode(ids) == "Hello<|im_end|>"
    assert end_ids(bytes_bpe, "chatml") == [ids[-1]] == [2]
    assert end_ids(bytes_bpe, "none") == [0]
    assert (
        encode_pair(bytes_bpe, _turns("Hi there"), "Hello", "chatml", finished=False)[1] == ids[:-1]
    )


def test_content_that_looks_like_the_ending_is_not_cut(stories: PreTrainedTokenizerBase) -> None:
    prompt_ids, ids = encode_pair(stories, _turns("s"), "s", "plain")
    assert stories.decode(prompt_ids) == "<s> User: s\n\nAssistant:"
    assert stories.decode([*prompt_ids, *ids]) == "<s> User: s\n\nAssistant: s</s>"
    assert decode_completion(stories, prompt_ids, ids) == " s"


def test_a_tokenizer_that_adds_bos_gets_one_and_only_one(stories: PreTrainedTokenizerBase) -> None:
    for template in ("chatml", "plain", "zephyr", "none"):
        ids = encode_prompt(stories, _turns("Hi"), template)
        assert ids[0] == 1 and ids.count(1) == 1
    assert encode_prompt(stories, Prompt.of("<s>Hi").messages, None).count(1) == 1


def test_template_with_bos_of_its_own_gets_no_second(
    stories: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    file = tmp_path / "own.jinja"
    file.write_text(
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    )
    assert encode_prompt(stories, _turns("Hi"), str(file)).count(1) == 1


def test_llama3_template_trims_the_content(bytes_bpe: PreTrainedTokenizerFast) -> None:
    ids = encode_pair(bytes_bpe, _turns("Hi"), "  Hello \n", "llama3", finished=False)[1]
    assert bytes_bpe.decode(ids) == "Hello"
    finished = encode_pair(bytes_bpe, _turns("Hi"), "Hello", "llama3")[1]
    assert bytes_bpe.decode(finished) == "Hello<|eot_id|><|endoftext|>"


def test_tulu_template_ends_assistant_turns_only(bytes_bpe: PreTrainedTokenizerFast) -> None:
    turns = _turns("One?", "1", "Two?", "2")
    encoded = encode(bytes_bpe, turns[:1], turns[1:], "tulu")
    assert bytes_bpe.decode([*encoded.prompt_ids, *encoded.completion_ids]) == (
        "<|user|>\nOne?\n<|assistant|>\n1<|endoftext|>\n"
        "<|user|>\nTwo?\n<|assistant|>\n2<|endoftext|>"
    )


def test_thinking_template_adds_its_block_only_where_there_is_none(
    bytes_bpe: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    file = tmp_path / "thinking.jinja"
    file.write_text(THINKING)
    messages = _turns("Hi")
    ids = encode_pair(bytes_bpe, messages, "Hello", str(file))[1]
    assert bytes_bpe.decode(ids) == "<think>\n\n</think>\n\nHello<|im_end|>"
    ids = encode_pair(bytes_bpe, messages, "<think>x</think>Hello", str(file))[1]
    assert bytes_bpe.decode(ids) == "<think>x</think>Hello<|im_end|>"


def test_multi_turn_completion_trains_on_each_assistant_turn(
    bytes_bpe: PreTrainedTokenizerFast,
) -> None:
    system: Turn = {"role": "system", "content": "Be kind."}
    turns = _turns("One?", "1", "Two?", "2")
    encoded = encode(bytes_bpe, [system, turns[0]], turns[1:], "chatml")
    trained = [t for t, m in zip(encoded.completion_ids, encoded.loss_mask, strict=True) if m]
    assert bytes_bpe.decode(trained) == "1<|im_end|>2<|im_end|>"
    assert bytes_bpe.decode(encoded.completion_ids) == (
        "1<|im_end|>\n<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>"
    )
    assert bytes_bpe.decode(encoded.prompt_ids).startswith(
        "<|im_start|>system\nBe kind.<|im_end|>\n"
    )


@pytest.mark.parametrize("template", ["chatml", "plain", "zephyr", "none"])
@pytest.mark.parametrize("name", ["hh_harmless.dev", "oasst.dev"])
def test_real_conversations_round_trip(
    shared: Path, stories: PreTrainedTokenizerBase, name: str, template: str
) -> None:
    """The 260k tokenizer spells any text (byte fallback): decoding gives back what was rendered,
    BOS once."""
    rows = _rows(shared, name)[:40]
    for row in rows:
        prompt, chosen = row["prompt"], row["chosen"]
        prompt_ids, ids = encode_pair(stories, prompt, chosen, template)  # pyright: ignore[reportArgumentType]
        assert prompt_ids == encode_prompt(stories, prompt, template)  # pyright: ignore[reportArgumentType]
        text = chosen[0]["content"]  # pyright: ignore[reportIndexIssue]
        assert prompt_ids[0] == 1 and [*prompt_ids, *ids].count(1) == 1
        assert ids[-1] == 2
        assert decode_completion(stories, prompt_ids, ids).strip().startswith(text.strip())


def test_real_conversations_have_no_seam_merges_in_chat_templates(
    shared: Path, stories: PreTrainedTokenizerBase, bytes_bpe: PreTrainedTokenizerFast
) -> None:
    rows = _rows(shared, "oasst.dev")
    for tokenizer, template in ((stories, "plain"), (bytes_bpe, "chatml")):
        merges = [
            encode(tokenizer, row["prompt"], row["chosen"], template).seam_merges  # pyright: ignore[reportArgumentType]
            for row in rows
        ]
        assert (len(merges), sum(merges)) == (49, 0)


def test_template_hash_names_the_rendering(stories: PreTrainedTokenizerBase) -> None:
    hashes = {template_hash(stories, name) for name in ("chatml", "plain", "none", "llama3")}
    assert len(hashes) == 4
    assert template_hash(stories, "none") == template_hash(stories, None)


def test_faults_are_named(stories: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no chat template; set policy.chat_template"):
        encode_prompt(stories, _turns("Hi"), None)
    with pytest.raises(DataError, match="'chatlm' is unknown"):
        encode_prompt(stories, _turns("Hi"), "chatlm")
    with pytest.raises(DataError, match="no file"):
        encode_prompt(stories, _turns("Hi"), str(tmp_path / "x.jinja"))
    with pytest.raises(DataError, match="must not end with the assistant's"):
        encode_prompt(stories, _turns("Hi", "Ho"), "plain")
    with pytest.raises(DataError, match="mixes plain text"):
        encode_prompt(stories, [*Prompt.of("x").messages, *_turns("Hi")], "plain")
    with pytest.raises(DataError, match="begin and end with an assistant turn"):
        encode(stories, _turns("Hi"), [{"role": "user", "content": "x"}], "plain")
    file = tmp_path / "refuses.jinja"
    file.write_text("{{ raise_exception('no system role') }}")
    with pytest.raises(DataError, match=r"refuses turns with the roles \['user'\]: no system role"):
        encode_prompt(stories, _turns("Hi"), str(file))


def test_headless_reply_follows_the_users_turn(stories: PreTrainedTokenizerBase) -> None:
    """No BOS, although this tokenizer adds one by itself and the template writes another; no
    assistant's header; no end token. Plain text has no header to leave out.
    """
    template = "{{ bos_token }}{% for m in messages %}[{{ m.content }}]{% endfor %}"
    template += "{% if add_generation_prompt %}A:{% endif %}"
    stories = copy.deepcopy(stories)
    stories.chat_template = template
    found = encode_headless(stories, _turns("Is it?"), "B", None)
    assert list(found.prompt_ids) == stories.encode("[Is it?]", add_special_tokens=False)
    assert stories.convert_ids_to_tokens(found.completion_ids) == ["B"]
    assert (found.loss_mask, found.seam_merges) == ((1,), 0)
    text: list[Turn] = [{"role": "text", "content": "Is it?\n"}]
    assert encode_headless(stories, text, "B", None) == encode(
        stories, text, "B", None, finished=False
    )
