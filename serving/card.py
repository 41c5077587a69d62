"""Write the model card of an exported classifier: README.md with the front matter that the Hugging Face hub reads."""

import json
import shlex
from pathlib import PurePath
from typing import Any

from common.errors import one_line
from serving import space
from serving.export_settings import Settings
from serving.model_folder import FineTuned

SCORES = {"majority": "majority class", "tfidf": "TF-IDF + logistic regression", "run": "this model"}


def card(model: FineTuned, settings: Settings, record: dict[str, Any], result: dict[str, Any]) -> str:
    """Return the card. record, result: the run's run.json and result.json; {} where they are not at hand."""
    what, name = model.description, settings.push or settings.out.name or "classifier"
    names = ", ".join(f"{label}: {plain(label_name)}" for label, label_name in enumerate(what.label_names))
    parts = [
        front_matter(name, what.task, settings, result),
        f"# {plain(name)}",
        f"A GPT-2 that classifies texts, fine-tuned on the task {plain(what.task)}. Labels: {names}.",
        f"It reads at most {what.max_length} tokens of a text; of a longer one the "
        f"{'beginning' if what.keep_end else 'rest'} is cut off. "
        + ("It lower-cases texts. " if what.lowercase else "") + "Its tokenizer does by itself what was done to the "
        f"texts it was trained on{rules(what.rules)}.",
        "## Use", {"onnx": onnx_use, "space": space_use}.get(settings.format, lambda: pipeline_use(name))(),
        "## How good", *figures(result),
        "## How it was made", *origin(model, record),
        "## Limits", *limits(settings.format),
        "## Licence", licence(settings.license)]
    return "\n\n".join(parts) + "\n"


def plain(text: object) -> str:
    """Return a text from outside for Markdown: on one line, without the signs that Markdown and HTML would read."""
    return "".join(f"&#{ord(sign)};" if sign in "\\`*_[]<>|#&" else sign for sign in one_line(str(text), 200))


def block(text: str) -> str:
    """Return lines as a code block, which no line of the text can end."""
    return "\n".join(f"    {one_line(line)}" for line in text.splitlines())


def front_matter(name: str, task: str, settings: Settings, result: dict[str, Any]) -> str:
    """Return the YAML at the top. JSON's strings and numbers are YAML's, too."""
    if settings.format == "space":
        return "\n".join(["---", *space.front_matter(name, settings.license), "---"])
    library = "onnx" if settings.format == "onnx" else "transformers"
    lines = ["---", f"license: {settings.license}", f"library_name: {library}", "pipeline_tag: text-classification",
             "tags:", "- text-classification", "- gpt2"]
    if "run" in scores(result):
        data = {"task": {"type": "text-classification"},
                "dataset": {"type": task, "name": task, "split": "dev"},
                "metrics": [{"type": "accuracy", "value": result["run"]["accuracy"]},
                            {"type": "f1", "name": "macro-F1", "value": result["run"]["macro_f1"]}]}
        lines += ["model-index:", f"- name: {json.dumps(name)}", "  results:", f"  - {json.dumps(data)}"]
    return "\n".join([*lines, "---"])


def pipeline_use(name: str) -> str:
    """Return how to call it from transformers."""
    code = (f'from transformers import pipeline\n\nclassify = pipeline("text-classification", model={name!r}, '
            'truncation=True)\nclassify(["a fine film", "a dull one"], batch_size=2)')
    return (f"{block(code)}\n\n`truncation=True` is needed: without it a text that is too long is not cut, and GPT-2 "
            "fails beyond its last position. An empty string fails, and among other texts it gets a wrong answer; "
            "spaces alone do not.")


