"""What is wrong with a text that is no YAML: where it is, in the words of who wrote it, and what to write instead.

PyYAML says where its parser could not go on, which is often a line or more below the mistake: a quote that is not
closed is found at the end of the file, and a key without a colon in the line after it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress

import yaml

from atlas_cli.config.odd_characters import odd_character
from atlas_cli.errors import ConfigError

_KEY = r"[\w.-]+"


def syntax_error(error: yaml.MarkedYAMLError, text: str, source: str) -> ConfigError:
    """The error to show for one of PyYAML's.

    Args:
        text: all that was parsed.
        source: the file name in messages.
    """
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return ConfigError(f"not valid YAML: {_plain(error)}", where=source)
    if "'\\t'" in (error.problem or ""):
        written = text.split("\n")[mark.line]
        remedy = "indent with spaces"
        if before := written[: mark.column].strip():
            end = "; write a space" if written[mark.column :].strip() else "; remove it"
            remedy = f"it is in column {mark.column + 1}, after {before[-20:]!r}{end}"
        return ConfigError(f"a tab where YAML wants spaces; {remedy}", where=f"{source}:{mark.line + 1}")
    line, message = _Mistake(error, text, mark).found()
    return ConfigError(f"not valid YAML: {message}", where=f"{source}:{line + 1}")


def _plain(error: yaml.MarkedYAMLError) -> str:
    return " ".join(": ".join(part for part in (error.context, error.problem) if part).split())


class _Mistake:
    """One error of the parser with the lines around it; lines and columns count from 0."""

    def __init__(self, error: yaml.MarkedYAMLError, text: str, mark: yaml.Mark) -> None:
        self.context, self.problem = error.context or "", error.problem or ""
        self.error, self.text, self.mark = error, text, mark
        self.opened = error.context_mark or mark
        self.lines = text.split("\n")

    def found(self) -> tuple[int, str]:
        """The line that it is on, and what is wrong there."""
        says = (self._open_quote, self._odd, self._bracket, self._after_quote, self._value, self._key, self._indent)
        for say in (*says, self._other):
            if (said := say()) is not None:
                return said
        return self.mark.line, f"{_plain(self.error)} (column {self.mark.column + 1})"

    def _line(self, number: int) -> str:
        return self.lines[number] if number < len(self.lines) else ""

    def _before(self, number: int) -> int | None:
        """The line above that is neither empty nor a comment."""
        above = range(min(number, len(self.lines)) - 1, -1, -1)
        return next((i for i in above if self.lines[i].strip() and self.lines[i].strip()[0] != "#"), None)

    def _odd(self) -> tuple[int, str] | None:
        above = self._before(self.mark.line)
        for number in (above, self.mark.line):
            if number is not None and (what := odd_character(self._line(number))):
                return number, what
        return None

    def _open_quote(self) -> tuple[int, str] | None:
        if "quoted scalar" in self.context and self.problem.startswith("found unexpected"):
            quote = self._line(self.opened.line)[self.opened.column : self.opened.column + 1]
            return (
                self.opened.line,
                f"the quote in column {self.opened.column + 1} is not closed; close it with {quote}",
            )
        if "double-quoted" in self.context:
            hint = "write a Windows path with / or without double quotes"
            return self.mark.line, f"{_plain(self.error)} (column {self.mark.column + 1}); {hint}"
        last = self._last_quoted()
        if last is None or last.end_mark.line != self.mark.line:
            return None
        column, end = last.start_mark.column + 1, last.end_mark
        if last.start_mark.line < end.line:
            quote = self._line(last.start_mark.line)[column - 1]
            return last.start_mark.line, (
                f"the quote in column {column} is closed on line {end.line + 1} only; close it with {quote} on its own"
                " line"
            )
        return None

    def _after_quote(self) -> tuple[int, str] | None:
        last = self._last_quoted()
        if last is None or "'<scalar>'" not in self.problem or last.end_mark.line != self.mark.line:
            return None
        end = last.end_mark
        if self._line(end.line)[end.column : self.mark.column].strip():
            return None
        return end.line, (
            f"text after the quote that is closed in column {end.column}; put all of a value in quotes, and double a"
            " quote that is inside of '...'"
        )

    def _last_quoted(self) -> yaml.ScalarToken | None:
        """The last scalar in quotes that ends before the mistake."""
        last = None
        with suppress(yaml.YAMLError):
            for token in yaml.scan(self.text, Loader=yaml.SafeLoader):
                if token.start_mark.index > self.mark.index:
                    break
                if isinstance(token, yaml.ScalarToken) and token.style in ("'", '"'):
                    last = token if token.end_mark.index <= self.mark.index else last
        return last

    def _bracket(self) -> tuple[int, str] | None:
        kind = re.fullmatch(r"while parsing a flow (mapping|sequence)", self.context)
        got = re.search(r"but (?:got|found) '(.+)'", self.problem)
        if kind is None or got is None:
            return None
        opens, closes = ("{", "}") if kind[1] == "mapping" else ("[", "]")
        what, line = got[1], self.opened.line
        here = f"'{opens}' in column {self.opened.column + 1}"
        if what in "]}":
            return self.mark.line, f"{here} of line {line + 1} is closed with '{what}'; close it with '{closes}'"
        if self.mark.line == line and what != "<stream end>":
            pairs = "key: value pairs" if kind[1] == "mapping" else "items"
            column = f"column {self.mark.column + 1}"
            return line, f"a ',' is missing before {column}, in the {opens}...{closes} of column" + (
                f" {self.opened.column + 1}; put one between {pairs}, or quote a value that holds ': '"
            )
        until = "the end of the text" if what == "<stream end>" else f"line {self.mark.line + 1}"
        return line, f"{here} is not closed before {until}; close it with '{closes}', and put ',' between entries"

    def _value(self) -> tuple[int, str] | None:
        """A value that begins with a character which means something else there."""
        column = self.mark.column + 1
        if found := re.search(r"found character '(.)' that cannot start", self.problem):
            return self.mark.line, f"a value cannot begin with {found[1]} (column {column}); put it in quotes"
        if found := re.search(r"found undefined alias '(.*)'", self.problem):
            return self.mark.line, (
                f"*{found[1]} stands for a value marked &{found[1]} above, and there is none; if it is text, put it in"
                f' quotes: "*{found[1]}"'
            )
        if self.context in ("while scanning an alias", "while scanning an anchor"):
            char = "*" if self.context.endswith("alias") else "&"
            return self.opened.line, f"a value that begins with {char} is no text; put it in quotes"
        if self.context == "while scanning a block scalar":
            return self.mark.line, "a value that begins with | or > is a text on the lines below; put it in quotes"
        if "sequence entries are not allowed here" in self.problem:
            return self.mark.line, "a list begins on a line of its own, '- a', or is written [a, b]"
        return None

    def _key(self) -> tuple[int, str] | None:
        """A key without its colon, or two on a line."""
        if "could not find expected ':'" in self.problem:
            return self._no_colon(self.opened.line)
        if "mapping values are not allowed here" not in self.problem:
            return None
        line = self._line(self.mark.line)
        if re.match(rf"\s*{_KEY}:?\s*[{{\[]", line) and not re.match(rf"\s*{_KEY}:\s", line):
            return self._no_colon(self.mark.line)
        if re.search(r":\s", line[: self.mark.column]):
            return self.mark.line, (
                f"a second ': ' in one value (column {self.mark.column + 1}); put a value that is text in quotes, and"
                " keys in {...} or on lines of their own"
            )
        above = self._before(self.mark.line)
        if above is None:
            return None
        return self._no_colon(above) if self._lacks_colon(above) else self._indent_of(self.mark.line)

    def _lacks_colon(self, number: int) -> bool:
        line = _without_comment(self._line(number)).strip()
        return re.search(r":(\s|$)", line) is None and re.match(r"-(\s|$)|[\]}]", line) is None

    def _no_colon(self, number: int) -> tuple[int, str]:
        line = _without_comment(self._line(number)).strip()
        pair = re.fullmatch(rf"({_KEY})\s*[:=\s]?\s*([{{\[].*)|({_KEY})\s*[:=\s]\s*(\S.*)", line)
        key = re.fullmatch(_KEY, line)
        write = f"{line}:" if key else "key: value"
        if pair:
            write = f"{pair[1] or pair[3]}: {pair[2] or pair[4]}"
        return number, f"a key ends with ':' and a space; write {write[:80]}"

    def _indent(self) -> tuple[int, str] | None:
        if "expected <block end>" not in self.problem:
            return None
        stray = re.search(r"but found '([\]},])'", self.problem)
        if stray is not None:
            return (
                self.mark.line,
                f"'{stray[1]}' in column {self.mark.column + 1} closes nothing; remove it, or quote it",
            )
        line = self._line(self.mark.line)
        above = self._before(self.mark.line)
        items = [each is not None and self._line(each).lstrip()[:2] in ("- ", "-") for each in (above, self.mark.line)]
        if above is not None and not items[0] and self._lacks_colon(above):
            return self._no_colon(above)
        if not line[: self.mark.column].strip() and (items[0] != items[1] or "'?'" in self.problem):
            return self.mark.line, "'- ' items and 'key: value' lines are mixed in one section; write one or the other"
        return None if line[: self.mark.column].strip() else self._indent_of(self.mark.line)

    def _indent_of(self, number: int) -> tuple[int, str] | None:
        own, around = _indent(self._line(number)), self._indents_above(number)
        if not around:
            return None
        *nearer, last = [f"{_spaces(indent)} (line {line + 1})" for line, indent in around]
        before = f"{', '.join(nearer)} and {last}" if nearer else last
        return number, (
            f"this line is indented by {_spaces(own)}, and the keys before it by {before}; indent all keys"
            " of a section alike"
        )

    def _indents_above(self, number: int) -> Sequence[tuple[int, int]]:
        """The lines above that sections around a line begin with or go on at, the nearest first, with their indents."""
        found: list[tuple[int, int]] = []
        line = self._before(number)
        while line is not None and (not found or found[-1][1] > 0):
            indent = _indent(self._line(line))
            if not found or indent < found[-1][1]:
                found.append((line, indent))
            line = self._before(line)
        return found

    def _other(self) -> tuple[int, str] | None:
        if "expected a single document" in self.context or "'<document start>'" in self.problem:
            return self.mark.line, "a second document begins here; remove the line --- or ... above it"
        return None


def _without_comment(line: str) -> str:
    return re.sub(r"(^|\s)#.*", "", line)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _spaces(number: int) -> str:
    return f"{number} space{'s' * (number != 1)}" if number else "none"
