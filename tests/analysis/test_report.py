import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from analysis import charts, report, sentences, summary, tables
from analysis.report import ReportError, write_report
from runs.schema import ESTIMATED, MEASURED, Energy
from tests.analysis.run_folders import BREAKOUT, CARTPOLE, GPU, MOUNTAINCAR, write_run

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
ROOT = Path(__file__).parents[2]


def page_of(folder, tmp_path, **kwargs):
    out = tmp_path / "page" / "report.html"
    out.parent.mkdir(exist_ok=True)
    write_report([folder], out, None, **kwargs)
    return out.read_text(encoding="utf-8")


def body(page):
    """The page without the chart library and the curves."""
    return page.split("<script>")[0]


def text_of(page):
    return " ".join(re.sub(r"<[^>]+>", " ", body(page)).split())


def headline_of(folder):
    runs, left_out = tables.read_runs([folder])
    return sentences.headline(summary.summarise(runs, left_out)["comparisons"], runs[0].record.env)


def test_page_and_summary_are_written_and_agree(five_seeds, tmp_path):
    out, json_out = tmp_path / "report.html", tmp_path / "report.json"
    result = write_report([five_seeds], out, json_out)
    assert json.loads(json_out.read_text()) == result
    assert "dqn reached 300, the IQM of 5 seeds" in out.read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json", "results"]


def test_the_summary_goes_to_standard_output_alone(five_seeds, capsys):
    result = write_report([five_seeds], None, "-")
    assert json.loads(capsys.readouterr().out) == result


def test_the_page_fetches_nothing(five_seeds, tmp_path):
    page = page_of(five_seeds, tmp_path)
    assert set(re.findall(r"https?://[^/\"'` <]+", page)) == {"http://www.w3.org"}  # the names of the SVG and XLink namespaces
    assert "http" not in body(page).replace("http-equiv", "")
    assert "default-src 'none'" in page
    assert not re.search(r"<(link|img|iframe|script src)|@import|url\(", body(page))


def test_one_chart_library_serves_every_chart(results, tmp_path):
    for env in (CARTPOLE, MOUNTAINCAR, BREAKOUT):
        write_run(results / env.id.replace("/", "-") / "dqn" / "seed0", env=env)
    page = page_of(results, tmp_path)
    assert page.count("<script") == 2
    assert page.count('class="chart"') == 3


def test_hostile_names_are_text(results, tmp_path):
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    env = CARTPOLE.__class__(hostile, "control", hostile, 50.0, 1, 475.0, 500)
    for seed in range(2):
        write_run(results / "e" / "a" / f"seed{seed}", hostile, env, seed, budget=hostile, machine={hostile: hostile})
    page = page_of(results, tmp_path)
    assert "<script>alert" not in page
    assert "<img" not in body(page)
    assert page.count("<script") == page.count("</script>") == 2
    assert "&lt;script&gt;alert(1)" in page


def test_scores_of_two_protocols_never_share_a_section(results, tmp_path):
    for protocol in ("nature", "sticky"):
        env = BREAKOUT.__class__(BREAKOUT.id, "atari", protocol, 60.0, 4, None, 27000)
        write_run(results / protocol / "dqn" / "seed0", env=env)
    page = body(page_of(results, tmp_path))
    assert page.count('<section id="env') == 2
    assert "Protocol: nature" in page
    assert "Protocol: sticky" in page


def test_the_headline_of_an_atari_run_sets_it_against_practice_and_protocol(results):
    energy = {"gpu_board": Energy(3.2e6, 3.0e6, 3.4e6, MEASURED), "cpu_package": Energy(4e5, 2e5, 8e5, ESTIMATED)}
    write_run(results / "b" / "dqn" / "seed0", env=BREAKOUT, steps=50_000_000, scores=[1.7, 16.1], device=GPU, energy=energy)
    reached, human, play, used = headline_of(results)
    assert reached == "dqn reached 16.1 with a single seed, which says nothing about the spread between seeds."
    assert human == "The human score of 30.5 was not reached. Its score is 50 % of the human one, where 0 % is random play."
    assert play == (
        "To play the 200 million frames that a seed learned from, a person would need 38.6 days without a break: 463 times the 2 hours "
        "of practice that the professional tester had, and 100 % of the usual 200 million frames (38.6 days)."
    )
    assert (
        used
        == "Training one seed used an estimated 1.00 kWh (889 Wh–1.17 kWh); a human brain, at 20 W, runs on that for 2.08 days."
    )


