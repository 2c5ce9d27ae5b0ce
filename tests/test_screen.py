"""The picture of a command's output: its words, whole and in order, and nothing that is fetched."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from running import ROOT
from stores import generate

pytest_plugins = ["running"]


def drawn(text, path):
    command = [sys.executable, "-m", "tools.screen", "make demo", str(path)]
    return subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True)


def words(path):
    """The title of the picture, and its words from top to bottom."""
    title, lines = "", {}
    for each in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text"):
        if each.get("class").endswith("-title"):
            title = " ".join(each.text.split())  # its spaces do not break
        else:
            lines.setdefault(float(each.get("y")), []).append((float(each.get("x")), each.text))
    parts = (text for _, line in sorted(lines.items()) for _, text in sorted(line))
    return title, " ".join(word for part in parts for word in part.split())


def test_an_answer_is_drawn(store, tmp_path, monkeypatch):
    from running import succeed

    monkeypatch.setenv("COLUMNS", "96")
    generate({"pretrained": {"ls": 3.0}, "random": {"ls": 0.0}}, ["sst2"], range(8), epochs=2, spread=0.1)
    answer = succeed("significance").out
    assert "better" in answer and "equivalent" in answer
    assert drawn(answer, tmp_path / "demo.svg").returncode == 0
    title, shown = words(tmp_path / "demo.svg")
    assert title == "make demo" and shown.replace(" ", "") == "".join(answer.split()), "each word, in its place"
    svg = (tmp_path / "demo.svg").read_text()
    assert "@font-face" not in svg and "<script" not in svg and "<image" not in svg
    links = svg.replace("http://www.w3.org/2000/svg", "").replace("https://www.textualize.io", "")
    assert "://" not in links.replace("http://127.0.0.1:5000/", "")


@pytest.mark.parametrize(("text", "told"), [("", "nothing was printed"), ("x" * 121, "COLUMNS=96")])
def test_what_is_no_picture_is_told_in_a_line(text, told, tmp_path):
    ended = drawn(text, tmp_path / "demo.svg")
    assert ended.returncode == 1 and told in ended.stderr and ended.stderr.count("\n") == 1
    assert not (tmp_path / "demo.svg").exists()
