"""Settings from the command line: ``a.b=value`` on top of a recipe's nodes."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from limbeck.errors import RecipeError
from limbeck.recipe.marked import Mistake, Node, cut, dashed, tree

Default = Callable[[Sequence[str]], Any]
_DEEPEST: Final = 20  # keys
_EITHER: Final = (("steps", "epochs"), ("model", "stored"))
"""Keys of one mapping of which a recipe gives one: setting the other from the command line takes the place of it."""


def overridden(root: Node, overrides: Sequence[str], default: Default) -> Node:
    """The nodes with every override put in, the later ones last.

    A name or a weight that stands for a mapping is written out where a key of it is set; mappings that are not there are
    made. ``default``: the plain value at a path on which a setting builds where the file is silent.

    Raises:
        RecipeError: an override is not ``key=value``, or its key leads through something that has no parts.
    """
    for text in overrides:
        where = f"--set {text if len(text) <= 80 else text[:77] + '...'}"
        name, sign, given = text.partition("=")
        path = [part.strip() for part in name.split(".")]
        if not sign or not all(path) or len(path) > _DEEPEST:
            raise RecipeError(f"{where}: a setting is given as key=value, such as training.steps=500.")
        try:
            value = _written(tree(given), where)
            root = _put(root, path, value, (), where, default)
        except Mistake as mistake:
            raise RecipeError(f"{where}: {mistake}.") from None
    return root


def _written(node: Node, where: str) -> Node:
    """The node and all below it, as given by ``where``."""
    if isinstance(node.value, dict):
        return Node({key: _written(inner, where) for key, inner in node.value.items()}, where)
    if isinstance(node.value, list):
        return Node([_written(inner, where) for inner in node.value], where)
    return node.at(where)


def _put(
    node: Node | None, rest: Sequence[str], value: Node, above: tuple[str, ...], where: str, default: Default
) -> Node:
    """``node`` with ``value`` at the end of ``rest``; ``above`` is the way down to it."""
    if not rest:
        return value
    if node is None and above:
        node = _node(default(above), 1)
    key, deeper = rest[0], (*above, rest[0])
    parent = _opened(node, above, key, where)
    if isinstance(parent.value, list):
        items: list[Node | None] = list(parent.value)
        place = _place(items, key, above)
        items[place:] = [_put(items[place], rest[1:], value, deeper, where, default), *items[place + 1 :]]
        return Node([item for item in items if item is not None], parent.where)
    known = parent.find(key)
    inner = _put(parent.value[known] if known else None, rest[1:], value, deeper, where, default)
    kept = dict(parent.value)
    for pair in _EITHER:
        if dashed(key) in pair and inner.value is not None:
            other = parent.find(pair[1 - pair.index(dashed(key))])
            if other and isinstance(kept[other].where, int):  # else both were set: that is for the recipe to refuse
                del kept[other]
    return Node({**kept, known or key: inner}, parent.where)


def _opened(node: Node | None, above: tuple[str, ...], key: str, where: str) -> Node:
    """A mapping or list: the node itself, what its short form stands for, or an empty mapping."""
    if node is None or node.value is None:
        return Node({}, where)
    if isinstance(node.value, list) and above == ("objective",) and not key.isdecimal():
        return _by_name(node)
    if isinstance(node.value, dict | list):
        return node
    if above[0] == "objective" and (len(above) == 2 or above[-1].isdecimal()) and not isinstance(node.value, str):
        return Node({"weight": node}, node.where)
    if isinstance(node.value, str):
        return Node({"name": node}, node.where)
    raise Mistake(1, f"{'.'.join(above)} is {cut(repr(node.value))}, which has no part to set; give it as a whole")


def _by_name(terms: Node) -> Node:
    """A list of terms as the mapping that an objective may be as well."""
    result: dict[str, Node] = {}
    for term in terms.value:
        settings = dict(term.value) if isinstance(term.value, dict) else {"name": term}
        name = settings.pop("name", term).value
        if not isinstance(name, str) or name in result:
            raise Mistake(1, "objective is a list here: name a term of it by its number, counted from 0")
        result[name] = Node(settings, term.where)
    return Node(result, terms.where)


def _place(items: list[Node | None], key: str, above: tuple[str, ...]) -> int:
    """Which item is meant; one past the end is new."""
    name = ".".join(above)
    if not key.isdecimal():
        raise Mistake(1, f"{name} is a list of {len(items)}: name an item by its number, counted from 0")
    place = int(key) if len(key) < 10 else len(items) + 1
    if place > len(items):
        raise Mistake(1, f"{name} is a list of {len(items)}, counted from 0; there is no place {key[:10]}")
    if place == len(items):
        items.append(None)
    return place


def _node(value: Any, where: int | str) -> Node:
    """Plain values as nodes."""
    if isinstance(value, dict):
        return Node({key: _node(inner, where) for key, inner in value.items()}, where)
    return Node([_node(inner, where) for inner in value] if isinstance(value, list) else value, where)
