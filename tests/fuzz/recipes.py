"""Hostile recipes: bombs, depth, tags, numbers of all sizes, paths that no file has; as recipes and in run folders."""

import random
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.case import Case

REFUSED = frozenset({2})
NUMBERS = (
    "0", "-1", "1e308", "1.0e+308", "-1e308", "1e400", ".inf", "-.inf", ".nan", "10000000000", "99999999999999999999",
    "18446744073709551616", "-9223372036854775809", "9" * 400,
    "9" * 5000, "1_000", "0x10", "1e-400", "true", "null",
    "7", "2.5", "3.0", "1e6", "1e7", "~", '"7"', "!!int 7", "!!float x", "!!int abc", "!!bool maybe", "!!null x",
)  # fmt: skip
TEXTS = (
    '""', '"\\0"', '"a\\0b"', '"\\x1b[31m"', '"\\ud800"', "~nosuchuser/x", "~", "/dev/zero", "/dev/null", "/",
    ".", "..",
    "x" * 256, "y/" * 3000, "é" * 200, "!!timestamp 2020-99-99", "!!timestamp x", "!!binary x",
    "!!python/object:os.system x",
    "!!set {a}", "2020-01-01", "12:00:00", "{}", "[]", "[1, [2, [3]]]", "{a: {b: c}}", "nano", "builtin:nano",
    "no",
    "'${HOME}'", "'{{ x }}'", "(a+)+$", "'[' ", "'(?P<a'", "\u202eabc",
)  # fmt: skip
KEYS = (
    "name", "description", "model.llm", "model.llm_revision", "model.vision_tower", "model.vision_feature_layer",
    "data.root", "data.catalogs", "data.num_workers", "data.cache_features", "data.align", "data.align.kind",
    "data.align.num_samples", "data.align.path", "data.finetune.preset", "align.batch.global_size",
    "align.batch.micro_size",
    "align.epochs", "align.max_steps", "align.seed", "align.learning_rate.projector", "align.optimizer.betas",
    "reconstruct.learning_rate.vision_tower",
    "align.optimizer.eps", "align.max_length", "align.zero_stage", "align.template", "reconstruct.pool.size",
    "reconstruct.mask.ratio", "reconstruct.objectives.reconstruction_weight", "finetune.save_every",
    "eval.num_scenes",
    "eval.batch_size", "judge.base_url", "judge.timeout", "launch.num_ranks", "launch.master_port", "launch.slurm",
    "launch.slurm.num_nodes", "launch.stall_timeout", "launch.hostfile", "runs_folder", "monitor", "monitor.wandb",
    "tracking.project", "eval.during", "eval.during.benchmarks", "eval.during.keep_best",
    "nosuch", "align",
)  # fmt: skip


def cases(seed: int) -> Iterator[Case]:
    """Yield recipes that are refused, and some that are merely odd, each through two commands."""
    rng = random.Random(seed)
    for make in (_bomb, _deep, _noise, _values, _values, _values, _structure, _chain, _broken):
        yield make(rng)
    yield _in_run_folder(rng)


def _commands(rng: random.Random, file: str = "r.yaml") -> tuple[tuple[str, ...], ...]:
    known: list[tuple[str, ...]] = [
        ("recipes", "check", file),
        ("recipes", "show", file),
        ("align", file, "--dry-run"),
        ("finetune", file, "--dry-run"),
        ("run", file, "--dry-run"),
        ("plan", file, "--gpus", "8"),
        ("data", "mix", file),
    ]
    return tuple(rng.sample(known, 2))


def _bomb(rng: random.Random) -> Case:
    """Aliases of aliases, as lists or as mappings."""
    width, depth = rng.choice([(9, 9), (2, 30), (50, 6), (10_000, 2)])
    lines = ["a0: &a0 " + ("[" + ",".join(["x"] * width) + "]")]
    for level in range(1, depth):
        inside = ",".join(f"k{number}: *a{level - 1}" for number in range(min(width, 9)))
        listed = ",".join([f"*a{level - 1}"] * width)
        lines.append(f"a{level}: &a{level} " + (f"{{{inside}}}" if rng.random() < 0.5 else f"[{listed}]"))
    where = rng.choice(["", "data: {catalogs: *a1}\n", "align: *a1\n"])
    text = "extends: nano\n" + "\n".join(lines) + "\n" + where
    return Case(_commands(rng), {"r.yaml": text.encode()}, allowed=REFUSED, note="alias bomb")


def _deep(rng: random.Random) -> Case:
    """More levels than any parser has stack for."""
    levels = rng.choice([41, 1000, 100_000, 400_000])
    kind = rng.randrange(5)
    text = (
        "a: " + "[" * levels,
        "a: " + "{a: " * levels,
        "\n".join(" " * level + "a:" for level in range(min(levels, 1300))),
        "- " * levels + "a",
        "? " * levels + "a",
    )[kind]
    return Case(_commands(rng), {"r.yaml": text.encode()}, allowed=REFUSED, note=f"depth {levels}, kind {kind}")


