"""A broker that requires TLS and a password, a certificate or a token, and grants rights per user."""

import ipaddress
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from churn_platform.local import kafka
from churn_platform.local.part import Part
from churn_platform.local.ports import HOST, Ports
from churn_platform_tests.kafka.oauth_server import AUDIENCE, CLIENTS, ISSUER, SCOPE, OauthServer, oauth_server
from churn_platform_tests.waiting import wait_until

PASSWORDS = {"churn": "right-s3cret", "intruder": "other-s3cret"}


class Authority:
    """A certificate authority: its own certificate in a file, and the certificates that it signs."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._subject = _subject(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _unsigned(self._subject, self._subject, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file = folder / "ca.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> tuple[Path, Path]:
        """Return the PEM files of a certificate for this name on localhost, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(HOST))]
        certificate = (
            _unsigned(_subject(name), self._subject, key)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        files = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _unsigned(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
    )


@dataclass(frozen=True)
class SecuredBroker:
    """A broker with one TLS listener for passwords, one for certificates and one for tokens of an OAuth server."""

    password_address: str
    certificate_address: str
    token_address: str
    authority: Authority
    oauth: OauthServer
    log: Path

    def environment(self, user: str = "churn", **changes: str) -> dict[str, str]:
        """Return the settings that a user of this broker sets."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.password_address,
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            "KAFKA_SASL_USERNAME": user,
            "KAFKA_SASL_PASSWORD": PASSWORDS[user],
            "KAFKA_SSL_CA_LOCATION": str(self.authority.file),
            **changes,
        }

    def certificate_environment(self) -> dict[str, str]:
        """Return the settings of a user with a certificate."""
        certificate, key = self.authority.issue("client")
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.certificate_address,
            "KAFKA_SECURITY_PROTOCOL": "SSL",
            "KAFKA_SSL_CA_LOCATION": str(self.authority.file),
            "KAFKA_SSL_CERTIFICATE_LOCATION": str(certificate),
            "KAFKA_SSL_KEY_LOCATION": str(key),
        }

    def token_environment(self, client: str = "churn", **changes: str) -> dict[str, str]:
        """Return the settings of a client of the OAuth server."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.token_address,
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_MECHANISM": "OAUTHBEARER",
            "KAFKA_OAUTH_TOKEN_URL": self.oauth.token_url,
            "KAFKA_OAUTH_CLIENT_ID": client,
            "KAFKA_OAUTH_CLIENT_SECRET": CLIENTS[client],
            "KAFKA_OAUTH_SCOPE": SCOPE,
            "KAFKA_OAUTH_CA_LOCATION": str(self.authority.file),
            "KAFKA_SSL_CA_LOCATION": str(self.authority.file),
            **changes,
        }

    def refusals(self) -> int:
        """Return how many connections the broker's log reports as refused because of their password."""
        return self.log.read_text().count("Failed authentication")


@contextmanager
def secured_broker(folder: Path) -> Iterator[SecuredBroker]:
    """Start the broker."""
    folder.mkdir(parents=True)
    authority = Authority(folder / "authority", "Authority of the tests")
    certificate, key = authority.issue("broker")
    key_store = folder / "broker.pem"
    key_store.write_bytes(key.read_bytes() + certificate.read_bytes())
    names = ("inner", "controller", "password", "mutual", "token")
    ports = Ports(folder / "ports.json", dict.fromkeys(names, 0))
    ports.choose()
    chosen = {name: ports[name] for name in names}
    log = folder / "broker.log"
    with oauth_server(*authority.issue("login")) as oauth:
        part = kafka.part(
            folder=folder / "kafka",
            port=chosen["inner"],
            controller_port=chosen["controller"],
            extra=_security(authority, key_store, oauth, chosen),
            users=PASSWORDS,
            java_options=(f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={oauth.keys_url}",),
        )
        with _running(part, log):
            ports.release()
            password, mutual, token = (f"{HOST}:{chosen[name]}" for name in ("password", "mutual", "token"))
            yield SecuredBroker(password, mutual, token, authority, oauth, log)


def _security(
    authority: Authority, key_store: Path, oauth: OauthServer, ports: Mapping[str, int]
) -> Mapping[str, str | int]:
    clients = ",".join(f"{name.upper()}://{HOST}:{ports[name]}" for name in ("inner", "password", "mutual", "token"))
    return {
        "listeners": f"{clients},CONTROLLER://{HOST}:{ports['controller']}",
        "advertised.listeners": clients,
        "listener.security.protocol.map": "INNER:PLAINTEXT,PASSWORD:SASL_SSL,MUTUAL:SSL,TOKEN:SASL_SSL,"
        "CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "INNER",
        "listener.name.password.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.password.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        "listener.name.token.sasl.enabled.mechanisms": "OAUTHBEARER",
        "listener.name.token.oauthbearer.sasl.jaas.config": (
            "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;"
        ),
        "listener.name.token.oauthbearer.sasl.server.callback.handler.class": (
            "org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler"
        ),
        "sasl.oauthbearer.jwks.endpoint.url": oauth.keys_url,
        "sasl.oauthbearer.expected.audience": AUDIENCE,
        "sasl.oauthbearer.expected.issuer": ISSUER,
        "listener.name.mutual.ssl.client.auth": "required",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(key_store),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.file),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:churn;User:CN=client",
    }


@contextmanager
def _running(part: Part, log: Path) -> Iterator[None]:
    part.prepare(lambda _: None)
    with log.open("wb") as output:
        process = subprocess.Popen(part.command, cwd=log.parent, stdout=output, stderr=output, env=dict(os.environ))
    try:
        wait_until(lambda: process.poll() is not None or part.ready(0), timeout=90, what="the secured broker to answer")
        assert process.poll() is None, log.read_text()[-3000:]
        yield
    finally:
        process.kill()  # its data is not needed any more
        process.wait()
