"""The requests that make up one tile's reasoning, in the order in which they are asked."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

from fusar_klip.catalog import FIELDS
from fusar_klip.texts.hcot.prompts.schemas import LAYERS, Layer, answer_schema
from fusar_klip.texts.hcot.prompts.sensor_knowledge import knowledge
from fusar_klip.texts.hcot.prompts.templates import render
from fusar_klip.texts.hcot.prompts.tile_data import measured_data, parent_data, quoted, tile_data
from fusar_klip.texts.measure.evidence_store import TileContext

Mode: TypeAlias = Literal["single", "chain", "plain"]
"""`single`: all five layers in one request, the answer last; `chain`: one request a layer, each seeing the
answers before it; `plain`: the eight fields without any guidance, place or evidence (paper figure 8)."""
MODES: tuple[Mode, ...] = get_args(Mode)

_MOST_ANSWER_CHARS = 4000  # of an earlier answer that stands in a later request


@dataclass(frozen=True)
class Turn:
    """One request to a language model.

    Attributes:
        system: The system message.
        history: Earlier messages of this conversation, oldest first: ("user" or "assistant", text).
        user: The message to answer.
        schema: JSON schema of the wanted answer, strict.
        layer: The layer that is asked for in mode `chain`; None where the whole answer is.
        with_image: The picture of the tile belongs to the conversation: to its first user message, which is
            `history[0]`, or `user` where there is no history.
    """

    system: str
    history: tuple[tuple[Literal["user", "assistant"], str], ...]
    user: str
    schema: dict[str, Any] | None
    layer: str | None
    with_image: bool


def first_turn(context: TileContext, mode: Mode, parent_fields: Mapping[str, str] | None) -> Turn:
    """Return the first request about a tile, which in the modes `single` and `plain` is the only one.

    Args:
        context: What is known of the tile.
        mode: How the model is led.
        parent_fields: The text of the next larger tile by field, as far as there is one (paper eqs. 2 and 3).
            Mode `plain` leaves it out.
    """
    if mode == "plain":
        user = render("plain", fields=", ".join(FIELDS[context.task]))
        return Turn(render("plain_system"), (), user, answer_schema(context.task, ()), None, True)
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
        return Turn(system, (), user, answer_schema(context.task, (first,), fields=False), first, True)
    layers = "\n\n".join(_layer(context, layer) for layer in LAYERS)
    request = render("single", layers=layers, fields=_fields(context))
    return Turn(system, (), f"{known}\n\n{request}", answer_schema(context.task, LAYERS), None, True)


def next_turn(context: TileContext, mode: Mode, turn: Turn, answer_text: str) -> Turn | None:
    """Return the request that follows the answer to `turn`; None after the last one."""
    if mode != "chain" or turn.layer == LAYERS[-1]:
        return None
    layer = LAYERS[LAYERS.index(turn.layer) + 1]
    last = layer == LAYERS[-1]
    return replace(
        turn,
        history=_continued(turn, answer_text),
        user=_layer_request(context, layer),
        schema=answer_schema(context.task, (layer,), fields=last),
        layer=layer,
    )


def repair_turn(turn: Turn, answer_text: str, complaint: str) -> Turn:
    """Return the request that asks once more, with the answer and what is wrong with it."""
    return replace(turn, history=_continued(turn, answer_text), user=render("repair", complaint=complaint))


def _continued(turn: Turn, answer_text: str) -> tuple[tuple[Literal["user", "assistant"], str], ...]:
    # Servers refuse an empty message, and an endless answer would leave no room for the next one.
    said = quoted(answer_text, _MOST_ANSWER_CHARS) or "(no answer)"
    return (*turn.history, ("user", turn.user), ("assistant", said))


def _layer_request(context: TileContext, layer: Layer) -> str:
    frame = "chain_last" if layer == LAYERS[-1] else "chain"
    slots = {"fields": _fields(context)} if layer == LAYERS[-1] else {}
    return render(frame, layer=_layer(context, layer), name=layer, **slots)


def _layer(context: TileContext, layer: Layer) -> str:
    return render(f"{context.task}/{layer}", **knowledge(context))


def _fields(context: TileContext) -> str:
    return render(f"{context.task}/fields")


def _parent(context: TileContext, parent_fields: Mapping[str, str] | None) -> str:
    if not parent_fields:
        return render("no_parent", scale=context.scale)
    return render("parent", scale=context.scale, text=parent_data(parent_fields))
