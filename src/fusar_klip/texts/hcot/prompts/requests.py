"""Composes the requests about one tile, in the order in which they are sent."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, TypeAlias, get_args

from fusar_klip.catalog import FIELDS
from fusar_klip.llm import Request
from fusar_klip.texts.hcot.prompts.schemas import LAYERS, Layer, answer_schema
from fusar_klip.texts.hcot.prompts.sensor_knowledge import layer_slots
from fusar_klip.texts.hcot.prompts.templates import render
from fusar_klip.texts.hcot.prompts.tile_data import measured_data, parent_data, quoted, tile_data
from fusar_klip.texts.measure.evidence_store import TileContext

Mode: TypeAlias = Literal["single", "chain", "plain"]
"""`single`: all five layers in one request, the answer last; `chain`: one request a layer, each seeing the
answers before it; `plain`: the fields without any guidance, place or evidence (paper figure 8)."""
MODES: tuple[Mode, ...] = get_args(Mode)

_MAX_QUOTED_CHARS = 4000  # of an earlier answer that a later request quotes


def first_request(context: TileContext, mode: Mode, parent_fields: Mapping[str, str] | None) -> Request:
    """Return the first request about a tile, which in the modes `single` and `plain` is the only one.

    Args:
        context: Metadata, evidence and geography of the tile.
        mode: Prompting mode.
        parent_fields: The text of the next larger tile by field, if it has one (paper eqs. 2 and 3).
            Mode `plain` leaves it out.
    """
    if mode == "plain":
        user = render("plain", fields=", ".join(FIELDS[context.task]))
        return Request(render("plain_system"), (), user, answer_schema(context.task, ()), None, True)
    known = render(
        "tile",
        tile=tile_data(context),
        measured=measured_data(context),
        scale=render(f"scale/{context.scale}"),
        parent=_parent(context, parent_fields),
    )
    system = render("system")
    if mode == "chain":
        first = LAYERS[0]
        user = f"{known}\n\n{_layer_request(context, first)}"
        return Request(system, (), user, answer_schema(context.task, (first,), fields=False), first, True)
    layers = "\n\n".join(_layer(context, layer) for layer in LAYERS)
    task_text = render("single", layers=layers, fields=_fields(context))
    return Request(system, (), f"{known}\n\n{task_text}", answer_schema(context.task, LAYERS), None, True)


def next_request(context: TileContext, mode: Mode, request: Request, answer_text: str) -> Request | None:
    """Return the request that follows the answer to `request`; None after the last one."""
    if mode != "chain" or request.layer == LAYERS[-1]:
        return None
    layer = LAYERS[LAYERS.index(request.layer) + 1]
    last = layer == LAYERS[-1]
    return replace(
        request,
        history=_continued(request, answer_text),
        user=_layer_request(context, layer),
        schema=answer_schema(context.task, (layer,), fields=last),
        layer=layer,
    )


def repair_request(request: Request, answer_text: str, complaint: str) -> Request:
    """Return the repair request, with the rejected answer and the reason."""
    return replace(
        request, history=_continued(request, answer_text), user=render("repair", complaint=complaint)
    )


def _continued(request: Request, answer_text: str) -> tuple[tuple[Literal["user", "assistant"], str], ...]:
    # Servers refuse an empty message, and a very long answer would leave no room for the next one.
    answer = quoted(answer_text, _MAX_QUOTED_CHARS) or "(no answer)"
    return (*request.history, ("user", request.user), ("assistant", answer))


def _layer_request(context: TileContext, layer: Layer) -> str:
    frame = "chain_last" if layer == LAYERS[-1] else "chain"
    slots = {"fields": _fields(context)} if layer == LAYERS[-1] else {}
    return render(frame, layer=_layer(context, layer), name=layer, **slots)


def _layer(context: TileContext, layer: Layer) -> str:
    return render(f"{context.task}/{layer}", **layer_slots(context))


def _fields(context: TileContext) -> str:
    return render(f"{context.task}/fields")


def _parent(context: TileContext, parent_fields: Mapping[str, str] | None) -> str:
    if not parent_fields:
        return render("no_parent", scale=context.scale)
    return render("parent", scale=context.scale, text=parent_data(parent_fields))
