"""The report's page in a real browser: what is drawn, chosen, sorted, printed, and what hostile names do not do."""

import csv
import re
import time
from base64 import b64decode
from dataclasses import replace
from itertools import pairwise
from urllib.parse import unquote

import pytest
from selenium import webdriver

from analysis import charts
from analysis.report import write_report
from runs import schema
from runs.schema import Energy
from tests.analysis.run_folders import BREAKOUT, CARTPOLE, GPU, MOUNTAINCAR, write_run


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the page did not get there in time"
        time.sleep(0.05)


def open_page(browser, results, tmp_path):
    """Write the page, open it, wait until every chart is drawn."""
    write_report([results], tmp_path / "report.html", None)
    browser.get((tmp_path / "report.html").as_uri())
    drawn = browser.find_elements("css selector", ".chart")
    wait_until(lambda: all(chart.get_attribute("data-shown") for chart in drawn))
    return {chart.get_attribute("id"): chart for chart in drawn}


def choose(browser, group, option, chart):
    """Click an option as a reader does, and wait until the chart shows it."""
    browser.execute_script(
        "document.querySelector(`[data-group=${arguments[0]}] input[value='${arguments[1]}']`).click()", group, option
    )
    wait_until(lambda: option in (chart.get_attribute("data-shown") or "").split(" | "))


def ticks(chart):
    """The labels of the horizontal axis, in order."""
    return [
        label.text for label in chart.find_elements("css selector", ".role-axis-label")[0].find_elements("css selector", "text")
    ]


def assert_quiet_and_narrow(browser):
    """Nothing on the console, nothing fetched, and no sideways scroll on a phone."""
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    wide = "return [document.documentElement.scrollWidth, window.innerWidth]"
    scroll, inner = browser.execute_script(wide)
    assert scroll <= inner <= 500


@pytest.mark.browser
def test_the_page_draws_its_curves_offline_and_switches_the_axis(browser, results, tmp_path):
    for seed in range(3):
        write_run(results / "c" / "dqn" / f"seed{seed}", seed=seed)
        absent = {"cpu_package": Energy(0, 0, 0, schema.ABSENT)}
        write_run(results / "m" / "dqn" / f"seed{seed}", env=MOUNTAINCAR, seed=seed, energy=absent if seed == 2 else None)
    charts_of = open_page(browser, results, tmp_path)
    cartpole, mountaincar = charts_of["env0-chart"], charts_of["env1-chart"]
    assert all(len(chart.find_elements("css selector", "svg path")) > 5 for chart in (cartpole, mountaincar))
    names = [box.get_attribute("value") for box in browser.find_elements("css selector", "[data-group=env0-axis] input")]
    assert names == [axis.name for axis in charts.AXES if axis.name != "GPU-hours"]  # a CPU has none
    for name, title in [("Energy", "Energy (Wh)"), ("Human playtime", "Human playtime (minutes)"), ("Frames", "Frames")]:
        before = cartpole.find_element("css selector", "svg").get_attribute("outerHTML")
        choose(browser, "env0-axis", name, cartpole)
        assert title in cartpole.text
        assert cartpole.find_element("css selector", "svg").get_attribute("outerHTML") != before
    assert mountaincar.get_attribute("data-shown").startswith("Steps")
    assert "10k" in ticks(cartpole)  # linear: even steps
    choose(browser, "env0-scale", "log", cartpole)
    line = cartpole.find_element("css selector", ".mark-line path").get_attribute("d")
    x = [float(pair.split(",")[0]) for pair in re.split("[ML]", line) if pair]
    gaps = [b - a for a, b in pairwise(x)]
    assert gaps[0] > 5 * gaps[-1]  # log: of evaluations at even distances the first are furthest apart
    choose(browser, "env0-score", "threshold-normalised", cartpole)
    assert "threshold 1" in cartpole.text  # 475 counts 1
    webdriver.ActionChains(browser).move_to_element(
        mountaincar.find_elements("css selector", ".mark-symbol path")[-1]
    ).perform()
    wait_until(lambda: "Runs" in browser.find_element("id", "vg-tooltip-element").text)
    assert "95 % from" in browser.find_element("id", "vg-tooltip-element").text
    note = browser.find_element("id", "env1-missing")
    assert not note.is_displayed()
    choose(browser, "env1-axis", "Energy", mountaincar)
    assert note.text == "Not known on this axis, so not drawn: dqn (1 of 3 runs)."
    assert_quiet_and_narrow(browser)


