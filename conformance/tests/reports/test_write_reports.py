"""Reports as files."""

import json
import os
import stat
from pathlib import Path

import pytest

from tokenwire_conformance.reports import ReportError, check_paths, write_reports

from .made import a_full_result, a_result


def test_writes_what_is_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    paths = (folder / "results.json", folder / "junit.xml", folder / "report.html")
    assert write_reports(a_full_result(), *paths) == paths
    assert json.loads(paths[0].read_text())["format"] == 1
    assert paths[1].read_bytes().startswith(b"<?xml version='1.0' encoding='utf-8'?>\n<testsuites")
    assert paths[2].read_bytes().startswith(b"<!doctype html>")
    assert sorted(folder.iterdir()) == sorted(paths)
    assert write_reports(a_result()) == ()


def test_a_file_is_replaced_as_a_whole_and_is_as_readable_as_any(tmp_path: Path) -> None:
    path, link, plain = tmp_path / "results.json", tmp_path / "link.json", tmp_path / "plain"
    path.write_text("old")
    plain.touch()
    link.symlink_to(path)
    with path.open() as old:
        write_reports(a_result(), json_path=link)
        assert old.read() == "old"
    assert link.is_symlink()
    assert json.loads(path.read_text())["format"] == 1
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_one_that_cannot_be_written_keeps_no_other_from_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    report = tmp_path / "report.html"
    with pytest.raises(ReportError) as caught:
        write_reports(a_result(), tmp_path / "file" / "results.json", tmp_path, report)
    assert str(caught.value).startswith(f"{tmp_path}/file/results.json: cannot be written: ")
    assert str(caught.value).isprintable()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "report.html"]


def test_nothing_is_left_behind_when_the_name_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ReportError, match="cannot be written"):
        write_reports(a_result(), tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        check_paths(fifo, fifo)
        write_reports(a_result(clauses={}), junit_path=fifo)
        assert os.read(reader, 65_536).startswith(b"<?xml")
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(fifo.stat().st_mode)


@pytest.mark.parametrize("name", ["", "nul\0", "file/x.json"])
def test_paths_are_checked_before_the_run(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ReportError, match="cannot be written") as caught:
        check_paths(html_path=f"{tmp_path}/{name}")
    assert str(caught.value).isprintable()


def test_two_reports_need_two_files(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="another report goes there"):
        check_paths(tmp_path / "a" / ".." / "x", None, tmp_path / "x")


def test_good_paths_are_left_as_they_are(tmp_path: Path) -> None:
    check_paths(tmp_path / "x.json", None, tmp_path / "x.html")
    with pytest.raises(ReportError, match="the folder does not exist"):
        check_paths(tmp_path / "new" / "x.json")
    assert list(tmp_path.iterdir()) == []
