from __future__ import annotations

import inspect
import re

from infra import errors


def test_the_tree_at_the_head_of_the_module_is_complete() -> None:
    shown: dict[str, str] = {}
    path = ["KetcycleError"]
    for indent, name in re.findall(r"^((?:\|  )*)\|- (\w+) ", errors.__doc__ or "", re.MULTILINE):
        path[len(indent) // 3 + 1 :] = [name]
        shown[name] = path[-2]
    real = {
        name: found.__bases__[0].__name__
        for name, found in inspect.getmembers(errors, inspect.isclass)
        if found is not errors.KetcycleError
    }
    assert shown == real
