"""Our templates in the form that a saved stock processor carries, so that a checkpoint prompts as it was trained."""

from typing import TYPE_CHECKING

from croc_cli.data.templates import VICUNA_SYSTEM

if TYPE_CHECKING:
    from croc_cli.recipe.schema import TemplateName

# Content is a string, or LLaVA's list of {"type": "image"} and {"type": "text"}; pictures come first, as in training.
_CONTENT = (
    "{% macro text(message) %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}{% endmacro %}"
)
_VICUNA = (
    _CONTENT
    + "{% if messages[0]['role'] == 'system' %}{{ text(messages[0]) }}{% set turns = messages[1:] %}"
    + "{% else %}"
    + VICUNA_SYSTEM
    + "{% set turns = messages %}{% endif %} "
    + "{% for message in turns %}"
    + "{% if message['role'] == 'user' %}USER: {{ text(message) }} {% else %}ASSISTANT: {{ text(message) }}"
    + "{{ eos_token }}{% endif %}{% endfor %}"
    + "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_PLAIN = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{% for part in message['content'] if message['content'] is not string and part['type'] == 'image' %}<image>"
    "{% endfor %}{% else %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{{ '\\n' }}{% endif %}{% endfor %}"
)


# What a user of stock transformers writes as a list of pictures and texts becomes the string that an LLM's template
# takes: pictures first, each followed by a new line, as in training.
_FLATTEN = (
    "{% set flat = namespace(messages=[]) %}{% for message in messages %}{% if message['content'] is string %}"
    "{% set flat.messages = flat.messages + [message] %}{% else %}{% set joined = namespace(text='') %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{% set joined.text = joined.text + '<image>\n' %}"
    "{% endfor %}{% for part in message['content'] if part['type'] == 'text' %}"
    "{% set joined.text = joined.text + part['text'] %}{% endfor %}"
    "{% set flat.messages = flat.messages + [dict(message, content=joined.text)] %}{% endif %}{% endfor %}"
    "{% set messages = flat.messages %}"
)


def with_pictures(template: str | None) -> str | None:
    """Return an LLM's own chat template so that it also takes messages that are lists of pictures and texts."""
    return template if template is None or template.startswith(_FLATTEN) else _FLATTEN + template


def chat_template_for(template: "TemplateName") -> str | None:
    """Return the Jinja chat template of `plain` or `vicuna_v1`; None where the tokenizer's own is used."""
    return {"plain": _PLAIN, "vicuna_v1": _VICUNA, "chat_template": None}[template]
