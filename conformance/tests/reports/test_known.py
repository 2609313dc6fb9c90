"""The file of known failures."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_conformance.known import KNOWN_MAX_BYTES, KnownFailuresError, parse, read_known

IDS = ("S-MS-03", "S-MS-04", "S-CR-01", "C-CR-01")


def test_lists_cases_with_line_and_reason(tmp_path: Path) -> None:
    path = tmp_path / "known.txt"
    path.write_bytes(b"\xef\xbb\xbf# all of them\r\n\r\nS-MS-04  # slow # really\r\n  C-CR-01\n   # end")
    known = read_known(path, IDS)
    assert [(e.case, e.line, e.reason) for e in known.entries.values()] == [
        ("S-MS-04", 3, "slow # really"),
        ("C-CR-01", 4, ""),
    ]
    assert "S-MS-04" in known
    assert "S-MS-03" not in known
    assert known.where("S-MS-04") == f"{path}:3"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"S-MS-04\ns-ms-04\n", "known.txt:2: there is no case s-ms-04, did you mean S-MS-04?"),
        (b"\nNOTHING", "known.txt:2: there is no case NOTHING"),
        (b"S-MS-4", "known.txt:1: there is no case S-MS-4, did you mean S-MS-04?"),
        (b"S-MS-04 # a\n\nS-MS-04 # b", "known.txt:3: S-MS-04 is listed already, on line 1"),
        (b"S-MS-04 S-MS-03", "known.txt:1: a reason follows S-MS-04 after a '#', one case per line"),
        (b"# fine\nS-MS-04 # \xff", "known.txt:2: not UTF-8"),
        (b"#" * (KNOWN_MAX_BYTES + 1), f"known.txt: larger than {KNOWN_MAX_BYTES} bytes"),
        (b"\x1b[2J", "known.txt:1: there is no case '\\x1b[2J'"),
    ],
)
def test_says_what_is_wrong_in_one_line(content: bytes, said: str) -> None:
    with pytest.raises(KnownFailuresError) as caught:
        parse("known.txt", content, IDS)
    assert str(caught.value) == said


def test_the_largest_file_is_read() -> None:
    assert not parse("known.txt", b"#" * KNOWN_MAX_BYTES, IDS).entries


@pytest.mark.parametrize("name", ["missing.txt", ".", "nul\0"])
def test_unreadable(tmp_path: Path, name: str) -> None:
    with pytest.raises(KnownFailuresError, match="cannot be read") as caught:
        read_known(f"{tmp_path}/{name}", IDS)
    assert str(caught.value).isprintable()


def test_an_endless_file_is_not_read_to_its_end() -> None:
    with pytest.raises(KnownFailuresError, match="larger than"):
        read_known("/dev/zero", IDS)


@given(st.binary(max_size=200) | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_content_is_read_or_refused_in_one_printable_line(content: bytes) -> None:
    try:
        found = set(parse("known.txt", content, IDS).entries)
    except KnownFailuresError as error:
        found, said = set(), str(error)
    else:
        said = ""
    assert found <= set(IDS)
    assert said.isprintable()
