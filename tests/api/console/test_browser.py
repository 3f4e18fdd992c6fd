"""The console in a real browser."""

import json
import re
import shutil
import socket

import httpx2
import numpy as np
import pytest

from service.auth import Scope, new_key

ASK = "/v1/ensembles/toy"
# Text against what is behind it, by the formula of WCAG 2; what is hidden or disabled is not looked at.
CONTRAST = """() => {
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = numbers(getComputedStyle(one).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((one) => one.nodeType === 3 && one.data.trim());
    if (!own || !element.checkVisibility() || element.disabled || element.tagName === "NOSCRIPT") continue;
    const [one, other] = [light(numbers(getComputedStyle(element).color)), light(behind(element))];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < 4.5) poor.push(`${element.tagName} ${element.textContent.slice(0, 40)} ${contrast}`);
  }
  return poor;
}"""
# What can be used; by what it is known, as some of it is drawn anew every second.
USED = "a, button, select, input, textarea, summary, .scroll, pre"
SHOWN = "(one) => one.checkVisibility() && !one.disabled"
NAME = "(one) => [one.tagName, one.id, one.ariaLabel ?? one.textContent.slice(0, 40)].join()"
# What a screen reader needs: names of what is used, heads of what is a table, words for what is drawn.
NAMELESS = """() => {
  const wrong = [];
  const all = (selector) => [...document.querySelectorAll(selector)];
  const visible = (selector) => all(selector).filter((one) => one.checkVisibility());
  for (const one of visible("input, select, textarea")) if (!one.labels.length) wrong.push(one.outerHTML);
  for (const one of visible("button, a, summary")) if (!one.textContent.trim()) wrong.push(one.outerHTML);
  for (const one of visible("table")) if (!one.caption?.textContent) wrong.push(one.outerHTML);
  for (const one of visible("th")) if (!one.scope) wrong.push(one.outerHTML);
  for (const one of visible("canvas")) if (!one.closest("[role=img][aria-label]")) wrong.push(one.outerHTML);
  for (const one of visible(".scroll")) if (one.tabIndex !== 0 || !one.ariaLabel) wrong.push(one.outerHTML);
  for (const one of visible("[aria-labelledby]"))
    if (!document.getElementById(one.getAttribute("aria-labelledby"))) wrong.push(one.outerHTML);
  const ids = all("[id]").map((one) => one.id);
  return [...wrong, ...ids.filter((id, place) => ids.indexOf(id) !== place)];
}"""


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs Debian's package chromium")
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - only where there is a browser

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, console):
    """Opens the page, by default with a key; at the end nothing may have gone wrong, or elsewhere."""
    contexts, wrong = [], []

    def open_page(*, url=console.url, key=console.key, status=None, away=False, before=None, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        if key:
            page.add_init_script(f"sessionStorage.setItem('soft-targets-key', {json.dumps(key)})")

        def note(message):
            refused = status is not None and re.search(f"status of ({status}) ", message.text)
            gone = away and "net::ERR_" in message.text
            if message.type in {"error", "warning"} and not refused and not gone:
                wrong.append(message.text)

        page.on("console", note)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda one: None if one.url.startswith(url) else wrong.append(one.url))
        if before:
            before(page)
        page.goto(f"{url}/")
        if key:
            page.wait_for_selector("#axioms table")
            page.wait_for_selector("#submit:enabled")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


def asked(console, path, body=None, **query):
    url = f"{console.url}{path}"
    if body is None:
        reply = httpx2.get(url, headers=console.headers, params=query)
    else:
        reply = httpx2.post(url, json=body, headers=console.headers, params=query)
    return reply.raise_for_status().json()


def cells(page, name):
    """A table's cells as texts, the first row being the heads."""
    rows = page.get_by_role("table", name=name).get_by_role("row")
    return [row.locator("th, td").all_inner_texts() for row in rows.all()]


