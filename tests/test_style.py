"""How the package's prose and names read: summaries that are commands, plain messages, no private vocabulary."""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from pathlib import Path

import flowstore

PACKAGE = Path(flowstore.__file__).parent
NAMES = sorted(str(file.relative_to(PACKAGE)) for file in PACKAGE.rglob("*.py"))

RETIRED = r"rubbish|anew|mend(?:s|ed|ing)?|strange|told|drafts?|doomed|bur(?:y|ied)|obeys?"
RETIRED_WORD = re.compile(rf"\b(?:{RETIRED})\b", re.IGNORECASE)
GIVES = re.compile(r";\s+gives\b")
CONTRACTION = re.compile(r"\b\w+n't\b", re.IGNORECASE)
RETIRED_NAMES = {"told", "found", "made", "asked", "each", "place", "draft", "content", "contents", "said", "strange"}
VAGUE = {"what", "whose", "which", "that", "those", "these", "whether", "how", "who", "when", "where", "as", "undo"}
ARTICLES = {"the", "a", "an", "all", "every", "each", "one", "some", "no", "any", "its", "our", "same"}


@functools.cache
def nodes_of(name):
    """All nodes of the source of a file of the package."""
    return [*ast.walk(ast.parse((PACKAGE / name).read_text("utf-8")))]


def wrong(find):
    """What a rule finds in files, by their names. A test for each file would take longer than the rule itself."""
    return {name: found for name in NAMES if (found := find(name))}


def is_property(function):
    """Whether a function is read as an attribute: its summary is a noun."""
    return any("property" in ast.unparse(decorator) for decorator in function.decorator_list)


def summaries(name):
    """The first words of each function's docstring, with its line; properties and click's commands keep their own."""
    for node in nodes_of(name):
        if isinstance(node, ast.FunctionDef) and not is_property(node) and (text := ast.get_docstring(node)):
            yield node.lineno, node.name, text.split()[0].lower().rstrip(".,:;")


@functools.cache
def prose(name):
    """Comments and strings of a file, with their lines."""
    source = (PACKAGE / name).read_text("utf-8")
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [(token.start[0], token.string) for token in tokens if token.type in kinds]


def messages(name):
    """The texts in a file that may reach users, with their lines: no docstrings, and no SQL over several lines."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    documented = (node for node in nodes_of(name) if isinstance(node, kinds))
    docstrings = {id(node.body[0].value) for node in documented if ast.get_docstring(node, clean=False) is not None}
    for node in nodes_of(name):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
        if is_text and "\n" not in node.value.strip():
            yield node.lineno, node.value


def bound_names(name):
    """The names that a file binds: variables, arguments, functions."""
    for node in nodes_of(name):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg


def first_words_of_nouns(name):
    """The first words of the docstrings of a module, its classes and properties."""
    nouns = [node for node in nodes_of(name) if isinstance(node, ast.Module | ast.ClassDef)]
    nouns += [node for node in nodes_of(name) if isinstance(node, ast.FunctionDef) and is_property(node)]
    return [text.split()[0].lower() for node in nouns if (text := ast.get_docstring(node))]


def test_summaries_are_commands():
    """A function's docstring begins with a verb: Return, Open, Write, Raise, Yield, Check."""
    assert wrong(lambda name: [item for item in summaries(name) if item[2] in VAGUE | ARTICLES]) == {}


def test_classes_and_modules_are_nouns():
    """The docstring of a module, a class or a property names it, and begins with no relative clause."""
    relative = {"what", "whose", "which", "that", "those", "these"}
    assert wrong(lambda name: [word for word in first_words_of_nouns(name) if word in relative]) == {}


def test_no_private_vocabulary():
    """Comments, docstrings and messages use the field's words: orphan, temporary file, untrusted, repair."""
    assert wrong(lambda name: [(line, word) for line, text in prose(name) for word in RETIRED_WORD.findall(text)]) == {}


def test_messages_have_no_contractions():
    """An error message says cannot and does not."""
    assert wrong(lambda name: [(line, text) for line, text in messages(name) if CONTRACTION.search(text)]) == {}


def test_returns_rather_than_gives():
    """A docstring says what a function returns."""
    assert wrong(lambda name: [line for line, text in prose(name) if GIVES.search(text.strip("\"'# "))]) == {}


def test_names_say_what_they_hold():
    """No variable is called after the way that its value came about."""
    assert wrong(lambda name: [item for item in bound_names(name) if item[1] in RETIRED_NAMES]) == {}
