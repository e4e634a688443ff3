"""Builds a checked recipe with Gin, and says where in the recipe a constructor's complaint comes from."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gin
from gin import config as gin_config

from zoo.console import UserError
from zoo.recipe_scopes import ROOT, Instance
from zoo.recipe_statements import COMMAND_LINE, Binding, Mistake, Reference, Source, references
from zoo.registry import Component, Registry

# All components are registered under one Gin module, so that those of an earlier recipe can be taken out again.
GIN_MODULE = "zoo"
# What Gin appends to the message of an exception, innermost component first.
CALL = re.compile(r"\n\s*In call to configurable '(?P<component>\w+)' \(.*?\)(?: in scope '(?P<scope>[^']*)')?(?=\n|$)")


@dataclass(frozen=True)
class Built:
    """The root object, and every parameter as it was given or defaulted, as Gin text that parses back."""

    root: Any
    operative: str


def build(
    source: Source,
    instances: Sequence[Instance],
    registry: Registry,
    load: Callable[[Component], type] = Component.load,
) -> Built:
    """Builds the root component of a recipe whose names are right.

    Gin's configuration is global: it is cleared first, and holds this recipe afterwards.

    Args:
        source: the bindings.
        instances: what is built.
        registry: the catalogue.
        load: gives the class of a component.

    Raises:
        UserError: a constructor refuses its values, or does not take a binding that the names allow.
    """
    gin.clear_config()
    for selector in [name for name, _ in gin_config._REGISTRY.items() if name.startswith(f"{GIN_MODULE}.")]:
        gin_config._REGISTRY.pop(selector)
    used = dict.fromkeys(instance.component for instance in instances)
    for name in used:
        gin.external_configurable(load(registry.components[name]), name=name, module=GIN_MODULE)
    # Parts that an including file has replaced stay in the text, and are not imported for it.
    gin.parse_config(source.text, skip_unknown=[name for name in registry.components if name not in used])
    try:
        root = gin.get_configurable(ROOT)()
    except (ValueError, TypeError, UserError) as error:
        raise UserError(str(_explain(error, source, instances))) from error
    mistakes = _ignored(instances)
    if mistakes:
        raise UserError("\n".join(map(str, mistakes)))
    return Built(root, gin.operative_config_str())


def _explain(error: Exception, source: Source, instances: Sequence[Instance]) -> Mistake:
    """The place of the value that a constructor refuses: the binding of the parameter that the message names."""
    text = str(error)
    calls = list(CALL.finditer(text))
    message = (text[: calls[0].start()] if calls else text).strip()
    built = (calls[0]["component"], calls[0]["scope"] or "") if calls else (ROOT, "")
    instance = next((i for i in instances if (i.component, i.scope) == built), instances[0])
    binding = _named(message, instance, instances) or _refused(message, instances) or instance.origin
    binding = binding or next(iter(instance.winners.values()), None)
    line = instance.line if binding is not None and binding is instance.origin else None
    return _mistake(f"{instance}: {message}", binding, source, line)


def explain_stage(
    error: Exception, stage: str, parameter: str, source: Source, instances: Sequence[Instance]
) -> Mistake:
    """The place of the value that made a stage's part fail after it was built.

    Args:
        stage: its name, as bound to Stage.name.
        parameter: the parameter of Stage that holds the part, such as "images".
    """
    message = str(error).strip()
    named = [i for i in instances if "name" in i.winners and i.winners["name"].value == stage]
    owner = named[0] if named else instances[0]
    binding = owner.winners.get(parameter)
    if binding is not None:
        scope = next((r.scopes for r in references(binding.value) if isinstance(r, Reference)), ()) or owner.scopes
        parts = [i for i in instances if i.scopes == scope and _below(i, binding, instances)]
        raised_in = _raised_in(error)
        parts.sort(key=lambda part: raised_in.index(part.component) if part.component in raised_in else len(raised_in))
        quoted = re.findall(r"'([^']*)'", message)
        values = [b for part in parts for b in part.winners.values() if isinstance(b.value, str) and b.value in quoted]
        found = [b for b in (_named(message, part, instances) for part in parts) if b is not None]
        binding = next(iter(values + found), binding)
    return _mistake(f"stage '{stage}': {message}", binding, source, None)


def _raised_in(error: Exception) -> list[str]:
    """The classes whose methods the error passed through, innermost first."""
    classes: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        classes.insert(0, type(owner).__name__)
        trace = trace.tb_next
    return classes


def _mistake(message: str, binding: Binding | None, source: Source, line: int | None) -> Mistake:
    if binding is None:
        return Mistake(source.file, 1, message)
    if binding.file == COMMAND_LINE:
        return Mistake(binding.file, binding.line, f"{binding}: {message}")
    return Mistake(binding.file, line or binding.line, message)


def _below(instance: Instance, binding: Binding, instances: Sequence[Instance]) -> bool:
    """Whether the value of `binding` leads to the instance."""
    names = {found.component for found in references(binding.value) if isinstance(found, Reference)}
    seen: set[str] = set()
    while names - seen:
        seen |= names
        inner = [b.value for i in instances if i.component in seen for b in i.winners.values()]
        names = {found.component for found in references(inner) if isinstance(found, Reference)}
    return instance.component in seen


def _named(message: str, instance: Instance, instances: Sequence[Instance]) -> Binding | None:
    """The binding that a message is about: "sr/Images.size" or "Images.size" as written, or a parameter's name."""
    quoted = re.findall(r"'([\w/]+)'", message)
    for scope, component, parameter in re.findall(r"((?:\w+/)*)([A-Z]\w*)\.(\w+)", message):
        scopes = [scope.rstrip("/")] if scope else [instance.scope, *quoted]
        owners = [i for i in instances if i.component == component and i.scope in scopes and parameter in i.winners]
        if owners:
            return min(owners, key=lambda owner: scopes.index(owner.scope)).winners[parameter]
    return next((instance.winners[word] for word in re.findall(r"\w+", message) if word in instance.winners), None)


def _refused(message: str, instances: Sequence[Instance]) -> Binding | None:
    """The one binding of the parameter that a message begins with whose value the message quotes, in any component."""
    parameter, values = re.split(r"\W", message, maxsplit=1)[0], {*re.findall(r"'([^']*)'", message)}
    values |= {found.rstrip(".") for found in re.findall(r"\bgot ([^\s,;:]+)", message)}
    found = [
        binding
        for instance in instances
        for name, binding in instance.winners.items()
        if name == parameter and str(binding.value) in values
    ]
    return found[0] if len({(binding.file, binding.line) for binding in found}) == 1 else None


def _ignored(instances: Sequence[Instance]) -> list[Mistake]:
    """Bindings that a built component did not take, because its caller passed the argument itself."""
    mistakes = []
    for instance in instances:
        taken = gin_config._OPERATIVE_CONFIG.get((instance.scope, f"{GIN_MODULE}.{instance.component}"))
        # A component that is handed over as a class may be built later.
        if taken is None and not instance.evaluated:
            continue
        for parameter, binding in instance.winners.items():
            if parameter not in (taken or {}):
                message = f"{binding} has no effect: what builds {instance} passes '{parameter}' itself; take it out"
                mistakes.append(Mistake(binding.file, binding.line, message))
    return mistakes
