"""The command line of the dead readers."""

import sys

import pytest

from loadtests import dead_readers


@pytest.mark.parametrize(
    "words",
    ["--healthy 0", "--healthy -1", "--dead -1", "--seconds -1", "--seconds 0", "--seconds nan", "--seconds inf"],
)
def test_a_mistake_is_a_usage_error(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["dead_readers", *words.split()])
    monkeypatch.setattr(dead_readers, "measure", lambda *_: pytest.fail("it measured"))
    with pytest.raises(SystemExit) as caught:
        dead_readers.main()
    assert caught.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "error: " in line
    assert words.split(maxsplit=1)[0] in line
