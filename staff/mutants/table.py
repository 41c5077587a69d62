"""All known mistakes and all right variants, by id."""

from staff.mutants import attention, head, layer, model, optimizer
from staff.mutants.edit import Mutant, Variant

ROOMS = {"optimizer": optimizer, "attention": attention, "layer": layer, "model": model, "head": head}
"Component -> the module with its mistakes."

MUTANTS: dict[str, Mutant] = {mutant.id: mutant for room in ROOMS.values() for mutant in room.MUTANTS}
VARIANTS: dict[str, Variant] = {variant.id: variant for room in ROOMS.values() for variant in room.VARIANTS}
COMPONENT = {change.id: name for name, room in ROOMS.items() for change in (*room.MUTANTS, *room.VARIANTS)}
"Id -> component."

if len(COMPONENT) != sum(len(room.MUTANTS) + len(room.VARIANTS) for room in ROOMS.values()):
    raise ValueError("two mistakes or variants have the same id")
