from __future__ import annotations

import importlib
import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import rheobase as rb
from command_line import Run, assert_refused
from rheobase import cli
from rheobase.exchange import checkpoints as models
from test_data import plain, write_tree

SOURCE = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.mid, self.linear = nn.Conv2d(4, 6, 3, stride=2), nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(self.mid(F.relu(self.bn(self.conv(x)))))
        return self.linear(x.mean((2, 3)))

class Pooled(Net):
    def forward(self, x):
        return super().forward(F.max_pool2d(F.relu(x), 2))

class Linear(Net):
    def forward(self, x):
        return self.linear(self.mid(F.relu(self.bn(self.conv(x)))).mean((2, 3)))

class Heads(Net):
    def forward(self, x):
        x = F.relu(self.mid(F.relu(self.bn(self.conv(x)))))
        return {"classes": self.linear(x.mean((2, 3))).softmax(1), "maps": x}

def smooth():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.SiLU(), nn.Flatten(), nn.Linear(72, 3))

def dead():
    net = Net()
    nn.init.constant_(net.bn.bias, -100.0)
    return net

def talkative():
    print("building the network")
    return Net()

def wave():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(28, 3))

def table():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3))

def sized(classes):
    net = Net()
    net.linear = nn.Linear(6, classes)
    return net

def images():
    return torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 3

def interrupted():
    raise KeyboardInterrupt
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "cli_nets.py").write_text(SOURCE)
    rng = np.random.default_rng(0)

    def part(n: int) -> dict[str, np.ndarray]:
        return {"x": rng.integers(0, 256, (n, 8, 8), np.uint8), "y": np.arange(n) % 3}

    train, test = part(30), part(12)
    np.savez(folder / "data.npz", x_train=train["x"], y_train=train["y"], x_test=test["x"], y_test=test["y"])
    np.savez(folder / "wide.npz", images=np.zeros((4, 9, 9), np.uint8), labels=np.zeros(4, int))
    np.savez(folder / "classes.npz", images=test["x"], labels=np.full(12, 3))
    np.savez(folder / "empty.npz", images=np.zeros((0, 8, 8), np.uint8), labels=np.zeros(0, int))
    np.savez(folder / "scaled.npz", images=train["x"].astype(np.float32) / 255, labels=train["y"])
    return folder


def conversion(out: Path, *more: object, model: str = "cli_nets:Net", data: str = "data.npz") -> list[object]:
    folder = ["--folder", "train"] if data == "data.npz" else []
    return ["convert", model, "--data", data, *folder, "--out", out, "--timesteps", 4, *more]


