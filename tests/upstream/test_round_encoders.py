"""Rounds that start from an encoder made elsewhere, and teachers that read other encoders than the last one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_rounds import TINY, TRAINING, write_recordings

from upstream.disk import read_json
from upstream.errors import InputError, RecipeError, UsageError
from upstream.features.mix import MixSource
from upstream.features.source import LayerSource
from upstream.model import Encoder, MaskedPrediction, load_encoder, save_encoder
from upstream.model.config import EncoderConfig
from upstream.model.converting import write_as
from upstream.model.loading import read_checkpoint
from upstream.outlook import outlook
from upstream.pretrain import pretrain
from upstream.pretrain_recipe import SHIPPED, PretrainRecipe, rounds_of
from upstream.recipe import load_recipe
from upstream.teacher.teacher import Teacher
from upstream.teacher.units import Units

SHAPE = EncoderConfig(conv_dim=16, width=24, layers=3, heads=2, ffn=32, positional_kernel=8, positional_groups=2,
                      dropout=0.0, attention_dropout=0.0, input_dropout=0.0, layerdrop=0.0)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("recordings"), 8)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The same small encoder as it may come from elsewhere: {format: source}."""
    folder = tmp_path_factory.mktemp("published")
    model = MaskedPrediction(Encoder(SHAPE), (7,), 8).initialise(3).eval()
    head = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("encoder.")}
    save_encoder(model.encoder, folder / "ours", {"round": 1, "objective": {
        "kind": "hubert", "head": "cosine", "temperature": 0.1, "predict_at": [], "tied_projections": False}}, head)
    checkpoint = read_checkpoint(folder / "ours")
    write_as(checkpoint, folder / "huggingface", "huggingface")
    (folder / "huggingface/hubertkit.json").unlink()
    write_as(checkpoint, folder / "hubert.pt", "fairseq")
    return {"ours": folder / "ours", "huggingface": folder / "huggingface", "fairseq": folder / "hubert.pt"}


def adapt(recordings, out, init, *words, say=lambda line: None):
    recipe = load_recipe(PretrainRecipe, "hubert-adapt", [
        *TRAINING, "training.updates=2", f"data={recordings}", f"rounds.0.init={init}", "rounds.0.teacher.layer=2",
        "rounds.0.teacher.clusters=8", *words], SHIPPED)
    return pretrain(recipe, out, say)


def rounds(recordings, out, *words, say=lambda line: None):
    recipe = load_recipe(PretrainRecipe, "hubert-tiny", [*TINY, f"data={recordings}", *words], SHIPPED)
    return pretrain(recipe, out, say)


@pytest.mark.parametrize("form", ["ours", "huggingface", "fairseq"])
def test_a_round_starts_from_the_weights_of_an_encoder_in_any_format(recordings, published, tmp_path, form):
    # update 1 of a warm-up has rate 0: what is saved after it is what was started from
    lines = []
    [result] = adapt(recordings, tmp_path, published[form], "training.updates=1", say=lines.append)
    assert f"round 1: the encoder of {published[form]} goes on learning, under new heads" in "\n".join(lines)
    started, wanted = load_encoder(result.encoder).state_dict(), load_encoder(published["ours"]).state_dict()
    assert started.keys() == wanted.keys()
    assert all(torch.equal(started[name], wanted[name]) for name in wanted)
    teacher = Teacher.load(tmp_path / "round1/teacher")
    assert (teacher.features["layer"], teacher.features["dim"]) == (2, SHAPE.width)
    assert Units.load(result.units).classes == (8,)


def test_the_format_that_an_encoder_comes_in_makes_nothing_stale(recordings, published, tmp_path):
    adapt(recordings, tmp_path, published["ours"])
    lines = []
    adapt(recordings, tmp_path, published["fairseq"], say=lines.append)
    assert len(lines) == 4
    assert all("done before, skipped" in line for line in lines)


def test_other_weights_to_start_from_redo_what_reads_them(recordings, published, tmp_path):
    adapt(recordings, tmp_path / "run", published["ours"])
    save_encoder(Encoder(SHAPE).initialise(4), tmp_path / "other", {})
    lines = []
    adapt(recordings, tmp_path / "run", tmp_path / "other", say=lines.append)
    assert [line.split(":")[0] for line in lines if "stale" in line] == [
        "round1/teacher", "round1/units", "round1/encoder"]


