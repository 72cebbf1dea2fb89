"""The app as a reader uses it: a real server and headless Chromium."""

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workbench import erf
from workbench.images import open_images, preprocessing_for
from workbench.methods.erf import interactive
from workbench.results import load
from workbench.runner import run
from workbench.weights import create_model

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "samples" / "results"
STORED = ("vim_nano-end.npz", "vim_nano-epoch-0.npz")
PATIENCE = 120_000  # ms; the first map may wait for the scan to compile
sync_api.expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def browser():
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory, browser):
    """The address of a running app without checkpoints, with two stored results."""
    empty, results = tmp_path_factory.mktemp("empty"), tmp_path_factory.mktemp("results")
    for name in STORED:
        shutil.copy(EXAMPLES / "training" / name, results)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "workbench.app.server", "--port", str(port)]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    environment = {**os.environ, "VSSM_WEIGHTS": str(empty), "VSSM_RESULTS": str(results)}
    with log.open("w") as output:
        server = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(f"{address}/_stcore/health", server, log)
            yield address
        finally:
            server.terminate()
            server.wait(60)


def _wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=1) as answer:
                assert answer.read() == b"ok"
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the server did not start:\n{log.read_text()}")


@pytest.fixture
def visit(url, browser):
    """Open a tab at a deep link; after the test no tab may have had an error."""
    tabs, errors = [], []

    def open_tab(query: str, page: str = "", width: int = 1280, pictures: bool = True):
        tab = browser.new_page(viewport={"width": width, "height": 900}, accept_downloads=True)
        tab.set_default_timeout(PATIENCE)
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("console", lambda m: errors.append(m.text) if is_ours(m) else None)
        tab.goto(f"{url}/{page}?{query}")
        pictures = pictures and page not in ("results", "story", "atlas")
        first = photograph(tab) if pictures else heading(tab)
        sync_api.expect(first).to_be_visible(timeout=PATIENCE)
        tabs.append(tab)
        return tab

    yield open_tab
    for tab in tabs:
        tab.close()
    assert errors == []


def is_ours(message) -> bool:
    """An error, but not of Streamlit's look for its server below the address of a page."""
    below = re.search(
        "/(scan-maps|resolution|sensitivity|results|story|atlas)/_stcore/",
        message.location["url"],
    )
    return message.type == "error" and below is None


def heading(tab):
    return tab.get_by_role("heading", level=2)


def photograph(tab):
    return tab.get_by_role("img", name=re.compile(r"\.jpg ")).first


def field(tab):
    return tab.get_by_role("img", name=re.compile("^Receptive field of")).first


def cell(tab, row: int, column: int, grid: str = "4 x 4") -> None:
    """Wait until the page shows the field of this cell, and not what the mouse is over."""
    text = tab.get_by_text(re.compile(rf"Cell {row}, {column} of {grid}\. (Move|Click)")).first
    sync_api.expect(text).to_be_visible(timeout=PATIENCE)


def place_in(tab, row: float, column: float) -> dict:
    box = photograph(tab).bounding_box()
    return {"x": box["width"] * column, "y": box["height"] * row}


def click(tab, row: float, column: float) -> None:
    photograph(tab).click(position=place_in(tab, row, column))
    tab.mouse.move(5, 5)


def test_click_and_arrow_key_change_the_map(visit):
    tab = visit("size=64")
    click(tab, 0.1, 0.9)
    cell(tab, 0, 3)
    first = field(tab).get_attribute("src")
    click(tab, 0.6, 0.3)
    cell(tab, 2, 1)
    assert field(tab).get_attribute("src") != first
    assert re.search(r"position=0\.(59|60)\d+%2C0\.(29|30)\d+", tab.url)
    photograph(tab).press("ArrowUp")
    cell(tab, 1, 1)


