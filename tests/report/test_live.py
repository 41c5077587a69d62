"""The live page in a browser: it gives PyTorch's logits and our tokens, asks nobody, and shows texts as text."""

import json
import random
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from data.reader import read_examples
from data.rules import RULES
from data.tasks import TASKS
from models import fine_tuned
from models.gpt2 import GPT2Model
from models.hub import BUNDLED
from models.pretrained import load, read_config
from report import live
from report.live_model import NotForPage
from report.live_tokenizer import NotForJavaScript, translated
from serving import load as load_run
from serving import model_folder as module
from serving import server
from serving.answers import Answers
from serving.backbone import pretrained_backbone
from serving.find import find
from serving.model_folder import build
from tests.finetuning.kinds import Mean, Plain
from tests.finetuning.test_run import folder  # noqa: F401 (a fixture)
from tests.serving.conftest import write_model
from training.runs.tensor_file import hash_tensors

WAIT = 500  # seconds, at the most; a page needs one or two
HOSTILE = '<img src=x onerror="window.hurt=1"><script>window.hurt=1</script>&lt;'
EDGES = [*map(chr, range(0x30)), *"'\"`<>/\\|-_.,!?*=[](){}\u00a0\u2028\u200b\u200d\ufeff",
         *"\u0301\u0345\u0130\u00df\u03a3\u03c3\u0374\u2126\u1fb3\u0149",
         *"\u0660\u0967\u00b2\u2168\u203f\u2019\u201c\ufb01\u1e9e\u4e2d\u0e01\u0e33\uac00\u1100\u1161\u0915\u094d\ufffd",
         *"\U0001f600\U0001f3fd\U0001d400\U00010400\U000e0041", " ", "  ", "n't", "'s", "'S", "isn't", "don't.", "``",
         "''", "-lrb-", "-RRB-", "<br />", "< BR/ >", "<|endoftext|>", '""', "...", "--", "a\u0308", "\x85", "\x96",
         "film", "GOOD", "Not", "xn't", "\u039f\u0394\u039f\u03a3", "1/2", "1\\/2"]


def hostile_texts(number):
    """Texts made of what tokenizers disagree on; the same ones every time."""
    draw = random.Random(5)
    texts = ["".join(draw.choice(EDGES) + draw.choice(["", "", " "]) for _ in range(draw.randrange(12)))
             for _ in range(number - 2)]
    return [*texts, f'"{"".join(texts[:20])}"', "word " * 300]


@contextmanager
def opened(browser, page, **how):
    """Open a live page, a file or a server's, and wait for its first answer; it may ask nobody else, nor complain."""
    if isinstance(page, str):
        browser.open(Path(__file__), offline=False)  # for its settings
        browser.driver.get(page)
    else:
        browser.open(page, **how)
    wait(browser, "document.querySelectorAll('#bars .value')[0].textContent.includes('%')")
    yield
    told = browser.requests
    browser.read_logs()
    own = ("file:", "blob:", page) if isinstance(page, str) else ("file:", "blob:")
    assert [url for url in told + browser.requests if not url.startswith(own)] == []
    assert browser.console == [] and not browser.run("return window.hurt")


def wait(browser, condition):
    """Wait until a condition in JavaScript holds."""
    end = time.monotonic() + WAIT
    while not browser.run(f"return {condition}"):
        assert time.monotonic() < end, browser.run("return document.body.innerText")
        time.sleep(0.05)


def ask_worker(browser, message, key):
    """Return what the page's model answers to a message."""
    browser.driver.set_script_timeout(WAIT)
    return browser.driver.execute_async_script(
        "const [message, key, done] = arguments;"
        "worker.addEventListener('message', ({ data }) => { if (data[key] || data.failed) done(data[key] || data); });"
        "worker.postMessage(message);", message, key)


def type_text(browser, text):
    """Type a text over the old one, and wait until each word has its share."""
    browser.run("const field = document.getElementById('text'); field.value = arguments[0];"
                "document.getElementById('state').textContent = ''; field.dispatchEvent(new Event('input'))", text)
    wait(browser, "document.getElementById('state').textContent.includes(' ms') && "
                  "[...document.querySelectorAll('#words button')].every((button) => button.title)")


def values(browser):
    """Return the percentages beside the bars."""
    cells = browser.run("return [...document.querySelectorAll('#bars .value')].map((cell) => cell.textContent)")
    return [float(cell.removesuffix(" %")) for cell in cells]


