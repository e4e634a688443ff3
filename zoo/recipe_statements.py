"""What a recipe consists of: bindings, references and macros with their places; and the mistakes found in it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

COMMAND_LINE = "command line"
# The Gin component that a line such as `BATCH = 64` binds; the macro's name is its scope.
MACRO = "macro"
REQUIRED = "gin.REQUIRED"


@dataclass(frozen=True)
class Mistake:
    """One thing wrong with a recipe. Printed as "file:line: message"."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        place = self.file if self.file == COMMAND_LINE else f"{self.file}:{self.line}"
        return f"{place}: {self.message}"


@dataclass(frozen=True)
class Reference:
    """`@scope/Component()`, or without the brackets the class itself."""

    scopes: tuple[str, ...]
    component: str
    evaluate: bool
    line: int

    def __str__(self) -> str:
        return "@" + "/".join([*self.scopes, self.component]) + ("()" if self.evaluate else "")

    __repr__ = __str__


@dataclass(frozen=True)
class Macro:
    """`%NAME`."""

    name: str
    line: int

    def __str__(self) -> str:
        return f"%{self.name}"

    __repr__ = __str__


@dataclass(frozen=True, eq=False)
class Binding:
    """`scope/Component.parameter = value`, or a macro: component "macro", its name as scope.

    Attributes:
        line: in the file; on the command line the number of the override.
        section: what it belongs to: the file, or within a frozen recipe the file that it came from.
        order: position in the whole recipe with its includes; Gin lets the later of two equal keys win.
    """

    scope: str
    component: str
    parameter: str
    value: Any
    file: str
    line: int
    section: str
    order: int

    @property
    def key(self) -> tuple[str, str, str]:
        return self.scope, self.component, self.parameter

    @property
    def is_macro(self) -> bool:
        return self.component == MACRO

    @property
    def scopes(self) -> tuple[str, ...]:
        return tuple(self.scope.split("/")) if self.scope else ()

    def __str__(self) -> str:
        if self.is_macro:
            return self.scope
        return (f"{self.scope}/" if self.scope else "") + f"{self.component}.{self.parameter}"


@dataclass
class Source:
    """A recipe as parsed.

    Attributes:
        text: the recipe with its includes written out and the command line's bindings at the end.
        complete: nothing was lost to a syntax error or a missing include, so absences mean something.
    """

    file: str
    text: str = ""
    bindings: list[Binding] = field(default_factory=list)
    blocks: list[Binding] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)
    complete: bool = True


def references(value: Any) -> list[Reference | Macro]:
    """All references and macros inside a value, outermost first."""
    if isinstance(value, Reference | Macro):
        return [value]
    if isinstance(value, dict):
        return [found for pair in value.items() for item in pair for found in references(item)]
    if isinstance(value, list | tuple):
        return [found for item in value for found in references(item)]
    return []


def map_value(value: Any, change: Callable[[Any], Any]) -> Any:
    """`value` with everything inside its lists, tuples and dictionaries changed."""
    if isinstance(value, dict):
        return {map_value(key, change): map_value(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map_value(item, change) for item in value)
    return change(value)
