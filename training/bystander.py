"""The run folder of a run in several processes, as those see it that are not to touch it."""

from typing import Any

from training.run_folder import RunFolder


class Bystander(RunFolder):
    """Stands in for RunFolder in all processes but the first: reads nothing, writes nothing, locks nothing."""

    def __enter__(self) -> "Bystander":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, description: dict[str, Any], resume: bool = False) -> bool:
        raise RuntimeError("whether there is a checkpoint to go on from is for the first process to say")

    def log(self, record: dict[str, Any]) -> None:
        pass

    def times(self, record: dict[str, Any]) -> None:
        pass

    def finish(self, result: dict[str, Any]) -> None:
        pass

    def log_mark(self) -> dict[str, Any]:
        return {}

    def go_on(self, mark: dict[str, Any], step: int) -> None:
        pass