def figures(console, temperature, recipe="default"):
    """What the answer's table has to say, by the API."""
    rows = asked(console, f"{ASK}/samples")["inputs"]["pixels"][:1]
    query = {"recipe": recipe, "temperature": temperature}
    (row,) = asked(console, f"{ASK}/opinions", {"inputs": {"pixels": rows}}, **query)["rows"]
    return [
        [*(one[name] for one in row["softened"].values()), row["target"].get(name)]
        for name in ("ant", "bee", "cat", "dog")
    ]


def answered(page):
    """The same of the page."""
    said = cells(page, "Each teacher and the soft target")[1:]
    numbers = [[cell.split("\n")[0] for cell in row[1:]] for row in said]
    return [
        [None if cell == "\u2013" else float(cell.replace("< .001", "0")) for cell in row] for row in numbers
    ]


def same(shown, known):
    return all(
        one == other or abs(one - other) < 1e-3
        for row, expected in zip(shown, known, strict=True)
        for one, other in zip(row, expected, strict=True)
    )


def test_live_figures_move_after_rows_are_asked(opened, console):
    page = opened()
    page.locator("#state.right").filter(has_text="Live").wait_for()
    for _ in range(2):
        rows = [[float(i)] * 6 for i in range(9)]
        asked(console, f"{ASK}/soft-targets", {"inputs": {"pixels": rows}})
    share = page.get_by_role("figure", name="From the cache").locator("strong")
    share.filter(has_text=re.compile("[0-9] %$")).wait_for()
    latency = page.get_by_role("figure", name="Latency").locator("strong")
    latency.filter(has_text=re.compile("[0-9]")).wait_for()
    page.get_by_text("Live figures as a table").click()
    page.get_by_role("table", name="Live figures, every five seconds").wait_for()
    table = cells(page, "Live figures, every five seconds")
    assert table[0][:2] == ["Time", "Rows a second"]
    assert len(table) > 1
    page.wait_for_selector("#histograms [role=img]")
    histogram = page.get_by_role("img", name="Divergence between the teachers: histogram")
    assert "rows, most of them" in histogram.get_attribute("aria-label")
    agrees = page.locator("#teachers tbody td:last-child").all_inner_texts()
    assert len(agrees) == 3
    assert all(re.fullmatch(r"[0-9.]+ %", one) for one in agrees), agrees
    unsafe = page.locator("#histograms figure", has_text="Unsafe: dog").inner_text()
    said = r"targets is [0-9.]+ %, .* by weight [0-9.]+ %: times [0-9.]+, in the mean of [0-9,]+ rows"
    assert re.search(said, unsafe), unsafe


def test_what_moves_leaves_what_somebody_reads(opened, console):
    page = opened(viewport={"width": 360, "height": 760})
    first = page.locator("#teachers tbody tr").first

    def moves(number):
        """Rows are asked, and they are seen."""
        before = first.locator("td").nth(3).inner_text()
        rows = np.random.default_rng(number).normal(size=(9, 6)).tolist()
        asked(console, f"{ASK}/soft-targets", {"inputs": {"pixels": rows}})
        page.wait_for_function(
            "(before) => document.querySelector('#teachers tbody tr').children[4].textContent !== before",
            arg=before,
        )

    moves(1)
    region = page.get_by_role("region", name="Teachers", exact=True)
    end = region.evaluate("(one) => (one.scrollLeft = one.scrollWidth) && one.scrollLeft")
    assert end > 0
    page.get_by_text("Divergence between the teachers as a table").click()
    page.evaluate("getSelection().selectAllChildren(document.querySelector('#teachers caption'))")
    moves(2)
    assert region.evaluate("(one) => one.scrollLeft") == end
    assert page.evaluate("getSelection().toString()") == "Teachers"
    table = page.get_by_role("table", name="Divergence between the teachers", exact=True)
    rows = "[...document.querySelectorAll('#histograms tbody td:nth-child(2)')].map((one) => one.textContent)"
    assert table.is_visible()
    first.locator("td").last.click()  # which focuses what scrolls
    known = page.evaluate(f"{rows}.join()")
    moves(3)
    page.wait_for_function(f"(known) => {rows}.join() !== known", arg=known)
    assert page.evaluate("document.activeElement.ariaLabel") == "Teachers"


