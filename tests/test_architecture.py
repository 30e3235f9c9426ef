"""The house's rules (README, file tree), held against every file of the package."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "croc_cli"
BASE = (
    "words",
    "errors",
    "redact",
    "names",
    "files",
    "hub_clone",
    "reading",
    "pictures",
    "run_dir",
    "place",
    "addresses",
    "progress",
    "output",
)
LIGHT = (
    *BASE,
    "console",
    "commands",
    "recipe",
    "sources",
    "estimate",
    "launch",
    "pipeline",
    "benchmarks",
    "report",
    "ablation",
)
HEAVY = ("data", "model", "objectives", "checkpoint", "train", "eval", "chat", "serve", "worker", "demo")
HEAVY_LIBRARIES = ("torch", "transformers", "deepspeed", "numpy", "scipy", "PIL", "accelerate", "safetensors")
INSIDE_FUNCTIONS = ("numpy", "scipy", "PIL", "safetensors")
"""Small enough for a light room's functions: scores need arrays and tests, whoever asks about a picture opens it, and
weights are seen to be whole before a launch."""
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "words": (),
    "errors": (),
    "redact": ("errors",),
    "names": (),
    "files": (),
    "addresses": (),
    "hub_clone": ("errors",),
    "reading": ("errors", "files"),
    "pictures": (),
    "run_dir": ("words", "errors", "redact", "names", "reading", "files"),
    "place": ("words", "errors", "redact", "names", "run_dir"),
    "console": ("words", "errors", "redact", "names"),
    "progress": ("words", "errors", "redact"),
    "output": (),
    "recipe": ("words", "errors", "redact", "names", "files", "reading", "pictures"),
    "sources": (*BASE, "recipe"),
    "benchmarks": (*BASE, "demo"),
    "launch": (*BASE, "recipe", "sources"),
    "estimate": (*BASE, "recipe", "sources", "launch"),
    "pipeline": (*LIGHT, "chat", "checkpoint", "data"),
    "report": (*BASE, "recipe", "sources", "launch", "estimate", "benchmarks"),
    "ablation": (*BASE, "recipe", "launch", "estimate", "benchmarks", "report"),
    "commands": (*LIGHT, "chat", "serve", "checkpoint", "data"),
    "data": LIGHT,
    "model": (*LIGHT, "data"),
    "objectives": LIGHT,
    "checkpoint": (*LIGHT, "data", "model", "objectives"),
    "train": (*LIGHT, "data", "model", "objectives", "checkpoint"),
    "eval": (*LIGHT, "data", "model", "checkpoint", "demo"),
    "chat": (*LIGHT, "data", "model", "checkpoint", "eval"),
    "serve": (*LIGHT, "data", "model", "checkpoint", "eval", "chat"),
    "demo": (*LIGHT, "data", "model"),
    "worker": (*LIGHT, *HEAVY),
}
"""Rooms that a room may import beside itself; whoever is not named is out of bounds."""
MAX_LINES = 400
RECIPE_READERS = ("worker",)
"""Heavy rooms that may import the recipe's classes: everything else takes plain arguments."""
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "recipes" not in path.relative_to(PACKAGE).parts[:1])


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, *, top_level_only: bool = False) -> Iterator[tuple[str, int]]:
    """Yield (dotted module, line) of every import; those for type checkers only are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            yield (module, node.lineno)
            if module == "croc_cli":
                yield from ((f"croc_cli.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending.extend(node.orelse)
            continue
        elif top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        pending.extend(ast.iter_child_nodes(node))


def test_every_room_imports_only_what_the_table_allows() -> None:
    wrong = []
    for path in FILES:
        room = room_of(path)
        if room in ("__init__", "__main__"):
            continue
        for module, line in imports(path):
            parts = module.split(".")
            if parts[0] != "croc_cli" or len(parts) == 1 or parts[1].startswith("__"):
                continue
            if parts[1] != room and parts[1] not in MAY_IMPORT[room]:
                wrong.append(f"{path.relative_to(PACKAGE)}:{line} imports {module}")
    assert wrong == []


SOURCES_ORDER = ("read", "known", "mix", "fetch", "verify")
"""Parts of `sources`; each may import those before it."""


def test_the_parts_of_sources_import_in_one_direction() -> None:
    wrong = []
    for path in FILES:
        parts = path.relative_to(PACKAGE).parts
        if parts[0] != "sources" or len(parts) < 3:
            continue
        for module, line in imports(path):
            found = module.split(".")
            if found[:2] != ["croc_cli", "sources"] or len(found) < 3 or found[2] == parts[1]:
                continue
            if SOURCES_ORDER.index(found[2]) > SOURCES_ORDER.index(parts[1]):
                wrong.append(f"{path.relative_to(PACKAGE)}:{line} imports {module}")
    assert wrong == []


def file_imports() -> dict[str, set[str]]:
    """Return for each module of the package the modules of the package that it imports, within functions too."""
    names = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in FILES}
    found: dict[str, set[str]] = {}
    for name, path in names.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = {module for module, _ in imports(path)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                modules |= {f"{node.module}.{alias.name}" for alias in node.names}
        found[name] = {module for module in modules if module in names and module != name}
    return found


def test_no_files_import_each_other_in_a_circle() -> None:
    left = file_imports()
    while free := [name for name, needed in left.items() if not needed & left.keys()]:
        for name in free:
            del left[name]
    on_circles = {name: sorted(needed & left.keys()) for name, needed in left.items()}
    assert on_circles == {}


def test_every_room_is_in_the_table() -> None:
    rooms = {room_of(path) for path in FILES} - {"__init__", "__main__"}
    assert rooms <= set(MAY_IMPORT)


def test_light_rooms_never_name_a_heavy_library() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line} imports {module}"
        for path in FILES
        if room_of(path) in LIGHT
        for module, line in imports(path)
        if module.split(".")[0] in HEAVY_LIBRARIES and module.split(".")[0] not in INSIDE_FUNCTIONS
    ]
    assert wrong == []


def test_light_rooms_import_numpy_and_pictures_only_inside_functions() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line} imports {module}"
        for path in FILES
        if room_of(path) in LIGHT
        for module, line in imports(path, top_level_only=True)
        if module.split(".")[0] in (*INSIDE_FUNCTIONS, "pyarrow", "openpyxl", "httpx", "matplotlib", "jinja2")
    ]
    assert wrong == []


def test_light_rooms_import_heavy_rooms_only_inside_functions() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in FILES
        if room_of(path) in ("commands", "benchmarks")
        for module, line in imports(path, top_level_only=True)
        if module.split(".")[0] == "croc_cli" and (*module.split("."), "")[1] in HEAVY
    ]
    assert wrong == []


def test_among_heavy_rooms_only_the_worker_knows_the_recipe() -> None:
    """Names of allowed words, such as TemplateName, may be shared; sections may not be passed around."""
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {alias.name}"
        for path in FILES
        if room_of(path) in HEAVY and room_of(path) not in RECIPE_READERS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "croc_cli.recipe.schema"
        for alias in node.names
        if not alias.name.endswith("Name")
    ]
    assert wrong == []


def test_what_is_printed_cannot_steer_a_terminal() -> None:
    """Only words of croc's own, numbers and names of classes go out without `shown`."""

    def is_safe(node: ast.expr) -> bool:
        if isinstance(node, ast.JoinedStr):
            return all(is_safe(part.value) for part in node.values if isinstance(part, ast.FormattedValue))
        if isinstance(node, ast.Call):
            return ast.unparse(node.func) in ("shown", "json.dumps")
        return isinstance(node, ast.Constant | ast.BinOp) or ast.unparse(node).endswith(".__name__")

    wrong = [
        f"{path.relative_to(PACKAGE)}:{node.lineno} {ast.unparse(node)}"
        for path in FILES
        if path.name not in ("console.py", "app.py")  # the server's log has a path that is one of its routes
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print" and not all(map(is_safe, node.args))
    ]
    assert wrong == []


