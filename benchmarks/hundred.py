r"""The student of a hundred languages on photographs, beside the same data and steps in sentence-transformers.

    python benchmarks/hundred.py measure --teacher demo/teacher --counts hundred/counts.json \
        --model before=models/starter --model after=runs/hundred/model --out results/starter-100-languages.json
    python benchmarks/hundred.py data --text hundred --targets hundred/targets --student models/starter \
        --steps 150 --out peer                                         # the texts of the recipe's first batches
    PEER/bin/python benchmarks/hundred.py peer --data peer --lr 2e-5      # in an environment with sentence-transformers
    ... measure ... --vectors MSELoss=peer/vectors-2e-05.npz

R@10 text to image on the photographs of Tux Paint, in every language with 200 captions: English, the mean of the
others, and of their thirds by the number of texts that were taught. E is the English teacher's. A table goes to
standard error, one JSON line to standard output. Bars are stated, not enforced.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

BARS = {"english": 0.95, "mean": 0.65, "six": 0.75}
SIX = ("de", "es", "fr", "it", "zh")
KS = ("R@1", "R@5", "R@10")


# Measuring


def photographs() -> Any:
    """Returns the photographs with their captions."""
    from babelclip.starter import debian, demo, tuxpaint

    found = debian.find_folder(tuxpaint.STAMPS)
    if found.folder is None:
        raise SystemExit(found.note)
    return next(one for one in demo._stamp_sets(found.folder) if one.key == "photos")


def encoded(path: str, texts: list[str]) -> dict[str, np.ndarray]:
    """Returns the unit vector of each text by a model folder, or from vectors that `peer` wrote."""
    if path.endswith(".npz"):
        kept = np.load(path)
        rows = kept["vectors"] / np.linalg.norm(kept["vectors"], axis=1, keepdims=True)
        known = dict(zip(kept["texts"].tolist(), rows, strict=True))
        return {text: known[text] for text in texts}
    import babelclip

    clip = babelclip.load(path, towers="text", dtype="float32")
    return dict(zip(texts, clip.encode_text(texts, progress=True), strict=True))


def scores(name: str, path: str, pictures: Any, images: np.ndarray, space: str, seed: int) -> dict[str, Any]:
    """Returns recall by direction and language, and how long encoding took."""
    from babelclip.starter.measure import TextVectors, measure, texts_of

    start = time.perf_counter()
    texts = texts_of([pictures])
    model = TextVectors(name, space, (), encoded(path, texts))
    seconds = time.perf_counter() - start
    found: dict[str, Any] = {"model": path, "seconds_encoding": round(seconds, 1), "t2i": {}, "i2t": {}}
    for result in measure(model, pictures, images, seed=seed):
        found[result["direction"]][result["language"]] = {k: round(result["metrics"][k], 5) for k in KS}
    return found


def thirds(languages: list[str], taught: dict[str, int]) -> dict[str, list[str]]:
    """Returns the languages in three equal parts by the number of texts that were taught, most first."""
    ordered = sorted(languages, key=lambda lang: (-taught.get(lang, 0), lang))
    parts = np.array_split(np.array(ordered), 3)
    return {name: part.tolist() for name, part in zip(("high", "middle", "low"), parts, strict=True)}


def summary(row: dict[str, Any], teacher: float, parts: dict[str, list[str]], taught: dict[str, int]) -> dict[str, Any]:
    """Returns R@10 as shares of the teacher's in English."""
    recall = {lang: figures["R@10"] / teacher for lang, figures in row["t2i"].items()}
    others = [lang for lang in recall if lang != "en"]

    def mean(chosen: list[str]) -> float:
        return round(float(np.mean([recall[lang] for lang in chosen])), 3)

    known = [lang for lang in others if taught.get(lang, 0) > 0]
    return {
        "english": round(recall["en"], 3),
        "mean": mean(others),
        "mean_taught": mean(known),
        "languages": len(others),
        "languages_taught": len(known),
        **{f"third_{name}": mean(chosen) for name, chosen in parts.items()},
        **{lang: round(recall[lang], 3) for lang in SIX},
    }


