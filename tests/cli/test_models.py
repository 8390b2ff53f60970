from __future__ import annotations

import json
import subprocess
import sys

import pytest

from babelclip import registry
from tests.cli.test_cli import call


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_table_fits_its_terminal_and_names_every_model(width):
    code, out, error = call("models", COLUMNS=str(width))
    assert (code, error) == (0, "")
    assert max(map(len, out.splitlines())) <= min(width, 100)
    folded = "".join(out.split())
    for card in registry.list_models():
        assert card.name.rsplit("-", 1)[0].replace(" ", "") in folded or card.name[:40] in folded
    for family in ("M-CLIP", "AltCLIP", "SigLIP 2", "NLLB-CLIP"):
        assert f"\n{family}\n" in f"\n{out}"


def test_a_row_shows_towers_size_languages_licence_space_and_figure():
    _, out, _ = call("models", "--family", "m-clip", COLUMNS="100")
    row = next(line for line in out.splitlines() if line.startswith("M-CLIP/XLM-Roberta-Large-Vit-B-32"))
    assert row.split()[1:] == ["text", "512", "2.2", "48+1", "MIT", "33.8", "a"]
    assert "\n  openai/ViT-B-32" in out
    assert "a: XM3600, t2i, R@1, Babel-ImageNet: all captions, mean over languages" in out


def test_models_for_a_language_stand_by_quality_and_say_by_which():
    code, out, _ = call("models", "--lang", "sw", COLUMNS="100")
    assert code == 0
    order = [
        "Names Swahili, best published figure first",
        "visheratin/nllb-siglip-mrl-large",
        "M-CLIP/XLM-Roberta-Large-Vit-B-16Plus",
        "M-CLIP/XLM-Roberta-Large-Vit-L-14",
        "Names Swahili, no figure published",
        "M-CLIP/LABSE-Vit-L-14",
        "Does not name Swahili",
        "BAAI/AltCLIP-m9",
        "a: XM3600",
    ]
    places = [out.index(text) for text in order]
    assert places == sorted(places)


def test_one_model_is_shown_with_every_fact_and_its_source():
    code, out, _ = call("models", "xlm-roberta-large-vit-l-14", COLUMNS="80")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    flat = " ".join(out.split())
    card = registry.find("XLM-Roberta-Large-Vit-L-14")
    for text in (card.name, card.space, card.image_twin, card.revision, "560,677,632", "48: af sq am", "1: ko"):
        assert text in flat
    assert "XTD10, t2i, R@10" in flat
    numbered = {f"[{at}]" for at in range(1, 11)}
    cited = [line.split()[0] for line in out.splitlines() if line.startswith("[")]
    assert set(cited) == numbered
    assert all(flat.count(number) >= 2 for number in numbered)


def test_copies_of_the_same_weights_are_named_on_the_card():
    _, out, _ = call("models", "ViT-B-32/openai", COLUMNS="100")
    assert "timm/vit_base_patch32_clip_224.openai, sentence-transformers/clip-ViT-B-32" in " ".join(out.split())


def test_an_unknown_name_gets_the_closest_ones():
    code, out, error = call("models", "XLM-Roberta-Large-Vit-L14")
    assert (code, out) == (1, "")
    assert "M-CLIP/XLM-Roberta-Large-Vit-L-14" in error
    code, _, error = call("models", "--lang", "xx")
    assert code == 1
    assert "not a language code" in error
    code, _, error = call("models", "--family", "resnext")
    assert code == 1
    assert "SigLIP 2" in error


def test_json_is_data_only():
    code, out, error = call("models", "--json")
    assert (code, error) == (0, "")
    listed = json.loads(out)
    assert [item["name"] for item in listed] == [card.name for card in registry.list_models()]
    _, out, _ = call("models", "nllb-clip-large-siglip/mrl", "--json")
    card = json.loads(out)
    assert card["languages"][:2] == ["ace", "ace-Arab"]
    assert {"benchmark", "direction", "metric", "protocol", "language", "value", "source"} == set(card["scores"][0])
    assert {score["source"] for score in card["scores"]} <= set(card["citations"])
    _, out, _ = call("models", "--lang", "sw", "--family", "m-clip", "--json")
    assert json.loads(out)[0]["name"] == "M-CLIP/XLM-Roberta-Large-Vit-B-16Plus"


def test_listing_models_needs_neither_torch_nor_transformers():
    code = (
        "import sys; from babelclip.cli.main import app; app(['models'], standalone_mode=False); "
        "sys.stderr.write(' '.join(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "M-CLIP/XLM-Roberta-Large-Vit-B-32" in done.stdout
    assert done.stderr == ""
