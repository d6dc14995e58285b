"""Every checkable rule with texts that keep and break it, and the reward made of them."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import pytest

from align.errors import SetupError
from align.records import Json, Prompt
from align.rewards.format_tags import FormatTags
from align.rewards.instruction_rules import RULES, Arguments, sentences_of
from align.rewards.instructions import Instructions, read_task, variants
from align.rewards.languages import BUILT_IN
from align.rewards.numeric import last_boxed, last_number
from align.rewards.protocol import Group
from align.rewards.written_language import is_written_in
from tests.rewards.builders import sample_of

CASES: list[tuple[str, Arguments, str, bool]] = [
    ("keywords:existence", {"keywords": ["mom", "Cat"]}, "A CAT and a mommy", True),
    ("keywords:existence", {"keywords": ["mom", "cat"]}, "A cat", False),
    (
        "keywords:frequency",
        {"keyword": "a b", "relation": "at least", "frequency": 2},
        "A b a b",
        True,
    ),
    ("keywords:frequency", {"keyword": "a", "relation": "less than", "frequency": 2}, "a a", False),
    ("keywords:forbidden_words", {"forbidden_words": ["step"]}, "steps", True),
    ("keywords:forbidden_words", {"forbidden_words": ["step"]}, "One Step.", False),
    (
        "keywords:letter_frequency",
        {"letter": "q", "let_relation": "at least", "let_frequency": 2},
        "Qq",
        True,
    ),
    (
        "keywords:letter_frequency",
        {"letter": "p", "let_relation": "less than", "let_frequency": 1},
        "Pa",
        False,
    ),
    ("language:response_language", {"language": "de"}, "Das ist nicht der Hund.", True),
    ("language:response_language", {"language": "de"}, "That is not the dog.", False),
    ("language:response_language", {"language": "th"}, "สวัสดีครับ Google", True),
    (
        "length_constraints:number_sentences",
        {"relation": "at least", "num_sentences": 3},
        "A b. Dr. No! Hm",
        True,
    ),
    (
        "length_constraints:number_sentences",
        {"relation": "less than", "num_sentences": 3},
        "A! B? C.",
        False,
    ),
    (
        "length_constraints:number_words",
        {"relation": "at least", "num_words": 3},
        "one, two-three",
        True,
    ),
    (
        "length_constraints:number_words",
        {"relation": "less than", "num_words": 3},
        "one two three",
        False,
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo\n***", True),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\n***\ntwo", False),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "elm"},
        'One.\n\n"Elm, tree."',
        True,
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "elm"},
        "Elm.\n\nTwo",
        False,
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] and [b c]", True),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a]", False),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye\np. p. s: x", True),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye\nP.S. x", True),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye\nP.S. x", False),
    ("detectable_format:constrained_response", {}, "Well. My answer is no.", True),
    ("detectable_format:constrained_response", {}, "No.", False),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', True),
    ("detectable_format:json_format", {}, 'Here: {"a": 1}', False),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Day", "num_sections": 2},
        "Day 1 x\nDay 2",
        True,
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Day", "num_sections": 2},
        "Day 1 x",
        False,
    ),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n - b\n**c**", True),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n* b\n* c", False),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a b* and *c*", True),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* ** **", False),
    ("detectable_format:title", {}, "<<A cat>>\nMiau", True),
    ("detectable_format:title", {}, "<< >>\nMiau", False),
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "at least", "capital_frequency": 2},
        "I am NASA's",
        False,
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "at least", "capital_frequency": 2},
        "I AM",
        True,
    ),
    ("change_case:english_capital", {}, "THE DOG, 2 OF THEM", True),
    ("change_case:english_capital", {}, "THE dOG", False),
    ("change_case:english_lowercase", {}, "the dog is 2.", True),
    ("change_case:english_lowercase", {}, "der hund und die katze", False),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, " say HI. Hi!", True),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, "Hi! Say hi.", False),
    ("combination:two_responses", {}, "one\n******\ntwo", True),
    ("combination:two_responses", {}, "one\n******\none", False),
    ("punctuation:no_comma", {}, "one; two", True),
    ("punctuation:no_comma", {}, "one, two", False),
    ("startend:end_checker", {"end_phrase": "Is it?"}, 'Well, "is it?" ', True),
    ("startend:end_checker", {"end_phrase": "Is it?"}, "Is it? Yes", False),
    ("startend:quotation", {}, ' "said" ', True),
    ("startend:quotation", {}, '"', False),
]


@pytest.mark.parametrize(("rule", "given", "text", "kept"), CASES)
def test_rule(rule: str, given: Arguments, text: str, kept: bool) -> None:
    assert RULES[rule](text, given) is kept


def test_every_rule_is_tested_both_ways() -> None:
    assert {(rule, kept) for rule, _, _, kept in CASES} == {
        (r, k) for r in RULES for k in (True, False)
    }


def test_sentences_of_abbreviations_numbers_and_quotes() -> None:
    assert sentences_of("Hi, Dr. No! It costs 3.50. Fine") == [
        "Hi, Dr. No",
        "It costs 3.50",
        "Fine",
    ]
    assert sentences_of('He said "Go." Then?! J. R. left...\nOk.') == [
        'He said "Go',
        "Then",
        "J. R. left",
        "Ok",
    ]
    assert sentences_of("वह घर गया। फिर सोया।") == ["वह घर गया", "फिर सोया"]


@pytest.mark.parametrize(
    ("text", "language", "other"),
    [
        ("यह मेरा घर है और मैं यहाँ नहीं था।", "hi", "mr"),
        ("हे माझे घर आहे आणि ते मोठे आहे.", "mr", "ne"),
        ("यो मेरो घर हो र म यहाँ छैन।", "ne", "hi"),
        ("این خانه من است و من در آن هستم", "fa", "ar"),
        ("هذا هو البيت الذي كان في المدينة", "ar", "fa"),
        ("Това е къщата, която не се вижда от пътя.", "bg", "ru"),
        ("Tôi không có một người bạn.", "vi", "en"),
        ("Hän on siellä, mutta minä en ole, kun se on kylmä.", "fi", "de"),
        ("안녕하세요 세계", "ko", "th"),
        ("ਸਤ ਸ੍ਰੀ ਅਕਾਲ", "pa", "gu"),
        ("ನಮಸ್ಕಾರ", "kn", "te"),
        ("আমি বাড়ি যাই", "bn", "hi"),
    ],
)
def test_language_by_script_and_common_words(text: str, language: str, other: str) -> None:
    assert is_written_in(text, language) and not is_written_in(text, other)


def group_of_task(names: list[Json], kwargs: Json, *texts: str) -> Group:
    prompt = Prompt.of("?", meta={"instruction_id_list": names, "kwargs": kwargs})
    return Group(prompt, tuple(sample_of(prompt, i, text) for i, text in enumerate(texts)))


TASK: list[Json] = [
    "punctuation:no_comma",
    "length_constraints:number_words",
    "length_constraints:number_words",
]
ARGUMENTS = json.dumps(
    [
        {},
        {"relation": "at least", "num_words": 2},
        {"relation": "less than", "num_words": 4, "x": None},
    ]
)


def test_share_of_rules_kept_or_all_of_them() -> None:
    """`one two`: 3 of 3; `one` is too short: 2 of 3; `1,2,3,4` has two words: 1 of 3."""
    group = group_of_task(TASK, ARGUMENTS, "one two", "one", "1,2,3,4", "")
    scores = Instructions().open().score([group])[0]
    assert [score.value for score in scores] == pytest.approx([1.0, 2 / 3, 1 / 3, 0.0])
    assert scores[1].parts == {
        "punctuation:no_comma": 1.0,
        "length_constraints:number_words": 0.5,
        "all": 0.0,
    }
    scores = Instructions(score="all", right=2.0, wrong=-1.0).open().score([group])[0]
    assert [score.value for score in scores] == [2.0, -1.0, -1.0, -1.0]
    scores = Instructions(rules=("punctuation:no_comma",)).open().score([group])[0]
    assert [score.value for score in scores] == [1.0, 1.0, 0.0, 0.0]


def test_loose_forgives_a_first_line_and_asterisks() -> None:
    assert variants("a\nb*\nc") == [
        "a\nb*\nc",
        "a\nb*",
        "b*\nc",
        "b*",
        "a\nb\nc",
        "a\nb",
        "b\nc",
        "b",
    ]
    group = group_of_task(["startend:quotation"], [{}], 'Sure:\n"said"', '*"said"*')
    assert [s.value for s in Instructions().open().score([group])[0]] == [0.0, 0.0]
    assert [s.value for s in Instructions(loose=True).open().score([group])[0]] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("names", "kwargs", "fault"),
    [
        ([], [], "has no rules in its column"),
        (["punctuation:no_comma"], [], "without one mapping a rule"),
        (["punctuation:no_comma"], "[", "is not JSON"),
        (["keywords:rhyme"], [{}], "unknown rules (keywords:rhyme); known are change_case"),
        (["keywords:existence"], [{}], "keywords:existence does not take: KeyError('keywords')"),
        (["language:response_language"], [{"language": "xx"}], "does not take: KeyError('xx')"),
    ],
)
def test_unusable_rules_are_failures(names: list[Json], kwargs: Json, fault: str) -> None:
    score = Instructions().open().score([group_of_task(names, kwargs, "text")])[0][0]
    assert score.value is None and fault in str(score.error)


def test_unknown_rule_in_the_recipe_is_refused() -> None:
    with pytest.raises(SetupError, match=r"no such rule: keywords:rhyme; known are change_case:"):
        Instructions(rules=("keywords:rhyme",)).open()


def test_all_rules_of_the_slice_are_known_and_take_its_arguments(shared: Path) -> None:
    seen = set[str]()
    for part in ("train", "dev"):
        with gzip.open(shared / "data" / f"ifeval.{part}.jsonl.gz", "rt") as file:
            for line in file:
                row = json.loads(line)
                prompt = Prompt.of(row["prompt"], meta=row)
                task = read_task(prompt)
                assert not isinstance(task, str), task
                seen |= {rule for rule, _ in task}
                group = Group(prompt, (sample_of(prompt, 0, "Some text."),))
                assert Instructions(loose=True).open().score([group])[0][0].error is None
    assert seen == set(RULES)


def test_hostile_texts_take_no_longer_than_others() -> None:
    """100,000 characters of what a pattern might try again and again; a square would take
    minutes."""
    given: Arguments = {
        "num_placeholders": 1,
        "num_bullets": 1,
        "num_highlights": 1,
        "relation": "at least",
        "num_sentences": 9,
        "num_words": 9,
        "num_paragraphs": 2,
        "section_spliter": "A",
        "num_sections": 1,
        "postscript_marker": "P.S.",
        "capital_relation": "at least",
        "capital_frequency": 1,
    }
    started = time.process_time()
    for hostile in ("[", "\n", ".", "<<", "*", '"', "```a\n", "A ", "p.", "{", "<think>"):
        text = hostile * (100_000 // len(hostile)) + "x"
        for rule in (
            "detectable_content:number_placeholders",
            "detectable_content:postscript",
            "detectable_format:json_format",
            "detectable_format:multiple_sections",
            "detectable_format:number_bullet_lists",
            "detectable_format:number_highlighted_sections",
            "detectable_format:title",
            "change_case:capital_word_frequency",
            "change_case:english_capital",
            "combination:two_responses",
            "length_constraints:number_paragraphs",
            "length_constraints:number_sentences",
            "length_constraints:number_words",
        ):
            RULES[rule](text, given)
        BUILT_IN["python"].find_program(text)
        FormatTags().open().score([Group(Prompt.of("?"), (sample_of(Prompt.of("?"), 0, text),))])
        last_number(text)
        last_boxed(text)
    assert time.process_time() - started < 30