def test_training_moves_the_weights_and_a_second_round_starts_from_scratch(recordings, published, tmp_path):
    first, second = adapt(recordings, tmp_path, published["ours"], "training.optimiser.warmup_updates=1",
                          "rounds=[{init: " + str(published["ours"]) + ", teacher: {features: layer, layer: [1, 3], "
                          "clusters: 8}}, {teacher: {features: layer, layer: 2, clusters: 8}, encoder: {"
                          "frontend: fbank, width: 32, layers: 2, heads: 2, ffn: 64, positional_kernel: 8, "
                          "positional_groups: 2}}]")
    wanted, trained = (load_encoder(source).state_dict() for source in (published["ours"], first.encoder))
    assert any(not torch.equal(tensor, wanted[name]) for name, tensor in trained.items())
    assert load_encoder(second.encoder).config.width == 32
    assert Teacher.load(tmp_path / "round1/teacher").features["dim"] == 2 * SHAPE.width


@pytest.mark.parametrize(("word", "says"), [
    ("encoder.width=48", "an encoder with width=24, and encoder.width=48"),
    ("encoder.width=768", "an encoder with width=24, and encoder.width=768"),  # the default: it was ignored
    ("rounds.0.encoder.layers=12", "an encoder with layers=3, and encoder.layers=12"),
    ("encoder.normalize=true", "normalize=False, and encoder.normalize=True"),
    ("rounds.0.teacher.layer=4", r"teacher\.layer=4: .* layers 0 to 3"),
    ("objective.predict_at=[5]", r"objective\.predict_at=5: .* layers 1 to 3"),
])
def test_what_does_not_fit_the_encoder_is_refused_by_name(recordings, published, tmp_path, word, says):
    with pytest.raises(RecipeError, match=says):
        adapt(recordings, tmp_path / "run", published["ours"], word)
    assert not (tmp_path / "run").exists()


def test_dropouts_may_differ_from_those_of_the_encoder(recordings, published, tmp_path):
    [result] = adapt(recordings, tmp_path, published["ours"], "encoder.dropout=0.2", "rounds.0.encoder.layerdrop=0.05")
    config = load_encoder(result.encoder).config
    assert (config.dropout, config.layerdrop, config.attention_dropout) == (0.2, 0.05, 0.0)


def test_dropouts_that_a_recipe_names_count_even_at_their_defaults(recordings, published, tmp_path):
    """A bug once found: `encoder.dropout=0.1` over an `init` without dropout was dropped, as the default is 0.1."""
    (tmp_path / "mine.yaml").write_text((SHIPPED / "hubert-adapt.yaml").read_text() + "\nencoder: {layerdrop: 0.05}\n")
    recipe = load_recipe(PretrainRecipe, tmp_path / "mine.yaml", [
        f"data={recordings}", f"rounds.0.init={published['ours']}", "rounds.0.teacher.layer=2", "encoder.dropout=0.1",
        "rounds.0.encoder.input_dropout=0.1"], SHIPPED)
    [found] = rounds_of(recipe, {str(published["ours"]): SHAPE})
    assert found.encoder == replace(SHAPE, dropout=0.1, input_dropout=0.1, layerdrop=0.05)


def test_a_source_that_is_not_there_is_told_before_anything_runs(recordings, tmp_path):
    with pytest.raises(UsageError, match="no such file or folder"):
        adapt(recordings, tmp_path / "run", tmp_path / "nowhere")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("word", "says"), [
    ("rounds.1.init={run}/round1/encoder", "name the copy$"),
    ("rounds.0.init={run}/round1/encoder", "name the copy$"),
    ("rounds.1.teacher.encoder={run}/round1/encoder", r"or read round 1 by rounds.1.teacher.rounds=\[1\]$"),
    ("rounds.1.teacher.encoder={run}/round2/encoder", "name the copy$"),
    ("rounds.1.teacher={{units: '{run}/round2/units', features: mfcc, layer: null}}", "name the copy$"),
    ("rounds.0.teacher.imported={run}/round1/teacher", "name the copy$"),
])
def test_an_encoder_of_the_run_itself_is_refused_as_one_from_elsewhere(recordings, tmp_path, monkeypatch, word, says):
    """It was hashed before the rounds, and loaded after another had taken its place; and where a round started from its
    own, that was put aside, and could not be read by any later call."""
    monkeypatch.chdir(tmp_path)
    words = [word.format(run="./run")]
    with pytest.raises(UsageError, match=f"^rounds.[01].*: this very run makes it, .*{says}"):
        rounds(recordings, tmp_path / "run", *words)
    assert not (tmp_path / "run").exists()
    recipe = load_recipe(PretrainRecipe, "hubert-tiny", [*TINY, f"data={recordings}", *words], SHIPPED)
    with pytest.raises(UsageError, match="this very run makes it"):
        outlook(recipe, tmp_path / "run")


