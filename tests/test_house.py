"""Every file of a room has a test file of its name, or its room's docstring says which test file covers it."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "croc_cli"
ENTRY = re.compile(r"^- (tests/\S+\.py): ((?:.+(?:\n  )?)+)$", re.MULTILINE)
TOP = {"addresses": "tests/chat/test_fetch.py", "console": "tests/test_redact.py", "names": "tests/test_run_dir.py"}
"""Files beside the rooms, which have no docstring to stand in."""


def rooms() -> list[Path]:
    return sorted({path.parent for path in PACKAGE.rglob("__init__.py")} - {PACKAGE})


def covered(room: Path) -> dict[str, str]:
    """Return file → the test file that the room's docstring names for it."""
    docstring = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or ""
    pairs = ((name, test) for test, names in ENTRY.findall(docstring) for name in re.split(r",\s*", names.strip()))
    return dict(pairs)


def own_test(file: Path) -> Path:
    return ROOT / "tests" / file.parent.relative_to(PACKAGE) / f"test_{file.name}"


def modules_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("croc_cli"):
            found |= {node.value} if "." in node.value else {f"{node.value}.__main__"}  # -m croc_cli
    return found


def test_every_file_has_a_test_file_or_its_room_names_one() -> None:
    untested, stale = [], []
    for room in rooms():
        named = covered(room)
        files = {path.stem: path for path in room.glob("*.py") if not path.name.startswith("__")}
        stale += [f"{room.name}: {name}" for name in named if name not in files or own_test(files[name]).exists()]
        untested += [
            f"{room.name}/{name}" for name, path in files.items() if name not in named and not own_test(path).exists()
        ]
    top = {path.stem: path for path in PACKAGE.glob("*.py") if not path.name.startswith("__")}
    untested += [name for name, path in top.items() if name not in TOP and not own_test(path).exists()]
    assert (untested, stale) == ([], [])


def test_the_test_files_that_rooms_name_reach_what_they_cover() -> None:
    """By imports, also through a command line: the worker's module is named as text."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for folder in ("croc_cli", "tests")
        for path in (ROOT / folder).rglob("*.py")
    }
    paths |= {name.removesuffix(".__init__"): path for name, path in paths.items() if name.endswith(".__init__")}
    needed = {name: modules_of(path) & paths.keys() for name, path in paths.items()}
    wrong = []
    for room in rooms():
        for name, test in covered(room).items():
            module = ".".join((room / name).relative_to(ROOT).parts)
            seen, pending = set[str](), [test.removesuffix(".py").replace("/", ".")]
            while pending and module not in seen:
                seen.update(pending)
                pending = [one for last in pending for one in needed.get(last, ()) if one not in seen]
            if module not in seen:
                wrong.append(f"{test} never reaches {module}")
    assert wrong == []
