import shutil
from pathlib import Path

from sentencepiece import SentencePieceProcessor
from transformers import AutoTokenizer

from croc_cli.data.sentencepiece_merges import repair_merges

GOLDEN = Path(__file__).parent / "golden"
TEXT = "a  b   c"


def test_a_repaired_tokenizer_cuts_runs_of_spaces_as_sentencepiece_does_and_is_saved_so(tmp_path: Path) -> None:
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(GOLDEN / name, tmp_path / name)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    expected = SentencePieceProcessor(str(tmp_path / "tokenizer.model")).encode(TEXT)
    repair_merges(tokenizer)
    assert tokenizer(TEXT, add_special_tokens=False)["input_ids"] == expected
    tokenizer.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "tokenizer.model").unlink(missing_ok=True)
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert saved(TEXT, add_special_tokens=False)["input_ids"] == expected
