"""Write what makes a Hugging Face Space of an exported folder: app.py, requirements.txt, the front matter of README.md.

A Space is a page at huggingface.co, on which anybody can try a model. Gradio, which makes the page, is not needed here.
"""

import json
import string
from pathlib import Path

from common.errors import one_line
from common.files import write_atomic
from models.fine_tuned import Description

GRADIO = "6.31.0"
REQUIREMENTS = "torch\ntransformers\nsafetensors\ntokenizers\n"  # gradio itself comes with a Space
APP = string.Template('''"""A page that classifies texts: a Hugging Face Space, or with gradio here, `python app.py`."""

from pathlib import Path

import gradio
from transformers import pipeline

classify = pipeline("text-classification", model=str(Path(__file__).parent), truncation=True, top_k=None)


def predict(text):
    """Return the probability of each label."""
    return {row["label"]: row["score"] for row in classify([text or " "])[0]}  # an empty string has no token


demo = gradio.Interface(
    predict,
    gradio.Textbox(lines=4, max_length=20000, label="Text"),
    gradio.Label(num_top_classes=$labels, label="Probabilities"),
    title=$title,
    examples=[["a fine film"], ["a dull one"]],
    cache_examples=False,
    flagging_mode="never",
)

if __name__ == "__main__":
    demo.launch()
''')


def write(folder: Path, what: Description, name: str) -> None:
    """Write app.py and requirements.txt into a folder that holds the model as transformers reads it."""
    title = json.dumps(one_line(name, 80))  # as Python spells a string, too: escapes for all but ASCII
    write_atomic(folder / "app.py", APP.substitute(labels=what.num_labels, title=title))
    write_atomic(folder / "requirements.txt", REQUIREMENTS)


def front_matter(name: str, license: str) -> list[str]:
    """Return the lines of YAML that a Space's README.md begins with. JSON's strings are YAML's, too."""
    return [f"title: {json.dumps(one_line(name, 80))}", "colorFrom: blue", "colorTo: yellow", "sdk: gradio",
            f'sdk_version: "{GRADIO}"', "app_file: app.py", "pinned: false", f"license: {license}"]
