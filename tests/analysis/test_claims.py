"""The claims against figures derived by hand: each line of DERIVED is its own computation, without the converters."""

import copy
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from analysis.claims import ClaimsError, check, comparison, terminal, words
from analysis.claims.check import VERDICTS, verdict
from analysis.claims.formulas import FORMULAS
from analysis.claims.page import as_markdown, page, write_claims
from analysis.convert.tables import rows
from analysis.report import ReportError

ROOT = Path(__file__).parents[2]
YEAR_H = 365.25 * 24

# claim: (recomputed by hand, relative tolerance, verdict by the rule, by hand too)
DERIVED = {
    "D1": (14_197_122, 0, "rounded"),  # 14 / 14.197 = 0.986
    "D2": (9e6, 0, "holds"),
    "D3": (None, 0, "not checked"),
    "D4": (1000, 0, "holds"),
    "S1": (38.58025, 1e-6, "rounded"),  # 200e6 / 60 = 3,333,333 s; / 86,400 = 38.5802 days; 38 / 38.58 = 0.985
    "S2": (7e6, 0, "off by a factor"),  # 200 / 7 = 28.6
    "S3": (462.963, 1e-6, "derived"),  # 925.926 h / 2 h
    "A1": (19, 0, "differs"),
    "A2": (1, 0, "differs"),
    "A3": (14, 0, "holds"),
    "A4": (16, 0, "holds"),
    "A5": (200, 0, "holds"),
    "A6": (1182.72, 1e-9, "derived"),  # 16 x 220 W = 3,520 W; x 14 x 24 h = 1,182,720 Wh
    "G1": (1920, 0, "off by a factor"),  # 1920 / 1202 = 1.6
    "G2": (280, 0, "off by a factor"),
    "G3": (20, 0, "off by a factor"),
    "G4": (43.0210, 1e-5, "off by a factor"),  # 20 W x 18,000 s = 360 kJ; a cup 2 x 4,184 J = 8,368 J
    "G5": (205_390, 0, "off by a factor"),  # 1202 x 135 = 162,270 W and 176 x 245 = 43,120 W
    "G6": (3600, 0, "derived"),  # 48 x 75 W
    "G7": (20, 1e-9, "holds"),  # a fifth of 100 W
    "G8": (10_269.5, 1e-9, "off by a factor"),  # 205,390 / 20
    "E1": (3.327059, 1e-6, "off by a factor"),  # 29,165 TWh / 8,766 h
    "E2": (3_327_059, 1e-6, "off by a factor"),  # 3.327e12 W / 1e6 W
    "C1": (6, 1e-9, "not checkable"),  # x 4 a year is two doublings a year
    "C2": (374.25e9, 1e-9, "off by a factor"),  # 499e9 x 0.75
    "C3": (175e9, 0, "holds"),
    "C4": (355.359, 1e-5, "holds"),  # 3.14e23 / 28e12 = 1.12143e10 s; / 3,600 / 8,766 = 355.36 years
    "C5": (4_672_619, 1e-6, "rounded"),  # 1.12143e10 s / 3,600 = 3,115,079 h; x 1.5 USD
    "C6": (344.304, 1e-6, "not checkable"),  # 7.173 x 24 h = 172.152 h; x 2 USD
    "Q1": (32, 0, "holds"),  # 2**-11 > 1e-5 > 2**-24: lost in FP16's 11 bits, kept in FP32's 24
    "Q2": (2.378898, 1e-6, "holds"),  # 2.4 / 2.3789 = 1.0089
    "Q3": (4, 0, "derived"),
    "P1": (89.0164, 1e-5, "rounded"),  # 6.7 / 61 = 0.109836; 90 / 89.02 = 1.011
    "H1": (96.2963, 1e-5, "not checkable"),  # 52 / 54
    "H2": (2021, 0, "not checked"),  # arXiv 21 12
    "L1": (2, 0, "not checked"),
    "L2": (1, 0, "off by a factor"),
}
BESIDE = {
    ("D4", "of listening without a break"): 1000 / 24,
    ("S2", "of play for Rainbow to equal DQN"): 7e6 / 60 / 86_400,  # 1.35 days
    ("S3", "of play by the agent"): 925.926,
    ("A5", "that the training took"): 14 / 365.25,
    ("A5", "faster than real time, each agent"): 200 * 365.25 / 14,  # 5,217.9
    ("A5", "faster than real time, each TPU"): 200 * 365.25 / 14 / 16,  # 326
    ("A6", "a brain that plays as many years"): 20 * 200 * YEAR_H / 1000,  # 35,064 kWh
    ("A6", "while one game is played in real time"): 1_182_720 / (200 * YEAR_H),  # 0.675 W
    ("G4", "that one cup runs a brain"): 8368 / 20 / 60,  # 6.97 min
    ("G5", "the sum of a blog of 2016"): 2200 * 200,
    ("G5", "the 48-TPU version, chips only"): 3600,
    ("G6", "AlphaGo Zero, chips only"): 300,
    ("G7", "from what it uses in a day"): 500 * 4184 / 86_400,  # 24.2 W
    ("G8", "with the power of the lecture"): 50_000,
    ("G8", "the 48-TPU version, chips only"): 180,
    ("E1", "consumption of 2021"): 25_000 / 8766,  # 2.85 TW
    ("E2", "with the power of G5"): 29_165e12 / 8766 / 205_390,  # 16.2 million
    ("C2", "that training saw"): 225e9,
    ("C4", "of V100s in the published run"): 10_000 * 14.8 / 365.25,  # 405.2
    ("C4", "at the peak of its tensor cores"): 3.14e23 / 125e12 / 3600 / 8766,  # 79.6
    ("C5", "at the list price of large clouds"): 3.14e23 / 28e12 / 3600 * 3.06,
    ("C6", "BBF, one game to human level"): 12,  # 6 h at 2 USD
    ("C6", "PQN, 200 million frames"): 0.44,
    ("Q1", "at least"): math.log(1e5) / math.log(2),  # 16.6
    ("Q2", "error of the rounding"): 100 * (2.4 - 2.378898437534897932) / 2.378898437534897932,
    ("Q3", "at 2 bits"): 16,
    ("Q3", "at 1 bit"): 32,
    ("P1", "VGG-16"): 100 * (1 - 10.3 / 138),  # 92.5 %
}


