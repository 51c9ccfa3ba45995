"""Finished files are put in their places, whoever holds them for a moment."""

import os
import time

import pytest

from annotators import disk
from cnet_core import files


@pytest.fixture
def held(monkeypatch):
    """Refuses renames as Windows does, as often as it is told to."""
    real, times = os.replace, []

    def replace(source, target):
        if times:
            times.pop()
            raise PermissionError(13, "in use")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return times


@pytest.fixture(params=[files.put, disk.put], ids=["kernels", "annotators"])
def put(request):
    return request.param


def test_a_file_that_is_held_for_a_moment_is_waited_for(tmp_path, held, put):
    finished, path = tmp_path / "finished", tmp_path / "file"
    finished.write_text("new")
    path.write_text("old")
    held += [1, 1, 1]
    put(finished, path)
    assert path.read_text() == "new" and not finished.exists()


def test_one_that_stays_held_is_an_error_and_the_old_file_is_there(tmp_path, held, put):
    finished, path = tmp_path / "finished", tmp_path / "file"
    finished.write_text("new")
    path.write_text("old")
    held += [1] * 100
    with pytest.raises(PermissionError):
        put(finished, path)
    assert path.read_text() == "old"
