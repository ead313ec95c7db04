"""Prepares the modules and their docstrings for the documentation.

Attributes that nobody describes are left out. References, [`Name`] or [`~module.name`], become links, and one that
leads nowhere fails the build. Doctests become blocks of code.
"""

import re
from pathlib import Path

import griffe


ROOT = Path(__file__).parents[2]

DOCTEST = re.compile(r"^( *)>>> .*(?:\n(?! *$).+)*", re.MULTILINE)  # to the next empty line
TYPE = re.compile(
    r"^( *\w+ \()(.*)(\):)", re.MULTILINE
)  # of an argument, as transformers writes it: `int`, *optional*
REFERENCE = re.compile(r"\[`(~?)(?:modeling_transrec\.)?([\w.]+)`\](?!\(|\[)")


class References(griffe.Extension):
    """Resolves the references of every docstring once a package is loaded."""

    def on_package(self, *, pkg: griffe.Module, **kwargs) -> None:
        """Rewrites the docstrings of the package's modules, classes, functions and attributes."""
        objects = list(_objects(pkg))
        for found in objects:
            if found.is_attribute and found.docstring is None and (found.parent.is_class or found.name == "logger"):
                del found.parent.members[found.name]
        by_name: dict[str, list[str]] = {}
        for found in objects:
            parts = found.path.split(".")
            for start in range(len(parts)):
                by_name.setdefault(".".join(parts[start:]), []).append(found.path)
        for found in objects:
            if found.docstring is not None:
                text = DOCTEST.sub(r"\1```pycon\n\g<0>\n\1```", found.docstring.value)
                text = TYPE.sub(lambda match: match[1] + re.sub("[`*]", "", match[2]) + match[3], text)
                found.docstring.value = REFERENCE.sub(lambda match, o=found: _link(match, o, by_name), text)


def _objects(found: griffe.Object):
    yield found
    for member in list(found.members.values()):
        if not member.is_alias:
            yield from _objects(member)


def _link(match: re.Match, found: griffe.Object, by_name: dict[str, list[str]]) -> str:
    short, name = match.groups()
    candidates = by_name.get(name, [])
    own = [path for path in candidates if path.startswith((f"{_class(found)}.", f"{found.module.path}."))]
    # What is not there becomes a link to nothing, which a strict build refuses.
    path = (own or candidates or _elsewhere(name) or [name])[0]
    return f"[`{name.rpartition('.')[2] if short else name}`][{path}]"


def _class(found: griffe.Object) -> str:
    return found.path if found.is_class else getattr(found.parent, "path", "")


def _elsewhere(name: str) -> list[str]:
    """Returns where a class or function of this name stands in the library: the data side is a package of its own."""
    definition = re.compile(rf"^(?:class|def) {re.escape(name)}\b", re.MULTILINE)
    files = sorted((ROOT / "modeling_transrec").rglob("*.py"))
    found = [file for file in files if definition.search(file.read_text(encoding="utf-8"))]
    return [".".join([*file.relative_to(ROOT).with_suffix("").parts, name]) for file in found]