@pytest.fixture(scope="module")
def checked():
    return check()


@pytest.fixture(scope="module")
def html(checked):
    return page(checked)


def claim(result, name):
    return next(it for it in result["claims"] if it["id"] == name)


def beside(result, name, label):
    return next(it["value"] for it in claim(result, name)["also"] if it["label"] == label)


@pytest.mark.parametrize("name", DERIVED)
def test_a_claim_is_recomputed_and_judged_as_by_hand(checked, name):
    value, tolerance, judged = DERIVED[name]
    found = claim(checked, name)
    if value is None:
        assert found["recomputed"]["value"] is None
    else:
        assert found["recomputed"]["value"] == pytest.approx(value, rel=max(tolerance, 1e-12))
    assert found["verdict"] == judged


def test_all_37_claims_are_derived_by_hand(checked):
    assert len(DERIVED) == 37
    assert [it["id"] for it in checked["claims"]] == list(DERIVED)
    assert set(FORMULAS) == set(DERIVED)


@pytest.mark.parametrize(("name", "label"), BESIDE)
def test_the_figures_beside_a_claim_are_those_derived_by_hand(checked, name, label):
    assert beside(checked, name, label) == pytest.approx(BESIDE[name, label], rel=1e-5)


def test_intervals_hold_the_ends_of_the_inputs(checked):
    days, watts, ratio = (claim(checked, name)["recomputed"] for name in ("S1", "G5", "G8"))
    assert days["high"] == pytest.approx(200e6 / 59.9228 / 86_400)  # 38.63
    assert days["low"] == days["value"]
    assert (watts["low"], watts["high"]) == (1202 * 135 + 176 * 200, 1202 * 200 + 176 * 300)
    assert ratio["low"] == pytest.approx((1202 * 135 + 176 * 200) / 24.21)
    assert ratio["high"] == pytest.approx((1202 * 200 + 176 * 300) / 16)
    for it in checked["claims"]:
        for part in (it["recomputed"], *it["also"]):
            assert part["low"] is None or part["low"] <= part["value"] <= part["high"]


# A changed input: what moves, and by how much.
MOVES = [
    ("alphago_power_w=0.5e6", "E2", 2 * 3_327_059),
    ("atari_rate_hz=50", "S1", 200e6 / 50 / 86_400),
    ("atari_frames=400000", "S1", 400_000 / 60 / 86_400),
    ("human_practice_h=1", "S3", 925.926),
    ("brain_power_w=10", "G8", 20_539),
    ("match_h=10", "G4", 86.042),
    ("gpt3_flop=6.28e23", "C4", 2 * 355.359),
    ("v100_flop_per_s=14e12", "C5", 2 * 4_672_619),
    ("v100_usd_per_h=3", "C5", 2 * 4_672_619),
    ("world_generation_twh=8766", "E1", 1),
    ("cpu_w=200", "G5", 1202 * 200 + 176 * 245),
    ("compute_growth_per_year=2", "C1", 12),
    ("learning_rate=1e-3", "Q1", 16),  # 2**-11 = 0.00049 < 0.001
    ("learning_rate=1e-9", "Q1", 64),
    ("mia_arxiv_number=2201.1", "H2", 2022),
]