def test_the_field_follows_the_mouse(visit):
    """Over either picture, in less than a frame, and a click keeps what is seen."""
    tab = visit("size=64&model=resnet_nano&weights=random&stage=3")
    tab.wait_for_selector(".pair[data-left='0']")
    sync_api.expect(tab.get_by_text("Cell 2, 2 of 4 x 4. Move")).to_be_visible()
    sheet = tab.locator("canvas.map")
    seen = {}
    for row, column in ((0.1, 0.9), (0.6, 0.3)):
        photograph(tab).hover(position=place_in(tab, row, column))
        tab.get_by_text(f"Cell {int(4 * row)}, {int(4 * column)} of 4 x 4.").wait_for()
        seen[row] = sheet.evaluate("(one) => one.toDataURL()")
    assert seen[0.1] != seen[0.6]
    took = photograph(tab).evaluate(
        """(photo) => {
          const box = photo.getBoundingClientRect(), started = performance.now();
          for (let i = 0; i < 100; i++)
            photo.parentElement.dispatchEvent(new PointerEvent("pointermove",
              { clientX: box.left + box.width * i / 100, clientY: box.top + 1, bubbles: true }));
          return (performance.now() - started) / 100;
        }"""
    )
    assert took < 16  # ms
    click(tab, 0.6, 0.3)
    tab.mouse.move(5, 5)
    sync_api.expect(tab.get_by_text("Cell 2, 1 of 4 x 4. Move the mouse, click")).to_be_visible()
    sync_api.expect(sheet).to_be_hidden()
    sync_api.expect(field(tab)).to_be_visible()


@pytest.mark.parametrize("scale", ["power", "linear", "rank", "density"])
def test_what_follows_the_mouse_is_on_the_scale_of_what_a_click_measured(visit, scale):
    tab = visit(f"size=64&model=resnet_nano&weights=random&stage=3&beside=&scale={scale}")
    tab.wait_for_selector(".pair[data-left='0']")
    photograph(tab).hover(position=place_in(tab, 0.6, 0.6))
    tab.get_by_text("Cell 2, 2 of 4 x 4. A click").wait_for()
    apart, bright = tab.locator("canvas.map").first.evaluate(
        """(sheet) => {
          const pixels = (source) => {
            const copy = new OffscreenCanvas(64, 64).getContext("2d");
            copy.drawImage(source, 0, 0);
            return copy.getImageData(0, 0, 64, 64).data;
          };
          const one = pixels(sheet), two = pixels(sheet.parentElement.querySelector("img.map"));
          return [one.reduce((sum, x, i) => sum + Math.abs(x - two[i]), 0) / one.length,
            two.reduce((sum, x) => sum + x, 0) / two.length];
        }"""
    )
    assert apart < 1.5 < bright - 64  # of 255; a quarter of all bytes are opacity


def drop(tab, name: str, content: bytes) -> None:
    moved = tab.evaluate_handle(
        """([name, values]) => {
          const moved = new DataTransfer();
          moved.items.add(new File([Uint8Array.from(values)], name));
          return moved;
        }""",
        [name, list(content)],
    )
    photograph(tab).dispatch_event("drop", {"dataTransfer": moved})


def test_a_picture_that_is_dropped_on_the_photograph_takes_its_place(visit):
    tab = visit("size=64&model=resnet_nano&weights=random&beside=")
    first = field(tab).get_attribute("src")
    drop(tab, "notes.jpg", b"no picture")
    tab.get_by_text(re.compile("notes.jpg.*Choose another file")).wait_for()
    tab.go_back()
    sync_api.expect(photograph(tab)).to_be_visible()
    sync_api.expect(field(tab)).to_have_attribute("src", first)
    picture = io.BytesIO()
    Image.new("RGB", (90, 70), (200, 40, 40)).save(picture, "JPEG")
    drop(tab, "mine.jpg", picture.getvalue())
    tab.get_by_text("Dropped: mine.jpg").wait_for()
    tab.get_by_role("img", name=re.compile("^mine.jpg with")).wait_for()
    sync_api.expect(field(tab)).not_to_have_attribute("src", first)


def test_a_thumbnail_chooses_its_picture(visit):
    tab = visit("size=64&model=resnet_nano&weights=random&beside=&image=tench.jpg")
    pictures = tab.get_by_role("radiogroup", name="Pictures")
    sync_api.expect(pictures.get_by_role("radio", name="tench.jpg")).to_be_checked()
    tab.wait_for_function(
        """() => [...document.querySelectorAll("*")].flatMap((one) =>
          [...(one.shadowRoot ?? one).querySelectorAll(".pictures img")])
          .slice(0, 5).every((one) => one.naturalWidth === 64)"""
    )
    pictures.get_by_role("radio", name="chelsea.jpg").check()
    tab.get_by_role("img", name=re.compile("^chelsea.jpg with")).wait_for()
    assert "image=chelsea.jpg" in tab.url
    sync_api.expect(tab.get_by_role("combobox", name="Image")).to_have_value("chelsea.jpg")
    tab.go_back()
    sync_api.expect(pictures.get_by_role("radio", name="tench.jpg")).to_be_checked()


