"""The exported tokenizer: what the rules, str.lower and the run's tokenizer make of a text, in one file."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers

from common.errors import UserError
from data.rules import RULES, Rules
from data.tokenizer import Tokenizer as Ours
from serving import hub_tokenizer
from serving.hub_tokenizer import PAD, QUOTED, START, lowercase, make, replace, rules

SIGNS = '""" \t\n<>bBr/R/aZ\u00e9.:\u03a3\u03c3\u0301\x85\x96\x81\u00a0\u2003\x1c\u0391\u0130\u4e00\U0001f600\r\ufeff'


def description(names=tuple(RULES), lower=True, keep_end=False):
    """What a run says of how it reads texts."""
    return SimpleNamespace(rules=tuple(names), lowercase=lower, keep_end=keep_end)


def normaliser(names, lower):
    """The normaliser of an exported tokenizer that has none of its own."""
    return normalizers.Sequence([normalizers.Prepend(START), *rules(names), *lowercase(lower),
                                 replace(rf"\A{START}(?=[\s\S])", "")])


NORMALISERS = {(names, lower): normaliser(names, lower)
               for names, lower in [*(((name,), False) for name in RULES), ((), True), (tuple(RULES), True)]}


@settings(max_examples=400, deadline=None)
@given(st.text(st.sampled_from(SIGNS), min_size=1, max_size=16) | st.text(min_size=1, max_size=20))
@example('"a ""b"" c"')
@example('"""a"""')
@example('""""')
@example('"a""b"c"')
@example("\u039f\u0394\u039f\u03a3 \u039f\u0394\u039f\u03a3. \u03a3")
@example("a < BR / ><br<br>b")
@example("\x81\x8d")
def test_every_rule_is_what_python_makes_of_it(text):
    """Catches a rule that a regular expression of another library reads in another way, text by text."""
    if START in text or QUOTED in text:
        return
    for (names, lower), normaliser in NORMALISERS.items():
        want = Rules(names)(text)
        want = want.lower() if lower else want
        assert normaliser.normalize_str(text) == (want or START), names


@pytest.fixture(scope="module", params=["gpt2-tiny", "plain"])
def ours(request, root, tmp_path_factory):
    """gpt2-tiny's tokenizer, which drops white space, and one like GPT-2's, which does not, and has no normaliser."""
    if request.param == "gpt2-tiny":
        return Ours.load(root / "models" / "gpt2-tiny")
    from tokenizers import ByteLevelBPETokenizer

    made = ByteLevelBPETokenizer()
    made.train_from_iterator(["the good film is bad . <|endoftext|> <br />"] * 3, vocab_size=300,
                             special_tokens=["<|endoftext|>"], show_progress=False)
    folder = tmp_path_factory.mktemp("plain")
    made.save(str(folder / "tokenizer.json"))
    return Ours.load(folder)


TEXTS = ["It isn't bad!", "  ABC \t", "a", " ", " \t \x81 ", "<br>", "<br> <BR/>", "the end<|endoftext|>",
         f"{PAD} a {PAD}", '"She said ""no"" twice"', "caf\x96 \u4e2d\u6587 \U0001f600 \u039f\u0394\u039f\u03a3",
         "word " * 60, "\x1f", "\u2028"]


@pytest.mark.parametrize("keep_end", [False, True])
@pytest.mark.parametrize("names, lower", [((), False), ((), True), (("strip",), False), (tuple(RULES), True)])
def test_the_same_ids(ours, names, lower, keep_end, tmp_path):
    """Catches any difference between reading here and reading there; a text of which nothing is left has a token."""
    made = make(ours.files(24), description(names, lower, keep_end))
    for name, content in made.files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    want = ours.encode([Rules(names)(text) for text in TEXTS], 24, lower, keep_end).ids
    want = [[made.empty_id] if row == [ours.pad_id] else row for row in want]
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(TEXTS, truncation=True).input_ids == want
    assert theirs.pad_token_id == made.pad_id == len(ours) and theirs.padding_side == "right"
    assert theirs.model_max_length == 24 and made.size == len(ours) + 2
    assert set(theirs("a")) == {"input_ids", "attention_mask"}
    # And here again: `--model` takes such a folder.
    assert Ours.load(tmp_path).encode(TEXTS, 24, False, keep_end).ids == want


def test_an_export_of_an_export(ours, tmp_path):
    """Catches the second round's START in the way of the first round's rules: they still see where a text begins."""
    first = make(ours.files(24), description(("strip", "unquote-again"), True))
    for name, content in first.files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    again = Ours.load(tmp_path)
    second = make(again.files(24), description((), False))
    assert (second.pad_id, second.empty_id, second.size) == (first.pad_id, first.empty_id, first.size)
    backend = Tokenizer.from_str(second.files["tokenizer.json"])
    backend.encode_special_tokens = True
    assert [backend.encode(text).ids[:24] for text in TEXTS] == again.encode(TEXTS, 24, False).ids


def test_tokenizers_that_cannot_be_exported(ours):
    """Catches ids that are silently others: a token found before any rule, and ids with a gap among them."""
    backend = Tokenizer.from_str(ours.files(24)["tokenizer.json"])
    backend.add_tokens([AddedToken("Film", normalized=False)])
    files = {**ours.files(24), "tokenizer.json": backend.to_str()}
    with pytest.raises(UserError, match="its token 'Film' comes before all rules"):
        make(files, description())

    content = json.loads(ours.files(24)["tokenizer.json"])
    vocab = content["model"]["vocab"]
    vocab[max(vocab, key=vocab.get)] += 1  # the last id is left out, and another one beyond
    with pytest.raises(UserError, match="its ids have gaps"):
        make({**ours.files(24), "tokenizer.json": json.dumps(content)}, description())


def test_names_of_all_rules():
    """Catches a new rule of the reader that the exported tokenizer does not know."""
    assert all(rules((name,)) for name in RULES)
    assert hub_tokenizer.SPACE.count("\\x") == sum(chr(code).isspace() for code in range(0x110000))
