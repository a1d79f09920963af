"""Writes chat_golden.json: what published chat templates make of a few conversations.

    python tests/data/render_chat_templates.py FOLDER

FOLDER holds NAME.jinja for each NAME of TOKENS below: the "chat_template" (of several, the one
called "default") of the tokenizer_config.json of the model named beside it. The templates are other
people's and stay out of the repository; `transformers` renders them.
"""

import json
import sys
from pathlib import Path

# Beginning and end of a text, as the model's tokenizer_config.json has them.
TOKENS = {
    "llama2": ("<s>", "</s>"),  # meta-llama/Llama-2-7b-chat-hf
    "mistral": ("<s>", "</s>"),  # mistralai/Mistral-7B-Instruct-v0.2
    "mistral-v3": ("<s>", "</s>"),  # mistralai/Mistral-Large-Instruct-2407
    "gemma2": ("<bos>", "<eos>"),  # google/gemma-2-2b-it
    "phi3-small": ("<|endoftext|>", "<|endoftext|>"),  # microsoft/Phi-3-small-8k-instruct
    "deepseek-v2.5": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),  # deepseek-ai's
    "command-r": ("<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"),  # CohereForAI/c4ai-command-r-plus
}
TEXTS = {
    "s": ("system", "Be brief. "),
    "u": ("user", "the law"),
    "a": ("assistant", "It isn't."),
    "v": ("user", "  And\nthen? \n"),
    "b": ("assistant", "\n Nothing <b>é</b>\t"),
    "e": ("user", ""),
}
CONVERSATIONS = (
    "u",
    "su",
    "ua",
    "sua",
    "uav",
    "suav",
    "uavb",
    "suavb",
    "sv",
    "svb",
    "e",
    "se",
    "eb",
    "a",
    "uu",
    "us",
    "sa",
    "uaa",
    "suu",
    "usa",
    "ss",
    "s",
)


def messages(letters):
    """The conversation of these letters."""
    return [{"role": TEXTS[c][0], "content": TEXTS[c][1]} for c in letters]


def render(template, tokens, letters, prompt):
    """What `transformers` makes of a conversation; None where the template refuses it."""
    from jinja2.exceptions import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    start, end = tokens
    try:
        texts, _ = render_jinja_template(
            conversations=[messages(letters)],
            chat_template=template,
            add_generation_prompt=prompt,
            bos_token=start,
            eos_token=end,
        )
    except TemplateError:
        return None
    return texts[0]


def main(folder):
    """Render all conversations with all templates."""
    golden = {
        name: {
            f"{letters}{'>' * prompt}": render(
                (Path(folder) / f"{name}.jinja").read_text(), tokens, letters, prompt
            )
            for letters in CONVERSATIONS
            for prompt in (False, True)
        }
        for name, tokens in TOKENS.items()
    }
    text = json.dumps(golden, indent=1, ensure_ascii=False) + "\n"
    Path(__file__).with_name("chat_golden.json").write_text(text)


if __name__ == "__main__":
    main(sys.argv[1])