@pytest.mark.parametrize("width", [1408, 1440, 1600])
def test_the_table_of_teachers_is_not_cut(opened, width):
    page = opened(viewport={"width": width, "height": 800})
    region = page.get_by_role("region", name="Teachers", exact=True)
    assert region.evaluate("(one) => one.scrollWidth - one.clientWidth") == 0


# Where each label of a histogram's axis is, in columns, and whether it is clear of the next.
AXIS = """async () => {
  const { histogram } = await import("/console/bars.js");
  const edges = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1, 1.5, 2];
  const drawn = [0, 1].map((last) => histogram("Some", { edges, counts: [...edges.map(() => 1), last] }));
  document.getElementById("histograms").append(...drawn);
  return drawn.map((one) => {
    const bars = [...one.querySelectorAll("[role=img] span")].map((bar) => bar.getBoundingClientRect());
    const labels = [...one.querySelectorAll(".edges span")];
    const boxes = labels.map((label) => label.getBoundingClientRect());
    return {
      bars: bars.length,
      labels: Object.fromEntries(labels.map((label, place) => {
        const middle = (boxes[place].left + boxes[place].right) / 2;
        return [label.textContent, bars.filter((bar) => bar.right - 1 <= middle).length];
      })),
      clear: boxes.every((box, place) => !place || boxes[place - 1].right + 2 < box.left)
        && boxes.at(-1).right <= bars.at(-1).right + 1,
    };
  });
}"""


@pytest.mark.parametrize("width", [360, 1280, 1600])
def test_a_histogram_s_axis_says_where_its_columns_end(opened, width):
    page = opened(viewport={"width": width, "height": 800})
    without, beyond = page.evaluate(AXIS)
    inner = {"0.005": 3, "0.05": 6, "0.3": 9, "0.7": 12}
    assert inner.items() <= without["labels"].items()
    assert inner.items() <= beyond["labels"].items()
    assert set(without["labels"]) - set(inner) == {"0", "2"}
    assert set(beyond["labels"]) - set(inner) == {"0", "above 2"}
    assert (without["bars"], beyond["bars"]) == (15, 16)
    assert without["clear"]
    assert beyond["clear"]


@pytest.mark.parametrize("width", [360, 800, 1100])
def test_nothing_that_is_jumped_to_or_focused_is_behind_the_head(opened, width):
    page = opened(viewport={"width": width, "height": 760}, reduced_motion="reduce")
    focused = "document.activeElement"
    bottom = "document.querySelector('.top').getBoundingClientRect().bottom"
    for name in ("A row", "Certificate", "Ensemble", "Live"):
        page.get_by_role("link", name=name, exact=True).evaluate("(one) => one.click()")
        title = page.get_by_role("heading", name=name, exact=True)
        top = title.evaluate("(one) => one.getBoundingClientRect().top")
        assert page.evaluate(bottom) <= top < 760
    page.get_by_role("button", name="Ask").focus()
    for _ in range(30):
        page.keyboard.press("Shift+Tab")
        top, within = page.evaluate(
            f"[{focused}.getBoundingClientRect().top, !!{focused}.closest('.top, .skip')]"
        )
        if within:
            break
        assert top >= page.evaluate(bottom)
    assert within


