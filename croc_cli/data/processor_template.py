"""Our templates in the form that a saved stock processor carries, so that a checkpoint prompts as it was trained.

A stock user's message is a string, or a list of {"type": "image"} and {"type": "text"}. Either becomes the string that
a row of data would hold, and pictures stand where `croc_cli.data.conversation` puts them in training: the only picture
of a conversation before its turn's text, several where they are written.
"""

from typing import TYPE_CHECKING

from croc_cli.data.qwen_template import QWEN_SYSTEM
from croc_cli.data.templates import VICUNA_SYSTEM

if TYPE_CHECKING:
    from croc_cli.recipe.schema import TemplateName

# Parts are joined as rows of data are read: by a new line, unless white space already parts them.
_JOINED = (
    "{% set joined = namespace(text='') %}{% for part in message['content'] %}"
    "{% set piece = part['text'] if 'text' in part else '<image>' if 'image' in part['type'] else '' %}"
    "{% set apart = joined.text|trim and piece|trim and joined.text[-1:]|trim and piece[:1]|trim %}"
    "{% set joined.text = joined.text + ('\n' if apart else '') + piece %}{% endfor %}"
)
_LISTED = (
    "{% set flat = namespace(messages=[], pictures=0) %}{% for message in messages %}"
    "{% if message['content'] is string %}{% set text = message['content'] %}"
    "{% else %}" + _JOINED + "{% set text = joined.text %}{% endif %}"
    "{% if message['role'] == 'user' %}"
    "{% set flat.pictures = flat.pictures + text.split('<image>')|length - 1 %}{% endif %}"
    "{% set flat.messages = flat.messages + [dict(message, content=text)] %}{% endfor %}"
    "{% set messages = flat.messages %}"
)
_FLATTEN = _LISTED + (
    "{% if flat.pictures == 1 %}{% set flat.messages = [] %}{% for message in messages %}"
    "{% if message['role'] == 'user' and '<image>' in message['content'] %}"
    "{% set rest = message['content'].replace('<image>', '')|trim %}"
    "{% set message = dict(message, content='<image>' + ('\n' + rest if rest else '')) %}{% endif %}"
    "{% set flat.messages = flat.messages + [message] %}{% endfor %}{% set messages = flat.messages %}{% endif %}"
)
_VICUNA = (
    _FLATTEN
    + "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% set turns = messages[1:] %}"
    + "{% else %}"
    + VICUNA_SYSTEM
    + "{% set turns = messages %}{% endif %} "
    + "{% for message in turns %}"
    + "{% if message['role'] == 'user' %}USER:{{ ' ' + message['content'] if message['content'] else '' }} "
    + "{% else %}ASSISTANT: {{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    + "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_PLAIN = (
    _FLATTEN
    + "{% for message in messages %}{% if message['role'] == 'user' %}"
    + "{{ '<image>' * (message['content'].split('<image>')|length - 1) }}"
    + "{% else %}{{ message['content'] + '\\n' }}{% endif %}{% endfor %}"
)
# As `split_images_next`: a turn with one picture begins with it, and one that does already stays as it is.
_PICTURE_FIRST = (
    "{% set flat.messages = [] %}{% for message in messages %}{% set text = message['content'] %}"
    "{% if message['role'] == 'user' and text.split('<image>')|length == 2 and text[:7] != '<image>' %}"
    "{% set text = ('<image>\n' + text.replace('<image>', '')|trim)|trim %}{% endif %}"
    "{% set flat.messages = flat.messages + [dict(message, content=text)] %}{% endfor %}"
    "{% set messages = flat.messages %}"
)


def _qwen(system: str) -> str:
    """Return the template `qwen_1_5` with a system sentence, which a system message replaces."""
    said = ascii(system)  # Jinja reads the text literals of Python
    return (
        _LISTED
        + _PICTURE_FIRST
        + "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n' + "
        + said
        + " + '<|im_end|>\n' }}{% endif %}"
        + "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
        + "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


def with_pictures(template: str | None) -> str | None:
    """Return an LLM's own chat template so that it also takes messages that are lists of pictures and texts."""
    return template if template is None or template.startswith(_FLATTEN) else _FLATTEN + template


def chat_template_for(template: "TemplateName", system_prompt: str | None = None) -> str | None:
    """Return the Jinja chat template of one of ours; None where the tokenizer's own is used.

    Args:
        template: Which one.
        system_prompt: System sentence of `qwen_1_5`; None for its own.
    """
    if template == "qwen_1_5":
        return _qwen(QWEN_SYSTEM if system_prompt is None else system_prompt)
    return {"plain": _PLAIN, "vicuna_v1": _VICUNA, "chat_template": None}[template]