@pytest.mark.browser
def test_a_click_on_a_heading_sorts_by_number_and_the_table_can_be_downloaded(browser, results, tmp_path):
    for name, score in (("a", 9.0), ("b", 100.0), ("c", -20.0)):
        for seed in range(2):
            write_run(results / "e" / name / f"seed{seed}", name, seed=seed, scores=[1.0, score + seed])
    (write_run(results / "e" / "d" / "seed0", "d") / "evals.jsonl").unlink()
    open_page(browser, results, tmp_path)

    def order():
        return [row.text.split("\n")[0] for row in browser.find_elements("css selector", "#env0-agents tbody th")]

    head = browser.find_elements("css selector", "#env0-agents thead button")[1]
    assert order() == ["a", "b", "c", "d"]
    browser.execute_script("arguments[0].click()", head)
    assert order() == ["c", "a", "b", "d"]  # as text, 100.5 would stand before 9.5; the one that is not known is last
    browser.execute_script("arguments[0].click()", head)
    assert order() == ["b", "a", "c", "d"]
    link = browser.find_element("css selector", "a[download='env0-agents.csv']").get_attribute("href")
    rows = list(csv.DictReader(unquote(link.partition(",")[2]).splitlines()))
    assert [row["Score"] for row in rows] == ["9.5", "100.5", "-19.5", ""]
    assert float(rows[0]["Energy (kWh)"]) == pytest.approx(900 / 3.6e6)
    assert (rows[0]["Score low"], rows[0]["Score high"]) == ("9.0", "10.0")
    assert_quiet_and_narrow(browser)


@pytest.mark.browser
def test_two_agents_on_the_same_games_get_statistics_a_frontier_and_curves_over_games(browser, results, tmp_path):
    pong = BREAKOUT.__class__("ALE/Pong-v5", "atari", "nature", 60.0, 4, None, 27000)
    for seed in range(3):
        for agent, gain in (("dqn", 1.0), ("rainbow", 2.0)):
            write_run(results / "b" / agent / f"seed{seed}", agent, BREAKOUT, seed, scores=[2.0, 10 * gain + seed], device=GPU)
            write_run(
                results / "p" / agent / f"seed{seed}", agent, pong, seed, scores=[-20.0, -10 * (2 - gain) + seed], device=GPU
            )
    charts_of = open_page(browser, results, tmp_path)
    assert {"env0-frontier", "suite0-chart", "suite0-statistics", "landmarks-chart"} <= set(charts_of)
    for option in ("Optimality gap", "Probability of improvement"):
        choose(browser, "suite0-statistics-option", option, charts_of["suite0-statistics"])
    assert "dqn over rainbow" in charts_of["suite0-statistics"].text
    choose(browser, "suite0-axis", "GPU-hours", charts_of["suite0-chart"])
    choose(browser, "landmarks-option", "Energy", charts_of["landmarks-chart"])
    assert "Human tester, practice on one game" in charts_of["landmarks-chart"].text
    assert "Yours: rainbow, ALE/Breakout-v5" in charts_of["landmarks-chart"].text
    browser.execute_script("document.querySelectorAll('details').forEach((d) => d.open = true)")
    assert "DQN (Nature 2015)" in browser.find_element("id", "env0-published").text
    assert_quiet_and_narrow(browser)