def test_what_is_put_at_run_time_and_a_server_that_comes_back_are_seen(opened, configured, start):
    config, reader = configured
    writer, _ = new_key(config.parent / "keys.jsonl", [Scope.RECIPES_WRITE], name="writer")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    copy = config.parent / "again.yaml"
    copy.write_text(config.read_text().replace("port: 0", f"port: {port}"))
    server = start(copy)
    page = opened(url=server.url, key=reader, status=503, away=True)
    page.locator("#state.right").filter(has_text="Live").wait_for()
    page.locator("#given").fill('{"pixels": [1, 2, 3, 4, 5, 6]}')
    httpx2.put(
        f"{server.url}{ASK}/recipes/late",
        json={"operator": "linear", "temperature": 3.0},
        headers={"Authorization": f"Bearer {writer}"},
    ).raise_for_status()
    page.locator("#recipes").get_by_role("rowheader", name="late").wait_for()
    assert page.locator("#given").input_value() == '{"pixels": [1, 2, 3, 4, 5, 6]}'
    server.stop()
    page.locator("#state").filter(has_text=re.compile("connecting again|does not answer|stopping")).wait_for()
    page.get_by_role("button", name="Ask").click()
    page.locator("#said", has_text="The server does not answer").wait_for()
    start(copy)
    page.locator("#state.right").filter(has_text="Live").wait_for(timeout=30_000)
    page.locator("#recipes").get_by_role("rowheader", name="late").wait_for(state="detached")


def test_the_certificate_and_its_witnesses_are_those_of_the_api(opened, console):
    page = opened()
    known = asked(console, f"{ASK}/recipes/default/certificate")
    table = {row[0]: row[1:] for row in cells(page, "Axioms")[1:]}
    for axiom, one in known["axioms"].items():
        level, required, why, cases, _, witness = table[axiom.replace("_", " ")]
        assert (int(level), int(required)) == (one["level"], one["required"])
        assert why == ("proved" if one["proved"] else "searched")
        assert int(cases.replace(",", "")) == one["trials"]
        assert (witness == "none") == (one["witness"] is None)
    witness = known["axioms"]["convexity_preservation"]["witness"]
    drawn = cells(page, "Witness against convexity preservation")
    assert [row[0] for row in drawn] == ["Class", *(f"class {place}" for place in range(len(drawn) - 1))]
    assert [name.split("\n")[0] for name in drawn[0][1:]] == ["Teacher 0", "Teacher 1", "Pool"]
    for k, rows in enumerate(witness["case"]["probabilities"]):
        assert [float(row[1 + k]) for row in drawn[1:]] == pytest.approx(rows[0], abs=1e-3)
    assert [float(row[-1]) for row in drawn[1:]] == pytest.approx(witness["told"]["pool"], abs=1e-3)
    towards = known["axioms"]["weight_monotonicity"]["witness"]["case"]["towards"]
    page.locator("article", has_text=f"towards: teacher {towards[0]};").wait_for()
    assert "unsafe mass" in {row[0] for row in cells(page, "Safety attenuation")}
    page.get_by_label("Show").select_option("plain")
    page.get_by_text("Served with accepted violations").wait_for()
    page.get_by_role("heading", name="weight monotonicity, level 2 required, and broken").wait_for()
    assert page.get_by_role("table", name="Teachers", exact=True).get_by_role("row").count() == 3


def test_a_page_that_is_opened_too_early_comes_to_life(opened):
    asked = []

    def early(route):
        asked.append(route.request.url)
        if len(asked) > 1:
            route.continue_()
        else:
            route.fulfill(status=503, json={"error": "the server is stopping", "code": "draining"})

    page = opened(status=503, before=lambda page: page.route("**/v1/ensembles", early))
    page.locator("#state.right").filter(has_text="Live").wait_for()
    assert len(asked) == 2


def test_the_calls_are_those_that_the_server_describes(opened, console):
    page = opened(reduced_motion="reduce", viewport={"width": 360, "height": 760})
    page.get_by_role("link", name="API").click()
    page.get_by_role("table", name="Calls").wait_for()
    shown = {row[0]: row[1:] for row in cells(page, "Calls")[1:]}
    paths = asked(console, "/openapi.json")["paths"]
    assert set(shown) == {f"{method.upper()} {path}" for path, calls in paths.items() for method in calls}
    assert shown["POST /v1/ensembles/{ensemble}/reload"][1] == "admin"
    assert shown["GET /readyz"][1] == "none"
    assert "Open Inference Protocol" in shown["POST /v2/models/{model}/infer"][0]