def test_units_of_an_earlier_round_may_be_predicted_again(recordings, tmp_path):
    rounds(recordings, tmp_path, "rounds=[{teacher: {clusters: 8}}]")
    words = ["rounds=[{teacher: {clusters: 8}}, {teacher: {units: '" + str(tmp_path / "round1/units") + "'}}]"]
    first, second = rounds(recordings, tmp_path, *words)
    assert first.units_result["hash"] == second.units_result["hash"]


@pytest.mark.parametrize(("words", "dim", "layer"), [
    (["layer=[1,2]"], 64, [1, 2]),
    (["layer=2", "rounds=[1]"], 32, 2),
    (["layer=[2]"], 32, [2]),
], ids=["two layers", "a round by number", "a list of one"])
def test_a_teacher_reads_the_layers_it_is_told(recordings, tmp_path, words, dim, layer):
    _, second = rounds(recordings, tmp_path, *(f"rounds.1.teacher.{word}" for word in words))
    features = Teacher.load(tmp_path / "round2/teacher").features
    assert (features["dim"], features["layer"]) == (dim, layer)
    assert Units.load(second.units).classes == (8,)


def test_a_teacher_reads_several_rounds_side_by_side(recordings, tmp_path):
    third = "{teacher: {features: layer, layer: [1, 2], rounds: [1, 2], clusters: 8, sample_frames: 1000}}"
    second = "{teacher: {features: layer, layer: 1, clusters: 8}}"
    *before, _ = rounds(recordings, tmp_path, "rounds=[{teacher: {clusters: 8}}, " + second + ", " + third + "]")
    features = Teacher.load(tmp_path / "round3/teacher").features
    assert features["dim"] == 4 * 32
    assert features["encoder"] == "+".join(r.encoder_result["hash"] for r in before)
    inputs = read_json(tmp_path / "round3/teacher/stage.json")["inputs"]
    assert [inputs[f"encoder{i}"] for i in range(2)] == [r.encoder_result["hash"] for r in before]


def test_a_teacher_of_the_first_round_may_read_any_encoder(recordings, published, tmp_path):
    words = [f"rounds.0.teacher.encoder={published['huggingface']}", "rounds.0.teacher.features=layer",
             "rounds.0.teacher.layer=3"]
    first, _ = rounds(recordings, tmp_path, *words)
    assert Teacher.load(tmp_path / "round1/teacher").features["dim"] == SHAPE.width
    assert load_encoder(first.encoder).config.width == 32  # read, and not started from


def test_a_teacher_made_elsewhere_is_used_as_it_is_and_refused_where_another_encoder_is_read(recordings, published,
                                                                                             tmp_path):
    first, _ = rounds(recordings, tmp_path / "made", f"rounds.0.teacher.encoder={published['huggingface']}",
                      "rounds.0.teacher.features=layer", "rounds.0.teacher.layer=3")
    made = tmp_path / "made/round1/teacher"
    reads = ["rounds.0.teacher.features=layer", "rounds.0.teacher.layer=3", f"rounds.0.teacher.imported={made}"]
    again, _ = rounds(recordings, tmp_path / "again", f"rounds.0.teacher.encoder={published['ours']}", *reads)
    assert Teacher.load(tmp_path / "again/round1/teacher").hash == Teacher.load(made).hash
    assert again.units_result["hash"] == first.units_result["hash"]
    save_encoder(Encoder(SHAPE).initialise(7), tmp_path / "other", extra={})
    known = Teacher.load(made).features["encoder"][:12]
    with pytest.raises(InputError, match=f"^imported=.*round1/teacher: .* on other features: encoder {known} is now "):
        rounds(recordings, tmp_path / "wrong", f"rounds.0.teacher.encoder={tmp_path / 'other'}", *reads)
    with pytest.raises(InputError, match="layer 3 is now 2"):
        rounds(recordings, tmp_path / "wrong", f"rounds.0.teacher.encoder={published['ours']}", *reads,
               "rounds.0.teacher.layer=2")
    assert not (tmp_path / "wrong/round1/teacher/teacher.json").exists()


