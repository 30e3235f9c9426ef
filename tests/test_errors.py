import sys

import pytest

from croc_cli.errors import UsageError, first_line, handed_on


def test_an_error_of_a_loader_process_is_its_message_and_hint() -> None:
    torch_data = pytest.importorskip("torch.utils.data")

    class Broken(torch_data.Dataset):  # type: ignore[misc, name-defined]
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> int:
            raise UsageError("rows.json: row 7 has no text\n  second line", hint="fix row 7")

    with pytest.raises(UsageError) as caught:
        next(iter(torch_data.DataLoader(Broken(), num_workers=1)))
    message, hint = handed_on(caught.value.message)
    assert message == "rows.json: row 7 has no text\n  second line"
    assert hint == ("fix row 7" if sys.version_info >= (3, 11) else None)


def test_a_plain_message_is_handed_on_as_it_is() -> None:
    assert handed_on("no such file") == ("no such file", None)


def test_the_first_line_of_an_error_without_words_is_its_type() -> None:
    assert first_line(ValueError("\n one \n two")) == "one"
    assert first_line(KeyError()) == "KeyError"
