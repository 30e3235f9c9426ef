from pathlib import Path

from croc_cli.launch.tail import JsonLinesTail


def test_only_what_is_appended_is_read_and_half_a_line_waits(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n')
    tail = JsonLinesTail(file)
    assert tail.read() == []
    with file.open("a") as stream:
        stream.write('{"step": 2}\n{"st')
    assert tail.read() == [{"step": 2}]
    with file.open("a") as stream:
        stream.write('ep": 3}\nnot json\n')
    assert tail.read() == [{"step": 3}]


def test_a_file_that_appears_later_is_read_from_its_start(tmp_path: Path) -> None:
    tail = JsonLinesTail(tmp_path / "metrics.jsonl")
    assert tail.read() == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    assert tail.read() == [{"step": 1}]


def test_a_file_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n')
    tail = JsonLinesTail(file)
    replacement = tmp_path / "new"
    replacement.write_text('{"step": 1}\n')
    replacement.replace(file)
    assert tail.read() == [{"step": 1}]