def write_run(path, backbone, frozen=True, known=True, **changes):
    """Write the folder of a run with a classifier of random weights on a backbone; not frozen: the backbone changed."""
    _, classifier = write_model(backbone, path / "model", **changes)
    gpt = load(GPT2Model, backbone, read_config(backbone))
    record = {"settings": {"model": str(backbone)}, "identity": {"backbone": hash_tensors(gpt.state_dict())}}
    if not frozen:
        with torch.no_grad():
            for parameter in classifier.parameters():
                parameter += 0.05 * parameter.std().nan_to_num() * torch.randn_like(parameter)
        rewrite(path / "model", classifier)
    if known:
        (path / "run.json").write_text(json.dumps(record))
    return path


def rewrite(path, classifier):
    """Write a classifier's weights over those in its folder, with the answers that it gives now."""
    description, config, _ = fine_tuned.read(path)
    files = {name: (path / name).read_text() for name in ("tokenizer.json", "tokenizer_config.json")}
    ids, mask = module.texts(config)
    answers = module.answer(classifier, ids, mask, gpt=classifier.gpt, forward=classifier.gpt.forward)
    fields = {**vars(description), "answers": tuple(map(tuple, answers.tolist()))}
    fine_tuned.write(path, fine_tuned.Description(**fields), config, classifier.state_dict(), files)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A run with gpt2-tiny frozen, and its live page."""
    run = tmp_path_factory.mktemp("tiny")
    write_run(run, BUNDLED["gpt2-tiny"], max_length=128, rules=tuple(RULES), fine_tune_mode="last-linear-layer",
              label_names=("bad", HOSTILE, "good"))
    live.write(run, run / "live.html")
    return run


@pytest.fixture(scope="module")
def small(folder, tmp_path_factory):  # noqa: F811
    """A run that has changed a small backbone, and its live page."""
    run = write_run(tmp_path_factory.mktemp("small"), folder / "model", frozen=False, keep_end=True, rules=())
    live.write(run, run / "live.html")
    return run


# ---- the same model --------------------------------------------------------------------------------------------------


def test_the_button_finds_pytorchs_logits(browser, tiny):
    """Catches a wrong norm, GELU, position, head or rounding: odd texts, the weights as float16."""
    with opened(browser, tiny / "live.html"):
        browser.run("document.getElementById('check').click()")
        wait(browser, "document.getElementById('checked').textContent.includes('largest')")
        said = browser.run("return document.getElementById('checked').textContent")
        assert "That is rounding: the weights are here as float16" in said and str(len(live.TEXTS)) in said
        assert float(said.partition("texts: ")[2].partition(". That")[0]) < 1e-3


def test_it_is_right_as_often_on_the_samples_dev_set(browser, tiny):
    """Catches a difference that shows on real sentences only; and a check that cannot fail."""
    task = TASKS["sst-sample"]
    examples = read_examples(task.dev, labelled=True, num_labels=task.num_labels, rules=task.rules)
    model = build(find(tiny))
    rows = model.encode([example.text for example in examples])
    want = torch.stack([live.logits_of(model, ids) for ids in rows])
    asked = [{"text": example.text, "ids": ids, "logits": logits.tolist()}
             for example, ids, logits in zip(examples, rows, want, strict=True)]
    with opened(browser, tiny / "live.html"):
        told = ask_worker(browser, {"check": asked}, "checked")
        wrong = ask_worker(browser, {"check": [{**asked[0], "logits": [9.0, 0.0, 0.0], "ids": [1]}]}, "checked")
    labels = torch.tensor([example.label % 3 for example in examples])
    found = torch.tensor(told["answers"])
    right = [int((rows.argmax(dim=1) == labels).sum()) for rows in (found, want)]
    assert len(examples) == 120 and abs(right[0] - right[1]) <= 1 and len(want.argmax(dim=1).unique()) > 1
    assert told["difference"] < 1e-3 and told["different"] == 0 and torch.allclose(found, want, atol=1e-3)
    assert wrong["difference"] > 1 and wrong["different"] == 1


@pytest.mark.parametrize("run", ["tiny", "small"])
def test_its_tokens_are_ours(browser, run, request):
    """Catches an expression, a class of characters, a rule, a normaliser or a cut that differs, on hostile texts."""
    run, texts = request.getfixturevalue(run), hostile_texts(300)
    want = build(find(run)).encode(texts)
    with opened(browser, run / "live.html"):
        found = ask_worker(browser, {"read": texts}, "tokens")
    assert dict(zip(texts, found, strict=True)) == dict(zip(texts, want, strict=True))


def test_a_trained_model_is_as_exact_as_it_says(browser, small):
    """Catches int8 that is read in another way, an original in the trained model's place, a bound that is made up."""
    model = build(find(small))
    assert pretrained_backbone(model, live.read_record(small)) is not model.gpt
    page = (small / "live.html").read_text()
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert {entry["form"] for entry in data["model"]["entries"]} == {"float32", "int8"} and data["bound"] <= 0.1
    with opened(browser, small / "live.html"):
        told = ask_worker(browser, {"check": data["check"]}, "checked")
        assert 0 < told["difference"] <= data["bound"] and told["different"] == 0
        guesses = browser.run("return [...document.querySelectorAll('#guesses .tag')].map((p) => p.textContent)")
    original = load(GPT2Model, live.read_record(small)["settings"]["model"], model.config)
    row = torch.tensor(model.encode([live.EXAMPLE]))
    with torch.inference_mode():
        want = original.hidden_state_to_token(original(row, torch.ones_like(row))["last_token"])[0].softmax(-1)
    found = [float(guess.removesuffix(" %")) for guess in guesses]
    assert found == pytest.approx((100 * want.topk(5).values).tolist(), abs=1)


