"""What the metrics say of requests, rows, batches, teachers and the cache."""

import numpy as np
import pytest
from observed import CONFIG, PATH, Observed
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from service.engine.ensemble import Overrides
from service.telemetry import Metrics
from service.telemetry.distribution import Distribution
from service.telemetry.figures import Family, exposition, lasting, merged, snapshot, taken

SMALL = "limits: {max_body_bytes: 10}\n" + CONFIG


async def test_rows_are_counted_by_where_they_came_from(observe, rows):
    toy = observe()
    await toy.ask(rows[:10], close=False)
    await toy.ask(rows[:12])
    assert toy.value("rows_total", ensemble="toy", source="miss") == 12
    assert toy.value("rows_total", ensemble="toy", source="hit") == 10
    assert toy.value("inferences_total", ensemble="toy") == 12
    assert toy.value("cache_lookups_total", tier="memory", outcome="hit") == 10
    assert toy.value("cache_lookups_total", tier="memory", outcome="miss") == 12
    assert toy.histogram("cache_lookup_duration_seconds")["count"] == 2


async def test_rows_that_fail_are_rows_too(observe, rows):
    toy = observe()
    rows[3, 1] = np.nan
    assert sorted(await toy.ask(rows)) == ["error"] + ["miss"] * 19
    assert toy.value("rows_total", ensemble="toy", source="error") == 1


async def test_batches_are_timed_and_their_rows_counted(observe, rows):
    toy = observe()
    await toy.ask(rows)
    sizes = toy.histogram("batch_rows", ensemble="toy")
    assert (sizes["sum"], sizes["count"]) == (20, 3)
    assert dict(sizes["buckets"])["8.0"] == 2
    waits = toy.histogram("queue_wait_seconds", ensemble="toy")
    assert waits["count"] == 3
    for teacher in ("one", "two"):
        asked = toy.histogram("inference_duration_seconds", ensemble="toy", teacher=teacher)
        assert asked["count"] == 3
        assert asked["sum"] > 0
    assert toy.histogram("fusion_duration_seconds", ensemble="toy", operator="linear")["count"] == 3


async def test_the_cache_saves_what_a_row_has_taken(observe, rows):
    toy = observe()
    await toy.ask(rows, close=False)
    assert toy.value("saved_inferences_total", ensemble="toy") == 0
    await toy.ask(rows)
    assert toy.value("saved_inferences_total", ensemble="toy") == 20
    took = sum(one["sum"] for one in toy.figures()["inference_duration_seconds"])
    tried = 8 * toy.engine.ensemble("toy").plans.row_s  # a batch at start
    expected = 20 * (tried + took) / (8 + 20)
    assert toy.value("saved_device_seconds_total", ensemble="toy") == pytest.approx(expected)


async def test_what_was_kept_before_the_server_began_is_in_the_bill_too(observe, rows, tmp_path):
    text = f"cache: {{url: 'lmdb://{tmp_path}/kept?max_bytes=16MiB'}}\n{CONFIG}"
    assert await observe(text).ask(rows) == ["miss"] * 20
    again = observe(text)
    assert await again.ask(rows) == ["hit"] * 20
    row_s = again.engine.ensemble("toy").plans.row_s
    assert row_s > 0
    assert again.value("inferences_total", ensemble="toy") == 0
    assert again.value("saved_device_seconds_total", ensemble="toy") == pytest.approx(20 * row_s)


def test_what_has_not_happened_yet_is_nought(observe):
    toy = observe()
    with toy.client() as client:
        client.get("/metrics")  # the first one already says so
    for name in ("teacher_errors_total", "teacher_invalid_rows_total"):
        assert toy.value(name, ensemble="toy", teacher="one") == 0
    assert toy.value("rejected_requests_total", reason="queue_full") == 0


async def test_a_teacher_that_alone_decides_agrees_with_the_pool(observe, rows):
    toy = observe()
    await toy.ask(rows[:6], weights={"one": 1.0})
    assert toy.value("teacher_compared_rows_total", ensemble="toy", teacher="one") == 6
    assert toy.value("teacher_agreeing_rows_total", ensemble="toy", teacher="one") == 6
    assert toy.value("teacher_compared_rows_total", ensemble="toy", teacher="two") == 0


