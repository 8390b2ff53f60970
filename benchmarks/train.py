"""Tokens a second of teacher learning: sentence-transformers' trainer, babelclip's `distill`, and forward and backward.

    make bench-train
    python benchmarks/train.py --captions FOLDER [--rounds 9] [--out results/train.json]
    python benchmarks/train.py --captions FOLDER --peer-batches 16 32 64 128 --only-peer --rounds 4 [--out ...]

FOLDER holds Multi30k (train.en.gz, train.de.gz, …). Every contender is a process of its own that has loaded the same
student and waits; then they take turns part by part, one running and the others idle, so that whatever else the machine
does falls on all of them. The student is XLM-R base (12 layers, width 768) with random weights and the pieces of its
vocabulary that the captions use, mean pooling and a linear layer to 512 numbers. Float32, everything trains, dropout 0
on all sides, AdamW, gradients clipped at 1, the same random targets. Tokens are those of the captions, padding not
counted. What lies before the first turn, and the first round, are left out.

babelclip takes M-CLIP's 2,048 captions a step, 16 parts of 128, whose tokens are those of 64 of the peer's with their
padding, so both need the same memory; a round is two parts, so 8 rounds hold one whole step with its optimiser. It
tokenises all captions before the first step, so its seconds get the share of a part. The peer takes 64 captions a step
as its own example does, an optimiser step each; `--peer-batches` looks for its best size, and `--peer-accumulation`
lets it gather several batches before a step. "bare" is forward and backward alone on the parts that `distill` makes:
what the loop costs is the rest. The peer's trainer takes no notice of transformers' grouping by length, so its batches
are padded as they come ("padding" = tokens computed for each real one). "core second" is time of the processors that a
program had. A figure is all tokens over all seconds; on a machine that others use, one turn may be many times slower,
so the quotients are also taken round by round ("median"). A table and the bars go to standard error, one JSON line to
standard output; bars are stated, not enforced. With --out, searches for the peer's batch are kept. Ctrl-C (SIGINT) ends
the rounds and reports those made.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

LANGUAGES = ("en", "de", "fr", "cs")
# Captions of one forward pass, and passes of one step of ours: M-CLIP 2022 has 2,048 captions a step.
DIM, PART, ACCUMULATION, RATE = 512, 128, 16, 2e-5
BARS = {"against sentence-transformers": 2.0, "against bare": 0.85}
OURS, PEER, BARE = "babelclip", "sentence-transformers", "bare"
# Parts of one turn: more of ours, so that a whole step of 2,048 captions fits into the time.
TURNS = {OURS: 2}


def read_captions(folder: Path, most: int) -> Any:
    """Returns captions in four languages, `most` of each; a translation has the id of its English line as source."""
    from babelclip.data.captions import Captions

    parts = []
    for lang in LANGUAGES:
        with gzip.open(folder / f"train.{lang}.gz", "rt", encoding="utf-8") as file:
            texts = [line.strip() for line, _ in zip(file, range(most), strict=False)]
        ids = [f"{lang}-{number}" for number in range(len(texts))]
        sources = [None if lang == "en" else f"en-{number}" for number in range(len(texts))]
        parts.append(Captions.from_columns(id=ids, text=texts, lang=lang, source_id=sources))
    return Captions.concat(parts)


def make_student(captions: Any, folder: Path) -> None:
    """Saves the student, for both sides the same, in `folder`/ours and `folder`/peer."""
    import torch

    from babelclip.models.clip import Clip
    from babelclip.models.export.sentence_transformers import export_sentence_transformers
    from babelclip.models.text import TextEncoder, build_text_backbone
    from babelclip.models.tokenization import TextTokenizer
    from babelclip.models.trim import trim_tokenizer
    from babelclip.starter.parts import XLMR_TOKENIZER, locate

    whole = TextTokenizer.from_file(locate(XLMR_TOKENIZER), max_length=128, pad_id=1)
    config: dict[str, Any] = {
        "model_type": "xlm-roberta",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "vocab_size": whole.vocabulary_size,
    }
    small = TextEncoder(build_text_backbone(config), pooling="mean", head=[], tokenizer=whole)
    used = np.unique(np.fromiter((token for row in whole(captions.texts) for token in row), np.int64))
    tokenizer = trim_tokenizer(small, np.union1d(used, np.arange(4)).tolist())
    base = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    torch.manual_seed(0)
    backbone = build_text_backbone({**config, **base, "vocab_size": tokenizer.vocabulary_size})
    text = TextEncoder(backbone, pooling="mean", head=[{"kind": "linear", "out": DIM}], tokenizer=tokenizer).eval()
    clip = Clip(space="bench/train", text=text, name="bench")
    clip.save(folder / "ours")
    export_sentence_transformers(clip, folder / "peer")


def make_targets(captions: Any, folder: Path) -> Any:
    """Returns a store with a random vector for every English caption."""
    from babelclip.store import EmbeddingStore

    ids = captions.select(lang="en").ids
    vectors = np.random.default_rng(0).normal(size=(len(ids), DIM)).astype(np.float32)
    facts = {"space": "bench/train", "model": "random", "dim": DIM, "normalized": False}
    with EmbeddingStore.create(folder, **facts) as store:
        store.append(ids, vectors)
    return EmbeddingStore.open(folder)


class Baton:
    """A contender's side of the turns: `step` says what the step before took, and waits until it is let go."""

    def __init__(self) -> None:
        """Keeps standard output for the other side; what libraries print goes to standard error."""
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._began = (0.0, 0.0)

    def step(self, tokens: int = 0, computed: int = 0, extra: tuple[float, float] = (0.0, 0.0)) -> None:
        """Reports tokens, tokens with padding and seconds since the last call, `extra` added, and waits."""
        seconds, cores = (now - before for now, before in zip(clocks(), self._began, strict=True))
        row = {"tokens": tokens, "computed": computed, "seconds": seconds + extra[0], "core_seconds": cores + extra[1]}
        print(json.dumps(row), file=self._out, flush=True)
        if not sys.stdin.readline():
            raise SystemExit(0)
        self._began = clocks()


