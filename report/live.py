"""Write a page in which a run's own classifier lives: type a text, and see what it thinks word by word.

`write` puts the weights into one HTML file, which computes everything by itself and asks no network. `served` makes the
same page for serve.py, with the Python model behind it.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from torch import Tensor

from common.errors import UserError, one_line
from common.files import make_folder, read_bounded, write_atomic
from models.config import GPT2Config
from models.fine_tuned import Description
from report.live_model import Packed, Plain, backbone_tensors, logits_of, plain
from report.live_tokenizer import spoken
from serving.backbone import NoBackbone, pretrained_backbone
from serving.find import find
from serving.model_folder import FineTuned, build

LARGEST = 30_000_000  # bytes of a page
LONGEST = 20_000  # characters of a text that is typed
FAR = 0.2  # of logits: more than rounding should make of them
EXAMPLE = "It isn't a great film, but a warm and funny one."
TEXTS = (
    "", " ", EXAMPLE, "A GREAT FILM, SHOUTED IN CAPITALS!", "bad", "not bad at all", "It is n't bad .", "good " * 600,
    "The plot is thin; the actors, however, are superb and carry it to the end.", "I would not watch it again.",
    "the end<|endoftext|>and after it", "\U0001f600\U0001f44d\U0001f3fd loved it \u2764\ufe0f",
    "\uc815\ub9d0 \uc88b\uc740 \uc601\ud654", "\u4e2d\u6587\u7535\u5f71",
    "caf\u00e9 cafe\u0301 \u0130\u00df \u039f\u0394\u039f\u03a3",
    '"She said ""no"" twice"', "<b>bold</b> <br /><br>1/2 -LRB- ok -RRB- ``quoted''", "tab\there\nnew line",
    "antidisestablishmentarianism" * 3, "\x96 \x91odd\x92 \x00 \ufffd", "...!!! ?? ** __ --",
    "What starts as a dull and predictable story grows, scene by scene, into something that stays with you for days.")
"""What the page is compared on: odd texts and ordinary ones."""


class TooLarge(UserError):
    """The model does not fit into a page."""


def write(run: Path, out: Path) -> None:
    """Write the live page of a finished run, whole or not at all. UserError, naming serve.py, if it cannot be.

    run: a run folder, or a copy of the folder model/ in it.
    """
    source = find(run)
    model, record = build(source), read_record(run)
    try:
        page = in_one_file(model, record, run)
    except UserError as error:
        raise type(error)(f"no live page of {run}: {error}\n"
                          f"./setup.sh serve.py --run {run} shows the same page for any model") from error
    make_folder(out.parent)
    write_atomic(out, page)


def in_one_file(model: FineTuned, record: dict[str, Any], run: Path) -> str:
    """Return the page with the weights in it."""
    what, rows = model.description, model.encode(list(TEXTS))
    found = plain(model, rows)
    tokenizer = spoken(model.tokenizer.files(what.max_length), model.tokenizer.pad_id, what)

    # The pretrained backbone, for the next words; where it cannot be had, the page says so.
    original, why = None, ""
    try:
        original = backbone_tensors(pretrained_backbone(model, record), model.config)
    except NoBackbone as error:
        why = str(error)
    packed, trained, first = pack(found.gpt, original)

    # What the page will answer, computed from the numbers as it reads them.
    read = {name: packed.read[number] for name, number in trained.items()}
    answers = [logits_of(model, ids) for ids in rows]
    rounded = Plain(found.config, found.gelu, read, found.head)
    difference = max(float((rounded.logits(ids) - want).abs().max()) for ids, want in zip(rows, answers, strict=True))
    if not difference < FAR:
        raise TooLarge(f"in few bytes its weights give other answers, by {difference:.2g} in a logit")
    weight, bias = found.head
    page = render(what, record, run, local=True, weights=base64.b64encode(packed.content).decode(), why=why, data={
        "bound": float(f"{max(1e-3, 2 * difference):.1g}"),
        "precision": "the weights are here as "
                     + ("int8, the trained ones in two steps" if original and trained != first else "float16"),
        "check": [{"text": text, "ids": ids, "logits": logits.tolist()}
                  for text, ids, logits in zip(TEXTS, rows, answers, strict=True)],
        "model": {
            "shape": shape(model.config, found.gelu), "tokenizer": tokenizer, "entries": packed.entries,
            "head": {"weight": weight.tolist(), "bias": bias.tolist()},
            "classifier": trained, "backbone": first if original else None}})
    if len(page.encode()) > LARGEST:
        raise TooLarge(f"it would have more than {LARGEST // 10**6} MB")
    return page


def pack(trained: dict[str, Tensor], original: dict[str, Tensor] | None) \
        -> tuple[Packed, dict[str, int], dict[str, int]]:
    """Put the tensors of one or two models into few bytes: (them, each one's number of the trained, of the original).

    TooLarge, before all of them are packed, if that is too much for a page.
    """
    packed, numbers = Packed(), {}
    for name, tensor in trained.items():
        numbers[name] = packed.add_pair(tensor, original and original[name])
        if len(packed.content) * 4 / 3 > LARGEST:
            raise TooLarge(f"its weights take more than the {LARGEST // 10**6} MB of a page")
    return packed, *({name: pair[which] for name, pair in numbers.items()} for which in (0, 1))


def shape(config: GPT2Config, gelu: str) -> dict[str, Any]:
    """Return a GPT-2's shape by the names that live_model.js has for it."""
    return {"C": config.hidden_size, "inner": config.intermediate_size, "nh": config.num_attention_heads,
            "layers": config.num_hidden_layers, "eps": config.layer_norm_eps, "gelu": gelu}


def served(what: Description, record: dict[str, Any], run: Path, why: str) -> str:
    """Return the page for a server that answers in the model's place. why: there is no pretrained model, if so."""
    return render(what, record, run, local=False, weights="", why=why, data={})


def render(what: Description, record: dict[str, Any], run: Path, local: bool, weights: str, why: str,
           data: dict[str, Any]) -> str:
    """Return the page as HTML."""
    folder = Path(__file__).parent / "templates"
    pages = jinja2.Environment(loader=jinja2.FileSystemLoader(folder), autoescape=True,
                               undefined=jinja2.StrictUndefined)
    style = Markup("".join(pages.get_template(name).render() for name in ("style.css", "live.css")))
    scripts = [Markup((folder / name).read_text("utf-8")) for name in ("page.js", "live.js")]
    data = {"names": what.label_names, "keepEnd": what.keep_end, "maxLength": what.max_length, **data}
    asked = "'none'" if local else "'self'"
    shares = ("A word's share is how far the probability falls when that word alone is blank: its vector zero, its "
              "place kept. Two words that say the same can hide each other." if local else
              "Shares are integrated gradients: the words go in 50 steps from blank to themselves, and what each one "
              "changes is added up.")
    commit = record.get("commit")
    return pages.get_template("live.html").render(
        title=f"{one_line(what.task, 80)}: live", local=local, longest=LONGEST, example=EXAMPLE,
        weights=Markup(weights), texts=len(TEXTS), shares=shares,
        where=f"{one_line(run.resolve().name, 80)} · task {one_line(what.task, 80)} · {what.fine_tune_mode}",
        guesses="The GPT-2 that the training began with guesses the next word." if not why else f"No guesses: {why}.",
        footer=("Everything is computed on this machine, inside this page; it asks no network." if local else
                "Answered by the model on the machine where serve.py runs.")
        + (f" Trained with the code of commit {one_line(str(commit), 50)}." if commit else ""),
        style=style, scripts=scripts,
        policy=f"default-src 'none'; script-src {' '.join(map(hashed, scripts))}; worker-src blob:; "
               f"style-src {hashed(style)}; connect-src {asked}; base-uri 'none'; form-action 'none'",
        data=Markup(json_in_html(data)))


def hashed(content: str) -> str:
    """Return how a Content-Security-Policy names the one inline style or script that may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def json_in_html(value: object) -> str:
    """Return JSON that can stand in a script element: no sign in it ends the element or begins another."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def read_record(run: Path) -> dict[str, Any]:
    """Return a run's run.json; {} if it is not at hand."""
    try:
        record = json.loads(read_bounded(run / "run.json", 1 << 20))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