def test_back_undoes_what_was_chosen(visit):
    tab = visit("size=64&model=resnet_nano&weights=random&beside=&stage=2")
    cell(tab, 4, 4, "8 x 8")
    tab.get_by_role("radio", name="3", exact=True).click()
    cell(tab, 2, 2)
    click(tab, 0.1, 0.9)
    cell(tab, 0, 3)
    tab.go_back()
    cell(tab, 2, 2)
    tab.go_back()
    cell(tab, 4, 4, "8 x 8")
    assert "stage=2" in tab.url and "position" not in tab.url


def test_a_page_of_its_own_needs_no_server(browser, tmp_path):
    model = create_model("resnet_nano", "random")
    config = erf.Config(stage=3, resamples=10)
    facts = {"model": "resnet_nano", "weights": "random", "weights_label": "random", "licence": ""}
    images, size = open_images("samples", 1), preprocessing_for(model, 64)
    result = run(erf, model, images, config, preprocessing=size, facts=facts)
    file = tmp_path / "page.html"
    file.write_text(interactive.page([result, result], [interactive.offered(result, model)] * 2))
    assert file.stat().st_size < 5e6
    tab, errors = browser.new_page(), []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(file.as_uri())
    tab.wait_for_selector(".pair[data-left='0']")
    photos = tab.locator("img.photo")
    box = photos.first.bounding_box()
    photos.first.hover(position={"x": 0.9 * box["width"], "y": 0.1 * box["height"]})
    for i in (0, 1):  # both panels follow
        sync_api.expect(tab.locator("#panel-0, #panel-1").nth(i)).to_contain_text(
            "Cell 0, 3 of 4 x 4"
        )
    photos.first.click(position={"x": 0.1 * box["width"], "y": 0.9 * box["height"]})
    tab.mouse.move(1, 1)
    sync_api.expect(tab.locator("#panel-1")).to_contain_text("Cell 3, 0 of 4 x 4")
    assert errors == []
    tab.close()


def test_pages_that_measure_nothing_ask_for_nothing_and_keep_what_was_chosen(visit):
    tab = visit("size=64&model=resnet_nano&weights=random&seed=3&beside=")
    for menu, title, asked in (("Stored", "Results", 0), ("What it sees", "Effective", 1)):
        tab.get_by_text(menu, exact=True).first.click()
        tab.get_by_text(title).last.click()
        sync_api.expect(heading(tab)).to_contain_text(title)
        sync_api.expect(tab.get_by_text("Input size in pixels")).to_have_count(asked)
    sync_api.expect(tab.get_by_text("random weights (seed 3)").first).to_be_visible()
    sync_api.expect(tab).to_have_url(re.compile("model=resnet_nano.*seed=3"))


def test_deep_link_opens_what_was_shared(visit):
    tab = visit("size=64&model=vim_nano&image=coffee.jpg&stage=2&position=0.1,0.6")
    cell(tab, 0, 4, "8 x 8")
    sync_api.expect(tab.get_by_role("combobox", name="Model").first).to_have_value("vim_nano")
    sync_api.expect(tab.get_by_text("stage 2, 64 px").first).to_be_visible()
    tab.get_by_role("button", name="Export").first.click()
    sync_api.expect(link := tab.get_by_text(re.compile("^http.*position="))).to_be_visible()
    again = visit(link.inner_text().partition("?")[2])
    cell(again, 0, 4, "8 x 8")
    sync_api.expect(again.get_by_text("stage 2, 64 px").first).to_be_visible()


def test_bad_deep_link_falls_back(visit):
    tab = visit("size=65&model=nonsense&stage=7&position=here")
    sync_api.expect(tab.get_by_role("combobox", name="Model").first).to_have_value("vmamba_nano")
    tab.wait_for_function("!location.search.includes('nonsense')")


