"""The file of a tape: compressed as it grows, readable however it ended, never in the way of another."""

import gzip
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from tokenwire_server.sources.tape_file import TapeError, read_tape
from tokenwire_server.sources.tape_writer import TapeWriteError, TapeWriter

NAMES = pytest.mark.parametrize("name", ["tape.jsonl.zst", "tape.jsonl.gz", "tape.txt"])
T0_US = 1_700_000_000_000_000


def fill(writer: TapeWriter, first: int, count: int) -> None:
    for n in range(first, first + count):
        writer.write(T0_US + n * 1_001, b'{"n":%d}' % n)


def frames(path: Path) -> list[str]:
    return [line.frame for line in read_tape(str(path))]


def until_damage(path: Path) -> tuple[list[str], str]:
    """The frames that can be read, and why there are no more."""
    found: list[str] = []
    try:
        found.extend(line.frame for line in read_tape(str(path)))
    except TapeError as error:
        return found, str(error)
    return found, ""


@NAMES
def test_what_is_written_is_read_again_with_its_time(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    writer = TapeWriter(path)
    fill(writer, 0, 5_000)
    assert not path.exists(), "an unfinished tape has another name"
    writer.finish()
    lines = list(read_tape(str(path)))
    assert [line.frame for line in lines] == [f'{{"n":{n}}}' for n in range(5_000)]
    assert [line.time_ms for line in lines] == [(T0_US + n * 1_001) // 1_000 for n in range(5_000)]
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert writer.size_bytes == path.stat().st_size
    if name != "tape.txt":
        assert path.stat().st_size < 60_000


def test_other_programs_can_read_it(tmp_path: Path) -> None:
    for name in ("tape.zst", "tape.gz"):
        writer = TapeWriter(tmp_path / name)
        fill(writer, 0, 10)
        writer.flush()
        fill(writer, 10, 10)
        writer.finish()
    with (tmp_path / "tape.zst").open("rb") as file:
        unpacked = zstandard.ZstdDecompressor().stream_reader(file).read()
    assert unpacked == gzip.decompress((tmp_path / "tape.gz").read_bytes())
    assert unpacked.count(b"\n") == 20


@NAMES
def test_whatever_was_flushed_can_be_read_from_the_unfinished_file(tmp_path: Path, name: str) -> None:
    writer = TapeWriter(tmp_path / name)
    fill(writer, 0, 100)
    writer.flush()
    fill(writer, 100, 5)
    writer.abandon()
    found, problem = until_damage(writer.part)
    if name == "tape.txt":
        assert not problem, "nobody can tell that more was to come"
    else:
        assert "after line 100: it was cut off" in problem
    assert found == [f'{{"n":{n}}}' for n in range(100)]


@pytest.mark.parametrize("name", ["tape.zst", "tape.gz"])
def test_every_cut_keeps_the_flushed_lines_before_it(tmp_path: Path, name: str) -> None:
    writer = TapeWriter(tmp_path / name)
    flushed: list[tuple[int, int]] = []  # size of the file, lines in it
    for n in range(20):
        fill(writer, n * 10, 10)
        writer.flush()
        flushed.append((writer.size_bytes, (n + 1) * 10))
    writer.finish()
    whole = (tmp_path / name).read_bytes()
    for size in range(flushed[0][0], len(whole), 7):
        cut = tmp_path / "cut"
        cut.write_bytes(whole[:size])
        found, problem = until_damage(cut)
        assert "was cut off" in problem
        assert len(found) >= max(lines for at, lines in flushed if at <= size)
        assert found == [f'{{"n":{n}}}' for n in range(len(found))]


@pytest.mark.parametrize("name", ["tape.zst", "tape.gz"])
def test_damage_is_told_as_such(tmp_path: Path, name: str) -> None:
    writer = TapeWriter(tmp_path / name)
    fill(writer, 0, 20_000)
    writer.finish()
    whole = bytearray((tmp_path / name).read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 20] = b"\xff" * 20
    (tmp_path / name).write_bytes(whole)
    with pytest.raises(TapeError, match=r"damaged (zstd|gzip) data after line \d+"):
        frames(tmp_path / name)


def test_two_frames_one_after_the_other_are_one_tape(tmp_path: Path) -> None:
    """As `cat a.zst b.zst` makes it."""
    parts = []
    for n in range(2):
        writer = TapeWriter(tmp_path / f"{n}.zst")
        fill(writer, n * 10, 10)
        writer.finish()
        parts.append((tmp_path / f"{n}.zst").read_bytes())
    (tmp_path / "both.zst").write_bytes(b"".join(parts))
    assert frames(tmp_path / "both.zst") == [f'{{"n":{n}}}' for n in range(20)]


def test_a_bomb_takes_little_memory(tmp_path: Path) -> None:
    """Two gigabytes of zeros in some hundred kilobytes."""
    bomb = tmp_path / "bomb.zst"
    with bomb.open("wb") as file:
        packer = zstandard.ZstdCompressor(level=1).compressobj()
        for _ in range(2_048):
            file.write(packer.compress(bytes(1_048_576)))
        file.write(packer.flush())
    program = (
        "import sys\nfrom tokenwire_server.command_progress import peak_memory_bytes\n"
        "from tokenwire_server.sources.tape_file import TapeError, read_tape\n"
        "try:\n    list(read_tape(sys.argv[1]))\nexcept TapeError as error:\n    print(error)\n"
        "print(peak_memory_bytes())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(bomb)], capture_output=True, text=True, timeout=60, check=True
    )
    message, peak = done.stdout.splitlines()
    assert "not a captured tape" in message
    assert int(peak) < 150_000_000


def test_a_tape_is_not_replaced_unless_that_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "tape.gz"
    path.write_bytes(b"precious")
    with pytest.raises(TapeWriteError, match=r"is there already; .* --force"):
        TapeWriter(path)
    writer = TapeWriter(path, force=True)
    fill(writer, 0, 1)
    assert path.read_bytes() == b"precious", "until the new one is complete"
    writer.finish()
    assert frames(path) == ['{"n":0}']


def test_what_is_left_of_a_recording_is_not_replaced_either(tmp_path: Path) -> None:
    writer = TapeWriter(tmp_path / "tape.gz")
    with pytest.raises(TapeWriteError, match=r"tape\.gz\.part is there: a recording that runs, or was cut off"):
        TapeWriter(tmp_path / "tape.gz")
    writer.abandon()
    TapeWriter(tmp_path / "tape.gz", force=True).discard()
    assert not list(tmp_path.iterdir())


def test_a_tape_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    writer = TapeWriter(tmp_path / "tape")
    fill(writer, 0, 3)
    (tmp_path / "tape").write_bytes(b"precious")
    with pytest.raises(TapeWriteError, match="there already"):
        writer.finish()
    assert (tmp_path / "tape").read_bytes() == b"precious"
    assert len(frames(writer.part)) == 3


@pytest.mark.parametrize(
    ("path", "words"), [("gone/tape", "No such file or directory; check the path"), (".", "is a directory")]
)
def test_a_place_that_cannot_be_written_is_told_in_one_line(tmp_path: Path, path: str, words: str) -> None:
    with pytest.raises(TapeWriteError, match=words) as caught:
        TapeWriter(tmp_path / path, force=True)
    assert "\n" not in str(caught.value)


def test_a_disk_that_is_full_is_told_with_what_is_there(tmp_path: Path) -> None:
    """The limit of a file's size stands for the disk."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    program = (
        "import os, sys\nfrom pathlib import Path\n"
        "from tokenwire_server.sources.tape_writer import TapeWriteError, TapeWriter\n"
        "writer = TapeWriter(Path(sys.argv[1]))\n"
        "try:\n    for n in range(1_000):\n        writer.write(n, os.urandom(500).hex().encode())\n"
        "except TapeWriteError as error:\n    print(error)\n"
    )
    path = tmp_path / "tape"
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True, text=True, timeout=60, check=True, preexec_fn=limit,
    )  # fmt: skip
    assert f"cannot write {path}: File too large" in done.stdout
    assert f"lines are in {path}.part" in done.stdout
    assert os.path.getsize(f"{path}.part") == 400_000
