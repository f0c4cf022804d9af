import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

import playmeter
from analysis import charts, report, sentences, summary, tables, workers
from analysis.convert import ANYWHERE, Rates, UnknownPlace, UnknownPrice
from analysis.report import ReportError, write_report
from runs import schema
from runs.schema import ESTIMATED, MEASURED, Energy
from tests.analysis.run_folders import BREAKOUT, CARTPOLE, GPU, MOUNTAINCAR, write_run

ROOT = Path(__file__).parents[2]


def page_of(folder, tmp_path, at=ANYWHERE):
    out = tmp_path / "page" / "report.html"
    out.parent.mkdir(exist_ok=True)
    write_report([folder], out, None, at)
    return out.read_text(encoding="utf-8")


def body(page):
    """The page without the chart library and the curves."""
    return page.split("<script>")[0]


def text_of(page):
    return " ".join(re.sub(r"<[^>]+>", " ", body(page)).split())


def headline_of(folder, at=ANYWHERE):
    runs, left_out = tables.read_runs([folder])
    return sentences.headline(summary.summarise(runs, left_out, at)["comparisons"], runs[0].record.env, at)


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
    assert page.count(charts.javascript()) == 1
    # The curves of three environments, the two control tasks together (curves and statistics), and the landmarks.
    assert page.count('class="chart"') == 6


def test_hostile_names_are_text(results, tmp_path):
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    env = CARTPOLE.__class__(hostile, "control", hostile, 50.0, 1, 475.0, 500)
    for seed in range(2):
        write_run(results / "e" / "a" / f"seed{seed}", hostile, env, seed, budget=hostile, machine={hostile: hostile})
    page = page_of(results, tmp_path)
    assert "<script>alert" not in page
    assert "<img" not in body(page)
    assert page.count("<script") == page.count("</script>") == 3
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
    reached, human, play, used, means = headline_of(results)
    assert reached == "dqn reached 16.1 with a single seed, which says nothing about the spread between seeds."
    assert human == "The human score of 30.5 was not reached. Its score is 50 % of the human one, where 0 % is random play."
    assert play == (
        "To play the 200 million frames that a seed of dqn learned from, a person would need 38.6 days without a break: 463 times the 2 hours "
        "of practice that the professional tester had, and 100 % of the usual 200 million frames (38.6 days)."
    )
    assert used == "Training one seed of dqn used an estimated 1.00 kWh (0.889–1.17 kWh)."
    assert (
        means
        == (  # 1 kWh at 481 g; 0.889 kWh at 23.3 g and 1.167 kWh at 1,306 g; 12.7, 8.0 and 38.6 cents; 3.6 MJ / 8,368 J
            "That is 481 g of CO₂ (20.7–1,524 g) at the world mean of 481 g/kWh, as no country was given, and $0.127 of electricity "
            "($0.0711–$0.450) at the mean price in the United States in 2023, as no price was given. A human brain, at 20 W, runs on it "
            "for 2.08 days; as food it is 430 cups of black coffee."
        )
    )
    assert headline_of(results, Rates("DEU", 0.3))[4].startswith(
        "That is 381 g of CO₂ (339–444 g) on the grid of Germany (381 g/kWh in 2023), and $0.300 of electricity ($0.267–$0.350) "
        "at the price given."
    )


def test_the_headline_says_what_does_not_exist(results):
    write_run(results / "m" / "dqn" / "seed0", env=MOUNTAINCAR, energy={"cpu_package": Energy(0, 0, 0, "absent")})
    text = " ".join(headline_of(results))
    assert "The task has no physical time" in text
    assert "The energy of dqn is not known" in text
    assert "CO₂" not in text


def test_the_headline_says_when_the_best_two_overlap(five_seeds):
    for seed in range(5):
        write_run(
            five_seeds / "CartPole-v1" / "rainbow" / f"seed{seed}", "rainbow", seed=seed, scores=[50.0, 110.0 + 100 * seed]
        )
    assert headline_of(five_seeds)[0].startswith("rainbow reached 310")
    assert headline_of(five_seeds)[0].endswith("its interval overlaps that of dqn.")


def test_all_that_reached_the_same_score_are_named_and_the_rest_is_about_the_one_with_the_higher_mean(results):
    """Both IQMs are 500; of a fifth seed at 100 only the mean (420 against 500) tells."""
    for name, scores in (("a", [500, 500, 500, 500, 100]), ("b", [500] * 5), ("c", [90] * 5)):
        for seed, score in enumerate(scores):
            write_run(results / "c" / name / f"seed{seed}", name, seed=seed, scores=[50.0, float(score)])
    reached, *rest = headline_of(results)
    assert reached == (
        "b and a reached 500: b, the IQM of 5 seeds (95 % interval 500 to 500); "
        "a, the IQM of 5 seeds (95 % interval 233.3 to 500)."
    )
    assert "a seed of b learned from" in " ".join(rest)
    assert "Training one seed of b used" in " ".join(rest)


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


