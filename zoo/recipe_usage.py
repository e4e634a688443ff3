"""Finds what a recipe binds in vain, and what it leaves unbound, by following Gin's rules without building."""

import ast
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from zoo.recipe_scopes import ROOT, Bindings, Instance, Walk, is_required, overrides
from zoo.recipe_statements import COMMAND_LINE, Binding, Mistake, Reference, references
from zoo.signatures import Signatures


class UsageCheck:
    """Compares what building would take with what the recipe binds.

    Args:
        bindings: of the recipe, with misspelt names mended.
        walk: over these bindings.
        file: the recipe's own file, as messages print it.
        lost: a wrong value hides what it was to build, so that nothing is said about what is never built.
        stray: (component, parameter) that bindings with a wrong scope were to bind.
    """

    def __init__(
        self,
        bindings: Sequence[Binding],
        walk: Walk,
        signatures: Signatures,
        file: str,
        lost: bool,
        stray: set[tuple[str, str]],
    ) -> None:
        self.bindings, self.walk, self.signatures = bindings, walk, signatures
        self.components = signatures.registry.components
        self.file, self.lost, self.stray = file, lost, stray
        self.mistakes: list[Mistake] = []

    def run(self) -> list[Mistake]:
        """All mistakes of usage."""
        self._cycles()
        self._foreign_scopes()
        self._unbound()
        self._unused()
        return self.mistakes

    def _report(self, where: Binding, message: str, line: int | None = None) -> None:
        self.mistakes.append(Mistake(where.file, line or where.line, message))

    def _cycles(self) -> None:
        for binding, found in self.walk.cycles:
            message = f"{binding} = {found}: this makes {found} out of itself, without end; refer to something else"
            self._report(binding, message, found.line)

    def _foreign_scopes(self) -> None:
        """A reference with a scope is built in that scope alone, not in the stage around it as well."""
        stages = {
            i.scopes[0]
            for i in self.walk.instances
            if i.scopes and i.origin is not None and not i.origin.scopes and i.origin.component == ROOT
        }
        listed = references([binding.value for binding in self.walk.instances[0].winners.values()])
        stages |= {found.scopes[0] for found in listed if isinstance(found, Reference) and found.scopes}
        for instance in self.walk.instances:
            for binding in instance.winners.values():
                for found in references(binding.value):
                    if not isinstance(found, Reference) or not found.scopes or not instance.scopes:
                        continue
                    if found.scopes[0] != instance.scopes[0] and found.scopes[0] not in stages:
                        self._report(binding, f"{binding} = {found}: {self._foreign(found, instance)}", found.line)

    def _foreign(self, found: Reference, instance: Instance) -> str:
        """What is wrong with a reference out of the scope of `instance`, and the cure."""
        component = self.components.get(found.component)
        if component is not None and component.family == "pipeline":
            return f"it is a stage, and {ROOT}.stages lacks it: write {found} there, before '{instance.scope}'"
        full = replace(found, scopes=(instance.scopes[0], *found.scopes))
        return f"it is built in the scope '{'/'.join(found.scopes)}', outside of '{instance.scope}'; write {full}"

    def _unbound(self) -> None:
        """Reports required parameters without a value, once for all scopes where one is missing."""
        missing: dict[tuple[str, str], list[Instance]] = defaultdict(list)
        for instance in self.walk.instances:
            for parameter in self.signatures.of(instance.component).parameters.values():
                winner = instance.winners.get(parameter.name)
                declared = winner is not None and is_required(winner)
                needed = winner is None and parameter.required and instance.evaluated
                if declared or (needed and (instance.component, parameter.name) not in self.stray):
                    missing[instance.component, parameter.name].append(instance)
        for (component, name), instances in missing.items():
            scopes = [instance.scope for instance in instances if instance.scope]
            inside = f" in {', '.join(scopes)}" if scopes else ""
            example = (f"{scopes[0]}/" if len(scopes) == 1 else "") + f"{component}.{name} = ..."
            message = f"{component} needs a value for '{name}'{inside}, and nothing binds it; add {example}"
            file, line = self._place(instances[0], name)
            self.mistakes.append(Mistake(file, line, message))

    def _place(self, instance: Instance, parameter: str) -> tuple[str, int]:
        """Where to look for a missing value: its declaration, else the nearest reference in the recipe's own file."""
        if parameter in instance.winners:
            return instance.winners[parameter].file, instance.winners[parameter].line
        above: list[tuple[str, int]] = []
        current: Instance | None = instance
        while current is not None and current.origin is not None:
            above.append((current.origin.file, current.line or current.origin.line))
            current = current.parent
        own = [place for place in above if place[0] == self.file]
        return next(iter(own + above), (self.file, 1))

    def _unused(self) -> None:
        last = {binding.key: binding for binding in self.bindings}
        for binding in last.values():
            known = binding.component in self.components
            if not known or binding.is_macro or binding in self.walk.used | self.walk.excused:
                continue
            reached = [
                i
                for i in self.walk.instances
                if i.component == binding.component and i.scopes[: len(binding.scopes)] == binding.scopes
            ]
            if reached:
                self._overshadowed(binding, reached)
            elif not self.lost:
                self._never_built(binding)

    def _overshadowed(self, binding: Binding, reached: Iterable[Instance]) -> None:
        for instance in reached:
            winner = instance.winners[binding.parameter]
            if not overrides(winner, binding):
                cure = f"bind {winner} instead" if winner.file != binding.file else "take it out"
                place = winner.file if winner.file == COMMAND_LINE else f"{winner.file}:{winner.line}"
                self._report(binding, f"{binding} has no effect: {winner} ({place}) wins; {cure}")
                return

    def _taking(self, instance: Instance, binding: Binding) -> list[str]:
        """The parameters of a component that are annotated with the class that is bound in vain, and not bound."""
        known = self.signatures.of(instance.component).parameters.items()
        return [
            name
            for name, parameter in known
            if name not in instance.winners
            and parameter.annotation is not None
            and binding.component in {node.id for node in ast.walk(parameter.annotation) if isinstance(node, ast.Name)}
        ]

    def _never_built(self, binding: Binding) -> None:
        elsewhere = sorted({i.scope or "the root" for i in self.walk.instances if i.component == binding.component})
        if elsewhere:
            inside = f"in the scope '{binding.scope}'" if binding.scope else "at the root"
            reason = f"{binding.component} is not built {inside}, only in {', '.join(elsewhere)}"
        else:
            reason = f"nothing refers to @{binding.component}()"
            family = self.components[binding.component].family
            others = [i.component for i in self.walk.instances if self.components[i.component].family == family]
            if others:
                reason += f" (of the {family} this recipe builds {', '.join(sorted(set(others)))})"
            takers = sorted({f"{i.component}.{name}" for i in self.walk.instances for name in self._taking(i, binding)})
            if len(takers) == 1:
                reason += f", such as {takers[0]} = @{binding.component}()"
        self._report(binding, f"{binding} is used by nothing: {reason}; refer to it or take the binding out")


def restated_defaults(bindings: Bindings, instances: Iterable[Instance], signatures: Signatures) -> list[Mistake]:
    """Bindings that give a parameter its default everywhere and override nothing: not wrong, and not needed."""
    needed: dict[Binding, bool] = {}
    for instance in instances:
        parameters = signatures.of(instance.component).parameters
        for name, stack in bindings.layers(instance.component, instance.scopes).items():
            default = parameters[name].default if name in parameters else None
            same = (
                default is not None and len(stack) == 1 and _is_literal(default, bindings.value(stack[-1].value, ...))
            )
            needed[stack[-1]] = needed.get(stack[-1], False) or not same
    return [
        Mistake(binding.file, binding.line, f"{binding} = {binding.value!r} is the default; take it out")
        for binding, is_needed in needed.items()
        if not is_needed
    ]


def _is_literal(source: str, value: object) -> bool:
    """Whether the Python text of a default is this literal: 1.0 is 1, True is not."""
    try:
        default = ast.literal_eval(source)
    except ValueError:
        return False
    return default == value and isinstance(default, bool) == isinstance(value, bool)
