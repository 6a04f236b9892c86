"""Show flags in help texts without the type that Typer prints beside every option."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typer.core import TyperCommand, TyperGroup, TyperOption

if TYPE_CHECKING:
    from collections.abc import Sequence


class Command(TyperCommand):
    """Command whose flags are shown without `<bool>`."""

    def get_params(self, ctx):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, D102 - Typer's vendored types
        return _without_flag_types(super().get_params(ctx))


class Group(TyperGroup):
    """Group of commands whose flags are shown without `<bool>`."""

    def get_params(self, ctx):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, D102 - Typer's vendored types
        return _without_flag_types(super().get_params(ctx))


def _without_flag_types(params: Sequence[object]) -> Sequence[object]:
    for param in params:
        if isinstance(param, TyperOption) and param.is_bool_flag:
            param.metavar = ""
    return params