@pytest.mark.parametrize(("change", "name", "value"), MOVES)
def test_a_changed_input_moves_the_answer(change, name, value):
    assert claim(check([change]), name)["recomputed"]["value"] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("name", [row["id"] for row in rows("claim_inputs")])
def test_every_input_moves_something_and_nothing_that_does_not_name_it(checked, name):
    before = next(row["value"] for row in rows("claim_inputs") if row["id"] == name)
    after = check([f"{name}={float(before or 1) * 1.5!r}"])
    moved = 0
    for old, new in zip(checked["claims"], after["claims"], strict=True):
        for was, is_now in zip((old["recomputed"], *old["also"]), (new["recomputed"], *new["also"]), strict=True):
            if was["value"] != is_now["value"]:
                moved += 1
                assert name in is_now["inputs"]
    assert moved or name == "mia_arxiv_number", "no answer rests on it"


def test_a_users_value_has_no_interval_and_says_whose_it_is():
    result = check(["brain_power_w=10", "cpu_w=100", "gpu_w=100"])
    assert result["changed"] == {"brain_power_w": 10, "cpu_w": 100, "gpu_w": 100}
    assert claim(result, "G8")["recomputed"]["low"] is None
    assert claim(result, "G8")["assumes"] == []
    power = next(it for it in result["inputs"] if it["id"] == "cpu_w")
    assert (power["basis"], power["low"], power["source"]) == ("set", None, "given with --set")


def test_a_claim_whose_input_was_not_seen_gets_no_verdict_until_the_user_gives_one():
    unseen = {row["id"] for row in rows("claim_inputs") if row["basis"] == "not seen"}
    assert unseen == {"mt_corpus_sentences", "infant_min", "mia_arxiv_number"}
    for it in check()["claims"]:
        assert (it["verdict"] == "not checked") == bool(unseen & set(it["recomputed"]["inputs"]))
    assert claim(check(["mt_corpus_sentences=30e6"]), "D3")["verdict"] == "holds"
    assert claim(check(["infant_min=4"]), "L1")["verdict"] == "off by a factor"


@pytest.mark.parametrize(
    ("kind", "stated", "low", "high", "judged"),
    [
        ("number", 101.0, None, None, "holds"), ("number", 99.0, None, None, "holds"), ("number", 101.1, None, None, "rounded"),
        ("number", 95.0, None, None, "rounded"), ("number", 94.9, None, None, "off by a factor"), ("number", 130.0, 90.0, 131.0, "holds"),
        ("number", 132.0, 90.0, 131.0, "off by a factor"), ("exact", 100.0, None, None, "holds"), ("exact", 100.1, 50.0, 200.0, "differs"),
        ("qualitative", None, None, None, "not checkable"), ("derived", None, None, None, "derived"),
    ],
)  # fmt: skip
def test_verdicts_follow_the_stated_rules(kind, stated, low, high, judged):
    assert verdict(kind, stated, {"value": 100.0, "low": low, "high": high}, seen=True) == judged
    assert verdict(kind, stated, {"value": 100.0, "low": low, "high": high}, seen=False) == "not checked"
    assert judged in VERDICTS


def test_every_claim_and_every_input_has_a_source_and_intervals_hold_their_value(checked):
    for row in rows("claim_inputs"):
        assert row["source"].strip()
        assert row["quantity"].strip()
        assert row["basis"] in words.BASES
        ends = [float(row[name]) for name in ("low", "value", "high") if row[name]]
        assert ends == sorted(ends)
    for it in checked["claims"]:
        assert all([it["source"], it["sources"], it["reason"]])
        assert it["unit"] == it["recomputed"]["unit"]
    assert len({row["id"] for row in rows("claim_inputs")}) == len(rows("claim_inputs"))


