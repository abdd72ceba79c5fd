"""The page in a browser: headless Chromium presses its buttons."""

import contextlib
import io
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tests.terminal.test_cli import assert_mistake

root = tiny.root
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WAIT = 120_000
"""Milliseconds; the machine may be busy."""

pytestmark = [
    pytest.mark.slow,  # starts a browser and a server, which compiles
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (apt-get install chromium)"),
]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def served(root, workdir):
    port = free_port()
    command = [sys.executable, "-m", "experiments.play", "--workdir", workdir, "--port", str(port)]
    own = {"XLA_FLAGS": tiny.QUICK, "GRADIO_TEMP_DIR": str(root / "gradio")}
    process = subprocess.Popen(
        command, cwd=tiny.REPOSITORY, env=tiny.environment(root) | own, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        assert f"http://127.0.0.1:{port}" in line, process.communicate()
        address = f"http://127.0.0.1:{port}/"
        end = time.monotonic() + 60
        while True:  # a refused connection is told at once
            try:
                urllib.request.urlopen(address, timeout=10).close()
                break
            except urllib.error.URLError:
                assert time.monotonic() < end, f"nothing answers at {address}"
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "Traceback" not in err


@pytest.fixture(scope="module")
def address(root):
    with served(root, tiny.trained(root)[0]) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address):
    """``open_page(query) -> page``; nothing but the server may be asked for anything."""
    asked, contexts = [], []

    def opened(query="", where=address):
        context = browser.new_context(viewport={"width": 1200, "height": 1100})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(where + query)
        page.wait_for_selector("#draw")
        page.wait_for_function("document.querySelector('#link a') !== null")
        return page

    yield opened
    for context in contexts:
        context.close()
    kept = ("http://127.0.0.1:", "http://localhost:", "data:", "blob:")
    assert [url for url in asked if not url.startswith(kept)] == []


def pixels(page, name):
    """The picture in a part of the page."""
    source = page.locator(f"#{name} img").first.get_attribute("src")
    with Image.open(io.BytesIO(page.request.get(source).body())) as image:
        return np.asarray(image.convert("RGB"))


def press(page, button, shown):
    """Presses a button, waits until all is drawn, and returns the picture."""
    page.click(f"#{button}")
    page.wait_for_selector(f"#{shown} img")
    page.wait_for_function(
        "() => !document.querySelector('.generating, .pending, .translucent, .progress-text')"
    )
    page.wait_for_timeout(300)
    return pixels(page, shown)


def fill(page, name, value):
    box = page.locator(f"#{name} input[type=number]")
    box.fill(str(value))
    box.press("Tab")
    page.wait_for_function(
        "([name, value]) => document.querySelector('#link a').href.includes(`${name}=${value}`)",
        arg=[name, str(value)],
    )


def test_it_draws_what_the_command_draws_and_another_picture_for_other_steps(
    open_page, root, tmp_path
):
    page = open_page("?num=4&seed=3&steps=6")
    first = press(page, "draw", "shown")
    (command,) = re.findall(r"python -m .*png", page.locator("#command").inner_text())
    words = command.split()[3:-1]
    assert tiny.command("sample", *words, tmp_path / "a.png").code == 0
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(first, np.asarray(image))
    fill(page, "steps", 3)
    second = press(page, "draw", "shown")
    assert first.shape == second.shape
    assert (first != second).any()


def test_the_slider_shows_moments_on_the_way(open_page):
    page = open_page("?num=1&steps=8")
    last = press(page, "draw", "shown")
    page.wait_for_selector("#moment input[type=range][max='8']")
    before = page.locator("#shown img").first.get_attribute("src")
    page.locator("#moment input[type=range]").fill("0")
    page.wait_for_function(
        "before => document.querySelector('#shown img').src !== before", arg=before
    )
    first = pixels(page, "shown")
    assert first.shape == last.shape
    assert (first != last).any()


def test_a_link_opens_with_its_settings_and_one_that_is_none_with_a_warning(open_page):
    page = open_page("?seed=41&steps=7&eta=0.5")
    assert page.locator("#seed input").input_value() == "41"
    fill(page, "steps", 9)
    link = page.locator("#link a").get_attribute("href")
    again = open_page(link[link.index("?") :])
    assert again.locator("#steps input[type=number]").input_value() == "9"
    wrong = open_page("?steps=many")
    wrong.get_by_text("expected a whole number, got 'many'").first.wait_for()
    assert wrong.locator("#steps input[type=number]").input_value() == "50"


