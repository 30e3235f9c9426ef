"""Sees that a tar was read whole: tarfile takes a damaged header, or a cut between two members, for the end."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing_extensions import Self

_CHUNK: Final = 1 << 20
_MAX_PADDING: Final = 1 << 30
"""Bytes after the last member of a tar that are read at most."""


class StrictInfo(tarfile.TarInfo):
    """A tar member whose header must be whole; pass it to `tarfile.open` as `tarinfo`."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read a header block.

        Raises:
            tarfile.ReadError: It is damaged, or the file ends where a header or the mark of the end belongs.
        """
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # not in typeshed, as are those below
            raise
        except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError("it ends without the mark of a tar's end, so it may have been cut off") from error
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"a damaged header between its members: {error}") from error


def check_tar_end(tar: tarfile.TarFile) -> None:
    """Read on behind a tar's end; where it is compressed, the checksum of what was unpacked stands there.

    Args:
        tar: After its last member.

    Raises:
        tarfile.ReadError: More than padding follows, such as the members of a second tar.
    """
    for _ in range(_MAX_PADDING // _CHUNK):
        chunk = tar.fileobj.read(_CHUNK) if tar.fileobj is not None else b""
        if not chunk:
            return
        if chunk.count(0) < len(chunk):
            raise tarfile.ReadError("more follows its end, as in tars that `cat` joined: `tar -A` joins them rightly")
