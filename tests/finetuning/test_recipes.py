"""The recipes: the course's settings, and measured ones for the bundled backbone."""

from data.tasks import TASKS, custom_task
from finetuning.recipes import COURSE_DEFAULTS, TINY_DEFAULTS, recipe


def test_course_contract():
    """Catches drift from the course: learning rates by mode, epochs, batches of 8, dropout."""
    assert {mode: (r.lr, r.epochs, r.batch_size, r.dropout) for mode, r in COURSE_DEFAULTS.items()} == {
        "last-linear-layer": (1e-3, 10, 8, 0.3), "full-model": (1e-5, 10, 8, 0.3)}


def test_recipes():
    """Catches a built-in task or mode without settings of its own for the bundled backbone."""
    for task in TASKS.values():
        for mode in COURSE_DEFAULTS:
            assert recipe(task, mode, tiny=True) == TINY_DEFAULTS[task.name, mode]
            assert recipe(task, mode, tiny=False) == COURSE_DEFAULTS[mode]
    own = custom_task("a", "b", num_labels=2)
    assert recipe(own, "full-model", tiny=True) == TINY_DEFAULTS["sst", "full-model"]