def test_what_the_server_says_no_with_stands_where_its_answer_would(opened):
    page = opened(status="429|500")
    page.wait_for_selector("#safety table")
    page.get_by_label("Show").select_option("wide")
    page.locator("#safety [role=alert]", has_text="fails").wait_for()
    assert page.locator("#safety table").count() == 0
    page.locator("#axioms", has_text="2 teachers, 30 classes").wait_for()
    over = {"status": 429, "json": {"error": "over its rate", "code": "quota_exceeded"}}
    page.route("**/certificate", lambda route: route.fulfill(**over))
    page.get_by_label("Show").select_option("plain")
    page.locator("#axioms [role=alert]", has_text="over its rate").wait_for()
    assert page.locator("#axioms table").count() == 0
    assert page.locator("#safety").inner_text() == ""
    assert page.locator("#state").inner_text() == "Live"
    page.unroute("**/certificate")
    page.get_by_label("Show").select_option("toy")
    page.wait_for_selector("#axioms table")
    assert page.locator("[role=alert]").count() == 0
    page.route("**/samples", lambda route: route.fulfill(**over))
    page.get_by_label("Show").select_option("wide")
    page.locator("#said.wrong", has_text="over its rate").wait_for()


def test_a_row_is_answered_as_the_api_answers_it(opened, console):
    page = opened(status=400)
    page.get_by_role("button", name="Ask").click()
    page.get_by_role("table", name="Each teacher and the soft target at T = 4").wait_for()
    assert same(answered(page), figures(console, 4))
    said = page.locator("#said").inner_text()
    assert said.startswith("The soft target at T = 4 is ")
    slider = page.get_by_label("Temperature, by a slider")
    slider.press("Home")
    page.get_by_role("table", name="Each teacher and the soft target at T = 0.1;").wait_for()
    assert same(answered(page), figures(console, 0.1))
    assert slider.get_attribute("aria-valuetext") == "T = 0.1"
    page.locator("#ask-recipe").select_option("sparse")
    page.get_by_role("table", name="Each teacher and the soft target at T = 2;").wait_for()
    assert same(answered(page), figures(console, 2, "sparse"))
    assert sum(row[-1] is None for row in answered(page)) == 2
    page.get_by_label("The row as JSON").fill('{"pixels": [1, 2]}')
    page.get_by_role("button", name="Ask").click()
    page.get_by_text("row 0 has shape [2]").wait_for()
    page.get_by_label("The row as JSON").fill("{")
    page.get_by_role("button", name="Ask").click()
    page.get_by_text("The row is not JSON").wait_for()


def test_of_many_classes_those_that_a_sparse_target_keeps_come_first(opened, console):
    page = opened(status=500)
    page.get_by_label("Show").select_option("wide")
    page.locator("#recipes", has_text="8 largest classes").wait_for()
    page.locator("#given-hint", has_text="[2]").wait_for()
    page.get_by_role("button", name="Ask").click()
    page.get_by_role("table", name="of 30 classes").wait_for()
    body = {"inputs": {"x": [[1, 2]]}}
    (row,) = asked(console, "/v1/ensembles/wide/opinions", body)["rows"]
    kept = sorted(row["target"], key=row["target"].get, reverse=True)
    assert len(kept) == 8
    shown = [row[0] for row in cells(page, "of 30 classes")[1:]]
    assert shown[:8] == kept
    rest = max(max(row["softened"][one][name] for one in ("one", "fails")) for name in set(shown[8:12]))
    left = set(row["softened"]["one"]) - set(shown)
    assert all(row["softened"][one][name] <= rest for one in ("one", "fails") for name in left)
    assert "c29" in shown
    assert len(shown) == 12 + ("c29" not in shown[:12])


def test_recipes_say_what_they_do_besides(opened):
    page = opened()
    page.get_by_role("table", name="Recipes").wait_for()
    also = {row[0]: row[3] for row in cells(page, "Recipes")[1:]}
    assert also == {
        "default": "diagnostics",
        "geometric": "floor 1.0e\u22124",
        "sparse": "the 2 largest classes",
    }


