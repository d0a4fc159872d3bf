"""A certificate authority of its own, so that stand-ins can speak TLS, as Google's services do."""

import ssl
from pathlib import Path

import certifi
import trustme


class Authority:
    """Vouches for services on this machine, to whoever trusts it. Nothing of it outlives the process but `bundle`."""

    def __init__(self) -> None:
        self._authority = trustme.CA()

    def of_server(self) -> ssl.SSLContext:
        """For a service on the loopback interface."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
        return context

    def of_client(self) -> ssl.SSLContext:
        """For whoever is to trust this authority, and no other."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._authority.configure_trust(context)
        return context

    def bundle(self, path: Path) -> dict[str, str]:
        """Write this authority and those that everybody trusts to the file. Gives the variables by which it is used.

        All of them, since to read so many is a good part of what a connection costs where they are read for each one.
        """
        path.write_bytes(Path(certifi.where()).read_bytes() + self._authority.cert_pem.bytes())
        # of OpenSSL, and so of aiohttp; of requests; of Node.js, which adds it to its own
        return dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"), str(path))