def test_a_gelu_of_another_form_is_served_right(browser, folder, tmp_path, monkeypatch):  # noqa: F811
    """Catches a page that shows GPT-2 where the student's file computes the exact GELU."""
    monkeypatch.setattr("modules.gpt2_layer.F", SimpleNamespace(gelu=lambda x, approximate: F.gelu(x)))
    live.write(write_run(tmp_path, folder / "model"), tmp_path / "live.html")
    data = json.loads((tmp_path / "live.html").read_text().partition('id="data">')[2].partition("</script>")[0])
    assert data["model"]["shape"]["gelu"] == "none"
    with opened(browser, tmp_path / "live.html"):
        told = ask_worker(browser, {"check": data["check"]}, "checked")
    assert told["difference"] < 1e-3


# ---- what is shown ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width, dark", [(1280, False), (390, True)])
def test_typing_moves_everything(browser, tiny, width, dark):
    """Catches markup that comes alive, a chart or a map that is not drawn, and a page wider than a phone."""
    with opened(browser, tiny / "live.html", width=width, dark=dark):
        type_text(browser, f"Good {HOSTILE} film")
        text = browser.run("return document.body.innerText")
        assert "onerror" in text and HOSTILE in browser.run("return document.getElementById('bars').innerText")
        assert browser.run("return document.images.length") == 0
        shown = values(browser)
        assert sum(shown) == pytest.approx(100, abs=0.3)
        assert browser.run("return document.querySelectorAll('#chart .line').length") == 3
        assert browser.run("return document.querySelectorAll('#heads button').length") == 20
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        assert browser.run("const map = document.getElementById('map'), brush = map.getContext('2d');"
                           "return brush.getImageData(0, 0, map.width, map.height).data.some((value) => value > 0)")

        # What the first word alone would give is what the model gives for it; pointing at it shows that.
        browser.run("document.querySelector('#words button').focus()")
        first = values(browser)
        browser.run("document.activeElement.blur()")
        type_text(browser, "Good")
        assert first == values(browser) != shown
        type_text(browser, "")
        assert "nothing to read" in browser.run("return document.getElementById('state').textContent")


def test_shares_are_what_a_blank_word_costs(browser, small):
    """Catches a cache that keeps the word, a wrong label, and words in another order."""
    model = build(find(small))
    with opened(browser, small / "live.html"):
        type_text(browser, "good film bad plot")
        titles = browser.run("return [...document.querySelectorAll('#words button')].map((word) => word.title)")
        words = ask_worker(browser, {"read": ["good", "good film", "good film bad"]}, "tokens")
    ids = torch.tensor(model.encode(["good film bad plot"]))
    ends = [*map(len, words), ids.shape[1]]
    want = []
    with torch.inference_mode():
        usual = model.classifier(ids, torch.ones_like(ids)).softmax(dim=1)[0]
        for start, end in zip([0, *ends], ends, strict=False):
            hook = model.gpt.word_embedding.register_forward_hook(
                lambda *given, start=start, end=end: given[2] * ((torch.arange(ids.shape[1]) < start)
                                                                 | (torch.arange(ids.shape[1]) >= end))[:, None])
            want.append(float((usual - model.classifier(ids, torch.ones_like(ids)).softmax(dim=1)[0])[usual.argmax()]))
            hook.remove()
    found = [float(title.split()[0].replace("\u2212", "-")) for title in titles]
    assert found == pytest.approx([100 * share for share in want], abs=0.11) and max(map(abs, want)) > 0.005


