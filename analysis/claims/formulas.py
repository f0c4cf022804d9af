"""What each claim follows from: a function whose parameters are the ids of its inputs (data/claim_inputs.csv).

A function registered under a claim's id is the recomputed value; further ones with a label are the figures beside it. They use
the converters of the reports. All are monotone in each input, so that an interval is found at the ends of the inputs' ones.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from math import log2

from analysis import convert

SIGNIFICAND_BITS = {16: 11, 32: 24, 64: 53}  # IEEE 754 binary formats, the hidden bit included


@dataclass(frozen=True)
class Formula:
    """``label`` is empty for the recomputed value itself. ``text`` says the computation in words."""

    label: str
    unit: str
    text: str
    function: Callable[..., float]

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(inspect.signature(self.function).parameters)


FORMULAS: dict[str, list[Formula]] = {}


def recompute(claim: str, unit: str, text: str, label: str = "") -> Callable[[Callable[..., float]], Callable[..., float]]:
    """Register a function under a claim; the first one is the recomputed value."""

    def register(function: Callable[..., float]) -> Callable[..., float]:
        FORMULAS.setdefault(claim, []).append(Formula(label, unit, text, function))
        return function

    return register


def look_up(claim: str, unit: str, function: Callable[..., float], label: str = "") -> None:
    """A claim that is compared with a published figure as it stands."""
    recompute(claim, unit, "as published", label)(function)


# Data sets

look_up("D1", "images", lambda imagenet_images: imagenet_images)
look_up("D2", "images", lambda openimages_images: openimages_images)
look_up("D3", "sentences", lambda mt_corpus_sentences: mt_corpus_sentences)
look_up("D4", "h", lambda librispeech_h: librispeech_h)


@recompute("D4", "days", "hours / 24", "of listening without a break")
def listening_days(librispeech_h: float) -> float:
    return librispeech_h / 24


# Sample efficiency


def played_h(frames: float, rate_hz: float) -> float:
    hours = convert.play_h(frames, rate_hz)
    assert hours is not None
    return hours


@recompute("S1", "days", "frames / frames a second / 24 h")
def play_days(atari_frames: float, atari_rate_hz: float) -> float:
    return played_h(atari_frames, atari_rate_hz) / 24


look_up("S2", "frames", lambda rainbow_frames: rainbow_frames)
look_up("S2", "frames", lambda bbf_frames: bbf_frames, "BBF, to human level")


@recompute("S2", "days", "frames / frames a second / 24 h", "of play for Rainbow to equal DQN")
def rainbow_play_days(rainbow_frames: float, atari_rate_hz: float) -> float:
    return played_h(rainbow_frames, atari_rate_hz) / 24


@recompute("S3", "x", "hours that the frames take to play / hours of practice")
def agent_over_human(atari_frames: float, atari_rate_hz: float, human_practice_h: float) -> float:
    return played_h(atari_frames, atari_rate_hz) / human_practice_h


@recompute("S3", "h", "frames / frames a second", "of play by the agent")
def agent_play_h(atari_frames: float, atari_rate_hz: float) -> float:
    return played_h(atari_frames, atari_rate_hz)


look_up("S3", "h", lambda human_practice_h: human_practice_h, "of practice by the human tester")

# AlphaStar

look_up("A1", "December 2018", lambda alphastar_match_day: alphastar_match_day)
look_up("A2", "players", lambda mana_players: mana_players)
look_up("A3", "days", lambda league_days: league_days)
look_up("A4", "TPUs", lambda league_tpus: league_tpus)
look_up("A5", "years", lambda league_years: league_years)


@recompute("A5", "years", "days / 365.25", "that the training took")
def league_training_years(league_days: float) -> float:
    return convert.years(league_days * 24)


@recompute("A5", "x", "hours of play / hours of training", "faster than real time, each agent")
def league_speed(league_years: float, league_days: float) -> float:
    return league_years * convert.HOURS_PER_YEAR / (league_days * 24)


@recompute("A5", "x", "hours of play / hours of training / TPUs", "faster than real time, each TPU")
def league_speed_per_tpu(league_years: float, league_days: float, league_tpus: float) -> float:
    return league_speed(league_years, league_days) / league_tpus


@recompute("A6", "kWh", "TPUs x rated power x hours")
def league_kwh(league_tpus: float, tpu_v3_w: float, league_days: float) -> float:
    return convert.kwh(convert.joules(league_tpus * tpu_v3_w, league_days * 24))


@recompute("A6", "kWh", "power of a brain x hours of play", "a brain that plays as many years")
def league_brain_kwh(league_years: float, brain_power_w: float) -> float:
    return convert.kwh(convert.brain_energy_j(league_years * convert.HOURS_PER_YEAR, brain_power_w))


@recompute("A6", "W", "energy / hours of play", "while one game is played in real time")
def league_w_per_game(league_tpus: float, tpu_v3_w: float, league_days: float, league_years: float) -> float:
    return convert.mean_power_w(league_kwh(league_tpus, tpu_v3_w, league_days), league_years * convert.HOURS_PER_YEAR)


# AlphaGo and a brain

look_up("G1", "CPUs", lambda lee_cpus: lee_cpus)
look_up("G1", "CPUs", lambda alphago_cpus: alphago_cpus, "the distributed system of October 2015")
look_up("G1", "TPUs", lambda lee_tpus: lee_tpus, "of the same machine, by the later paper")
look_up("G2", "GPUs", lambda lee_gpus: lee_gpus)
look_up("G2", "GPUs", lambda alphago_gpus: alphago_gpus, "the distributed system of October 2015")
look_up("G3", "persons", lambda alphago_authors: alphago_authors)


@recompute("G4", "cups", "power of a brain x hours of the match / energy of a cup")
def match_coffees(brain_power_w: float, match_h: float, coffee_kcal: float) -> float:
    return convert.coffees(convert.brain_energy_j(match_h, brain_power_w), coffee_kcal * convert.JOULES_PER_KCAL)


@recompute("G4", "min", "energy of a cup / power of a brain", "that one cup runs a brain")
def coffee_minutes(coffee_kcal: float, brain_power_w: float) -> float:
    return convert.brain_h(coffee_kcal * convert.JOULES_PER_KCAL, brain_power_w) * 60


@recompute("G5", "W", "CPUs x W + GPUs x W")
def processors_w(alphago_cpus: float, cpu_w: float, alphago_gpus: float, gpu_w: float) -> float:
    return alphago_cpus * cpu_w + alphago_gpus * gpu_w


@recompute("G5", "W", "(CPUs + GPUs) x W", "the sum of a blog of 2016")
def blog_w(lee_cpus: float, lee_gpus: float, mattheij_w: float) -> float:
    return (lee_cpus + lee_gpus) * mattheij_w


@recompute("G5", "W", "TPUs x W", "the 48-TPU version, chips only")
def lee_tpus_w(lee_tpus: float, tpu_v1_w: float) -> float:
    return lee_tpus * tpu_v1_w


look_up("G5", "W", lambda brain_power_w: brain_power_w, "a human brain")
recompute("G6", "W", "TPUs x W")(lee_tpus_w)


@recompute("G6", "W", "TPUs x W", "AlphaGo Zero, chips only")
def zero_w(zero_tpus: float, tpu_v1_w: float) -> float:
    return zero_tpus * tpu_v1_w


look_up("G6", "W", lambda brain_power_w: brain_power_w, "a human brain")


@recompute("G7", "W", "share of the brain x resting power of the body")
def brain_w(brain_share: float, body_rest_w: float) -> float:
    return brain_share * body_rest_w


@recompute("G7", "W", "food energy a day / 24 h", "from what it uses in a day")
def brain_w_from_food(brain_kcal_per_day: float) -> float:
    return convert.mean_power_w(convert.kwh(brain_kcal_per_day * convert.JOULES_PER_KCAL), 24)


@recompute("G8", "x", "power of the processors / power of a brain")
def brains(alphago_cpus: float, cpu_w: float, alphago_gpus: float, gpu_w: float, brain_power_w: float) -> float:
    return processors_w(alphago_cpus, cpu_w, alphago_gpus, gpu_w) / brain_power_w


@recompute("G8", "x", "power of the lecture / power of a brain", "with the power of the lecture")
def brains_of_the_lecture(alphago_power_w: float, brain_power_w: float) -> float:
    return alphago_power_w / brain_power_w


@recompute("G8", "x", "TPUs x W / power of a brain", "the 48-TPU version, chips only")
def brains_of_lee(lee_tpus: float, tpu_v1_w: float, brain_power_w: float) -> float:
    return lee_tpus_w(lee_tpus, tpu_v1_w) / brain_power_w


# Electricity of the world


@recompute("E1", "TW", "energy a year / hours a year")
def world_tw(world_generation_twh: float) -> float:
    return convert.mean_power_w(world_generation_twh * 1e9, convert.HOURS_PER_YEAR) / 1e12


@recompute("E1", "TW", "energy a year / hours a year", "consumption of 2021")
def world_consumption_tw(world_consumption_twh: float) -> float:
    return world_tw(world_consumption_twh)


@recompute("E1", "TWh", "as published", "consumption of 2021: an energy a year, not a power")
def world_consumption_a_year(world_consumption_twh: float) -> float:
    return world_consumption_twh


@recompute("E2", "AlphaGos", "power of the world / power of AlphaGo in the lecture")
def alphagos(world_generation_twh: float, alphago_power_w: float) -> float:
    return world_tw(world_generation_twh) * 1e12 / alphago_power_w


@recompute("E2", "AlphaGos", "power of the world / power of its processors", "with the power of G5")
def alphagos_of_processors(
    world_generation_twh: float, alphago_cpus: float, cpu_w: float, alphago_gpus: float, gpu_w: float
) -> float:
    return alphagos(world_generation_twh, processors_w(alphago_cpus, cpu_w, alphago_gpus, gpu_w))


# Compute


@recompute("C1", "months to double", "12 / log2 of the growth in a year")
def months_to_double(compute_growth_per_year: float) -> float:
    return 12 / log2(compute_growth_per_year)


@recompute("C2", "words", "tokens x words per token")
def gpt3_words(gpt3_tokens_available: float, words_per_token: float) -> float:
    return gpt3_tokens_available * words_per_token


@recompute("C2", "words", "tokens x words per token", "that training saw")
def gpt3_words_trained(gpt3_tokens_trained: float, words_per_token: float) -> float:
    return gpt3_words(gpt3_tokens_trained, words_per_token)


look_up("C2", "tokens", lambda gpt3_tokens_available: gpt3_tokens_available, "available")
look_up("C3", "parameters", lambda gpt3_parameters: gpt3_parameters)


def gpu_h(flop: float, flop_per_s: float) -> float:
    return flop / flop_per_s / 3600


@recompute("C4", "years", "FLOP / FLOP a second")
def v100_years(gpt3_flop: float, v100_flop_per_s: float) -> float:
    return convert.years(gpu_h(gpt3_flop, v100_flop_per_s))


@recompute("C4", "years", "V100 x days", "of V100s in the published run")
def v100_years_of_the_run(gpt3_gpus: float, gpt3_days: float) -> float:
    return convert.years(gpt3_gpus * gpt3_days * 24)


@recompute("C4", "years", "FLOP / peak FLOP a second", "at the peak of its tensor cores")
def v100_years_at_peak(gpt3_flop: float, v100_peak_flop_per_s: float) -> float:
    return v100_years(gpt3_flop, v100_peak_flop_per_s)


def rent_usd(device_h: float, usd_per_h: float) -> float:
    cost = convert.device_cost_usd(device_h, "as given", usd_per_h)
    assert cost is not None
    return cost.value


@recompute("C5", "USD", "FLOP / FLOP a second x price of an hour")
def gpt3_usd(gpt3_flop: float, v100_flop_per_s: float, v100_usd_per_h: float) -> float:
    return rent_usd(gpu_h(gpt3_flop, v100_flop_per_s), v100_usd_per_h)


@recompute("C5", "USD", "FLOP / FLOP a second x list price of an hour", "at the list price of large clouds")
def gpt3_usd_at_list_price(gpt3_flop: float, v100_flop_per_s: float, v100_list_usd_per_h: float) -> float:
    return gpt3_usd(gpt3_flop, v100_flop_per_s, v100_list_usd_per_h)


@recompute("C6", "USD", "days x 24 h x price of an hour")
def rainbow_usd(rainbow_days: float, gpu_usd_per_h: float) -> float:
    return rent_usd(rainbow_days * 24, gpu_usd_per_h)


@recompute("C6", "USD", "hours x price of an hour", "BBF, one game to human level")
def bbf_usd(bbf_h: float, gpu_usd_per_h: float) -> float:
    return rent_usd(bbf_h, gpu_usd_per_h)


@recompute("C6", "USD", "hours x price of an hour", "PQN, 200 million frames")
def pqn_usd(pqn_h: float, a40_usd_per_h: float) -> float:
    return rent_usd(pqn_h, a40_usd_per_h)


@recompute("C6", "USD", "FLOP / FLOP a second x price of an hour", "GPT-3, as in C5")
def gpt3_usd_again(gpt3_flop: float, v100_flop_per_s: float, v100_usd_per_h: float) -> float:
    return gpt3_usd(gpt3_flop, v100_flop_per_s, v100_usd_per_h)


# Numbers of few bits


@recompute("Q1", "bits", "smallest IEEE 754 format in which 1 + learning rate is not 1")
def bits_for_updates(learning_rate: float) -> float:
    needed = significand_bits(learning_rate)
    return min((width for width, bits in SIGNIFICAND_BITS.items() if bits > needed), default=float("inf"))


@recompute("Q1", "bits of the significand", "log2(1 / learning rate)", "at least")
def significand_bits(learning_rate: float) -> float:
    return log2(1 / learning_rate)


look_up("Q2", "", lambda weight_decimal: weight_decimal)


@recompute("Q2", "%", "rounded to one decimal / unrounded - 1", "error of the rounding")
def rounding_error(weight_decimal: float) -> float:
    return 100 * abs(round(weight_decimal, 1) / weight_decimal - 1)


@recompute("Q3", "x smaller", "32 / bits")
def times_smaller(quantized_bits: float) -> float:
    return 32 / quantized_bits


recompute("Q3", "x smaller", "32 / 2", "at 2 bits")(lambda: times_smaller(2))
recompute("Q3", "x smaller", "32 / 1", "at 1 bit")(lambda: times_smaller(1))


@recompute("P1", "%", "1 - parameters kept / parameters, AlexNet")
def alexnet_pruned(alexnet_kept: float, alexnet_parameters: float) -> float:
    return 100 * (1 - alexnet_kept / alexnet_parameters)


@recompute("P1", "%", "1 - parameters kept / parameters", "VGG-16")
def vgg_pruned(vgg_kept: float, vgg_parameters: float) -> float:
    return alexnet_pruned(vgg_kept, vgg_parameters)


# History and language


@recompute("H1", "% solved", "solved / attempted")
def saint_share(saint_solved: float, saint_attempted: float) -> float:
    return 100 * saint_solved / saint_attempted


@recompute("H2", "year", "the first two digits of an arXiv number since 2007 are the year")
def arxiv_year(mia_arxiv_number: float) -> float:
    return 2000 + mia_arxiv_number // 100


look_up("L1", "min", lambda infant_min: infant_min)
look_up("L2", "sentences", lambda new_word_definitions: new_word_definitions)