def test_an_uploaded_picture_is_encoded_decoded_and_drawn_over(open_page, tmp_path):
    page = open_page("?steps=5")
    page.get_by_role("tab", name="Your picture").click()
    picture = tmp_path / "car.png"
    Image.new("RGB", (40, 30), (200, 40, 40)).save(picture)
    page.set_input_files("#upload input[type=file]", picture)
    page.wait_for_selector("#paint canvas")
    press(page, "back", "pair")
    assert re.search(r"off by 0\.\d{4}", page.locator("#told").inner_text())
    page.wait_for_timeout(1000)
    box = page.locator("#paint canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 40, y)
    page.mouse.down()
    page.mouse.move(x + 40, y, steps=10)
    page.mouse.up()
    page.wait_for_timeout(1000)
    found = press(page, "anew", "filled")
    colours = found.reshape(-1, 3)
    assert (colours == (200, 40, 40)).all(1).mean() > 0.2
    assert (colours != (200, 40, 40)).any(1).mean() > 0.05


@pytest.mark.parametrize("content", [b"GIF89a" + bytes(50), b"<svg onload='x()'/>"], ids=str)
def test_a_file_that_is_no_picture_gives_a_message(open_page, tmp_path, content):
    page = open_page()
    page.get_by_role("tab", name="Your picture").click()
    (tmp_path / "a.png").write_bytes(content)
    page.set_input_files("#upload input[type=file]", tmp_path / "a.png")
    page.get_by_text("cannot be read as a picture").first.wait_for()
    page.click("#back")
    page.get_by_text("upload a picture first").first.wait_for()


def test_the_file_of_a_picture_is_written_once(open_page, root):
    def files():
        return {
            (path, path.stat().st_ino, path.stat().st_mtime_ns)
            for path in (root / "gradio").rglob("*.png")
        }

    first = press(open_page("?num=2&steps=3"), "draw", "shown")
    before = files()
    assert before
    second = press(open_page("?num=2&steps=3"), "draw", "shown")
    np.testing.assert_array_equal(first, second)
    assert files() == before


def test_two_people_at_once_both_get_their_pictures(open_page):
    pages = [open_page(f"?num=1&steps=40&seed={seed}") for seed in (1, 2)]
    for page in pages:
        page.click("#draw")
    found = [press(page, "draw", "shown") for page in pages]
    alone = [press(page, "draw", "shown") for page in pages]
    for one, other in zip(found, alone, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (found[0] != found[1]).any()


def test_from_one_seed_to_another(open_page):
    page = open_page("?steps=4")
    page.get_by_role("tab", name="Between two seeds").click()
    assert press(page, "across", "row").shape[1] > 6 * 96


def test_no_file_of_the_machine_can_be_read(address, root):
    secret = Path(root) / "secret.txt"
    secret.write_text("nobody may read this")
    for path in (secret, "/etc/passwd", tiny.REPOSITORY / "README.md"):
        for name in (f"gradio_api/file={path}", f"file={path}", f"static/{path}", f"../{path}"):
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(address + name, timeout=30)
            error.value.close()
            assert error.value.code in (403, 404, 405)


def test_an_upload_that_is_too_large_is_refused(address):
    boundary = "b" * 20
    body = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
    body = body.encode() + bytes(21 << 20) + f"\r\n--{boundary}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    request = urllib.request.Request(address + "gradio_api/upload", body, kind)
    with pytest.raises((urllib.error.HTTPError, urllib.error.URLError)) as error:
        urllib.request.urlopen(request, timeout=60)
    if isinstance(error.value, urllib.error.HTTPError):  # else the connection was closed
        error.value.close()
        assert error.value.code == 413


def test_it_listens_on_this_machine_alone(address):
    port = int(address.rsplit(":")[-1].strip("/"))
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [where for _, where, _, state, *_ in lines if state == "0A"]
    assert [one for one in listening if int(one.partition(":")[2], 16) == port] == [
        f"0100007F:{port:04X}"
    ]


def test_mistakes_are_told_in_one_line(root, tmp_path, address):
    workdir = tiny.trained(root)[0]
    port = address.rsplit(":")[-1].strip("/")
    for flags, words in (
        (["--workdir", tmp_path], "holds no run"),
        (["--workdir", workdir, "--port", 0], "--port must lie in 1..65535, got 0"),
        (["--workdir", workdir, "--port", port], f"--port {port} (Address already in use)"),
        (["--workdir", workdir, "--host", "no such host"], "--host no such host"),
    ):
        assert_mistake(tiny.command("play", *flags), words)


def test_without_gradio_the_message_says_what_to_install(root):
    code = "import runpy, sys; sys.modules['gradio'] = None; sys.argv = sys.argv[1:]; "
    code += "runpy.run_module('experiments.play', run_name='__main__')"
    command = [sys.executable, "-c", code, "play", "--workdir", tiny.trained(root)[0]]
    done = subprocess.run(command, cwd=tiny.REPOSITORY, capture_output=True, text=True)
    assert_mistake(
        tiny.Finished(done.returncode, done.stdout, done.stderr), "requirements-play.txt"
    )
