"""The rights that the pages tell people to grant: tests grant exactly these."""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from confluent_kafka.admin import AclBinding  # type: ignore[attr-defined]

__all__ = ["USERS", "Grant", "granted_redis", "granted_sql", "kafka_grants", "kafka_table"]

_ROOT: Final = Path(__file__).parents[3]
_KINDS: Final = {"--topic": "TOPIC", "--group": "GROUP", "--transactional-id": "TRANSACTIONAL_ID"}
USERS: Final = {"collect": "collector", "process": "processor", "gateway": "gateway", "load": "loader"}
"""What the page calls the user of each role."""


class Grant(NamedTuple):
    """One right of a user of Kafka."""

    user: str
    operation: str
    kind: str
    name: str
    is_prefix: bool = False

    def binding(self) -> "AclBinding":
        """As Kafka takes it."""
        from confluent_kafka.admin import (  # type: ignore[attr-defined]
            AclBinding,
            AclOperation,
            AclPermissionType,
            ResourcePatternType,
            ResourceType,
        )

        pattern = ResourcePatternType.PREFIXED if self.is_prefix else ResourcePatternType.LITERAL
        operation = AclOperation[self.operation.upper()]
        whose = f"User:{self.user}"
        return AclBinding(ResourceType[self.kind], self.name, pattern, whose, "*", operation, AclPermissionType.ALLOW)


def kafka_grants(named: Mapping[str, str]) -> list[Grant]:
    """What the commands of the page grant, where topics are called as ``named`` says."""
    lines = [line for line in _block("bash", "kafka-acls.sh").splitlines() if line.startswith("acl ")]
    return [grant for line in lines for grant in _of_command(_renamed(line, named))]


def kafka_table(role: str) -> set[tuple[str, str, str]]:
    """What the table says that a role needs: operation, kind and name."""
    rows = re.findall(rf"^\| `{role}` \|(.*)\|$", _page("server/README.md"), re.MULTILINE)
    (cells,) = (row.split("|") for row in rows)
    columns = (("Read", "TOPIC"), ("Write", "TOPIC"), ("Read", "GROUP"), ("Write", "TRANSACTIONAL_ID"))
    return {
        (*column, name) for column, cell in zip(columns, cells, strict=True) for name in re.findall(r"`([^`]+)`", cell)
    }


def granted_sql(database: str, users: str, password: str) -> str:
    """The statements of the page for another database, other users and that password."""
    text = _block("sql", "CREATE ROLE").replace("…", password).replace("tokenwire_", f"{users}_")
    return re.sub(r"(DATABASE |connect )tokenwire\b", rf"\1{database}", text)


def granted_redis(user: str, password: str, prefix: str) -> list[str]:
    """The words of the page's command for another user and prefix."""
    words = _block("text", "ACL SETUSER").split()
    assert words[:4] == ["ACL", "SETUSER", "tokenwire", "on"]
    words[2] = user
    return [
        f">{password}" if word == ">PASSWORD" else f"~{prefix}{word[1:]}" if word.startswith("~") else word
        for word in words
    ]


def _of_command(line: str) -> Iterator[Grant]:
    _, user, *words = shlex.split(line)
    pairs = list(zip(words[::2], words[1::2], strict=True))
    is_prefix = ("--resource-pattern-type", "prefixed") in pairs
    for option, name in pairs:
        assert option in (*_KINDS, "--operation", "--resource-pattern-type"), line
        for asked, operation in pairs if option in _KINDS else ():
            if asked == "--operation":
                yield Grant(user, operation, _KINDS[option], name, is_prefix)


def _renamed(text: str, named: Mapping[str, str]) -> str:
    for usual, name in named.items():
        text = text.replace(usual, name)
    return text


def _block(language: str, mark: str) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```", _page("deploy/README.md"), re.MULTILINE | re.DOTALL)
    (block,) = (text for text in found if mark in text)
    return str(block)


def _page(path: str) -> str:
    return (_ROOT / path).read_text("utf-8")
