"""``limbeck methods``."""

from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from limbeck.cli import tell

if TYPE_CHECKING:
    from limbeck.config import Config


def methods() -> None:
    """List the terms that an objective can have, with their options."""
    from limbeck.objective import TERMS

    for index, term in enumerate(TERMS):
        if index:
            tell.raw("")
        fields = term.model_fields
        name = str(fields["name"].default)
        tell.heading(name, (term.__doc__ or "").strip().partition("\n")[0])
        tell.pairs([("reads", _needs(term)), *_options(term)], indent=2)


def _options(term: "type[Config]") -> list[tuple[str, str]]:
    rows = []
    for field, info in term.model_fields.items():
        if field == "name":
            continue
        default = "required" if info.is_required() else f"default {_short(info.get_default())}"
        if get_origin(info.annotation) is Literal:
            default = f"{', '.join(map(str, get_args(info.annotation)))}; {default}"
        told = " ".join((info.description or "").replace("``", "'").split())
        rows.append((f"{field.replace('_', '-')}", f"{told.rstrip('.')}. [{default}]" if told else f"[{default}]"))
    return rows


def _needs(term: Any) -> str:
    """What it reads of each side, found on a term with its required settings named as themselves."""
    required = {name: f"<{name}>" for name, info in term.model_fields.items() if info.is_required()}
    needs = term(**required).needs()
    sides = [("student", needs.student), ("teacher", needs.teacher)]
    read = [f"the {side}'s {', '.join(sorted(names))}" for side, names in sides if names]
    return f"{' and '.join(read)}; mean over {term.mask} {term.scope}s"


def _short(value: Any) -> str:
    plain = value.plain() if hasattr(value, "plain") else value
    if isinstance(plain, dict) and plain.get("schedule") == "fixed":
        return f"{plain['value']:g}"
    return str(plain).lower() if isinstance(plain, bool) else str(plain)
