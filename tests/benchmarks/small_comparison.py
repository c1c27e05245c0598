"""A comparison of encoders that takes seconds: three letters that are three pitches, two random encoders, a recipe."""

from itertools import product

from tones import write_tones

from benchmarks.low_resource_recipe import SHIPPED, LowResourceRecipe
from upstream.audio.manifest import Manifest
from upstream.model import Encoder, EncoderConfig, save_encoder
from upstream.recipe import load_recipe

SHAPE = EncoderConfig(frontend="fbank", width=32, layers=2, heads=2, ffn=64, pre_norm=True, positional_kernel=15,
                      positional_groups=2, dropout=0, attention_dropout=0, input_dropout=0, layerdrop=0)
RECIPE = """
corpus: manifest.arrow
labelled: {3min: {split: labelled}}
encoders:
  frozen: {encoder: ENCODERS/one, finetune: {frozen: true}}
  other: {encoder: ENCODERS/two}
cells: ["3min: scratch", "3min: frozen", "3min: other"]
seeds: [0, 5]
finetune:
  mask: {time_share: 0, channel_share: 0}
  training: {updates: 2, batch_seconds: 2, micro_batch_seconds: 2, precision: float32, validate_every: 2,
             save_every: 2, optimiser: {peak_rate: 1.0e-2, warmup_updates: 1}}
lm: {text: text, order: 2, prune: [0], discount_fallback: true}
decoding: {beam: 2, tokens_per_frame: 3, tune_seconds: 1, tune_decodes: 3, resamples: 50}
"""


def recipe(tmp_path, encoders, *words):
    (tmp_path / "mine.yaml").write_text(RECIPE.replace("ENCODERS", str(encoders)))
    return load_recipe(LowResourceRecipe, tmp_path / "mine.yaml", list(words), SHIPPED)


def write_data(folder):
    """A data folder: `splits` of six, three and three utterances, and a text of all words that there are."""
    write_tones(folder, [2] * 12, dev=3)
    whole = [*Manifest.load(folder / "train.arrow"), *Manifest.load(folder / "dev.arrow")]
    Manifest.of(whole, "tones").save(folder / "manifest.arrow")
    (folder / "splits").mkdir()
    ids = [u.id for u in whole]
    for name, part in {"labelled": ids[:6], "train": ids[:5], "dev": ids[6:9], "test": ids[9:]}.items():
        (folder / f"splits/{name}.txt").write_text("\n".join(part))
    words = ["".join(letters) for letters in product("ABC", repeat=3)]
    (folder / "text").write_text("".join(f"{a} {b}\n" for a, b in zip(words, words[1:] + words[:1])))
    return folder


def write_encoders(folder):
    """`one` and `two`, of the same shape."""
    for seed, name in enumerate(("one", "two")):
        save_encoder(Encoder(SHAPE).initialise(seed), folder / name, {})
    return folder
