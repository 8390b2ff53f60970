"""Miniatures of the layouts in which benchmarks are published: two pictures, captions as their authors write them.

`LAYOUTS[name](folder)` writes one and returns what stands behind `name=`. In each, one text holds MARK and is that of
the second item, so that tests can spoil it in the same way everywhere.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.layouts import write_tar

MARK = "MARKED"
COCO = ("COCO_val2014_000000000042.jpg", "COCO_train2014_000000000009.jpg")
FLICKR = ("1007129816.jpg", "1009434119.jpg")


def picture_bytes(colour: str = "red", kind: str = "JPEG") -> bytes:
    packed = io.BytesIO()
    Image.new("RGB", (6, 5), colour).save(packed, kind)
    return packed.getvalue()


def pictures(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture_bytes(("red", "blue", "green")[number % 3], "PNG" if name.endswith("png") else "JPEG"))


def lines(path: Path, *texts: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(f"{text}\n" for text in texts).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_json(path: Path, content: object) -> None:
    lines(path, json.dumps(content, ensure_ascii=False))


def jsonl(path: Path, *rows: object) -> None:
    lines(path, *(json.dumps(row, ensure_ascii=False) for row in rows))


def xtd10(folder: Path) -> str:
    pictures(folder / "val2014", *COCO)
    lines(folder / "XTD10/test_image_names.txt", *COCO)
    for place, code in (("XTD10", "en"), ("XTD10", "ko"), ("MIC", "de"), ("STAIR", "jp")):
        lines(folder / place / f"test_1kcaptions_{code}.txt", f"{code} one", f"{code} {MARK}")
    return str(folder)


def xtd200(folder: Path) -> str:
    pictures(folder / "images", *COCO)
    lines(folder / "test_image_names.txt", *COCO)
    for code in ("eng_Latn", "zho_Hant", "ace_Arab"):
        lines(folder / f"{code}.txt", f"{code} one", f"{code} {MARK}")
    return str(folder)


def flickr30k_200(folder: Path) -> str:
    pictures(folder / "images", *FLICKR)
    lines(folder / "filenames.txt", *FLICKR)
    lines(folder / "eng_captions.txt", "not a language", "not one")
    lines(folder / "deu_Latn.txt", "eins", f"zwei {MARK}")
    return str(folder)


def xm3600(folder: Path) -> str:
    pictures(folder / "images", "000411001ff7dd4f.jpg", "0a0f14a1fe1a4ddb.jpg")
    jsonl(
        folder / "captions.jsonl",
        {"image/key": "000411001ff7dd4f", "sv": {"caption": ["en", "två"]}, "fil": {"caption": ["isa"]}},
        {"image/key": "0a0f14a1fe1a4ddb", "sv": {"caption": [MARK]}, "fil": {"caption": ["dalawa"]}},
    )
    return str(folder)


def xflickrco(folder: Path) -> str:
    pictures(folder / "images", FLICKR[0], COCO[0])
    captions = {"de": [["eins"], [f"zwei {MARK}"]], "ja": [["一"], ["二"]]}
    write_json(folder / "xflickrco.json", {"images": [FLICKR[0], COCO[0]], "captions": captions})
    return str(folder)


def wit(folder: Path) -> str:
    pictures(folder / "images", "BNRATHAU.jpg", "wit-test_3.png")
    url = "https://upload.wikimedia.org/wikipedia/commons/6/61/"
    here = {"image_url": f"{url}BNRATHAU.jpg", "wit_ix": "wit-test_1"}
    other = {"image_url": f"{url}x.tif", "wit_ix": "wit-test_3"}
    text = "caption_reference_description"
    jsonl(folder / "test_ar.jsonl", {**here, text: "واحد", "language": "ar"}, {**other, text: MARK, "language": "ar"})
    jsonl(folder / "test_da.jsonl", {**here, text: "rådhuset", "language": "da"})
    return str(folder)


def mscoco(folder: Path) -> str:
    pictures(folder, f"val2014/{COCO[0]}", f"train2014/{COCO[1]}")
    images = [
        {"filename": name, "filepath": name.split("_")[1], "split": split, "sentences": [{"raw": t} for t in texts]}
        for name, split, texts in (
            (COCO[0], "test", ["a dog", "a red dog"]),
            (COCO[1], "test", [f"a cat {MARK}"]),
            ("COCO_val2014_000000000077.jpg", "restval", ["not of the split"]),
        )
    ]
    write_json(folder / "dataset_coco.json", {"images": images, "dataset": "coco"})
    return str(folder)


def coco_cn(folder: Path) -> str:
    pictures(folder / "images", *COCO)
    stems = [name.removesuffix(".jpg") for name in COCO]
    lines(folder / "coco-cn_test.txt", *stems)
    lines(folder / "coco-cn_train.txt", "COCO_train2014_000000000077")
    written = [f"{stems[0]}#0\t一只狗", f"{stems[0]}#1\t红狗", f"{stems[1]}#0\t猫{MARK}"]
    lines(folder / "imageid.human-written-caption.txt", *written, "COCO_train2014_000000000077#0\t别的")
    lines(folder / "imageid.manually-translated-caption.txt", f"{stems[0]}#0\t译文")
    return str(folder)


def flickr30k(folder: Path) -> str:
    pictures(folder / "flickr30k-images", *FLICKR)
    rows = [f"{FLICKR[0]},A man, and his hat.", f'{FLICKR[0]},"A ""man"", sitting"', f"{FLICKR[1]},A dog {MARK}"]
    lines(folder / "flickr30k_test_karpathy.txt", "image,caption", *rows)
    return str(folder)


def flickr8k(folder: Path) -> str:
    pictures(folder / "Images", *FLICKR)
    rows = [f"{FLICKR[0]}#0\tA man .", f"{FLICKR[0]}#1\tHis hat .", f"{FLICKR[1]}#0\tA dog {MARK}", "1.jpg#0\tother"]
    lines(folder / "Flickr8k.token.txt", *rows)
    lines(folder / "Flickr_8k.testImages.txt", *FLICKR)
    return str(folder)


def flickr30k_cn(folder: Path) -> str:
    pictures(folder / "images", *FLICKR)
    lines(folder / "flickr30k-cn/test.txt", "1007129816#zhm#0\t一个男人", f"1009434119#zhm#1 一只狗{MARK}")
    return str(folder)


def flickr8k_cn(folder: Path) -> str:
    pictures(folder / "images", *FLICKR)
    lines(folder / "flickr8k_test_zh.txt", f"{FLICKR[0]},一个男人", f"{FLICKR[1]},一只狗{MARK}")
    return str(folder)


def multi30k(folder: Path) -> str:
    pictures(folder / "flickr30k-images", *FLICKR)
    lines(folder / "data/task1/image_splits/test_2016_flickr.txt", *FLICKR)
    lines(folder / "data/task1/raw/train.en.gz", "of another split")
    for code in ("en", "de", "cs"):
        lines(folder / f"data/task1/raw/test_2016_flickr.{code}", f"{code} one", f"{code} {MARK}")
    return str(folder)


def multi30k_task2(folder: Path) -> str:
    pictures(folder / "flickr30k-images", *FLICKR)
    lines(folder / "data/task2/image_splits/test_2016_images.txt", *FLICKR)
    for code in ("en", "de"):
        for number in (1, 2):
            lines(folder / f"data/task2/raw/test_2016.{number}.{code}", f"{code} {number}", f"{code} {number} {MARK}")
    return str(folder)


def chinese_clip(folder: Path) -> str:
    rows = [{"text_id": 1, "text": "一", "image_ids": [7, 8]}, {"text_id": 2, "text": f"二{MARK}", "image_ids": [8]}]
    jsonl(folder / "test_texts.jsonl", *rows)
    packed = [base64.b64encode(picture_bytes(colour)).decode() for colour in ("red", "blue")]
    lines(folder / "test_imgs.tsv", f"7\t{packed[0]}", f"8\t{packed[1]}")
    return str(folder)


def wds(folder: Path) -> str:
    (folder / "test").mkdir(parents=True)
    lines(folder / "dataset_type.txt", "retrieval")
    lines(folder / "test/nshards.txt", "2")
    for shard, texts in enumerate((b"a dog\na red dog\n", f"a cat {MARK}\n".encode())):
        members = [(f"s000000{shard}.webp", picture_bytes(kind="WEBP")), (f"s000000{shard}.txt", texts)]
        write_tar(folder / f"test/{shard}.tar", members)
    return str(folder)


def captions(folder: Path) -> str:
    pictures(folder, "a.jpg", "deep/b.jpg")
    rows = [
        {"image": "a.jpg", "text": "en hund", "lang": "sv", "label": "dog"},
        {"image": "deep/b.jpg", "text": f"zwei {MARK}", "lang": "de", "label": "dog"},
    ]
    jsonl(folder / "mine.jsonl", *rows)
    return str(folder / "mine.jsonl")


def own_folder(folder: Path) -> str:
    pictures(folder, "a.jpg", "deep/b.jpg")
    lines(folder / "a.txt", "a dog", "a red dog")
    lines(folder / "deep/b.txt", f"a cat {MARK}")
    return str(folder)


def imagenet_names(folder: Path) -> None:
    write_json(folder / "en_classnames.json", {"imagenet1k": [f"name {n}" for n in range(1000)]})
    write_json(folder / "jp_classnames.json", {"imagenet1k": [f"名 {n}" for n in range(1000)]})
    templates = {"imagenet1k": ["a photo of a {c}.", "a {c}"]}
    write_json(folder / "en_zeroshot_classification_templates.json", templates)
    write_json(folder / "jp_zeroshot_classification_templates.json", {"imagenet1k": ["{c}の写真", "名のない"]})


def imagenet(folder: Path) -> str:
    """Two of the classes: the second and the last."""
    pictures(folder / "set", "n01443537/a.JPEG", "n01443537/b.JPEG", "n15075141/a.JPEG")
    imagenet_names(folder / "names")
    return f"{folder / 'set'},names={folder / 'names'}"


def imagenet_v2(folder: Path) -> str:
    pictures(folder / "set", "1/a.jpeg", "10/a.jpeg", "2/a.jpeg", "2/b.jpeg")
    imagenet_names(folder / "set")
    return str(folder / "set")


def babel_imagenet(folder: Path) -> str:
    pictures(folder / "imagenet/val", "n01440764/a.JPEG", "n01443537/a.JPEG", "n15075141/a.JPEG")
    names = {"DE": [[0, 999], ["Schleie", "Klopapier"]], "ALS": [[0], ["Schleie"]], "SQ": [[999], ["letër"]]}
    write_json(folder / "babel/babel_imagenet.json", {**names, "XMF": [[0], ["?"]]})
    write_json(folder / "babel/nllb_dist13b_prompts.json", {"DE": ["ein Foto von {}", "ohne Ort"]})
    return f"{folder / 'babel'},images={folder / 'imagenet'}"


def cifar_pixels() -> np.ndarray:
    """Two pictures whose red, green and blue planes are 1, 2, 3 and 4, 5, 6."""
    return np.repeat(np.arange(1, 7, dtype=np.uint8), 1024).reshape(2, 3072)


def cifar10(folder: Path) -> str:
    lines(folder / "cifar-10-batches-bin/batches.meta.txt", "airplane", "automobile", "")
    pixels = cifar_pixels()
    rows = np.concatenate([np.array([[1], [0]], np.uint8), pixels], axis=1)
    (folder / "cifar-10-batches-bin/test_batch.bin").write_bytes(rows.tobytes())
    return str(folder)


def cifar100(folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    batch = {b"data": cifar_pixels(), b"fine_labels": [1, 0], b"coarse_labels": [0, 0]}
    (folder / "test").write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["apple", "aquarium_fish"]}, protocol=2))
    return str(folder)


def class_folders(folder: Path) -> str:
    pictures(folder / "test", "00/a.jpg", "00/b.jpg", "02/a.jpg", "10/a.jpg")
    pictures(folder / "train", "02/c.jpg")
    lines(folder / "label.txt", *(f"name {number}" for number in range(11)))
    lines(folder / "label_cn.txt", *(f"名 {number}" for number in range(11)))
    return str(folder)


def winoground(folder: Path) -> str:
    pictures(folder / "images", *(f"ex_{item}_img_{side}.png" for item in (0, 1) for side in (0, 1)))
    rows = [
        {
            "id": n,
            **{f"image_{side}": f"ex_{n}_img_{side}" for side in (0, 1)},
            "caption_0": "a dog and a cat",
            "caption_1": "a cat and a dog" if not n else MARK,
            "collapsed_tag": ("Object", "Relation")[n],
        }
        for n in (0, 1)
    ]
    jsonl(folder / "examples.jsonl", *rows)
    return str(folder)


def sugarcrepe(folder: Path) -> str:
    pictures(folder / "coco/val2014", *COCO)
    names = [name.rsplit("_", 1)[1] for name in COCO]  # those of val2017
    item = {"filename": names[0], "caption": "a dog", "negative_caption": "a cat"}
    write_json(folder / "data/add_att.json", {"0": item, "5": {**item, "filename": names[1], "caption": MARK}})
    write_json(folder / "data/swap_obj.json", {"0": item})
    return str(folder)


def sts_year(folder: Path) -> str:
    year = folder.name[-2:]
    here = folder / f"STS{year}-en-test"
    lines(here / "STS.input.headlines.txt", "A dog\tA cat", 'He said "no\tHe', f"One {MARK}\tTwo", "Unrated\tpair")
    lines(here / "STS.gs.headlines.txt", "1.2", "5", "3", "")
    lines(here / "STS.input.images.txt", "A\tB\tsource\tother", "C\tD")
    lines(here / "STS.gs.images.txt", "0", "4.5")
    lines(folder / "STS99-en-test/STS.input.other.txt", "of\tanother year")
    return str(folder)


def sts17(folder: Path) -> str:
    lines(folder / "eval/STS.input.track1.ar-ar.txt", "كلب\tقط", f"{MARK}\tقط", "كلب\tكلب")
    lines(folder / "gs/STS.gs.track1.ar-ar.txt", "1", "2", "5")
    lines(folder / "eval/STS.input.track6.tr-en.txt", "A dog\tBir köpek", "A cat\tBir kedi")
    lines(folder / "gs/STS.gs.track6.tr-en.txt", "5", "5")
    return str(folder)


def stsb(folder: Path) -> str:
    start = "main-captions\tMSRvid\t2012test\t0024"
    rows = [f'{start}\t2.5\tA "girl\tA woman', f"{start}\t4\tA {MARK}\tA cat\tsource\tother", f"{start}\t0\tX\tY"]
    lines(folder / "sts-test.csv", *rows)
    return str(folder)


def sick(folder: Path) -> str:
    header = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment"
    rows = ["6\tA dog\tA cat\t3.3\tNEUTRAL", f"7\t{MARK}\tA cat\t4\tNEUTRAL", "8\tOne\tTwo\t1\tNEUTRAL"]
    lines(folder / "SICK_test_annotated.txt", header, *rows)
    return str(folder)


def multi30k_texts(folder: Path) -> str:
    for code in ("en", "de", "fr"):
        lines(folder / f"test_2016_flickr.{code}", f"{code} one", f"{code} {MARK}", f"{code} three")
    lines(folder / "train.en.gz", "of another split")
    return str(folder)


def flores(folder: Path) -> str:
    for code in ("eng_Latn", "swe_Latn"):
        lines(folder / f"devtest/{code}.devtest", f"{code} one", f"{code} {MARK}", f"{code} three")
        lines(folder / f"dev/{code}.dev", "of another split")
    return str(folder)


def parallel(folder: Path) -> str:
    for code in ("en", "sv"):
        lines(folder / f"mine.{code}", f"{code} one", f"{code} {MARK}", f"{code} three")
    lines(folder / "README.md", "not a text")
    return str(folder)


LAYOUTS: dict[str, Callable[[Path], str]] = {
    "xtd10": xtd10,
    "xtd200": xtd200,
    "flickr30k-200": flickr30k_200,
    "xm3600": xm3600,
    "xflickrco": xflickrco,
    "wit": wit,
    "mscoco": mscoco,
    "coco-cn": coco_cn,
    "flickr30k": flickr30k,
    "flickr8k": flickr8k,
    "flickr30k-cn": flickr30k_cn,
    "flickr8k-cn": flickr8k_cn,
    "multi30k": multi30k,
    "multi30k-task2": multi30k_task2,
    "chinese-clip": chinese_clip,
    "wds": wds,
    "captions": captions,
    "folder": own_folder,
    "builtin": captions,
    "imagenet1k": imagenet,
    "imagenetv2": imagenet_v2,
    "imagenet-a": imagenet,
    "imagenet-o": imagenet,
    "imagenet-r": imagenet,
    "imagenet-sketch": imagenet,
    "babel-imagenet": babel_imagenet,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "class-folders": class_folders,
    "winoground": winoground,
    "sugarcrepe": sugarcrepe,
    **{f"sts{year}": sts_year for year in range(12, 17)},
    "sts17": sts17,
    "stsb": stsb,
    "sick-r": sick,
    "multi30k-texts": multi30k_texts,
    "flores": flores,
    "parallel": parallel,
}


def made(name: str, root: Path) -> str:
    """Writes the miniature of a benchmark and returns its spec, `NAME=...`."""
    return f"{name}={LAYOUTS[name](root / name)}"
