"""HTTP/1.1 as the server reads it: uvicorn's protocol, less the trailers of chunked bodies."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class WithoutTrailers(HttpToolsProtocol):
    """Discards trailers (RFC 9110, 6.5.1), which uvicorn appends to the headers.

    A trailer that became a header could choose another policy, or carry a credential that no check has seen. uvicorn
    adds each field to `self.headers`, which is the list in the scope of the request; so that list is exchanged as soon
    as the header section ends.
    """

    def on_headers_complete(self) -> None:
        """Start the request. The fields that follow are trailers, and go to a list that nothing reads."""
        super().on_headers_complete()
        self.headers = []
