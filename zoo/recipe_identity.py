"""What makes two recipes one experiment: what they resolve to, without comments, order, unused bindings and knobs.

Nothing is built and no TensorFlow is imported. A parameter that is not bound is left out, as is one that is bound to
its default: a default that changes is a change of the code, which the commit of a result tells.
"""

import ast
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from zoo.recipe_scopes import ROOT, Bindings, Instance
from zoo.recipe_statements import Binding, Macro, Reference, Source, references
from zoo.signatures import Signatures

Key = tuple[str, tuple[str, ...]]
Passing = Callable[[str, str], bool]
"""(component, parameter) -> whether it is left out."""


@dataclass(frozen=True)
class StageOutline:
    """A stage as the recipe's text tells it.

    Attributes:
        training: what its trained weights depend on besides the seed, as a hash: two recipes in which it is equal
            train the same stage.
        sampling: what its samples depend on besides the seed and the stages before, as a hash.
        network: what the shapes of its network and of all that enters it depend on, as a hash, whatever its scope.
        steps: optimizer steps; None where the text does not say.
        batch: global batch.
    """

    name: str
    training: str
    sampling: str
    network: str
    steps: int | None
    batch: int | None


class Resolution:
    """A recipe without mistakes, followed from its root.

    Args:
        source: its bindings.
        instances: what building it builds.
        signatures: of the catalogue.
    """

    def __init__(self, source: Source, instances: Iterable[Instance], signatures: Signatures) -> None:
        self.signatures = signatures
        self.bindings = Bindings(source.bindings)
        self.instances = {(instance.component, instance.scopes): instance for instance in instances}

    def text(self, start: Iterable[Key] = ((ROOT, ()),), left_out: Passing | None = None) -> str:
        """A line for every component that is reached, and one for every value that is bound and not its default."""
        left_out = left_out or self.is_knob
        lines: list[str] = []
        waiting, seen = list(start), set()
        while waiting:
            key = waiting.pop()
            if key in seen or key not in self.instances:
                continue
            seen.add(key)
            instance = self.instances[key]
            lines.append(str(instance))
            for parameter, binding in instance.winners.items():
                if left_out(instance.component, parameter) or self._restates(instance, parameter, binding):
                    continue
                lines.append(f"{instance}.{parameter} = {self._shown(binding.value, instance.scopes, waiting)}")
        return "\n".join(sorted(lines)) + "\n"

    def is_knob(self, component: str, parameter: str) -> bool:
        """Whether a parameter never changes the experiment; nor does the seed, which a result says beside it."""
        knobs = self.signatures.registry.components[component].knobs
        return parameter in knobs or (component, parameter) == (ROOT, "seed")

    def is_not_trained(self, component: str, parameter: str) -> bool:
        """Whether trained weights do not depend on a parameter."""
        sampling = self.signatures.registry.components[component].sampling
        return parameter in sampling or self.is_knob(component, parameter)

    def stages(self) -> list[StageOutline]:
        """The stages, in the order of the pipeline."""
        stages = self._referred((ROOT, ()), "stages")
        samples = self._referred((ROOT, ()), "samples")
        return [self._outline(key, samples) for key in stages]

    def literal(self, key: Key, parameter: str) -> Any:
        """The value of a parameter where the text gives it as a number, a string or a tuple of such; else None."""
        instance = self.instances.get(key)
        binding = instance.winners.get(parameter) if instance else None
        if binding is not None:
            value = self.bindings.value(binding.value, None)
            return None if references(value) else value
        known = self.signatures.of(key[0]).parameters if instance else {}
        return _literal(known[parameter].default) if parameter in known else None

    def samples(self) -> int | None:
        """How many images are sampled."""
        found = self._referred((ROOT, ()), "samples")
        return self.literal(found[0], "count") if found else None

    def _outline(self, key: Key, samples: list[Key]) -> StageOutline:
        training = self._referred(key, "training")
        steps, batch = (self.literal(training[0], name) if training else None for name in ("steps", "batch"))
        return StageOutline(
            str(self.literal(key, "name")),
            digest(self.text([key], self.is_not_trained)),
            digest(self.text([key, *samples])),
            digest(self._shapes(key)),
            steps,
            batch,
        )

    def _shapes(self, key: Key) -> str:
        """The network and the classes and numbers that decide on the shapes of what it is called with and returns."""
        network = self.text(self._referred(key, "network")).replace("/".join([*key[1], ""]), "")
        while teachers := self._referred(key, "teacher"):  # a student is called as its teacher is
            key = teachers[0]
        images, objective = self._referred(key, "images"), self._referred(key, "objective")
        sizes = [self.literal(one, name) for one in images for name in ("size", "low_resolution", "channels")]
        method = [key, *objective]  # a classifier has a process of its own
        parts = [part for one in method for name in ("process", "variance") for part in self._referred(one, name)]
        told = self._referred(key, "conditioning")
        levels = [part for one in told for part in self._referred(one, "augmentation")]
        levels += [part for one in levels for part in self._referred(one, "process")]
        names = [component for component, _ in [*parts, *told, *levels]]
        sizes += [self.literal(crop, "width") for one in images for crop in self._referred(one, "crop")]
        texts = [text for one in images for text in self._referred(one, "text")]
        sizes += [self.literal(text, "length") for text in texts]
        sizes += [self.literal(encoder, "width") for text in texts for encoder in self._referred(text, "encoder")]
        return f"{network}{sizes} {names}"

    def _referred(self, key: Key, parameter: str) -> list[Key]:
        """The components that a parameter refers to."""
        instance = self.instances.get(key)
        found: list[Key] = []
        if instance and parameter in instance.winners:
            self._shown(instance.winners[parameter].value, instance.scopes, found)
        return found

    def _shown(self, value: Any, scopes: tuple[str, ...], found: list[Key]) -> str:
        """A value as text, macros replaced and references with the scope that they are built in; adds those to
        `found`.
        """
        if isinstance(value, Macro):
            stack = self.bindings.macro(value.name)
            return self._shown(stack[-1].value, tuple(value.name.split("/")), found) if stack else str(value)
        if isinstance(value, Reference):
            target = value.scopes or scopes
            found.append((value.component, target))
            return str(Reference(target, value.component, value.evaluate, 0))
        if isinstance(value, dict):
            pairs = [(self._shown(k, scopes, found), self._shown(v, scopes, found)) for k, v in value.items()]
            return "{" + ", ".join(f"{k}: {v}" for k, v in sorted(pairs)) + "}"
        if isinstance(value, list | tuple):
            return "[" + ", ".join(self._shown(item, scopes, found) for item in value) + "]"
        return repr(value)

    def _restates(self, instance: Instance, parameter: str, binding: Binding) -> bool:
        """Whether the value is the parameter's default: 1.0 is 1, True is not."""
        known = self.signatures.of(instance.component).parameters.get(parameter)
        if known is None or known.default is None or references(binding.value):
            return False
        default = _literal(known.default)
        same = default == binding.value and isinstance(default, bool) == isinstance(binding.value, bool)
        return same and (default is not None or known.default == "None")


def digest(text: str) -> str:
    """A short hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _literal(source: str | None) -> Any:
    try:
        return ast.literal_eval(source) if source is not None else None
    except ValueError:
        return None
