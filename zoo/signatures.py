"""Constructor signatures of components, read from source without importing it."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass

from zoo.console import UserError
from zoo.modules import Alias, Class, External, Meaning, Modules
from zoo.registry import Registry
from zoo.spelling import did_you_mean

# What the constructors of Keras layers and models take beside their own parameters, when they pass **kwargs on.
KERAS_PARAMETERS = ("activity_regularizer", "trainable", "dtype", "autocast", "name")
PLAIN_BASES = {"object", "ABC", "Protocol", "Generic", "NamedTuple"}


@dataclass(frozen=True)
class Parameter:
    """One constructor parameter.

    Attributes:
        annotation: as written, None where there is none; its names are those of `module`.
        default: source text of the default, None where the parameter is required.
    """

    name: str
    annotation: ast.expr | None
    module: str
    default: str | None

    @property
    def required(self) -> bool:
        return self.default is None


@dataclass(frozen=True)
class Signature:
    """What a component's constructor takes.

    Attributes:
        bases: qualified names of the class and all its base classes, nearest first; outside the project
            only the first one met, e.g. "keras.Model".
        open: the constructor belongs to another project and is not read: any parameter may be right.
    """

    component: str
    parameters: Mapping[str, Parameter]
    bases: tuple[str, ...]
    open: bool


class Signatures:
    """The signatures of a catalogue's components, each read once."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        packages = {component.target.partition(".")[0] for component in registry.components.values()}
        # Keras and TensorFlow are never opened: a component derived from them counts as theirs by name.
        self.modules = Modules((packages | {"zoo", "harness"}) - {"keras", "tensorflow"})
        self._known: dict[str, Signature] = {}

    def of(self, name: str) -> Signature:
        """The signature of the component `name`.

        Raises:
            UserError: registry.yaml names a class that is not there.
        """
        if name not in self._known:
            self._known[name] = self._read(name)
        return self._known[name]

    def family(self, base: str) -> list[str]:
        """The components that are, or derive from, the class with the qualified name `base`."""
        return [name for name in self.registry.components if base in self.of(name).bases]

    def _read(self, name: str) -> Signature:
        component = self.registry.components[name]
        meaning = self.modules.find(component.target)
        if isinstance(meaning, External) and self.modules.file(component.module) is None:
            if component.target.partition(".")[0] in ("zoo", "harness"):
                raise UserError(f"{self.registry.file.name}:{component.line}: there is no module {component.module}")
            return Signature(name, {}, (component.target,), open=True)
        if not isinstance(meaning, Class):
            wrong = did_you_mean(name, self.modules.classes(component.module))
            place = f"{self.registry.file.name}:{component.line}"
            raise UserError(f"{place}: there is no class {name} in {component.module}; {wrong}")
        parameters, is_open = self._constructor(meaning)
        return Signature(name, parameters, tuple(dict.fromkeys(self._bases(meaning))), is_open)

    def _parents(self, cls: Class) -> list[Meaning]:
        # `Base[T]` derives from Base.
        nodes = [node.value if isinstance(node, ast.Subscript) else node for node in cls.node.bases]
        meanings = (self.modules.resolve(cls.module, ast.unparse(node)) for node in nodes)
        return [meaning for meaning in meanings if not isinstance(meaning, Alias)]

    def _bases(self, cls: Class) -> list[str]:
        found = [cls.qualified]
        for parent in self._parents(cls):
            found += self._bases(parent) if isinstance(parent, Class) else [_qualified(parent)]
        return found

    def _constructor(self, cls: Class) -> tuple[dict[str, Parameter], bool]:
        """The parameters of the nearest constructor, and whether it lies outside the project."""
        if _is_dataclass(cls):
            return self._fields(cls), False
        for statement in cls.node.body:
            if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
                own = _parameters(statement.args, cls.module)
                if statement.args.kwarg is None:
                    return own, False
                return self._passed_on(cls) | own, False
        return self._inherited(cls)

    def _inherited(self, cls: Class) -> tuple[dict[str, Parameter], bool]:
        for parent in self._parents(cls):
            if isinstance(parent, Class):
                parameters, is_open = self._constructor(parent)
                if parameters or is_open:
                    return parameters, is_open
            elif _qualified(parent).partition(".")[0] == "keras":
                return {name: Parameter(name, None, cls.module, "None") for name in KERAS_PARAMETERS}, False
            elif _qualified(parent).rpartition(".")[2] not in PLAIN_BASES:
                return {}, True
        return {}, False

    def _passed_on(self, cls: Class) -> dict[str, Parameter]:
        """What `**kwargs` can stand for: the parameters of the base class's constructor, all optional."""
        return {
            name: Parameter(name, parameter.annotation, parameter.module, parameter.default or "...")
            for name, parameter in self._inherited(cls)[0].items()
        }

    def _fields(self, cls: Class) -> dict[str, Parameter]:
        found: dict[str, Parameter] = {}
        for parent in self._parents(cls):
            if isinstance(parent, Class) and _is_dataclass(parent):
                found |= self._fields(parent)
        for statement in cls.node.body:
            match statement:
                case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value):
                    default = ast.unparse(value) if value is not None else None
                    found[name] = Parameter(name, annotation, cls.module, default)
        return found


def _qualified(meaning: Meaning) -> str:
    return meaning.qualified if isinstance(meaning, Class | External) else ""


def _is_dataclass(cls: Class) -> bool:
    names = (ast.unparse(node.func if isinstance(node, ast.Call) else node) for node in cls.node.decorator_list)
    return any(name.rpartition(".")[2] == "dataclass" for name in names)


def _parameters(arguments: ast.arguments, module: str) -> dict[str, Parameter]:
    """The parameters of an `__init__`, without self, *args and **kwargs."""
    positional = arguments.posonlyargs + arguments.args
    missing: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    pairs = list(zip(positional, [*missing, *arguments.defaults], strict=True))[1:]
    pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return {
        argument.arg: Parameter(
            argument.arg, argument.annotation, module, ast.unparse(default) if default is not None else None
        )
        for argument, default in pairs
    }
