"""What a run shows for it: the page, the pictures class by class, and runs side by side."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness import cas, charts, compare, measured, report
from harness.cache import write_json
from harness.class_accuracy import ClassAccuracy, class_rows, write_pictures
from harness.images import ArrayImages
from harness.samples import write_samples
from zoo.console import UserError

RANDOM = np.random.default_rng(0)


def result(**changes: Any) -> dict[str, Any]:
    """A result as an evaluation gives it, with a score by class."""
    network = {"title": "shapes classifier", "identity": "aaaa", "dimensions": 8}
    hits = {"samples_top1": [9, 2, 5, 0], "real_top1": [8, 6, 5, 0], "samples_top5": [9] * 4, "real_top5": [9] * 4}
    content = {
        "dataset": "shapes",
        "resolution": 8,
        "protocol": {"fid": "FID-40 (shapes classifier)", "cas_top1": "CAS-40 (small CNN, 2 epochs), top 1"},
        "metrics": {"fid": 3.25, "cas_top1": 0.5},
        "floor": {"fid": 1.0, "cas_top1": 0.6},
        "classifier_accuracy": 0.9,
        "counts": {"samples": 40, "reference": 100, "floor": 40, "train": 100, "held_out": 30},
        "by_class": {"images": [10, 10, 10, 0], "real_images": 40, **hits},
        "feature_network": network,
        "reference": {"name": "shapes train", "fingerprint": "ffff", "against": {"fid": "100 images"}},
        "sample_set": {"name": "base", "fingerprint": "eeee"},
        "resize": "none: images are compared at their own size",
        "warnings": ["few-samples: 40 <samples> are few"],
        "versions": {"numpy": "2"},
        "recipe": "recipes/x.gin",
        "rows": ["cdm/1a:cdm-32"],
    }
    return content | changes


def make_run(folder: Path, scored: dict[str, Any], rate: float = 0.002) -> Path:
    """A work directory with all that a page shows."""
    write_json(folder / "results" / "base.json", scored)
    stage = folder / "stages" / "base"
    (stage / "grids").mkdir(parents=True)
    stage.joinpath("metrics.csv").write_text("step,loss,images_per_second\n1,0.5,100\n2,0.4,110\n3,")
    stage.joinpath("selection.csv").write_text("step,value\n1,30.5\n2,20.25\n")
    incident = {"problem": "the loss is 31 after 0.04", "seen": 1200, "restored": 1000, "skipped": 200, "date": "x"}
    write_json(stage / "incidents.json", [incident | {"gave_up": False}])
    images = RANDOM.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    for name in ("00000001-ema", "00000002-ema", "00000002-raw"):
        Image.fromarray(images[0]).save(stage / "grids" / f"{name}.png")
    write_samples(folder / "samples" / "base" / "shard-00000.npz", images, np.arange(40) % 4)
    (folder / "operative.gin").write_text(f"Adam.learning_rate = {rate}\nAdam.beta_1 = 0.9\n")
    return folder


class Page(HTMLParser):
    """What a browser and a screen reader find in a page."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.outside: list[str] = []
        self.undescribed = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag not in ("meta", "img", "br", "link", "path", "use", "rect"):
            self.open.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        if tag == "img" or found.get("role") == "img":
            self.undescribed += not (found.get("alt") or found.get("aria-label"))
        if tag == "a":
            self.links.append(str(found["href"]))
        for name in ("src", "xlink:href"):
            value = found.get(name)
            if value and not value.startswith(("data:", "#")):
                self.outside.append(value)
        if tag in ("script", "link", "iframe"):
            self.outside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "use", "rect"):
            assert self.open.pop() == tag


# ---- the page


def test_the_page_is_whole_and_needs_nothing_else(tmp_path: Path):
    run = make_run(tmp_path / "run", result())
    text = report.write_report(run).read_text()
    page = Page(text)
    assert page.open == []
    assert page.outside == []
    assert page.undescribed == 0
    assert len(page.ids) == len(set(page.ids)), "names inside drawings meet"
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert "url(http" not in text
    assert "prefers-color-scheme: dark" in text