def test_two_tabs_keep_their_own_places(visit):
    one, two = visit("size=64"), visit("size=64")
    click(one, 0.1, 0.1)
    click(two, 0.9, 0.9)
    cell(one, 0, 0)
    cell(two, 3, 3)
    assert field(one).get_attribute("src") != field(two).get_attribute("src")


def export(tab, name: str):
    """Click on a file of the export menu; gives the download."""
    tab.get_by_role("button", name="Export").first.click()
    with tab.expect_download() as found:
        tab.get_by_role("button", name=name).click()
    tab.keyboard.press("Escape")
    sync_api.expect(tab.get_by_role("button", name=name)).to_be_hidden()
    return found.value


def test_downloads_are_files_that_open(visit, tmp_path):
    tab = visit("size=64&position=0.5,0.5")
    cell(tab, 2, 2)
    export(tab, "Data (NPZ)").save_as(tmp_path / "erf.npz")
    with np.load(tmp_path / "erf.npz") as arrays:
        assert arrays["map"].shape == (64, 64)
        assert arrays["map"].sum() == pytest.approx(1)
    export(tab, "Figure (PDF)").save_as(tmp_path / "erf.pdf")
    assert (tmp_path / "erf.pdf").read_bytes().startswith(b"%PDF")
    export(tab, "Fields under the mouse (HTML)").save_as(tmp_path / "fields.html")
    assert (tmp_path / "fields.html").read_text().count('class="host"') == 1


def test_scan_maps_follow_the_click_and_the_layer(visit):
    tab = visit("size=64&layer=2", "scan-maps")
    cell(tab, 4, 4, "8 x 8")
    map_ = tab.get_by_role("img", name=re.compile("^what reaches the query, sum")).first
    first = map_.get_attribute("src")
    click(tab, 0.1, 0.9)
    cell(tab, 0, 7, "8 x 8")
    assert map_.get_attribute("src") != first
    for direction in ("row", "column", "row-reversed", "column-reversed"):
        name = f"what reaches the query through {direction}"
        sync_api.expect(tab.get_by_role("img", name=name, exact=True)).to_be_visible()
        walk = tab.get_by_role("img", name=f"Scan order of {direction}", exact=True)
        sync_api.expect(walk).to_be_visible()
    sync_api.expect(
        tab.get_by_role("img", name="Matrix of column-reversed in image order")
    ).to_be_visible()


COUNT_SENT = """() => {
  const send = WebSocket.prototype.send;
  window.sent = 0;
  WebSocket.prototype.send = function (...given) { window.sent++; return send.apply(this, given); };
}"""


def test_the_bar_moves_the_scan_and_its_maps_follow_the_mouse_without_the_server(visit):
    tab = visit("size=64&layer=2", "scan-maps")
    tab.wait_for_selector(".pair[data-left='0']")
    tab.evaluate(COUNT_SENT)
    sheets, seen = tab.locator("canvas.map"), []
    for row, column in ((0.1, 0.9), (0.6, 0.3)):
        photograph(tab).hover(position=place_in(tab, row, column))
        tab.get_by_text(f"Cell {int(8 * row)}, {int(8 * column)} of 8 x 8.").wait_for()
        seen.append(sheets.evaluate_all("(all) => all.map((one) => one.toDataURL())"))
    assert len(seen[0]) == 5 and all(a != b for a, b in zip(*seen, strict=True))
    bar = tab.get_by_role("slider", name="Step of the scan")
    walk = tab.get_by_role("img", name="Scan order of column-reversed", exact=True)
    bar.press("Home")
    sync_api.expect(tab.get_by_text("step 1 of 64")).to_be_visible()
    sync_api.expect(tab.get_by_role("button", name="Play")).to_be_visible()
    first = walk.evaluate("(one) => one.toDataURL()")
    bar.press("ArrowRight")
    sync_api.expect(tab.get_by_text("step 2 of 64")).to_be_visible()
    assert walk.evaluate("(one) => one.toDataURL()") != first
    assert tab.evaluate("window.sent") == 0
    under_the_mouse = pixels(sheets.first)
    click(tab, 0.6, 0.3)
    cell(tab, 4, 2, "8 x 8")
    assert tab.evaluate("window.sent") > 0
    sync_api.expect(tab.get_by_text("step 2 of 64")).to_be_visible()
    sync_api.expect(sheets.first).to_be_hidden()
    assert pixels(tab.locator("img.map").first) == under_the_mouse


