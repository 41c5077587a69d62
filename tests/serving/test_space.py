"""A Space's folder is complete, and its app.py classifies: a stand-in takes Gradio's place, which is not installed."""

import runpy
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
import yaml

from common.errors import UserError
from serving import export
from serving.export_settings import SPACE, WRITTEN, Settings
from serving.model_folder import build

TITLE = 'a "film" \\ <classifier> ${x} \u4e2d'
TEXTS = ["", "  ", "GOOD film", "good " * 60, "<b>bad</b> \u4e2d\u6587"]


@pytest.fixture(scope="module")
def space(model_folder, tmp_path_factory):
    """A Space's folder, with a name that no template likes."""
    out = tmp_path_factory.mktemp("space") / TITLE
    settings = Settings(run=model_folder[0], out=out, format="space", license="mit")
    settings.check()
    export.run(settings)
    return out


def test_the_folder_is_complete(space):
    """Catches a file that a Space needs, and front matter that YAML reads in another way."""
    assert {path.name for path in space.iterdir()} == SPACE | (WRITTEN - {"model.onnx"})
    head = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert head["sdk"] == "gradio" and (space / head["app_file"]).is_file() and isinstance(head["sdk_version"], str)
    assert head["title"] == TITLE and head["license"] == "mit"
    packages = (space / "requirements.txt").read_text().split()
    assert {"torch", "transformers"} <= set(packages)


def test_the_app_says_what_the_model_says(space, model_folder, monkeypatch):
    """Catches an app.py that does not run, labels without names, and an empty text that fails."""
    made = {}
    gradio = ModuleType("gradio")
    gradio.Textbox = gradio.Label = lambda **settings: settings
    gradio.Interface = lambda function, *parts, **settings: made.update(
        function=function, parts=parts, **settings) or SimpleNamespace(launch=lambda: made.update(launched=True))
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    runpy.run_path(str(space / "app.py"), run_name="__main__")
    assert made["launched"] and made["title"] == TITLE and made["parts"][1]["num_top_classes"] == 3
    model = build(model_folder[0] / "model")
    want = export.probabilities(model, TEXTS)
    for text, row in zip(TEXTS, want, strict=True):
        found = made["function"](text)
        assert torch.allclose(torch.tensor([found[name] for name in model.description.label_names]).double(), row,
                              atol=1e-5)
    assert all(isinstance(made["function"](*example), dict) for example in made["examples"])


def test_files_of_others_stay(space, model_folder, tmp_path):
    """Catches an export that takes somebody's app.py for its own; one's own folder is replaced, in any format."""
    (tmp_path / "app.py").write_text("mine")
    with pytest.raises(UserError, match=r"holds files that are no export's \('app.py'\)"):
        Settings(run=model_folder[0], out=tmp_path, format="space").check()
    again = Settings(run=model_folder[0], out=space, license="mit")
    again.check()
    export.run(again)
    assert not {path.name for path in space.iterdir()} & SPACE


def test_a_space_is_pushed_as_one(space, monkeypatch):
    """Catches a Space that arrives as a model."""
    asked = []
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda self, name, **how: asked.append(how))
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", lambda self, **how: asked.append(how))
    export.push(space, "me/space", True, "space")
    assert asked[0]["repo_type"] == asked[1]["repo_type"] == "space" and asked[0]["space_sdk"] == "gradio"
    assert asked[0]["private"] is True
