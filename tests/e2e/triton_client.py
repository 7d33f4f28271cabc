"""Every call of tritonclient.http that a load needs, on the server at the URL given: run by the Python that has it."""

import contextlib
import sys
from collections.abc import Iterator

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException


@contextlib.contextmanager
def raises(words: str) -> Iterator[None]:
    """Expect an error of the client whose message has these words."""
    try:
        yield
    except InferenceServerException as error:
        if words in error.message():
            return
        raise
    raise AssertionError(f"no error said: {words}")


def main(url: str) -> None:
    """Ask, and check what comes back."""
    client = triton.InferenceServerClient(url, concurrency=4)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("echo")
    assert not client.is_model_ready("nothing")
    assert client.get_server_metadata()["name"] == "opfind"
    assert client.get_model_metadata("echo")["inputs"][0]["datatype"] == "FP32"
    assert client.get_model_config("ranker")["max_batch_size"] == 4
    assert {entry["name"] for entry in client.get_model_repository_index()} == {"echo", "ranker"}
    numbers = np.arange(8, dtype=np.float32).reshape(2, 4)
    for sends_binary, wants_binary in ((True, True), (False, False), (True, False), (False, True)):
        tensor = triton.InferInput("INPUT0", [2, 4], "FP32")
        tensor.set_data_from_numpy(numbers, binary_data=sends_binary)
        output = triton.InferRequestedOutput("OUTPUT0", binary_data=wants_binary)
        result = client.infer("echo", [tensor], outputs=[output], request_id="7", priority=1, timeout=10_000_000)
        assert (result.as_numpy("OUTPUT0") == numbers).all()
        assert result.get_response()["id"] == "7"
    for compression in ("gzip", "deflate"):
        tensor = triton.InferInput("INPUT0", [2, 4], "FP32")
        tensor.set_data_from_numpy(numbers)
        result = client.infer(
            "echo", [tensor], request_compression_algorithm=compression, response_compression_algorithm=compression
        )
        assert (result.as_numpy("OUTPUT0") == numbers).all()
    ids, query = triton.InferInput("IDS", [1, 5], "INT64"), triton.InferInput("QUERY", [1, 1], "BYTES")
    ids.set_data_from_numpy(np.arange(5, dtype=np.int64).reshape(1, 5))
    query.set_data_from_numpy(np.array([["étoile"]], dtype=np.object_))
    result = client.infer("ranker", [ids, query])
    assert result.as_numpy("QUERY")[0][0].decode() == "étoile"
    assert result.as_numpy("SCORE").shape == (1, 1)
    waiting = [client.async_infer("ranker", [ids, query]) for _ in range(8)]
    assert all(one.get_result().as_numpy("QUERY").size == 1 for one in waiting)
    with raises("unknown model"):
        client.infer("nothing", [ids])
    told = client.get_inference_statistics("echo")["model_stats"][0]
    assert told["inference_stats"]["success"]["count"] == 6
    assert told["inference_count"] == 12
    client.close()
    print("all calls were answered")


if __name__ == "__main__":
    main(sys.argv[1])
