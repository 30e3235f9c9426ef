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


def chat_template_for(template: "TemplateName") -> str | None:
    """Return the Jinja chat template of `plain` or `vicuna_v1`; None where the tokenizer's own is used."""
    return {"plain": _PLAIN, "vicuna_v1": _VICUNA, "chat_template": None}[template]
