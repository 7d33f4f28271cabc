import pytest

from scenarios import ScenarioError, load
from scenarios.protocol import completed, model_of, protocol_of


@pytest.mark.parametrize(
    ("url", "protocol", "model"),
    [
        ("http://h/v2/models/bert", "kserve", "bert"),
        ("http://h/v2/models/bert/", "kserve", "bert"),
        ("http://h/v2/models/bert/infer?x=1", "kserve", "bert"),
        ("https://h/behind/v2/models/bert/versions/3/infer", "kserve", "bert"),
        ("http://h/predictions/resnet", "torchserve", "resnet"),
        ("http://h/predictions/resnet/2.0", "torchserve", "resnet"),
        ("http://h/v2/models", "http", None),
        ("http://h/v2/models/bert/stats", "http", None),
        ("http://h/predict", "http", None),
        ("http://h", "http", None),
    ],
)
def test_protocol_is_seen_from_the_path(url: str, protocol: str, model: str | None) -> None:
    """KServe's and TorchServe's paths are recognised, behind any prefix; whatever else is plain HTTP."""
    assert (protocol_of(url), model_of(url)) == (protocol, model)


def test_a_model_url_is_completed() -> None:
    """A URL that names the model only is completed; one that names none is an error that shows how."""
    assert completed("http://h/v2/models/a?k=1", "kserve") == "http://h/v2/models/a/infer?k=1"
    assert completed("http://h/v2/models/a/versions/1/infer", "kserve").endswith("/versions/1/infer")
    assert completed("http://h/predictions/a", "torchserve") == "http://h/predictions/a"
    for protocol in ("kserve", "torchserve"):
        with pytest.raises(ValueError, match="names no model"):
            completed("http://h/", protocol)


def test_a_scenario_knows_its_protocol() -> None:
    """The protocol is filled in, KServe is posted to, and what was said explicitly wins or is refused."""
    target = load("default", {"target": {"url": "h:8000/v2/models/a"}}).target
    assert (target.url, target.protocol, target.method) == ("http://h:8000/v2/models/a/infer", "kserve", "POST")
    plain = load("default", {"target": {"url": "http://h/v2/models/a", "protocol": "http"}}).target
    assert (plain.url, plain.protocol, plain.method) == ("http://h/v2/models/a", "http", "GET")
    assert load("default").target.protocol is None
    for wrong, rule in (
        ({"url": "http://h/", "protocol": "kserve"}, "url: .* names no model, which kserve needs"),
        ({"url": "http://h/", "protocol": "grpc"}, "is not one of kserve, torchserve, http"),
        ({"url": "http://h/", "input_data": "x.json"}, "input_data: is for models that speak kserve"),
        ({"url": "http://h/v2/models/a", "input_data": "x", "body": b"{}"}, "exclude each other"),
        ({"url": "http://h/", "metrics_url": "ftp://h/"}, "is not an HTTP address"),
    ):
        with pytest.raises(ScenarioError, match=rule):
            load("default", {"target": wrong})