@pytest.fixture(scope="module")
def saved(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network saved by the command, with preprocessing that is not the default."""
    out = tmp_path_factory.mktemp("saved") / "snn"
    options = conversion(out, "--scale", 510, "--mean", 0.25, "--test-folder", "test")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.chdir(home)
    with pytest.raises(SystemExit, match="0"):
        cli.app([str(option) for option in options])
    monkeypatch.undo()
    return out


# The good paths


def test_version_help_and_no_command(run: Run) -> None:
    assert run("--version") == (0, "rheobase 0.1.0\n", "")
    assert "convert" in run("--help").out
    assert run().code == 2


def test_help_loads_no_command() -> None:
    """Nor what commands need: it is there in a fraction of a second."""
    code = "import sys; from rheobase.cli import app; app(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Quantise a trained network's activations" in done.stdout
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "rheobase.cli" in loaded
    assert not loaded & {"torch", "matplotlib", "sklearn", "lightning_fabric", "rheobase.cli.convert"}


@pytest.mark.slow
def test_scikit_learn_is_loaded_when_the_demo_runs() -> None:
    code = "import sys; import rheobase.cli.demo; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_says_what_the_list_says(run: Run, name: str) -> None:
    function = getattr(importlib.import_module(f"rheobase.cli.{name}"), name)
    assert inspect.getdoc(function).splitlines()[0] == cli.COMMANDS[name]  # type: ignore[union-attr]
    options = run(name, "--help").out
    assert "--json" in options
    assert ("--num-calib" in options) == (name in ("convert", "train", "compare", "export"))
    assert ("--grayscale" in options) == (name not in ("export", "demo"))


def test_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "rheobase", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "rheobase 0.1.0\n", "")


@pytest.mark.slow
def test_inspect_lists_sites(run: Run) -> None:
    result = run("inspect", "cli_nets:Net", "--input-shape", "1,8,8")
    assert (result.code, result.err) == (0, "")
    assert "2 activation sites" in result.out
    assert "4×8×8" in result.out


@pytest.mark.slow
def test_inspect_takes_the_shape_from_data(run: Run) -> None:
    result = run("inspect", "cli_nets:Net", "--data", "data.npz", "--folder", "test", "--crop", 6, "--json")
    assert result.code == 0
    assert [site["shape"] for site in result.document["sites"]] == [[4, 6, 6], [6, 2, 2]]


@pytest.mark.slow
def test_inspect_refused_network_shows_everything_and_fails(run: Run) -> None:
    result = run("inspect", "cli_nets:smooth", "--input-shape", "1,8,8")
    assert result.code == 1
    assert "Refused" in result.out
    assert "SiLU" in result.out
    as_json = run("inspect", "cli_nets:smooth", "--input-shape", "1,8,8", "--json")
    assert as_json.code == 1
    assert as_json.document["convertible"] is False
    assert as_json.document["refusals"][0]["remedy"]


@pytest.mark.slow
def test_inspect_saved_network(run: Run, saved: Path) -> None:
    result = run("inspect", saved)
    assert (result.code, result.err) == (0, "")
    assert "RateCoding, T = 4" in result.out
    document = run("inspect", saved, "--json").document
    assert document["timesteps"] == 4
    assert len(document["sites"]) == 2
    assert document["sites"][0]["threshold"][0] > 0
    assert document["calibration"]["preprocessing"]["scale"] == 510


@pytest.mark.slow
def test_convert_writes_a_network_that_loads(run: Run, saved: Path) -> None:
    assert {path.name for path in saved.iterdir()} == {
        "network.json",
        "tensors.safetensors",
        "evaluation.json",
        "accuracy.png",
    }
    network = rb.load(saved)
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 3)
    written = json.loads((saved / "evaluation.json").read_text())
    assert [row["timesteps"] for row in written["rows"]] == [1, 2, 4]
    assert written["images"] == 12


@pytest.mark.slow
def test_convert_prints_one_json_document(run: Run, tmp_path: Path) -> None:
    result = run(*conversion(tmp_path / "out", "--test-folder", "test", "--json", model="cli_nets:talkative"))
    assert result.code == 0
    assert result.document["recipe"]["timesteps"] == 4
    assert result.document["evaluation"]["images"] == 12
    assert result.document["passes"][0]["pass"]["kind"] == "thresholds"
    assert result.err == "building the network\n"


@pytest.mark.slow
def test_convert_tells_notes(run: Run, tmp_path: Path) -> None:
    result = run(*conversion(tmp_path / "out", "--num-calibration-images", 4, model="cli_nets:dead"))
    assert result.code == 0
    assert "fewer than five images" in result.out
    assert "never active on the calibration images" in result.out
    assert "2 sites changed" in result.out


@pytest.mark.slow
def test_convert_with_checkpoint(run: Run, home: Path, tmp_path: Path) -> None:
    sys.path.insert(0, str(home))
    try:
        import cli_nets  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(home))
    trained = cli_nets.Net()
    with torch.no_grad():
        trained.linear.bias += 5
    save_file(trained.state_dict(), tmp_path / "trained.safetensors")
    result = run(*conversion(tmp_path / "out", "--checkpoint", tmp_path / "trained.safetensors"))
    assert result.code == 0
    images = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(rb.load(tmp_path / "out").ann(images), trained.eval()(images))


@pytest.mark.slow
def test_paths_with_a_tilde_and_arguments_of_the_function(
    run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(home / "data.npz", tmp_path)
    torch.save(models.load("cli_nets:sized", options={"classes": 4}).state_dict(), tmp_path / "w.pt")
    (tmp_path / "recipe.yaml").write_text("{method: RateCoding, timesteps: 2}")
    given = ["--checkpoint", "~/w.pt", "--model-option", "classes=4", "--data", "~/data.npz"]
    result = run(
        "convert", "cli_nets:sized", *given, "--folder", "train", "--recipe", "~/recipe.yaml", "--out", "~/snn"
    )
    assert result.code == 0, result.err
    assert run("inspect", "~/snn").code == 0
    assert run("evaluate", "~/snn", "--data", "~/data.npz", "--folder", "test").code == 0
    assert run("inspect", "cli_nets:sized", *given[:4], "--input-shape", "1,8,8").code == 0
    assert_refused(run("inspect", "cli_nets:sized", "--input-shape", "1,8,8"), "--model-option name=value")
    assert_refused(run("inspect", "~/snn", *given[2:4]), "--model-option: has no effect on ~/snn, a saved network")


def test_a_saved_network_is_converted_anew(run: Run, saved: Path, tmp_path: Path) -> None:
    result = run(*conversion(tmp_path / "out", "--method", "OPI", model=str(saved)))
    assert result.code == 0, result.err
    assert "Preprocessing as stored with the network: mean 0.25, scale 510." in result.err
    before, after = rb.load(saved), rb.load(tmp_path / "out")
    images = torch.rand(4, 1, 8, 8)
    assert torch.equal(before.ann(images), after.ann(images))
    assert after.recipe["name"] == "OPI"
    assert after.provenance.calibration["preprocessing"]["scale"] == 510


def test_options_and_recipe_file_make_the_same_network(run: Run, tmp_path: Path) -> None:
    by_option = ["--method", "RateCoding", "--option", "threshold=max", "--option", "initial_potential=0"]
    assert run(*conversion(tmp_path / "a", *by_option)).code == 0
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("method: RateCoding\ntimesteps: 4\nthreshold: max\ninitial_potential: 0\n")
    options = ["--data", "data.npz", "--folder", "train", "--out", tmp_path / "b", "--recipe", recipe]
    assert run("convert", "cli_nets:Net", *options).code == 0
    a, b = rb.load(tmp_path / "a"), rb.load(tmp_path / "b")
    assert a.recipe == b.recipe
    assert a.recipe["calibration"][0]["method"] == "max"
    images = torch.rand(4, 1, 8, 8)
    assert torch.equal(a(images), b(images))


@pytest.mark.slow
def test_seed_chooses_the_calibration_images(run: Run, tmp_path: Path) -> None:
    def digest(seed: int, name: str) -> str:
        result = run(*conversion(tmp_path / name, "--num-calibration-images", 10, "--seed", seed, "--json"))
        return result.document["calibration"]["sha256"]

    assert digest(0, "a") == digest(0, "b") != digest(1, "c")


@pytest.mark.slow
def test_data_from_a_function(run: Run, tmp_path: Path) -> None:
    result = run(*conversion(tmp_path / "out", "--test", "data.npz", "--test-folder", "test", data="cli_nets:images"))
    assert result.code == 0
    evaluated = run("evaluate", tmp_path / "out", "--data", "cli_nets:images", "--json")
    assert evaluated.document["evaluation"]["images"] == 20
    assert evaluated.document["preprocessing"] is None
    assert evaluated.err == ""


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape", "model"), [("signals", (30, 2, 9), "wave"), ("x", (30, 9), "table")])
def test_signals_and_tables(run: Run, tmp_path: Path, name: str, shape: tuple[int, ...], model: str) -> None:
    values = np.random.default_rng(0).normal(size=shape)
    np.savez(tmp_path / "train.npz", **{name: values})
    np.savez(tmp_path / "test.npz", **{name: values, "labels": np.arange(30) % 3})
    given = ["--data", tmp_path / "train.npz", "--mean", ",".join(["0.5"] * shape[1]), "--test", tmp_path / "test.npz"]
    result = run("convert", f"cli_nets:{model}", *given, "--out", tmp_path / "snn", "--timesteps", 4)
    assert result.code == 0, result.err
    result = run("evaluate", tmp_path / "snn", "--data", tmp_path / "test.npz", "--json")
    assert result.document["evaluation"] == json.loads((tmp_path / "snn" / "evaluation.json").read_text())
    unlabelled = run("evaluate", tmp_path / "snn", "--data", tmp_path / "train.npz", "--json").document["evaluation"]
    assert unlabelled["rows"][0]["accuracy"] is None
    given = ["--data", tmp_path / "test.npz", "--test", tmp_path / "train.npz", "--timesteps", 4]
    result = run("convert", f"cli_nets:{model}", *given, "--out", tmp_path / "other")
    assert result.code == 0, result.err
    assert not (tmp_path / "other" / "accuracy.png").exists()


@pytest.mark.slow
def test_a_grayscale_network_is_evaluated_on_arrays_and_on_files(run: Run, tmp_path: Path) -> None:
    write_tree(tmp_path / "tree", {f"{i % 3}/{i}.png": plain(9 * i, 0, 5 * i, width=8, height=8) for i in range(12)})
    pixels = np.stack([np.full((8, 8, 3), (9 * i, 0, 5 * i), np.uint8) for i in range(12)])
    np.savez(tmp_path / "d.npz", images=pixels, labels=np.arange(12) % 3)
    given = ["--grayscale", "--mean", "0.1", "--out", tmp_path / "snn", "--timesteps", 2]
    assert run("convert", "cli_nets:Net", "--data", tmp_path / "tree", *given).code == 0
    found = [run("evaluate", tmp_path / "snn", "--data", tmp_path / name, "--json") for name in ("tree", "d.npz")]
    assert "grayscale True" in found[0].err
    logits = [result.document["evaluation"]["rows"][0]["logit_error"] for result in found]
    assert logits[0] == pytest.approx(logits[1])


def test_max_pooling_is_a_choice(run: Run, tmp_path: Path) -> None:
    refused = run(*conversion(tmp_path / "out", model="cli_nets:Pooled"))
    assert_refused(refused, "max_pool")
    assert run(*conversion(tmp_path / "out", "--max-pool", "gate", model="cli_nets:Pooled")).code == 0


@pytest.mark.slow
def test_one_of_several_outputs_is_a_choice(run: Run, tmp_path: Path) -> None:
    wanted = conversion(tmp_path / "out", "--test-folder", "test", model="cli_nets:Heads")
    assert_refused(run(*wanted), "dict of 2 tensors: 'classes' [4, 3], 'maps' [4, 6, 3, 3]", "output='classes'")
    result = run(*wanted, "--output", "classes", "--json")
    assert result.document["evaluation"]["rows"]
    assert any("softmax: removed from the end" in note for note in result.document["notes"])
    assert run("inspect", "cli_nets:Heads", "--input-shape", "1,8,8", "--output", "maps").code == 0
    assert_refused(run("inspect", tmp_path / "out", "--output", "maps"), "--output", "no effect")


@pytest.mark.slow
def test_sites_at_linear_outputs_are_a_choice(run: Run, tmp_path: Path) -> None:
    graded = ("--method", "Graded", "--option", "iterations=0", "--sites", "all")
    assert_refused(run(*conversion(tmp_path / "out", "--sites", "all", model="cli_nets:Linear")), "rb.Graded")
    assert_refused(run(*conversion(tmp_path / "out", *graded)), "sites", "changes nothing")
    document = run(*conversion(tmp_path / "out", *graded, "--json", model="cli_nets:Linear")).document
    assert [site["name"] for site in document["sites"]] == ["relu", "mid.output"]
    assert document["sites_at"] == "all"
    assert run("inspect", tmp_path / "out", "--json").document["sites_at"] == "all"
    assert_refused(run("inspect", tmp_path / "out", "--sites", "all"), "--sites")
    shown = run("inspect", "cli_nets:Linear", "--input-shape", "1,8,8", "--sites", "all")
    assert "signed, no limit" in shown.out


@pytest.mark.slow
def test_overwrite_replaces_everything_of_the_earlier_network(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(*conversion(out, "--test-folder", "test")).code == 0
    assert (out / "accuracy.png").exists()
    assert run(*conversion(out, "--overwrite")).code == 0
    assert sorted(path.name for path in out.iterdir()) == ["network.json", "tensors.safetensors"]


def test_evaluate_remembers_the_preprocessing(run: Run, saved: Path) -> None:
    result = run("evaluate", saved, "--data", "data.npz", "--folder", "test", "--json")
    assert result.code == 0
    assert "as stored with the network: mean 0.25, scale 510" in result.err
    expected = json.loads((saved / "evaluation.json").read_text())
    assert result.document["evaluation"] == expected
    assert result.document["preprocessing"]["mean"] == [0.25]


def test_evaluate_with_other_preprocessing_and_steps(run: Run, saved: Path) -> None:
    options = ["--data", "data.npz", "--folder", "test", "--timesteps", "8,1", "--fuse", "never"]
    own = run("evaluate", saved, *options, "--json").document
    other = run("evaluate", saved, *options, "--scale", 255, "--json")
    assert "as stored with the network except scale: mean 0.25, scale 255" in other.err
    assert [row["timesteps"] for row in other.document["evaluation"]["rows"]] == [1, 8]
    assert other.document["evaluation"]["data_sha256"] != own["evaluation"]["data_sha256"]


def test_export_to_whole_numbers(run: Run, saved: Path, tmp_path: Path) -> None:
    command = ["export", saved, "--to", "integers", "--out", tmp_path / "whole"]
    data = ["--data", "data.npz", "--folder", "train"]
    document = run(*command, *data, "--target", "speck", "--rounding", "learned", "--json").document
    assert document["units"]["target"]["name"] == "speck"
    assert run("evaluate", tmp_path / "whole", "--data", "data.npz", "--folder", "test").code == 0
    again = run(*command, *data)
    assert again.code == 1
    assert "already exists" in again.err
    assert "8-bit weights" in run(*command, *data, "--overwrite").out
    assert_refused(run(*command), "--data")
    assert_refused(
        run(*command, *data, "--reset", "subtract", "--overwrite"), "--reset", "no effect with --to integers"
    )
    assert_refused(run(*command, *data, "--target", "abacus", "--overwrite"), "abacus", "speck")


def test_export_with_golden_vectors(run: Run, saved: Path, tmp_path: Path) -> None:
    command = ["export", saved, "--to", "integers", "--out", tmp_path / "whole", "--data", "data.npz"]
    command += ["--folder", "train"]
    refused = run(*command, "--golden", 10**6)
    assert refused.code == 1
    assert "images, 1000000 golden vectors were requested. Remedy: " in refused.err
    assert not (tmp_path / "whole").exists()
    document = run(*command, "--golden", 3, "--json").document
    golden = rb.exchange.read_golden_vectors(document["golden"])
    assert golden.pixels.shape[0] == 3
    golden.check(*rb.load(tmp_path / "whole").record(golden.images))  # type: ignore[operator]
    done = run(*command, "--golden", 2, "--fires-when", "exceeded", "--overwrite")
    assert "for 2 images" in done.out
    again = rb.exchange.read_golden_vectors(document["golden"])
    assert again.pixels.shape[0] == 2
    assert run(*command, "--overwrite").code == 0  # without them: those of another network would be left
    assert not Path(document["golden"]).exists()


def test_export_as_onnx(run: Run, saved: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    command = ["export", tmp_path / "whole", "--to", "onnx", "--out", tmp_path / "net.onnx"]
    float_network = run("export", saved, *command[2:])
    assert_refused(float_network, "not on whole numbers", "--to integers")
    data = ["--data", "data.npz", "--folder", "train"]
    assert run("export", saved, "--to", "integers", "--out", tmp_path / "whole", *data).code == 0
    document = run(*command, "--form", "steps", "--spikes", "--json").document
    assert document["form"] == "steps"
    assert len(document["sites"]) == 2
    assert_refused(run(*command), "already exists")
    assert "Saved in" in run(*command, "--overwrite").out
    assert_refused(run(*command, "--form", "counts", "--overwrite"), "--form steps")
    assert_refused(run(*command, "--target", "speck", "--overwrite"), "--target", "no effect with --to onnx")
    refused = run("export", saved, "--to", "nir", "--out", tmp_path / "net.nir", "--spikes")
    assert_refused(refused, "--spikes", "no effect with --to nir")


def test_evaluate_with_early_exit(run: Run, saved: Path) -> None:
    options = ["--data", "data.npz", "--folder", "test", "--early-exit", "--validation-folder", "train"]
    found = run("evaluate", saved, *options, "--json").document["evaluation"]["early_exit"]
    assert found["rows"][-1]["confidence"] is None
    assert found["at_chosen"] in found["rows"]
    assert "early exit" in run("evaluate", saved, *options).out


def test_evaluate_prints_a_table(run: Run, saved: Path) -> None:
    result = run("evaluate", saved, "--data", "data.npz", "--folder", "test", "--fuse", "never")
    assert result.code == 0
    assert "RateCoding on 12 images" in result.out
    assert "ANN" in result.out


@pytest.mark.slow
def test_the_execution_is_chosen_and_told(run: Run, saved: Path, tmp_path: Path) -> None:
    options = ["--data", "data.npz", "--folder", "test", "--fuse", "never"]
    assert "Execution steps:" in run("evaluate", saved, *options).out
    assert run("evaluate", saved, *options, "--execution", "steps", "--json").document["execution"] == "steps"
    result = run(*conversion(tmp_path / "out", "--test-folder", "test", "--execution", "steps", "--json"))
    assert result.document["execution"] == "steps"


def test_an_execution_that_cannot_be_is_refused(run: Run, saved: Path, tmp_path: Path) -> None:
    counts = ["--test-folder", "test", "--execution", "counts"]
    assert_refused(run(*conversion(tmp_path / "out", *counts)), "--execution", "RateCoding", "no closed form")
    assert_refused(run(*conversion(tmp_path / "out", "--execution", "steps")), "--execution", "--test")
    assert not (tmp_path / "out").exists()
    result = run("evaluate", saved, "--data", "data.npz", "--folder", "test", "--scale", 510, "--execution", "counts")
    assert_refused(result, "IntegrateFire", "steps")


def test_warnings_are_one_line(run: Run, tmp_path: Path) -> None:
    result = run(*conversion(tmp_path / "out", data="scaled.npz"))
    assert result.code == 0
    lines = result.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("Warning: scaled.npz: ")


# Errors: one sentence with a remedy on stderr, nothing on stdout


def recipe_file(folder: Path, text: str) -> Path:
    (folder / "recipe.yaml").write_text(text)
    return folder / "recipe.yaml"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--method", "Magic"], ["'Magic' is unknown", "RateCoding"]),
        (["--option", "colour=red"], ["unknown field 'colour'", "known fields"]),
        (["--option", "threshold=least"], ["threshold", "'least'"]),
        (["--option", "threshold"], ["key=value"]),
        (["--option", "threshold=[1"], ["threshold", "YAML"]),
        (["--option", "timesteps=3"], ["given twice"]),
        (["--option", "method=QCFS"], ["given twice"]),
        (["--option", "initial_potential=2"], ["initial_potential", "less than or equal to 1"]),
        (["--recipe", "recipe.yaml"], ["cannot be read"]),
        (["--checkpoint", "nowhere.pt"], ["nowhere.pt", "checkpoint"]),
        (["--mean", "a,b"], ["--mean", "'a,b'"]),
        (["--mean", "0.5,0.5"], ["mean", "2 values", "1 channel"]),
        (["--std", "0"], ["std", "greater than 0"]),
        (["--size", "0"], ["size", "greater than or equal to 1"]),
        (["--test-folder", "train"], ["--test", "calibration images"]),
        (["--test-folder", "validation"], ["x_validation"]),
        (["--test", "empty.npz"], ["empty.npz", "no sample"]),
    ],
)
def test_convert_refuses_options(run: Run, tmp_path: Path, more: list[str], said: list[str]) -> None:
    assert_refused(run(*conversion(tmp_path / "out", *more)), *said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("nothing.npz", ["nothing.npz", "does not exist"]),
        ("empty.npz", ["empty.npz", "no sample"]),
        ("cli_nets:Net", ["not data"]),
        ("cli_nets:absent", ["absent"]),
    ],
)
def test_convert_refuses_data(run: Run, tmp_path: Path, data: str, said: list[str]) -> None:
    assert_refused(run(*conversion(tmp_path / "out", data=data)), *said)


def test_convert_refuses_zero_steps(run: Run, tmp_path: Path) -> None:
    options = ["--data", "data.npz", "--folder", "train", "--out", tmp_path / "out", "--timesteps", 0]
    assert_refused(run("convert", "cli_nets:Net", *options), "timesteps", "greater than or equal to 1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("method: RateCoding\nsteps: 4\n", ["unknown field 'steps'"]),
        ("name: x\ntimesteps: 0\ncalibration: []\n", ["timesteps"]),
        ("- 1\n", ["mapping"]),
        ("{", ["not YAML"]),
    ],
)
def test_convert_refuses_recipes(run: Run, tmp_path: Path, text: str, said: list[str]) -> None:
    options = ["--data", "data.npz", "--folder", "train", "--out", tmp_path / "out"]
    assert_refused(run("convert", "cli_nets:Net", *options, "--recipe", recipe_file(tmp_path, text)), *said)


def test_convert_refuses_networks(run: Run, tmp_path: Path) -> None:
    assert_refused(run(*conversion(tmp_path / "out", model="cli_nets:smooth")), "SiLU", "Remedy")
    assert_refused(run(*conversion(tmp_path / "out", model="cli_nets:nothing")), "no function 'nothing'")
    state = {"conv.weight": torch.zeros(4, 1, 3, 3)}
    save_file(state, tmp_path / "part.safetensors")
    result = run(*conversion(tmp_path / "out", "--checkpoint", tmp_path / "part.safetensors"))
    assert_refused(result, "missing keys", "linear.weight")


def test_convert_refuses_output_before_the_work(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*args: object) -> None:
        raise AssertionError("began the work")

    monkeypatch.setattr(models, "load", work)
    existing, foreign, file = tmp_path / "existing", tmp_path / "foreign", tmp_path / "file"
    existing.mkdir()
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    file.write_text("")
    assert_refused(run(*conversion(existing)), "already exists", "--overwrite")
    assert_refused(run(*conversion(foreign, "--overwrite")), "thesis.tex")
    assert_refused(run(*conversion(file, "--overwrite")), "file")
    assert_refused(run(*conversion(file / "out")), "cannot be written")
    assert_refused(run(*conversion(Path("/proc/rheobase/out"))), "cannot be written")
    assert (foreign / "thesis.tex").exists()


@pytest.mark.slow
def test_failed_conversion_leaves_the_old_network(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(*conversion(out, "--test-folder", "test")).code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert_refused(run(*conversion(out, "--overwrite", model="cli_nets:smooth")), "SiLU")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data", "classes.npz"], ["label of image 0", "is 3", "3 classes"]),
        (["--data", "wide.npz"], ["[1, 9, 9]", "[1, 8, 8]"]),
        (["--data", "empty.npz"], ["no sample"]),
        (["--data", "data.npz"], ["--folder", "test or train"]),
        (["--data", "wide.npz", "--timesteps", "0"], ["timesteps", "is 0"]),
        (["--data", "wide.npz", "--timesteps", "1,x"], ["--timesteps", "'1,x'"]),
    ],
)
def test_evaluate_refuses(run: Run, saved: Path, options: list[str], said: list[str]) -> None:
    result = run("evaluate", saved, *options)
    kept = [line for line in result.err.splitlines() if not line.startswith("Preprocessing as stored")]
    assert_refused(result._replace(err="\n".join(kept)), *said)


def test_evaluate_refuses_what_is_no_network(run: Run, tmp_path: Path) -> None:
    assert_refused(run("evaluate", tmp_path, "--data", "data.npz"), "network.json")
    assert_refused(run("evaluate", tmp_path / "none", "--data", "data.npz", "--json"), "not a folder")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["cli_nets:Net"], ["--input-shape", "--data"]),
        (["cli_nets:Net", "--input-shape", "1,8,8", "--data", "wide.npz"], ["either"]),
        (["cli_nets:Net", "--input-shape", "1,x"], ["--input-shape", "'1,x'"]),
        (["cli_nets:Net", "--input-shape", "1,0,8"], ["--input-shape", "1 or more"]),
        (["cli_nets:Net", "--input-shape", "1,8,8", "--size", "9"], ["preprocessing", "no effect"]),
        (["cli_nets:Net", "--input-shape", "3,8,8"], ["Remedy"]),
        (["./nowhere"], ["neither an existing folder", "module:function"]),
        (["no_such_module:net", "--input-shape", "1,8,8"], ["no_such_module"]),
    ],
)
def test_inspect_refuses(run: Run, args: list[str], said: list[str]) -> None:
    assert_refused(run("inspect", *args), *said)


def test_inspect_saved_network_takes_no_example(run: Run, saved: Path) -> None:
    assert_refused(run("inspect", saved, "--input-shape", "1,8,8"), "--input-shape", "no effect")


def test_unknown_option_is_a_usage_error(run: Run) -> None:
    result = run("inspect", "cli_nets:Net", "--shape", "1,8,8")
    assert result.code == 2
    assert "--shape" in result.err


def test_unknown_commands_and_values_are_usage_errors(run: Run, saved: Path) -> None:
    assert (run("convrt").code, run("evaluate", saved, "--data", "data.npz", "--execution", "step").code) == (2, 2)
    result = run("evaluate", saved, "--data", "data.npz", "--execution", "step")
    assert "'step'" in result.err
    assert result.out == ""


def test_interrupt(run: Run) -> None:
    result = run("inspect", "cli_nets:interrupted", "--input-shape", "1,8,8")
    assert result == (130, "", "Interrupted. Repeat the command to start again.\n")


@pytest.mark.slow
def test_full_disk_is_one_sentence(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device", "accuracy.png")

    monkeypatch.setattr("rheobase.measure.plots.accuracy_plot", full)
    result = run(*conversion(tmp_path / "out", "--test-folder", "test"))
    assert_refused(result, "accuracy.png: No space left on device")