def pixels(picture) -> list[int]:
    """Of a picture or a canvas of 8 x 8 cells."""
    return picture.evaluate(
        """(one) => {
          const context = new OffscreenCanvas(8, 8).getContext("2d");
          context.drawImage(one, 0, 0);
          return [...context.getImageData(0, 0, 8, 8).data];
        }"""
    )


def test_a_point_of_the_atlas_opens_its_map(visit):
    tab = visit("size=64&model=vmamba_nano&atlas-images=this picture&atlas-layer=2", "atlas")
    tab.get_by_role("button", name="Measure", exact=True).click()
    told = tab.get_by_text(re.compile(r"^layers\.1\..*what the cell in row")).first
    sync_api.expect(told).to_be_visible()
    map_ = tab.get_by_role("img", name=re.compile("^Map of layers")).first
    before = map_.get_attribute("src"), told.inner_text()
    tab.locator("[data-testid=stVegaLiteChart] path[aria-roledescription=point]").nth(20).click()
    sync_api.expect(told).not_to_have_text(before[1])
    assert map_.get_attribute("src") != before[0]


def test_resolution_measures_point_by_point_and_keeps_them(visit, tmp_path):
    tab = visit(
        "model=resnet_nano&sizes-128=64&sizes-128=128&data=samples&number=Divergence",
        "resolution",
    )
    picture = tab.get_by_role("img", name="springer_spaniel.jpg at 64 px")
    sync_api.expect(picture).to_be_visible()
    tab.get_by_role("button", name="Measure").click()
    field = tab.get_by_role("img", name="Receptive field of resnet_nano at 128 px")
    sync_api.expect(field).to_be_visible(timeout=PATIENCE)
    sync_api.expect(tab.get_by_role("button", name="Measure")).to_be_disabled(timeout=PATIENCE)
    name = "Divergence (nats) against image size, of resnet_nano"
    chart = tab.get_by_label(name, exact=True)
    sync_api.expect(chart).to_be_visible()
    export(tab, "Data (NPZ)").save_as(tmp_path / "resolution.npz")
    with np.load(tmp_path / "resolution.npz") as arrays:
        assert arrays["sizes"].tolist() == [64, 128]
    tab.get_by_text("constant", exact=True).click()
    sync_api.expect(chart).to_be_hidden(timeout=PATIENCE)
    tab.get_by_text("grows", exact=True).click()
    sync_api.expect(chart).to_be_visible(timeout=PATIENCE)
    assert "number=Divergence" in tab.url


def test_sensitivity_attacks_as_the_slider_moves(visit):
    tab = visit("model=mambavision_nano&size=64&image=chelsea.jpg", "sensitivity")
    twin = tab.get_by_role("img", name="chelsea.jpg after the attack")
    sync_api.expect(twin).to_be_visible()
    before = twin.get_attribute("src")
    chart = tab.get_by_label("Margins of mambavision_nano with tensors put back", exact=True)
    sync_api.expect(chart).to_be_visible()
    tab.get_by_role("slider", name="Attack, in 1/255 of every pixel").press("ArrowRight")
    sync_api.expect(tab.get_by_text("--patching-eps-255 1.25")).to_be_visible(timeout=PATIENCE)
    assert twin.get_attribute("src") != before
    assert "eps=1.25" in tab.url


def test_sensitivity_stops_and_goes_on(visit):
    tab = visit("model=vmamba_nano&size=256&steps=50&eps=0", "sensitivity", pictures=False)
    tab.get_by_role("slider", name="Attack, in 1/255 of every pixel").press("ArrowRight")
    page = tab.locator(".stMainBlockContainer")  # the header has a button of its own
    page.get_by_role("button", name="Stop").click()
    go_on = tab.get_by_role("button", name="Go on")
    sync_api.expect(go_on).to_be_visible()
    sync_api.expect(tab.get_by_text("Stopped.")).to_be_visible()
    go_on.click()
    sync_api.expect(page.get_by_role("button", name="Stop")).to_be_visible()


def figure(tab, name: str):
    return tab.get_by_role("img", name=f"Figure erf of {name}", exact=True)


