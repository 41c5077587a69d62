"""What is asked of expose functions in the sandbox: is this class wrong?"""

import importlib


def expose(inputs):
    """part, module and name of a class -> wrong: what the submission's expose function says of it."""
    kind = getattr(importlib.import_module(str(inputs["module"])), str(inputs["name"]))
    function = getattr(importlib.import_module("exposes"), f"expose_{inputs['part']}")
    answer = function(kind)
    if not isinstance(answer, bool):
        raise TypeError(f"expose_{inputs['part']} returns {type(answer).__name__}, not True or False")
    return {"wrong": answer}
