"""Kept soft tokens: what they are taught, and the plug that comes of it, in a tiny form."""

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from export import kept
from export.models.kept import KeptHead
from export.training.distil import compare, start_rows
from export.training.kept_run import Run
from ppedge.errors import PlugError
from ppedge.plug.plug import Plug
from tests import tiny_plug
from tests.export.test_turn_sampler import AUTHORS

SETTINGS = "--tasks 6 --steps 4 --batch 8 --rows 2 --rank 3 --answer 6 --save-every 2"
SETTINGS += " --dtype float32 --shares 0=0.4,6=0.2,8=0.4 --lr 0.05"


@pytest.fixture
def plug(tmp_path, tiny_gguf):
    folder = tiny_plug.write(tmp_path / "plug", tiny_gguf, template=tiny_plug.CHAT_TEMPLATE)
    return tiny_plug.add_golden(folder, ("Fix a leak", ""))


@pytest.fixture
def run(plug, lamp_folder, tmp_path, tiny_gguf, corpus, capsys):
    """Teach a few steps; returns the new plug's folder and what was printed."""
    authors = tmp_path / "authors.json"
    people = [{"source": a.source, "author": a.author, "notes": a.notes} for a in AUTHORS]
    authors.write_text(json.dumps({"people": people}))
    given = [plug, tmp_path / "new", "--data", lamp_folder, "--llm", tiny_gguf]
    given += ["--corpus", corpus, "--authors", authors, "--out", tmp_path / "kept.pt"]
    given += SETTINGS.split()

    def run(*more):
        kept.main([str(word) for word in (*given, *more)])
        return tmp_path / "new", capsys.readouterr().out

    return run


def losses_of(printed):
    """The losses of dev people by step."""
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith('{"step"')]
    return {line["step"]: line["dev"] for line in lines}


def test_a_plug_comes_of_it_that_says_what_was_taught(run, plug, tmp_path):
    folder, printed = run()
    found, before = Plug(folder), Plug(plug)
    assert found.manifest.kept is not None
    assert found.manifest.kept.n_soft == 2
    # All that a store hangs on is as it was.
    assert found.space.layout == before.space.layout
    state = torch.load(tmp_path / "kept.pt", weights_only=True)["head"]
    pooled = np.linspace(-1, 1, tiny_plug.D_VALUE, dtype=np.float32)
    down, up = state["down.weight"].numpy(), state["up.weight"].numpy()
    wanted = up @ (down @ pooled) + state["up.bias"].numpy()
    np.testing.assert_allclose(found.project_kept(pooled).ravel(), wanted, rtol=1e-4, atol=1e-6)
    assert max(found.golden_differences().values()) < 1e-4
    assert "kept soft tokens" in found.golden_differences()
    assert up.any()
    told = losses_of(printed)
    assert list(told) == [0, 2, 4]
    assert told[4]["first token"] < told[0]["first token"]
    assert found.manifest.about["kept soft tokens"]["nats of dev people"] == told[4]


def test_an_interrupted_one_goes_on_to_the_same(run, tmp_path):
    whole, _ = run()
    shutil.move(whole, tmp_path / "whole")
    (tmp_path / "kept.pt").unlink()
    step = Run.take_step
    with pytest.MonkeyPatch.context() as patch:

        def stopped(run):
            if run.step == 3:
                raise KeyboardInterrupt
            return step(run)

        patch.setattr(Run, "take_step", stopped)
        with pytest.raises(SystemExit) as ended:
            run()
        assert ended.value.code == 130
    halves, printed = run()
    assert "resumed at step 2" in printed
    one, other = (Plug(each).project_kept(np.ones(tiny_plug.D_VALUE, np.float32))
                  for each in (tmp_path / "whole", halves))  # fmt: skip
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_checkpoint_of_other_settings_is_refused(run, tmp_path):
    run()
    shutil.rmtree(tmp_path / "new")
    with pytest.raises(SystemExit, match="was trained with another lr; give the same"):
        run("--lr", "0.01")
    (tmp_path / "kept.pt").write_bytes(b"no checkpoint")
    with pytest.raises(SystemExit, match="is not a checkpoint"):
        run()


def test_a_folder_that_exists_is_refused_before_anything_is_done(run, tmp_path):
    (tmp_path / "new").mkdir()
    with pytest.raises(SystemExit, match="exists already"):
        run()
    assert not (tmp_path / "kept.pt").exists()


def test_a_plug_that_has_some_is_given_others(run, plug, tmp_path):
    first, _ = run()
    shutil.rmtree(plug)
    shutil.move(first, plug)
    (tmp_path / "kept.pt").unlink()
    again, _ = run("--rows", 3)
    assert Plug(again).manifest.kept.n_soft == 3
    assert max(Plug(again).golden_differences().values()) < 1e-4


def test_what_would_fail_at_the_end_is_refused_at_once(run, plug, tmp_path, capsys):
    with pytest.raises(SystemExit) as refused:
        run("--out", tmp_path / "nowhere" / "kept.pt")
    assert refused.value.code == 2
    assert "there is no folder" in capsys.readouterr().err
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", plug)
    shutil.rmtree(plug)
    shutil.move(packed, plug)
    with pytest.raises(SystemExit, match="a packed plug cannot be copied; unpack it first"):
        run()


def test_a_plug_without_kept_soft_tokens_says_so(plug):
    with pytest.raises(PlugError, match="has no kept soft tokens"):
        Plug(plug).project_kept(np.zeros(tiny_plug.D_VALUE, np.float32))


def test_losses_are_those_of_the_formula():
    torch.manual_seed(0)
    taught, said = torch.randn(2, 5, 7)
    tokens = torch.tensor([1, 2, 3, 4, 5])
    found = compare(taught, said, tokens, [4, 1])
    p, q = taught.softmax(-1), said.softmax(-1)
    divergence = (p * (p / q).log()).sum(-1)
    assert found.first.tolist() == pytest.approx([divergence[0].item(), divergence[4].item()])
    assert found.rest.tolist() == pytest.approx([divergence[1:4].mean().item(), 0.0])
    nll = F.cross_entropy(said, tokens, reduction="none")
    assert found.nll.tolist() == pytest.approx([nll[:4].mean().item(), nll[4].item()], rel=1e-5)
    weighed = found.weighed(0.5)
    assert weighed[1].item() == pytest.approx((divergence[4] + 0.5 * nll[4]).item(), rel=1e-5)
    same = compare(taught, taught, tokens, [4, 1])
    assert same.first.abs().max() < 1e-6


def test_a_head_begins_with_the_same_for_everybody(frozen):
    start = start_rows(frozen, 3, "two words")
    head = KeptHead(5, start, 2)
    said = head(torch.randn(4, 5))
    assert said.shape == (4, 3, frozen.table.shape[1])
    assert torch.equal(said[0], start)
    ids = frozen.tokens("two words", special=False)
    assert torch.equal(start[0], frozen.table[ids[0]].float())
