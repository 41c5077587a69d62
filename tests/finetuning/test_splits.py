"""From the files of a task to what batches are made of; and stored features against the backbone run every epoch."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from classifier import GPT2SentimentClassifier
from data.batching import epoch_order
from data.tasks import custom_task
from data.tokenizer import Tokenizer
from finetuning.features import prediction_order, read_splits, with_features
from finetuning.model import Model
from models.config import GPT2Config
from models.gpt2 import GPT2Model
from models.pretrained import backbone_given
from optimizer import AdamW
from pretraining.corpus import train_tokenizer
from training.loop import Feed, TrainState, classification, fit
from training.machine import Machine

CPU = Machine.choose("cpu", "float32")
WORDS = ("good", "bad", "dull", "fine", "a film", "it is", "not", "very", "!", ".", "plot", "end")


def text(number):
    """A text of 1 to 7 words, another for each number."""
    return " ".join(WORDS[number * 7 % 11 * (place + 1) % len(WORDS)] for place in range(number % 7 + 1)) + f" {number}"


def write(path, numbers, labelled=True):
    header = "\tid\tsentence\tsentiment\n" if labelled else "\tid\tsentence\n"
    rows = [f"{row}\tid{number}\t{text(number)}" + (f"\t{number % 2}" if labelled else "") + "\n"
            for row, number in enumerate(numbers)]
    path.write_text(header + "".join(rows))
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "text.txt").write_text("\n".join(text(number) for number in range(60)))
    train_tokenizer([folder / "text.txt"], 270, 1, folder / "tokenizer.json")
    return Tokenizer.load(folder)


@pytest.fixture
def task(tmp_path):
    return custom_task(write(tmp_path / "train.csv", range(21)), write(tmp_path / "dev.csv", range(30, 39)),
                       write(tmp_path / "test.csv", range(40, 45), labelled=False), num_labels=2)


def backbone(seed=0, **config):
    torch.manual_seed(seed)
    return GPT2Model(GPT2Config(**{"vocab_size": 270, "max_position_embeddings": 32, "hidden_size": 32,
                                   "num_hidden_layers": 2, "num_attention_heads": 2, **config})).eval()


def classifier(gpt, p=0.3):
    torch.manual_seed(1)
    with backbone_given(GPT2Model, gpt):
        return GPT2SentimentClassifier(SimpleNamespace(num_labels=2, hidden_size=32, hidden_dropout_prob=p,
                                                       fine_tune_mode="last-linear-layer"))


def test_splits_are_the_files(task, tokenizer):
    """Catches splits in each other's place or order, and labels read where there are none."""
    splits = read_splits(task, tokenizer, 32)
    assert list(splits) == ["train", "dev", "test"]
    for name, numbers in (("train", range(21)), ("dev", range(30, 39)), ("test", range(40, 45))):
        split = splits[name]
        assert split.texts == [text(number) for number in numbers]
        assert split.names([2, 0]) == [f"id{numbers[2]}", f"id{numbers[0]}"]
        assert len(split.dataset) == len(split.examples) == len(numbers)
        batch = split.dataset.collate(range(len(numbers)))
        assert [row[mask == 1].tolist() for row, mask in zip(*batch.inputs, strict=True)] \
            == tokenizer.encode(split.texts, 32, False).ids
        if name == "test":
            assert batch.labels is None
        else:
            assert batch.labels.tolist() == split.labels == [number % 2 for number in numbers]


def test_a_task_without_a_test_file(task, tokenizer):
    """Catches a crash, or an invented split."""
    assert list(read_splits(replace(task, test=None), tokenizer, 32)) == ["train", "dev"]


def test_cut_texts_are_counted(task, tokenizer, capsys):
    """Catches texts that are cut in silence, and a limit that is not held."""
    whole = read_splits(task, tokenizer, 1000)
    assert capsys.readouterr().out == ""
    splits = read_splits(task, tokenizer, 5)
    longer = {name: sum(length > 5 for length in split.dataset.lengths) for name, split in whole.items()}
    assert all(longer.values()) and max(splits["train"].dataset.lengths) == 5
    assert capsys.readouterr().out == "".join(
        f"own {name}: {count} of {len(whole[name].examples)} texts cut to 5 tokens\n" for name, count in longer.items())


def test_lower_casing_is_the_tasks(tmp_path, tokenizer):
    """Catches a task's lowercase that never reaches the tokenizer. This one lower-cases anyway, so it is watched."""
    asked = []

    class Spy:
        pad_id = tokenizer.pad_id

        def encode(self, texts, max_length, lowercase, keep_end):
            asked.append(lowercase)
            return tokenizer.encode(texts, max_length, lowercase, keep_end)

    task = custom_task(write(tmp_path / "train.csv", [1]), write(tmp_path / "dev.csv", [2]), num_labels=2)
    for lowercase in (True, False):
        read_splits(replace(task, lowercase=lowercase), Spy(), 32)
    assert asked == [True, True, False, False]


