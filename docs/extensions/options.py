"""For the reference: the keyword options one by one, with their defaults, instead of **options."""

from __future__ import annotations

from typing import Any

import griffe


class OptionsOneByOne(griffe.Extension):
    """pmap's `**options: Unpack[Options]` becomes the fields of `Settings`, with their defaults."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        function = pkg["_api.pmap"]
        del function.parameters["options"]
        for field in pkg["_call.Settings"].attributes.values():
            if field.name not in function.parameters:
                function.parameters.add(_keyword(field))
        pkg["_api.pstarmap"].parameters["options"].annotation = None  # a page says "as for pmap"


def _keyword(field: griffe.Attribute) -> griffe.Parameter:
    return griffe.Parameter(
        field.name,
        annotation=field.annotation,
        kind=griffe.ParameterKind.keyword_only,
        default=field.value,
    )