def clocks() -> tuple[float, float]:
    """Returns the time of the clock, and of the processors that this program had, in seconds."""
    return time.perf_counter(), time.process_time()


def recipe_for(steps: int) -> Any:
    """Returns the recipe: the defaults of teacher learning, at the peer's learning rate and M-CLIP's batch."""
    from babelclip.train.recipe import recipe_from_dict

    train = {"steps": steps, "batch_size": PART, "accumulation": ACCUMULATION, "lr": RATE, "warmup_steps": 0}
    return recipe_from_dict({"train": {**train, "precision": "fp32", "device": "cpu", "log_every": 1, "save_every": 0}})


def planned(folder: Path, captions: Any, store: Any) -> tuple[Any, Any, list[Any], tuple[float, float]]:
    """Returns student, parts, the rows of each, and what tokenising a part's captions takes."""
    import babelclip
    from babelclip.train.text_batches import CaptionBatches, Rows
    from babelclip.train.texts import TokenTable

    student = babelclip.load(folder / "ours", towers="text", device="cpu").text
    began = clocks()
    table = TokenTable.from_texts(student, captions.texts)
    spent = [(end - start) * PART / len(captions) for start, end in zip(began, clocks(), strict=True)]
    recipe = recipe_for(1)
    batches = CaptionBatches(table.lengths, None, recipe.train)
    batches.rows = Rows(table, table.lengths, store.positions(targets_of(captions)), store.gather, recipe)
    return student, batches, batches.plan(0), (spent[0], spent[1])


def targets_of(captions: Any) -> list[str]:
    """Returns the id of each caption's target."""
    sources = captions.table.column("source_id").to_pylist()
    return [own if source is None else source for own, source in zip(captions.ids, sources, strict=True)]


def ours(baton: Baton, folder: Path, captions: Any, store: Any, given: argparse.Namespace) -> None:
    """Trains by `distill`."""
    from babelclip.train.distill import distill

    student, batches, plan, tokenising = planned(folder, captions, store)
    sizes = iter([(0, 0), *((batches.tokens(rows), computed(batches, rows)) for rows in plan)])
    # A part begins where the student is called: reading, loss, clipping and optimiser count for the part before.
    student.register_forward_pre_hook(lambda *_: baton.step(*next(sizes), tokenising))
    steps = given.rounds * TURNS[OURS] // ACCUMULATION + 2
    with tempfile.TemporaryDirectory() as run:
        distill(student, captions, store, recipe_for(steps), Path(run), progress=False)


def computed(batches: Any, rows: Any) -> int:
    """Returns the tokens of a batch with padding."""
    return int(batches.rows.lengths[rows].max()) * len(rows)


def bare(baton: Baton, folder: Path, captions: Any, store: Any, given: argparse.Namespace) -> None:
    """Goes forward and backward on the same parts."""
    from babelclip.train.losses import mse

    student, batches, plan, _ = planned(folder, captions, store)
    student.eval()
    before = (0, 0)
    # The parts that ours takes in the counted rounds, every second one.
    for rows in plan[: (given.rounds + 1) * TURNS[OURS] : TURNS[OURS]]:
        batch = batches.load(rows)
        baton.step(*before)
        mse(student(batch.inputs, batch.mask), batch.targets).backward()
        student.zero_grad(set_to_none=True)
        before = (batches.tokens(rows), computed(batches, rows))


