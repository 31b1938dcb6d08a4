"""Run folders that someone else may have written to: links, planted checkpoints, damaged files; all commands."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metrize.cli import main
from metrize.lab import checkpoint, durable
from metrize.lab.config import RunConfig
from metrize.lab.trainer import train

pytest.importorskip("cyclopts")
SETTING = ["subspace", "--steps", "2", "--checkpoint-every", "1"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run and a finished comparison."""
    folder = tmp_path_factory.mktemp("made")
    assert main(["train", *SETTING, "--out", str(folder / "run")]) == 0
    assert main(["compare", *SETTING, "--method", "Adam", "--out", str(folder / "comparison")]) == 0
    return folder


@pytest.fixture(autouse=True)
def in_a_copy(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def assert_one_line(words: list[str], capsys: Capture, *told: str) -> None:
    capsys.readouterr()
    assert main(words) == 2
    _, err = capsys.readouterr()
    assert len(err.splitlines()) == 1, err
    assert err.startswith("error: ")
    assert all(word in err for word in told), err


def _edited(**changes: Any) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        content = json.loads(file.read_text().splitlines()[0] if file.suffix == ".jsonl" else file.read_text())
        (content["methods"][0] if "methods" in content else content).update(changes)
        file.write_text(json.dumps(content) + "\n")

    return damage


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "empty": lambda file: file.write_bytes(b""),
    "list": lambda file: file.write_bytes(b"[]\n"),
    "torn": lambda file: file.write_bytes(file.read_bytes()[:12]),
    "null": lambda file: file.write_bytes(b"null\n"),
    "bytes": lambda file: file.write_bytes(b"\xff\xfe\x00\n"),
    "newer": _edited(newer=1),
    "type": _edited(steps="many", step="many"),
    "folder": _folder,
}
COMMANDS = {
    "run/config.json": (["report", "run"], ["train", "--resume", "run"]),
    "run/summary.json": (["report", "run"],),
    "run/metrics.jsonl": (["report", "run"], ["train", "--resume", "run"]),
    "comparison/comparison.json": (["report", "comparison"], ["compare", "--resume", "comparison"]),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("file", "words"), [(file, words) for file, commands in COMMANDS.items() for words in commands], ids=str
)
def test_a_damaged_folder_is_one_line(file: str, words: list[str], damage: str, capsys: Capture) -> None:
    DAMAGES[damage](Path(file))
    assert_one_line(words, capsys, Path(file).name)


@pytest.mark.parametrize("words", [["report", "run"], ["train", "--resume", "run"]], ids=str)
def test_a_task_of_another_version_is_one_line(words: list[str], capsys: Capture) -> None:
    _edited(task="tomorrow")(Path("run/config.json"))
    assert_one_line(words, capsys, "unknown task 'tomorrow'")


@pytest.mark.parametrize("folder", ["empty", "nowhere", "file"])
@pytest.mark.parametrize("words", [["report"], ["train", "--resume"], ["compare", "--resume"]], ids=str)
def test_what_is_no_run_is_one_line(folder: str, words: list[str], capsys: Capture) -> None:
    Path("empty").mkdir()
    Path("file").write_text("{}")
    assert_one_line([*words, folder], capsys, folder)


class Planted:
    """Writes a file when it is read by pickle."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def plant(run: Path) -> None:
    draft = checkpoint.draft_of(run / "checkpoint-9999")
    draft.mkdir()
    (draft / ".metadata").write_bytes(pickle.dumps(Planted()))
    header = {"config": RunConfig.load(run).plain(), "step": 1, "seconds": 0.0, "optimizer_seconds": []}
    checkpoint.seal(run / "checkpoint-9999", header)
    assert (run / "checkpoint-9999" / ".metadata").exists()


def test_a_run_of_one_process_reads_no_planted_folder(made: Path, capsys: Capture) -> None:
    plant(Path("run"))
    shutil.copy(made / "run" / "checkpoint-2.pt", "run")
    assert_one_line(["train", "--resume", "run"], capsys, "checkpoint-9999", "go on from checkpoint-2.pt")
    assert not Path("executed").exists()
    shutil.rmtree("run/checkpoint-9999")
    assert main(["train", "--resume", "run"]) == 0


def test_a_linked_checkpoint_neither_stops_a_save_nor_loses_what_it_points_to(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "precious").write_text("kept")
    run = tmp_path / "linked"
    run.mkdir()
    for name in ("checkpoint-2", "checkpoint-3.pt", "checkpoint-1.old.tmp", "checkpoint-4.pt.tmp", "checkpoint-6.pt"):
        (run / name).symlink_to(disk / "precious" if ".pt" in name else disk)
    for step in (4, 6, 8):
        checkpoint.save(run, step, {"config": {}}, {})
    assert {path.name for path in run.iterdir()} == {"checkpoint-6.pt", "checkpoint-8.pt"}
    assert not any(path.is_symlink() for path in run.iterdir())
    assert (disk / "precious").read_text() == "kept"


@pytest.mark.parametrize("link", ["checkpoint-8", "checkpoint-8.tmp", "checkpoint-8.old.tmp"])
@pytest.mark.parametrize("dangling", [False, True])
def test_a_sealed_checkpoint_takes_the_place_of_a_link(link: str, dangling: bool, tmp_path: Path) -> None:
    run, disk = tmp_path / "linked", tmp_path / "disk"
    run.mkdir()
    if not dangling:
        disk.mkdir()
    (run / link).symlink_to(disk)
    checkpoint.remove(run / "checkpoint-8.tmp")  # as the saving processes do
    (run / "checkpoint-8.tmp").mkdir()
    path = checkpoint.seal(run / "checkpoint-8", {"config": {}})
    assert {each.name for each in run.iterdir()} == {"checkpoint-8"}
    assert path.is_dir()
    assert not path.is_symlink()
    assert dangling or not list(disk.iterdir())


def test_no_file_of_a_run_is_written_through_a_link(tmp_path: Path, made: Path) -> None:
    """Every file that a run, its comparison and its report leave, and the draft of each."""
    for kind, config in (("run", RunConfig.load(made / "run")), ("comparison", None)):
        names = [path.name for path in (made / kind).iterdir() if path.is_file()]
        assert {"report.html", "summary.json"} < set(names)
        folder, victims = tmp_path / f"fresh-{kind}", tmp_path / f"victims-{kind}"
        folder.mkdir()
        victims.mkdir()
        for name in names:
            for link in (name, durable.draft_of(Path(name)).name):
                (victims / link).write_text("kept")
                if link not in ("config.json", "comparison.json"):  # by which a folder that is in use is known
                    (folder / link).symlink_to(victims / link)
        if config is not None:
            train(config, folder)
        else:
            for run in filter(Path.is_dir, (made / kind).iterdir()):
                shutil.copytree(run, folder / run.name)
            shutil.copy(made / kind / "comparison.json", folder)
        assert main(["report", str(folder)]) == 0
        assert {victim.read_text() for victim in victims.iterdir()} == {"kept"}
        written = {path.name for path in folder.iterdir() if path.is_file() and not path.is_symlink()}
        assert set(names) <= written


def test_lines_are_not_appended_through_a_link(tmp_path: Path) -> None:
    victim, link = tmp_path / "victim", tmp_path / "metrics.jsonl"
    victim.write_text("kept")
    link.symlink_to(victim)
    with pytest.raises(durable.NotWrittenError, match=r"metrics\.jsonl could not be written"):
        durable.append(link, "more")
    assert victim.read_text() == "kept"
