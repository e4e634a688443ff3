"""Does a value of a recipe fit the annotation of the parameter that it is bound to? Annotations are syntax trees."""

import ast
from dataclasses import dataclass
from typing import Any

from zoo.modules import Alias, Class
from zoo.recipe_statements import Macro, Reference
from zoo.signatures import Parameter, Signatures

ANYTHING = {"Any", "object", "ArrayLike", "DTypeLike"}
SEQUENCES = {"list", "List", "Sequence", "Iterable", "Collection"}
MAPPINGS = {"dict", "Dict", "Mapping", "MutableMapping"}
# Gin writes a list and a tuple alike to the eye; a constructor that needs the difference converts.
SEQUENCE_VALUES = (list, tuple)


class _Unknown:
    """Stands for a value that another mistake already concerns: an undefined macro, an unknown component."""


UNKNOWN = _Unknown()


@dataclass(frozen=True)
class TypeCheck:
    """Compares values with annotations, by the classes' source alone."""

    signatures: Signatures

    def problem(self, value: Any, parameter: Parameter) -> str | None:
        """What is wrong with binding `value` (macros replaced) to `parameter`, and the cure; None if nothing."""
        if parameter.annotation is None or self.accepts(value, parameter.annotation, parameter.module):
            return None
        wanted = ast.unparse(parameter.annotation).strip("'\"")
        if isinstance(value, Reference):
            return self._reference_problem(value, parameter, wanted)
        if value is None:
            return f"it cannot be None; it must be {wanted}"
        cure = "; write @Component() to refer to one" if self.classes(parameter.annotation, parameter.module) else ""
        return f"{_shown(value)} has the wrong type: it is {_type_of(value)}, it must be {wanted}{cure}"

    def accepts(self, value: Any, node: ast.expr, module: str) -> bool:
        """Whether the annotation `node`, whose names are those of `module`, allows the value."""
        if isinstance(value, _Unknown | Macro):
            return True
        match node:
            case ast.Constant(value=None):
                return value is None
            case ast.Constant(value=str() as text):
                return self.accepts(value, ast.parse(text, mode="eval").body, module)
            case ast.BinOp(left=left, right=right):
                return self.accepts(value, left, module) or self.accepts(value, right, module)
            case ast.Subscript(value=base, slice=inner):
                return self._accepts_generic(value, _last(base), inner, module)
        return self._accepts_name(value, node, module)

    def _accepts_generic(self, value: Any, base: str, inner: ast.expr, module: str) -> bool:
        items = inner.elts if isinstance(inner, ast.Tuple) else [inner]
        if base == "Union":
            return any(self.accepts(value, item, module) for item in items)
        if base == "Optional":
            return value is None or self.accepts(value, items[0], module)
        if base in ("Annotated", "Final"):
            return self.accepts(value, items[0], module)
        if base == "Literal":
            allowed = [ast.literal_eval(item) for item in items]
            return any(value == item and type(value) is type(item) for item in allowed)
        if base in ("tuple", "Tuple"):
            return self._accepts_tuple(value, items, module)
        if base in SEQUENCES:
            return isinstance(value, SEQUENCE_VALUES) and all(self.accepts(v, items[0], module) for v in value)
        if base in MAPPINGS:
            return isinstance(value, dict) and all(
                self.accepts(k, items[0], module) and self.accepts(v, items[1], module) for k, v in value.items()
            )
        if base in ("type", "Type"):
            return self._is_class_of(value, items[0], module)
        if base == "Callable":
            return isinstance(value, Reference)
        return True

    def _accepts_tuple(self, value: Any, items: list[ast.expr], module: str) -> bool:
        if not isinstance(value, SEQUENCE_VALUES):
            return False
        if len(items) == 2 and isinstance(items[1], ast.Constant) and items[1].value is ...:
            return all(self.accepts(element, items[0], module) for element in value)
        return len(value) == len(items) and all(
            self.accepts(element, item, module) for element, item in zip(value, items, strict=True)
        )

    def _accepts_name(self, value: Any, node: ast.expr, module: str) -> bool:
        name = _last(node)
        if name in ANYTHING:
            return True
        if name == "Callable":
            return isinstance(value, Reference)
        builtin = self._accepts_builtin(value, name)
        if builtin is not None:
            return builtin
        meaning = self.signatures.modules.resolve(module, ast.unparse(node))
        if isinstance(meaning, Alias):
            return self.accepts(value, meaning.value, meaning.module)
        if isinstance(meaning, Class) and _is_protocol(meaning):
            return isinstance(value, Reference)
        return isinstance(value, Reference) and value.evaluate and self._is_a(value.component, meaning.qualified)

    def _accepts_builtin(self, value: Any, name: str) -> bool | None:
        """The answer for a built-in type; None where `name` is not one."""
        if isinstance(value, Reference):
            return False if name in BUILTINS else None
        match name:
            case "bool":
                return isinstance(value, bool)
            case "int":
                return isinstance(value, int) and not isinstance(value, bool)
            case "float":
                return isinstance(value, int | float) and not isinstance(value, bool)
            case "str" | "Path":
                return isinstance(value, str)
            case "tuple" | "list" | "Sequence":
                return isinstance(value, SEQUENCE_VALUES)
            case "dict" | "Mapping":
                return isinstance(value, dict)
        return None

    def _is_class_of(self, value: Any, item: ast.expr, module: str) -> bool:
        if not isinstance(value, Reference) or value.evaluate:
            return False
        built = Reference(value.scopes, value.component, True, value.line)
        return self.accepts(built, item, module)

    def _is_a(self, component: str, wanted: str) -> bool:
        """Whether the component is, or derives from, the class with the qualified name `wanted`."""
        if component not in self.signatures.registry.components:
            return True
        bases = self.signatures.of(component).bases
        if wanted in bases:
            return True
        # Other people's classes have many addresses (keras.Model, keras.models.Model): the last name decides.
        wanted_last = wanted.rpartition(".")[2]
        foreign = [base for base in bases if self.signatures.modules.file(base.rpartition(".")[0]) is None]
        wanted_is_ours = self.signatures.modules.file(wanted.rpartition(".")[0]) is not None
        last_names = {base.rpartition(".")[2] for base in foreign}
        # Every Keras model is a layer too.
        return not wanted_is_ours and (wanted_last in last_names or (wanted_last == "Layer" and "Model" in last_names))

    def _reference_problem(self, value: Reference, parameter: Parameter, wanted: str) -> str:
        built = Reference(value.scopes, value.component, True, value.line)
        if parameter.annotation is not None and self.accepts(built, parameter.annotation, parameter.module):
            return f"{value} names the class itself; write {value}() to build one"
        component = self.signatures.registry.components[value.component]
        members = [
            name for base in self.classes(parameter.annotation, parameter.module) for name in self._members(base)
        ]
        if not members:
            return f"{value} is a component of the family {component.family}, but it must be {wanted}"
        return f"{value} is of the family {component.family}, but it must be {wanted}; use {', '.join(members)}"

    def _members(self, base: str) -> list[str]:
        return [name for name in self.signatures.registry.components if self._is_a(name, base)]

    def classes(self, node: ast.expr | None, module: str) -> list[str]:
        """Qualified names of the classes that an annotation mentions, built-in types aside."""
        match node:
            case None:
                return []
            case ast.Constant(value=str() as text):
                return self.classes(ast.parse(text, mode="eval").body, module)
            case ast.Name() | ast.Attribute():
                if _last(node) in BUILTINS | ANYTHING | {"Callable"}:
                    return []
                meaning = self.signatures.modules.resolve(module, ast.unparse(node))
                if isinstance(meaning, Alias):
                    return self.classes(meaning.value, meaning.module)
                return [meaning.qualified]
            case ast.Subscript(slice=inner):
                return self.classes(inner, module)
        return [
            name
            for child in ast.iter_child_nodes(node)
            if isinstance(child, ast.expr)
            for name in self.classes(child, module)
        ]


BUILTINS = {"bool", "int", "float", "str", "Path", "tuple", "list", "Sequence", "dict", "Mapping", "None"}


def _last(node: ast.expr) -> str:
    return ast.unparse(node).rpartition(".")[2]


def _is_protocol(cls: Class) -> bool:
    return any(_last(base) == "Protocol" for base in cls.node.bases)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _type_of(value: Any) -> str:
    if isinstance(value, SEQUENCE_VALUES) and value:
        kinds = ", ".join(dict.fromkeys(_type_of(element) for element in value))
        return f"{type(value).__name__} of {kinds}"
    if isinstance(value, Reference):
        return str(value)
    return type(value).__name__
