r"""Turn a run's tokenizer into one for Hugging Face that does by itself what the reader and the tokenizer do here.

Its normaliser applies the rules of data/rules.py and the lower-casing. It runs with START before the text, which tells
the beginning of a text from all other places, and stays where nothing else is left of the text: START is a token, too,
with the end of text's vector, because GPT-2 must read something.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from common.errors import UserError, quoted
from data.rules import C1

if TYPE_CHECKING:
    from tokenizers.normalizers import Normalizer

    from models.fine_tuned import Description

PAD = "<|pad|>"  # not the end of text: transformers looks for the last token that is not padding
START, QUOTED = "\uffff", "\ufffe"  # Unicode promises that these two are never characters of a text
SPACE = "[" + "".join(rf"\x{{{code:x}}}" for code in range(0x3001) if chr(code).isspace()) + "]"  # as str.strip has it
BEGIN = rf"\A{START}+\K"


class HubTokenizer(NamedTuple):
    """The files of a tokenizer for Hugging Face, and the ids of the two tokens that it has more than the run's."""

    files: dict[str, str]  # content by name
    pad_id: int
    empty_id: int  # of START: a text of which nothing is left
    size: int  # the largest id + 1


def make(files: Mapping[str, str], description: "Description") -> HubTokenizer:
    """Return the run's tokenizer (its files' content by name) as Hugging Face is to read it.

    UserError for tokenizers that cannot be changed so: those with added tokens that split a text before anything else.
    """
    from tokenizers import AddedToken, Tokenizer, normalizers

    backend = Tokenizer.from_str(files["tokenizer.json"])
    known = backend.get_added_tokens_decoder()
    splitting = [token.content for token in known.values() if not token.special and not token.normalized]
    if splitting:
        raise UserError(f"this tokenizer cannot be exported: its token {quoted(splitting[0])} comes before all rules")

    # The two new tokens come after all others. A special token's name in a text is text, as `encode_special_tokens`
    # makes it here and split_special_tokens in transformers; START is not special, and found in what is left of a text.
    taken = set(backend.get_vocab().values())
    backend.encode_special_tokens = True
    blank = set(backend.encode(" ").tokens) <= {START}  # white space gives no tokens
    backend.add_special_tokens([AddedToken(PAD, special=True, normalized=False)])
    backend.add_tokens([AddedToken(START, special=False, normalized=True)])
    pad_id, empty_id = backend.token_to_id(PAD), backend.token_to_id(START)
    if not {pad_id, empty_id}.isdisjoint(taken - {token for token in known if known[token].content in (PAD, START)}):
        raise UserError("this tokenizer cannot be exported: its ids have gaps, and a new token fell into one")

    own = [backend.normalizer] if backend.normalizer else []
    rest = r"(?=\s*\S)" if blank else r"(?=[\s\S])"  # of a text: something that gives tokens
    backend.normalizer = normalizers.Sequence([
        normalizers.Prepend(START), *rules(description.rules), *lowercase(description.lowercase), *own,
        replace(rf"\A{START}{rest}", "")])
    settings = {
        **json.loads(files["tokenizer_config.json"]),
        "model_input_names": ["input_ids", "attention_mask"],  # no token_type_ids, which GPT-2 would add as words
        "padding_side": "right",
        "truncation_side": "left" if description.keep_end else "right",
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "pad_token": PAD,
    }
    made = {"tokenizer.json": backend.to_str(pretty=True),
            "tokenizer_config.json": json.dumps(settings, indent=2, ensure_ascii=False) + "\n"}
    return HubTokenizer(made, pad_id, empty_id, max({pad_id, empty_id, *taken}) + 1)


def replace(pattern: str, content: str) -> "Normalizer":
    """Return a normaliser that replaces what a regular expression of the Oniguruma library matches."""
    from tokenizers import Regex, normalizers

    return normalizers.Replace(Regex(pattern), content)


def rules(names: Sequence[str]) -> list["Normalizer"]:
    """Return the rules of data/rules.py with these names, in their order, as normalisers of a text after START."""
    from tokenizers import normalizers

    made = {
        # Mark a text that was quoted twice; undouble from pair to pair (\G: where the one before ended); take the
        # closing mark; take the opening one.
        "unquote-again": [replace(rf'{BEGIN}"(?=(?:[^"]|"")*+"\z)(?=[^"]*"")', QUOTED),
                          replace(rf'(?:\A{START}+{QUOTED}|(?!\A)\G)[^"]*\K""', '"'),
                          replace(rf'\A{START}+{QUOTED}[\s\S]*\K"\z', ""),
                          replace(rf"{BEGIN}{QUOTED}", "")],
        "control-characters": [normalizers.Replace(chr(code), content) for code, content in C1.items()],
        "break-tags": [replace(f" ?(?:<{SPACE}*[bB][rR]{SPACE}*(?:/{SPACE}*>?|>){SPACE}*)+", " ")],
        "strip": [replace(f"{BEGIN}{SPACE}+", ""), replace(rf"{SPACE}+\z", "")],
    }
    return [normaliser for name, steps in made.items() if name in names for normaliser in steps]


def lowercase(wanted: bool) -> list["Normalizer"]:
    """Return str.lower as normalisers: a sigma at the end of a word has a lower case of its own."""
    from tokenizers import normalizers

    if not wanted:
        return []
    cased, between = r"\p{Cased}", r"\p{Case_Ignorable}*"
    return [replace(rf"{cased}{between}\KΣ(?!{between}{cased})", "ς"), normalizers.Lowercase()]
