"""Finds wrong names, scopes, macros and types in a recipe, and mends them as far as they can be guessed."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from zoo.annotations import UNKNOWN, TypeCheck
from zoo.recipe_scopes import Bindings, is_required
from zoo.recipe_statements import (
    COMMAND_LINE,
    REQUIRED,
    Binding,
    Macro,
    Mistake,
    Reference,
    Source,
    map_value,
    references,
)
from zoo.signatures import Signature, Signatures
from zoo.spelling import did_you_mean, nearest


class SpellingCheck:
    """One check of one recipe, from source alone.

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

    def run(self) -> list[Binding]:
        """Fills `mistakes`; returns the bindings with misspelt names mended."""
        self._doubled_keys()
        for block in self.source.blocks:
            if block.component not in self.components:
                self._unknown_component(block, f"{block}".rstrip(".") + ":", block.component, block.line)
        bindings = self._spelt([self._check_binding(binding) for binding in self.source.bindings])
        if self.source.complete:
            bindings = self._scopes(self._macros(bindings))
        self._types(bindings)
        self._report_wrong_names()
        return bindings

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

    def resolve(self, component: str) -> str | None:
        """The component that a name stands for: itself, or the nearest that there is."""
        return component if component in self.components else nearest(component, self.components)

    # ---- one binding by itself

    def _doubled_keys(self) -> None:
        first: dict[tuple[str, tuple[str, str, str]], Binding] = {}
        for binding in self.source.bindings:
            earlier = first.setdefault((binding.section, binding.key), binding)
            if earlier.line != binding.line and binding.section != COMMAND_LINE:
                self._report(binding, f"{binding} is bound twice in this file, first on line {earlier.line}; keep one")

    def _unknown_component(self, where: Binding, written: str, name: str, line: int) -> None:
        cure = did_you_mean(name, self.components)
        self._wrong[f"@{name}"].append((where, line, f"{written} there is no component '{name}'; {cure}"))

    def _check_binding(self, binding: Binding) -> Binding:
        """Reports wrong names in one binding; returns it with the nearest right ones."""
        for found in references(binding.value):
            if isinstance(found, Reference) and found.component not in self.components:
                self.lost |= self.resolve(found.component) is None
                self._unknown_component(binding, f"{binding} = {found}:", found.component, found.line)
        if binding.is_macro:
            return binding
        component = self.resolve(binding.component)
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
            value = map_value(scoped.value(binding.value, UNKNOWN), self._mask)
            problem = check.problem(value, parameter)
            if problem is not None:
                self.lost |= bool(check.classes(parameter.annotation, parameter.module))
                macros = [str(found) for found in references(binding.value) if isinstance(found, Macro)]
                through = f" (through {', '.join(macros)})" if macros else ""
                self._report(binding, f"{binding}{through}: {problem}")

    def _mask(self, leaf: Any) -> Any:
        """References to unknown components are reported already."""
        return UNKNOWN if isinstance(leaf, Reference) and leaf.component not in self.components else leaf

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
                    self._wrong[f"%{found.name}"].append((binding, found.line, message))
            mended.append(replace(binding, value=map_value(binding.value, _renaming(wrong))) if wrong else binding)
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
        for scope, stray in strange.items():
            near = did_you_mean(scope, known - {""}) if len(known) > 1 else "no reference of this recipe has a scope"
            count = f" (and {len(stray) - 1} more bindings of it)" if len(stray) > 1 else ""
            self._report(stray[0], f"{stray[0]}{count}: no reference builds the scope '{scope}'; {near}")
        self.stray = {(binding.component, binding.parameter) for stray in strange.values() for binding in stray}
        keys = {binding.key for binding in bindings}
        mended = [
            replace(b, scope=nearest(b.scope, known) or b.scope) if b.scope in strange and not b.is_macro else b
            for b in bindings
        ]
        return [new for old, new in zip(bindings, mended, strict=True) if new is old or new.key not in keys]


def _unused_macro(binding: Binding, components: Iterable[str]) -> str:
    name = binding.scope.rpartition("/")[2]
    if name in components:
        return f"'{binding} = ...' binds no parameter; write {binding}.PARAMETER = ..."
    return f"the macro {binding} is used by nothing; use it as %{binding} or take it out"


def _renaming(names: dict[str, str | None]) -> Callable[[Any], Any]:
    """Renames macros; one without a new name stays."""

    def rename(leaf: Any) -> Any:
        return replace(leaf, name=names.get(leaf.name) or leaf.name) if isinstance(leaf, Macro) else leaf

    return rename