def test_a_row_that_was_edited_is_no_example(opened):
    page = opened()
    page.get_by_label("Example", exact=True).select_option("3")
    page.locator("#given").press("End")
    page.keyboard.type(" ")
    assert (
        page.get_by_label("Example", exact=True).evaluate("(one) => one.selectedOptions[0].text") == "own row"
    )


def test_what_there_is_one_of_is_said_so_and_no_seconds_are_none(opened, console):
    with httpx2.stream("GET", f"{console.url}/v1/events", headers=console.headers) as reply:
        now = next(json.loads(line[5:]) for line in reply.iter_lines() if line.startswith("data:"))
    now["saved"] = {"inferences": 1, "device_seconds": 0}
    now["queued_rows"] = 1
    now["ensembles"]["toy"]["entropy"] = {"edges": [0.5, 1], "counts": [1, 0, 0]}
    event = f"event: look\ndata: {json.dumps(now)}\n\n"
    answer = {"content_type": "text/event-stream", "body": event}
    page = opened(before=lambda page: page.route("**/v1/events", lambda route: route.fulfill(**answer)))
    page.get_by_text("The cache has saved 1 inference.", exact=True).wait_for()
    page.get_by_text("1 row waits").wait_for()
    page.locator("#histograms").get_by_text("1 row", exact=True).wait_for()
    assert page.locator("#tiles figure", has_text="From the cache").locator("canvas").count() == 1


def test_a_key_is_asked_for_and_kept_in_this_tab_only(opened, console):
    page = opened(key=None, status=401)
    dialog = page.get_by_role("dialog", name="This server asks for a key")
    dialog.wait_for()
    field = page.get_by_label("Key with the scope targets:read")
    assert field.get_attribute("type") == "password"
    assert page.locator("#facts").inner_text() == ""  # the page itself holds nothing
    field.fill("st_ключ")
    field.press("Enter")
    page.locator("#key-said", has_text="only ASCII characters").wait_for()
    field.fill("st_wrong")
    field.press("Enter")
    page.locator("#key-said:not(:text('ASCII'))").filter(has_text=re.compile(".")).wait_for()
    dialog.wait_for()
    field.fill(console.key)
    field.press("Enter")
    page.wait_for_selector("#axioms table")
    dialog.wait_for(state="hidden")
    kept = page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]")
    assert kept == [1, 0, ""]
    assert page.context.cookies() == []
    assert console.key not in page.content()
    page.reload()
    page.wait_for_selector("#axioms table")
    other = page.context.new_page()
    other.goto(f"{console.url}/")
    other.get_by_role("dialog").wait_for()


def test_the_keyboard_alone_reaches_everything(opened):
    page = opened()
    wanted = set(page.evaluate(f"[...document.querySelectorAll('{USED}')].filter({SHOWN}).map({NAME})"))
    assert len(wanted) > 20
    reached = set()
    for _ in range(2 * len(wanted)):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            f"[({NAME})(document.activeElement), getComputedStyle(document.activeElement).outlineStyle]"
        )
        assert outline != "none" or name.startswith("BODY"), name
        reached.add(name)
    assert wanted <= reached
    page.get_by_role("button", name="Ask").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#answer table")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_by_everyone(opened, scheme):
    page = opened(color_scheme=scheme, reduced_motion="reduce")
    page.get_by_role("button", name="Ask").click()
    page.wait_for_selector("#answer table")
    page.wait_for_selector("#tiles canvas")
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate(NAMELESS) == []
    assert page.locator("h1").count() == page.get_by_role("main").count() == 1
    assert page.locator("html").get_attribute("lang") == "en"
    # Only what changes when somebody does something is read out.
    assert page.locator("[aria-live], [role=status], [role=alert]").count() == 3
    paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 200) == (scheme == "dark")


@pytest.mark.parametrize("width", [360, 1600])
def test_the_page_never_scrolls_sideways(opened, width):
    page = opened(viewport={"width": width, "height": 800})
    page.get_by_role("button", name="Ask").click()
    page.wait_for_selector("#answer table")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