def _noise(rng: random.Random) -> Case:
    size = rng.choice([0, 1, 10, 200, 5000, 2_000_000])
    content = rng.choice(
        [
            rng.randbytes(size),
            "extends: nano\nname: é\n".encode(rng.choice(["utf-16", "utf-32", "latin-1"])),
            bytes(size) + b"\0",
            b"a" * size,
            b"extends: nano\nx: '" + b"y" * size,
            b"a: b\n" * (size // 5),
            b"".join(b"k%d: {}\n" % number for number in range(size // 8)),
            b"extends: nano\n" + b"".join(b"k%d: v\n" % number for number in range(4000)),
            b"&a " * (size // 3) + b"x",
            b"\xef\xbb\xbf",
        ]
    )
    return Case(_commands(rng), {"r.yaml": content}, allowed=REFUSED, note=f"noise of {len(content)} bytes")


def _values(rng: random.Random) -> Case:
    """Values that do not fit their keys, and some that do."""
    lines = ["extends: nano"]
    nested: dict[str, list[str]] = {}
    for key in rng.sample(KEYS, rng.randint(1, 3)):
        value = rng.choice(NUMBERS if rng.random() < 0.6 else TEXTS)
        section, *rest = key.split(".")
        nested.setdefault(section, []).append(
            "".join(f"{part}: {{" for part in rest[:-1]) + f"{rest[-1]}: {value}" + "}" * len(rest[:-1])
            if rest
            else value
        )
    for section, inside in nested.items():
        plain = section in ("name", "description", "runs_folder", "nosuch") or ":" not in inside[0]
        lines.append(f"{section}: {inside[0]}" if plain else f"{section}: {{{', '.join(inside)}}}")
    return Case(_commands(rng), {"r.yaml": "\n".join(lines).encode("utf-8", "replace")}, note="values")


def _structure(rng: random.Random) -> Case:
    """What a recipe's top must not be, keys that are no texts, keys given twice."""
    text = rng.choice(
        [
            "[1, 2]", "x", "", "---\n...", "{}", "null", "- a\n- b", "a: &x [*x]", "&x {a: *x}", "? [a, b]\n: c",
            "extends: nano\n<<: {name: x}", "extends: nano\nname: a\nname: b", "%YAML 9.9\n---\na: b", "a: *nothing",
            "extends: nano\n? {a: b}\n: c", "extends: [nano]", "extends: {a: b}", "extends: 7", "extends: true",
            "extends: nano\n---\nextends: nano", "!!omap [a: b]", "extends: nano\nalign: []", "extends: nano\ndata: x",
            "extends: nano\n\ttab: x", "extends: nano\n\x07: x", "extends: nano\n'\\x1b[2J': x",
        ]
    )  # fmt: skip
    return Case(_commands(rng), {"r.yaml": text.encode()}, note="structure")


def _chain(rng: random.Random) -> Case:
    """Files that extend one another: in a circle, for ever, or to where no file is."""
    to = rng.choice(
        [
            "r.yaml", "~nosuchuser/x.yaml", "x" * 300 + ".yaml", "y" * 300, '"a\\0.yaml"', "/dev/zero", "..", ".", "/",
            "mixes/croc1.5m", "../" * 2000 + "x.yaml", "fifo.yaml", "loop.yaml", '"\\x1b]0;x\\x07"',
        ]
    )  # fmt: skip
    files = {"r.yaml": f"extends: {to}\n".encode()}
    if rng.random() < 0.3:
        length = rng.choice([2, 30, 300])
        files = {f"{number or 'r'}.yaml": f"extends: {number + 1}.yaml\n".encode() for number in range(length)}
        files[f"{length}.yaml"] = rng.choice([b"extends: r.yaml\n", b"extends: nano\n"])

    def setup(folder: Path) -> None:
        import os

        os.mkfifo(folder / "fifo.yaml")
        (folder / "loop.yaml").symlink_to("loop.yaml")

    return Case(_commands(rng), files, setup=setup, note=f"extends {to[:40]}")


def _broken(rng: random.Random) -> Case:
    """A recipe that ships, with bytes changed, cut out or doubled."""
    from croc_cli.recipe.find import recipe_folder

    content = bytearray((recipe_folder() / rng.choice(["nano.yaml", "croc-7b.yaml", "smol.yaml"])).read_bytes())
    for _ in range(rng.randint(1, 8)):
        place = rng.randrange(len(content))
        change = rng.randrange(3)
        if change == 0:
            content[place] = rng.randrange(256)
        elif change == 1:
            del content[place : place + rng.randint(1, 40)]
        else:
            content[place:place] = content[place : place + rng.randint(1, 40)]
    return Case(_commands(rng), {"r.yaml": bytes(content)}, note="a recipe that ships, damaged")


def _in_run_folder(rng: random.Random) -> Case:
    """Any of the others as the recipe.yaml of a run folder."""
    content = rng.choice([_bomb, _deep, _noise, _values, _structure])(rng).files["r.yaml"]
    files = {f"out/{name}": content for name in ("recipe.yaml", "align/recipe.yaml")}
    files["out/align/summary.json"] = b'{"finished": true}'
    files["out/align/launch.json"] = b'{"stage": "align"}'
    commands = (("report", "out"), ("align", "nano", "--run-dir", "out", "--dry-run"))
    return Case(commands, files, note="a run folder's recipe")