def test_the_page_says_what_a_reader_must_know(tmp_path: Path):
    text = report.write_report(make_run(tmp_path / "run", result())).read_text()
    warning = text.index("40 &lt;samples&gt; are few")
    incident = text.index("the loss is 31 after 0.04 (step 1,200)")
    assert max(warning, incident) < text.index("FID-40 (shapes classifier)")
    for said in (
        "Training of base went astray once",
        "shapes train, 100 images; 40 samples",
        "identity aaaa",
        "CDM (ours), imagenet 32x32 (cdm/1a:cdm-32)",
        "FID-50k (Inception), train",
        "Samples are ahead in 1 of 3 classes",
        "class 0: 0.90 by samples, 0.80 by real images",
        "The best is 20.25, at step 2",
        "ema, step 2",
    ):
        assert said in text, said
    assert "ema, step 1," not in text


@pytest.mark.parametrize("what", ["nothing", "damaged", "no samples"])
def test_a_run_that_is_not_finished(tmp_path: Path, what: str):
    run = tmp_path / "run"
    if what == "nothing":
        run.mkdir()
        assert "Nothing has been scored yet" in report.write_report(run).read_text()
        return
    make_run(run, result())
    if what == "damaged":
        (run / "results" / "base.json").write_text('{"metrics":')
        with pytest.raises(UserError, match=r"base.json is no result .* run the evaluation again"):
            report.write_report(run)
        return
    (run / "samples" / "base" / "shard-00000.npz").unlink()
    assert "Class by class" in report.write_report(run).read_text()


def test_the_same_run_gives_the_same_page(tmp_path: Path):
    run = make_run(tmp_path / "run", result())
    assert report.write_report(run).read_bytes() == report.write_report(run).read_bytes()


# ---- numbers


def test_every_number_of_the_harness_fits_the_screen():
    numbers = {key: 234.5678 if digits == 2 else 0.12345 for key, (digits, _, _) in measured.SHOWN.items()}
    protocol = {key: f"{key}-50k (a feature network with a rather long title), a setting" for key in numbers}
    scored = result(metrics=numbers | {"is_std": 12.345, "kid_std": 0.1}, floor=numbers, protocol=protocol)
    lines = report.render_row(scored, ["cdm/1b:cdm-256", "cdm/text-cas-classes:cdm-256"])
    assert max(map(len, lines)) <= 80
    assert any("234.57 ± 12.35" in line for line in lines)
    assert any(line.split()[-1] == "96" for line in lines if line)


# ---- class by class


def test_classes_without_test_images_are_left_out():
    found = ClassAccuracy.of_result(result())
    np.testing.assert_allclose(found.differences, [0.1, -0.4, 0.0])
    assert (found.above, found.best(), found.worst()) == (1, [0], [1])
    assert ClassAccuracy.of_result(result(by_class=None)) is None


def test_best_and_worst_classes_do_not_overlap():
    ties = ClassAccuracy(np.full(10, 0.5), np.full(10, 0.5))
    assert not set(ties.best()) & set(ties.worst())
    many = ClassAccuracy(np.linspace(0, 1, 100), np.full(100, 0.5))
    assert (many.best()[:2], many.worst()[:2]) == ([99, 98], [0, 1])
    assert len(many.best()) == 6


def test_a_row_of_a_picture_is_a_class():
    labels = np.array([2, 0, 2, 1, 2])
    images = np.repeat(np.arange(5, dtype=np.uint8), 8 * 8 * 3).reshape(5, 8, 8, 3)
    rows = class_rows(ArrayImages(images, labels), [2, 1], columns=2)
    assert rows[:, 0, 0, 0].tolist() == [0, 2, 3, 255]  # classes 2, 2, 1, and nothing


def test_the_pictures_of_a_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = make_run(tmp_path / "run", result())
    cas.main(["pictures", str(run / "results" / "base.json"), str(run / "samples" / "base")])
    names = [Path(line).name for line in capsys.readouterr().out.split()]
    assert names == ["base-classes.png", "base-best-classes.png", "base-worst-classes.png"]
    with Image.open(run / "results" / "base-best-classes.png") as picture:
        assert picture.size == (8 * (8 * 9 + 1), 8 * 10)  # eight samples of one class, enlarged eight times
    assert write_pictures(result(by_class=None), None, tmp_path / "x") == []
    write_json(tmp_path / "plain.json", result(by_class=None))
    with pytest.raises(UserError, match="has no accuracies by class"):
        cas.main(["pictures", str(tmp_path / "plain.json")])
    with pytest.raises(UserError, match=r"or a result\.json"):
        cas.main(["pictures", str(tmp_path / "nothing.json")])


