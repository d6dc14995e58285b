"""The checkable instructions of IFEval (arXiv:2311.07911), one small function each.

A rule takes the text and its arguments and says whether the text keeps it. The checks follow the
benchmark's definitions, with patterns whose time grows with the length of the text, not with its
square; where that leans on a tokenizer or a language classifier of another
package, ours is simpler (`sentences_of`, `written_language`) and may differ on odd texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from align.records import Json
from align.rewards.written_language import is_written_in

Arguments = Mapping[str, Json]
Rule = Callable[[str, Arguments], bool]

ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
ABBREVIATIONS = re.compile(
    r"\b(?:mr|mrs|ms|dr|prof|st|vs|e\.g|i\.e|etc|(?-i:[A-Z]))\.", re.IGNORECASE
)
SENTENCE_END = re.compile(r"(?<![.!?…。！？।])[.!?…。！？।]+[\"'”’)\]*_]*(?:\s+|$)")


def number(arguments: Arguments, name: str) -> int:
    """A whole number; raises `KeyError` or `ValueError` where it is missing or none."""
    return int(cast(int, arguments[name]))


def text(arguments: Arguments, name: str) -> str:
    """A text; raises `KeyError` where it is missing."""
    return str(arguments[name])


def texts(arguments: Arguments, name: str) -> list[str]:
    """A list of texts; raises `KeyError` where it is missing."""
    return [str(each) for each in cast("Sequence[Json]", arguments[name])]


def holds(count: int, relation: str, bound: int) -> bool:
    """`at least` or `less than`."""
    if relation not in ("at least", "less than"):
        raise ValueError(f"the relation is {relation!r}; expected 'at least' or 'less than'")
    return count >= bound if relation == "at least" else count < bound


def sentences_of(said: str) -> list[str]:
    """Sentences, ended by a mark and a blank; abbreviations and initials end none.

    `"Hi, Dr. No! It costs 3.50. Fine"` -> `["Hi, Dr. No", "It costs 3.50", "Fine"]` (marks cut).
    """
    kept = ABBREVIATIONS.sub(lambda found: found[0].replace(".", "\0"), said)
    return [each.replace("\0", ".").strip() for each in SENTENCE_END.split(kept) if each.strip()]


def split_exactly(said: str, pattern: str) -> list[str] | None:
    """Parts between separators; None where a part in the middle is empty."""
    found = [part.strip() for part in re.split(pattern, said)]
    found = found[1:] if found and not found[0] else found
    found = found[:-1] if found and not found[-1] else found
    return found if all(found) else None


def has_keywords(said: str, given: Arguments) -> bool:
    return all(re.search(re.escape(k), said, re.I) for k in texts(given, "keywords"))


def repeats_keyword(said: str, given: Arguments) -> bool:
    found = re.findall(re.escape(text(given, "keyword").strip()), said, re.I)
    return holds(len(found), text(given, "relation"), number(given, "frequency"))


def avoids_words(said: str, given: Arguments) -> bool:
    words = (rf"\b{re.escape(word)}\b" for word in texts(given, "forbidden_words"))
    return not any(re.search(word, said, re.I) for word in words)


def repeats_letter(said: str, given: Arguments) -> bool:
    count = said.lower().count(text(given, "letter").strip().lower())
    return holds(count, text(given, "let_relation"), number(given, "let_frequency"))


def is_in_language(said: str, given: Arguments) -> bool:
    return is_written_in(said, text(given, "language"))


def has_sentences(said: str, given: Arguments) -> bool:
    count = len(sentences_of(said))
    return holds(count, text(given, "relation"), number(given, "num_sentences"))


def has_words(said: str, given: Arguments) -> bool:
    count = len(re.findall(r"\w+", said))
    return holds(count, text(given, "relation"), number(given, "num_words"))


def has_paragraphs(said: str, given: Arguments) -> bool:
    """Paragraphs are separated by the divider `***`."""
    found = split_exactly(said, r"\s?\*\*\*\s?")
    return found is not None and len(found) == number(given, "num_paragraphs")


def begins_paragraph(said: str, given: Arguments) -> bool:
    """Paragraphs are separated by an empty line."""
    found = [part.strip() for part in re.split(r"\n\n", said) if part.strip()]
    nth = number(given, "nth_paragraph")
    if len(found) != number(given, "num_paragraphs") or not 1 <= nth <= len(found):
        return False
    first = re.match(r"[\"'“‘]*([^\s.,?!'\"”’]*)", found[nth - 1])
    return first is not None and first[1].lower() == text(given, "first_word").lower()


def has_placeholders(said: str, given: Arguments) -> bool:
    return len(re.findall(r"\[[^\[\]\n]*\]", said)) >= number(given, "num_placeholders")


def has_postscript(said: str, given: Arguments) -> bool:
    """Blanks may stand between the letters of the marker."""
    letters = [re.escape(part) for part in text(given, "postscript_marker").lower().split(".")]
    return re.search(r"\.\s?".join(letters), said.lower()) is not None


def is_constrained(said: str, given: Arguments) -> bool:
    return any(answer in said for answer in ANSWERS)


def is_json(said: str, given: Arguments) -> bool:
    """A fence around it is allowed."""
    inner = re.sub(r"^```(?:json)?|```$", "", said.strip(), flags=re.I).strip()
    try:
        json.loads(inner)
    except (ValueError, RecursionError):  # a thousand opening brackets
        return False
    return True


def has_sections(said: str, given: Arguments) -> bool:
    marker = re.escape(text(given, "section_spliter").strip())
    return len(re.findall(rf"{marker}\s?\d+", said)) >= number(given, "num_sections")


def has_bullets(said: str, given: Arguments) -> bool:
    bullets = re.findall(r"^[ \t]*(?:\*[^*].*|-.*)$", said, re.M)
    return len(bullets) == number(given, "num_bullets")


def has_highlights(said: str, given: Arguments) -> bool:
    once = [found for found in re.findall(r"\*([^\n*]*)\*", said) if found.strip()]
    twice = [found for found in re.findall(r"\*\*([^\n*]*)\*\*", said) if found.strip()]
    return len(once) + len(twice) >= number(given, "num_highlights")


def has_title(said: str, given: Arguments) -> bool:
    return any(title.strip("<> ") for title in re.findall(r"<<[^\n<>]+>>", said))


def has_capital_words(said: str, given: Arguments) -> bool:
    count = sum(word.isupper() for word in re.findall(r"[\w'’-]+", said))
    return holds(count, text(given, "capital_relation"), number(given, "capital_frequency"))


def is_upper(said: str, given: Arguments) -> bool:
    return said.isupper() and is_written_in(said, "en")


def is_lower(said: str, given: Arguments) -> bool:
    return said.islower() and is_written_in(said, "en")


def repeats_prompt(said: str, given: Arguments) -> bool:
    return said.strip().lower().startswith(text(given, "prompt_to_repeat").strip().lower())


def has_two_responses(said: str, given: Arguments) -> bool:
    found = split_exactly(said, r"\*{6}")
    return found is not None and len(found) == 2 and found[0] != found[1]


def has_no_comma(said: str, given: Arguments) -> bool:
    return "," not in said


def ends_with(said: str, given: Arguments) -> bool:
    return said.strip().strip('"').lower().endswith(text(given, "end_phrase").strip().lower())


def is_quoted(said: str, given: Arguments) -> bool:
    inner = said.strip()
    return len(inner) > 1 and inner[0] == inner[-1] == '"'


RULES: dict[str, Rule] = {
    "change_case:capital_word_frequency": has_capital_words,
    "change_case:english_capital": is_upper,
    "change_case:english_lowercase": is_lower,
    "combination:repeat_prompt": repeats_prompt,
    "combination:two_responses": has_two_responses,
    "detectable_content:number_placeholders": has_placeholders,
    "detectable_content:postscript": has_postscript,
    "detectable_format:constrained_response": is_constrained,
    "detectable_format:json_format": is_json,
    "detectable_format:multiple_sections": has_sections,
    "detectable_format:number_bullet_lists": has_bullets,
    "detectable_format:number_highlighted_sections": has_highlights,
    "detectable_format:title": has_title,
    "keywords:existence": has_keywords,
    "keywords:forbidden_words": avoids_words,
    "keywords:frequency": repeats_keyword,
    "keywords:letter_frequency": repeats_letter,
    "language:response_language": is_in_language,
    "length_constraints:nth_paragraph_first_word": begins_paragraph,
    "length_constraints:number_paragraphs": has_paragraphs,
    "length_constraints:number_sentences": has_sentences,
    "length_constraints:number_words": has_words,
    "punctuation:no_comma": has_no_comma,
    "startend:end_checker": ends_with,
    "startend:quotation": is_quoted,
}
