"""What Gin would build from a recipe: components, their scopes, and the binding that gives each parameter its value.

Follows Gin's rules (gin.config._get_bindings and ConfigurableReference) on parsed bindings, without building:
of the bindings of a parameter, the one whose scope is the longest prefix of the current scope wins, the later of
equals; a reference with scopes is built in exactly those, one without in the scope of what refers to it; the value
of a macro is built in the scope named like the macro.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from zoo.recipe_statements import COMMAND_LINE, MACRO, REQUIRED, Binding, Macro, Reference, map_value, references

ROOT = "Pipeline"


@dataclass(frozen=True)
class Instance:
    """A component as built in one scope.

    Attributes:
        winners: parameter -> the binding that gives its value.
        origin: the binding whose value refers to it first; None for the root.
        line: the line of that reference.
        parent: the instance that this reference is a parameter of.
        evaluated: built by Gin, rather than handed over as a class.
    """

    component: str
    scopes: tuple[str, ...]
    winners: Mapping[str, Binding]
    origin: Binding | None
    line: int
    evaluated: bool
    parent: "Instance | None"

    @property
    def scope(self) -> str:
        return "/".join(self.scopes)

    def __str__(self) -> str:
        return f"{self.scope}/{self.component}" if self.scopes else self.component


class Bindings:
    """The bindings of a recipe by component, scope and parameter, in order."""

    def __init__(self, bindings: Iterable[Binding]) -> None:
        self._by_key: dict[tuple[str, str], dict[str, list[Binding]]] = defaultdict(lambda: defaultdict(list))
        for binding in bindings:
            self._by_key[binding.scope, binding.component][binding.parameter].append(binding)

    def layers(self, component: str, scopes: tuple[str, ...]) -> dict[str, list[Binding]]:
        """For each parameter the bindings that reach the component in this scope, the winner last."""
        found: dict[str, list[Binding]] = defaultdict(list)
        for length in range(len(scopes) + 1):
            for parameter, stack in self._by_key.get(("/".join(scopes[:length]), component), {}).items():
                found[parameter] += stack
        return found

    def macro(self, name: str) -> list[Binding]:
        """The bindings of the macro `%name`, the winner last; empty where it is not defined."""
        return self.layers(MACRO, tuple(name.split("/"))).get("value", [])

    def value(self, value: Any, unknown: Any, inside: tuple[str, ...] = ()) -> Any:
        """`value` with macros replaced by what they stand for; undefined ones, and one inside itself, by `unknown`."""

        def replaced(leaf: Any) -> Any:
            if not isinstance(leaf, Macro):
                return leaf
            stack = self.macro(leaf.name)
            if not stack or leaf.name in inside:
                return unknown
            return self.value(stack[-1].value, unknown, (*inside, leaf.name))

        return map_value(value, replaced)


class Walk:
    """Everything that building the root component builds.

    Args:
        bindings: of the whole recipe.
        resolve: component name as written -> the name to go on with, None where nothing is known of it.

    Attributes:
        instances: what is built, root first.
        used: the bindings whose value something takes.
        excused: bindings that only an overridden reference would reach: an ablation that swaps a part leaves
            the bindings of the old part behind in the recipe that it includes, and that is no mistake.
        cycles: references that would build something inside itself.
    """

    def __init__(self, bindings: Bindings, resolve: Callable[[str], str | None], root: str = ROOT) -> None:
        self._bindings = bindings
        self._resolve = resolve
        self._seen: dict[tuple[str, tuple[str, ...]], Instance] = {}
        self._stack: list[tuple[str, tuple[str, ...]]] = []
        self._displaced: list[tuple[Binding, Binding, tuple[str, ...]]] = []
        self.used: set[Binding] = set()
        self.excused: set[Binding] = set()
        self.cycles: list[tuple[Binding, Reference | Macro]] = []
        self._build(root, (), None, Reference((), root, True, 1))
        for loser, winner, scopes in self._displaced:
            self._excuse(loser.value, scopes, winner, set())

    @property
    def instances(self) -> list[Instance]:
        return list(self._seen.values())

    def scopes(self) -> set[str]:
        """All scopes that something is built in, with their prefixes; without the root's empty one."""
        paths = (instance.scopes for instance in self.instances)
        return {"/".join(scopes[:length]) for scopes in paths for length in range(1, len(scopes) + 1)}

    def _build(self, component: str, scopes: tuple[str, ...], origin: Binding | None, found: Reference) -> None:
        layers = self._bindings.layers(component, scopes)
        winners = {parameter: stack[-1] for parameter, stack in layers.items()}
        parent = next((self._seen[key] for key in reversed(self._stack) if key in self._seen), None)
        instance = Instance(component, scopes, winners, origin, found.line, found.evaluate, parent)
        self._seen[component, scopes] = instance
        self._stack.append((component, scopes))
        for stack in layers.values():
            self._take(stack, scopes)
        self._stack.pop()

    def _take(self, stack: list[Binding], scopes: tuple[str, ...]) -> None:
        """Uses the last binding of a stack in a scope; the ones that it displaced are looked at in the end."""
        winner = stack[-1]
        self.used.add(winner)
        self._displaced += [(loser, winner, scopes) for loser in stack[:-1]]
        for found in references(winner.value):
            if isinstance(found, Macro):
                self._follow_macro(found, winner)
            else:
                self._follow(found, winner, scopes)

    def _follow_macro(self, found: Macro, binding: Binding) -> None:
        stack = self._bindings.macro(found.name)
        key = (MACRO, tuple(found.name.split("/")))
        if key in self._stack:
            self.cycles.append((binding, found))
        elif stack:
            self._stack.append(key)
            self._take(stack, key[1])
            self._stack.pop()

    def _follow(self, found: Reference, binding: Binding, scopes: tuple[str, ...]) -> None:
        component = self._resolve(found.component)
        target = found.scopes or scopes
        if component is None:
            return
        if (component, target) in self._stack:
            self.cycles.append((binding, found))
        elif (component, target) not in self._seen:
            self._build(component, target, binding, found)

    def _excuse(self, value: Any, scopes: tuple[str, ...], winner: Binding, seen: set[Any]) -> None:
        """Excuses what an overridden value would have reached, as far as it stands before and outside the override."""
        for found in references(value):
            if isinstance(found, Macro):
                target, component = tuple(found.name.split("/")), MACRO
            else:
                target, component = found.scopes or scopes, self._resolve(found.component) or ""
            if (component, target) in seen:
                continue
            seen.add((component, target))
            for stack in self._bindings.layers(component, target).values():
                for binding in stack:
                    if overrides(winner, binding):
                        self.excused.add(binding)
                    self._excuse(binding.value, target, winner, seen)


def overrides(winner: Binding, loser: Binding) -> bool:
    """Whether `winner` was meant to override `loser`: it comes later, and from another file or the command line.

    A binding that comes later and yet loses to a scoped one, or that its own file overrides everywhere, is a mistake.
    """
    return winner.order > loser.order and (winner.section != loser.section or winner.section == COMMAND_LINE)


def is_required(binding: Binding) -> bool:
    """Whether the binding only declares that a value must be given: `= %gin.REQUIRED`."""
    return isinstance(binding.value, Macro) and binding.value.name == REQUIRED