@pytest.mark.browser
def test_one_agent_on_several_games_is_told_over_all_of_them_before_each(browser, results, tmp_path):
    for k, game in enumerate(("Alien", "Boxing", "Breakout", "Pong")):
        env = replace(BREAKOUT, id=f"ALE/{game}-v5", protocol="atari100k")
        write_run(results / game / "der" / "seed0", "der", env, steps=100_000, scores=[1.0, 10.0 + k], wall_s=3600.0)
    charts_of = open_page(browser, results, tmp_path)
    headings = [it.text for it in browser.find_elements("css selector", "h2")]
    assert headings[:3] == ["der on 4 games", "ALE/Alien-v5", "ALE/Boxing-v5"]
    section = browser.find_element("id", "suite0")
    assert "4.00 h" in section.text, "an hour each"
    assert "Probability of improvement" not in section.text
    games = [it for it in charts_of["suite0-statistics"].text.split() if it in ("Alien", "Boxing", "Breakout", "Pong")]
    assert games == ["Pong", "Boxing", "Breakout", "Alien"], "best on top: 0.95, 0.91, 0.36, -0.03 of human"
    for option in ("Performance profile", "Optimality gap"):
        choose(browser, "suite0-statistics-option", option, charts_of["suite0-statistics"])
    browser.execute_script("document.querySelectorAll('details').forEach((d) => d.open = true)")
    assert "DER" in browser.find_element("id", "suite0-published").text
    links = [it.get_attribute("hash") for it in browser.find_elements("css selector", "nav a")]
    assert links == [f"#env{n}" for n in range(4)]
    assert_quiet_and_narrow(browser)


PAPER_PX = 690  # A4 within its margins

ON_PAPER = """
const visible = (it) => it.checkVisibility() && it.getBoundingClientRect().height > 0;
const style = (it) => getComputedStyle(it), wide = [...document.querySelectorAll("main *")].filter((it) =>
    visible(it) && it.getBoundingClientRect().right > innerWidth + 1);
return {
  background: style(document.body).backgroundColor, ink: style(document.body).color, filter: style(document.querySelector(".chart")).filter,
  wide: wide.map((it) => it.outerHTML.slice(0, 80)),
  hidden: [...document.querySelectorAll("section, .chart svg, table thead, table tbody tr, h2, h3")].filter((it) => !visible(it)).length,
  chosen: [...document.querySelectorAll(".axes")].map((it) => [...it.querySelectorAll("label")].filter(visible).length),
  links: [...document.querySelectorAll(".download")].filter(visible).length,
};
"""


@pytest.mark.browser
def test_on_paper_it_is_black_on_white_and_complete_and_nothing_is_cut_off(browser, results, tmp_path):
    """Printed from a dark screen. What is folded is printed; of the choices what is shown; tables are tables, not a phone's lists."""
    for agent, scores in (("dqn", [9.0, 480.0]), ("rainbow", [480.0, 500.0])):
        for seed in range(3):
            write_run(results / "c" / agent / f"seed{seed}", agent, seed=seed, scores=scores)
    open_page(browser, results, tmp_path)
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    browser.execute_script(
        "addEventListener('beforeprint', () => { window.printed = document.querySelectorAll('details.more[open]').length; })"
    )
    try:
        pdf = browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})
        assert b64decode(pdf["data"]).startswith(b"%PDF")
        assert browser.execute_script("return window.printed") == 2  # the published neighbours, the landmarks' sources
        assert browser.find_elements("css selector", "details.more[open]") == [], "folded again on the screen"
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": [dark]})
        size = {"width": PAPER_PX, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.execute_script("dispatchEvent(new Event('beforeprint'))")
        seen = browser.execute_script(ON_PAPER)
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {})
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert (seen["background"], seen["ink"], seen["filter"]) == ("rgb(255, 255, 255)", "rgb(0, 0, 0)", "none")
    assert (seen["wide"], seen["hidden"], seen["links"]) == ([], 0, 0)
    assert set(seen["chosen"]) == {1}


@pytest.mark.browser
def test_hostile_names_run_nothing_in_the_browser(browser, results, tmp_path):
    hostile = "<img src=x onerror=document.title='owned'></script><script>document.title='owned'</script>"
    env = CARTPOLE.__class__(hostile, "control", "control", 50.0, 1, 475.0, 500)
    write_run(results / "e" / "a" / "seed0", hostile, env)
    write_run(results / "e" / "b" / "seed0", "dqn", env)
    write_report([results], tmp_path / "report.html", None)
    browser.get((tmp_path / "report.html").as_uri())
    wait_until(lambda: all(c.get_attribute("data-shown") for c in browser.find_elements("css selector", ".chart")))
    assert browser.title.startswith("What learning cost")
    assert browser.get_log("browser") == []
