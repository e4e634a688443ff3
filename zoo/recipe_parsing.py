"""Reads Gin text with Gin's own parser, keeping the place of every binding. Imports no component, no TensorFlow."""

import io
import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gin import config_parser

from zoo.recipe_statements import COMMAND_LINE, MACRO, Binding, Macro, Mistake, Reference, Source
from zoo.registry import PROJECT
from zoo.spelling import nearest


def parse(path: Path, overrides: Sequence[str]) -> Source:
    """Parses a recipe file, its includes, and the bindings of the command line after it."""
    reader = _Reader(Source(shown(path)))
    text = reader.read_file(path, ())
    for number, override in enumerate(overrides, start=1):
        reader.override = number
        text += "" if text.endswith("\n") else "\n"
        added = reader.read_text(override, COMMAND_LINE, Path.cwd(), ())
        text += f"\n{OPEN}{COMMAND_LINE}\n{added}{CLOSE}{COMMAND_LINE}\n"
    reader.source.text = text
    return reader.source


def parse_bindings(bindings: Sequence[str]) -> Source:
    """Parses bindings that belong to no file."""
    reader = _Reader(Source(COMMAND_LINE))
    for reader.override, binding in enumerate(bindings, start=1):
        reader.read_text(binding, COMMAND_LINE, Path.cwd(), ())
    return reader.source


def shown(path: Path) -> str:
    """A path as messages print it: relative where it is below the current folder."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


# A frozen recipe keeps apart what came from where: these lines open and close the text of an include.
OPEN, CLOSE = "# >>>> ", "# <<<< "


def _sections(text: str, file: str) -> list[str]:
    """The section of every line: the file itself, or inside of the marks of a frozen recipe what they name."""
    stack, found = [file], []
    for line in text.splitlines():
        if line.startswith(OPEN):
            stack.append(line.removeprefix(OPEN))
        elif line.startswith(CLOSE) and len(stack) > 1:
            stack.pop()
        found.append(stack[-1])
    return found


class _Delegate(config_parser.ParserDelegate):
    """Makes plain data of references and macros, where Gin would look them up."""

    line = 0

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        *scopes, component = scoped_configurable_name.split("/")
        return Reference(tuple(scopes), component, evaluate, self.line)

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name, self.line)


class _Parser(config_parser.ConfigParser):
    """Gin's parser; tells the delegate on which line a value begins."""

    def __init__(self, text: str) -> None:
        self._lines = _Delegate()
        super().__init__(io.StringIO(text), self._lines)

    def parse_value(self) -> Any:
        self._lines.line = self.current_token.start[0]
        return super().parse_value()


class _Reader:
    """Collects the bindings of a recipe and of the files that it includes, in Gin's order."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.override = 0

    def read_file(self, path: Path, stack: tuple[Path, ...]) -> str:
        """Parses one file; returns its text with includes written out."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            self._fatal(shown(path), 1, f"cannot be read ({error})")
            return ""
        return self.read_text(text, shown(path), path.resolve().parent, (*stack, path.resolve()))

    def read_text(self, text: str, file: str, folder: Path, stack: tuple[Path, ...]) -> str:
        """Parses Gin text that stands in `file`; returns it with includes written out."""
        included: dict[int, str] = {}
        sections = _sections(text, file)
        try:
            for statement in _Parser(text):
                if isinstance(statement, config_parser.IncludeStatement):
                    line = statement.location.line_num
                    included[line] = self._include(statement.filename, file, line, folder, stack)
                else:
                    self._add(statement, file, sections[statement.location.line_num - 1])
        except SyntaxError as error:
            self._fatal(file, error.lineno or 1, _syntax_message(error, text))
        except tokenize.TokenError as error:
            self._fatal(file, error.args[1][0], f"{error.args[0]}: a bracket or a quotation mark is not closed")
        lines = text.splitlines()
        return "\n".join(included.get(number, line) for number, line in enumerate(lines, start=1)) + "\n"

    def _add(self, statement: Any, file: str, section: str) -> None:
        line = self.override if file == COMMAND_LINE else statement.location.line_num
        order = len(self.source.bindings)
        if isinstance(statement, config_parser.ImportStatement):
            message = f"'{statement.format()}': a recipe imports nothing; components are named in registry.yaml"
            self.source.mistakes.append(Mistake(file, line, message))
            return
        scope, component = statement.scope, statement.selector
        if isinstance(statement, config_parser.BlockDeclaration):
            self.source.blocks.append(Binding(scope, component, "", None, file, line, section, order))
            return
        parameter = statement.arg_name
        if not parameter:
            scope, component, parameter = f"{scope}/{component}" if scope else component, MACRO, "value"
        binding = Binding(scope, component, parameter, statement.value, file, line, section, order)
        self.source.bindings.append(binding)

    def _include(self, name: str, file: str, line: int, folder: Path, stack: tuple[Path, ...]) -> str:
        # Beside the including file, where the command runs, in the project: the first that exists.
        places = list(dict.fromkeys([folder, Path.cwd(), PROJECT]))
        found = next((place / name for place in places if (place / name).is_file()), None)
        if found is None:
            self._fatal(file, line, _missing_include(name, places))
            return f"# include '{name}' was not found"
        if found.resolve() in stack:
            self._fatal(file, line, f"'{name}' includes itself; take out one of the includes")
            return f"# include '{name}' includes itself"
        text = self.read_file(found, stack)
        return f"{OPEN}{name}\n{text}{CLOSE}{name}"

    def _fatal(self, file: str, line: int, message: str) -> None:
        self.source.mistakes.append(Mistake(file, line, message))
        self.source.complete = False


def _missing_include(name: str, places: Sequence[Path]) -> str:
    folders = [(place, (place / name).parent) for place in places] + [(PROJECT, PROJECT / "recipes" / "base")]
    near = {
        str(candidate.relative_to(place))
        for place, folder in folders
        for candidate in folder.glob("*.gin")
        if candidate.is_relative_to(place)
    }
    best = nearest(name, near)
    cure = f"did you mean '{best}'?" if best else "write its path from the project's folder"
    looked = ", ".join(shown(place) for place in places)
    return f"include '{name}' was not found (looked in {looked}); {cure}"


def _syntax_message(error: SyntaxError, text: str) -> str:
    lines = text.splitlines()
    line = lines[error.lineno - 1].strip() if error.lineno and error.lineno <= len(lines) else ""
    reason = str(error.msg).split("\n")[-1].strip().rstrip(".")
    rule = "a value is a Python literal ('text' in quotes, True, None), @Component() or %MACRO"
    return f"cannot be read: {line!r} ({reason}); {rule}"
