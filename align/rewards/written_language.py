"""Is a text written in a language? By its script and, among languages that share one, by their
commonest words.

Enough for "answer in Hindi, no other language": a few words a language, no model. A text without
any telling word passes where its script does.
"""

from __future__ import annotations

import unicodedata
from collections import Counter

SHARE = 0.5
"""Of the letters that must be of the script: names and quoted words of another one may stand in
between."""

LANGUAGES: dict[str, tuple[str, str]] = {
    "ar": ("ARABIC", "في من على إلى أن هذا هذه التي الذي كان ما لا هو هي عن مع كل أو ثم"),
    "bg": ("CYRILLIC", "на да се е за от че са не като по съм си към със той тя това ще или"),
    "bn": ("BENGALI", ""),
    "de": ("LATIN", "der die das und ist nicht ein eine zu mit auf für von den dem ich sie es wir"),
    "en": ("LATIN", "the of and to a in is that it you for on with as are this be i was have my"),
    "es": ("LATIN", "el la de que y en los se del las un por con no una su para es al lo como"),
    "fa": ("ARABIC", "و در به از که این است را با برای آن یک می ها تا بود شد هم بر خود او"),
    "fi": ("LATIN", "ja on ei se että hän olla ovat mutta kun niin oli myös kuin tämä minä sinä"),
    "fr": ("LATIN", "le la les de des et est un une que qui dans pour pas sur avec ce il je vous"),
    "gu": ("GUJARATI", ""),
    "hi": ("DEVANAGARI", "है हैं के का की में से और नहीं यह था थी थे पर एक भी ने हो कर वह"),
    "kn": ("KANNADA", ""),
    "ko": ("HANGUL", ""),
    "mr": ("DEVANAGARI", "आहे आहेत आणि होते होता नाही हे ते या मध्ये एक तो ती मी तुम्ही साठी"),
    "ne": ("DEVANAGARI", "छ छन् र मा हो भएको लागि थियो गर्न यो पनि हुन् गर्छ छैन तर एक"),
    "pa": ("GURMUKHI", ""),
    "ru": ("CYRILLIC", "и в не на что он как это по но из у за то все она так его для мы"),
    "te": ("TELUGU", ""),
    "th": ("THAI", ""),
    "vi": ("LATIN", "và là của có không một những được cho trong với các người này khi để tôi bạn"),
}
"""ISO 639-1 code: first word of its letters' Unicode names, and words that few other languages of
the script use."""


def is_written_in(text: str, language: str) -> bool:
    """True where most letters are of the language's script and no other language of that script
    has more of its common words. Raises `KeyError` for a language that is not in `LANGUAGES`.
    """
    script, _ = LANGUAGES[language]
    scripts = Counter(
        unicodedata.name(letter, "?").split()[0]
        for letter in text
        if unicodedata.category(letter)[0] in "LM"  # letters, and the vowel signs on them
    )
    if scripts[script] <= SHARE * scripts.total():
        return False
    words = Counter(word.strip("।.,;:!?\"'()[]*«»„“”،؟") for word in text.lower().split())
    hits = {
        code: sum(words[word] for word in common.split())
        for code, (own, common) in LANGUAGES.items()
        if own == script
    }
    return hits[language] == max(hits.values())