def peer(baton: Baton, folder: Path, captions: Any, store: Any, given: argparse.Namespace) -> None:
    """Trains by sentence-transformers' trainer with MSELoss."""
    import torch
    import transformers
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
    from sentence_transformers.losses import MSELoss

    model = SentenceTransformer(str(folder / "peer"), device="cpu")
    # What a run of this length sees: labels of all captions as Python lists would only fill memory.
    steps = given.rounds // given.peer_accumulation + 2
    count = given.peer_batch * given.peer_accumulation * steps
    rows = np.random.default_rng(0).permutation(len(captions))[: max(count, 4096)].tolist()
    wanted = targets_of(captions)
    labels = store.gather(store.positions([wanted[row] for row in rows]))
    data = Dataset.from_dict({"sentence": [captions.texts[row] for row in rows], "label": labels.tolist()})
    seen = [0, 0]

    class Counting(MSELoss):
        """MSELoss that counts the tokens which the model is given."""

        def forward(self, sentence_features: Any, labels: torch.Tensor) -> torch.Tensor:
            for features in sentence_features:
                seen[0] += int(features["attention_mask"].sum())
                seen[1] += features["attention_mask"].numel()
            return super().forward(sentence_features, labels)

    class Turns(transformers.TrainerCallback):
        """Waits after every batch; what a step costs more counts for its last one."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.on_step_end()

        def on_substep_end(self, *_: Any, **__: Any) -> None:
            self.on_step_end()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            counted = list(seen)
            seen[:] = [0, 0]
            baton.step(*counted)

    with tempfile.TemporaryDirectory() as run:
        arguments = Arguments(
            output_dir=run,
            max_steps=steps,
            per_device_train_batch_size=given.peer_batch,
            gradient_accumulation_steps=given.peer_accumulation,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
        )
        loss = Counting(model)
        SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=data, loss=loss, callbacks=[Turns()]
        ).train()


CONTENDERS = {PEER: peer, OURS: ours, BARE: bare}


def measure(folder: Path, given: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Returns what each contender's parts took, the first round left out; they take turns, the order turned."""
    command = [sys.executable, __file__, "--captions", str(given.captions), "--rows", str(given.rows)]
    command += ["--rounds", str(given.rounds), "--folder", str(folder)]
    command += ["--peer-accumulation", str(given.peer_accumulation)]
    wanted = {} if given.only_peer else {name: ["--contender", name] for name in (OURS, BARE)}
    for size in given.peer_batches:
        wanted[f"{PEER}, {size}"] = ["--contender", PEER, "--peer-batch", str(size)]
    running = {
        name: subprocess.Popen([*command, *more], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name, more in wanted.items()
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in running}
    names = list(running)
    for process in running.values():
        answer(process)
    turns = [(turn, name) for turn in range(given.rounds) for name in rotated(names, turn)]
    with contextlib.suppress(KeyboardInterrupt):
        for turn, name in turns:
            for _ in range(TURNS.get(name, 1)):
                print("go", file=running[name].stdin, flush=True)
                row = answer(running[name])
                if turn:
                    found[name].append(row)
                speed = row["tokens"] / row["seconds"]
                print(f"round {turn} {name:26} {speed:8.1f} tokens/s", file=sys.stderr, flush=True)
    for process in running.values():
        process.kill()
        process.wait()
    return found


def rotated(names: list[str], turn: int) -> list[str]:
    """Returns the names in the order of a round."""
    return names[turn % len(names) :] + names[: turn % len(names)]


def answer(process: subprocess.Popen[str]) -> dict[str, float]:
    """Returns what a contender says of its step."""
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise SystemExit(f"{process.args} has ended; its own message is above.")
    row: dict[str, float] = json.loads(line)
    return row


def report(found: dict[str, list[dict[str, float]]], settings: dict[str, Any]) -> dict[str, Any]:
    """Returns speeds, their quotients and what they were measured with."""
    speeds = {
        rate: {
            name: round(sum(row["tokens"] for row in rows) / sum(row[seconds] for row in rows), 1)
            for name, rows in found.items()
        }
        for rate, seconds in (("tokens_per_second", "seconds"), ("tokens_per_core_second", "core_seconds"))
    }
    padding = {
        name: round(sum(row["computed"] for row in rows) / sum(row["tokens"] for row in rows), 3)
        for name, rows in found.items()
    }
    peers = [name for name in found if name.startswith(PEER)]
    best = max(peers, key=lambda name: speeds["tokens_per_second"][name])
    against = {
        rate: {f"against {name}": of[OURS] / of[other] for name, other in ((PEER, best), (BARE, BARE))}
        for rate, of in speeds.items()
        if OURS in of
    }
    for rate, seconds in (("tokens_per_second", "seconds"), ("tokens_per_core_second", "core_seconds")):
        for name, other in ((PEER, best), (BARE, BARE)) if OURS in found else ():
            against[rate][f"against {name}, median"] = median_of(found, other, seconds)
    packages = ("torch", "transformers", "sentence-transformers", "accelerate", "datasets")
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "command": " ".join(["python", *sys.argv]),
        "settings": settings,
        **speeds,
        "ratios": {rate: {name: round(value, 3) for name, value in of.items()} for rate, of in against.items()},
        "padding": padding,
        "bars": BARS,
        "steps": {name: [{k: round(v, 3) for k, v in row.items()} for row in rows] for name, rows in found.items()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "machine": {"cpu": processor, "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2)},
    }


def median_of(found: dict[str, list[dict[str, float]]], other: str, seconds: str) -> float:
    """Returns the median over rounds of our speed over another's; the optimiser's round is one of them."""

    def speed(name: str, turn: int) -> float:
        rows = found[name][turn * TURNS.get(name, 1) :][: TURNS.get(name, 1)]
        return sum(row["tokens"] for row in rows) / sum(row[seconds] for row in rows)

    rounds = min(len(found[OURS]) // TURNS[OURS], len(found[other]))
    return float(np.median([speed(OURS, turn) / speed(other, turn) for turn in range(rounds)]))


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=Path, required=True, help="folder with train.en.gz and so on")
    parser.add_argument("--rows", type=int, default=29000, help="captions of each language")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contender, the first not counted")
    parser.add_argument("--peer-batches", type=int, nargs="+", default=[64], help="the peer's batches, each measured")
    parser.add_argument("--peer-accumulation", type=int, default=1, help="the peer's batches of one optimiser step")
    parser.add_argument("--only-peer", action="store_true", help="look for the peer's best batch")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--contender", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--peer-batch", type=int, default=64, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    captions = read_captions(given.captions, given.rows)
    if given.contender:
        from babelclip.store import EmbeddingStore

        store = EmbeddingStore.open(given.folder / "targets")
        CONTENDERS[given.contender](Baton(), given.folder, captions, store, given)
        return
    with tempfile.TemporaryDirectory() as folder:
        make_student(captions, Path(folder))
        make_targets(captions, Path(folder) / "targets")
        found = measure(Path(folder), given)
    made = report(found, settings_of(given, len(captions)))
    for name, bar in BARS.items() if made["ratios"]["tokens_per_second"] else ():
        for kind in (name, f"{name}, median"):
            clock, cores = (made["ratios"][rate][kind] for rate in ("tokens_per_second", "tokens_per_core_second"))
            print(f"{kind}: {clock:.2f} (bar {bar}); by processor time {cores:.2f}", file=sys.stderr)
    if given.out:
        kept = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {}
        searches = [*kept.get("searches", []), made] if given.only_peer else kept.get("searches", [])
        whole = {**(kept if given.only_peer else made), "searches": searches}
        given.out.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(made, ensure_ascii=False))


def settings_of(given: argparse.Namespace, captions: int) -> dict[str, Any]:
    """Returns what both sides were set to."""
    both = {"precision": "float32", "dropout": 0, "optimizer": "AdamW, fused", "clip_norm": 1.0, "lr": RATE}
    peers = {
        "batches": given.peer_batches, "accumulation": given.peer_accumulation, "loss": "MSELoss",
        "targets": "a column of the data set", "batch_sampler": "default: random, padded to the longest",
    }  # fmt: skip
    mine = {
        "captions_a_step": PART * ACCUMULATION, "part": PART, "accumulation": ACCUMULATION, "loss": "mse",
        "targets": "EmbeddingStore", "batches": "64 parts sorted by length together",
    }  # fmt: skip
    student = "12 layers, width 768, random weights, trimmed vocabulary, mean pooling, linear to 512"
    return {
        "student": student, "captions": captions, "rounds": given.rounds, "both": both, OURS: mine, PEER: peers,
        "threads": os.environ.get("OMP_NUM_THREADS", "torch's default"),
    }  # fmt: skip


if __name__ == "__main__":
    main()
