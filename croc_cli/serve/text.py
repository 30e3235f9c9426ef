"""What of an answer may be sent already: nothing that a stop string may still take back."""

from collections.abc import Callable


class StopFilter:
    """Passes text on as it comes, up to the first stop string.

    A tail that could be the beginning of a stop string is held back until it is clear that it is none.

    Args:
        stops: Strings before which the answer ends; empty passes everything on.
        send: Called with each piece.
    """

    def __init__(self, stops: tuple[str, ...], send: Callable[[str], None]) -> None:
        self._stops = stops
        self._send = send
        self._held = ""
        self.stopped = False

    def put(self, piece: str) -> None:
        """Take a piece of the answer; ignored once a stop string was found."""
        if self.stopped:
            return
        self._held += piece
        found = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._pass(min(found))
            self._held = ""
        else:
            self._pass(len(self._held) - self._open_length())

    def end(self) -> None:
        """Pass on what was held back."""
        if not self.stopped:
            self._pass(len(self._held))

    def _pass(self, length: int) -> None:
        if length > 0:
            self._send(self._held[:length])
            self._held = self._held[length:]

    def _open_length(self) -> int:
        """Return the length of the longest tail that begins a stop string."""
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:length]):
                    longest = length
                    break
        return longest
