"""The benchmark of annotators refuses what it cannot measure."""

import pytest

from benchmarks.annotators import main


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--only", "cany"], "invalid choice: 'cany'"),
        (["--only", "tile"], "give --peer"),
        (["--clock", "cpu", "--device", "cuda"], "--clock wall with --device cuda"),
        (["--clock", "cpu", "--threads", "2"], "--threads 1"),
    ],
)
def test_wrong_options_are_refused(options, said, capsys):
    with pytest.raises(SystemExit):
        main(options)
    assert said in capsys.readouterr().err
