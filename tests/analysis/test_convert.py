import csv
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import convert, units
from analysis.convert import tables as convert_tables
from envs import spec
from envs.registry import all_specs


def raw(name):
    with (convert.DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_200_million_frames_at_60_hz_are_38_days_of_play():
    hours = convert.play_h(convert.protocol_200m_frames(), 60.0)
    assert hours == pytest.approx(200e6 / 60 / 3600)
    assert hours == pytest.approx(925.9, abs=0.05)
    assert hours / 24 == pytest.approx(38.6, abs=0.05)


def test_50_thousand_cartpole_steps_at_50_hz_are_1000_seconds():
    assert convert.play_h(50_000, 50.0) * 3600 == pytest.approx(1000)


def test_a_task_without_physical_time_has_no_playtime():
    assert convert.play_h(50_000, None) is None


def test_a_kilowatt_hour_is_3_6_megajoules_and_runs_a_20_w_brain_for_50_hours():
    assert convert.kwh(3.6e6) == 1
    assert convert.brain_h(3.6e6) == pytest.approx(1000 / 20)


def test_unknown_stays_unknown():
    assert convert.kwh(None) is None
    nothing = convert.meaning({"kwh": None, "low_kwh": None, "high_kwh": None}, convert.Rates("DEU", 0.3))
    assert set(nothing.values()) == {None}


def test_constants_are_the_published_ones():
    assert convert.human_practice_h() == 2
    assert convert.brain_power_w() == (20, 16, 24.21)


def test_human_normalised_score_is_0_for_random_and_1_for_the_tester():
    breakout = convert.atari_scores("ALE/Breakout-v5")
    assert (breakout.random, breakout.human) == (1.7, 30.5)
    assert breakout.normalise(1.7) == 0
    assert breakout.normalise(30.5) == 1
    assert breakout.at(0.5) == pytest.approx(16.1)
    assert convert.atari_scores("CartPole-v1") is None


def test_every_row_of_every_table_names_its_source():
    for name in sorted(path.stem for path in convert.DATA.glob("*.csv")):
        rows = convert_tables.rows(name)
        assert rows
        assert all(row["source"].strip() and "http" not in row["source"] for row in rows)


def test_the_rate_of_every_environment_is_the_one_that_the_environment_itself_has():
    specs = all_specs()
    assert len(specs) > 100
    assert {s.id: convert.frame_rate_hz(s.id) for s in specs} == {s.id: s.frame_rate_hz for s in specs}
    assert {convert.frame_rate_hz(s.id) for s in specs} == {None, 5.0, 50.0, 60.0}


def test_playtime_by_environment_is_none_where_there_is_no_physical_time():
    assert convert.play_h_in("ALE/Pong-v5", 400_000) == pytest.approx(
        1.8519, abs=1e-4
    )  # Atari-100k, in the literature two hours
    assert convert.play_h_in("Acrobot-v1", 18_000) == pytest.approx(1.0)  # 5 steps a second
    assert convert.play_h_in("MountainCar-v0", 1e6) is None
    assert convert.play_h_in("MinAtar/Breakout-v1", 1e6) is None
    assert convert.play_h_in("Procgen/CoinRun-v0", 1e6) is None
    assert convert.play_h_in("ALE/Pong-v5", None) is None


def test_a_year_of_play_has_8766_hours():
    assert convert.years(365.25 * 24) == 1
    assert convert.years(None) is None


def test_power_and_energy_are_told_apart():
    assert convert.joules(20, 5) == 360_000  # a brain for a match of five hours
    assert convert.joules(None, 5) is None
    assert convert.mean_power_w(1e9, 8766) == pytest.approx(114.08e6, rel=1e-4)  # 1 TWh a year: 1e12 Wh / 8766 h


def test_pue_is_stated_and_1_unless_it_is_given_or_a_facility_is_named():
    plain = convert.pue()
    assert plain.value == 1
    assert "IT energy" in plain.basis
    cloud = convert.pue("google cloud")
    assert cloud.value == 1.12
    assert "PUE 1.12, Google Cloud" in cloud.basis
    assert (convert.pue("1.5").value, convert.pue("1.5").basis) == (1.5, "PUE 1.5, as given")
    for unknown, said in (
        ("Atlantis", "no PUE of 'Atlantis': give a number from 1 on, or one of .*OVHcloud"),
        ("0.9", "not 0.9"),
        ("nan", "not nan"),
        ("inf", "not inf"),
    ):
        with pytest.raises(convert.UnknownPlace, match=said):
            convert.pue(unknown)


def test_co2_and_electricity_are_of_what_the_building_draws_brain_and_coffee_of_the_computer():
    energy = {"kwh": 2.0, "low_kwh": 1.0, "high_kwh": 4.0}
    plain, cooled = (convert.meaning(energy, convert.Rates("Germany", 0.3, pue=each)) for each in (None, "1.5"))
    for name, value in cooled.items():
        assert value == pytest.approx((1 if name in ("brain_h", "coffees") else 1.5) * plain[name]), name


def test_a_rented_gpu_costs_what_was_given_or_what_the_table_says_of_its_kind():
    assert convert.gpu_price("H200 SXM").low == 10.6, "the example of README and --help"
    given = convert.rent(2.0, convert.Rates(gpu_hour="2.5"))
    assert given == {"gpu_rent_usd": 5, "low_gpu_rent_usd": 5, "high_gpu_rent_usd": 5}
    prices = [float(row["usd_per_device_hour"]) for row in raw("cloud_prices") if row["device"] == "NVIDIA V100"]
    table = convert.rent(10.0, convert.Rates(gpu_hour="V100"))
    assert list(table.values()) == pytest.approx([10 * median(prices), 10 * min(prices), 10 * max(prices)])
    forecast = convert.rent(2.0, convert.Rates(gpu_hour="2.5"), 1.0, 4.0)
    assert list(forecast.values()) == [5, 2.5, 10]
    for nothing in (convert.rent(None, convert.Rates(gpu_hour="2.5")), convert.rent(2.0, convert.ANYWHERE)):
        assert set(nothing.values()) == {None}
    for unknown, said in (
        ("H1000", "no price of 'H1000' is in the table: give USD per GPU-hour, or .*H100"),
        ("-1", "not negative"),
        ("nan", "not negative"),
    ):
        with pytest.raises(convert.UnknownPrice, match=said):
            convert.Rates(gpu_hour=unknown)


def test_a_black_coffee_runs_a_brain_for_seven_minutes():
    assert convert.coffee_energy_j() == 8368  # 2 kcal of 4184 J
    assert convert.brain_h(8368) * 60 == pytest.approx(6.97, abs=0.01)  # 8368 J / 20 W = 418 s
    assert convert.coffees(360_000) == pytest.approx(43.02, abs=0.01)
    assert convert.coffees(360_000, cup_j=36_000) == 10
    assert convert.coffees(None) is None
    assert convert.brain_h(None) is None
    assert convert.brain_energy_j(2) == 144_000  # 0.04 kWh


def test_co2_of_a_country_by_code_and_by_name():
    by_code, by_name = convert.co2_g(2.0, "DEU"), convert.co2_g(2.0, "germany")
    assert by_code == by_name
    assert by_code.value == pytest.approx(2 * 380.95)
    assert by_code.low is None
    assert "Germany" in by_code.basis
    assert "2023" in by_code.basis
    assert "CC BY 4.0" in by_code.basis
    assert "Ember and the Energy Institute" in by_code.basis


def test_without_a_country_co2_is_the_world_mean_with_the_range_of_countries():
    countries = [row for row in raw("grid_carbon") if row["code"] != "WORLD-GEN"]
    assert len(countries) == 213
    generated = [(float(row["total_twh"]), float(row["g_co2_per_kwh"])) for row in countries]
    mean = sum(twh * g for twh, g in generated) / sum(twh for twh, _ in generated)
    world = convert.co2_g(1.0)
    assert world.value == pytest.approx(mean, rel=1e-4)
    assert (world.low, world.high) == (23.333, 1306.025)  # Bhutan and Turkmenistan, of grids above 1 TWh a year
    assert "world mean" in world.basis
    assert convert.co2_g(None) is None


def test_an_unknown_country_is_refused_with_the_nearest():
    with pytest.raises(convert.UnknownPlace, match="Germany"):
        convert.co2_g(1.0, "Germny")
    with pytest.raises(convert.UnknownPlace):
        convert.co2_g(1.0, "")


def test_the_users_price_comes_first_and_the_table_is_named_with_its_date():
    assert convert.electricity_cost_usd(2.0, 0.3).value == pytest.approx(0.6)
    assert "as given" in convert.electricity_cost_usd(2.0, 0.3).basis
    table = convert.electricity_cost_usd(2.0)
    assert (table.value, table.low, table.high) == pytest.approx((0.254, 0.160, 0.772))  # 12.7, 8.0 and 38.6 cents, twice
    assert "mean price in the United States in 2023" in table.basis
    assert "Energy Information Administration" in table.basis
    assert "public domain" in table.basis
    assert convert.electricity_cost_usd(None, 0.3) is None


def test_an_energy_means_co2_money_brain_hours_and_coffees():
    """2 kWh (1 to 4): in Germany 381 g a kWh, at 0.3 USD; 7.2 MJ run 20 W for 100 h and are 860 cups of 8,368 J."""
    energy = {"kwh": 2.0, "low_kwh": 1.0, "high_kwh": 4.0}
    known = convert.meaning(energy, convert.Rates("Germany", 0.3))
    assert [known[name] for name in ("co2_kg", "low_co2_kg", "high_co2_kg")] == pytest.approx([0.7619, 0.38095, 1.5238])
    assert [known[name] for name in ("cost_usd", "low_cost_usd", "high_cost_usd")] == pytest.approx([0.6, 0.3, 1.2])
    assert known["brain_h"] == pytest.approx(100)
    assert known["coffees"] == pytest.approx(7.2e6 / 8368)
    with pytest.raises(convert.UnknownPlace, match="Germany"):
        convert.meaning(energy, convert.Rates("Germny"))


def test_without_a_place_the_interval_holds_that_of_the_energy_and_that_of_the_rate():
    """From 1 kWh on the cleanest grid (23.333 g) at the lowest price to 4 kWh on the dirtiest (1,306.025 g) at the highest."""
    anywhere = convert.meaning({"kwh": 2.0, "low_kwh": 1.0, "high_kwh": 4.0}, convert.ANYWHERE)
    assert (anywhere["low_co2_kg"], anywhere["high_co2_kg"]) == pytest.approx((0.023333, 4 * 1.306025))
    assert (anywhere["low_cost_usd"], anywhere["high_cost_usd"]) == pytest.approx((0.080, 4 * 0.386))
    assert anywhere["co2_kg"] == pytest.approx(convert.co2_g(2.0).value / 1000)


def test_device_hours_cost_the_median_of_the_vendors_newest_prices():
    prices = [float(row["usd_per_device_hour"]) for row in raw("cloud_prices") if row["device"] == "NVIDIA V100"]
    cost = convert.device_cost_usd(10.0, "V100")
    assert cost.value == pytest.approx(10 * median(prices))
    assert (cost.low, cost.high) == (pytest.approx(10 * min(prices)), pytest.approx(10 * max(prices)))
    assert "2025-03-03" in cost.basis
    assert convert.device_cost_usd(10.0, "V100", 1.5).value == 15
    assert convert.device_cost_usd(10.0, "Voodoo 2") is None
    assert convert.device_cost_usd(None, "V100") is None


def test_video_pinball_has_the_convention_of_the_published_means_too():
    usual, deepmind = (convert.atari_scores("ALE/VideoPinball-v5", name) for name in ("no-op starts", "deepmind"))
    score = 949_604.0  # C51 in the published table
    assert usual.normalise(score) == pytest.approx((949_604 - 16_256.9) / (17_667.9 - 16_256.9))
    assert deepmind.normalise(score) == pytest.approx(949_604 / 17_667.9)
    assert usual.normalise(score) > 12 * deepmind.normalise(score)
    assert convert.atari_scores("ALE/VideoPinball-v5", "human starts") is None  # random play exceeds the human there
    assert convert.atari_scores("ALE/Pong-v5", "deepmind") == convert.atari_scores("ALE/Pong-v5")


def test_human_starts_have_scores_of_their_own():
    alien = convert.atari_scores("ALE/Alien-v5", "human starts")
    assert (alien.random, alien.human) == (128.3, 6371.3)
    games = [row["env_id"] for row in raw("atari_scores")]
    assert sum(convert.atari_scores(game, "human starts") is not None for game in games) == 48  # 49 without Video Pinball
    assert all(convert.atari_scores(game) for game in games)
    assert all(spec(game).frame_rate_hz == 60 for game in games)


@pytest.mark.parametrize(
    ("joules", "text"),
    [(0, "0 J"), (0.83, "0.830 J"), (1440, "0.400 Wh"), (3599, "1.00 Wh"), (5.4e6, "1.50 kWh"), (7.2e9, "2.00 MWh")],
)
def test_energy_is_written_in_a_unit_that_fits(joules, text):
    assert units.energy(joules) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.25, "0.250 s"), (83, "83.0 s"), (1000, "16.7 min"), (7200, "2.00 h"), (200e6 / 60, "38.6 days")]
)
def test_durations_are_written_in_a_unit_that_fits(seconds, text):
    assert units.duration(seconds) == text