def test_the_headline_says_what_does_not_exist(results):
    write_run(results / "m" / "dqn" / "seed0", env=MOUNTAINCAR, energy={"cpu_package": Energy(0, 0, 0, "absent")})
    text = " ".join(headline_of(results))
    assert "The task has no physical time" in text
    assert "Its energy is not known" in text


def test_the_headline_says_when_the_best_two_overlap(five_seeds):
    for seed in range(5):
        write_run(
            five_seeds / "CartPole-v1" / "rainbow" / f"seed{seed}", "rainbow", seed=seed, scores=[50.0, 110.0 + 100 * seed]
        )
    assert headline_of(five_seeds)[0].startswith("rainbow reached 310")
    assert headline_of(five_seeds)[0].endswith("its interval overlaps that of dqn.")


def test_the_headline_does_not_trust_the_interval_of_two_seeds(results):
    for seed in range(2):
        write_run(results / "c" / "dqn" / f"seed{seed}", seed=seed, scores=[100.0 + 100 * seed])
    assert (
        headline_of(results)[0]
        == "dqn reached 150, the mean of 2 seeds (95 % interval 100 to 200, too narrow with so few seeds)."
    )


def test_runs_left_out_are_named_on_the_page(five_seeds, tmp_path):
    (five_seeds / "CartPole-v1" / "dqn" / "seed2" / "ledger.jsonl").unlink()
    page = text_of(page_of(five_seeds, tmp_path))
    assert "1 folder was left out" in page
    assert "CartPole-v1/dqn/seed2 has no ledger line yet" in page


def test_unfinished_and_short_runs_are_marked(results, tmp_path):
    write_run(results / "e" / "dqn" / "seed0", status="running", wall_s=20.0, scores=[1.0])
    page = text_of(page_of(results, tmp_path))
    assert "unfinished (running or cut off)" in page
    assert "short window" in page


def test_how_good_the_energy_is_and_what_the_meter_noted_stand_on_the_page_and_in_the_summary(results, tmp_path):
    measured = {name: Energy(9000.0, 8000.0, 10000.0, MEASURED, 700) for name in ("gpu_board", "cpu_package")}
    hint = "RAPL is there and may not be read: sudo chmod a+r <energy_uj>"
    write_run(results / "e" / "dqn" / "seed0", device=GPU, energy=measured, wall_s=90.0, scores=[1.0])
    write_run(results / "e" / "dqn" / "seed1", seed=1, wall_s=30.0, scores=[1.0], notes=[hint])
    write_run(results / "e" / "dqn" / "seed2", seed=2, wall_s=90.0, scores=[1.0], notes=[hint])
    write_report([results], tmp_path / "r.html", tmp_path / "r.json")
    page, summary = (tmp_path / "r.html").read_text(), json.loads((tmp_path / "r.json").read_text())
    section = page[page.index('<section id="measured">') :]
    assert (
        "1 run of grade B (every board and package measured), 2 runs of grade D (estimated or incomplete); short windows: 1 run"
        in section
    )
    assert section.count("sudo chmod a+r &lt;energy_uj&gt;") == 1, "once, however many runs say it, and as text"
    energies = {run["seed"]: run["energy"] for run in summary["runs"]}
    assert [energies[k]["grade"] for k in range(3)] == ["B", "D", "D"]
    assert energies[0]["by_source"]["gpu_board"]["samples"] == 700
    assert [energies[k]["notes"] for k in range(3)] == [[], [hint], [hint]]


def test_runs_without_evaluations_make_a_page_without_curves(results, tmp_path):
    (write_run(results / "e" / "dqn" / "seed0") / "evals.jsonl").unlink()
    page = page_of(results, tmp_path)
    assert "No run on CartPole-v1 has been evaluated yet." in page
    assert "<script" not in page


def test_money_appears_only_with_a_price(five_seeds, tmp_path):
    assert "$" not in text_of(page_of(five_seeds, tmp_path))
    assert "$0.0000750" in text_of(page_of(five_seeds, tmp_path, price_usd_per_kwh=0.3))  # 900 J at 0.3 USD a kWh


