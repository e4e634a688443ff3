"""Finds the mistakes of a recipe by its names alone: no TensorFlow, no component is imported."""

from dataclasses import dataclass, field

from zoo.console import UserError
from zoo.recipe_scopes import Bindings, Instance, Walk
from zoo.recipe_spelling import SpellingCheck
from zoo.recipe_statements import Mistake, Source
from zoo.recipe_usage import UsageCheck, restated_defaults
from zoo.signatures import Signatures


@dataclass
class Findings:
    """What the check of a recipe's names found.

    Attributes:
        mistakes: in the order of the text.
        instances: what building the recipe builds.
        notes: what is right and yet not our style, of a recipe without mistakes.
    """

    mistakes: list[Mistake] = field(default_factory=list)
    instances: list[Instance] = field(default_factory=list)
    notes: list[Mistake] = field(default_factory=list)


def check_names(source: Source, signatures: Signatures) -> Findings:
    """Checks a parsed recipe. Every mistake is reported once: what follows from a misspelling is not."""
    try:
        spelling = SpellingCheck(source, signatures)
        bindings = spelling.run()
        mistakes, instances, notes = spelling.mistakes, [], []
        # After a syntax error or a missing include, what is absent means nothing.
        if source.complete:
            scoped = Bindings(bindings)
            walk = Walk(scoped, spelling.resolve)
            instances = walk.instances
            mistakes += UsageCheck(bindings, walk, signatures, source.file, spelling.lost, spelling.stray).run()
            notes = [] if mistakes else restated_defaults(scoped, instances, signatures)
    except UserError as error:
        # registry.yaml itself is wrong: nothing can be said about the recipe.
        return Findings([*source.mistakes, Mistake(source.file, 1, str(error))])
    files = {file: number for number, file in enumerate(dict.fromkeys(mistake.file for mistake in mistakes))}
    ordered = sorted(dict.fromkeys(mistakes), key=lambda mistake: (files[mistake.file], mistake.line))
    return Findings(ordered, instances, notes)
