"""A certificate authority of its own, so that stand-ins can speak TLS, as Google's services do."""

import ssl
from pathlib import Path

import certifi
import trustme


class Authority:
    """Vouches for services on this machine, to whoever trusts it. Nothing of it outlives the process but files."""

    def __init__(self) -> None:
        self._authority = trustme.CA()

    def server_context(self, *names: str) -> ssl.SSLContext:
        """For a service of these names; without any, for one on the loopback interface."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*(names or ("localhost", "127.0.0.1"))).configure_cert(context)
        return context

    def client_context(self) -> ssl.SSLContext:
        """For whoever is to trust this authority, and no other."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._authority.configure_trust(context)
        return context

    def environment(self, folder: Path) -> dict[str, str]:
        """The variables by which other programs trust this authority, beside those that everybody trusts.

        Python's get all of them in one file: reading so many is work, and a server in production has to do it.
        """
        own, all_of_them = folder / "authority.pem", folder / "authorities.pem"
        own.write_bytes(self._authority.cert_pem.bytes())
        all_of_them.write_bytes(Path(certifi.where()).read_bytes() + own.read_bytes())
        # of OpenSSL, and so of aiohttp; of requests; of Node.js, which adds it to its own
        return {
            "SSL_CERT_FILE": str(all_of_them),
            "REQUESTS_CA_BUNDLE": str(all_of_them),
            "NODE_EXTRA_CA_CERTS": str(own),
        }