@pytest.mark.parametrize(
    ("changes", "ids", "says"),
    [
        (["alphago_powr_w=1"], [], "alphago_power_w"),
        (["alphago_power_w"], [], "a name and a value"),
        (["alphago_power_w=much"], [], "positive number"),
        (["alphago_power_w=0"], [], "positive number"),
        (["alphago_power_w=-1"], [], "positive number"),
        (["alphago_power_w=inf"], [], "positive number"),
        (["alphago_power_w=nan"], [], "positive number"),
        (["compute_growth_per_year=1"], [], "no finite number"),
        (["v100_flop_per_s=1e-300"], [], "no finite number"),
        (["learning_rate=1e-20"], [], "no finite number"),
        ([], ["S9"], "S"),
    ],
)
def test_bad_input_is_one_line(changes, ids, says):
    with pytest.raises(ClaimsError, match=re.escape(says)) as error:
        check(changes, ids)
    assert "\n" not in str(error.value)


# What people see


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (205_390, "W", "205 kW"), (1e6, "W", "1 MW"), (20.0, "W", "20 W"), (0.675, "W", "0.675 W"), (38.58, "days", "38.6 days"),
        (1.0, "cups", "1 cup"), (4_672_619, "USD", "4.67 million USD"), (2021.0, "year", "2021"), (10_269.5, "x", "10,270×"),
        (4.0, "x smaller", "4× smaller"), (374.25e9, "words", "374 billion words"), (2.4, "", "2.4"), (19.0, "December 2018", "19 December 2018"),
    ],
)  # fmt: skip
def test_amounts_are_written_for_people(value, unit, text):
    assert words.amount(value, unit) == text


def test_the_table_fits_120_columns(checked):
    console = Console(record=True, width=300, file=open(os.devnull, "w"), highlight=False)  # noqa: SIM115
    terminal.show(checked, console)
    text = console.export_text()
    assert max(len(line) for line in text.splitlines()) <= 120
    for name in DERIVED:
        assert re.search(rf"^{name}\b", text, re.MULTILINE)
    assert "37 claims: 10 holds, 4 rounded, 11 off by a factor, 2 differs, 4 derived, 3 not checkable, 3 not checked." in text


def test_a_claim_in_full_names_inputs_and_sources():
    text = terminal.in_full(check(["atari_rate_hz=50"], ["S1"]))
    assert "46.3 days" in text
    assert "atari_rate_hz = 50 Hz" in text
    assert "given with --set" in text
    assert "Mnih et al. 2015" in text
    assert max(len(line) for line in text.splitlines()) <= 120


def test_json_holds_all_and_the_schema_is_the_documented_one(tmp_path):
    result = write_claims(json_out=tmp_path / "claims.json")
    assert json.loads((tmp_path / "claims.json").read_text()) == result
    assert set(result) == {"schema", "verdicts", "changed", "inputs", "claims"}
    assert result["schema"] == 1
    parts = {"value", "low", "high", "unit", "formula", "inputs"}
    for it in result["claims"]:
        assert set(it) == {
            "id", "topic", "paraphrase", "source", "stated", "unit", "kind", "recomputed", "ratio", "verdict", "reason", "assumes",
            "sources", "also",
        }  # fmt: skip
        assert set(it["recomputed"]) == parts
        assert all(set(also) == parts | {"label"} for also in it["also"])
    assert all(set(it) == {"id", "quantity", "value", "low", "high", "unit", "basis", "source"} for it in result["inputs"])
    used = {name for it in result["claims"] for part in (it["recomputed"], *it["also"]) for name in part["inputs"]}
    assert {it["id"] for it in result["inputs"]} == used


def test_the_page_fetches_nothing(html):
    assert set(re.findall(r"https?://[^/\"'` <]+", html)) == {
        "http://www.w3.org"
    }  # names of SVG and XLink, in the chart library
    assert "http" not in html.split("<script>")[0].replace("http-equiv", "")
    assert "Content-Security-Policy" in html
    assert not re.search(r"""(src|href)=["'](?!#)""", html.split("<script>")[0])


def test_hostile_words_are_text(checked):
    hostile = copy.deepcopy(checked)
    attack = "<script>alert(1)</script>"
    target = claim(hostile, "S1")
    target["paraphrase"] = target["topic"] = target["reason"] = target["recomputed"]["formula"] = target["source"] = attack
    for also in claim(hostile, "G5")["also"]:
        also["label"] = "</script>" + attack  # goes into a chart too
    for it in hostile["inputs"]:
        it["source"] = it["quantity"] = attack
    html = page(hostile)
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert html.count("</script>") == 3
    assert "<script>" not in as_markdown(hostile)


