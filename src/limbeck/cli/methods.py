"""``limbeck methods``."""

from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from limbeck.cli import tell


def methods(
    name: Annotated[str | None, typer.Argument(help="Print this one with its options.")] = None,
) -> None:
    """List the terms that an objective can have; with a name, one of them with its options."""
    from limbeck.errors import LimbeckError, nearest
    from limbeck.objective import TERMS

    known: dict[str, Any] = {str(term.model_fields["name"].default): term for term in TERMS}
    if name is not None:
        if name not in known:
            hint = nearest(name, list(known), 1)
            raise LimbeckError(f"There is no term {name!r}: {hint or 'see `limbeck methods`.'}")
        _one(name, known[name])
        return
    families = list(dict.fromkeys(term.about.family for term in known.values()))
    for index, family in enumerate(families):
        if index:
            tell.raw("")
        tell.say(family, "bold")
        tell.pairs([(one, _said(term)) for one, term in known.items() if term.about.family == family], indent=2)
    tell.raw("")
    tell.say("`limbeck methods NAME` prints one of them with its options.")


def _said(term: Any) -> str:
    return tell.sentence(str(term.__doc__ or "").partition("\n\n")[0])


def _one(name: str, term: Any) -> None:
    about = term.about
    default = term.model_fields["weight"].get_default()
    tell.heading(name, _said(term))
    rows = [
        ("family", about.family),
        ("paper", about.paper),
        ("reads", term.looks_at),
        ("counts", f"{term.mask} examples" + (", of all processes together" if term.scope == "batch" else "")),
        ("weight", f"{_short(default)} by default, for this reduction: {about.reduction}"),
        ("use it", about.when),
    ]
    tell.pairs(rows, indent=2)
    tell.raw("")
    tell.pairs(_options(term), indent=2)


def _options(term: Any) -> list[tuple[str, str]]:
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


def _short(value: Any) -> str:
    plain = value.plain() if hasattr(value, "plain") else value
    if isinstance(plain, dict) and plain.get("schedule") == "fixed":
        return f"{plain['value']:g}"
    if isinstance(plain, dict):
        plain = {key: one for key, one in plain.items() if one is not None}
        return ", ".join(f"{key} {one}" for key, one in plain.items())
    return "none" if plain is None else str(plain).lower() if isinstance(plain, bool) else str(plain)
