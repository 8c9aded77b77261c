"""A results file is filled up: a response for every key that it has none for, in batches, written as they are ready."""

from collections import deque
from collections.abc import Callable, Iterator

from dllm.bar import Bar
from dllm.inference.results_file import ResultsFile
from dllm.inference.writer import Request, Writer


def fill(
    file: ResultsFile,
    writer: Writer,
    keys: list[str],
    to_request: Callable[[str], Request],
    batch_size: int,
    desc: str,
    unit: str,
    **arguments,
) -> dict[str, str]:
    """Returns the keys for which there is no request: their ValueError, which the file has too.

    `to_request` is called only when a key's turn comes; `desc` and `unit` label the bar; `arguments` are those of
    `dllm.inference.writer.Writer.write`.
    """
    todo = [key for key in keys if key not in file.results]
    failed, taken = {}, deque()
    with Bar(total=len(keys), initial=len(keys) - len(todo), desc=desc, unit=unit) as bar:

        def requests() -> Iterator[Request]:
            for key in todo:
                try:
                    request = to_request(key)
                except ValueError as error:
                    failed[key] = " ".join(str(error).split())
                    file.add_error(key, failed[key])
                    bar.update()
                    continue
                taken.append(key)
                yield request

        for response in writer.write_all(requests(), batch_size, **arguments):
            file.add(taken.popleft(), response)
            bar.update()
    return failed