def test_folders_that_cannot_be_read_are_listed_with_the_reason_and_do_not_stop_the_report(five_seeds, tmp_path):
    home = five_seeds / "CartPole-v1" / "dqn"
    for name, content in (
        ("newer", '{"schema": 99}'), ("foreign", '{"name": "of another program"}'), ("halfwritten", '{"agent": "dqn", "see'),
        ("binary", b"\xff\xfe\x00"), ("list", "[]"),
    ):  # fmt: skip
        (home / name).mkdir()
        (home / name / "run.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    text = text_of(page_of(five_seeds, tmp_path))
    assert "5 folders were left out" in text
    assert "dqn reached 300, the IQM of 5 seeds" in text
    assert re.search(r"dqn/newer run.json has schema 99, this playmeter reads up to \d+: update playmeter", text)
    assert "dqn/foreign run.json is not a playmeter file" in text
    assert "dqn/halfwritten run.json cannot be read" in text
    assert "dqn/binary run.json cannot be read" in text
    assert "dqn/list run.json is not a playmeter file" in text


def test_markdown_and_figures_have_the_same_content(five_seeds, tmp_path):
    for seed in range(5):
        write_run(five_seeds / "CartPole-v1" / "c51" / f"seed{seed}", "c51 | <b>", seed=seed, scores=[40.0, 90.0])
    write_report([five_seeds], None, None, markdown=tmp_path / "report.md", figures=tmp_path / "figures")
    text = (tmp_path / "report.md").read_text()
    assert "dqn reached 300, the IQM of 5 seeds" in text
    assert "c51 \\| &lt;b&gt;" in text
    assert "<b>" not in text
    tables_in = [block for block in text.split("\n\n") if block.startswith("|")]
    assert tables_in
    for block in tables_in:  # each row has as many cells as the head
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    files = sorted((tmp_path / "figures").iterdir())
    kinds = {"svg": b"<svg", "png": b"\x89PNG", "pdf": b"%PDF"}
    assert {file.suffix[1:] for file in files} == set(kinds)
    assert all(file.read_bytes().startswith(kinds[file.suffix[1:]]) for file in files)
    names = {file.stem for file in files}
    assert {
        "cartpole-v1-control-frames",
        "cartpole-v1-control-frontier-common",
        "control-control-performance-profile",
        "landmarks-energy",
    } <= names
    assert len(files) == 3 * len(names)
    svg = (tmp_path / "figures" / "cartpole-v1-control-frames.svg").read_text()
    assert "currentColor" not in svg
    assert "dqn" in svg  # the legend
    assert "c51 | &lt;b&gt;" in svg
    assert "<b>" not in svg


def test_two_environments_of_one_name_have_their_own_figures(results, tmp_path, monkeypatch):
    monkeypatch.setattr(charts, "figure", lambda spec: {"svg": b"<svg>"})  # drawn in the test above
    for number, limit in enumerate((200, 500)):
        write_run(results / str(limit) / "dqn" / "seed0", env=replace(CARTPOLE, max_episode_steps=limit), scores=[1.0 + number])
    write_report([results], None, None, figures=tmp_path / "figures")
    names = {file.stem for file in (tmp_path / "figures").iterdir()}
    assert {"cartpole-v1-control-frames", "cartpole-v1-control-frames-2"} <= names


def test_nothing_readable_ends_with_code_2(tmp_path, capsys):
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "run.json").write_text('{"schema": 99}')
    assert playmeter.main(["report", str(tmp_path), "--out", str(tmp_path / "r.html")]) == 2
    error = capsys.readouterr().err
    assert "schema 99" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "r.html").exists()


def test_a_published_figure_under_another_protocol_says_what_differs(results, tmp_path):
    sticky = BREAKOUT.__class__(BREAKOUT.id, "atari", "sticky", 60.0, 4, None, 27000)
    write_run(results / "b" / "dqn" / "seed0", env=sticky, steps=50_000_000, scores=[100.0])
    published = write_report([results], None, None)["environments"][0]["published"]
    differs = {entry["agent"]: entry["differs"] for entry in published}
    assert differs["DQN (Nature 2015)"] == ("sticky actions",) or differs["DQN (Nature 2015)"] == ["sticky actions"]
    assert list(differs["DQN (Dopamine, Nature CNN, TF)"]) == ["a training return, not an evaluation"]
    assert list(differs["BBF"]) == ["sticky actions", "experience"]
    assert list(differs["MR.Q"]) == ["experience"]
    assert all(entry["source"] for entry in published)


