"""Named sets of environments."""

from __future__ import annotations

CLASSIC = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "LunarLander-v3")

MINATAR = (
    "MinAtar/Asterix-v1",
    "MinAtar/Breakout-v1",
    "MinAtar/Freeway-v1",
    "MinAtar/Seaquest-v1",
    "MinAtar/SpaceInvaders-v1",
)


def _ale(names: str) -> tuple[str, ...]:
    return tuple(f"ALE/{name}-v5" for name in names.split())


# Aitchison et al. 2023, arXiv 2210.02019: the five games whose scores predict the median over all 57 best.
ATARI5 = _ale("BattleZone DoubleDunk NameThisGame Phoenix Qbert")

# Kaiser et al. 2020, arXiv 1903.00374 (SimPLe), Table 1: the 26 games of the Atari-100k benchmark.
ATARI26 = _ale(
    "Alien Amidar Assault Asterix BankHeist BattleZone Boxing Breakout ChopperCommand CrazyClimber DemonAttack Freeway "
    "Frostbite Gopher Hero Jamesbond Kangaroo Krull KungFuMaster MsPacman Pong PrivateEye Qbert RoadRunner Seaquest UpNDown"
)

# Wang et al. 2016, arXiv 1511.06581, and google-deepmind/dqn_zoo dqn_zoo/atari_data.py: the 57 games.
ATARI57 = _ale(
    "Alien Amidar Assault Asterix Asteroids Atlantis BankHeist BattleZone BeamRider Berzerk Bowling Boxing Breakout Centipede "
    "ChopperCommand CrazyClimber Defender DemonAttack DoubleDunk Enduro FishingDerby Freeway Frostbite Gopher Gravitar Hero "
    "IceHockey Jamesbond Kangaroo Krull KungFuMaster MontezumaRevenge MsPacman NameThisGame Phoenix Pitfall Pong PrivateEye "
    "Qbert Riverraid RoadRunner Robotank Seaquest Skiing Solaris SpaceInvaders StarGunner Surround Tennis TimePilot Tutankham "
    "UpNDown Venture VideoPinball WizardOfWor YarsRevenge Zaxxon"
)

SUITES: dict[str, tuple[str, ...]] = {
    "classic": CLASSIC,
    "minatar": MINATAR,
    "atari5": ATARI5,
    "atari26": ATARI26,
    "atari57": ATARI57,
}