def test_both_ends_of_a_range_are_in_the_unit_of_the_value_between_them():
    assert units.energy_range(720, 432, 6120) == "0.120–1.70 Wh"
    assert units.energy_range(50.76, 29.6, 290) == "0.00822–0.0806 Wh", "0.0141 Wh (29.6 J–0.0806 Wh) was hard to read"
    assert units.energy_range(30, 18, 6120) == "18.0–6,120 J"
    assert units.energy_range(720, 0, 1440) == "0–0.400 Wh"
    assert units.between(units.duration, 7000, 100, 90_000) == "1.67–1,500 min"
    assert units.between(units.mass, 0.5, 0.02, 1.5) == "20.0–1,500 g"
    assert units.between(units.money, 0.005, 0.0001, 0.25) == "0.0100–25.0 ¢"
    assert units.between(units.money, 1.5, 0.001, 2.5) == "$0.00100–$2.50"
    assert units.between(units.count, 5, 3, 2e8) == "3–200 million"
    assert units.between(units.energy, 1.0, 0.9999, 1.0001) == "1.00 J"
    assert units.between(units.money, 0, 0, 0) == "$0"
    assert units.between(units.mass, 0, 0, 5) == "0–5.00 kg", "nothing has no unit of its own"
    assert units.between(units.money, 0, 0, 5) == "$0–$5.00"
    assert units.between(units.energy, None, None, None) == "–"


