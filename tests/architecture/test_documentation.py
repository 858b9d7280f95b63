"""The documentation names files, headings and modules that exist."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
ROOMS = ("retrieval", "catalog", "models", "processing", "lambdas", "infra", "gavel", "benchmarks", "tests", "docs")
PATH = re.compile(rf"(?<![\w./$-])(?:{'|'.join(ROOMS)})/[\w./*-]+")
MODULE = re.compile(rf"(?<![\w./-])(?:{'|'.join(ROOMS)})(?:\.[a-z_]\w*)+")
FILE_ENDINGS = (".py", ".md", ".toml", ".html")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")


def text_of(page: Path) -> str:
    """Return a page without its fenced code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchor_of(heading: str) -> str:
    """Return the anchor of a heading, as both GitHub and the site make it."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {anchor_of(line.lstrip("#")) for line in text_of(page).splitlines() if re.match(r"#+ ", line)}


def module_exists(dotted: str) -> bool:
    """True if the name is a module, or an attribute that a module's source mentions."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:length])
        source = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        if source.is_file():
            rest = parts[length:]
            return not rest or re.search(rf"\b{re.escape(rest[0])}\b", source.read_text(encoding="utf-8")) is not None
    return False


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for target in LINK.findall(text_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_path_and_module_in_backticks_exists(page: Path) -> None:
    missing = []
    for code in CODE.findall(text_of(page)):
        for path in PATH.findall(code):
            if not list(ROOT.glob(path.rstrip("./"))):
                missing.append(path)
        missing += [dotted for dotted in MODULE.findall(code) if not dotted.endswith(FILE_ENDINGS) and not module_exists(dotted)]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_module_of_a_command_exists(page: Path) -> None:
    named = re.findall(r"python -m ([\w.]+)", page.read_text(encoding="utf-8"))
    assert [module for module in named if module.split(".")[0] in ROOMS and not module_exists(module)] == []


def test_every_page_is_in_the_navigation() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def leaves(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [leaf for part in (entry.values() if isinstance(entry, dict) else entry) for leaf in leaves(part)]  # type: ignore[attr-defined]

    assert sorted(leaves(config["nav"])) == sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))


def test_the_documented_python_modules_exist() -> None:
    named = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert named
    assert [dotted for dotted in named if not module_exists(dotted)] == []


def test_the_readme_stays_short_and_names_every_target_that_it_uses() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 150
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", readme)) <= targets


def test_the_command_line_of_every_example_exists() -> None:
    from typer.main import get_command

    from gavel.cli.main import app

    tree = get_command(app)
    unknown = []
    for page in PAGES:
        for first, second in re.findall(
            r"(?:^    |`|/bin/)gavel ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?", page.read_text(encoding="utf-8"), re.MULTILINE
        ):
            command = tree.commands.get(first)  # type: ignore[attr-defined]
            if command is None or (second and hasattr(command, "commands") and second not in command.commands):
                unknown.append(f"{page.name}: gavel {first} {second}")
    assert unknown == []


def test_the_packages_of_the_site_are_pinned() -> None:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]["docs"]
    pinned = (ROOT / "requirements-docs.txt").read_text(encoding="utf-8")
    assert [name for name in (re.split(r"[<>=]", one)[0] for one in extra) if f"\n{name}==" not in pinned] == []