@pytest.mark.parametrize("name", ["imported", "units"])
def test_labels_made_elsewhere_that_are_not_there_are_told_before_anything_runs(recordings, tmp_path, name):
    with pytest.raises(UsageError, match=rf"^rounds\.1\.teacher\.{name}={tmp_path}/none: no such file or folder"):
        rounds(recordings, tmp_path / "run", "rounds.1.teacher.features=mfcc", "rounds.1.teacher.layer=null",
               f"rounds.1.teacher.{name}={tmp_path}/none")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("word", "says"), [
    ("rounds.1.teacher.layer=[1,1]", "a list of different numbers"), ("rounds.1.teacher.layer=[]", "a list of"),
    ("rounds.1.teacher.layer=[1,3]", r"teacher\.layer=3: .* layers 0 to 2"),
    ("rounds.1.teacher.rounds=[2]", "reads rounds before its own"),
    ("rounds.1.teacher.rounds=[1,1]", "names a round twice"),
    ("rounds.0.teacher.rounds=[1]", "rounds=.* is for features=layer"),
    ("rounds.0.teacher.encoder=x", "encoder=x is for features=layer"),
    ("rounds.0.teacher.layer=[1,2]", "layer=.* is for features=layer"),
    ("rounds.0.teacher.layer=6", "layer=6 is for features=layer, not mfcc; give features=layer as well, or layer=null"),
    ("rounds.0.teacher.layer=best", "layer=best is for features=layer"),
    ("rounds.1.teacher.features=mfcc", "layer=1 is for features=layer"),
])
def test_readings_that_cannot_be_are_refused_by_name(recordings, tmp_path, word, says):
    with pytest.raises(RecipeError, match=says):
        rounds(recordings, tmp_path / "run", word)
    assert not (tmp_path / "run").exists()


def test_one_encoder_or_rounds_not_both(recordings, published, tmp_path):
    with pytest.raises(RecipeError, match="give one of them"):
        rounds(recordings, tmp_path, f"rounds.1.teacher={{rounds: [1], encoder: {published['ours']}}}")


def test_every_layer_of_a_mix_weighs_the_same(recordings):
    """By hand: each layer's frames have mean 0 and variance 1, so that each makes up its share of a squared length."""
    class Three:
        ids, lengths = ["a", "b", "c"], np.array([16_000, 300, 9_000])

    encoder = Encoder(SHAPE).initialise(0).eval()
    rng = np.random.default_rng(0)
    waves = [rng.standard_normal(n).astype(np.float32) for n in Three.lengths]
    mixed = dict(MixSource([LayerSource(encoder, [1, 3], "cpu")]).stream(Three(), [2, 0, 1], lambda i: waves[i]))
    alone = dict(LayerSource(encoder, 3, "cpu").stream(Three(), [0], lambda i: waves[i]))
    assert [len(mixed[i]) for i in (0, 1, 2)] == [49, 0, 27]
    of_3 = mixed[0][:, SHAPE.width:]
    variance = alone[0].var(1, unbiased=False, keepdim=True)
    expected = (alone[0] - alone[0].mean(1, keepdim=True)) / (variance + 1e-5).sqrt()
    torch.testing.assert_close(of_3, expected, rtol=1e-4, atol=1e-4)
    lengths = mixed[0].unflatten(1, (2, SHAPE.width)).square().sum(2)
    torch.testing.assert_close(lengths, torch.full_like(lengths, SHAPE.width), rtol=1e-2, atol=0)


def test_an_encoder_of_the_same_weights_that_is_to_be_heard_otherwise_makes_another_teacher(recordings, tmp_path):
    """A bug once found: `do_normalize` mended in a folder from elsewhere left the teacher that it had spoiled."""
    shape = replace(SHAPE, conv_norm="layer", conv_bias=True, normalize=False, pre_norm=True)
    save_encoder(Encoder(shape).initialise(3), tmp_path / "encoder", {})
    said = []

    def adapted():
        said.clear()
        adapt(recordings, tmp_path / "run", tmp_path / "encoder", say=said.append)
        return [line for line in said if line.startswith("round1/teacher")]

    assert "started" in adapted()[0]
    assert "skipped" in adapted()[0]
    save_encoder(Encoder(replace(shape, normalize=True)).initialise(3), tmp_path / "encoder", {})
    assert "encoder_shape" in adapted()[0]
    assert Teacher.load(tmp_path / "run/round1/teacher").features["normalize"] is True
    save_encoder(Encoder(replace(shape, normalize=True, dropout=0.3)).initialise(3), tmp_path / "encoder", {})
    assert "skipped" in adapted()[0]


def test_layers_of_a_mix_are_normalised_where_the_encoder_has_not_done_it():
    """Outputs of pre-norm blocks grow from layer to layer; those of untrained post-norm ones are normalised already."""
    class One:
        ids, lengths = ["a"], np.array([16_000])

    encoder = Encoder(replace(SHAPE, conv_norm="layer", pre_norm=True)).initialise(0).eval()
    wave = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    [(_, mixed)] = MixSource([LayerSource(encoder, [1, 3], "cpu")]).stream(One(), [0], lambda i: wave)
    by_layer = mixed.unflatten(1, (2, SHAPE.width))
    torch.testing.assert_close(by_layer.mean(2), torch.zeros(49, 2), rtol=0, atol=1e-3)
    torch.testing.assert_close(by_layer.var(2, unbiased=False), torch.ones(49, 2), rtol=0, atol=2e-2)
