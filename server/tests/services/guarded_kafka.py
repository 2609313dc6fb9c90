"""A broker that lets in whoever proves who it is, and lets each do what it was granted."""

import secrets
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .errors import ServiceError
from .kafka import Kafka
from .ports import free_port

if TYPE_CHECKING:
    from confluent_kafka.admin import AclBinding  # type: ignore[attr-defined]

__all__ = ["PLAIN_USER", "GuardedKafka"]

_SUPERUSER: Final = "admin"
PLAIN_USER: Final = "plain"
"""Whom it knows by the mechanism PLAIN, with the engine's ``password``; those of SCRAM are to be added."""
_ADMIN_S: Final = 30.0
"""Seconds that a change of users or rights may take on a busy machine."""
_LOGIN: Final = "org.apache.kafka.common.security.plain.PlainLoginModule required"
_SCRAM: Final = "org.apache.kafka.common.security.scram.ScramLoginModule required"
_LISTENERS: Final = """\
listeners=BROKER://127.0.0.1:{port},OPEN://127.0.0.1:{open},TLS://127.0.0.1:{tls},CONTROLLER://127.0.0.1:{controller}
listener.security.protocol.map=BROKER:SASL_PLAINTEXT,OPEN:PLAINTEXT,TLS:SASL_SSL,CONTROLLER:SASL_PLAINTEXT
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
sasl.mechanism.inter.broker.protocol=PLAIN
sasl.mechanism.controller.protocol=PLAIN
listener.name.broker.plain.sasl.jaas.config={login}
listener.name.broker.scram-sha-512.sasl.jaas.config={scram};
listener.name.tls.plain.sasl.jaas.config={login}
listener.name.tls.scram-sha-512.sasl.jaas.config={scram};
listener.name.controller.sasl.enabled.mechanisms=PLAIN
listener.name.controller.plain.sasl.jaas.config={login}
ssl.keystore.type=PEM
ssl.keystore.location={pem}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:{superuser}
"""


class GuardedKafka(Kafka):
    """``address`` speaks SASL_PLAINTEXT, ``open_address`` PLAINTEXT, ``tls_address`` SASL_SSL with a certificate that
    ``ca`` vouches for. Nobody but the super user may do anything that was not granted."""

    def __init__(self, folder: Path, *, password: str = "") -> None:
        super().__init__(folder, password=password)
        self._open_port = self._tls_port = 0

    @classmethod
    def lacking(cls) -> str:
        if shutil.which("openssl") is None:
            return "no openssl in PATH (apt-get install openssl)"
        return super().lacking()

    @property
    def open_address(self) -> str:
        return f"127.0.0.1:{self._open_port}"

    @property
    def tls_address(self) -> str:
        return f"127.0.0.1:{self._tls_port}"

    @property
    def ca(self) -> Path:
        """The authority of its certificate (PEM)."""
        return self.folder / "kafka.crt"

    def client_config(self) -> dict[str, str]:
        return {
            **super().client_config(),
            "security.protocol": "sasl_plaintext",
            "sasl.mechanism": "PLAIN",
            "sasl.username": _SUPERUSER,
            "sasl.password": self.password,
        }

    def add_user(self, name: str, password: str) -> None:
        """Let in whoever proves so (SCRAM-SHA-512) to be ``name``; a new password if there is one already."""
        from confluent_kafka.admin import (  # type: ignore[attr-defined]
            ScramCredentialInfo,
            ScramMechanism,
            UserScramCredentialAlteration,
            UserScramCredentialUpsertion,
        )

        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4_096)
        asked: list[UserScramCredentialAlteration] = [UserScramCredentialUpsertion(name, info, password.encode())]
        admin = self.admin()  # it has to live until the answer
        for future in admin.alter_user_scram_credentials(asked, request_timeout=_ADMIN_S).values():
            future.result(_ADMIN_S)

    def grant(self, *rights: "AclBinding") -> None:
        """Have all of these hold."""
        admin = self.admin()
        for future in admin.create_acls(list(rights), request_timeout=_ADMIN_S).values():
            future.result(_ADMIN_S)

    def revoke(self, *rights: "AclBinding") -> None:
        """Have none of these hold."""
        from confluent_kafka.admin import AclBindingFilter  # type: ignore[attr-defined]

        filters = [
            AclBindingFilter(
                each.restype, each.name, each.resource_pattern_type, each.principal, each.host, each.operation,
                each.permission_type,
            )
            for each in rights
        ]  # fmt: skip
        admin = self.admin()
        for future in admin.delete_acls(filters, request_timeout=_ADMIN_S).values():
            if not future.result(_ADMIN_S):
                raise ServiceError("there is no such right to take away")

    def _create(self) -> None:
        self.password = self.password or secrets.token_urlsafe(24)
        self._open_port, self._tls_port = free_port(), free_port()
        self._certify()
        super()._create()

    def _listeners(self) -> str:
        users = {_SUPERUSER: self.password, PLAIN_USER: self.password}
        known = " ".join(f'user_{name}="{password}"' for name, password in users.items())
        return _LISTENERS.format(
            port=self.port, open=self._open_port, tls=self._tls_port, controller=free_port(),
            login=f'{_LOGIN} username="{_SUPERUSER}" password="{self.password}" {known};',
            scram=_SCRAM, pem=self._pem, superuser=_SUPERUSER,
        )  # fmt: skip

    def _certify(self) -> None:
        """A certificate that vouches for itself."""
        key = self.folder / "kafka.key"
        done = subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
             "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", self.ca],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise ServiceError(f"openssl made no certificate: {done.stderr.strip()[-300:]}")
        self._pem.touch(0o600)
        self._pem.write_text(key.read_text("ascii") + self.ca.read_text("ascii"), "ascii")
        key.unlink()

    def destroy(self) -> None:
        super().destroy()
        for file in (self._pem, self.ca):
            file.unlink(missing_ok=True)

    @property
    def _pem(self) -> Path:
        return self.folder / "kafka.pem"
