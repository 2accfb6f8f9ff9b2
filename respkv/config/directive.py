"""What one directive is: a row of the schema."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from respkv.config.kinds import Kind, Value


class Effect(Enum):
    """What setting a directive does."""

    HONOURED = "honoured"
    #: accepted, validated and returned; the log says at start that it changes nothing
    KEPT = "kept"
    #: any value but the default is refused, since ignoring it would be unsafe
    FATAL_IF_SET = "fatal if set"


@dataclass(frozen=True, slots=True)
class Directive:
    """``help`` is one sentence; ``warning`` is what the log says at start of another value than the default, with
    the value at ``{}``. ``mutable``: CONFIG SET may change it. ``protected``: only when
    enable-protected-configs allows it. ``hidden``: globs of CONFIG GET do not find it."""

    name: str
    kind: Kind
    default: Value
    help: str
    effect: Effect = Effect.HONOURED
    mutable: bool = True
    protected: bool = False
    hidden: bool = False
    sensitive: bool = False
    aliases: tuple[str, ...] = ()
    warning: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """Directives that belong together, under one heading of the annotated file."""

    title: str
    rows: tuple[Directive, ...]


def kept(name: str, kind: Kind, default: Value, help: str, **options: object) -> Directive:
    """A directive without effect."""
    return Directive(name, kind, default, help, Effect.KEPT, **options)  # type: ignore[arg-type]


def refused(name: str, kind: Kind, default: Value, help: str, **options: object) -> Directive:
    """A directive that must stay at its default."""
    return Directive(name, kind, default, help, Effect.FATAL_IF_SET, **options)  # type: ignore[arg-type]