def test_the_server_shows_the_same(browser, small):
    """Catches a page that cannot ask its server: the same bars as the page that has the weights."""
    predictor = load_run(small, "cpu")
    with server.server_at("127.0.0.1", 0) as running:
        running.answers = Answers(predictor, predictor.model.gpt)
        running.page = live.served(predictor.description, live.read_record(small), small, "").encode()
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        shown = {}
        for address in (small / "live.html", f"http://127.0.0.1:{running.server_port}/"):
            with opened(browser, address):
                type_text(browser, "good film")
                shown[address] = values(browser)
                assert browser.run("return document.querySelectorAll('#heads button').length") == 4
                assert browser.run("return document.querySelectorAll('#guesses li').length") == 5
        running.shutdown()
    one, other = shown.values()
    assert one == pytest.approx(other, abs=0.11)  # int8 rounds


# ---- what has no page ------------------------------------------------------------------------------------------------


class Relu(Plain):
    """A head that is not linear."""

    def forward(self, input_ids, attention_mask):
        return super().forward(input_ids, attention_mask).relu()


@pytest.mark.parametrize("kind, words", [(Relu, "not linear"), (Mean, "reads more of GPT-2")])
def test_another_head_is_refused(kind, words, folder, tmp_path, monkeypatch):  # noqa: F811
    """Catches a page that shows another model than the student's; and a message that names no way out."""
    write_model(folder / "model", tmp_path / "model", kind)
    monkeypatch.setattr(module, "GPT2SentimentClassifier", kind)
    with pytest.raises(NotForPage, match=rf"{words}.*\n./setup.sh serve.py --run"):
        live.write(tmp_path, tmp_path / "live.html")
    assert not (tmp_path / "live.html").exists()


def test_another_backbone_is_refused(folder, tmp_path, monkeypatch):  # noqa: F811
    """Catches a page for a block that the student wrote in another way, which GPT-2's weights fit."""
    monkeypatch.setattr("modules.gpt2_layer.F", SimpleNamespace(gelu=lambda x, approximate: x.relu()))
    write_model(folder / "model", tmp_path / "model")
    with pytest.raises(NotForPage, match="compute another model than GPT-2"):
        live.write(tmp_path, tmp_path / "live.html")


def test_a_model_that_is_too_large_is_refused(folder, tmp_path, monkeypatch):  # noqa: F811
    """Catches a page that no browser opens."""
    monkeypatch.setattr(live, "LARGEST", 30_000)
    with pytest.raises(live.TooLarge, match=r"take more than the .*MB of a page\n./setup.sh serve.py"):
        live.write(write_run(tmp_path, folder / "model"), tmp_path / "live.html")


@pytest.mark.parametrize("change, said", [
    (None, "run.json is not at hand"), ({"settings": {"random_backbone": True}}, "random weights"),
    ({"settings": {"model": "/nowhere"}}, "not found any more"), ({}, "")])
def test_next_words_need_the_backbone(change, said, folder, tmp_path):  # noqa: F811
    """Catches guesses of a model that the run did not begin with, and silence about it."""
    run = write_run(tmp_path, folder / "model", frozen=False, known=change is not None)
    if change:
        (run / "run.json").write_text(json.dumps({**live.read_record(run), **change}))
    elif change == {}:
        gpt = load(GPT2Model, folder / "model", read_config(folder / "model"))
        with torch.no_grad():
            gpt.final_layer_norm.bias += 1
        record = live.read_record(run)
        record["identity"]["backbone"], said = hash_tensors(gpt.state_dict()), "other weights now"
        (run / "run.json").write_text(json.dumps(record))
    live.write(run, run / "live.html")
    page = (run / "live.html").read_text()
    assert f"No guesses: {said}" in page or said in page.partition("No guesses: ")[2].partition("</p>")[0]
    assert '"backbone":null' in page


@pytest.mark.parametrize("pattern", ["(?i:a)", "a++", "(?>a)", "[[:alpha:]]", r"\Aa", r"a\h", "^a", "a$",
                                     "[a", "\\"])
def test_expressions_that_are_not_known_are_refused(pattern):
    """Catches one that a browser reads in another way."""
    with pytest.raises(NotForJavaScript, match="cannot be translated"):
        translated(pattern)
