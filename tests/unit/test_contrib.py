"""What is shipped for operators fits this version: alerts, the dashboard, and the page that tells what to do."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from funkenshield import cli
from funkenshield.admin.metrics import METRICS, RULE_METRICS, UPSTREAM_LABELS, UPSTREAM_METRICS
from funkenshield.config import Config, environment

ROOT = Path(__file__).parents[2]
RULES = ROOT / "contrib" / "prometheus" / "funkenshield.rules.yml"
DASHBOARD = json.loads((ROOT / "contrib" / "grafana" / "funkenshield.json").read_text())
ENDINGS = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
WORDS = {"job", "instance", "le"}  # labels of Prometheus' own


def exported():
    """Return all names that Prometheus reads of ours, each with its labels."""
    tables = ("", METRICS, ()), ("upstream_", UPSTREAM_METRICS, UPSTREAM_LABELS), ("rule_", RULE_METRICS, ("rule",))
    names = {
        f"funkenshield_{prefix}{name}{ending}": {*labels, *metric.labels}
        for prefix, metrics, labels in tables
        for name, metric in metrics.items()
        for ending in ENDINGS[metric.type]
    }
    of_latency = {f"funkenshield_cache_miss_latency_seconds{ending}": set() for ending in ENDINGS["histogram"]}
    return names | of_latency | {"funkenshield_build_info": {"version"}}


def promtool(*args, **options):
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not there; tools/install-nameservers installs it")
    return subprocess.run([program, *args], capture_output=True, text=True, timeout=120, **options)


def panels():
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions():
    """Return all that the dashboard asks Prometheus."""
    targets = [target["expr"] for panel in panels() for target in panel["targets"]]
    variables = [each["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    return [*targets, *(each["expr"] for each in DASHBOARD["annotations"]["list"])], variables


def assert_known(text):
    known = exported()
    assert re.findall(r"\bfunkenshield_\w+", text)
    for name in re.findall(r"\bfunkenshield_\w+", text):
        assert name in known, name
    labels = {label for each in re.findall(r"(?:by|ignoring) \(([^)]*)\)", text) for label in re.split(r"[ ,]+", each)}
    labels |= set(re.findall(r"{{ *(?:\$labels\.)?([a-z]\w*) *}}", text)) | set(re.findall(r'[{,] *(\w+) *=~?"', text))
    assert labels <= WORDS.union(*known.values())


def test_alerts_and_dashboard_name_metrics_and_labels_that_there_are():
    assert_known(RULES.read_text())
    for expression in itertools.chain(*expressions()):
        if "process_" not in expression:
            assert_known(expression)
    assert_known(json.dumps([panel["targets"] for panel in panels()]).replace('\\"', '"'))


def test_prometheus_understands_the_alerts():
    done = promtool("check", "rules", "--lint-fatal", str(RULES))
    assert done.returncode == 0, done.stderr
    assert "SUCCESS" in done.stdout


@pytest.mark.slow
def test_alerts_fire_where_they_should_and_nowhere_else():
    done = promtool("test", "rules", str(RULES.with_suffix(".test.yml")))
    assert done.returncode == 0, done.stderr
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    assert set(alerts) == set(re.findall(r"alertname: (\w+)", RULES.with_suffix(".test.yml").read_text()))


def test_prometheus_understands_the_dashboard(tmp_path):
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(expressions()[0])
    ]
    assert len(rules) > 40
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = promtool("check", "rules", "--lint=none", str(tmp_path / "rules.json"))  # YAML has all of JSON
    assert done.returncode == 0, done.stderr


def test_panels_stand_side_by_side():
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_page_tells_what_to_do_about_each_alert():
    page = (ROOT / "docs" / "guide" / "monitoring.md").read_text()
    told = re.findall(r"^\| `(FunkenShield\w+)` \|", page, re.M)
    assert told == re.findall(r"- alert: (\w+)", RULES.read_text())


# ------------------------------------------------------------ the manual, and shell completion

MANUAL = ROOT / "contrib" / "man"
COMPLETION = ROOT / "contrib" / "completion"
SHELLS = {"bash": "bash/funkenshield", "zsh": "zsh/_funkenshield", "fish": "fish/funkenshield.fish"}


@pytest.mark.parametrize("page", ["funkenshield.1", "funkenshield.toml.5"])
def test_the_manual_is_up_to_date_and_man_has_nothing_to_say_of_it(page):
    made = CliRunner().invoke(cli.main, ["docs", "man", page], catch_exceptions=False)
    assert (MANUAL / page).read_text() == made.stdout, "say make docs"
    for checking in (["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"], ["mandoc", "-Tlint", "-Wwarning"]):
        if shutil.which(checking[0]):
            done = subprocess.run([*checking, MANUAL / page], capture_output=True, text=True, timeout=30)
            assert (done.returncode, done.stderr) == (0, "")
            assert checking[0] == "man" or not done.stdout


def test_the_manual_has_each_command_and_each_key():
    commands = (MANUAL / "funkenshield.1").read_text()
    for name, command in cli.main.commands.items():
        for below in getattr(command, "commands", {"": command}):
            assert f"\n.SS {name} {below}".rstrip().replace("-", r"\-") in commands
    keys = (MANUAL / "funkenshield.toml.5").read_text()
    for key, _ in environment.keys(Config):
        assert f"\n.B {key.rpartition('.')[2]}\n" in keys or f"\n.SS \\fB[[{key}" in keys, key


@pytest.mark.parametrize(("shell", "file"), SHELLS.items())
def test_completion_is_up_to_date_and_its_shell_understands_it(shell, file):
    made = CliRunner().invoke(cli.main, ["docs", "completion", shell], catch_exceptions=False)
    assert (COMPLETION / file).read_text() == made.stdout, "say make docs"
    if shutil.which(shell):
        done = subprocess.run([shell, "-n", COMPLETION / file], capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stderr) == (0, "")


def test_bash_completes_commands(tmp_path):
    (tmp_path / "funkenshield").write_text(f'#!/bin/sh\nexec {sys.executable} -m funkenshield "$@"\n')
    (tmp_path / "funkenshield").chmod(0o755)
    typed = "COMP_WORDS=(funkenshield block re) COMP_CWORD=2"
    line = f"{typed}; _funkenshield_completion funkenshield; echo ${{COMPREPLY[*]}}"
    done = subprocess.run(
        ["bash", "-c", f"source {COMPLETION / 'bash' / 'funkenshield'}; {line}"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("remove\n", "")


def test_what_is_to_be_installed_is_there():
    files = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    assert len(files) == 5
    for file in itertools.chain(*files.values()):
        assert (ROOT / file).is_file()
