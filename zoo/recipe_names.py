"""Finds the mistakes of a recipe by its names alone: no TensorFlow, no component is imported."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from zoo.annotations import UNKNOWN, TypeCheck
from zoo.console import UserError
from zoo.recipe_parsing import COMMAND_LINE, REQUIRED, Binding, Macro, Mistake, Reference, Source, references
from zoo.recipe_scopes import ROOT, Bindings, Instance, Walk, is_required, overrides
from zoo.signatures import Signature, Signatures
from zoo.spelling import did_you_mean, nearest


@dataclass
class Findings:
    """What the check of a recipe's names found.

    Attributes:
        mistakes: in the order of the text.
        instances: what building the recipe builds.
    """

    mistakes: list[Mistake] = field(default_factory=list)
    instances: list[Instance] = field(default_factory=list)


def check_names(source: Source, signatures: Signatures) -> Findings:
    """Checks a parsed recipe. Every mistake is reported once: what follows from a misspelling is not."""
    try:
        return _NameCheck(source, signatures).run()
    except UserError as error:
        # registry.yaml itself is wrong: nothing can be said about the recipe.
        return Findings([*source.mistakes, Mistake(source.file, 1, str(error))])


class _NameCheck:
    """One check of one recipe.

    A misspelt name is reported, and then taken for the nearest right one, so that a misspelt reference
    does not also make every binding of the component unused.
    """

    def __init__(self, source: Source, signatures: Signatures) -> None:
        self.source = source
        self.signatures = signatures
        self.components = signatures.registry.components
        self.mistakes: list[Mistake] = list(source.mistakes)
        self._wrong: dict[str, list[tuple[Binding, int, str]]] = defaultdict(list)
        self.lost = False  # a reference or macro is wrong, and what it was to build is not known
        self.stray: set[tuple[str, str]] = set()  # what bindings with a wrong scope were to bind

    def run(self) -> Findings:
        self._doubled_keys()
        for block in self.source.blocks:
            if block.component not in self.components:
                self._unknown_component(block, f"{block}".rstrip(".") + ":", block.component, block.line)
        bindings = self._spelt([self._check_binding(binding) for binding in self.source.bindings])
        instances = []
        if self.source.complete:
            bindings = self._macros(bindings)
            bindings = self._scopes(bindings)
            self._types(bindings)
            walk = Walk(Bindings(bindings), self._resolve)
            instances = walk.instances
            self._cycles(walk)
            self._foreign_scopes(walk)
            self._unbound(walk)
            self._unused(bindings, walk)
        else:
            self._types(bindings)
        self._report_wrong_names()
        places = {file: number for number, file in enumerate(dict.fromkeys(m.file for m in self.mistakes))}
        self.mistakes.sort(key=lambda mistake: (places[mistake.file], mistake.line))
        return Findings(self.mistakes, instances)

    def _report_wrong_names(self) -> None:
        """Reports each unknown component and macro once, where it comes first."""
        for places in self._wrong.values():
            where, line, message = min(places, key=lambda place: (place[0].order, place[1]))
            lines = {(other.file, number) for other, number, _ in places}
            more = f" (and in {len(lines) - 1} more lines)" if len(lines) > 1 else ""
            self._report(where, message + more, line)

    def _report(self, where: Binding, message: str, line: int | None = None) -> None:
        mistake = Mistake(where.file, where.line if line is None else line, message)
        if mistake not in self.mistakes:
            self.mistakes.append(mistake)

    def _resolve(self, component: str) -> str | None:
        return component if component in self.components else nearest(component, self.components)

    # ---- one binding by itself

    def _doubled_keys(self) -> None:
        first: dict[tuple[str, tuple[str, str, str]], Binding] = {}
        for binding in self.source.bindings:
            earlier = first.setdefault((binding.file, binding.key), binding)
            if earlier.line != binding.line and binding.file != COMMAND_LINE:
                self._report(binding, f"{binding} is bound twice in this file, first on line {earlier.line}; keep one")

    def _unknown_component(self, where: Binding, written: str, name: str, line: int) -> None:
        cure = did_you_mean(name, self.components)
        self._wrong[f"@{name}"].append((where, line, f"{written} there is no component '{name}'; {cure}"))

    def _check_binding(self, binding: Binding) -> Binding:
        """Reports wrong names in one binding; returns it with the nearest right ones."""
        for found in references(binding.value):
            if isinstance(found, Reference) and found.component not in self.components:
                self.lost |= self._resolve(found.component) is None
                self._unknown_component(binding, f"{binding} = {found}:", found.component, _line(binding, found))
        if binding.is_macro:
            return binding
        component = self._resolve(binding.component)
        if component != binding.component:
            self._unknown_component(binding, f"{binding}:", binding.component, binding.line)
        if component is None:
            return binding
        parameter = self._parameter(binding, self.signatures.of(component))
        return replace(binding, component=component, parameter=parameter or binding.parameter)

    def _parameter(self, binding: Binding, signature: Signature) -> str | None:
        if signature.open or binding.parameter in signature.parameters:
            return binding.parameter
        wrong = did_you_mean(binding.parameter, signature.parameters)
        self._report(binding, f"{binding}: {signature.component} has no parameter '{binding.parameter}'; {wrong}")
        return nearest(binding.parameter, signature.parameters)

    def _spelt(self, corrected: list[Binding]) -> list[Binding]:
        """The bindings with misspelt names mended, as long as the mended key is not bound anyway."""
        right = {binding.key for binding in self.source.bindings}
        pairs = zip(self.source.bindings, corrected, strict=True)
        return [new for old, new in pairs if new.key == old.key or new.key not in right]

    def _types(self, bindings: list[Binding]) -> None:
        check, scoped = TypeCheck(self.signatures), Bindings(bindings)
        for binding in bindings:
            if binding.is_macro or binding.component not in self.components or is_required(binding):
                continue
            parameter = self.signatures.of(binding.component).parameters.get(binding.parameter)
            if parameter is None:
                continue
            value = _mask(scoped.value(binding.value, UNKNOWN), self.components)
            problem = check.problem(value, parameter)
            if problem is not None:
                self.lost |= bool(check.classes(parameter.annotation, parameter.module))
                macros = [str(found) for found in references(binding.value) if isinstance(found, Macro)]
                through = f" (through {', '.join(macros)})" if macros else ""
                self._report(binding, f"{binding}{through}: {problem}")

    # ---- macros

    def _macros(self, bindings: list[Binding]) -> list[Binding]:
        """Reports undefined and unused macros; returns the bindings with misspelt macros mended."""
        scoped = Bindings(bindings)
        defined = {binding.scope for binding in bindings if binding.is_macro}
        used, mended = set(), []
        for binding in bindings:
            wrong = {}
            for found in references(binding.value):
                if not isinstance(found, Macro) or found.name == REQUIRED:
                    continue
                stack = scoped.macro(found.name)
                used |= {definition.scope for definition in stack}
                if not stack:
                    near = nearest(found.name, defined)
                    self.lost |= near is None
                    wrong[found.name] = near
                    used |= {near} if near else set()
                    cure = did_you_mean(found.name, defined) if defined else f"define it: {found.name} = ..."
                    message = f"{binding} = {found}: there is no macro '{found.name}'; {cure}"
                    self._wrong[f"%{found.name}"].append((binding, _line(binding, found), message))
            mended.append(replace(binding, value=_rename(binding.value, wrong)) if wrong else binding)
        for binding in bindings:
            if binding.is_macro and binding.scope not in used:
                self._report(binding, _unused_macro(binding, self.components))
        return mended

    # ---- scopes

    def _scopes(self, bindings: list[Binding]) -> list[Binding]:
        """Reports scopes that no reference builds; returns the bindings with the nearest scope that one does."""
        known = {""}
        building = {b.scope for b in bindings if b.is_macro and references(b.value)}
        for binding in bindings:
            for found in references(binding.value):
                # What a macro refers to is built in the scope named like the macro.
                macro = isinstance(found, Macro) and found.name in building
                path = found.scopes if isinstance(found, Reference) else tuple(found.name.split("/")) if macro else ()
                known |= {"/".join(path[:length]) for length in range(1, len(path) + 1)}
        strange: dict[str, list[Binding]] = defaultdict(list)
        for binding in bindings:
            if not binding.is_macro and binding.scope not in known:
                strange[binding.scope].append(binding)
        for scope, found in strange.items():
            near = did_you_mean(scope, known - {""}) if len(known) > 1 else "no reference of this recipe has a scope"
            count = f" (and {len(found) - 1} more bindings of it)" if len(found) > 1 else ""
            self._report(found[0], f"{found[0]}{count}: no reference builds the scope '{scope}'; {near}")
        self.stray = {(binding.component, binding.parameter) for found in strange.values() for binding in found}
        keys = {binding.key for binding in bindings}
        mended = [replace(b, scope=nearest(b.scope, known) or b.scope) if b.scope in strange and not b.is_macro else b
                  for b in bindings]
        return [new for old, new in zip(bindings, mended, strict=True) if new is old or new.key not in keys]

    def _foreign_scopes(self, walk: Walk) -> None:
        """A reference with a scope is built in that scope alone, not in the stage around it as well."""
        stages = {i.scopes[0] for i in walk.instances if i.scopes and i.origin is not None and not i.origin.scopes
                  and i.origin.component == ROOT}
        for instance in walk.instances:
            for binding in instance.winners.values():
                for found in references(binding.value):
                    if not isinstance(found, Reference) or not found.scopes or not instance.scopes:
                        continue
                    if found.scopes[0] != instance.scopes[0] and found.scopes[0] not in stages:
                        full = replace(found, scopes=(instance.scopes[0], *found.scopes))
                        message = f"is built in the scope '{'/'.join(found.scopes)}', outside of '{instance.scope}'"
                        self._report(binding, f"{binding} = {found}: it {message}; write {full}", _line(binding, found))

    def _cycles(self, walk: Walk) -> None:
        for binding, found in walk.cycles:
            self._report(binding, f"{binding} = {found}: this builds {found.component} inside itself without end",
                         _line(binding, found))

    # ---- what is missing, what is too much

    def _unbound(self, walk: Walk) -> None:
        """Reports required parameters without a value, once for all scopes where one is missing."""
        missing: dict[tuple[str, str], list[Instance]] = defaultdict(list)
        for instance in walk.instances:
            for parameter in self.signatures.of(instance.component).parameters.values():
                winner = instance.winners.get(parameter.name)
                declared = winner is not None and is_required(winner)
                needed = winner is None and parameter.required and instance.evaluated
                if declared or (needed and (instance.component, parameter.name) not in self.stray):
                    missing[instance.component, parameter.name].append(instance)
        for (component, parameter), instances in missing.items():
            scopes = [instance.scope for instance in instances if instance.scope]
            inside = f" in {', '.join(scopes)}" if scopes else ""
            example = (f"{scopes[0]}/" if len(scopes) == 1 else "") + f"{component}.{parameter} = ..."
            message = f"{component} needs a value for '{parameter}'{inside}, and nothing binds it; add {example}"
            file, line = self._place(instances[0], parameter)
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
        own = [place for place in above if place[0] == self.source.file]
        return next(iter(own + above), (self.source.file, 1))

    def _unused(self, bindings: list[Binding], walk: Walk) -> None:
        last = {binding.key: binding for binding in bindings}
        for binding in last.values():
            known = binding.component in self.components
            if not known or binding.is_macro or binding in walk.used | walk.excused:
                continue
            reached = [i for i in walk.instances if i.component == binding.component
                       and i.scopes[: len(binding.scopes)] == binding.scopes]
            if reached:
                self._overshadowed(binding, reached)
            elif not self.lost:
                self._never_built(binding, walk)

    def _overshadowed(self, binding: Binding, reached: Iterable[Instance]) -> None:
        for instance in reached:
            winner = instance.winners[binding.parameter]
            if not overrides(winner, binding):
                cure = f"bind {winner} instead" if winner.file != binding.file else "take it out"
                place = winner.file if winner.file == COMMAND_LINE else f"{winner.file}:{winner.line}"
                self._report(binding, f"{binding} has no effect: {winner} ({place}) wins; {cure}")
                return

    def _never_built(self, binding: Binding, walk: Walk) -> None:
        elsewhere = sorted({i.scope or "the root" for i in walk.instances if i.component == binding.component})
        if elsewhere:
            inside = f"in the scope '{binding.scope}'" if binding.scope else "at the root"
            reason = f"{binding.component} is not built {inside}, only in {', '.join(elsewhere)}"
        else:
            reason = f"nothing refers to @{binding.component}()"
            family = self.components[binding.component].family
            others = [i.component for i in walk.instances if self.components[i.component].family == family]
            if others:
                reason += f" (of the {family} this recipe builds {', '.join(sorted(set(others)))})"
        self._report(binding, f"{binding} is used by nothing: {reason}; refer to it or take the binding out")


def _line(binding: Binding, found: Reference | Macro) -> int:
    return found.line or binding.line


def _unused_macro(binding: Binding, components: Iterable[str]) -> str:
    name = binding.scope.rpartition("/")[2]
    if name in components:
        return f"'{binding} = ...' binds no parameter; write {binding}.PARAMETER = ..."
    return f"the macro {binding} is used by nothing; use it as %{binding} or take it out"


def _rename(value: Any, names: dict[str, str | None]) -> Any:
    """`value` with macros renamed; one without a new name stays."""
    if isinstance(value, Macro):
        return replace(value, name=names.get(value.name) or value.name)
    if isinstance(value, dict):
        return {_rename(key, names): _rename(item, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_rename(item, names) for item in value)
    return value


def _mask(value: Any, components: Iterable[str]) -> Any:
    """`value` with references to unknown components, which are reported already, made UNKNOWN."""
    if isinstance(value, Reference) and value.component not in components:
        return UNKNOWN
    if isinstance(value, dict):
        return {_mask(key, components): _mask(item, components) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mask(item, components) for item in value)
    return value