async def test_entropy_and_divergence_of_some_rows_of_a_batch(observe, rows):
    toy = observe()
    await toy.ask(rows[:8], close=False)
    entropy = toy.histogram("target_entropy_ratio", ensemble="toy")
    assert entropy["count"] == 8
    assert 0 < entropy["sum"] < 8
    told = []
    effective = toy.engine.ensemble("toy").effective("told", Overrides())
    async for group in toy.engine.answer(toy.engine.ensemble("toy"), effective, {"x": rows[:8]}):
        told += [effective.layout.unpack(value) for value in group.values]
    await toy.engine.close()
    divergence = toy.histogram("teacher_divergence_nats", ensemble="toy")
    assert divergence["count"] == 16
    assert divergence["sum"] == pytest.approx(2 * sum(float(one["divergence"][0]) for one in told), rel=1e-4)
    assert entropy["sum"] == pytest.approx(
        sum(float(one["entropy"][0]) for one in told) / np.log(3), rel=1e-4
    )


async def test_looking_into_samples_takes_a_small_part_of_the_time(observe, rows, monkeypatch):
    toy = observe()
    monkeypatch.setattr("service.engine.measuring.LOOKING", 1e-9)
    await toy.ask(rows[:4], close=False)
    await toy.ask(rows[4:8])
    assert toy.histogram("target_entropy_ratio", ensemble="toy")["count"] == 4
    assert toy.histogram("batch_rows", ensemble="toy")["count"] == 2


async def test_what_is_unsafe_is_watched_in_targets_and_in_what_was_fused(observe, rows):
    toy = observe(
        CONFIG.replace("classes: [a, b, c]\n", "classes: [a, b, c]\n    unsafe_classes: [b, c]\n", 1)
    )
    ensemble = toy.engine.ensemble("toy")
    effective = ensemble.effective("default", Overrides())
    targets = []
    async for group in toy.engine.answer(ensemble, effective, {"x": rows[:8]}):
        targets += [effective.layout.unpack(value)["log_probs"] for value in group.values]
    await toy.engine.close()
    unsafe = float(np.exp(np.array(targets))[..., 1:].sum())
    for of in ("target", "teachers"):  # the linear pool is its teachers' mixture
        told = toy.histogram("unsafe_probability", ensemble="toy", of=of)
        assert (told["count"], told["sum"]) == (8, pytest.approx(unsafe, rel=1e-4))


async def test_teachers_that_fail_are_counted_by_name(observe, rows):
    text = CONFIG.replace("classes: [a, b, c]", "classes: [a, b, c]\n    quorum: 1")
    toy = observe(text.replace("seed=2", "seed=2&raise_above=50"))
    rows[0, 0] = 99
    assert await toy.ask(rows[:8]) == ["miss"] * 8
    assert toy.value("teacher_errors_total", ensemble="toy", teacher="two") == 1
    assert toy.value("teacher_errors_total", ensemble="toy", teacher="one") == 0
    assert toy.value("teacher_invalid_rows_total", ensemble="toy", teacher="two") == 8
    assert toy.value("quorum_degraded_rows_total", ensemble="toy") == 8


async def test_teachers_in_one_graph_are_timed_together(toy):
    text = toy.config.read_text()
    path = toy.folder / "one_pair.yaml"
    observed = Observed(path, text[: text.index("      linear:")])
    ensemble = observed.engine.ensemble("toy")
    effective = ensemble.effective("default", Overrides())
    answer = observed.engine.answer(ensemble, effective, {"pixels": toy.rows(3)})
    assert [source async for group in answer for source in group.sources] == ["miss"] * 3
    await observed.engine.close()
    asked = observed.histogram("inference_duration_seconds", ensemble="toy", teacher="*")
    assert asked["count"] == 1
    assert observed.figures()["fusion_duration_seconds"] == []
    for teacher in ("logits", "probs", "merged"):
        assert observed.value("teacher_compared_rows_total", ensemble="toy", teacher=teacher) == 3


