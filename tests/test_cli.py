"""The command line as its user sees it: words in, files, words and an exit status out."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import metrize
from metrize.cli import main
from metrize.cli.progress import watching
from metrize.lab import compare as compare_module
from metrize.lab import trainer
from metrize.lab.config import RunConfig
from metrize.lab.data import mnist
from metrize.lab.events import Began, Evaluated, Event, Stepped
from metrize.lab.launch import ProcessError
from metrize.lab.runs import Comparison
from metrize.lab.tasks import TASKS
from metrize.lab.tasks.classification import PAPER

TINY = ["--task=text", "--steps=6", "--batch-size=4", "--eval-every=2", "--lr=0.01"]
TINY += [word for key in ("width=16", "layers=1", "heads=2", "context=16") for word in ("--model", key)]

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    text = tmp_path / "text"
    text.write_text("".join(f"{i} squared is {i * i}.\n" for i in range(400)))
    return [*TINY, "--text-file", "text"]


def losses(folder: Path) -> list[Any]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["kind"], line["step"], line.get("loss")) for line in lines]


def stop_at_step_3(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    """The next run is stopped there, as by Ctrl-C; those after it are not."""
    real, count = trainer.train, iter(range(1, 1000))

    def stopped(*args: Any, **kwargs: Any) -> Any:
        return real(*args, **kwargs, stop=lambda: next(count) == 3)

    monkeypatch.setattr(module, "train", stopped)


def test_help_names_the_commands(capsys: Output) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in ("train", "compare", "report", "list", "data"))


def test_version(capsys: Output) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == metrize.__version__


@pytest.mark.parametrize(
    "words", [[], ["train"], ["compare"], ["report"], ["list"], ["plan"], ["memory"], ["data", "mnist"]]
)
def test_help_does_not_wait_for_torch(words: list[str]) -> None:
    code = (
        "import sys; from metrize.cli import main; status = main(sys.argv[1:]); "
        "heavy = {'torch', 'numpy', 'matplotlib', 'jinja2'} & set(sys.modules); print(heavy, file=sys.stderr); "
        "sys.exit(status)"
    )
    for flag in ["--help", *([] if words else ["--version"])]:
        run = subprocess.run([sys.executable, "-c", code, *words, flag], capture_output=True, text=True, check=True)
        assert run.stderr == "set()\n"
        assert run.stdout


def test_the_package_runs_as_a_module() -> None:
    run = subprocess.run([sys.executable, "-m", "metrize", "nothing"], capture_output=True, text=True)
    assert run.returncode == 2
    assert "nothing" in run.stderr
    run = subprocess.run([sys.executable, "-m", "metrize", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == metrize.__version__


def test_list_shows_the_catalogue(capsys: Output) -> None:
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in metrize.catalogue())
    assert str(metrize.SGD.recipe()) in text
    assert "step_size=Given()" in text
    assert all(name in text for name in TASKS)
    assert "SymplecticStiefel()" in text


def test_list_as_json_is_recipes_and_tasks_and_nothing_else(capsys: Output) -> None:
    assert main(["list", "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    listed, tasks = output["optimizers"], output["tasks"]
    assert list(listed) == list(metrize.catalogue())
    assert list(tasks) == list(TASKS)
    assert (tasks["digits"]["space"], tasks["sequence"]["space"]) == (None, "Orthogonal()")
    assert tasks["digits"]["figures"] == "accuracy"
    recipe = metrize.Adam.recipe()
    assert listed["Adam"]["space"] is None
    assert listed["Adam"]["rule"] == str(recipe.rule)
    assert list(listed["Adam"]) == [field.name for field in dataclasses.fields(recipe)]


def test_every_field_of_a_run_has_its_option(tiny: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[RunConfig] = []
    monkeypatch.setattr(compare_module, "check", seen.extend)
    monkeypatch.setattr(trainer, "train", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
    words = "--optimizer SGD --option momentum=0.5 --option nesterov=True --space Stiefel() --seed 3 --threads 2"
    words += " --nproc 2 --schedule wsd --warmup 0.5 --clip 1 --accumulate 2 --dtype bf16 --weight-decay 0.1"
    main(["train", *tiny, *words.split(), "--checkpoint-every", "5", "--data-root", "data"])
    assert seen == [
        RunConfig(
            task="text",
            optimizer="SGD",
            space="Stiefel()",
            lr=0.01,
            options={"momentum": 0.5, "nesterov": True},
            model={"width": 16, "layers": 1, "heads": 2, "context": 16},
            steps=6,
            batch_size=4,
            seed=3,
            eval_every=2,
            checkpoint_every=5,
            data_root=str(tmp_path / "data"),
            text_file=str(tmp_path / "text"),
            threads=2,
            nproc=2,
            schedule="wsd",
            warmup=0.5,
            clip=1.0,
            accumulate=2,
            dtype="bf16",
            weight_decay=0.1,
        )
    ]
    unset = [field.name for field in dataclasses.fields(RunConfig) if getattr(seen[0], field.name) == field.default]
    assert unset == [], "this test sets every field to something else than its default"


def test_without_options_a_run_is_the_default_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[RunConfig] = []
    monkeypatch.setattr(compare_module, "check", seen.extend)
    monkeypatch.setattr(trainer, "train", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
    main(["train"])
    assert seen == [RunConfig()]


def test_the_task_may_come_first_and_brings_its_space(capsys: Output) -> None:
    words = ["--steps", "3", "--eval-every", "0", "--batch-size", "16", "--model", "hidden=8", "--model", "by=row"]
    assert main(["train", "sequence", *words]) == 0
    assert main(["train", "--task", "sequence", *words, "--space", "none"]) == 0
    folders = [Path("runs/sequence-adam-on-orthogonal-seed0"), Path("runs/sequence-adam-seed0")]
    assert [RunConfig.load(folder).space for folder in folders] == ["Orthogonal()", None]
    assert "accuracy" in capsys.readouterr().out


def test_compare_takes_the_task_s_methods_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_module, "check", lambda configs: None)
    monkeypatch.setattr(compare_module, "train", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["compare", "subspace"]) == 130
    setting = RunConfig("subspace")
    methods = [compare_module.parse_method(sentence, setting) for sentence in TASKS["subspace"].methods]
    assert Comparison.load(Path("runs/subspace-comparison")).methods == methods


def test_train_prints_its_figures_and_draws_its_report(tiny: list[str], capsys: Output) -> None:
    assert main(["train", *tiny, "--space", "Stiefel()"]) == 0
    folder = Path("runs/text-adam-on-stiefel-seed0")
    text = capsys.readouterr().out
    assert "step 6 of 6" in text
    assert "steps/s" in text
    assert f"{json.loads((folder / 'summary.json').read_text())['final_eval_loss']:.4f}" in text
    assert f"report: {folder / 'report.html'}" in text
    assert (folder / "report.html").is_file()


def test_an_interrupted_run_says_how_to_go_on_and_goes_on(
    tiny: list[str], capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["train", *tiny, "--out", "whole"]) == 0
    stop_at_step_3(monkeypatch, trainer)
    assert main(["train", *tiny, "--out", "stopped"]) == 130
    *_, last = capsys.readouterr().out.splitlines()
    assert last == "stopped; go on with: metrize train --resume stopped"
    assert main(last.split()[-3:]) == 0
    assert losses(Path("stopped")) == losses(Path("whole"))


@pytest.mark.slow
def test_several_processes_train_one_run_and_another_number_goes_on(tiny: list[str], capsys: Output) -> None:
    assert main(["train", *tiny, "--nproc", "2", "--checkpoint-every", "4", "--out", "run"]) == 0
    assert "step 6 of 6" in capsys.readouterr().out
    assert Path("run/report.html").is_file()
    before = losses(Path("run"))
    Path("run/summary.json").unlink()
    shutil.rmtree("run/checkpoint-6")
    assert main(["train", "--resume", "run", "--nproc", "1"]) == 0
    assert RunConfig.load(Path("run")).nproc == 1
    for (kind, step, loss), (*same, other) in zip(losses(Path("run")), before, strict=True):
        assert [kind, step, pytest.approx(loss, abs=1e-4)] == [*same, other]


def test_a_dead_process_is_named_and_how_to_go_on(
    tiny: list[str], capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*args: Any, **kwargs: Any) -> None:
        raise ProcessError("process 1 of 2 (counted from 0) was ended by SIGKILL; resume the run")

    monkeypatch.setattr(trainer, "train_together", die)
    assert main(["train", *tiny, "--nproc", "2", "--out", "run"]) == 2
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "process 1 of 2 (counted from 0) was ended by SIGKILL" in error
    assert "go on with: metrize train --resume run" in error


def test_compare_prints_one_table_and_goes_on_where_it_stopped(
    tiny: list[str], capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at_step_3(monkeypatch, compare_module)
    words = ["compare", *tiny, "--method", "Adam", "--method", "SGD lr=0.1 on Stiefel()", "--seeds", "2"]
    assert main([*words, "--out", "runs", "--target", "9"]) == 130
    *_, last = capsys.readouterr().out.splitlines()
    assert last == "stopped; go on with: metrize compare --resume runs"
    assert main(last.split()[-3:]) == 0
    text = capsys.readouterr().out
    assert "4 of 4: sgd-on-stiefel-lr-0.1-seed1" in text
    assert "±" in text
    assert "target: held-out loss 9.0000" in text
    assert len(list(Path("runs").glob("*/summary.json"))) == 4


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        (["lr=1e-3:1e-1"], "write name=first:last:count"),
        (["lr=0:1:3"], "both ends are above 0"),
        (["momentun=0.5,0.9"], "momentun"),
        (["lr=1e-3,1e-2", "lr=1"], "swept twice"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_one_line(tiny: list[str], sweep: list[str], said: str, capsys: Output) -> None:
    flags = [word for one in sweep for word in ("--sweep", one)]
    assert main(["compare", *tiny, "--method", "Adam", "--method", "SGD", *flags, "--out", "new"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not Path("new").exists()


def test_a_sweep_ends_in_a_verdict_and_a_table_of_all_its_trials(tiny: list[str], capsys: Output) -> None:
    assert (
        main(["compare", *tiny, "--method", "Adam", "--method", "SGD", "--sweep", "lr=1e-3,1e-2", "--out", "new"]) == 0
    )
    assert "Not separated: " in capsys.readouterr().out
    assert main(["report", "new", "--csv", "new.csv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"].startswith("Not separated: ")
    header, *lines = Path("new.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in lines] == ["trial"] * 4 + ["run"] * 2
    assert header.startswith("place,kind,method,status,")


def test_compare_takes_the_four_of_the_paper_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[RunConfig] = []
    monkeypatch.setattr(compare_module, "check", seen.extend)
    monkeypatch.setattr(compare_module, "train", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["compare", "--seeds", "3"]) == 130
    assert seen == [compare_module.parse_method(sentence, RunConfig()) for sentence in PAPER]
    assert Comparison.load(Path("runs/digits-comparison")).seeds == 3


def test_json_is_all_that_is_printed(tiny: list[str], capsys: Output) -> None:
    assert main(["train", *tiny, "--json", "--out", "run"]) == 0
    trained, progress = capsys.readouterr()
    assert "step 6 of 6" in progress
    assert main(["report", "run", "--json", "--target", "9"]) == 0
    drawn = json.loads(capsys.readouterr().out)
    assert main(["compare", *tiny, "--method", "Adam", "--json", "--out", "runs"]) == 0
    compared = json.loads(capsys.readouterr().out)
    summary = json.loads(Path("run/summary.json").read_text())
    for told in (json.loads(trained), drawn, compared):
        assert [row["label"] for row in told["rows"]] == ["Adam"]
        assert told["rows"][0]["final_eval_loss"]["mean"] == summary["final_eval_loss"]
        assert Path(told["page"]).is_file()
    assert (drawn["target"], drawn["rows"][0]["steps_to_target"]["mean"]) == (9.0, 0)


def test_report_draws_again(tiny: list[str], capsys: Output) -> None:
    main(["train", *tiny, "--out", "run"])
    page = Path("run/report.html")
    before = page.read_text()
    page.unlink()
    assert main(["report", "run"]) == 0
    assert page.read_text() == before


def test_data_mnist_says_where_the_files_are(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "fetch_mnist", lambda root: [root / "images", root / "labels"])
    assert main(["data", "mnist", "--data-root", "here"]) == 0
    assert capsys.readouterr().out.split() == ["here/images", "here/labels"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("frobnicate", "frobnicate"),
        ("train --frobnicate", "frobnicate"),
        ("train --steps 0", "--steps"),
        ("train --seeds 2", "--seeds"),
        ("train --nproc 0", "--nproc"),
        ("train --nproc 3", "3 processes cannot share a batch of 128 samples evenly"),
        ("train --resume taken --nproc 3", "3 processes cannot share"),
        ("train --optimizer Adma", "did you mean"),
        ("train --task digit", "did you mean"),
        ("train digit", "did you mean"),
        ("compare wive", "did you mean"),
        ("train --space Ball()", "Ball"),
        ("train --option momentum", "name=value"),
        ("train --option momentm=0.5", "momentm"),
        ("train --model layres=1", "layres"),
        ("train --task mnist", "--data-root"),
        ("train --task mnist --data-root nowhere", "metrize data mnist"),
        ("train --out taken", "taken holds a run"),
        ("train --resume nowhere", "nowhere/config.json"),
        ("train --optimizer SGD --option momentm=0.5", "did you mean 'momentum'"),
        ("train --optimizer GaLore --option perod=5", "did you mean 'period'"),
        ("train --model layres=1", "did you mean 'layers'"),
        ("train --model layers=1 skip=True", "write the flag before it again"),
        ("train digits more", "unexpected: more"),
        ("memory digits --optimizer AdamW Muon SOAP", "--optimizer AdamW --optimizer Muon --optimizer SOAP"),
        ("memory digits --optimizer Adma", "did you mean 'Adam'"),
        ("memory nope", "unknown model 'nope'"),
        ("plan nope", "unknown model 'nope'"),
        ("plan resnet-18", "which `metrize memory` reads"),
        ("compare --method AdamW+lr", "'lr' has no value"),
        ("compare --method SGD+lr=0.1+nesterov", "'nesterov' has no value"),
        ("compare --method SGD+lr=abc", "lr='abc' is no number"),
        ("train --resume taken --steps 7", "leave the other options out"),
        ("compare --method Adam --method Adam", "the same"),
        ("compare --method Adam=", "Adam="),
        ("compare --resume taken", "taken/comparison.json"),
        ("compare --resume taken --seeds 2", "leave the other options out"),
        ("compare --out taken", "taken holds runs"),
        ("report nowhere", "no finished run in nowhere"),
        ("report", "FOLDER"),
    ],
)
def test_an_error_the_user_can_mend_is_one_panel_and_status_2(words: str, reason: str, capsys: Output) -> None:
    Path("taken").mkdir()
    RunConfig().save(Path("taken"))
    assert main([word.replace("+", " ") for word in words.split()]) == 2
    out, err = capsys.readouterr()
    assert reason.lower() in " ".join(err.replace("│", " ").split()).lower()
    assert (out, err.count("error: "), "Traceback" in err) == ("", 1, False)
    assert sorted(path.name for path in Path(".").rglob("*")) == ["config.json", "taken"]


@pytest.mark.parametrize(
    ("module", "name", "bug"),
    [(compare_module, "check", KeyError("a bug")), (trainer, "train", ValueError("a bug"))],
)
def test_an_error_of_ours_keeps_its_traceback(
    module: Any, name: str, bug: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise bug

    monkeypatch.setattr(compare_module, "check", lambda configs: None)
    monkeypatch.setattr(module, name, broken)
    with pytest.raises(type(bug), match="a bug"):
        main(["train"])


@pytest.mark.parametrize(("package", "word", "extra"), [("cyclopts", "list", "cli"), ("matplotlib", "train", "plot")])
def test_a_missing_extra_is_named(package: str, word: str, extra: str) -> None:
    code = f"import sys; sys.modules['{package}'] = None; from metrize.cli import main; sys.exit(main(['{word}']))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr.splitlines() == [f"metrize: {package} is not installed; pip install 'metrize[{extra}]'"]
    assert result.returncode == 2
    assert not any(Path(".").iterdir())


def feed(names: list[str]) -> None:
    with watching(names) as watch:
        for name in names:
            events: list[Event] = [Began(Path(name), "Adam", first_step=5, steps=25, parameters=10)]
            events += [Stepped(step, step / 10, 0.5) for step in range(6, 26)]
            for event in [*events, Evaluated(25, 2.5, 0.25, {"accuracy": 0.9})]:
                watch(event)


def test_a_log_gets_a_line_every_tenth_of_a_run(capsys: Output) -> None:
    feed(["a", "b"])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if ": " in line] == ["1 of 2: a", "2 of 2: b"]
    steps = [int(line.split()[1]) for line in lines if line.startswith("  step")]
    assert steps == 2 * [8, 10, 13, 15, 18, 20, 23, 25]
    assert "loss 0.5000" in lines[1]
    assert lines[-1].endswith("0:00:00 left")


def test_the_pace_of_a_resumed_run_counts_its_own_steps_only(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 102.0])
    monkeypatch.setattr("metrize.cli.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))
    with watching(["a"]) as watch:
        watch(Began(Path("a"), "Adam", first_step=10, steps=50, parameters=10))
        watch(Stepped(20, 2.0, 0.5))
    assert capsys.readouterr().out.splitlines()[-1].endswith("5.0 steps/s  0:00:06 left")


def test_a_terminal_gets_a_bar(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    feed(["a", "b"])
    text = capsys.readouterr().out
    assert all(words in text for words in ("2 of 2: b", "25/25", "loss 0.5000", "held-out 0.2500", "steps/s"))
    assert "  step" not in text
