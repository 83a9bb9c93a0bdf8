"""Prompts as a chat model reads them: messages through a chat template."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opdcliff.data import Example
from opdcliff.errors import ConfigError, DataError
from opdcliff.settings import DataConfig
from opdcliff.storage import in_words

AUTO, NONE = "auto", "none"
# What of `data` decides how prompts are put to a model, not which prompts there are.
CHAT_SETTINGS = ("chat_template", "system_prompt", "template_args")


@dataclass(frozen=True)
class Chat:
    """A chat template with what it is filled with.

    template: Jinja source, or None for the one that came with the tokenizer. system: text of a
    system message that is put before each prompt that has none. arguments: variables of the
    template, such as enable_thinking.
    """

    template: str | None
    system: str | None
    arguments: dict[str, Any]

    def render(self, tokenizer: Any, example: Example) -> str:
        """The text of the prompt, up to where the answer begins.

        Raises:
            DataError: the template refuses the messages.
        """
        messages = [
            {"role": role, "content": content}
            for role, content in example.messages or (("user", example.prompt),)
        ]
        if self.system is not None and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self.system})
        try:
            text: str = tokenizer.apply_chat_template(
                messages,
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=True,
                **self.arguments,
            )
        except Exception as error:
            # A template says in words of its own what it does not take.
            reason = textwrap.shorten(str(error), 200, placeholder=" ...") or in_words(error)
            raise DataError(
                f"the chat template refuses the messages {[m['role'] for m in messages]}: "
                f"{reason}; change them, or set data.chat_template=none or another file"
            ) from error
        return text


def chat_of(tokenizer: Any, data: DataConfig) -> Chat | None:
    """The chat of `data.chat_template`; None where prompts are read as they stand.

    Raises:
        ConfigError: the file cannot be read, or a setting of the template has no template.
    """
    own = getattr(tokenizer, "chat_template", None)
    arguments = dict(data.template_args)
    if data.chat_template == NONE or (data.chat_template == AUTO and not own):
        for name, value in (("system_prompt", data.system_prompt), ("template_args", arguments)):
            if value:
                raise ConfigError(
                    f"data.{name} goes into a chat template, and data.chat_template="
                    f"{data.chat_template} finds none; give data.chat_template=FILE"
                )
        return None
    template = None if data.chat_template == AUTO else template_source(data.chat_template)
    return Chat(template, data.system_prompt, arguments)


def chat_identity(data: DataConfig) -> dict[str, Any]:
    """What prompts go through, for the key of prepared models; a file counts by its content.

    Raises:
        ConfigError: the file cannot be read.
    """
    template = data.chat_template
    own = template if template in (AUTO, NONE) else template_source(template)
    return {"template": own, "system": data.system_prompt, "arguments": dict(data.template_args)}


def template_source(file: str) -> str:
    """The template in a file. Raises ConfigError where it cannot be read."""
    try:
        return Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"data.chat_template={file}: {in_words(error)}; allowed: {AUTO}, {NONE} or a file with "
            "a Jinja template"
        ) from error