def test_results_opens_stored_and_dropped_files(visit, tmp_path):
    tab = visit("result=vim_nano-end.npz", "results")
    sync_api.expect(figure(tab, "vim_nano, end of training")).to_be_visible()
    box = tab.get_by_test_id("stDataFrameResizable").bounding_box()
    tab.mouse.click(box["x"] + 18, box["y"] + 2.5 * 35)  # the second row
    both = "vim_nano, end of training, vim_nano, epoch 0"
    sync_api.expect(figure(tab, both)).to_be_visible()
    assert tab.url.count("result=") == 2
    export(tab, "Figure (PNG)").save_as(tmp_path / "erf.png")
    with Image.open(tmp_path / "erf.png") as opened:
        assert opened.format == "PNG" and opened.width > 500
    export(tab, "Data of vim_nano, epoch 0 (NPZ)").save_as(tmp_path / "erf.npz")
    given, stored = load(tmp_path / "erf.npz"), load(EXAMPLES / "training" / STORED[1])
    assert given.meta == stored.meta and given.map.tobytes() == stored.map.tobytes()

    tab.goto(tab.url.partition("?")[0])  # nothing chosen
    good = (EXAMPLES / "training" / "vmamba_nano-end.npz").read_bytes()
    tab.locator("input[type=file]").set_input_files(
        [
            {"name": "mine.npz", "mimeType": "application/zip", "buffer": good},
            {"name": "cut.npz", "mimeType": "application/zip", "buffer": good[:999]},
        ]
    )
    sync_api.expect(figure(tab, "vmamba_nano, end of training")).to_be_visible()
    sync_api.expect(tab.get_by_text("cut.npz is not a readable result file")).to_be_visible()


def test_the_story_plays_and_leads_to_the_page_that_makes_a_step(visit, tmp_path):
    tab = visit("", "story")
    for number in range(1, 7):
        step = tab.get_by_role("heading", name=re.compile(rf"^{number}\. "))
        step.scroll_into_view_if_needed()
        sync_api.expect(step).to_be_visible()
    names = [load(EXAMPLES / "training" / name).meta["facts"]["weights_label"] for name in STORED]
    last, first = (
        [
            tab.get_by_role("img", name=f"{model}_nano, {name}", exact=True)
            for model in ("vim", "vmamba", "mambavision")
        ]
        for name in names
    )
    for shown in first:
        sync_api.expect(shown).to_be_visible()
    tab.get_by_role("button", name="Play").nth(3).click()
    sync_api.expect(first[0]).to_be_hidden()  # it moved on, and ends
    for shown in last:
        sync_api.expect(shown).to_be_visible()
    scrub = tab.get_by_role("slider", name="Frame").nth(3)
    scrub.press("Home")
    sync_api.expect(first[0]).to_be_visible()
    scrub.press("End")
    sync_api.expect(tab.locator("output").nth(3)).to_have_text(names[0])
    with tab.expect_download() as found:
        tab.get_by_role("button", name="Animation (GIF)").click()
    found.value.save_as(tmp_path / "training.gif")
    with Image.open(tmp_path / "training.gif") as opened:
        assert opened.n_frames == 5
    with tab.expect_popup() as opened:
        tab.locator("a[href*=vim_nano]", has_text="Make it here").nth(1).click()
    made = opened.value
    sync_api.expect(heading(made)).to_have_text("Effective receptive field")
    sync_api.expect(made.get_by_role("combobox", name="Model").first).to_have_value("vim_nano")
    sync_api.expect(field(made)).to_be_visible()
    made.close()


@pytest.mark.parametrize("page", ["", "scan-maps", "resolution", "sensitivity", "results", "story"])
def test_a_narrow_screen_shows_everything_and_every_picture_says_what_it_is(visit, page):
    query = "size=64&position=0.5,0.5&sizes-64=64&result=vim_nano-end.npz"
    tab = visit(query, page, width=390)
    sync_api.expect(heading(tab)).to_be_visible()
    tab.wait_for_function("!document.querySelector('[data-testid=stStatusWidget]')")
    inside = tab.evaluate(
        "[...document.querySelectorAll('.stMain')].every((e) => e.scrollWidth <= e.clientWidth)"
    )
    assert inside
    nameless = "[...document.querySelectorAll('.stMain img')].filter((e) => !e.hidden && !e.alt)"
    assert tab.evaluate(f"{nameless}.map((e) => e.src.slice(0, 80))") == []