def onnx_use() -> str:
    """Return how to call it from onnxruntime; serving/onnx_file.py does the same."""
    code = ('import json, numpy, onnxruntime, tokenizers\n\n'
            'settings = json.load(open("tokenizer_config.json", encoding="utf-8"))\n'
            'tokenizer = tokenizers.Tokenizer.from_file("tokenizer.json")\n'
            'tokenizer.encode_special_tokens = True  # what looks like a special token in a text is text\n'
            'tokenizer.enable_truncation(settings["model_max_length"], direction=settings["truncation_side"])\n'
            'tokenizer.enable_padding(pad_id=tokenizer.token_to_id(settings["pad_token"]))\n'
            'rows = tokenizer.encode_batch(["a fine film", "a dull one"])\n'
            'inputs = {"input_ids": numpy.array([row.ids for row in rows]),\n'
            '          "attention_mask": numpy.array([row.attention_mask for row in rows])}\n'
            'logits, = onnxruntime.InferenceSession("model.onnx").run(None, inputs)')
    return f"{block(code)}\n\nPad on the right; every row needs a token (an empty string has none, spaces alone do)."


def space_use() -> str:
    """Return how to run a Space, here and at huggingface.co."""
    code = "pip install gradio -r requirements.txt\npython app.py"
    return (f"{block(code)}\n\nshows the page on this machine. `export.py --format space --push you/name` puts it at "
            "huggingface.co; so does a new Space with the files of this folder.")


def rules(names: tuple[str, ...]) -> str:
    """Return the names of the reader's rules for the middle of a sentence."""
    return f" (rules: {', '.join(names)})" if names else ""


def scores(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return those of a run's scores that are whole."""
    return {key: result[key] for key in SCORES if isinstance(result.get(key), dict)
            and all(isinstance(result[key].get(field), int | float)
                    for field in ("accuracy", "macro_f1", "examples"))}


def figures(result: dict[str, Any]) -> list[str]:
    """Return the table of scores on dev."""
    found = scores(result)
    if "run" not in found:
        return ["Not known: it was exported without the folder of its run."]
    rows = [f"| {SCORES[key]} | {score['accuracy']:.3f} | {score['macro_f1']:.3f} |" for key, score in found.items()]
    return ["\n".join([f"| {found['run']['examples']} texts of dev | accuracy | macro-F1 |", "|---|---|---|", *rows]),
            f"The best epoch, {plain(result.get('best_epoch'))}, was chosen on these texts, too: expect a little less "
            "on others."]


def origin(model: FineTuned, record: dict[str, Any]) -> list[str]:
    """Return the command, the commit, and what identifies data and backbone."""
    identity = record.get("identity") if isinstance(record.get("identity"), dict) else {}
    command, texts = record.get("command"), identity.get("texts")
    parts = [block(shlex.join(map(without_folder, command)))] if isinstance(command, list) else []
    facts = {"mode": model.description.fine_tune_mode, "commit of the code": record.get("commit"),
             "backbone's weights": identity.get("backbone"), "tokenizer": model.tokenizer.fingerprint,
             **{f"texts of {name}": value for name, value in (texts.items() if isinstance(texts, dict) else ())}}
    facts = {name: value for name, value in facts.items() if value}
    parts.append("\n".join(f"- {plain(name)}: {plain(value)}" for name, value in facts.items()))
    return [*parts, "Long rows of digits are SHA-256 sums: the same texts, weights and code give the same."]


def without_folder(word: object) -> str:
    """Return a word of a command line, of an absolute path only the name: folders at home are nobody's business."""
    path = PurePath(str(word))
    return path.name if path.is_absolute() or path.parts[:1] == ("~",) else str(word)


def limits(format: str) -> list[str]:
    """Return what the exported model cannot do."""
    no_language_model = ("It is no language model any more. Hugging Face's head has no bias, so the bias of the head "
                         "that was trained is a part of the last LayerNorm's (`ln_f.bias`): `AutoModelForCausalLM` "
                         "loads these weights, but its next words are wrong.")
    return [*[no_language_model] * (format != "onnx"),
            "It says a label for every text, also for one of another kind than those it was trained on, in another "
            "language, or empty. What the backbone's authors say of its limits and prejudices holds here, too."]


def licence(license: str) -> str:
    """Return what is known of the licence."""
    stated = "Not stated by who exported it. " if license == "other" else f"{license}. "
    return (f"{stated}The code that trained it is under the MIT licence; the backbone's weights and the texts that it "
            "was trained on have terms of their own.")
