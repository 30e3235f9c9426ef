"""An HTTP answer that arrives in a thread of its own, so that whoever reads it never waits longer than it wants to.

A timeout of a socket bounds each silence alone: a server that sends a byte of a header, or of a chunk's length, now and
then holds a plain client for ever.
"""

import queue
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from croc_cli.addresses import PrivateAddressError, check_public, is_private

if TYPE_CHECKING:
    import httpx

MAX_REDIRECTS = 10
_BLOCKS_AHEAD = 8


class TooSlowError(Exception):
    """Nothing came within the time."""


class Feed:
    """One GET request, its redirects followed; a context manager.

    Args:
        url: http or https.
        headers: To be sent; those that hold a key stay with the first host.
        silence: Seconds that a socket may be silent.
        wait: Seconds that a reader waits for the headers, and for each block of the body.
    """

    def __init__(self, url: str, headers: Mapping[str, str], *, silence: float, wait: float) -> None:
        self.url, self.headers, self.silence, self.wait = url, headers, silence, wait
        self._items: queue.Queue[httpx.Response | bytes | BaseException | None] = queue.Queue(_BLOCKS_AHEAD)
        self._is_left = threading.Event()

    def __enter__(self) -> "Feed":
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_left.set()

    def response(self) -> "httpx.Response":
        """Return status and headers.

        Raises:
            TooSlowError: They are not whole within the time.
            PrivateAddressError: A public address leads on to one that is not.
            httpx.HTTPError: What httpx raises.
        """
        import httpx

        item = self._next()
        assert isinstance(item, httpx.Response)
        return item

    def blocks(self) -> Iterator[bytes]:
        """Yield the body; raises as `response` does."""
        while (item := self._next()) is not None:
            assert isinstance(item, bytes)
            yield item

    def _next(self) -> "httpx.Response | bytes | None":
        try:
            item = self._items.get(timeout=self.wait)
        except queue.Empty:
            raise TooSlowError from None
        if isinstance(item, BaseException):
            raise item
        return item

    def _put(self, item: "httpx.Response | bytes | BaseException | None") -> bool:
        """Hand an item on; False once nobody reads any more."""
        while not self._is_left.is_set():
            try:
                self._items.put(item, timeout=1.0)
                return True
            except queue.Full:
                continue
        return False

    def _run(self) -> None:
        import httpx

        try:
            with httpx.Client(timeout=httpx.Timeout(self.silence)) as client:
                request = client.build_request("GET", self.url, headers=dict(self.headers))
                for _ in range(MAX_REDIRECTS + 1):
                    response = client.send(request, stream=True)
                    if response.next_request is None:
                        self._hand_on(response)
                        return
                    response.close()
                    request = response.next_request
                    self._check_hop(str(request.url))
                raise httpx.TooManyRedirects("too many redirects", request=request)
        except BaseException as error:
            self._put(error)

    def _hand_on(self, response: "httpx.Response") -> None:
        is_encoded = response.headers.get("Content-Encoding", "identity") != "identity"
        try:
            if not self._put(response):
                return
            for block in response.iter_bytes() if is_encoded else response.iter_raw():
                if not self._put(block):
                    return
            self._put(None)
        finally:
            response.close()

    def _check_hop(self, url: str) -> None:
        """Look at where a redirect leads: a mirror of one's own may lead on in its network, a public server may not."""
        try:
            check_public(url)
        except PrivateAddressError as error:
            if "link-local" in str(error) or not is_private(self.url):
                raise
