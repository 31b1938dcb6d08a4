"""Checkpoints that earlier versions wrote load, and the runs go on to the numbers they had then."""

from __future__ import annotations

import copy
import functools
import tarfile
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from golden_runs import END, FOLDER, SAVED_AT, Net, machine, model_of, optimizer_of, read, train, weights
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

import metrize

TOLERANCE: dict[tuple[str, str], float] = {
    # roots keep to the eigenvalues that their matrix resolves; those below were taken for true ones
    ("Shampoo", "0 free float32"): 2e-2,
    ("Shampoo", "0 free bfloat16"): 4e-2,
    ("DistributedShampoo", "0 free float32"): 1e-6,
    # steps of more than half a radian are polished at once
    ("CAME", "0 Stiefel() float32"): 1e-6,
    # what bfloat16 rounds off is kept since then
    ("Prodigy", "0 free bfloat16"): 1e-2,
    ("FreeMuon", "0 free bfloat16"): 1e-2,
}
"""Entries ``(file, name)`` whose steps differ from those of the version that wrote them, with the reason of each."""

ELSEWHERE = 1e-4
"""On machines whose products of matrices have other last bits; a state that is lost changes more."""

FILES = sorted(FOLDER.glob("*.pt.xz"))


def check(entry: str, after: dict[str, Tensor], expected: dict[str, Tensor], written_on: str, tolerance: float) -> None:
    assert after.keys() == expected.keys()
    allowed = tolerance if written_on == machine() else max(tolerance, ELSEWHERE)
    for name, value in after.items():
        assert value.dtype == expected[name].dtype
        told = functools.partial("{}, {}: {}".format, entry, name)
        torch.testing.assert_close(value, expected[name], rtol=allowed, atol=allowed, msg=told)


@pytest.mark.filterwarnings("ignore:weight_decay=0.1 does nothing")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name.partition(".")[0])
def test_kept_checkpoints_go_on(file: Path) -> None:
    content = read(file)
    for name, entry in content["entries"].items():
        model = model_of(entry)
        optimizer = optimizer_of(entry, model)
        model.load_state_dict(entry["model"])
        optimizer.load_state_dict(copy.deepcopy(entry["optimizer"]))
        train(model, optimizer, SAVED_AT, END)
        allowed = TOLERANCE.get((file.name.partition(".")[0], name), 0.0)
        check(f"{file.name}, {name}", weights(model), entry["after"], content["machine"], allowed)


ADAM_MINI = read(FOLDER / "AdamMini.pt.xz")["entries"]


@pytest.mark.parametrize("name", ADAM_MINI)
def test_blocks_that_went_by_names_go_on_however_parameters_are_handed_over(name: str) -> None:
    """And once more from what is saved then."""
    entry = ADAM_MINI[name]
    ends = []
    for params in (lambda model: model, lambda model: list(model.named_parameters())):
        model, saved = model_of(entry), entry["optimizer"]
        model.load_state_dict(entry["model"])
        for _ in range(2):
            optimizer = metrize.AdamMini(params(model))
            optimizer.load_state_dict(copy.deepcopy(saved))
            saved = optimizer.state_dict()
        assert [group["recipe"] for group in optimizer.param_groups] == [
            group["recipe"] for group in entry["optimizer"]["param_groups"]
        ]
        train(model, optimizer, SAVED_AT, END)
        ends.append(weights(model))
    for key, value in ends[0].items():
        assert torch.equal(value, ends[1][key])


def test_other_blocks_than_those_of_names_are_refused_and_nothing_is_changed() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    written = metrize.AdamMini(model, blocks={"?.weight": metrize.Blocks("rows", 2)})
    train(model, written, 0, 1)
    optimizer = metrize.AdamMini(model)
    before = [dict(group) for group in optimizer.param_groups]
    with pytest.raises(ValueError, match=r"'0.weight'"):
        optimizer.load_state_dict(written.state_dict())
    assert [group["params"] for group in optimizer.param_groups] == [group["params"] for group in before]
    assert [group["recipe"] for group in optimizer.param_groups] == [group["recipe"] for group in before]
    metrize.AdamMini(model, blocks={"?.weight": metrize.Blocks("rows", 2)}).load_state_dict(written.state_dict())


def test_numbers_for_names_were_no_reason_for_rows() -> None:
    """In the first version."""
    matrices = nn.ParameterList([torch.ones(3, 2), torch.ones(3, 2)])
    names = [(f"{i}", p) for i, p in enumerate(matrices)]
    written = metrize.AdamMini(names, blocks={"*": metrize.Blocks("tensor")})
    train(matrices, written, 0, 2)
    for params in (names, matrices):
        optimizer = metrize.AdamMini(params)
        optimizer.load_state_dict(written.state_dict())
        assert all("tensor" in group["recipe"] for group in optimizer.param_groups)


def test_the_kept_files_are_all_there_and_small() -> None:
    assert len(FILES) == 40
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 1_500_000


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_kept_folder_of_two_processes_goes_on_with_one(tmp_path: Path) -> None:
    with tarfile.open(FOLDER / "two_processes.tar.xz") as pack:
        pack.extractall(tmp_path, filter="data")
    model = Net()
    optimizer = metrize.SOAP(model, lr=0.02, precondition_frequency=2)
    content = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
    dcp.load(content, checkpoint_id=tmp_path, no_dist=True)
    set_state_dict(model, optimizer, model_state_dict=content["model"], optim_state_dict=content["optimizer"])
    train(model, optimizer, SAVED_AT, END)
    written = torch.load(tmp_path / "after.pt", weights_only=True)
    check("two processes", weights(model), written["after"], written["machine"], 0.0)