def test_each_comparison_of_numbers_has_a_chart_with_the_numbers_of_the_claim(checked):
    charted = {it["id"]: comparison.chart(it) for it in checked["claims"]}
    assert {name for name, chart in charted.items() if chart is None} == {"D3", "A1", "A2", "H2", "C1", "H1"}
    (drawn,) = charted["G5"].to_dict()["datasets"].values()
    assert [row["value"] for row in drawn] == [1e6, 205_390, 440_000, 3600, 20]
    assert [row["kind"] for row in drawn] == ["The lecture", "Recomputed"] + ["Beside it"] * 3
    scale = [charted[name].to_dict()["layer"][2]["encoding"]["x"]["scale"].get("type", "linear") for name in ("G5", "S1")]
    assert scale == ["log", "linear"], "a length of 1 MW beside 20 W shows nothing on a linear axis"
    assert charted["S1"].to_dict()["layer"][2]["encoding"]["x"]["scale"]["zero"] is True


def test_a_page_says_what_was_changed(html):
    assert "Inputs changed for this page: alphago_power_w = 500000" in page(check(["alphago_power_w=0.5e6"], ["E2"]))
    assert "Inputs changed" not in html


def test_outputs_may_not_share_a_target_and_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(ClaimsError, match="one target"):
        write_claims(ids=["S1"], html=tmp_path / "a", json_out=tmp_path / "a")
    with pytest.raises(ClaimsError, match="one target"):
        write_claims(json_out="-", markdown="-")
    with pytest.raises(ReportError):
        write_claims(ids=["S1"], json_out=tmp_path / "a.json", html=tmp_path / "nowhere" / "a.html")
    assert list(tmp_path.iterdir()) == []


# The command line


def playmeter(*arguments, cwd):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "playmeter", "claims", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=120, check=False)


def test_the_command_prints_a_table_or_writes_what_is_asked(tmp_path):
    done = playmeter(cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "38.6 days" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 120
    changes = ["--set", "alphago_power_w=0.5e6", "--set", "brain_power_w=10"]
    done = playmeter("E2", "G8", "--json", "-", "--html", "c.html", "--markdown", "c.md", *changes, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert claim(json.loads(done.stdout), "E2")["recomputed"]["value"] == pytest.approx(6_654_118, rel=1e-6)
    assert beside(json.loads(done.stdout), "G8", "with the power of the lecture") == 50_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.html", "c.md"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "alphago_powr_w=1"], "did you mean alphago_power_w"),
        (["--set", "alphago_power_w=x", "--html", "c.html"], "positive number"),
        (["S99"], "did you mean"),
        (["--jsn", "-"], "--json"),
        (["S1", "--json", "nowhere/c.json"], "cannot be written"),
    ],
)
def test_bad_input_ends_with_code_2_and_one_line(tmp_path, arguments, says):
    done = playmeter(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_draws_every_chart_offline_without_sideways_scroll(browser, checked, html, tmp_path, width):
    (tmp_path / "claims.html").write_text(html, encoding="utf-8")
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 720}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get((tmp_path / "claims.html").as_uri())
    charts = sum(comparison.chart(it) is not None for it in checked["claims"])
    end = time.monotonic() + 30
    while browser.execute_script("return document.body.dataset.drawn") != str(charts):
        assert time.monotonic() < end, "not all charts were drawn"
        time.sleep(0.1)
    browser.execute_script("document.querySelectorAll('details').forEach((it) => { it.open = true; })")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    script = """return [...document.querySelectorAll('.chart svg text')].filter((it) => {
        const box = it.getBoundingClientRect(), chart = it.closest('.chart').getBoundingClientRect();
        return box.right > chart.right + 1 || box.left < chart.left - 1; }).map((it) => it.textContent)"""
    assert browser.execute_script(script) == [], "text is cut off"
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


@pytest.mark.browser
def test_on_paper_the_sources_are_there_and_nothing_is_cut_off(browser, html, tmp_path):
    (tmp_path / "claims.html").write_text(html, encoding="utf-8")
    browser.get((tmp_path / "claims.html").as_uri())
    try:
        dark = {"name": "prefers-color-scheme", "value": "dark"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": [dark]})
        size = {"width": 690, "height": 1000, "deviceScaleFactor": 1, "mobile": False}  # A4 within its margins
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.execute_script("dispatchEvent(new Event('beforeprint'))")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 690
        background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        columns = browser.execute_script("return getComputedStyle(document.querySelector('article')).gridTemplateColumns")
        inputs = browser.find_elements("css selector", ".inputs dt")
        assert (background, len(columns.split())) == ("rgb(255, 255, 255)", 2)
        assert all(it.is_displayed() for it in inputs)
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {})
