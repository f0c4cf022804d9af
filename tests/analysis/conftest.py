import shutil
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.analysis.run_folders import write_run


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def five_seeds(results: Path) -> Path:
    """Five seeds of dqn on CartPole with known last scores 100, 200, 300, 400, 500, each at the last of two evaluations."""
    for seed in range(5):
        write_run(results / "CartPole-v1" / "dqn" / f"seed{seed}", seed=seed, scores=[50.0, 100.0 * (seed + 1)])
    return results


CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")


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