def test_features_are_the_last_tokens_in_file_order(task, tokenizer, tmp_path):
    """Catches features of other rows, of padding, or with dropout: each text is also run alone, without padding."""
    gpt = backbone().train()
    splits = read_splits(task, tokenizer, 32)
    featured = with_features(splits, gpt, "code", CPU, tmp_path / "features")
    gpt.eval()
    for name, split in splits.items():
        batch = featured[name].dataset.collate(range(len(split.examples)))
        assert (batch.labels is None) == (name == "test")
        for row, vector in enumerate(batch.features):
            with torch.no_grad():
                alone = gpt(*split.dataset.collate([row]).inputs)["last_token"][0]
            torch.testing.assert_close(vector, alone, rtol=1e-4, atol=1e-5)  # padding changes the order of sums


def test_the_head_is_the_same_as_with_the_backbone_in_every_epoch(task, tokenizer, tmp_path):
    """Catches what would make frozen training on stored features another training: a backbone in train mode, rows or
    labels mixed up, dropout drawn otherwise. Equal to 1e-6 after 3 epochs, dropout before the head included.
    """
    splits = read_splits(task, tokenizer, 32)
    featured = with_features(splits, backbone(), "code", CPU, tmp_path / "features")

    def order(epoch):
        return epoch_order(splits["train"].dataset.lengths, 4, 11711, epoch)

    heads, outputs = [], []
    for data in (splits, featured):
        gpt = backbone()
        model = classifier(gpt)
        before = {name: tensor.clone() for name, tensor in gpt.state_dict().items()}
        if data is featured:
            Model(model, gpt, "code", features_will_do=True).use_features()
        optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
        torch.manual_seed(2)
        fit(model, optimizer, Feed(order, data["train"].dataset.collate), classification, TrainState(), CPU, epochs=3)
        assert all(torch.equal(before[name], tensor) for name, tensor in gpt.state_dict().items())
        heads.append(model.head[1])
        outputs.append(data["test"].predict(model, CPU, "predicting"))
    untrained = classifier(backbone()).head[1]
    assert (heads[0].weight - untrained.weight).abs().max() > 0.05
    for parameter in ("weight", "bias"):
        torch.testing.assert_close(getattr(heads[0], parameter), getattr(heads[1], parameter), rtol=0, atol=1e-6)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-5)


def runs(gpt):
    """Collects how many texts each call of a backbone was for."""
    calls = []
    gpt.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    return calls


def test_features_are_reused_and_only_for_the_same(task, tokenizer, tmp_path):
    """Catches features of other weights, code, texts or precision; and a reuse that never happens, or not for files
    that share a split. What `code` is, and that it sees another number of heads: tests/finetuning/test_model.py.
    """
    folder, splits = tmp_path / "features", read_splits(task, tokenizer, 32)
    every = sum(len(split.examples) for split in splits.values())
    with_features(splits, backbone(), "code", CPU, folder)

    def computed(gpt=None, splits=splits, machine=CPU, code="code"):
        gpt = gpt or backbone()
        calls = runs(gpt)
        with_features(splits, gpt, code, machine, folder)
        return sum(calls)

    assert computed() == 0
    assert computed(splits={"train": splits["dev"], "dev": splits["train"]}) == 0
    assert computed(backbone(seed=1)) == every
    changed = backbone()
    with torch.no_grad():
        changed.final_layer_norm.bias[3] += 1e-6
    assert computed(changed) == every
    assert computed(code="other code") == every
    assert computed(splits=read_splits(task, tokenizer, 3)) == every
    assert computed(machine=replace(CPU, precision="bfloat16")) == every
    write(task.dev, range(30, 40))
    assert computed(splits=read_splits(task, tokenizer, 32)) == 10


def test_predicted_in_batches_for_the_machine():
    """Catches long texts padded by the thousand tokens on a CPU, or padded more than a batch costs, batches too small
    for a GPU, and processes of a group that get less than a batch each.
    """
    lengths = [500] * 9 + [10] * 100
    alone = SimpleNamespace(device=torch.device("cpu"), group=SimpleNamespace(size=1))
    assert [len(rows) for rows in prediction_order(lengths, alone)] == [2, 2, 2, 2, 1] + [32, 32, 32, 4]
    gpu = SimpleNamespace(device=torch.device("cuda"), group=SimpleNamespace(size=1))
    assert [len(rows) for rows in prediction_order(lengths, gpu)] == [32, 32, 32, 13]
    three = SimpleNamespace(device=torch.device("cpu"), group=SimpleNamespace(size=3))
    assert [len(rows) for rows in prediction_order(lengths, three)] == [6, 3, 96, 4]
