"""What is installed, against what babelclip asks for: nothing is imported for it.

What it asks for stands in pyproject.toml where babelclip runs from a checkout, which may be newer than its
installation, and else in the metadata of the installed package.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import babelclip
from babelclip.doctor.finding import Finding, State

if TYPE_CHECKING:
    from packaging.requirements import Requirement

# Nobody needs it to use babelclip.
_NOT_SHOWN = ("dev",)
_EXTRA = re.compile(r'extra == "([^"]+)"')


@dataclass(frozen=True)
class Needed:
    """One package that babelclip names: its name, what is allowed ("" = any), and what is there (None = nothing)."""

    name: str
    allowed: str
    installed: str | None
    fits: bool

    @property
    def said(self) -> str:
        """For example "lancedb 0.39.0 (needs <0.41,>=0.40)"."""
        if self.installed is None:
            return f"{self.name} is missing"
        return f"{self.name} {self.installed}" + ("" if self.fits else f" (needs {self.allowed})")


def needed(extra: str = "") -> list[Needed]:
    """Returns what babelclip needs at any time, or what an extra adds, sorted by name."""
    requirements = [_parsed(line) for line in asked_for()[extra]]
    here = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": extra})]
    return sorted((_looked_up(requirement) for requirement in here), key=lambda package: package.name.lower())


@cache
def asked_for() -> Mapping[str, list[str]]:
    """Returns requirements by extra, in their order; those of no extra under ""."""
    path = Path(babelclip.__file__).parents[1] / "pyproject.toml"
    if path.is_file():
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
        project = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == "babelclip":
            return {"": project["dependencies"], **project["optional-dependencies"]}
    asked: dict[str, list[str]] = {"": []}
    for line in metadata.requires("babelclip") or []:
        extra = _EXTRA.search(str(_parsed(line).marker or ""))
        asked.setdefault(extra[1] if extra else "", []).append(line)
    return asked


def look_at_packages() -> Finding:
    """Returns whether everything is there that babelclip needs at any time."""
    packages = needed()
    facts = {package.name: package.installed for package in packages}
    wrong = [package for package in packages if not package.fits]
    if wrong:
        names = " ".join(f"'{package.name}{package.allowed}'" for package in wrong)
        return Finding("packages", "problem", "; ".join(p.said for p in wrong), pip_install(names), facts)
    return Finding("packages", "ok", ", ".join(package.said for package in packages), facts=facts)


def look_at_extras() -> list[Finding]:
    """Returns a finding for each extra of which something is there, and one for all others.

    An extra that is left out is a choice; one of which all is there, in versions that break each other, is a problem.
    """
    found, absent = [], []
    core = {package.name for package in needed()}
    for extra in [name for name in asked_for() if name and name not in _NOT_SHOWN]:
        packages = [package for package in needed(extra) if package.name not in core]
        lacking = [package for package in packages if package.installed is None]
        if len(lacking) == len(packages):
            absent.append(extra)
            continue
        wrong = [package for package in packages if package.installed is not None and not package.fits]
        state: State = "ok" if not lacking and not wrong else "problem" if not lacking else "note"
        said = ", ".join(package.said for package in (lacking + wrong or packages))
        advice = "" if state == "ok" else pip_install(f"'babelclip[{extra}]'")
        advice = f"if you need it: {advice}" if state == "note" else advice
        found.append(Finding(f"extra {extra}", state, said, advice, {p.name: p.installed for p in packages}))
    if absent:
        said = f"not installed: {', '.join(absent)}; to add one: {pip_install(repr('babelclip[NAME]'))}"
        found.append(Finding("extras", "ok", said, facts={"absent": absent}))
    return found


def pip_install(names: str) -> str:
    """Returns the command that installs, and leaves torch as it is: pip would fetch a newer one, by the gigabyte."""
    try:
        kept = f"torch=={metadata.version('torch').partition('+')[0]} "
    except metadata.PackageNotFoundError:
        kept = ""
    return f"pip install {kept if 'torch' not in names else ''}{names}"


def _parsed(line: str) -> Requirement:
    from packaging.requirements import Requirement

    return Requirement(line)


def _looked_up(requirement: Requirement) -> Needed:
    try:
        installed: str | None = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        installed = None
    fits = installed is not None and requirement.specifier.contains(installed, prereleases=True)
    return Needed(requirement.name, str(requirement.specifier), installed, fits)
