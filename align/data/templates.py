"""Chat templates by name, for tokenizers that bring none. Adding one: a line in `NAMED`."""

from __future__ import annotations

from pathlib import Path

from align.errors import DataError

NONE = "none"
"""Plain concatenation of the turns' contents."""

_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_PLAIN = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ 'Assistant: ' + message['content'] + eos_token + '\n\n' }}"
    "{% else %}{{ 'User: ' + message['content'] + '\n\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_ZEPHYR = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
_TULU = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
_LLAMA3 = (
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
NAMED = {
    "chatml": _CHATML,
    "plain": _PLAIN,
    "zephyr": _ZEPHYR,
    "tulu": _TULU,
    "llama3": _LLAMA3,
}


def find_template(own: str | None, chosen: str | None) -> str | None:
    """The Jinja source that `policy.chat_template` picks, or None for plain concatenation.

    `chosen` is None (the tokenizer's `own`), `none`, a name of `NAMED`, or the path of a `.jinja`
    file. Raises `DataError` where the name is unknown or the file is missing.
    """
    if chosen is None:
        return own
    if chosen == NONE:
        return None
    if chosen in NAMED:
        return NAMED[chosen]
    path = Path(chosen)
    if path.suffix == ".jinja" and path.is_file():
        return path.read_text(encoding="utf-8")
    if path.suffix == ".jinja":
        raise DataError(f"policy.chat_template: there is no file {chosen}")
    raise DataError(
        f"policy.chat_template {chosen!r} is unknown; use {NONE}, {', '.join(NAMED)}, "
        "or the path of a .jinja file"
    )