def test_numbers_for_people():
    assert units.count(50_000) == "50,000"
    assert units.count(2e8) == "200 million"
    assert units.flops(1.234e12) == "1.23 × 10¹²"
    assert units.score(-110.0) == "−110"
    assert units.score(0.0) == "0"
    assert units.money(0.0012) == "0.120 ¢"
    assert units.money(0.0123) == "$0.0123"
    assert units.money(1234.5) == "$1,234.50"
    assert units.mass(0.0207) == "20.7 g"
    assert units.mass(1530) == "1.53 t"
    assert [
        f(None)
        for f in (
            units.energy,
            units.duration,
            units.hours,
            units.count,
            units.flops,
            units.score,
            units.size,
            units.mass,
            units.money,
        )
    ] == ["–"] * 9


@given(st.floats(min_value=1e-9, max_value=1e15))
def test_nothing_that_was_spent_is_written_as_zero(value):
    for text in (
        units.energy(value),
        units.duration(value),
        units.hours(value),
        units.money(value),
        units.mass(value),
        units.percent(value),
    ):
        assert any(digit in text for digit in "123456789")


@given(st.floats(min_value=1e-6, max_value=1e12))
def test_three_digits_are_within_half_a_percent(value):
    assert float(units.significant(value).replace(",", "")) == pytest.approx(value, rel=5.1e-3)