def test_a_level_that_was_reached_in_frames_nobody_counted_is_reached(results, tmp_path):
    """An import may know steps and no frames: its costs are not known, which is not "not reached"."""
    folder = write_run(results / "e" / "dqn" / "seed0", scores=[480.0, 500.0])
    lines = [replace(line, frames=None) for line in schema.read_evals(folder)]
    (folder / schema.EVALS_FILE).write_text("".join(map(schema.seal, lines)))
    write_report([results], None, None, markdown=tmp_path / "r.md")
    (row,) = [line for line in (tmp_path / "r.md").read_text().splitlines() if "| threshold 475 |" in line]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2:4] == ["1 of 1", "–"]
    assert cells[7].startswith("0.125 Wh")  # half of 900 J, at the first evaluation


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
    assert 'class="chart"' not in page
    assert "vegaEmbed" not in page


def test_co2_and_money_stand_in_page_tables_markdown_and_json_with_what_they_rest_on(five_seeds, tmp_path):
    """900 J (260 to 3500) are 0.25 Wh: 95.2 mg in Germany, and 0.0075 cents at 0.3 USD a kWh."""
    for seed in range(5):
        write_run(five_seeds / "CartPole-v1" / "c51" / f"seed{seed}", "c51", seed=seed, scores=[480.0])
    given = Rates("Germany", 0.3)
    result = write_report([five_seeds], tmp_path / "r.html", None, given, tmp_path / "r.md")
    assert (result["country"], result["grid"]["place"], result["grid"]["g_per_kwh"]) == ("Germany", "Germany", 380.95)
    dqn = next(c for c in result["comparisons"] if c["agent"] == "dqn")
    assert (dqn["co2_kg"], dqn["high_co2_kg"]) == pytest.approx((0.00025 * 0.38095, 3500 / 3.6e6 * 0.38095))
    assert dqn["frames_to_threshold"]["half_threshold"]["cost_usd"] == pytest.approx(900 / 3.6e6 * 0.3)
    assert dqn["total"]["co2_kg"] == pytest.approx(5 * 0.00025 * 0.38095)
    page, markdown = text_of((tmp_path / "r.html").read_text()), (tmp_path / "r.md").read_text()
    for text in (page, markdown):
        assert "95.2 mg" in text
        assert "0.00750 ¢" in text
        assert "Germany, 381 g/kWh, 2023: Our World in Data (CC BY 4.0)" in text
        assert "at 0.3 USD per kWh, as given" in text
    anywhere = text_of(page_of(five_seeds, tmp_path))
    assert "No country was given (--country), so this is the world mean, 481 g/kWh (23 to 1,306 by country)" in anywhere
    assert "U.S. Energy Information Administration" in anywhere


def test_frames_of_evaluations_stand_beside_those_of_training_where_they_are_known(results, tmp_path):
    """Two seeds of a: 80,000 and 20,000 frames of evaluation, 50,000 a seed; of one of b's two seeds nobody counted them; c had none."""
    pong = replace(BREAKOUT, id="ALE/Pong-v5")
    for env in (BREAKOUT, pong):
        for seed in (0, 1):
            for agent, played in {"a": 80_000 - 60_000 * seed, "b": 7_777 if seed else None, "c": 0}.items():
                write_run(results / env.id / agent / f"seed{seed}", agent, env, seed, scores=[1.0, 2.0], eval_frames=played)
    summary = write_report([results], tmp_path / "r.html", None, ANYWHERE, tmp_path / "r.md")
    of = {(c["agent"], c["env"]): c for c in summary["comparisons"]}
    assert [of[agent, pong.id]["eval_frames"] for agent in "abc"] == [50_000, None, 0]
    assert [of[agent, pong.id]["total"]["eval_frames"] for agent in "abc"] == [100_000, None, 0]
    assert [summary["suites"][0]["totals"][agent]["eval_frames"] for agent in "abc"] == [200_000, None, 0]
    for text in (text_of((tmp_path / "r.html").read_text()), (tmp_path / "r.md").read_text()):
        assert re.findall(r"\+ (\S+) in evaluations", text) == ["200,000", "50,000", "50,000"]