def test_what_only_is_now_is_read_when_it_is_asked_for(observe):
    toy = observe()
    assert toy.value("rows_in_flight_limit") == 16_384
    assert toy.value("rows_in_flight") == 0
    assert toy.value("queue_rows", ensemble="toy") == 0
    assert toy.value("processes") == 1
    told = [one["labels"]["teacher"] for one in toy.figures()["teacher_info"]]
    assert told == ["one", "two"]


async def test_counters_outlive_an_ensemble_that_is_loaded_anew(observe, rows):
    toy = observe()
    await toy.ask(rows, close=False)
    await toy.engine.reload(toy.settings, ["toy"])
    await toy.ask(rows[:1])
    assert toy.value("rows_total", ensemble="toy", source="miss") == 20
    assert toy.value("rows_total", ensemble="toy", source="hit") == 1


def test_requests_are_counted_by_route_never_by_path(observe, rows):
    toy = observe()
    with toy.client() as client:
        body = {"inputs": {"x": rows[:2].tolist()}}
        assert client.post(PATH, json=body).status_code == 200
        assert client.post(PATH, json={"inputs": {}}).status_code == 400
        assert client.get("/nowhere/made-up").status_code == 404
        assert client.get("/v1/ensembles/toy").status_code == 200
        text = client.get("/metrics").text
    route = "/v1/ensembles/{ensemble}/soft-targets"
    assert toy.value("requests_total", route=route, code="200") == 1
    assert toy.value("requests_total", route=route, code="400") == 1
    assert toy.value("requests_total", route="none", code="404") == 1
    assert toy.value("requests_total", route="/v1/ensembles/{ensemble}", code="200") == 1
    assert toy.histogram("request_duration_seconds", route=route)["count"] == 2
    assert "made-up" not in text


def test_the_figures_are_read_as_prometheus_reads_them(observe):
    toy = observe()
    with toy.client() as client:
        client.post(PATH, json={"inputs": {"x": [[1, 2, 3, 4]]}}).raise_for_status()
        reply = client.get("/metrics")
        opened = client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {one.name: one for one in text_string_to_metric_families(reply.text)}
    assert families["soft_targets_processes"].samples[0].value == 1
    assert opened.headers["content-type"].startswith("application/openmetrics-text")
    assert "soft_targets_rows" in {one.name for one in openmetrics(opened.text)}


def test_what_was_refused_is_counted_by_its_reason(observe):
    toy = observe(SMALL)
    with toy.client() as client:
        assert client.post(PATH, json={"inputs": {"x": [[1, 2, 3, 4]]}}).status_code == 413
    assert toy.value("rejected_requests_total", reason="too_large") == 1


def test_every_metric_has_the_prefix_and_says_what_it_is():
    for family in taken(Metrics()):
        assert family.name.startswith("soft_targets_")
        assert len(family.documentation) > 10


def test_a_distribution_counts_many_values_as_the_library_counts_one():
    metrics = Metrics()
    bounds = [0.1, 0.5, 1.0]
    many = Distribution("many", "Values", ["of"], bounds=bounds, registry=metrics.registry)
    one = metrics._histogram("one", "Values", ["of"], buckets=bounds)
    values = np.array([0.05, 0.1, 0.3, 0.5, 0.7, 2.0])
    many.observe(np.append(values, np.nan), "x")
    for value in values:
        one.labels("x").observe(value)
    figures = snapshot(taken(metrics))
    assert figures["many"] == figures["one"]


def counted(value, *, level=0.0):
    return [
        Family("a", "counter", "A.", [("a_total", {"of": "x"}, value)]),
        Family("b", "gauge", "B.", [("b", {}, level)]),
        Family("c_info", "gauge", "C.", [("c_info", {"is": "y"}, 1.0)]),
    ]


def test_of_several_processes_the_figures_are_sums_and_what_is_told_is_not():
    both = merged([counted(2.0, level=3.0), counted(5.0, level=1.0)])
    assert both == [
        Family("a", "counter", "A.", [("a_total", {"of": "x"}, 7.0)]),
        Family("b", "gauge", "B.", [("b", {}, 4.0)]),
        Family("c_info", "gauge", "C.", [("c_info", {"is": "y"}, 1.0)]),
    ]
    assert [family.name for family in lasting(both)] == ["a"]
    assert exposition(both, "")[0].decode().splitlines()[2] == 'a_total{of="x"} 7.0'