def test_a_drawing_takes_the_colour_of_its_page():
    figure = charts.draw_curves({"a": {"step": np.arange(3.0), "loss": np.array([3.0, 2.0, 1.0])}})
    drawn = charts.to_svg(figure, "a")
    assert "currentColor" in drawn
    assert "#000000" not in drawn
    assert "<metadata>" not in drawn
    assert set(re.findall(r'id="([^"]+)"', drawn)).isdisjoint(re.findall(r'id="([^"]+)"', charts.to_svg(figure, "b")))


# ---- side by side


def test_numbers_of_one_protocol_share_a_row(tmp_path: Path):
    first = make_run(tmp_path / "a", result())
    second = make_run(tmp_path / "b", result(metrics={"fid": 2.5, "cas_top1": 0.4}), rate=0.004)
    lines = compare.render(compare.open_entries([first, second]))
    assert max(map(len, lines)) <= 80
    assert next(line for line in lines if line.startswith("FID-40")).split()[-2:] == ["3.25", "2.50"]
    assert "  Adam.learning_rate: [1] 0.002  [2] 0.004" in lines
    assert not any("beta_1" in line or "note:" in line for line in lines)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"feature_network": {"title": "shapes classifier", "identity": "bbbb"}}, "extractor aaaa / bbbb"),
        ({"reference": {"name": "shapes train", "fingerprint": "0000"}}, "reference"),
        ({"resolution": 16}, "resolution 8 / 16"),
        ({"resize": "bicubic"}, "resize none"),
        ({"protocol": {"fid": "FID-50 (shapes classifier)"}}, "protocol FID-40 (shapes classifier) / FID-50"),
    ],
)
def test_unlike_numbers_never_share_a_row(tmp_path: Path, change: dict[str, Any], said: str):
    for name, changes in (("a", {}), ("b", change)):
        write_json(tmp_path / name / "result.json", result(metrics={"fid": 3.25}, **changes))
    entries = compare.open_entries([tmp_path / "a" / "result.json", tmp_path / "b" / "result.json"])
    assert [entry.title for entry in entries] == ["a", "b"]
    rows = [row.cells for row in compare.rows_of(entries)]
    assert rows == [("3.25", "-"), ("-", "3.25")]
    assert said in " ".join(compare.unlike_rows(compare.rows_of(entries)))


def test_a_score_without_features_compares_across_extractors(tmp_path: Path):
    other = result(feature_network={"title": "Inception", "identity": "bbbb"})
    for name, content in (("a", result()), ("b", other)):
        write_json(tmp_path / f"{name}.json", content)
    rows = compare.rows_of(compare.open_entries([tmp_path / "a.json", tmp_path / "b.json"]))
    assert next(row.cells for row in rows if row.key == "cas_top1") == ("0.500", "0.500")


def test_the_page_of_a_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    runs = [make_run(tmp_path / name, result(), rate) for name, rate in (("a", 0.1), ("b", 0.2))]
    compare.main([*map(str, runs), "--out", str(tmp_path / "compare.html")])
    text = (tmp_path / "compare.html").read_text()
    page = Page(text)
    assert (page.open, page.outside, page.undescribed) == ([], [], 0)
    assert "Adam.learning_rate" in text
    assert "Stage base" in text
    assert f"page in {tmp_path / 'compare.html'}" in capsys.readouterr().out


def test_more_runs_than_fit_beside_one_another(tmp_path: Path):
    runs = [make_run(tmp_path / name, result()) for name in "abcde"]
    lines = compare.render(compare.open_entries(runs))
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("FID-40") for line in lines) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "give a work directory or a result.json"),
        ("[", "is no result"),
        ("[]", "is no result"),
        ('{"metrics": {}}', "lacks protocol, reference"),
    ],
)
def test_what_is_no_result_is_named(tmp_path: Path, content: str | None, message: str):
    path = tmp_path / "result.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        compare.main([str(path), str(path)])


def test_one_result_has_nothing_beside_it(tmp_path: Path):
    (tmp_path / "result.json").write_text(json.dumps(result()))
    with pytest.raises(UserError, match="give at least two"):
        compare.main([str(tmp_path / "result.json")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no results"):
        compare.main([str(tmp_path / "empty"), str(tmp_path / "empty")])
