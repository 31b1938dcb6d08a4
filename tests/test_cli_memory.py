"""``metrize memory`` tells what the library predicts."""

from __future__ import annotations

import json

import pytest

import metrize
from metrize import sizes
from metrize.cli import main
from metrize.memory import KNOWN


def test_every_optimizer_of_a_public_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", "resnet-18", "--json"]) == 0
    told = {line["optimizer"]: line for line in json.loads(capsys.readouterr().out)}
    assert set(told) == set(metrize.catalogue())
    for name, optimizer in metrize.catalogue().items():
        expected = metrize.predict(KNOWN["ResNet-18"](), optimizer)
        assert (told[name]["state"], told[name]["total"]) == (expected.state, expected.total), name


def test_a_table_says_who_fits(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--dtype", "bfloat16", "--in-backward", "--fits", "16"]
    assert main(["memory", "LLaMA-7B", *options, "--optimizer", "SMMF", "--optimizer", "AdamW"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.split()[:1] in (["SMMF"], ["AdamW"])]
    assert [(row[0], row[-1]) for row in rows] == [("SMMF", "yes"), ("AdamW", "no")]


def test_what_each_of_many_processes_holds_and_sends(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    words = ["memory", "resnet-18", "--ranks", "8", "--optimizer", "SOAP", "--optimizer", "AdamW"]
    assert main([*words, "--json"]) == 0
    lines = {line["optimizer"]: line for line in json.loads(capsys.readouterr().out)}
    told = metrize.predict_sharded(KNOWN["ResNet-18"](), metrize.SOAP, 8)
    assert lines["SOAP"]["collectives"] == told.collectives == 2
    for share, expected in (("mean", told.mean), ("most", told.most)):
        assert lines["SOAP"][share] == {**vars(expected), "total": expected.total}
    assert main([*words, "--fits", "1", "--picture", str(tmp_path / "bytes.png")]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    at = next(i for i, row in enumerate(rows) if row[:1] == ["SOAP"])
    sent = [sizes.written(each.sent).split() for each in (told.mean, told.most)]
    assert [row[-4:] for row in rows[at : at + 2]] == [["yes", *each, "2"] for each in sent]
    assert main([*words, "--in-backward"]) == 2
    assert main([*words[:3], "0"]) == 2
    assert "at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (999.6, "1.00 kB"), (1e3, "1.00 kB")])
def test_sizes_are_written_in_the_unit_that_suits_them(count, text):
    assert sizes.written(count) == text


def test_a_size_has_three_digits_whatever_it_is():
    for power in range(3, 17):
        for factor in (1.0, 1.234, 9.995, 9.999):
            number, unit = sizes.written(factor * 10**power).split()
            assert len(number.replace(".", "").lstrip("0")) == 3 or unit == "PB"
            assert 1 <= float(number) < 1000 or unit == "PB"
            assert float(number) * sizes.unit(factor * 10**power)[0] == pytest.approx(factor * 10**power, rel=6e-3)


def test_small_models_have_numbers_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", "digits", "--optimizer", "AdamW"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["AdamW"])
    assert row.split()[1:3] == ["620", "kB"]


def test_a_task_and_a_picture(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "bytes.png"
    assert main(["memory", "digits", "--optimizer", "Muon", "--picture", str(picture)]) == 0
    assert "Muon" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_is_unknown_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", "gpt-9"]) == 2
    assert "GPT-2 small" in capsys.readouterr().err
    assert main(["memory", "GPT-2 small", "--optimizer", "Adma"]) == 2
    assert "Adma" in capsys.readouterr().err
    assert main(["memory"]) == 0
    assert "T5-small" in capsys.readouterr().out
