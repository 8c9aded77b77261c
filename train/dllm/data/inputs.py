"""What records name beside text, files mostly: each is checked once before a run, and what is wrong with it is kept."""

from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Any

from dllm.data.parallel import map_parallel
from dllm.training.processes import on_one_process


def check_inputs(check: Callable[[Any], Any], inputs: Iterable[Hashable], desc: str, unit: str) -> dict[Any, Any]:
    """What `check` returns for each of the inputs, or the line of its ValueError. One process of a run does it for all,
    on all its cores; arguments as in `map_parallel`.
    """
    distinct = list(dict.fromkeys(inputs))
    found = on_one_process(lambda: list(map_parallel(partial(_checked, check), distinct, desc, unit)))
    return dict(zip(distinct, found, strict=True))


def _checked(check: Callable[[Any], Any], each: Any) -> Any:
    try:
        return check(each)
    except ValueError as error:
        return str(error)


def usable(found: dict[Any, Any], each: Hashable, unit: str) -> Any:
    """What was found of an input. Raises ValueError, which says how many such there are, if it cannot be used."""
    if isinstance(found[each], str):
        bad = sum(isinstance(other, str) for other in found.values())
        raise ValueError(f"{found[each]} ({bad} of {len(found)} {unit} cannot be used)")
    return found[each]