def test_no_file_is_longer_than_four_hundred_lines() -> None:
    lengths = {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8").count("\n") for path in FILES}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_every_module_says_what_it_is_for_and_none_is_called_utils() -> None:
    silent = [
        str(path.relative_to(PACKAGE))
        for path in FILES
        if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []
    assert [path.name for path in FILES if path.stem in ("utils", "helpers", "common", "misc")] == []


COMMANDS = (
    "",
    "demo",
    "run",
    "align",
    "reconstruct",
    "finetune",
    "chat",
    "convert",
    "serve",
    "compare-answers",
    "push",
    "doctor",
    "recipes",
    "recipes show",
    "report",
    "data",
    "data mix",
    "data verify",
    "data stats",
    "data show",
    "data export",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command: str) -> None:
    """Neither torch nor what else takes long; `croc --help` is to be there in a quarter of a second."""
    code = (
        "import sys\n"
        f"sys.argv = ['croc', *{command.split()!r}, '--help']\n"
        "from croc_cli.commands.app import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    code = end.code\n"
        "slow = ('torch', 'transformers', 'deepspeed', 'numpy', 'scipy', 'PIL', 'yaml', 'rich',"
        " 'huggingface_hub', 'prompt_toolkit')\n"
        "print([name for name in slow if name in sys.modules], code, file=sys.stderr)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.stderr.strip().splitlines()[-1] == "[] 0"
    assert answer.stdout.startswith("Usage: croc")
    if command not in ("recipes",):
        assert "Example: croc" in answer.stdout