def measure_all(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns what goes to JSON: facts of the run, recall of every row, and shares of the teacher's."""
    import babelclip
    from babelclip.evaluate.result import versions
    from babelclip.starter.measure import picture_vectors

    pictures = photographs()
    teacher = babelclip.load(arguments.teacher)
    images = picture_vectors(teacher, [pictures], progress=True)[pictures.key]
    counts = json.loads(Path(arguments.counts).read_text())
    taught = counts["by_language"]
    given = [f"teacher={arguments.teacher}", *arguments.model, *arguments.vectors]
    named = dict(one.partition("=")[::2] for one in given)
    rows = {name: scores(name, path, pictures, images, teacher.space, arguments.seed) for name, path in named.items()}
    english = rows["teacher"]["t2i"]["en"]["R@10"]
    parts = thirds([lang for lang in rows["teacher"]["t2i"] if lang != "en"], taught)
    return {
        "benchmark": "starter-100-languages",
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "cores": os.cpu_count(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "versions": versions(),
        "seed": arguments.seed,
        "dataset": pictures.key,
        "n_images": len(pictures.images),
        "dtype": "float32",
        "device": "cpu",
        "space": teacher.space,
        "E": english,
        "bars": BARS,
        "taught": {key: counts[key] for key in ("taught", "sources", "removed_as_test_captions", "by_source")},
        "taught_by_language": taught,
        "thirds": parts,
        "summary": {name: summary(row, english, parts, taught) for name, row in rows.items()},
        "runs": dict(one.partition("=")[::2] for one in arguments.note),
        "rows": rows,
    }


def table(report: dict[str, Any]) -> str:
    """Returns the shares as Markdown."""
    columns = ("english", "mean", "mean_taught", "third_high", "third_middle", "third_low", *SIX)
    lines = [f"E = {100 * report['E']:.1f}; shares of E, R@10 text to image", "| row | " + " | ".join(columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name, row in report["summary"].items():
        lines.append(f"| {name} | " + " | ".join(f"{row[column]:.3f}" for column in columns) + " |")
    return "\n".join(lines)


# The same data and steps in sentence-transformers


def peer_data(arguments: argparse.Namespace) -> None:
    """Writes texts as the student reads them with their raw targets, in batches, the test texts, and the student."""
    import babelclip
    from babelclip.data.captions import read_captions
    from babelclip.models.cleaning import cleaning_rule
    from babelclip.models.export.sentence_transformers import export_sentence_transformers
    from babelclip.starter.measure import texts_of
    from babelclip.train.batches import length_batches
    from babelclip.train.recipe import load_recipe
    from babelclip.train.texts import TokenTable

    out = Path(arguments.out)
    recipe = load_recipe(arguments.recipe)
    clip = babelclip.load(arguments.student, towers="text", dtype="float32")
    assert clip.text is not None
    tokenizer = clip.text.tokenizer
    prepared = cleaning_rule(tokenizer.cleaning)
    captions = read_captions(Path(arguments.text, "captions.parquet"))
    targets = babelclip.EmbeddingStore.open(arguments.targets)
    weights = np.asarray([recipe.data.weights.get(lang, 1.0) for lang in captions.langs])
    batches = length_batches(
        TokenTable.from_texts(clip.text, captions.texts).lengths,
        epoch=0,
        seed=recipe.train.seed,
        tokens_per_batch=recipe.train.tokens_per_batch,
        batch_size=recipe.train.batch_size,
        weights=weights,
    )
    rows = np.concatenate(batches[: arguments.steps])
    texts, ids = captions.texts, captions.ids
    sources = captions.table.column("source_id").to_pylist()
    out.mkdir(parents=True, exist_ok=True)
    np.savez(
        out / "data.npz",
        texts=np.array([tokenizer.prefix + prepared(texts[row]) for row in rows]),
        targets=targets.gather(targets.positions([sources[row] or ids[row] for row in rows])),
        batch_size=recipe.train.batch_size,
    )
    test = texts_of([photographs()])
    np.savez(
        out / "test.npz", texts=np.array(test), prepared=np.array([tokenizer.prefix + prepared(text) for text in test])
    )
    export_sentence_transformers(clip, out / "student", towers="text")


def in_order(rows: Any, batch_size: int, **_: Any) -> Any:
    """Returns the very batches of the recipe, of texts of like length; drawn at random they would pad much more.

    A function of the module, as the trainer keeps it in its checkpoints.
    """
    from torch.utils.data import BatchSampler, SequentialSampler

    return BatchSampler(SequentialSampler(rows), batch_size, drop_last=False)


def peer(arguments: argparse.Namespace) -> None:
    """Trains the exported student by `MSELoss`, as sentence-transformers' multilingual recipe does, and encodes."""
    import sentence_transformers as st
    from datasets import Dataset
    from sentence_transformers.sentence_transformer.losses import MSELoss

    folder = Path(arguments.data)
    data = np.load(folder / "data.npz")
    model = st.SentenceTransformer(str(folder / "student"), device="cpu", prompts={})
    if arguments.layers:
        first = model[0].auto_model.config.num_hidden_layers - arguments.layers
        for name, parameter in model[0].named_parameters():
            place = re.search(r"encoder\.layer\.(\d+)\.", name)
            parameter.requires_grad_(place is not None and int(place[1]) >= first)
    train = Dataset.from_dict(
        {"sentence": data["texts"].tolist(), "label": data["targets"].astype(np.float32).tolist()}
    )
    settings = st.SentenceTransformerTrainingArguments(
        output_dir=str(folder / f"run-{arguments.lr}"),
        num_train_epochs=1,
        per_device_train_batch_size=int(data["batch_size"]),
        learning_rate=arguments.lr,
        warmup_ratio=0.1,
        save_strategy="steps",
        save_steps=50,
        save_total_limit=1,
        batch_sampler=in_order,
        report_to=[],
        use_cpu=True,
        seed=0,
    )
    start = time.perf_counter()
    trainer = st.SentenceTransformerTrainer(model=model, args=settings, train_dataset=train, loss=MSELoss(model))
    # A run that was stopped goes on; its seconds are then those of the last part.
    trainer.train(resume_from_checkpoint=any(Path(settings.output_dir).glob("checkpoint-*")))
    seconds = time.perf_counter() - start
    test = np.load(folder / "test.npz")
    vectors = model.encode(test["prepared"].tolist(), batch_size=64, convert_to_numpy=True)
    np.savez(folder / f"vectors-{arguments.lr}.npz", texts=test["texts"], vectors=vectors, seconds=seconds)
    print(
        json.dumps({"lr": arguments.lr, "steps": -(-len(train) // int(data["batch_size"])), "seconds": round(seconds)})
    )


def main() -> None:
    """Runs one of measure, data, peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    measuring = verbs.add_parser("measure")
    measuring.add_argument("--teacher", required=True)
    measuring.add_argument("--counts", required=True, help="counts.json of the texts")
    measuring.add_argument("--model", action="append", default=[], metavar="NAME=FOLDER")
    measuring.add_argument("--vectors", action="append", default=[], metavar="NAME=FILE.npz")
    measuring.add_argument(
        "--note", action="append", default=[], metavar="NAME=TEXT", help="facts of a row, kept as is"
    )
    measuring.add_argument("--seed", type=int, default=0)
    measuring.add_argument("--out")
    writing = verbs.add_parser("data")
    for name in ("--text", "--targets", "--student", "--out"):
        writing.add_argument(name, required=True)
    writing.add_argument("--recipe", default=str(Path(__file__).parents[1] / "recipes" / "starter-100-languages.toml"))
    writing.add_argument("--steps", type=int, required=True)
    training = verbs.add_parser("peer")
    training.add_argument("--data", required=True)
    training.add_argument("--lr", type=float, default=2e-5)
    training.add_argument("--layers", type=int, default=0, help="train the upper layers and the head; 0 = everything")
    arguments = parser.parse_args()
    if arguments.verb == "data":
        peer_data(arguments)
    elif arguments.verb == "peer":
        peer(arguments)
    else:
        report = measure_all(arguments)
        print(table(report), file=sys.stderr)
        line = json.dumps(report, ensure_ascii=False)
        if arguments.out:
            Path(arguments.out).write_text(line + "\n", encoding="utf-8")
        print(line)


if __name__ == "__main__":
    main()