def test_the_rent_of_a_gpu_stands_beside_its_energy_where_a_price_was_given(results, tmp_path):
    """83 s of a whole GPU at 36 USD an hour are 0.83 USD; half-way, where the level was reached, it is half of that."""
    for agent in "ab":
        write_run(results / agent, agent, device=GPU, wall_s=83.0, scores=[250.0, 480.0])
    given = Rates("Germany", 0.3, "36", "1.2")
    result = write_report([results], tmp_path / "r.html", None, given, tmp_path / "r.md")
    first = result["comparisons"][0]
    assert first["gpu_h"] == pytest.approx(83 / 3600)
    assert first["gpu_rent_usd"] == first["total"]["gpu_rent_usd"] == result["runs"][0]["gpu_rent_usd"] == pytest.approx(0.83)
    assert first["frames_to_threshold"]["half_threshold"]["gpu_rent_usd"] == pytest.approx(0.415)
    page, markdown = text_of((tmp_path / "r.html").read_text()), (tmp_path / "r.md").read_text()
    for text in (page, markdown):
        assert "Renting a GPU for the 0.0231 h that the seed had it costs $0.830, at $36.00 an hour (price given)." in text
        assert "That, with a PUE of 1.2, is " in text
        assert "GPU rent is that of the allocated hours, at 36 USD per GPU-hour, as given." in text
        assert "CO₂ and electricity: PUE 1.2, as given." in text
        assert "$0.830 of GPU rent" in text
    assert "| Electricity | GPU rent | Model FLOPs |" in markdown
    without = text_of(page_of(results, tmp_path))
    assert "No rent of GPUs is in it (--price-usd-per-gpu-hour)." in without
    assert "GPU rent" not in without
    assert "IT energy, PUE 1.0" in without


def test_on_a_cpu_a_price_of_gpus_changes_nothing(five_seeds, tmp_path):
    text = text_of(page_of(five_seeds, tmp_path, Rates(gpu_hour="36")))
    assert "Renting a GPU" not in text
    assert "of GPU rent" not in text


def test_an_unknown_country_is_one_line_with_the_nearest_and_nothing_is_written(five_seeds, tmp_path, capsys):
    arguments = ["report", str(five_seeds), "--out", str(tmp_path / "r.html"), "--country", "Germny"]
    assert playmeter.main(arguments) == 2
    assert capsys.readouterr().err == "playmeter: no carbon intensity of the grid of 'Germny': did you mean Germany or Niger?\n"
    assert not (tmp_path / "r.html").exists()


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
        (lambda t: ([t / "results"], t / "circle", None), "a link that leads back to itself"),
        (lambda t: ([t / "results"], t / "r.html", None, Rates(None, -1.0)), "not negative"),
        (lambda t: ([t / "results"], t / "r.html", None, Rates(None, float("nan"))), "not negative"),
        (lambda t: ([t / "results"], t / "r.html", None, Rates(gpu_hour="-1")), "not negative"),
        (lambda t: ([t / "results"], t / "r.html", None, Rates(pue="0.5")), "from 1 on"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(five_seeds, tmp_path, arguments, fault):
    (tmp_path / "circle").symlink_to("circle")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((ReportError, UnknownPlace, UnknownPrice), match=fault) as error:
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
    with pytest.raises(ReportError, match="No space left"):
        write_report([five_seeds], None, None, figures=tmp_path / "figures")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "results"]
    (tmp_path / "figures").mkdir()
    with pytest.raises(ReportError, match="No space left"):
        write_report([five_seeds], None, None, figures=tmp_path / "figures")
    assert list((tmp_path / "figures").iterdir()) == [], "a folder that was there stays"


def test_a_link_stays_one_and_a_file_that_was_there_keeps_its_mode(five_seeds, tmp_path):
    page, link = tmp_path / "index.html", tmp_path / "link.html"
    page.write_text("old")
    page.chmod(0o600)
    link.symlink_to("index.html")
    write_report([five_seeds], link, tmp_path / "new.json")
    assert link.is_symlink()
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert page.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new.json").stat().st_mode & 0o777 == 0o666 & ~report._umask()


def test_a_pipe_is_written_to_and_not_replaced(five_seeds, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    write_report([five_seeds], None, pipe)
    assert pipe.is_fifo()
    reader.join(20)
    assert json.loads(read[0])["comparisons"]


def test_ctrl_c_is_for_the_process_that_started_the_others():
    """A terminal sends it to all of them; each would print a traceback of its own."""
    mine = signal.getsignal(signal.SIGINT)
    handlers = list(workers.spread(_handler, range(4), workers.MANY_RUNS))
    assert handlers == [signal.SIG_IGN] * 4
    assert signal.getsignal(signal.SIGINT) is mine


def _handler(_):
    return signal.getsignal(signal.SIGINT)


def test_importing_analysis_is_light():
    """`import analysis` loads nothing heavy; the report itself loads neither torch nor gymnasium."""
    code = "import sys, analysis; heavy = {'polars', 'altair', 'scipy', 'vl_convert', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert time.monotonic() - start < 1
    code = "import sys, analysis.report; learning = {'torch', 'gymnasium', 'tensorboard'} & set(sys.modules); assert not learning, learning"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_protocol_of_the_schema_is_explained():
    assert set(report.PROTOCOLS) == {"control", "minatar", "nature", "sticky", "atari100k", "unknown"}
