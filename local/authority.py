"""A certificate authority of its own, so that stand-ins can speak TLS, as Google's services do."""

import ssl
from pathlib import Path

import certifi
import grpc
import trustme

_SERVED = ("localhost", "127.0.0.1", "*.googleapis.com", "*.europe-west1.rep.googleapis.com")
_NAME = "stand-in"
_HASH = "8fa0e1f4.0"  # of a subject of that name: the file that OpenSSL looks for (`openssl x509 -subject_hash`)


class Authority:
    """Vouches for services on this machine, to whoever trusts it. Nothing of it outlives the process but files."""

    def __init__(self) -> None:
        self._authority = trustme.CA(organization_name=_NAME, organization_unit_name=_NAME)

    def server_context(self, *names: str) -> ssl.SSLContext:
        """For a service of these names; without any, for one on the loopback interface or a Google API."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*(names or _SERVED)).configure_cert(context)
        return context

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """The same for a server of gRPC's."""
        certificate = self._authority.issue_cert(*_SERVED)
        chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
        return grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)])

    def client_context(self) -> ssl.SSLContext:
        """For whoever is to trust this authority, and no other."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._authority.configure_trust(context)
        return context

    def environment(self, folder: Path) -> dict[str, str]:
        """The variables by which other programs trust this authority.

        Each finds it where it finds the world's authorities in the deployed function. OpenSSL, and so aiohttp, in a
        directory, where it looks one up when it meets it: the image is Ubuntu 22.04 (google-22 in
        https://docs.cloud.google.com/run/docs/runtimes/python), whose OpenSSL has no cert.pem, the file that is read
        whole. Debian's has one since 3.0.5-3. requests has certifi's file, read whole for each connection; gRPC and
        Node.js have their own.
        """
        pem, directory, bundle = self._authority.cert_pem.bytes(), folder / "authorities", folder / "authorities.pem"
        directory.mkdir(exist_ok=True)
        (directory / _HASH).write_bytes(pem)
        bundle.write_bytes(Path(certifi.where()).read_bytes() + pem)
        return {
            "SSL_CERT_DIR": str(directory),
            "SSL_CERT_FILE": str(folder / "absent.pem"),  # named, or this machine's own would be read
            "REQUESTS_CA_BUNDLE": str(bundle),
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(bundle),
            "NODE_EXTRA_CA_CERTS": str(directory / _HASH),
        }