def test_this_machine_is_not_named(five_seeds, tmp_path):
    page = page_of(five_seeds, tmp_path)
    assert str(tmp_path) not in page
    assert str(ROOT) not in page


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (lambda t: ([t / "nowhere"], t / "r.html", None), "does not exist"),
        (lambda t: ([t / "results"], t / "no" / "r.html", None), "does not exist: make that folder first"),
        (lambda t: ([t / "results"], t, None), "is a folder: name a file in it"),
        (lambda t: ([t / "results"], t / "r", t / "r"), "for the page and for the summary"),
        (lambda t: ([t / "results"], t / "r.html", None, -1.0), "not negative"),
        (lambda t: ([t / "results"], t / "r.html", None, float("nan")), "not negative"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(five_seeds, tmp_path, arguments, fault):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ReportError, match=fault) as error:
        write_report(*arguments(tmp_path))
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failed_write_leaves_the_old_page_and_no_litter(five_seeds, tmp_path, monkeypatch):
    out = tmp_path / "report.html"
    out.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ReportError, match="No space left"):
        write_report([five_seeds], out, tmp_path / "report.json")
    assert out.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "results"]


def test_importing_analysis_is_light():
    """`import analysis` loads nothing heavy; the report itself loads neither torch nor gymnasium."""
    code = "import sys, analysis; heavy = {'polars', 'altair', 'scipy', 'vl_convert', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert time.monotonic() - start < 1
    code = "import sys, analysis.report; learning = {'torch', 'gymnasium', 'tensorboard'} & set(sys.modules); assert not learning, learning"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not (CHROMIUM and CHROMEDRIVER):
        pytest.fail("the page is tested in a real browser: install the packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update disable-sync"
    for flag in [*flags.split(), f"user-data-dir={tmp_path_factory.mktemp('chromium')}", "window-size=390,844"]:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    yield driver
    driver.quit()


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the page did not get there in time"
        time.sleep(0.05)


@pytest.mark.browser
def test_the_page_draws_its_curves_offline_and_switches_the_axis(browser, results, tmp_path):
    for seed in range(3):
        write_run(results / "c" / "dqn" / f"seed{seed}", seed=seed)
        write_run(results / "m" / "dqn" / f"seed{seed}", env=MOUNTAINCAR, seed=seed)
    page_of(results, tmp_path)
    browser.get((tmp_path / "page" / "report.html").as_uri())
    drawn = [browser.find_element("id", f"env{n}-chart") for n in range(2)]
    wait_until(lambda: all(chart.get_attribute("data-axis") == "Steps" for chart in drawn))
    assert all(len(chart.find_elements("css selector", "svg path")) > 5 for chart in drawn)
    names = [box.get_attribute("value") for box in browser.find_elements("css selector", "[data-section=env0] input")]
    assert names == [axis.name for axis in charts.AXES]
    for name, title in [
        ("Energy", "Energy (Wh)"),
        ("Human playtime", "Human playtime (minutes)"),
        ("Compute", "Compute (model FLOPs)"),
    ]:
        browser.execute_script(f"document.querySelector('[data-section=env0] input[value=\"{name}\"]').click()")
        wait_until(lambda name=name: drawn[0].get_attribute("data-axis") == name)
        assert title in drawn[0].text
    assert drawn[1].get_attribute("data-axis") == "Steps"
    webdriver.ActionChains(browser).move_to_element(drawn[1].find_elements("css selector", ".mark-symbol path")[-1]).perform()
    wait_until(lambda: "Seeds" in browser.find_element("id", "vg-tooltip-element").text)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= browser.execute_script(
        "return window.innerWidth"
    )
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


@pytest.mark.browser
def test_hostile_names_run_nothing_in_the_browser(browser, results, tmp_path):
    hostile = "<img src=x onerror=document.title='owned'></script><script>document.title='owned'</script>"
    env = CARTPOLE.__class__(hostile, "control", "control", 50.0, 1, 475.0, 500)
    write_run(results / "e" / "a" / "seed0", hostile, env)
    write_run(results / "e" / "b" / "seed0", "dqn", env)
    page_of(results, tmp_path)
    browser.get((tmp_path / "page" / "report.html").as_uri())
    wait_until(lambda: browser.find_element("id", "env0-chart").get_attribute("data-axis") == "Steps")
    assert browser.title.startswith("What learning cost")
    assert browser.get_log("browser") == []


def test_every_protocol_of_the_schema_is_explained():
    assert set(report.PROTOCOLS) == {"control", "minatar", "nature", "sticky", "atari100k", "unknown"}
