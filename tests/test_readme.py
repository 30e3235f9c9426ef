"""Every command of every README does what it says: training and pip are stopped at the plan, the rest runs."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from croc_cli.ablation.tables import TABLES
from croc_cli.benchmarks.registry import NAMES, benchmarks
from croc_cli.benchmarks.results import score_benchmark, write_results
from croc_cli.recipe.load import load_recipe
from croc_cli.run_dir import RunDir
from croc_cli.sources.mix.mix import build_mix
from croc_cli.sources.mix.recipe_mix import mix_folder, mix_spec
from tests.benchmarks.golden_files import load, write_files
from tests.benchmarks.mmmu_files import write_merged
from tests.benchmarks.ocrbench_files import write_ocrbench
from tests.checkpoint.originals import make_original
from tests.commands.croc import Answer, croc
from tests.report.runs import make_run
from tests.sources.data import encoded, image_row, picture, text_row, write_json, write_pictures, write_tar
from tests.tiny import make_tiny_llava

ROOT = Path(__file__).parent.parent
FILES = sorted(
    file
    for file in ROOT.rglob("README.md")
    if not any(part.startswith(".") or part == "node_modules" for part in file.relative_to(ROOT).parts)
)
TEXTS = {file: file.read_text(encoding="utf-8") for file in FILES}
ALL = "\n".join(TEXTS.values())
HOUSE = TEXTS[ROOT / "croc_cli" / "README.md"]
NANO = TEXTS[ROOT / "tests" / "bench" / "nano" / "README.md"]
MOST_BYTES = 12 * 1024
"""Of the front page."""
STAGES = ("align", "reconstruct", "finetune", "run", "demo")


def commands() -> list[str]:
    """Return the command lines of the code blocks of all READMEs, each once, without their comments."""
    lines: list[str] = []
    for text in TEXTS.values():
        fence = None
        for line in text.splitlines():
            if line.startswith("```"):
                fence = line if fence is None else None
            elif fence == "```":  # a block without a language is one to type
                lines.append(line.split(" #")[0].strip())
        assert fence is None, "a code block is not closed"
    return [line for line in dict.fromkeys(lines) if re.match(r"(croc|make|pip|python3?) [\w-]", line)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the READMEs mention."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 48), "red").save("image.jpg")
    [recipe] = re.findall(r"```yaml\n# mine.yaml\n(.*?)```", ALL, flags=re.DOTALL)
    Path("mine.yaml").write_text(recipe, encoding="utf-8")
    for name in ("my-sources.yaml", "drawn.yaml", "mixed.yaml"):
        [text] = re.findall(rf"```yaml\n# {name}\n(.*?)```", ALL, flags=re.DOTALL)
        Path(name).write_text(text, encoding="utf-8")
    write_sources(Path("data"))
    write_pictures(Path("my-images"), 3)
    write_json(Path("my.json"), [image_row(number) for number in range(3)])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make_run(Path("runs/nano"), stages=("align",), scenes=None)
    monkeypatch.setattr("webbrowser.open", lambda _address: True)
    write_benchmarks()
    make_original(tmp_path / "llava-v1.5-7b")
    return tmp_path


def write_sources(root: Path) -> None:
    """Write a little of every source that mixed.yaml names, and the mix."""
    write_pictures(root / "drawn" / "images", 9)
    write_json(root / "drawn" / "rows.json", [image_row(number) for number in range(9)])
    write_json(root / "llava_v1_5_mix665k.json", [text_row(number) for number in range(6)])
    write_pictures(root / "photos", 2)
    (root / "photos" / "metadata.csv").write_text("file_name,text\n00000.jpg,a red shape\n00001.jpg,another\n")
    quiz = [{"question": "Which?", "answer": "This.", "picture": {"bytes": encoded(picture(5)), "path": None}}]
    parquet.write_table(pyarrow.Table.from_pylist(quiz), root / "quiz.parquet")
    write_tar(root / "shards" / "0.tar", {"a.jpg": encoded(picture(8)), "a.txt": b"a shape"})
    recipe = load_recipe("mixed.yaml", environ={}).recipe
    build_mix(mix_spec(recipe, "finetune"), mix_folder(recipe, "finetune"))


def write_benchmarks() -> None:
    """Write small copies of all benchmarks, and two runs that have answered one of them."""
    for name in NAMES:
        write_files(name, Path("data/eval"))
    write_ocrbench(write_merged(Path("data/eval")))
    lines = "".join(json.dumps(row) + "\n" for row in load("gqa")["predictions"])
    for run_name in ("croc-7b", "llava-1.5-7b"):
        stage_dir = RunDir(Path("runs") / run_name).stage("benchmarks")
        stage_dir.predictions.mkdir(parents=True)
        (stage_dir.predictions / "gqa.jsonl").write_text(lines, encoding="utf-8")
        write_results(stage_dir, {"gqa": score_benchmark(benchmarks()["gqa"], stage_dir, Path("data/eval"))}, model={})


def run(line: str) -> Answer:
    """Run one command line in this process; what would train only plans."""
    _, *words = shlex.split(line)
    if words[0] == "init":  # the README's own recipe already exists
        Path(words[1]).unlink()
    only_plans = words[0] in STAGES or (words[0] == "eval" and words[1].startswith("-"))
    only_plans = only_plans or (words[0] == "data" and words[1] in ("fetch", "prepare") and "--dry-run" not in words)
    return croc(*words, *(["--dry-run"] if only_plans else []))


def test_the_readme_has_the_commands_that_this_file_tries() -> None:
    names = {tuple(shlex.split(line)[:2]) for line in commands()}
    assert {("croc", name) for name in ("align", "reconstruct", "finetune", "run", "chat", "recipes")} <= names
    assert {("make", name) for name in ("test", "check", "slow", "bench", "fuzz")} <= names


def test_the_front_page_has_at_most_12_kb_and_the_commands_to_start_with() -> None:
    front = TEXTS[ROOT / "README.md"]
    assert len(front.encode()) <= MOST_BYTES
    assert "git clone" in front
    assert "make demo" in front


def test_every_link_between_readmes_leads_to_a_file_and_a_heading() -> None:
    for file, text in TEXTS.items():
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
            name, _, anchor = target.partition("#")
            there = (file.parent / name).resolve() if name else file
            assert there.exists(), f"{file}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), flags=re.MULTILINE)
                slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
                assert anchor in slugs, f"{file}: {target}"


def test_a_recipe_with_sources_of_ones_own_is_planned_as_the_readme_writes_it(place: Path) -> None:
    answer = croc("data", "prepare", "drawn.yaml", "--dry-run")
    assert answer.code == 0, answer.err
    assert "  my-photos: 50,000 rows of data/photos/rows.jsonl (not here)" in answer.out


@pytest.mark.parametrize(
    "line",
    [line for line in commands() if re.match(r"croc (?!chat|compare-answers|convert|push|report attention)", line)],
)
def test_croc_commands_work_as_typed(line: str, place: Path) -> None:
    answer = run(line)
    assert answer.code == 0, answer.err


@pytest.mark.parametrize(
    "line", [line for line in commands() if line.startswith(("croc chat", "croc compare-answers"))]
)
def test_chat_commands_work_as_typed(line: str, place: Path) -> None:
    make_tiny_llava(place / "model")
    model = "" if "--model" in line else "--model model"
    answer = run(f"{line} {model} --max-tokens 4")
    assert answer.code == 0, answer.err


def test_the_attention_command_works_as_typed(place: Path) -> None:
    make_tiny_llava(place / "model")
    [line] = [line for line in commands() if line.startswith("croc report attention")]
    answer = run(f"{line} --tokens 3 --device cpu")
    assert answer.code == 0, answer.err


def test_the_conversions_work_one_after_another(place: Path) -> None:
    lines = [line for line in commands() if re.match(r"croc (convert|push)", line)]
    assert len(lines) == 4
    for line in lines:
        answer = run(line)
        assert answer.code == 0, answer.err


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("make ")])
def test_make_targets_exist(line: str) -> None:
    done = subprocess.run([*shlex.split(line), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_file_tree_names_every_room() -> None:
    rooms = {path.name for path in (ROOT / "croc_cli").iterdir() if (path / "__init__.py").exists()}
    missing = {room for room in rooms if not re.search(rf"^  {room}/ ", HOUSE, flags=re.MULTILINE)}
    assert not missing


RESULTS = ROOT / "tests" / "bench" / "nano"


@pytest.mark.parametrize("name", TABLES)
def test_the_readme_shows_each_ablation_as_it_came_out(name: str) -> None:
    result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    text = (RESULTS / f"{name}.md").read_text(encoding="utf-8").strip()
    assert text in NANO
    heads, *cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    shown = {row[0]: row[heads.index("mean")] for row in cells}
    assert [row["recipe"] for row in result["rows"]] == [row.recipe for row in TABLES[name].rows]
    for row in result["rows"]:
        scores = row["scores"]["mean"]
        assert list(scores) == ["0", "1", "2"]
        assert shown[row["label"]].split(" ± ")[0] == f"{100 * sum(scores.values()) / 3:.1f}"
    assert len(result["claims"]) == len(TABLES[name].claims)
    assert all(f"\n- {claim}" in text for claim in result["claims"])


def test_the_readmes_pictures_are_there_and_charts_have_their_data_beside_them() -> None:
    files = [file.parent / name for file, text in TEXTS.items() for name in re.findall(r'<img src="([^"]+)"', text)]
    assert {"pool-size-caption-loss", "matching-pool-window-share", "attention-mask", "data-composition"} <= {
        file.stem for file in files
    }
    for file in files:
        assert file.is_file(), file
        if file.suffix == ".svg":
            assert file.with_suffix(".csv").is_file(), file
