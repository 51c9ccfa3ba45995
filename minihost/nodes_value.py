"""The host's nodes for values: same ids, inputs and meaning as in ComfyUI."""

from __future__ import annotations

import json
from typing import Any

from .shims.api_input import CurveInput
from .shims.api_latest import io, ui


class CurveEditor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="CurveEditor",
            display_name="Curve Editor",
            category="utilities",
            description="A curve drawn by hand.",
            has_intermediate_output=True,
            inputs=[io.Curve.Input("curve"), io.Histogram.Input("histogram", optional=True)],
            outputs=[io.Curve.Output("curve")],
        )

    @classmethod
    def execute(cls, curve: Any, histogram: list[int] | None = None) -> Any:
        """The histogram is only shown, behind the curve."""
        shown = None if histogram is None else {"histogram": list(histogram)}
        return io.NodeOutput(CurveInput.from_raw(curve), ui=shown)


class PreviewAny(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="PreviewAny",
            display_name="Preview as Text",
            category="utilities",
            description="Shows any value as text.",
            inputs=[io.AnyType.Input("source")],
            outputs=[io.String.Output()],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, source: Any) -> Any:
        """Text as it is, what JSON can hold as indented JSON, everything else as Python shows it."""
        try:
            text = (
                str(source)
                if source is None or isinstance(source, str | int | float)
                else json.dumps(source, indent=4, ensure_ascii=False)
            )
        except (TypeError, ValueError):
            text = str(source)
        return io.NodeOutput(text, ui=ui.PreviewText(text))


VALUE_NODES: list[Any] = [CurveEditor, PreviewAny]
