"""Stands in for the project's file of this name while a submission is graded: there are no checkpoints to read."""


class PretrainedError(Exception):
    """A checkpoint that cannot be read."""


def _unavailable(*arguments: object, **options: object) -> None:
    raise PretrainedError("checkpoints cannot be read while a submission is graded")


resolve = read_config = load = load_weights = check_weights = save_pretrained = backbone_given = _unavailable
